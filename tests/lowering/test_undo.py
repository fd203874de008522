"""A pass that fails is undone, whoever's it is, unless the result would be wrong without it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
import pytest
import torch

import trtcore
import trtcore.lowering
from trtcore.context import CompileContext
from trtcore.errors import PackError
from trtcore.frontend.export import program_from_exported
from trtcore.packs.loading import PackWarning, build_registry
from trtcore.settings import CompilationSettings

aten = torch.ops.aten
BATCH = trtcore.Input(min_shape=(1, 4), opt_shape=(2, 4), max_shape=(4, 4))


class Model(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(4, 4)

    def forward(self, x):
        return (self.linear(x) * 1 + 0).relu()


def broken(monkeypatch: pytest.MonkeyPatch, name: str, run: Callable[..., Any]) -> None:
    """Let the pass of this name do `run` instead."""
    ordered = trtcore.lowering.ordered_passes

    def passes(*args: Any) -> Any:
        found = ordered(*args)
        assert name in [one.name for one in found]
        return [attrs.evolve(one, run=run) if one.name == name else one for one in found]

    monkeypatch.setattr(trtcore.lowering, "ordered_passes", passes)


def raises(graph_module, ctx):
    for node in list(graph_module.graph.nodes):  # half done
        if node.target is aten.relu.default:
            node.target = aten.neg.default
    raise ValueError(f"no good {torch.rand(())}")  # each test its own warning


def erases(graph_module, ctx):
    node = next(iter(graph_module.graph.find_nodes(op="call_function", target=aten.relu.default)))
    node._erased = True


def fixes(graph_module, ctx):
    (node,) = graph_module.graph.find_nodes(op="placeholder")
    int(node.meta["val"].shape[0])


def exits(graph_module, ctx):
    raise SystemExit(3)


@pytest.mark.parametrize(
    ("name", "run", "text"),
    [
        ("remove_noops", raises, "'remove_noops' of trtcore:aten .* raised ValueError: no good"),
        ("recover_attention", exits, "'recover_attention' of trtcore:aten .* raised SystemExit: 3"),
        ("fuse_linear", fixes, "'fuse_linear' of trtcore:aten .* fixed dim 0 of input 'x', which is dynamic, to 2"),
        ("simplify_views", lambda graph_module, ctx: 3, "'simplify_views' .* returned int"),
        ("match_patterns", raises, "'match_patterns' of trtcore raised ValueError: no good"),
    ],
)  # fmt: skip
@torch.no_grad()
def test_an_optional_pass_is_undone(monkeypatch, name, run, text):
    broken(monkeypatch, name, run)
    model = Model().eval()
    with pytest.warns(PackWarning, match=text) as told:
        compiled = trtcore.compile(model, inputs=[BATCH], min_block_size=1)
    assert len([one for one in told if one.category is PackWarning]) == 1
    assert len(compiled.report.engines) == 1
    for batch in (1, 3, 4):
        x = torch.randn(batch, 4)
        torch.testing.assert_close(compiled(x), model(x))


@torch.no_grad()
def test_a_broken_graph_is_laid_at_the_door_of_its_pass(monkeypatch):
    def breaks(graph_module, ctx):
        first, second, *_ = [node for node in graph_module.graph.nodes if node.op == "call_function"]
        second.append(first)  # before what it needs

    broken(monkeypatch, "fuse_linear", breaks)
    model, x = Model().eval(), torch.randn(2, 4)
    with pytest.warns(PackWarning, match="'fuse_linear' of trtcore:aten .* left a broken graph") as told:
        compiled = trtcore.compile(model, inputs=[x], min_block_size=1, disabled_passes={"remove_noops"})
    assert len([one for one in told if one.category is PackWarning]) == 1, "nobody else is blamed"
    torch.testing.assert_close(compiled(x), model(x))


def test_strict_packs_raise(monkeypatch):
    monkeypatch.setenv("TRTCORE_STRICT_PACKS", "1")
    broken(monkeypatch, "remove_noops", raises)
    with pytest.raises(PackError, match="'remove_noops' of trtcore:aten"):
        trtcore.compile(Model().eval(), inputs=[torch.randn(2, 4)], min_block_size=1)


@pytest.mark.parametrize("name", ["functionalize", "decompose", "eliminate_dead_code", "autocast"])
def test_what_the_result_needs_raises(monkeypatch, name):
    broken(monkeypatch, name, raises)
    with pytest.raises(PackError, match=f"'{name}' of trtcore.* raised ValueError: no good"):
        trtcore.compile(Model().eval(), inputs=[torch.randn(2, 4)], min_block_size=1)


def optional_passes() -> list[str]:
    settings = CompilationSettings()
    registry = build_registry(settings)
    return [one.name for one in trtcore.lowering.ordered_passes(registry.lowering_passes) if not one.required]


@pytest.mark.parametrize("name", optional_passes())
@torch.no_grad()
def test_every_optional_pass_is_undone(monkeypatch, name):
    """Half done and failed: the graph goes on without it; in strict mode its error is the compile's."""
    broken(monkeypatch, name, raises)
    model, x = Model().eval(), torch.randn(2, 4)
    program = program_from_exported(torch.export.export(model, (x,)))
    settings = CompilationSettings(truncate_double=True, use_fp32_acc=True)
    ctx = CompileContext(settings, build_registry(settings))
    with pytest.warns(PackWarning, match=f"'{name}' of trtcore.* raised ValueError: no good"):
        lowered = trtcore.lowering.lower(program, ctx)
    torch.testing.assert_close(lowered.graph_module(x)[0], model(x))
    monkeypatch.setenv("TRTCORE_STRICT_PACKS", "1")
    with pytest.raises(PackError, match=f"'{name}' of trtcore"):
        trtcore.lowering.lower(program_from_exported(torch.export.export(model, (x,))), ctx)
