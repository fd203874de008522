"""What ops are rewritten into, by the old decorator and table."""

from __future__ import annotations

from collections.abc import Callable, Iterator, MutableMapping, Sequence
from typing import Any, TypeVar

import torch

from trtcore.pack import hookimpl, register_pack
from trtcore_contrib_torch_tensorrt._told import told

__all__ = ["TORCH_TRT_DECOMPOSITIONS", "register_torch_trt_decomposition"]

_F = TypeVar("_F", bound=Callable[..., Any])


class _Pack:
    """The pack that one decomposition is."""

    def __init__(self, table: dict[Any, Callable[..., Any]]) -> None:
        self._table = table

    @hookimpl
    def decompositions(self) -> Any:
        """The decomposition."""
        return self._table


class _Decompositions(MutableMapping[Any, Callable[..., Any]]):
    """Op -> function: what this process declared. Everything in it takes part in each compile from then on.

    trtcore's own decompositions and torch's are not in it. They need not be taken out: an op that a converter takes is
    not decomposed.
    """

    def __init__(self) -> None:
        self._own: dict[Any, Callable[..., Any]] = {}

    def __getitem__(self, op: Any) -> Callable[..., Any]:
        return self._own[op]

    def __setitem__(self, op: Any, function: Callable[..., Any]) -> None:
        register_pack(_Pack({op: function}), name=f"torch_tensorrt.decomposition.{op}")
        self._own[op] = function

    def __delitem__(self, op: Any) -> None:
        del self._own[op]
        register_pack(_Pack({}), name=f"torch_tensorrt.decomposition.{op}")

    def __iter__(self) -> Iterator[Any]:
        return iter(self._own)

    def __len__(self) -> int:
        return len(self._own)

    def __repr__(self) -> str:
        return f"<decompositions of {', '.join(map(str, self._own)) or 'no op'}>"


TORCH_TRT_DECOMPOSITIONS: MutableMapping[Any, Callable[..., Any]] = _Decompositions()


def register_torch_trt_decomposition(
    aten_op: Any, registry: MutableMapping[Any, Callable[..., Any]] | None = None
) -> Callable[[_F], _F]:
    """A decorator: the function, of the op's arguments, is what the op is rewritten into, where no converter takes it.

    Args:
        aten_op: an op, a packet (for all its overloads), or several.
        registry: a table of the caller's, which is filled in place of `TORCH_TRT_DECOMPOSITIONS`.

    Raises:
        PackError: it is no op.
    """
    table = TORCH_TRT_DECOMPOSITIONS if registry is None else registry

    def declare(function: _F) -> _F:
        for op in _overloads(aten_op):
            table[op] = function
        return function

    return declare


def _overloads(given: Any) -> Iterator[Any]:
    if isinstance(given, Sequence) and not isinstance(given, str):
        for one in given:
            yield from _overloads(one)
    elif isinstance(given, torch._ops.OpOverloadPacket):
        for name in given.overloads():
            yield getattr(given, name)
    else:
        yield given


def __getattr__(name: str) -> Any:
    return told("dynamo.lowering", name)
