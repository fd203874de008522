"""What the registry answers for a node: the converter, every candidate with its verdict; and the answers kept."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, Protocol

from torch.fx import Node

if TYPE_CHECKING:
    from trtcore.backend.base import Backend, Target
    from trtcore.packs.model import Converter, NodeContext
    from trtcore.settings import CompilationSettings


class Verdict(str, Enum):
    """Why a converter got a node or did not; for a whole selection, why the node has one or has none.

    A program decides by these, and never by the text of a reason, which packs write as they like.
    """

    CHOSEN = "chosen"
    SHADOWED = "shadowed"  # another goes first; it was not asked
    FORCED_TO_TORCH = "forced_to_torch"  # by the user's settings
    NO_BACKEND = "no_backend"
    NO_CONVERTER = "no_converter"
    REFUSED = "refused"  # a pack says that no converter can help
    LAYOUT = "layout"  # a sparse tensor, say
    DTYPE = "dtype"
    DYNAMIC_SHAPES = "dynamic_shapes"
    STRICT_NUMERICS = "strict_numerics"  # it promises nothing about NaN, infinities and zeros
    OUTPUT_ALLOCATOR = "output_allocator"
    REQUIREMENT = "requirement"
    FAILED = "failed"  # it raised, or TensorRT refused what it made
    VALIDATOR = "validator"  # its capability validator said no
    VALIDATOR_FAILED = "validator_failed"  # it raised, returned nonsense, or changed the graph
    OVERLAP = "overlap"  # a pattern: one of its ops may not be taken
    REJECTED = "rejected"  # of a selection: its candidates for different reasons
    NOT_AN_OP = "not_an_op"  # a placeholder, say
    NOT_ASKED = "not_asked"  # nobody asked the registry

    @property
    def outcome(self) -> str:
        """As reports print a candidate's verdict: "chosen", "shadowed" or "rejected"."""
        return self.value if self in (Verdict.CHOSEN, Verdict.SHADOWED) else "rejected"

    def __str__(self) -> str:
        return str(self.value)


@dataclass(frozen=True)
class Candidate:
    """One converter of a node's op, and how it fared.

    Attributes:
        converter: the converter.
        verdict: how it fared; `Verdict.outcome` is the short form.
        reason: why, in words; "" when chosen.
    """

    converter: Converter
    verdict: Verdict
    reason: str = ""


@dataclass(frozen=True)
class Selection:
    """What `ConverterRegistry.select` found for one node.

    Attributes:
        target: the op's name, ``"aten.gelu.default"``.
        chosen: the converter, or None when the node stays in torch.
        candidates: every converter of the op, in order.
        reason: "" when one was chosen, else why none was, in one line.
        verdict: the same as a value: CHOSEN, or why none was.
    """

    target: str
    chosen: Converter | None = None
    candidates: tuple[Candidate, ...] = ()
    reason: str = ""
    verdict: Verdict = Verdict.NOT_ASKED


class Asking(Protocol):
    """What selecting a converter needs of a compile: its `CompileContext` has it."""

    @property
    def settings(self) -> CompilationSettings: ...
    @property
    def backend(self) -> Backend | None: ...
    @property
    def target(self) -> Target | None: ...
    @property
    def no_backend_reason(self) -> str: ...
    @property
    def for_validators(self) -> NodeContext: ...


class _Registry(Protocol):
    def select(self, node: Node, ctx: Any, /) -> Selection: ...


class _Compile(Protocol):
    @property
    def registry(self) -> _Registry: ...


class SelectionMemo:
    """Selections of nodes, each asked for once as long as the node stays as it is.

    That is: its op, arguments, users, value and the values of its inputs, which is what a capability validator may
    look at. One compile hands one memo from stage to stage.
    """

    def __init__(self, ctx: _Compile) -> None:
        self._ctx = ctx
        self._known: dict[Node, tuple[tuple[Any, ...], Selection]] = {}

    def select(self, node: Node) -> Selection:
        """The registry's selection for a node."""
        state = _state(node)
        known = self._known.get(node)
        if known is not None and _same(known[0], state):
            return known[1]
        selection = self._ctx.registry.select(node, self._ctx)
        self._known[node] = (state, selection)
        return selection


def _state(node: Node) -> tuple[Any, ...]:
    """What a selection may depend on; nodes and arguments first, then values."""
    values = [node.meta.get("val"), *(source.meta.get("val") for source in node.all_input_nodes)]
    return (node.target, node.args, node.kwargs, tuple(node.users)), values


def _same(before: tuple[Any, ...], after: tuple[Any, ...]) -> bool:
    """FakeTensors are compared by identity: their ``==`` is a tensor."""
    return (
        before[0] == after[0]
        and len(before[1]) == len(after[1])
        and all(a is b for a, b in zip(before[1], after[1]))
    )
