"""The one thing that would change where an op runs, from what the stages decided and never from their words."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch.fx import Node

from trtcore.ir.graphs import is_random
from trtcore.ir.symbols import free_symbols
from trtcore.packs.rules import settings_want_torch
from trtcore.packs.selection import Selection, Verdict

if TYPE_CHECKING:
    from trtcore.context import CompileContext
    from trtcore.ir.program import Program


@dataclass(frozen=True)
class _Case:
    """A node in torch, and what decided it."""

    node: Node
    selection: Selection
    ctx: CompileContext


def advice(node: Node, selection: Selection, lost_to: str, program: Program, ctx: CompileContext) -> str:
    """What the user can do so that a node in torch runs in an engine; "" where nothing is known to.

    Args:
        lost_to: as `NodeReport.lost_to`.
    """
    case = _Case(node, selection, ctx)
    if lost_to == "min_block_size":
        return "min_block_size=1 takes small segments too"
    if lost_to == "quarantine":
        return "trtcore.Debugger(folder) keeps the request that failed, which `trtcore replay` builds again"
    if lost_to or selection.verdict is Verdict.NOT_ASKED:
        return ""
    if selection.chosen is not None:
        return _unknown_size(node, program)
    if _has_float64(node) and not ctx.settings.truncate_double:
        return "truncate_double=True computes it in float32"
    verdicts = dict.fromkeys((selection.verdict, *(one.verdict for one in selection.candidates)))
    return next((text for one in verdicts if one in _BY_VERDICT and (text := _BY_VERDICT[one](case))), "")


def _unknown_size(node: Node, program: Program) -> str:
    values = [node.meta.get("val"), *(source.meta.get("val") for source in node.all_input_nodes)]
    dims = [dim for value in values if isinstance(value, torch.Tensor) for dim in value.shape]
    unknown = [name for name in free_symbols(dims) if name not in program.ranges]
    if not unknown:
        return ""
    return "bound the size that data decide, in the model: torch._check(n <= 100), and torch._check(n >= 2)"


def _has_float64(node: Node) -> bool:
    values = [node.meta.get("val"), *(source.meta.get("val") for source in node.all_input_nodes)]
    return any(isinstance(value, torch.Tensor) and value.dtype is torch.float64 for value in values)


def _take_out(case: _Case) -> str:
    setting = "torch_executed_ops"
    if settings_want_torch(
        case.node, case.selection.target, case.ctx.settings.replace(torch_executed_ops=())
    ):
        setting = "torch_executed_modules"
    return f"take it out of {setting}"


def _write_converter(case: _Case) -> str:
    if is_random(case.node):
        return ""
    if case.ctx.settings.strict_numerics and case.node.target in case.ctx.registry.decompositions:
        return _strict(case)
    return f"write a converter for {case.selection.target}: `trtcore new-pack my-ops` makes the project"


def _no_backend(case: _Case) -> str:
    return "pip install 'trtcore[rtx]', and see `trtcore doctor`"


def _dynamic(case: _Case) -> str:
    return "an Input of one shape; or assume_dynamic_shape_support=True, if its converter can take every size"


def _strict(case: _Case) -> str:
    return "strict_numerics=False, if NaN, infinities and signs of zeros do not matter here"


def _requirement(case: _Case) -> str:
    backend = case.ctx.backend
    needs_plugins = any(one.converter.requires.plugins for one in case.selection.candidates)
    if needs_plugins and backend is not None and not backend.has_plugins:
        return "a backend with plugin layers: backend='tensorrt'"
    return ""


_BY_VERDICT: Mapping[Verdict, Callable[[_Case], Any]] = {
    Verdict.FORCED_TO_TORCH: _take_out,
    Verdict.NO_BACKEND: _no_backend,
    Verdict.NO_CONVERTER: _write_converter,
    Verdict.DYNAMIC_SHAPES: _dynamic,
    Verdict.STRICT_NUMERICS: _strict,
    Verdict.REQUIREMENT: _requirement,
}
