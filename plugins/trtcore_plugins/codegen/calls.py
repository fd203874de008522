"""The calls that a program is made of: tensors by number, symbolic sizes, and one ATen call."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

OMITTED = -1
"""The axis of a dim of size 1."""


@dataclass(frozen=True)
class Ref:
    """A tensor of the program, by number: inputs first, then the calls' results in order."""

    index: int


@dataclass(frozen=True)
class Size:
    """A symbolic int that the caller passes with each call, by number."""

    index: int


@dataclass(frozen=True)
class HomeDevice:
    """Stands for the device of the program's inputs."""


@dataclass(frozen=True)
class Spec:
    """A tensor of the program: its dtype, and the domain axis of each dim (`OMITTED` for size 1)."""

    dtype: torch.dtype
    axes: tuple[int, ...]


@dataclass(frozen=True)
class Call:
    """One ATen call. `op` is its name ("aten.mul.Tensor"); arguments hold Refs, Sizes and constants."""

    op: str
    args: tuple[Any, ...]
    kwargs: tuple[tuple[str, Any], ...]
    results: tuple[Spec, ...]


def references(value: Any) -> Iterator[int]:
    """The numbers of the tensors in an argument."""
    if isinstance(value, Ref):
        yield value.index
    elif isinstance(value, tuple):
        for item in value:
            yield from references(item)


def map_references(value: Any, function: Callable[[int], Any]) -> Any:
    """An argument with `function(number)` in the place of its tensors."""
    if isinstance(value, Ref):
        return function(value.index)
    if isinstance(value, tuple):
        return tuple(map_references(item, function) for item in value)
    return value
