import pytest
import torch
from torch import nn
from torch.utils import _pytree as pytree

from trtcore.errors import InputError
from trtcore.frontend.export import program_from_exported, trace
from trtcore.ir.inputs import Input


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 3)

    def forward(self, x):
        y = self.linear(x)
        for _ in range(2):
            y = torch.relu(y) + 1
        return y


@pytest.mark.parametrize("how", ["trace", "script"])
def test_scripted_and_traced_modules(how):
    model, x = Small().eval(), torch.randn(2, 4)
    script = torch.jit.trace(model, x) if how == "trace" else torch.jit.script(model)
    program = program_from_exported(trace(script, (Input((2, 4)),)))
    torch.testing.assert_close(program.graph_module(x)[0], model(x))
    assert program.inputs[0].name == "x"
    assert program.inputs[0].shape == (2, 4)


class Several(nn.Module):
    def forward(self, x) -> tuple[torch.Tensor, tuple[torch.Tensor, list[torch.Tensor]]]:
        return x + 1, (x * 2, [x - 1, x])


@pytest.mark.parametrize("how", ["trace", "script"])
def test_results_come_in_the_containers_of_the_script(how):
    x = torch.randn(2, 4)
    script = torch.jit.trace(Several(), x, strict=False) if how == "trace" else torch.jit.script(Several())
    out = trace(script, (x,)).call_spec.out_spec
    assert out == pytree.tree_structure(script(x))


def test_dynamic_inputs_are_refused():
    script = torch.jit.script(Small())
    with pytest.raises(InputError, match=r"input x is dynamic.*fixed shapes"):
        trace(script, (Input(min_shape=(1, 4), opt_shape=(2, 4), max_shape=(3, 4)),))


def test_an_fx_graph_module():
    model, x = Small().eval(), torch.randn(2, 4)
    dynamic = Input(min_shape=(1, 4), opt_shape=(2, 4), max_shape=(9, 4))
    program = program_from_exported(trace(torch.fx.symbolic_trace(model), dynamic), dynamic)
    torch.testing.assert_close(program.graph_module(x)[0], model(x))
    assert len(program.symbols) == 1
