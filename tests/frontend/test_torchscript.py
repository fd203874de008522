import copy

import pytest
import torch
from torch import nn
from torch.utils import _pytree as pytree

import trtcore
from trtcore.errors import ExportError
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


class Optionals(nn.Module):
    def forward(self, x: torch.Tensor, bias: torch.Tensor | None = None, twice: bool = True):
        if bias is not None:
            x = x + bias
        return x * 2 if twice else x


@pytest.mark.parametrize("given", [(), (torch.ones(4),), (None, False), (torch.ones(4), False)])
def test_defaults_and_optional_arguments(given):
    x = torch.randn(2, 4)
    compiled = trtcore.compile(torch.jit.script(Optionals()), inputs=[x, *given], min_block_size=1)
    torch.testing.assert_close(compiled(x, *given), Optionals()(x, *given))


class Steps(nn.Module):
    def forward(self, x: torch.Tensor, state: tuple[torch.Tensor, torch.Tensor] | None = None):
        total = torch.zeros_like(x[0]) if state is None else state[0] + state[1]
        outs: list[torch.Tensor] = []
        for i in range(x.size(0)):
            total = total * 0.5 + x[i]
            outs.append(total)
        count = 0
        while count < len(outs):
            count += 2
        return torch.stack(outs), {"last": total * count}


def test_loops_lists_and_dicts():
    x, state = torch.randn(5, 4), (torch.randn(4), torch.randn(4))
    for inputs in ((x,), (x, state)):
        compiled = trtcore.compile(torch.jit.script(Steps()), inputs=list(inputs), min_block_size=1)
        torch.testing.assert_close(compiled(*inputs), Steps()(*inputs))
        assert compiled.report.fully_converted


class Halves(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 6)
        self.register_buffer("calls", torch.zeros(1))

    def forward(self, x: torch.Tensor):
        self.calls += 1
        if x.size(0) > 1:
            x = x * 2
        return self.linear(x).view(x.size(0) * 2, -1) + self.calls


@pytest.mark.parametrize("source", ["script", "trace", "file"])
def test_dynamic_sizes_and_buffers(source, tmp_path):
    model = Halves().eval()
    script = (
        torch.jit.trace(copy.deepcopy(model), torch.randn(4, 4))
        if source == "trace"
        else torch.jit.script(model)
    )
    if source == "file":
        script.save(tmp_path / "m.ts")
        script = torch.jit.load(tmp_path / "m.ts")
    script.calls.zero_()
    model = copy.deepcopy(Halves().eval())
    model.load_state_dict(script.state_dict())
    sizes = Input(min_shape=(2, 4), opt_shape=(4, 4), max_shape=(8, 4))
    compiled = trtcore.compile(script, inputs=[sizes], ir="ts", min_block_size=1)
    for size in (2, 5, 8):
        x = torch.randn(size, 4)
        torch.testing.assert_close(compiled(x), model(x), rtol=1e-5, atol=1e-5)
    assert {"linear.weight", "linear.bias"} <= trace(script, [sizes]).state_dict.keys()


class OnValues(nn.Module):
    def forward(self, x: torch.Tensor):
        if bool(x.sum() > 0):
            return x * 2
        return x


def test_a_branch_on_a_value_goes_by_torchs_converter():
    x = torch.ones(2, 4)
    compiled = trtcore.compile(torch.jit.script(OnValues()), inputs=[x], min_block_size=1)
    for value in (x, -x):
        torch.testing.assert_close(compiled(value), OnValues()(value))


class Holder(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = torch.jit.script(nn.Sequential(nn.Linear(4, 4), nn.ReLU()).eval())
        self.second = torch.jit.trace(nn.Linear(4, 4).eval(), torch.ones(2, 4))

    def forward(self, x):
        return self.second(self.first(x)) + 1


def test_scripts_below_a_module():
    model, x = Holder().eval(), torch.randn(3, 4)
    compiled = trtcore.compile(model, inputs=[x], min_block_size=1)
    torch.testing.assert_close(compiled(x), model(x), rtol=1e-5, atol=1e-5)
    assert compiled.report.fully_converted
    assert isinstance(model.first, torch.jit.ScriptModule)
    assert "first.0.weight" in trace(model, [x]).state_dict


def test_an_fx_graph_module():
    model, x = Small().eval(), torch.randn(2, 4)
    dynamic = Input(min_shape=(1, 4), opt_shape=(2, 4), max_shape=(9, 4))
    program = program_from_exported(trace(torch.fx.symbolic_trace(model), dynamic), dynamic)
    torch.testing.assert_close(program.graph_module(x)[0], model(x))
    assert len(program.symbols) == 1


class ByItem(nn.Module):
    def forward(self, x):
        if bool((x.sum() > 0).item()):
            return x * 2
        return x * 3


class ByTensor(nn.Module):
    def forward(self, x):
        if x.sum() > 0:
            x = x * 2
        else:
            x = x * 3
        return x


def test_a_branch_by_a_number_of_a_tensor_is_no_constant():
    """torch's conversion keeps one of its branches; with a tensor as the condition, as is advised, it keeps both."""
    x = torch.ones(2, 2)
    with pytest.raises(ExportError, match="aten::item reads of a tensor") as caught:
        trtcore.compile(torch.jit.script(ByItem()), inputs=[x])
    assert "let the condition be a tensor" in caught.value.advice
    compiled = trtcore.compile(torch.jit.script(ByTensor()), inputs=[x], min_block_size=1)
    for value in (x, -x):
        torch.testing.assert_close(compiled(value), ByItem()(value))
