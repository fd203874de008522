"""The pack's door: what the entry point ``aten`` names.

A new operator family is a module with ``@converter`` functions and its name in `FAMILIES`.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from trtcore.pack import Converter, LoweringPass, converters_in, hookimpl

FAMILIES = (
    "elementwise",
    "integers",
    "comparison",
    "bitwise",
    "unary",
    "activations",
    "cast",
    "creation",
    "shape",
    "gather",
    "scatter",
    "accumulate",
    "linear",
    "embedding",
    "attention",
    "rotary",
    "normalization",
    "softmax",
    "reduction",
    "convolution",
    "pooling",
    "pooling_indices",
    "batchnorm",
    "padding",
    "resize",
    "sort",
    "cumulative",
    "grid",
    "quantize",
    "refusals",
)
"""Modules of this package that hold converters."""


@hookimpl
def converters() -> Iterable[Converter]:
    """Every converter of every family."""
    return converters_in(*(importlib.import_module(f"{__package__}.{name}") for name in families()))


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


def families() -> tuple[str, ...]:
    """The names in `FAMILIES` that exist as modules."""
    return tuple(name for name in FAMILIES if importlib.util.find_spec(f"{__package__}.{name}") is not None)
