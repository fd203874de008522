"""The pack's door: what the entry point ``aten`` names.

A new operator family is a module beside this one with ``@converter`` functions: it is found by itself. Helpers of
families have names that begin with an underscore.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import trtcore_converters
from trtcore.pack import Converter, LoweringPass, converters_in, hookimpl

NO_FAMILIES = (
    "decompositions",
    "decompositions_indexing",
    "decompositions_linalg",
    "decompositions_prims",
    "decompositions_recurrent",
    "decompositions_spatial",
    "decompositions_varying",
    "order",
    "pack",
    "quantize_ops",
    "quantizer",
    "refusals",
    "remainders",
    "special",
    "strict",
    "strict_ops",
    "torch_private",
)
"""Modules of this package that hold no converters. Every other one must declare some."""


@hookimpl
def converters() -> Iterable[Converter]:
    """Every converter of every family."""
    from trtcore_converters.strict import with_promises

    return with_promises(
        converters_in(*(importlib.import_module(f"{__package__}.{name}") for name in families()))
    )


@hookimpl
def decompositions() -> Mapping[Any, Callable[..., Any]]:
    """What ops without a converter are rewritten into."""
    from trtcore_converters.decompositions import decompositions as table

    return table()


@hookimpl
def lowering_passes() -> Iterable[LoweringPass]:
    """The passes over whole graphs."""
    from trtcore_converters.passes import PASSES

    return PASSES


@hookimpl
def refusals() -> Mapping[Any, str]:
    """Ops that TensorRT cannot do as torch does, and why."""
    from trtcore_converters.refusals import REFUSED

    return REFUSED


def families() -> tuple[str, ...]:
    """The modules of this package that hold converters, by name.

    Raises:
        ImportError: `NO_FAMILIES` names a module that is not there.
    """
    modules = [found.name for found in pkgutil.iter_modules(trtcore_converters.__path__) if not found.ispkg]
    missing = sorted(set(NO_FAMILIES) - set(modules))
    if missing:
        raise ImportError(f"trtcore_converters.pack.NO_FAMILIES names {', '.join(missing)}: no such module")
    return tuple(name for name in modules if not name.startswith("_") and name not in NO_FAMILIES)


def family_of(one: Converter) -> str:
    """The family that a converter of this pack is declared in: its function's module.

    Example:
        >>> {family_of(one) for one in converters() if one.name == "gelu"}
        {'activations'}
    """
    return one.implementation.__module__.rpartition(".")[2]
