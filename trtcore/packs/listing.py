"""What ``trtcore packs`` prints: each installed pack, what it gives, and what of it another's goes before."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from trtcore.ir.ops import op_name
from trtcore.packs.loading import load_packs, metadata_of_packs, process_converters
from trtcore.packs.model import LoadedPack
from trtcore.packs.registry import ConverterRegistry


def describe_packs(no_import: bool = False) -> list[dict[str, Any]]:
    """Return what ``trtcore packs`` prints: a plain dict per pack.

    Args:
        no_import: metadata only; nothing is imported, and a pack that could be is "not imported".

    Returns:
        Per pack: ``name``, ``distribution``, ``version``, ``scope``, ``value``, ``status``, ``error``,
        ``gives`` (kind -> names; for converters, ops), ``shadowed``: every contribution that another pack's
        goes before, as dicts of ``kind``, ``subject``, ``by`` and, for converters, ``converter``; and
        ``waiting``: converters of ops that nothing in this process has registered, as dicts of ``converter``
        and ``reason``.
    """
    if no_import:
        return [_description(LoadedPack(info), (), ()) for info in metadata_of_packs()]
    packs = load_packs()
    registry = ConverterRegistry.build(packs, process=process_converters())
    shadowed = _shadowed(packs, registry)
    waiting: dict[str, list[dict[str, str]]] = {}
    for one, reason in registry.unknown:
        waiting.setdefault(one.source, []).append({"converter": one.name, "reason": reason})
    return [
        _description(pack, shadowed.get(pack.info.id, ()), waiting.get(pack.info.id, ())) for pack in packs
    ]


def _description(
    pack: LoadedPack, shadowed: Iterable[dict[str, str]], waiting: Iterable[dict[str, str]]
) -> dict[str, Any]:
    info = pack.info
    return {
        "name": info.name,
        "distribution": info.distribution,
        "version": info.version,
        "scope": info.scope.name.lower(),
        "value": info.value,
        "status": info.status,
        "error": info.error,
        "gives": {kind: names for kind, names in names_given(pack).items() if names},
        "shadowed": list(shadowed),
        "waiting": list(waiting),
    }


def names_given(pack: LoadedPack) -> dict[str, list[str]]:
    """Kind of contribution -> names; for converters, refusals and decompositions those of ops."""
    return {
        "converters": [op_name(one.target) for one in pack.converters],
        "refusals": [op_name(one.target) for one in pack.refusals],
        "decompositions": sorted(op_name(op) for op in pack.decompositions),  # torch's come from sets
        "lowering_passes": [one.name for one in pack.lowering_passes],
        "kernel_plugins": [one.name for one in pack.kernel_plugins],
        "backends": [one.name for one in pack.backends],
        "runtimes": [one.name for one in pack.runtimes],
        "partitioners": list(pack.partitioners),
        "captures": [getattr(one, "__name__", type(one).__name__) for one in pack.captures],
        "observe": ["observe"] if pack.observer is not None else [],
    }


def _shadowed(packs: Sequence[LoadedPack], registry: ConverterRegistry) -> dict[str, list[dict[str, str]]]:
    """Pack id -> its contributions that another pack's (or the process's) go before."""
    result: dict[str, list[dict[str, str]]] = {}
    for target in registry.targets:
        first, *others = registry.candidates(target)
        for one in others:
            if one.source == first.source:
                continue  # a pack's own second choice
            entry = {
                "kind": "converters",
                "subject": op_name(target),
                "converter": one.name,
                "by": str(first),
            }
            result.setdefault(one.source, []).append(entry)
    owners: dict[tuple[str, str], str] = {}
    for pack in sorted(packs, key=lambda pack: (pack.info.scope, pack.info.id)):
        for kind, names in names_given(pack).items():
            for name in names if kind not in ("converters", "observe") else ():
                owner = owners.setdefault((kind, name), pack.info.id)
                if owner != pack.info.id:
                    result.setdefault(pack.info.id, []).append({"kind": kind, "subject": name, "by": owner})
    return result
