"""The passes `fuse_named` and `fuse_uncovered`: which ops they take, and which they leave alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import trtcore
from trtcore_plugins.codegen.op import run
from trtcore_plugins.codegen.program import Program


class Chain(torch.nn.Module):
    """Two linears with a chain of ops between them, a cumsum in the middle."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.sin(x) * 2
        z = torch.cumsum(y, -1)
        return torch.cos(z) + y


def kernels(compiled: Any) -> list[Program]:
    return [Program.from_text(node.args[2]) for node in compiled.graph.nodes if node.target is run]


def compile_with(model: torch.nn.Module, *inputs: torch.Tensor, **settings: Any) -> Any:
    return trtcore.compile(model.eval(), inputs=list(inputs), min_block_size=1, **settings)


def test_nothing_is_named_nothing_is_fused() -> None:
    compiled = compile_with(Chain(), torch.randn(3, 4))
    assert kernels(compiled) == []


def test_a_kernel_does_not_wait_for_itself() -> None:
    """sin and mul come before the cumsum that cos and add need: one kernel of all four would be a cycle."""
    x = torch.randn(3, 4)
    names = [f"aten.{name}" for name in ("sin", "mul", "cos", "add")]
    compiled = compile_with(Chain(), x, fused_ops=names)
    assert sorted(len(program.calls) for program in kernels(compiled)) == [2, 2]
    torch.testing.assert_close(compiled(x), Chain()(x))


def test_the_report_says_so() -> None:
    model, x = Chain(), torch.randn(3, 4)
    for report in (
        compile_with(model, x, fused_ops=["aten.sin", "aten.mul.Tensor"]).report,
        trtcore.explain(model, inputs=[x], min_block_size=1, fused_ops=["aten.sin", "aten.mul.Tensor"]),
    ):
        (node,) = [node for node in report.nodes if node.op == "trtcore_fused.run.default"]
        assert node.name.startswith("fused_sin_mul_")
        assert not node.in_engine
        for words in (
            "generated kernel",
            "aten.sin.default",
            "named in settings.fused_ops",
            "no plugin layers",
        ):
            assert words in node.reason
        assert node.source.startswith(__file__)


def test_ops_with_several_results() -> None:
    class Model(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
            values, at = torch.max(x * 2, -1, keepdim=True)
            return x - values, at, values

    x = torch.randn(5, 7)
    compiled = compile_with(Model(), x, fused_ops=["aten.max", "aten.mul", "aten.sub"])
    (program,) = kernels(compiled)
    assert len(program.outputs) == 3
    for got, wanted in zip(compiled(x), Model()(x)):
        torch.testing.assert_close(got, wanted)


def test_the_pass_can_be_turned_off() -> None:
    x = torch.randn(3, 4)
    assert kernels(compile_with(Chain(), x, fused_ops=["aten.sin"], disabled_passes={"fuse_named"})) == []


def test_dynamic_sizes() -> None:
    class Model(torch.nn.Module):
        def forward(self, x: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
            return torch.softmax(x + bias, -1).transpose(0, 1) * 2

    dynamic = trtcore.Input(min_shape=(2, 3), opt_shape=(4, 5), max_shape=(9, 9))
    row = trtcore.Input(min_shape=(3,), opt_shape=(5,), max_shape=(9,))
    compiled = trtcore.compile(
        Model(),
        inputs=[dynamic, row],
        min_block_size=1,
        fused_ops=["aten.softmax", "aten._softmax", "aten.add"],
    )
    (program,) = kernels(compiled)
    assert program.reduced
    for rows, columns in ((2, 3), (7, 9), (9, 4)):
        x, bias = torch.randn(rows, columns), torch.randn(columns)
        torch.testing.assert_close(compiled(x, bias), Model()(x, bias))


@pytest.mark.parametrize("on_gpu", [False, True])
def test_uncovered_ops_are_fused_where_it_helps(on_gpu: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """What no converter takes is gathered without being named, on a GPU or with plugin layers."""
    from trtcore_plugins.codegen import fuse

    monkeypatch.setattr(fuse, "_on_gpu", lambda graph: on_gpu)

    class Model(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.sin(torch.tanh(x)).argmax(-1, keepdim=True) + x

    x = torch.randn(3, 5)
    with trtcore_without("aten.argmax", "aten.sin"):
        compiled = compile_with(Model(), x, disabled_passes=set())
    found = [op for program in kernels(compiled) for op in program.ops]
    assert ("aten.sin.default" in found and "aten.argmax.default" in found) == on_gpu
    torch.testing.assert_close(compiled(x), Model()(x))


class trtcore_without:
    """Takes converters of ops away: a validator that rejects, of a higher priority, leaves none."""

    def __init__(self, *ops: str) -> None:
        self.ops = ops

    def __enter__(self) -> None:
        from trtcore.packs import registry

        self.select = registry.ConverterRegistry.select

        def select(this: Any, node: Any, ctx: Any) -> Any:
            if str(node.target).rpartition(".")[0] in self.ops:
                return registry.Selection(str(node.target), reason="no converter in this test")
            return self.select(this, node, ctx)

        registry.ConverterRegistry.select = select  # type: ignore[method-assign]

    def __exit__(self, *_: object) -> None:
        from trtcore.packs import registry

        registry.ConverterRegistry.select = self.select  # type: ignore[method-assign]


def test_ops_that_are_forced_to_torch_stay() -> None:
    from trtcore_plugins.codegen import fuse

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fuse, "_on_gpu", lambda graph: True)
        compiled = compile_with(
            Chain(), torch.randn(3, 4), torch_executed_ops=["aten.sin", "aten.mul", "aten.cos", "aten.add"]
        )
    assert kernels(compiled) == []
