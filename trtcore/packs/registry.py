"""Which converter takes a node, and why not another: an immutable registry, one per compile.

The order among converters of one op is total and the same in every process: call site, then pins, then
priority, then scope (this process, third-party packs, built-in packs), then distribution name, pack name and
definition order. `ConverterRegistry.select` walks it and keeps the reason for every candidate.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from itertools import pairwise
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import fx

from trtcore.errors import PackError, SettingsError
from trtcore.ir.ops import find_target, target_name
from trtcore.ir.provenance import plain_path
from trtcore.ir.schema import node_arguments, normalise_arguments
from trtcore.ir.symbols import is_size_decision, undecided_sizes
from trtcore.packs.declare import (
    PROCESS,
    Converter,
    KernelPlugin,
    LoweringPass,
    PackInfo,
    Priority,
    Reject,
    Requires,
    Runtime,
    Scope,
    as_converter,
    converter,
    converters_in,
    scoped_registry,
)
from trtcore.packs.pass_order import order, told
from trtcore.packs.patterns import Pattern

if TYPE_CHECKING:
    from trtcore.backend.base import Backend
    from trtcore.context import CompileContext, Observer
    from trtcore.packs.loading import LoadedPack

__all__ = [
    "PROCESS",
    "Candidate",
    "Converter",
    "ConverterRegistry",
    "KernelPlugin",
    "LoweringPass",
    "PackInfo",
    "Priority",
    "Reject",
    "Requires",
    "Scope",
    "Selection",
    "Tie",
    "converter",
    "converters_in",
    "node_arguments",
    "normalise_arguments",
    "scoped_registry",
    "target_name",
]

_T = TypeVar("_T")


@dataclass(frozen=True)
class Candidate:
    """One converter of a node's op, and how it fared.

    Attributes:
        converter: the converter.
        verdict: "chosen", "shadowed" (another goes first; it was not asked) or "rejected".
        reason: why; "" when chosen.
    """

    converter: Converter
    verdict: str
    reason: str = ""


@dataclass(frozen=True)
class Selection:
    """What `ConverterRegistry.select` found for one node.

    Attributes:
        target: the op's name, ``"aten.gelu.default"``.
        chosen: the converter, or None when the node stays in torch.
        candidates: every converter of the op, in order.
        reason: "" when one was chosen, else why none was, in one line.
    """

    target: str
    chosen: Converter | None = None
    candidates: tuple[Candidate, ...] = ()
    reason: str = ""


@dataclass(frozen=True)
class Tie:
    """Two packs from different hands that only their names put in order, so that the user should.

    Attributes:
        kind: "converter", "pack name", "decomposition", "lowering pass", "pass order" (passes that ask for
            opposite things), "kernel plugin", "backend" or "partitioner".
        subject: the op or the name that they share.
        packs: the packs' ids, the winner first.
        advice: how to choose.
    """

    kind: str
    subject: str
    packs: tuple[str, ...]
    advice: str = ""

    def __str__(self) -> str:
        if self.kind == "pass order":
            return self.advice
        first, *others = self.packs
        if self.kind == "pack name":
            same = ", ".join(self.packs)
            return f"several distributions have a pack named {self.subject!r}: {same}; {self.advice}"
        rest = ", ".join(others)
        return f"{self.kind} {self.subject}: {first} goes before {rest} only by its name; {self.advice}"


class ConverterRegistry:
    """Everything that the packs of one compile contribute, in order. Immutable; safe in several threads.

    Made by `ConverterRegistry.build`; `trtcore.packs.loading.build_registry` does so from settings.

    Attributes:
        packs: every pack that was found, whatever its status.
        decompositions: op -> function.
        lowering_passes: passes, not yet ordered by their ``before`` and ``after``.
        kernel_plugins: plugins by no order that matters.
        backends: TensorRT flavours.
        runtimes: what executes engines in place of TensorRT.
        partitioners: name -> partitioner.
        observers: functions that take an `Event`.
        ties: what only names decide.
        unknown: converters of named ops that nothing in this process has registered, with the reason.
    """

    __slots__ = (
        "_entries",
        "_overloads",
        "_requirements",
        "backends",
        "decompositions",
        "kernel_plugins",
        "lowering_passes",
        "observers",
        "packs",
        "partitioners",
        "runtimes",
        "ties",
        "unknown",
    )

    packs: tuple[PackInfo, ...]
    decompositions: Mapping[Any, Callable[..., Any]]
    lowering_passes: tuple[LoweringPass, ...]
    kernel_plugins: tuple[KernelPlugin, ...]
    backends: tuple[Backend, ...]
    runtimes: tuple[Runtime, ...]
    partitioners: Mapping[str, Callable[..., Any]]
    observers: tuple[Observer, ...]
    ties: tuple[Tie, ...]
    unknown: tuple[tuple[Converter, str], ...]
    _entries: dict[Any, _Entry]
    _overloads: dict[str, list[str]]
    _requirements: dict[tuple[int, int, int], tuple[str | None, Any]]

    def __init__(self, **fields: Any) -> None:
        for name, value in fields.items():
            object.__setattr__(self, name, value)

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"a ConverterRegistry is immutable; build another to change {name!r}")

    @classmethod
    def build(
        cls,
        packs: Iterable[LoadedPack] = (),
        *,
        process: Iterable[Converter] = (),
        call_site: Mapping[Any, Any] = MappingProxyType({}),
        pins: Mapping[str, str] = MappingProxyType({}),
    ) -> ConverterRegistry:
        """Put contributions in order.

        Args:
            packs: loaded packs, in any order.
            process: converters declared outside packs, in definition order.
            call_site: op -> function or `Converter`, for this compile.
            pins: op name -> which converter goes first: ``"pack"``, ``"distribution:pack"``,
                ``"pack:converter"`` or ``"distribution:pack:converter"``. An op name without overload pins
                all its overloads.

        Raises:
            SettingsError: a pin that names nothing, or a call-site converter that is none.
        """
        ordered = sorted(packs, key=lambda pack: _pack_key(pack.info))
        found = [one for pack in ordered for one in pack.converters]
        found += [replace(one, order=i, scope=Scope.PROCESS, pack=None) for i, one in enumerate(process)]
        for i, (target, given) in enumerate(call_site.items()):
            try:
                found.append(replace(as_converter(target, given), order=i))
            except PackError as error:
                raise SettingsError(f"settings.converters: {error.message}", advice=error.advice) from error
        by_target, unknown = _by_target(found)

        pinned = _resolve_pins(pins, by_target)
        ties = _name_clashes([pack.info for pack in ordered if pack.info.status == "loaded"])
        entries: dict[Any, _Entry] = {}
        overloads: dict[str, list[str]] = {}
        for target, converters in by_target.items():
            name = target_name(target)
            chosen = pinned.get(name, frozenset())
            converters.sort(key=lambda one, chosen=chosen: (*_first(one, chosen), *_order_key(one)))  # type: ignore[misc]
            entries[target] = _Entry(name, tuple(converters), chosen)
            overloads.setdefault(name.rpartition(".")[0], []).append(name)
            if not chosen:
                ties += _converter_ties(name, converters)

        def merge(kind: str, items: Callable[[LoadedPack], Iterable[tuple[Any, _T]]]) -> dict[Any, _T]:
            return _merge(
                kind, [(pack.info, key, value) for pack in ordered for key, value in items(pack)], ties
            )

        decompositions = merge("decomposition", _decompositions)
        passes = merge("lowering pass", lambda pack: ((one.name, one) for one in pack.lowering_passes))
        plugins = merge("kernel plugin", lambda pack: ((one.name, one) for one in pack.kernel_plugins))
        runtimes = merge("runtime", lambda pack: ((one.name, one) for one in pack.runtimes))
        backends = merge("backend", lambda pack: ((one.name, one) for one in pack.backends))
        partitioners = merge("partitioner", lambda pack: pack.partitioners.items())
        ties += _opposites(tuple(passes.values()))
        return cls(
            packs=tuple(pack.info for pack in ordered),
            decompositions=MappingProxyType(decompositions),
            lowering_passes=tuple(passes.values()),
            kernel_plugins=tuple(plugins.values()),
            backends=tuple(backends.values()),
            runtimes=tuple(runtimes.values()),
            partitioners=MappingProxyType(partitioners),
            observers=tuple(pack.observer for pack in ordered if pack.observer is not None),
            ties=tuple(ties),
            unknown=unknown,
            _entries=entries,
            _overloads=overloads,
            _requirements={},
        )

    @property
    def patterns(self) -> tuple[Pattern, ...]:
        """Every pattern that has a converter, in the order in which they are looked for: their converters'."""
        found = [target for target in self._entries if isinstance(target, Pattern)]
        return tuple(sorted(found, key=lambda target: self._rank(self._entries[target].converters[0])))

    def goes_before(self, one: Converter, other: Converter) -> bool:
        """Whether the user or the packs want `one` before `other`, a converter of another target that overlaps.

        A call-site converter goes before others, then a pinned one, then the higher priority.
        """
        return self._rank(one)[:3] < self._rank(other)[:3]

    def _rank(self, one: Converter) -> tuple[Any, ...]:
        return (*_first(one, self._entries[one.target].pinned), *_order_key(one))

    @property
    def targets(self) -> tuple[Any, ...]:
        """Every op that has a converter."""
        return tuple(self._entries)

    def candidates(self, target: Any) -> tuple[Converter, ...]:
        """Return the converters of `target`, best first."""
        entry = self._entries.get(target)
        return entry.converters if entry else ()

    def places(self, target: Any) -> tuple[str, ...]:
        """For each candidate of `target`, why it comes behind the one before; "" for the first."""
        entry = self._entries.get(target)
        if entry is None:
            return ()
        pairs = pairwise(entry.converters)
        return ("", *(entry._why_before(before, one) for before, one in pairs))

    def select(self, node: fx.Node, ctx: CompileContext) -> Selection:
        """Return the converter for `node`, and every candidate with the reason it lost.

        Nothing of the graph changes. Call it once per node and keep the answer.

        Raises:
            PackError: a capability validator changed the graph.
        """
        if node.op != "call_function":
            return Selection(str(node.target), reason=f"{node.op} nodes have no converters")
        entry = self._entries.get(node.target)
        name = entry.name if entry else target_name(node.target)
        blocked = _forced_to_torch(node, name, ctx) or (
            "" if ctx.backend else ctx.no_backend_reason or "no backend"
        )
        if entry is None:
            return Selection(name, reason=blocked or self._no_converter(name))
        if blocked:
            return entry.all_rejected(blocked)
        dtypes, strange, size = _survey(node)
        if strange:
            return entry.all_rejected(strange)
        for dtype in dtypes:
            if not ctx.backend.supports_dtype(dtype):  # type: ignore[union-attr]
                return entry.all_rejected(f"{_dtype_name(dtype)}, which {ctx.backend.name} cannot represent")  # type: ignore[union-attr]
        rejected: list[Candidate] = []
        for position, one in enumerate(entry.converters):
            reason = self._objection(one, node, ctx, size)
            if not reason:
                return entry.chosen(position, tuple(rejected))
            rejected.append(Candidate(one, "rejected", reason))
        return Selection(name, None, tuple(rejected), _summary(rejected))

    def _no_converter(self, name: str) -> str:
        others = self._overloads.get(name.rpartition(".")[0]) if "." in name else None
        left_out = [
            f"{pack.id} is {pack.error if pack.status == 'disabled' else pack.status}"
            for pack in self.packs
            if pack.scope is Scope.THIRD_PARTY and pack.status != "loaded"
        ]
        hints = [f"there is one for {', '.join(others)}"] if others else []
        hints += [f"not asked: {', '.join(left_out)}"] if left_out else []
        return f"no converter for {name} in any pack" + (f" ({'; '.join(hints)})" if hints else "")

    def _objection(self, one: Converter, node: fx.Node, ctx: CompileContext, size: Any) -> str:
        """Why `one` does not take `node`; "" if it does. `size` is a symbolic size of the node, or None."""
        settings = ctx.settings
        if size is not None and not one.supports_dynamic_shapes and not settings.assume_dynamic_shape_support:
            return "the node has symbolic dims, and the converter does not say supports_dynamic_shapes=True"
        if one.requires_output_allocator and getattr(settings, "fallback_data_dependent_ops", False):
            return "needs an output allocator, and settings.fallback_data_dependent_ops is set"
        return self._unmet(one, ctx) or (_validate(one, node, ctx, size) if one.capability_validator else "")

    def _unmet(self, one: Converter, ctx: CompileContext) -> str | None:
        requires = one.requires
        if requires is _NO_REQUIREMENTS:
            return None
        assert ctx.backend is not None
        # By identity: hashing a Requires and a Target costs more than the rest of a selection. The value keeps them
        # alive, so that no other object gets their ids.
        key = (id(requires), id(ctx.backend), id(ctx.target))
        known = self._requirements.get(key)
        if known is None:
            try:
                unmet = requires.check(ctx.backend, ctx.target)
            except Exception as error:  # an unknown feature, or a probe that fails: told, and not a crash
                unmet = f"its requirements could not be checked: {error!r}"
            known = self._requirements[key] = (unmet, (requires, ctx.backend, ctx.target))
        return known[0]

    def __repr__(self) -> str:
        return (
            f"ConverterRegistry({len(self._entries)} ops, packs: {', '.join(map(str, self.packs)) or 'none'})"
        )


_NO_REQUIREMENTS = Converter.__dataclass_fields__["requires"].default


class _Entry:
    """The converters of one op in order, and the selections among them that hold nothing of a node."""

    __slots__ = ("_plain", "converters", "name", "pinned")

    def __init__(self, name: str, converters: tuple[Converter, ...], pinned: frozenset[str]) -> None:
        self.name = name
        self.converters = converters
        self.pinned = pinned
        self._plain: dict[int, tuple[Candidate, ...]] = {}

    def chosen(self, position: int, rejected: tuple[Candidate, ...]) -> Selection:
        winner = self.converters[position]
        rest = self._plain.get(position)
        if rest is None:
            losers = self.converters[position + 1 :]
            shadowed = (Candidate(one, "shadowed", self._why_before(winner, one)) for one in losers)
            rest = self._plain[position] = (Candidate(winner, "chosen"), *shadowed)
        return Selection(self.name, winner, rejected + rest)

    def all_rejected(self, reason: str) -> Selection:
        return Selection(
            self.name, None, tuple(Candidate(one, "rejected", reason) for one in self.converters), reason
        )

    def _why_before(self, winner: Converter, loser: Converter) -> str:
        if winner.scope is Scope.CALL_SITE:
            why = "given at the call site"
        elif str(winner) in self.pinned and str(loser) not in self.pinned:
            why = "pinned in settings"
        elif winner.priority != loser.priority:
            why = f"priority {int(winner.priority)} over {int(loser.priority)}"
        elif winner.scope is not loser.scope:
            why = f"{_SCOPES[winner.scope]} before {_SCOPES[loser.scope]}"
        elif winner.source != loser.source:
            why = "same priority; by name of the distribution"
        else:
            why = "defined earlier"
        return f"{winner} goes first: {why}"


_SCOPES = {
    Scope.CALL_SITE: "call site",
    Scope.PROCESS: "this process",
    Scope.THIRD_PARTY: "third-party pack",
    Scope.BUILT_IN: "built-in pack",
}


def _by_target(
    converters: Iterable[Converter],
) -> tuple[dict[Any, list[Converter]], tuple[tuple[Converter, str], ...]]:
    """Converters by op, names looked up; and those whose op is not there, with the reason."""
    found: dict[Any, list[Converter]] = {}
    unknown: list[tuple[Converter, str]] = []
    for one in converters:
        target, reason = one.target, ""
        if isinstance(target, str):
            try:
                target = find_target(target)
            except PackError as error:
                target, reason = None, f"{error.message}; {error.advice}"
            if target is None:
                unknown.append((one, reason or f"nothing in this process has registered the op {one.target}"))
                continue
            one = replace(one, target=target)
        found.setdefault(target, []).append(one)
    return found, tuple(unknown)


def _opposites(passes: Sequence[LoweringPass]) -> list[Tie]:
    """Passes that ask for opposite orders."""
    owners = {one.name: one.pack.id for one in passes if one.pack is not None}
    ties = []
    for conflict in order(passes)[1]:
        involved = dict.fromkeys(owners[name] for name in conflict.chain if name in owners)
        ties.append(Tie("pass order", conflict.asker, tuple(involved), told(conflict, passes)))
    return ties


def _decompositions(pack: LoadedPack) -> Iterable[tuple[Any, Callable[..., Any]]]:
    """A pack's decompositions of ops that are there."""
    for key, function in pack.decompositions.items():
        try:
            op = find_target(key)
        except PackError:  # the name of a family; `trtcore packs` lists it, and no node calls it
            continue
        if op is not None:
            yield op, function


# The order ----------------------------------------------------------------------------------------------


def _pack_key(info: PackInfo) -> tuple[int, str, str]:
    return (info.scope, info.distribution, info.name)


def _first(one: Converter, pinned: frozenset[str]) -> tuple[bool, bool]:
    return (one.scope is not Scope.CALL_SITE, str(one) not in pinned)


def _order_key(one: Converter) -> tuple[int, int, str, str, int]:
    distribution, name = (one.pack.distribution, one.pack.name) if one.pack else ("", "")
    return (-one.priority, one.scope, distribution, name, one.order)


def _pin_names(one: Converter) -> set[str]:
    """What a pin may call a converter."""
    if one.pack is None:
        return {"process", f"process:{one.name}"} if one.scope is Scope.PROCESS else set()
    name, full = one.pack.name, one.pack.id
    return {name, full, f"{name}:{one.name}", f"{full}:{one.name}"}


def _resolve_pins(
    pins: Mapping[str, str], by_target: Mapping[Any, Sequence[Converter]]
) -> dict[str, frozenset[str]]:
    """Op name -> the ``str`` of the converters that its pin names."""
    if not pins:
        return {}
    named: dict[str, Sequence[Converter]] = {
        target_name(target): found for target, found in by_target.items()
    }
    resolved: dict[str, frozenset[str]] = {}
    for op, pin in pins.items():
        ops = [op] if op in named else [name for name in named if name.rpartition(".")[0] == op]
        hits = {name: [str(one) for one in named[name] if pin in _pin_names(one)] for name in ops}
        if not any(hits.values()):
            candidates = sorted({str(one) for name in ops for one in named[name]} - {""})
            have = (
                f"its converters are {', '.join(candidates)}"
                if candidates
                else f"no pack in use converts {op}"
            )
            raise SettingsError(
                f"settings.pins: {op!r} is pinned to {pin!r}, which names no converter of it; {have}",
                advice='write "distribution:pack" or "distribution:pack:converter"; see `trtcore packs`',
            )
        for name, hit in hits.items():
            # A pin of the exact overload beats one of the whole family, whichever comes first.
            if hit and (name == op or name not in pins):
                resolved[name] = frozenset(hit)
    return resolved


def _converter_ties(name: str, converters: Sequence[Converter]) -> list[Tie]:
    """Third-party packs with the same priority for one op; none if a call-site converter settles it."""
    if converters[0].scope is Scope.CALL_SITE:
        return []
    groups: dict[int, dict[str, None]] = {}
    for one in converters:
        if one.scope is Scope.THIRD_PARTY:
            groups.setdefault(one.priority, {})[one.source] = None
    advice = f'choose with pins={{"{name}": "distribution:pack"}}'
    return [Tie("converter", name, tuple(packs), advice) for packs in groups.values() if len(packs) > 1]


def _name_clashes(infos: Sequence[PackInfo]) -> list[Tie]:
    by_name: dict[str, list[str]] = {}
    for info in infos:
        by_name.setdefault(info.name, []).append(info.id)
    advice = "write distribution:pack to mean one of them"
    return [Tie("pack name", name, tuple(ids), advice) for name, ids in by_name.items() if len(ids) > 1]


def _merge(kind: str, items: Iterable[tuple[PackInfo, Any, _T]], ties: list[Tie]) -> dict[Any, _T]:
    """First of each key wins (`items` come in pack order); two third-party packs with one key are a tie."""
    merged: dict[Any, _T] = {}
    owners: dict[Any, list[PackInfo]] = {}
    for info, key, value in items:
        merged.setdefault(key, value)
        owners.setdefault(key, []).append(info)
    for key, infos in owners.items():
        same = [info.id for info in infos if info.scope is infos[0].scope]
        if infos[0].scope is Scope.THIRD_PARTY and len(set(same)) > 1:
            advice = "switch one of them off with settings.disabled_packs"
            ties.append(Tie(kind, target_name(key), tuple(dict.fromkeys(same)), advice))
    return merged


# The rules that hold for every converter ----------------------------------------------------------------


def forced_to_torch(node: fx.Node, ctx: CompileContext) -> str:
    """Return why the user's settings keep a node in torch; "" if they do not.

    Lowering passes that merge nodes ask it, so that what is to run in torch is not merged away.
    """
    settings = ctx.settings
    if not settings.torch_executed_ops and not settings.torch_executed_modules:
        return ""
    return _forced_to_torch(node, target_name(node.target), ctx)


def _forced_to_torch(node: fx.Node, name: str, ctx: CompileContext) -> str:
    ops = ctx.settings.torch_executed_ops
    if ops and (name in ops or name.rpartition(".")[0] in ops):
        return "forced to torch by settings.torch_executed_ops"
    modules = ctx.settings.torch_executed_modules
    if modules:
        for path, kind in _module_stack(node):
            if any(_is_module(path, kind, wanted) for wanted in modules):
                return f"forced to torch by settings.torch_executed_modules ({path or kind})"
    return ""


def _module_stack(node: fx.Node) -> list[tuple[str, Any]]:
    """(module path, class or its qualified name), outermost first, as export and Dynamo write them."""
    stack = node.meta.get("nn_module_stack") or {}
    return [(plain_path(str(path)), kind) for path, kind in stack.values()]


def _is_module(path: str, kind: Any, wanted: str | type) -> bool:
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


def _survey(node: fx.Node) -> tuple[Iterable[torch.dtype], str, Any]:
    """The dtypes of all tensors that touch `node`, what is strange about one of them, and a symbolic size."""
    dtypes: dict[torch.dtype, None] = {}  # in the order met, so that every process names the same one
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
    return dtypes, strange, symbol


def _dtype_name(dtype: torch.dtype) -> str:
    return f"a {str(dtype).removeprefix('torch.')} tensor"


def _validate(one: Converter, node: fx.Node, ctx: CompileContext, size: Any) -> str:
    """Why the capability validator says no; "" if it says yes."""
    assert one.capability_validator is not None
    answer: Any
    before = (len(node.graph.nodes), node.target, node.args, node.kwargs)
    # Branching on a symbolic size would make it a constant, in every FakeTensor of the graph.
    shape_env = getattr(getattr(size, "node", None), "shape_env", None)
    try:
        with undecided_sizes(shape_env) if shape_env is not None else nullcontext():
            answer = one.capability_validator(node, ctx)
    except (KeyboardInterrupt, GeneratorExit):
        raise
    except BaseException as error:  # also SystemExit and pytest.skip: a pack must not end a compile
        if isinstance(error, Exception) and is_size_decision(error):
            return (
                f"capability validator of {one.source} branched on a symbolic size ({error}); "
                "torch.fx.experimental.symbolic_shapes.statically_known_true asks without deciding"
            )
        answer = Reject(f"capability validator of {one.source} raised {error!r}")
    after = (len(node.graph.nodes), node.target, node.args, node.kwargs)
    if before[0] != after[0] or any(was is not now for was, now in zip(before[1:], after[1:])):
        return _undo_changes(one, node, before)
    if answer is True:
        return ""
    if isinstance(answer, Reject):
        return str(answer.reason) or f"capability validator of {one.source} said no, without a reason"
    if answer is False:
        return f"capability validator of {one.source} said no"
    return f"capability validator of {one.source} returned {answer!r}, which is neither a bool nor a Reject"


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
    from trtcore.packs.loading import pack_failure

    pack_failure(f"{what}; the change was undone", one.source_version)
    return f"capability validator of {one.source} changed the graph"


def _summary(rejected: Sequence[Candidate]) -> str:
    if len(rejected) == 1:
        return rejected[0].reason
    return "; ".join(f"{one.converter}: {one.reason}" for one in rejected)
