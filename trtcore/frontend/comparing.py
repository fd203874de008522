"""Whether a captured graph is the model, at given sizes: both are run, or the model is exported again and compared."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sympy
import torch
from torch.export import ExportedProgram
from torch.utils import _pytree as pytree

from trtcore.frontend.quiet import can_run, quiet_torch, run, without_traces
from trtcore.ir.exported import unlifted_module
from trtcore.ir.torch_private import expression

_TOLERANCE = {torch.float16: 2e-2, torch.bfloat16: 5e-2, torch.float32: 1e-3, torch.float64: 1e-6}


@dataclass(frozen=True)
class Verdict:
    """What a comparison found.

    Attributes:
        problem: why the graph is not the model; None if it is.
        model_fails: the model itself does not work there.
    """

    problem: str | None = None
    model_fails: bool = False


def compare(
    model: torch.nn.Module,
    ep: ExportedProgram,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    sizes: Mapping[str, int],
) -> Verdict:
    """Whether `ep` is the model for these arguments, whose symbols have the values `sizes`."""
    failure: str | None = None
    if can_run(model):
        try:
            expected = run(model, args, kwargs)
        except Exception as error:
            # The size may be wrong for the model, or only our made-up values are; an export can tell.
            failure = f"the model itself fails: {_first_line(error)}"
        else:
            return Verdict(_outputs_differ(expected, ep, pytree.tree_leaves((args, kwargs)), sizes))
    try:
        with quiet_torch():
            fixed = torch.export.export(model, tuple(args), dict(kwargs))
    except Exception as error:
        return Verdict(failure or f"it can't be exported with these sizes: {_first_line(error)}", True)
    if operations(ep, sizes) == operations(fixed, {}):
        return Verdict()
    return Verdict(
        failure or "its weights are not real, so it can't be tried, and an export with these sizes differs"
    )


def differs_when_run(
    model: torch.nn.Module,
    ep: ExportedProgram,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    sizes: Mapping[str, int],
) -> str | None:
    """How `ep` differs from the model for these arguments; None where it does not, or the model cannot be run."""
    if not can_run(model):
        return None
    try:
        expected = run(model, args, kwargs)
    except Exception:  # our made-up values are none for it
        return None
    return _outputs_differ(expected, ep, pytree.tree_leaves((args, kwargs)), sizes)


def _outputs_differ(
    expected: Any, ep: ExportedProgram, leaves: Sequence[Any], sizes: Mapping[str, int]
) -> str | None:
    try:
        found = _run_graph(unlifted_module(ep), leaves, sizes)
    except Exception as error:
        return f"the captured graph fails: {_first_line(error)}"
    wanted = pytree.tree_leaves(expected)
    if len(wanted) != len(found):
        return "the captured graph has another number of outputs than the model"
    for index, (want, have) in enumerate(zip(wanted, found)):
        if not agree(want, have):
            return f"output {index} of the captured graph differs from the model's"
    return None


class _ShapeCheck(torch.fx.Interpreter):
    """Runs a graph and holds every tensor to the shape that the capture promises."""

    def __init__(self, module: torch.fx.GraphModule, sizes: Mapping[str, int]) -> None:
        super().__init__(module)
        self._sizes = sizes

    def run_node(self, n: torch.fx.Node) -> Any:
        result = super().run_node(n)
        promised = n.meta.get("val")
        if isinstance(result, torch.Tensor) and isinstance(promised, torch.Tensor):
            shape = tuple(number(dim, self._sizes) for dim in promised.shape)
            known = all(
                isinstance(want, sympy.Expr) or want == have for want, have in zip(shape, result.shape)
            )
            if len(shape) != result.dim() or not known:
                raise RuntimeError(
                    f"{n.name} ({n.target}) has shape {tuple(result.shape)} instead of {shape}"
                )
        return result


def _run_graph(module: torch.fx.GraphModule, leaves: Sequence[Any], sizes: Mapping[str, int]) -> list[Any]:
    """The flat outputs of a captured graph, computed without changing its buffers or the inputs."""
    for container in module.modules():
        for name, buffer in list(container._buffers.items()):
            container._buffers[name] = buffer.clone() if buffer is not None else None
    with without_traces(leaves) as own:
        return list(_ShapeCheck(module, sizes).run(*own))


def agree(want: Any, have: Any, at_most: float = float("inf")) -> bool:
    """Whether two results are the same, but for rounding: a share of the largest element, by dtype and `at_most`."""
    if not isinstance(want, torch.Tensor) or not isinstance(have, torch.Tensor):
        return type(want) is type(have) and bool(want == have)
    if want.shape != have.shape or want.dtype != have.dtype:
        return False
    if not (want.dtype.is_floating_point or want.dtype.is_complex):
        return torch.equal(want, have)
    tolerance = min(_TOLERANCE.get(want.dtype, 1e-3), at_most)
    scale = float(want.abs().nan_to_num(0, 0, 0).max()) if want.numel() else 0.0
    return torch.allclose(want, have, rtol=tolerance, atol=tolerance * max(scale, 1e-30), equal_nan=True)


def operations(ep: ExportedProgram, sizes: Mapping[str, int], through: Container[Any] = ()) -> list[Any]:
    """The graph as a comparable list; sizes as numbers, and the nodes that only compute sizes left out.

    Args:
        sizes: values of the symbols, by name.
        through: ops that count as if their first argument stood there.
    """
    numbers: dict[torch.fx.Node, Any] = {}
    listed: list[Any] = []

    def value(argument: Any) -> Any:
        return numbers[argument] if isinstance(argument, torch.fx.Node) else argument

    for node in ep.graph.nodes:
        meta = node.meta.get("val")
        if isinstance(meta, (torch.SymInt, torch.SymFloat, torch.SymBool, int, float, bool)):
            numbers[node] = number(meta, sizes)
            continue
        if node.op == "call_function" and not isinstance(meta, (torch.Tensor, tuple, list)):
            continue
        if node.op == "call_function" and node.target in through:
            numbers[node] = value(node.args[0])
            continue
        numbers[node] = ("node", len(listed))
        arguments = torch.fx.map_arg((node.args, node.kwargs), lambda n: n)
        shapes = pytree.tree_map_only(torch.Tensor, lambda t: [number(d, sizes) for d in t.shape], meta)
        listed.append((node.op, str(node.target), pytree.tree_map(value, arguments), shapes))
    return listed


def number(value: Any, sizes: Mapping[str, int]) -> Any:
    """A size as an int where `sizes` has all its symbols, else as an expression; other values as they are."""
    if not isinstance(value, (torch.SymInt, torch.SymFloat, torch.SymBool)):
        return value
    found = expression(value)
    known = {s: sympy.Integer(sizes[s.name]) for s in found.free_symbols if s.name in sizes}
    result = found.xreplace(known)
    return int(result) if result.is_Integer else result


def _first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"
