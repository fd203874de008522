"""The decorator of lowering passes: a pass runs in every compile of this process, beside trtcore's own."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch

from trtcore.pack import LoweringPass, fake_result, hookimpl, register_pack
from trtcore_contrib_torch_tensorrt._defaults import DEFAULTS
from trtcore_contrib_torch_tensorrt._registry import op_of_function
from trtcore_contrib_torch_tensorrt._told import told

__all__ = ["_aten_lowering_pass", "_remove_lowering_pass", "dump_lowering_passes"]

_PASSES: list[str] = []


class _Pack:
    """The pack that one pass is."""

    def __init__(self, one: LoweringPass | None) -> None:
        self._passes = () if one is None else (one,)

    @hookimpl
    def lowering_passes(self) -> Any:
        """The pass."""
        return self._passes


def _aten_lowering_pass(*args: Callable[..., Any], index: int | None = None) -> Any:
    """A decorator, with or without ``(index=...)``: the function gets the graph module and the settings by their old
    names (or, if its second parameter is called ``sample_inputs``, FakeTensors of the inputs), and returns the module.

    Args:
        index: 0 for before the passes that were declared earlier; otherwise it comes after them.

    Raises:
        PackError: it is no function.
    """

    def add(function: Callable[..., Any]) -> Callable[..., Any]:
        name = f"torch_tensorrt.{function.__module__}.{function.__qualname__}"
        others = tuple(one for one in _PASSES if one != name)
        order = {"before": others} if index == 0 else {"after": others}
        register_pack(_Pack(LoweringPass(name, _adapted(function), **order)), name=name)
        if name in _PASSES:
            _PASSES.remove(name)
        _PASSES.insert(0 if index == 0 else len(_PASSES), name)
        return function

    if len(args) > 1 or (args and not callable(args[0])):
        raise TypeError("_aten_lowering_pass decorates one function: write @_aten_lowering_pass or (index=0)")
    return add(args[0]) if args else add


def _adapted(function: Callable[..., Any]) -> Callable[[Any, Any], Any]:
    wants_inputs = "input" in list(inspect.signature(function).parameters)[1].lower()

    def run(graph_module: torch.fx.GraphModule, ctx: Any) -> Any:
        from trtcore_contrib_torch_tensorrt._settings import CompilationSettings

        if wants_inputs:
            placeholders = graph_module.graph.find_nodes(op="placeholder")
            changed = function(graph_module, [node.meta.get("val") for node in placeholders])
        else:
            changed = function(graph_module, CompilationSettings.of(ctx.settings))
        changed = graph_module if changed is None else changed
        _give_ops(changed.graph)
        _give_values(changed.graph)
        return changed

    return run


def _give_ops(graph: torch.fx.Graph) -> None:
    """New calls of functions of ``torch.nn.functional`` become calls of their ops, as captured graphs have them."""
    for node in graph.nodes:
        op = op_of_function(node.target) if node.op == "call_function" else None
        if op is not None:
            node.target = op
            # Settings that passes hand to their own converters; here a converter reads them of its context.
            node.kwargs = {name: value for name, value in node.kwargs.items() if name not in DEFAULTS}


def _give_values(graph: torch.fx.Graph) -> None:
    """New calls get ``meta["val"]``, which the later stages read and passes of this kind do not write."""
    for node in graph.nodes:
        if node.op == "call_function" and "val" not in node.meta:
            node.meta["val"] = fake_result(graph, node.target, node.args, node.kwargs)


def _remove_lowering_pass(*, index: int) -> None:
    """Take back a pass that was declared here, by its place in `dump_lowering_passes`."""
    name = _PASSES.pop(index)
    register_pack(_Pack(None), name=name)


def dump_lowering_passes() -> str:
    """The names of the passes that were declared here, in order, a line each."""
    return "\n".join(_PASSES)


def __getattr__(name: str) -> Any:
    return told("dynamo.lowering.passes", name)
