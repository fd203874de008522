"""Writing fx graphs: what an evaluator sees of its layer, and the functions that it calls.

An evaluator gets an `Emitter` and returns the layer's output values. A value is an fx `Node` (known when the
engine runs) or a `Const` (known now). `Emitter.call(function, ...)` adds a call to the graph, or runs it
right away when every operand is a `Const` and the result is small or a view: constant folding, so that the
run-time graph holds only what depends on inputs.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import fx

from trtcore.pack import ConversionError, LayerSnapshot, TensorInfo, TrtcoreError
from trtcore_reference.region import Region
from trtcore_reference.values import ADVICE, Const, Value

#: Folded results up to this many elements are kept; larger ones only if they are views of a constant.
FOLD_LIMIT = 1 << 16


Evaluator: TypeAlias = Callable[["Emitter"], "Value | Sequence[Value]"]


class Emitter:
    """One layer while it is compiled.

    Attributes:
        layer: the layer's snapshot.
        attributes, constants: the layer's, as in its snapshot.
        host: this layer computes shapes, and runs on the CPU wherever the data is.
    """

    def __init__(self, region: Region, layer: LayerSnapshot, host: bool) -> None:
        self.region = region
        self.layer = layer
        self.attributes: Mapping[str, Any] = layer.attributes
        self.constants: Mapping[str, torch.Tensor] = layer.constants
        self.host = host

    # -- operands

    def has(self, index: int) -> bool:
        """Whether input `index` is set."""
        return index < len(self.layer.inputs) and self.layer.inputs[index] is not None

    def value(self, index: int = 0, *, host: bool | None = None) -> Value:
        """The value of input `index`, where the layer runs, or on the CPU if `host`."""
        tensor = self.layer.inputs[index] if index < len(self.layer.inputs) else None
        if tensor is None:
            raise self.error(f"has no input {index}")
        return self.region.value(tensor, self.host if host is None else host)

    def values(self) -> list[Value]:
        return [self.value(i) for i in range(len(self.layer.inputs))]

    def info(self, index: int = 0) -> TensorInfo:
        """Dtype and build-time shape of input `index`."""
        tensor = self.layer.inputs[index]
        assert tensor is not None
        return self.region.snapshot.tensors[tensor]

    def out(self, index: int = 0) -> TensorInfo:
        """Dtype and build-time shape of output `index`."""
        return self.region.snapshot.tensors[self.layer.outputs[index]]

    @property
    def rank(self) -> int:
        return len(self.info().shape)

    @property
    def is_float(self) -> bool:
        return self.info().dtype.is_floating_point

    def ints(self, index: int) -> tuple[int, ...] | None:
        """The integers of a constant input, None if they are known only at run time."""
        value = self.value(index, host=True)
        return tuple(int(v) for v in value.tensor.reshape(-1).tolist()) if isinstance(value, Const) else None

    def static(self, index: int = 0) -> tuple[int, ...] | None:
        """The shape of input `index` if all of it is known now."""
        shape = self.info(index).shape
        return None if -1 in shape else shape

    # -- results

    def const(self, tensor: torch.Tensor) -> Const:
        return Const(tensor)

    def device(self) -> Any:
        """The device that this layer's results belong on: a value for `device=` arguments of `emit`."""
        return torch.device("cpu") if self.host else self.region.device()

    def call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Value:
        """Call `function` when the engine runs, or now if all operands are constants (see the module)."""
        if not _has_node((args, kwargs)):
            folded = _fold(function, args, kwargs)
            if folded is not None:
                return folded[0]
        return self.emit(function, *args, **kwargs)

    def calls(self, count: int, function: Callable[..., Any], *args: Any) -> tuple[Value, ...]:
        """Like `call`, for a function that returns a tuple of `count` tensors."""
        folded = None if _has_node(args) else _fold(function, args, {})
        if folded is not None:
            return folded
        node = self.emit(function, *args)
        return tuple(self.emit(operator.getitem, node, i) for i in range(count))

    def emit(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> fx.Node:
        """Call `function` when the engine runs."""
        placed = lambda const: self.region.staged(const, self.host)  # noqa: E731
        return self.region.add(function, _replace(args, placed), _replace(kwargs, placed), self.layer)

    def error(self, what: str) -> ConversionError:
        return ConversionError(
            f"the reference runtime cannot run layer {self.layer.name!r} ({self.layer.type}): it {what}",
            advice=ADVICE,
        )

    def unsupported(self, attribute: str) -> ConversionError:
        return self.error(
            f"has {attribute}={self.attributes.get(attribute)!r}, for which there is no evaluator"
        )


def _has_node(tree: Any) -> bool:
    if isinstance(tree, fx.Node):
        return True
    if isinstance(tree, (list, tuple)):
        return any(_has_node(item) for item in tree)
    if isinstance(tree, dict):
        return any(_has_node(item) for item in tree.values())
    if isinstance(tree, slice):
        return _has_node((tree.start, tree.stop, tree.step))
    return False


def _replace(tree: Any, placed: Callable[[Const], Any]) -> Any:
    if isinstance(tree, Const):
        return placed(tree)
    if isinstance(tree, (list, tuple)):
        return type(tree)(_replace(item, placed) for item in tree)
    if isinstance(tree, dict):
        return {key: _replace(item, placed) for key, item in tree.items()}
    return tree


def _consts(tree: Any) -> list[Const]:
    if isinstance(tree, Const):
        return [tree]
    if isinstance(tree, dict):
        tree = tuple(tree.values())
    return [found for item in tree for found in _consts(item)] if isinstance(tree, (list, tuple)) else []


def _fold(function: Callable[..., Any], args: Any, kwargs: Any) -> tuple[Const, ...] | None:
    """The results of calling now; None if they are too large to keep, or the call fails.

    What fails here may be in a branch that is never taken, so it is left to fail when the engine runs.
    """
    storages = {const.tensor.untyped_storage().data_ptr() for const in _consts((args, kwargs))}
    try:
        with torch.no_grad():
            results = function(
                *_replace(args, lambda const: const.tensor), **_replace(kwargs, lambda const: const.tensor)
            )
    except (RuntimeError, ArithmeticError, IndexError, TrtcoreError):
        return None
    if isinstance(results, torch.Tensor):
        results = (results,)
    size = sum(x.numel() for x in results if x.untyped_storage().data_ptr() not in storages)
    return tuple(Const(x) for x in results) if size <= FOLD_LIMIT else None
