"""Node-local decomposition: only what no converter takes, only where every piece converts, each shape once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.export import Dim, export

import trtcore
from trtcore.backend.base import Target
from trtcore.context import CompileContext
from trtcore.frontend.export import program_from_exported
from trtcore.ir.facts import facts
from trtcore.lowering.decompose import decompose
from trtcore.pack import Reject, converter, scoped_registry
from trtcore.packs.loading import process_converters
from trtcore.packs.registry import ConverterRegistry
from trtcore.settings import CompilationSettings
from trtcore_backends.tensorrt_rtx import RtxBackend

aten = torch.ops.aten


def context(table: dict[Any, Callable[..., Any]] | None = None, **settings: Any) -> CompileContext:
    registry = ConverterRegistry.build([], process=process_converters())
    registry = _with_table(registry, table or {})
    return CompileContext(CompilationSettings.from_kwargs(**settings), registry, RtxBackend(), Target())


def _with_table(registry: ConverterRegistry, table: dict[Any, Callable[..., Any]]) -> ConverterRegistry:
    fields = {name: getattr(registry, name) for name in ConverterRegistry.__slots__}
    return ConverterRegistry(**{**fields, "decompositions": table})


def declare(*ops: Any, **options: Any) -> None:
    """Converters that are never run here; lowering only asks whether they take a node."""
    for op in ops:
        converter(op, supports_dynamic_shapes=True, **options)(lambda ctx, *args, **kwargs: None)


class Silu(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.silu(torch.nn.functional.silu(x))


def silu(x: torch.Tensor) -> torch.Tensor:
    return x * torch.sigmoid(x)


def lowered(model: torch.nn.Module, ctx: CompileContext, *inputs: torch.Tensor, dynamic: bool = False) -> Any:
    shapes = ({0: Dim("n", min=2, max=9)},) if dynamic else None
    program = program_from_exported(export(model, inputs, dynamic_shapes=shapes, strict=False))
    return decompose(program.graph_module, ctx)


def targets(module: Any) -> list[Any]:
    return [node.target for node in module.graph.nodes if node.op == "call_function"]


@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
def test_pieces_take_the_place_of_the_op(dynamic: bool) -> None:
    x = torch.randn(3, 4)
    with scoped_registry():
        declare(aten.mul.Tensor, aten.sigmoid.default)
        module = lowered(Silu(), context({aten.silu.default: silu}), x, dynamic=dynamic)
    assert targets(module) == [aten.sigmoid.default, aten.mul.Tensor] * 2
    torch.testing.assert_close(module(x)[0], Silu()(x))
    for node in module.graph.nodes:
        if node.op == "call_function":
            assert "test_decompose.py" in node.meta["stack_trace"]
            assert tuple(node.meta["val"].shape)[1] == 4


def test_results_of_one_trace_stay_apart_in_the_next() -> None:
    """Both silus are pasted from one trace, and have one FakeTensor."""

    class Both(torch.nn.Module):
        def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            silu = torch.nn.functional.silu
            return torch.copysign(silu(x), silu(y))

    x, y = torch.tensor([1.0, 2.0]), torch.tensor([-1.0, 3.0])
    table = {aten.silu.default: silu, aten.copysign.Tensor: lambda a, b: a.abs() * b.sign()}
    with scoped_registry():
        declare(aten.mul.Tensor, aten.sigmoid.default, aten.abs.default, aten.sign.default)
        module = lowered(Both(), context(table), x, y)
    assert aten.copysign.Tensor not in targets(module)
    torch.testing.assert_close(module(x, y)[0], Both()(x, y))


def test_what_a_converter_takes_stays_whole() -> None:
    with scoped_registry():
        declare(aten.mul.Tensor, aten.sigmoid.default, aten.silu.default)
        module = lowered(Silu(), context({aten.silu.default: silu}), torch.randn(3, 4))
    assert targets(module) == [aten.silu.default] * 2


def test_a_rejecting_validator_leaves_the_op_to_its_decomposition() -> None:
    with scoped_registry():
        declare(aten.mul.Tensor, aten.sigmoid.default)
        declare(aten.silu.default, capability_validator=lambda node, ctx: Reject("not today"))
        module = lowered(Silu(), context({aten.silu.default: silu}), torch.randn(3, 4))
    assert aten.silu.default not in targets(module)


def test_a_missing_piece_keeps_the_op_whole_and_is_named() -> None:
    with scoped_registry():
        declare(aten.mul.Tensor)
        module = lowered(Silu(), context({aten.silu.default: silu}), torch.randn(3, 4))
    assert targets(module) == [aten.silu.default] * 2
    node = next(node for node in module.graph.nodes if node.op == "call_function")
    assert "aten.sigmoid.default" in facts(node).reason


def test_composite_ops_decompose_by_torch_itself() -> None:
    class Linear(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.randn(5, 4))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.linear(x, self.weight)

    with scoped_registry():
        declare(aten.mm.default, aten.t.default)
        module = lowered(Linear(), context(), torch.randn(3, 4))
    assert targets(module) == [aten.t.default, aten.mm.default]


def test_forced_to_torch_stays_whole() -> None:
    with scoped_registry():
        declare(aten.mul.Tensor, aten.sigmoid.default)
        ctx = context({aten.silu.default: silu}, torch_executed_ops=["aten.silu"])
        module = lowered(Silu(), ctx, torch.randn(3, 4))
    assert targets(module) == [aten.silu.default] * 2


def test_a_decomposition_that_raises_is_a_reason_and_no_crash() -> None:
    def broken(x: torch.Tensor) -> torch.Tensor:
        raise ValueError("no such thing")

    module = lowered(Silu(), context({aten.silu.default: broken}), torch.randn(3, 4))
    node = next(node for node in module.graph.nodes if node.op == "call_function")
    assert "it raised ValueError: no such thing" in facts(node).reason


def test_a_decomposition_into_itself_ends() -> None:
    module = lowered(Silu(), context({aten.silu.default: aten.silu.default}), torch.randn(3, 4))
    assert targets(module) == [aten.silu.default] * 2


def test_a_decomposition_may_write_in_place() -> None:
    def in_place(x: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(x).mul_(x)

    x = torch.randn(3, 4)
    with scoped_registry():
        declare(aten.mul.Tensor, aten.sigmoid.default)
        module = lowered(Silu(), context({aten.silu.default: in_place}), x)
    assert targets(module) == [aten.sigmoid.default, aten.mul.Tensor] * 2
    torch.testing.assert_close(module(x)[0], Silu()(x))


def test_a_decomposition_that_writes_to_its_argument_is_not_used() -> None:
    def writes(x: torch.Tensor) -> torch.Tensor:
        return x.mul_(torch.sigmoid(x))

    with scoped_registry():
        declare(aten.mul.Tensor, aten.sigmoid.default)
        module = lowered(Silu(), context({aten.silu.default: writes}), torch.randn(3, 4))
    assert targets(module) == [aten.silu.default] * 2
    node = next(node for node in module.graph.nodes if node.target is aten.silu.default)
    assert "writes to its arguments" in facts(node).reason


def test_a_decomposition_that_decides_on_a_varying_size_is_not_used() -> None:
    """Its graph would be right for the sizes of the example only."""

    def decides(x: torch.Tensor) -> torch.Tensor:
        return x * torch.sigmoid(x) if x.shape[0] < 6 else x

    with scoped_registry():
        declare(aten.mul.Tensor, aten.sigmoid.default)
        table = {aten.silu.default: decides}
        static = lowered(Silu(), context(table), torch.randn(3, 4))
        dynamic = lowered(Silu(), context(table), torch.randn(3, 4), dynamic=True)
    assert targets(static) == [aten.sigmoid.default, aten.mul.Tensor] * 2
    assert targets(dynamic) == [aten.silu.default] * 2
    node = next(node for node in dynamic.graph.nodes if node.target is aten.silu.default)
    assert "varies from call to call" in facts(node).reason


def test_results_that_nobody_takes_need_no_converter() -> None:
    class Smallest(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.aminmax(x, dim=1)[0]

    def aminmax(x: torch.Tensor, *, dim: int | None = None, keepdim: bool = False) -> Any:
        return torch.amin(x, dim, keepdim), torch.amax(x, dim, keepdim)

    with scoped_registry():
        declare(aten.amin.default)
        module = lowered(Smallest(), context({aten.aminmax.default: aminmax}), torch.randn(3, 4))
    assert targets(module) == [aten.amin.default]


def test_several_results() -> None:
    class Both(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            smallest, largest = torch.aminmax(x, dim=1)
            return smallest, largest

    def aminmax(x: torch.Tensor, *, dim: int | None = None, keepdim: bool = False) -> Any:
        return torch.amin(x, dim, keepdim), torch.amax(x, dim, keepdim)

    x = torch.randn(3, 4)
    with scoped_registry():
        declare(aten.amin.default, aten.amax.default)
        module = lowered(Both(), context({aten.aminmax.default: aminmax}), x)
    assert targets(module) == [aten.amin.default, aten.amax.default]
    torch.testing.assert_close(list(module(x)), list(Both()(x)), rtol=0, atol=0)


def test_like_nodes_are_traced_once() -> None:
    calls = 0

    def counting(x: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        return silu(x)

    with scoped_registry():
        declare(aten.mul.Tensor, aten.sigmoid.default)
        module = lowered(Silu(), context({aten.silu.default: counting}), torch.randn(3, 4))
    assert len(targets(module)) == 4
    assert calls == 1


def test_the_reason_of_an_op_that_makes_sizes_is_its_own():
    """torch.where of one argument is nonzero apart: the sizes that its pieces make have other names, which say nothing."""

    class Rows(torch.nn.Module):
        def forward(self, x):
            return x[torch.where(x[:, 0] > 0)[0]] + 1

    report = trtcore.explain(Rows(), [torch.randn(4, 3)], min_block_size=1)
    (reason,) = {node.reason for node in report.in_torch if "where" in node.op}
    assert "depends on" in reason
    assert "raised" not in reason
