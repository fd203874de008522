"""The rules that hold for every converter: what the user wants in torch, what the tensors at a node are, and how a
capability validator is asked.
"""

from __future__ import annotations

import sys
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import fx

from trtcore.errors import PackError, shown
from trtcore.ir.ops import op_name
from trtcore.ir.provenance import plain_path
from trtcore.ir.symbols import is_size_decision, undecided_sizes
from trtcore.packs.failures import pack_failure
from trtcore.packs.model import Converter, NodeContext, Reject
from trtcore.packs.selection import Verdict

if TYPE_CHECKING:
    from trtcore.settings import CompilationSettings


class _HasSettings(Protocol):
    @property
    def settings(self) -> CompilationSettings: ...


def forced_to_torch(node: fx.Node, ctx: _HasSettings) -> str:
    """Return why the user's settings keep a node in torch; "" if they do not.

    Lowering passes that merge nodes ask it, so that what is to run in torch is not merged away.
    """
    settings = ctx.settings
    if not settings.torch_executed_ops and not settings.torch_executed_modules:
        return ""
    return settings_want_torch(node, op_name(node.target), settings)


def settings_want_torch(node: fx.Node, name: str, settings: CompilationSettings) -> str:
    """`forced_to_torch` for a node whose op's name is known."""
    ops = settings.torch_executed_ops
    if ops and (name in ops or name.rpartition(".")[0] in ops):
        return "forced to torch by settings.torch_executed_ops"
    modules = settings.torch_executed_modules
    if modules:
        for path, kind in modules_of(node):
            if any(in_module(path, kind, wanted) for wanted in modules):
                return f"forced to torch by settings.torch_executed_modules ({path or kind})"
    return ""


def modules_of(node: fx.Node) -> list[tuple[str, Any]]:
    """(module path, class or its qualified name), outermost first, as export and Dynamo write them."""
    stack = node.meta.get("nn_module_stack") or {}
    return [(plain_path(str(path)), kind) for path, kind in stack.values()]


def in_module(path: str, kind: Any, wanted: str | type) -> bool:
    """Whether a module of `modules_of` is the one that ``settings.torch_executed_modules`` means, or below it."""
    if isinstance(wanted, str):
        name = kind if isinstance(kind, str) else _class_name(kind)
        return (
            path == wanted or path.startswith(wanted + ".") or name == wanted or name.endswith("." + wanted)
        )
    found = _find_class(kind) if isinstance(kind, str) else kind
    if isinstance(found, type):
        return issubclass(found, wanted)
    return bool(kind == _class_name(wanted))


def _class_name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def _find_class(name: str) -> type | None:
    """The class of a qualified name, among modules that are loaded; None for local classes."""
    parts = name.split(".")
    for cut in range(len(parts) - 1, 0, -1):
        found: Any = sys.modules.get(".".join(parts[:cut]))
        if found is not None:
            for part in parts[cut:]:
                found = getattr(found, part, None)
            return found if isinstance(found, type) else None
    return None


@dataclass(frozen=True)
class Survey:
    """What the tensors that touch a node are.

    Attributes:
        dtypes: in the order met, so that every process names the same one.
        strange: what no backend can represent, in words; "" for nothing.
        size: a symbolic size among them; None for none.
    """

    dtypes: tuple[torch.dtype, ...]
    strange: str
    size: Any

    @property
    def floats(self) -> bool:
        """Whether any may hold NaN, infinities or signed zeros."""
        return any(dtype.is_floating_point or dtype.is_complex for dtype in self.dtypes)


def survey(node: fx.Node) -> Survey:
    """Look at a node's value and at its inputs'."""
    dtypes: dict[torch.dtype, None] = {}
    strange = ""
    symbol: Any = None
    pending = [node.meta.get("val")]
    pending += [one.meta.get("val") for one in node.all_input_nodes]
    while pending:
        value = pending.pop()
        if isinstance(value, torch.Tensor):
            dtypes[value.dtype] = None
            if value.layout is not torch.strided:
                strange = (
                    f"a {str(value.layout).removeprefix('torch.')} tensor, which no backend can represent"
                )
            elif symbol is None:
                size: Any
                for size in value.shape:
                    if isinstance(size, torch.SymInt):
                        symbol = size
                        break
        elif isinstance(value, (torch.SymInt, torch.SymFloat, torch.SymBool)):
            symbol = value
        elif isinstance(value, (list, tuple)):
            pending.extend(value)
    return Survey(tuple(dtypes), strange, symbol)


def dtype_name(dtype: torch.dtype) -> str:
    """``a float64 tensor``."""
    return f"a {str(dtype).removeprefix('torch.')} tensor"


_NO_OBJECTION = (Verdict.CHOSEN, "")


def validate(one: Converter, node: fx.Node, ctx: NodeContext, size: Any) -> tuple[Verdict, str]:
    """Ask the capability validator: (CHOSEN, "") for a yes, else why not. `size` as in `Survey`."""
    assert one.capability_validator is not None
    whose = f"capability validator of {one.source}"
    before = (len(node.graph.nodes), node.target, node.args, node.kwargs)
    # Branching on a symbolic size would make it a constant, in every FakeTensor of the graph.
    shape_env = getattr(getattr(size, "node", None), "shape_env", None)
    answer: Any = None
    failed = ""
    try:
        with undecided_sizes(shape_env) if shape_env is not None else nullcontext():
            answer = one.capability_validator(node, ctx)
    except (KeyboardInterrupt, GeneratorExit):
        raise
    except BaseException as error:  # also SystemExit and pytest.skip: a pack must not end a compile
        if isinstance(error, Exception) and is_size_decision(error):
            return Verdict.VALIDATOR_FAILED, (
                f"{whose} branched on a symbolic size ({shown(error, str)}); "
                "torch.fx.experimental.symbolic_shapes.statically_known_true asks without deciding"
            )
        failed = f"{whose} raised {shown(error)}"
    after = (len(node.graph.nodes), node.target, node.args, node.kwargs)
    if before[0] != after[0] or any(was is not now for was, now in zip(before[1:], after[1:])):
        return Verdict.VALIDATOR_FAILED, _undo_changes(one, node, before)
    if failed:
        return Verdict.VALIDATOR_FAILED, failed
    if answer is True:
        return _NO_OBJECTION
    if isinstance(answer, Reject):
        return Verdict.VALIDATOR, shown(answer.reason, str) or f"{whose} said no, without a reason"
    if answer is False:
        return Verdict.VALIDATOR, f"{whose} said no"
    return Verdict.VALIDATOR_FAILED, f"{whose} returned {shown(answer)}, which is neither a bool nor a Reject"


def _undo_changes(one: Converter, node: fx.Node, before: tuple[Any, ...]) -> str:
    """Put right what a validator changed at its node, and say so.

    Raises:
        PackError: in strict mode; or nodes have gone, or new ones are used, so that it cannot be put right.
    """
    count, node.target, node.args, node.kwargs = before
    new = len(node.graph.nodes) - count
    for added in [
        other for other in reversed(node.graph.nodes) if not other.users and "val" not in other.meta
    ]:
        if new > 0 and added is not node and added.op != "output":
            node.graph.erase_node(added)
            new -= 1
    what = f"the capability validator of converter {one.name} of {one.source_version} changed the graph"
    if new:
        raise PackError(
            f"{what} at node {node.name}",
            pack=one.source_version,
            advice="report it to the pack's authors; a lowering pass is the place for changes",
        )
    pack_failure(f"{what}; the change was undone", one.source_version)
    return f"capability validator of {one.source} changed the graph"
