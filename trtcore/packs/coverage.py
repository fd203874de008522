"""What becomes of an op, without a model: its converters in order, what they need, and whether the backend has it."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import torch

from trtcore.errors import BackendUnavailableError, InputError, PackError, SettingsError, shown
from trtcore.ir.graphs import is_composite
from trtcore.ir.ops import find_target, op_name, resolve_target
from trtcore.ir.torch_private import names_of_ops
from trtcore.packs.model import Converter, Requires
from trtcore.packs.patterns import Pattern

if TYPE_CHECKING:
    from trtcore.backend.base import Backend, Target
    from trtcore.packs.registry import ConverterRegistry

__all__ = ["describe_op", "describe_ops"]


def describe_ops() -> list[dict[str, Any]]:
    """Every op that a pack converts or decomposes, and every core ATen op, as ``trtcore ops`` lists them.

    Returns:
        Per op, by name: ``op``, ``by`` ("converter", "pattern", "decomposition", "torch's decomposition", "refused"
        (a pack says that no converter can help) or "torch"), ``pack`` (of the first converter, of the decomposition or
        of the refusal), ``converters`` (how many), ``dynamic`` (whether
        one of them takes dynamic shapes), ``core`` (whether it is a core ATen op).
    """
    registry = _registry()
    owners = _decomposition_owners(registry)
    core = dict.fromkeys(_core_ops())
    rows = []
    for target in {**dict.fromkeys(registry.targets), **dict.fromkeys(owners), **_refused(registry), **core}:
        found = registry.candidates(target)
        by, pack = _fate(target, registry, owners)
        rows.append(
            {
                "op": op_name(target),
                "by": by,
                "pack": pack,
                "converters": len(found),
                "dynamic": any(one.supports_dynamic_shapes for one in found),
                "core": target in core,
            }
        )
    return sorted(rows, key=lambda row: str(row["op"]))


def describe_op(name: str) -> list[dict[str, Any]]:
    """Every candidate for an op in order, and why it stands where it does.

    Args:
        name: ``aten.gelu`` (all overloads), ``aten.gelu.default``, ``torchvision::nms``.

    Returns:
        Per overload: ``op``, ``by``, ``pack`` as in `describe_ops`; ``note`` (why a pack refuses it, or why a converter
        of it waits); ``defined``: file and line of the decomposition, where one is used, else "";
        ``candidates``, best first: ``converter``, ``source``, ``version``, ``scope``, ``priority``, ``dynamic``,
        ``validator``, ``requires`` (text), ``unmet`` (why the backend does not hold them; None where they hold, or
        cannot be asked), ``place`` (why it stands behind the one before) and ``defined`` (file and line).

    Raises:
        InputError: neither torch nor any pack knows such an op.
    """
    registry = _registry()
    owners = _decomposition_owners(registry)
    backend, target = _backend(registry)
    described = [
        {
            "op": op_name(op),
            **dict(zip(("by", "pack"), _fate(op, registry, owners))),
            "note": refusal.reason if (refusal := registry.refusal(op)) is not None else "",
            "defined": "" if registry.candidates(op) else _defined(registry.decompositions.get(op)),
            "candidates": [
                _described(one, place, backend, target)
                for one, place in zip(registry.candidates(op), registry.places(op))
            ],
        }
        for op in _named(name, registry)
    ]
    wanted = name.replace("::", ".")
    for one, reason in registry.unknown:
        if op_name(one.target) in (wanted, wanted.rpartition(".")[0]):
            row = {"op": op_name(one.target), "by": "torch", "pack": "", "note": reason, "defined": ""}
            described.append({**row, "candidates": [_described(one, "", backend, target)]})
    if not described:
        raise InputError(f"no op {name!r} is known to torch or to any pack", advice=_advice(name))
    return described


def _registry() -> ConverterRegistry:
    from trtcore.packs.loading import build_registry
    from trtcore.settings import CompilationSettings

    return build_registry(CompilationSettings())


def _backend(registry: ConverterRegistry) -> tuple[Backend | None, Target | None]:
    from trtcore.backend.base import resolve_backend
    from trtcore.settings import CompilationSettings

    try:
        backend = resolve_backend("auto", registry.backends)
        return backend, backend.default_target(CompilationSettings())
    except BackendUnavailableError:
        return None, None


def _decomposition_owners(registry: ConverterRegistry) -> dict[Any, str]:
    """Op -> the pack whose decomposition of it is used."""
    from trtcore.packs.loading import load_packs

    owners: dict[Any, str] = {}
    packs = {pack.info.id: pack for pack in load_packs()}
    for info in registry.packs:  # in order: the first one's counts
        for key in packs[info.id].decompositions if info.id in packs else ():
            try:
                op = find_target(key)
            except PackError:
                continue
            if op is not None:
                owners.setdefault(op, info.id)
    return owners


def _refused(registry: ConverterRegistry) -> dict[Any, None]:
    return dict.fromkeys(find_target(one.target) for one in registry.refusals)


def _fate(op: Any, registry: ConverterRegistry, owners: Mapping[Any, str]) -> tuple[str, str]:
    found = registry.candidates(op)
    if found:
        return ("pattern" if isinstance(op, Pattern) else "converter"), found[0].source
    if op in owners:
        return "decomposition", owners[op]
    refusal = registry.refusal(op)
    if refusal is not None:
        return "refused", refusal.pack.id if refusal.pack is not None else ""
    if isinstance(op, torch._ops.OpOverload) and is_composite(op):
        return "torch's decomposition", ""
    return "torch", ""


def _core_ops() -> Iterable[Any]:
    for name in sorted(names_of_ops()):
        namespace, _, rest = name.partition("::")
        packet, _, overload = rest.partition(".")
        op = getattr(getattr(getattr(torch.ops, namespace), packet, None), overload or "default", None)
        if isinstance(op, torch._ops.OpOverload) and torch.Tag.core in op.tags:
            yield op


def _named(name: str, registry: ConverterRegistry) -> list[Any]:
    """The ops that a name means: those with converters, else the functional overloads."""
    wanted = name.removeprefix("torch.ops.").replace("::", ".")
    known = {**dict.fromkeys(registry.targets), **_refused(registry)}
    # Higher-order ops have names without a dot, and so no family that "" could be.
    found = [op for op in known if wanted and wanted in (op_name(op), op_name(op).rpartition(".")[0])]
    if found:
        return sorted(found, key=op_name)
    try:
        resolved = resolve_target(wanted)
        packet = resolved.replace("::", ".").split(".")
        packet_object = getattr(getattr(torch.ops, packet[0]), packet[1], None)
    except (PackError, IndexError):
        return []
    if not isinstance(packet_object, torch._ops.OpOverloadPacket):
        return []
    overloads = [getattr(packet_object, one) for one in packet_object.overloads()]  # type: ignore[no-untyped-call]
    registered = set(names_of_ops())  # TorchScript has overloads of its own, for numbers
    return [
        op
        for op in overloads
        if op.name() in registered and not op._schema.is_mutable and (len(packet) == 2 or str(op) == wanted)
    ]


def _advice(name: str) -> str:
    from trtcore.settings import op_name as read_name

    try:
        read_name(name)
    except SettingsError as error:
        return error.advice or ""
    return "import the library that defines it, or install the pack that converts it"


def _described(one: Converter, place: str, backend: Backend | None, target: Target | None) -> dict[str, Any]:
    unmet = None
    if backend is not None:
        try:
            unmet = one.requires.check(backend, target)
        except Exception as error:  # an unknown feature, or a probe that fails: told, as in a compile
            unmet = f"its requirements could not be checked: {shown(error)}"
    return {
        "converter": one.name,
        "source": one.source,
        "version": one.pack.version if one.pack is not None else "",
        "scope": one.scope.name.lower().replace("_", " "),
        "priority": int(one.priority),
        "dynamic": one.supports_dynamic_shapes,
        "validator": one.capability_validator is not None,
        "requires": _requirements(one.requires),
        "unmet": unmet,
        "place": place,
        "defined": _defined(one.implementation),
    }


def _requirements(requires: Requires) -> str:
    parts = [f"layer {layer}" for layer in sorted(requires.layers)]
    parts += ["plugin layers"] if requires.plugins else []
    parts += [f"{name} {text}".strip() for name, text in requires.ranges]
    parts += [str(dtype) for dtype in sorted(requires.dtypes, key=str)]
    return ", ".join([*parts, *requires.features])


def _defined(function: Any) -> str:
    """File and line of a function; "" where there is none."""
    code = getattr(inspect.unwrap(function), "__code__", None) if callable(function) else None
    return f"{code.co_filename}:{code.co_firstlineno}" if code is not None else ""
