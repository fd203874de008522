"""Which converter takes a node, and why not another: an immutable registry, one per compile.

The order among converters of one op is total and the same in every process: call site, then pins, then
priority, then scope (this process, third-party packs, built-in packs), then distribution name, pack name and
definition order; in the process the latest definition goes first. `ConverterRegistry.select` walks it and keeps
the verdict on every candidate, with the reason in words.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeVar

import attrs
import torch
from torch import fx

from trtcore.errors import PackError, SettingsError, shown
from trtcore.ir.ops import find_target, op_name
from trtcore.packs.declare import as_converter
from trtcore.packs.model import (
    NO_REQUIREMENTS,
    Converter,
    KernelPlugin,
    LoadedPack,
    LoweringPass,
    PackInfo,
    Refusal,
    Requires,
    Runtime,
    Scope,
)
from trtcore.packs.pass_order import order, told
from trtcore.packs.patterns import Pattern
from trtcore.packs.rules import Survey, dtype_name, settings_want_torch, survey, validate
from trtcore.packs.selection import Asking, Candidate, Selection, Verdict

if TYPE_CHECKING:
    from trtcore.backend.base import Backend, Target
    from trtcore.events import Observer

_T = TypeVar("_T")


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
        captures: (pack, function) of what models need around them while they are captured, in the packs' order.
        ties: what only names decide.
        shapes: composite op -> empty results, for captures; the first converter's that has them.
        unknown: converters of named ops that nothing in this process has registered, with the reason.
    """

    __slots__ = (
        "_asked",
        "_entries",
        "_overloads",
        "_refusals",
        "backends",
        "captures",
        "decompositions",
        "kernel_plugins",
        "lowering_passes",
        "observers",
        "packs",
        "partitioners",
        "runtimes",
        "shapes",
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
    captures: tuple[tuple[PackInfo, Callable[[torch.nn.Module], Any]], ...]
    ties: tuple[Tie, ...]
    shapes: Mapping[Any, Callable[..., Any]]
    unknown: tuple[tuple[Converter, str], ...]
    _entries: dict[Any, _Entry]
    _overloads: dict[str, list[str]]
    _refusals: dict[Any, Refusal]
    _asked: list[_Asked]

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
        found += [
            attrs.evolve(one, order=-i, scope=Scope.PROCESS, pack=None) for i, one in enumerate(process)
        ]
        for i, (target, given) in enumerate(call_site.items()):
            try:
                found.append(attrs.evolve(as_converter(target, given), order=i))
            except PackError as error:
                raise SettingsError(f"settings.converters: {error.message}", advice=error.advice) from error
        by_target, unknown = _by_target(found)

        pinned = _resolve_pins(pins, by_target)
        ties = _name_clashes([pack.info for pack in ordered if pack.info.status == "loaded"])
        entries: dict[Any, _Entry] = {}
        overloads: dict[str, list[str]] = {}
        for target, converters in by_target.items():
            name = op_name(target)
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

        refusals = merge("refusal", lambda pack: _present((one.target, one) for one in pack.refusals))
        decompositions = merge("decomposition", lambda pack: _present(pack.decompositions.items()))
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
            captures=tuple((pack.info, one) for pack in ordered for one in pack.captures),
            ties=tuple(ties),
            shapes=MappingProxyType(_shapes(entries)),
            unknown=unknown,
            _entries=entries,
            _overloads=overloads,
            _refusals=refusals,
            _asked=[_Asked(None, None)],
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

    @property
    def refusals(self) -> tuple[Refusal, ...]:
        """Every op that a pack says no converter can help with."""
        return tuple(self._refusals.values())

    def refusal(self, target: Any) -> Refusal | None:
        """The refusal of `target`; None where no pack refuses it."""
        return self._refusals.get(target)

    def select(
        self, node: fx.Node, ctx: Asking, failed: Mapping[str, str] = MappingProxyType({})
    ) -> Selection:
        """Return the converter for `node`, and every candidate with the reason it lost.

        Nothing of the graph changes. Call it once per node and keep the answer.

        Args:
            failed: converters that have been tried on the node, by their ``str``, and why they will not do.

        Raises:
            PackError: a capability validator changed the graph.
        """
        if node.op != "call_function":
            reason = f"{node.op} nodes have no converters"
            return Selection(str(node.target), reason=reason, verdict=Verdict.NOT_AN_OP)
        entry = self._entries.get(node.target)
        name = entry.name if entry else op_name(node.target)
        no = self._in_torch(node, name, ctx)
        if entry is None:
            verdict, reason = no or self._no_converter(node.target, name)
            return Selection(name, reason=reason, verdict=verdict)
        if no:
            return entry.all_rejected(*no)
        seen = survey(node)
        no = _unrepresentable(seen, ctx)
        if no:
            return entry.all_rejected(*no)
        rejected: list[Candidate] = []
        for position, one in enumerate(entry.converters):
            verdict, reason = (
                (Verdict.FAILED, failed[str(one)])
                if failed and str(one) in failed
                else self._objection(one, node, ctx, seen.size, seen.floats)
            )
            if verdict is Verdict.CHOSEN:
                return entry.chosen(position, tuple(rejected))
            rejected.append(Candidate(one, verdict, reason))
        return _all_lost(name, rejected, self._refusals.get(node.target))

    def _in_torch(self, node: fx.Node, name: str, ctx: Asking) -> tuple[Verdict, str] | None:
        """Why no converter is asked at all."""
        wanted = settings_want_torch(node, name, ctx.settings)
        if wanted:
            return Verdict.FORCED_TO_TORCH, wanted
        return None if ctx.backend else (Verdict.NO_BACKEND, ctx.no_backend_reason or "no backend")

    def _no_converter(self, target: Any, name: str) -> tuple[Verdict, str]:
        refusal = self._refusals.get(target)
        if refusal is not None:
            return Verdict.REFUSED, str(refusal)
        hints = [*self._near(name), *self._left_out()]
        reason = f"no converter for {name} in any pack" + (f" ({'; '.join(hints)})" if hints else "")
        return Verdict.NO_CONVERTER, reason

    def _near(self, name: str) -> Iterable[str]:
        """Converters of the op's other overloads, and of ops that nobody has registered and that are called alike."""
        family = name.rpartition(".")[0]
        others = self._overloads.get(family)
        if others:
            yield f"there is one for {', '.join(others)}"
        waiting = {op_name(one.target): f"{one} waits: {reason}" for one, reason in self.unknown}
        for near in dict.fromkeys(
            hit for own in (family, name) for hit in difflib.get_close_matches(own, waiting, n=1, cutoff=0.8)
        ):
            yield f"{waiting[near]}; is its name misspelled?"

    def _left_out(self) -> Iterable[str]:
        packs = [
            f"{pack.id} is {pack.error if pack.status == 'disabled' else pack.status}"
            for pack in self.packs
            if pack.scope is Scope.THIRD_PARTY and pack.status != "loaded"
        ]
        if packs:
            yield f"not asked: {', '.join(packs)}"

    def _objection(
        self, one: Converter, node: fx.Node, ctx: Asking, size: Any, floats: bool
    ) -> tuple[Verdict, str]:
        """Why `one` does not take `node`; CHOSEN if it does. `size` is a symbolic size of the node, or None; `floats`:
        whether it has tensors of floats."""
        settings = ctx.settings
        if size is not None and not one.supports_dynamic_shapes and not settings.assume_dynamic_shape_support:
            return Verdict.DYNAMIC_SHAPES, (
                "the node has symbolic dims, and the converter does not say supports_dynamic_shapes=True"
            )
        if one.requires_output_allocator and getattr(settings, "fallback_data_dependent_ops", False):
            return Verdict.OUTPUT_ALLOCATOR, (
                "needs an output allocator, and settings.fallback_data_dependent_ops is set"
            )
        if settings.strict_numerics and not one.supports_strict_numerics and floats:
            return Verdict.STRICT_NUMERICS, (
                "settings.strict_numerics is set, and the converter does not say supports_strict_numerics=True: it may "
                "treat NaN, infinities or signed zeros as TensorRT does"
            )
        unmet = self._unmet(one, ctx)
        if unmet:
            return Verdict.REQUIREMENT, unmet
        if one.capability_validator is None:
            return Verdict.CHOSEN, ""
        return validate(one, node, ctx.for_validators, size)

    def _unmet(self, one: Converter, ctx: Asking) -> str | None:
        requires = one.requires
        if requires is NO_REQUIREMENTS:
            return None
        assert ctx.backend is not None
        (asked,) = self._asked
        if asked.backend is not ctx.backend or asked.target is not ctx.target:
            asked = self._asked[0] = _Asked(ctx.backend, ctx.target)
        # By identity: hashing a Requires costs more than the rest of a selection. The value keeps it alive, so that no
        # other object gets its id.
        known = asked.unmet.get(id(requires))
        if known is None:
            try:
                unmet = requires.check(ctx.backend, ctx.target)
            except Exception as error:  # an unknown feature, or a probe that fails: told, and not a crash
                unmet = f"its requirements could not be checked: {shown(error)}"
            known = asked.unmet[id(requires)] = (unmet, requires)
        return known[0]

    def __repr__(self) -> str:
        return (
            f"ConverterRegistry({len(self._entries)} ops, packs: {', '.join(map(str, self.packs)) or 'none'})"
        )


class _Asked:
    """What converters require that a backend lacks for a target: of the pair that was asked about last."""

    __slots__ = ("backend", "target", "unmet")

    def __init__(self, backend: Backend | None, target: Target | None) -> None:
        self.backend, self.target = backend, target
        self.unmet: dict[int, tuple[str | None, Requires]] = {}


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
            shadowed = (Candidate(one, Verdict.SHADOWED, self._why_before(winner, one)) for one in losers)
            rest = self._plain[position] = (Candidate(winner, Verdict.CHOSEN), *shadowed)
        return Selection(self.name, winner, rejected + rest, verdict=Verdict.CHOSEN)

    def all_rejected(self, verdict: Verdict, reason: str) -> Selection:
        candidates = tuple(Candidate(one, verdict, reason) for one in self.converters)
        return Selection(self.name, None, candidates, reason, verdict)

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
        elif winner.scope is Scope.PROCESS:
            why = "defined later in this process"
        else:
            why = "defined earlier"
        return f"{winner} goes first: {why}"


_SCOPES = {
    Scope.CALL_SITE: "call site",
    Scope.PROCESS: "this process",
    Scope.THIRD_PARTY: "third-party pack",
    Scope.BUILT_IN: "built-in pack",
}


def _shapes(entries: Mapping[Any, _Entry]) -> dict[Any, Callable[..., Any]]:
    given = {
        target: [one.shapes for one in entry.converters if one.shapes is not None]
        for target, entry in entries.items()
    }
    return {target: shapes[0] for target, shapes in given.items() if shapes}


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
            one = attrs.evolve(one, target=target)
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


def _present(items: Iterable[tuple[Any, _T]]) -> Iterable[tuple[Any, _T]]:
    """Entries by op, of ops that are there."""
    for key, value in items:
        try:
            op = find_target(key)
        except PackError:  # the name of a family; `trtcore packs` lists it, and no node calls it
            continue
        if op is not None:
            yield op, value


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
    named: dict[str, Sequence[Converter]] = {op_name(target): found for target, found in by_target.items()}
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
            ties.append(Tie(kind, op_name(key), tuple(dict.fromkeys(same)), advice))
    return merged


# Why none is chosen --------------------------------------------------------------------------------------


def _unrepresentable(seen: Survey, ctx: Asking) -> tuple[Verdict, str] | None:
    """A tensor at the node that the backend does not have."""
    if seen.strange:
        return Verdict.LAYOUT, seen.strange
    backend = ctx.backend
    assert backend is not None
    for dtype in seen.dtypes:
        if not backend.supports_dtype(dtype):
            return Verdict.DTYPE, f"{dtype_name(dtype)}, which {backend.name} cannot represent"
    return None


def _all_lost(name: str, rejected: Sequence[Candidate], refusal: Refusal | None) -> Selection:
    verdicts = {one.verdict for one in rejected}
    if len(rejected) == 1 and refusal is None:
        reason = rejected[0].reason
    else:
        reasons = [f"{one.converter}: {one.reason}" for one in rejected]
        reason = "; ".join([*reasons, str(refusal)] if refusal is not None else reasons)
    verdict = verdicts.pop() if len(verdicts) == 1 else Verdict.REJECTED
    return Selection(name, None, tuple(rejected), reason, verdict)
