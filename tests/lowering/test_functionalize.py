"""In-place ops become values; what the model changes for good ends as copy_ nodes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch.export import Dim, export

from trtcore.context import CompileContext
from trtcore.frontend.export import program_from_exported
from trtcore.ir.graphs import is_copy_into, mutates
from trtcore.lowering.functionalize import functionalize
from trtcore.packs.registry import ConverterRegistry
from trtcore.settings import CompilationSettings

NOTHING = CompileContext(CompilationSettings(), ConverterRegistry.build())


class Module(torch.nn.Module):
    def __init__(self, body: Callable[..., torch.Tensor]) -> None:
        super().__init__()
        self.body = body
        self.register_buffer("state", torch.zeros(3, 4))

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        return self.body(self, *inputs)


def residual(self: Module, x: torch.Tensor) -> torch.Tensor:
    y = x * 2
    y += x
    return y.relu_()


def chained(self: Module, x: torch.Tensor) -> torch.Tensor:
    y = x.clone()
    return y.add_(1).mul_(3).clamp_(-1, 1) + y


def through_a_view(self: Module, x: torch.Tensor) -> torch.Tensor:
    y = x + 1
    y[0].mul_(5)
    return y * 2


def view_taken_before(self: Module, x: torch.Tensor) -> torch.Tensor:
    y = x + 1
    row = y[1]
    y.mul_(3)
    return row + y


def buffer(self: Module, x: torch.Tensor) -> torch.Tensor:
    self.state.add_(x)
    return self.state * 2


def buffer_row(self: Module, x: torch.Tensor) -> torch.Tensor:
    self.state[1].copy_(x[0])
    return self.state + x


def own_input(self: Module, x: torch.Tensor) -> torch.Tensor:
    x.mul_(2)
    return x + 1


CASES = [residual, chained, through_a_view, view_taken_before, buffer, buffer_row, own_input]


@pytest.mark.parametrize(
    ("body", "dynamic"),
    [(body, False) for body in CASES] + [(body, True) for body in CASES if body not in (buffer, buffer_row)],
    ids=lambda value: getattr(value, "__name__", "dynamic" if value else "static"),
)
def test_values_and_effects_stay(body: Callable[..., torch.Tensor], dynamic: bool) -> None:
    eager = Module(body)
    x = torch.randn(3, 4)
    shapes = {"inputs": ({0: Dim("n", min=2, max=9)},)} if dynamic else None
    with torch.no_grad():
        program = program_from_exported(
            export(Module(body), (x.clone(),), dynamic_shapes=shapes, strict=False)
        )
        module = functionalize(program.graph_module, NOTHING)
        writes = [node for node in module.graph.nodes if mutates(node)]
        assert all(is_copy_into(node) and node.args[0].op in ("placeholder", "get_attr") for node in writes)
        assert bool(writes) == (body in (buffer, buffer_row, own_input))
        for _ in range(2):  # the second call sees what the first wrote
            mine, theirs = x.clone(), x.clone()
            (got,) = module(mine)
            torch.testing.assert_close(got, eager(theirs), rtol=0, atol=0)
            torch.testing.assert_close(mine, theirs, rtol=0, atol=0)


def test_nodes_keep_their_place_in_the_model() -> None:
    program = program_from_exported(export(Module(through_a_view), (torch.randn(3, 4),), strict=False))
    module = functionalize(program.graph_module, NOTHING)
    calls = [node for node in module.graph.nodes if node.op == "call_function"]
    assert calls
    assert all("test_functionalize.py" in (node.meta.get("stack_trace") or "") for node in calls)
