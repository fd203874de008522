"""What an op costs, estimated from shapes at their opt sizes: bytes moved, and floating-point operations."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import sympy
import torch
from torch.fx import Node
from torch.utils import _pytree as pytree

from trtcore.ir.graphs import is_random, is_size
from trtcore.ir.symbols import expression_of

if TYPE_CHECKING:
    from trtcore.ir.program import SymbolRange

_MOST_COUNTED = 500
"""Different ops whose operations are counted in one report: each takes a millisecond."""


class Costs:
    """Costs of a graph's nodes.

    Args:
        ranges: of the symbols in its shapes.
    """

    def __init__(self, ranges: Mapping[str, SymbolRange]) -> None:
        self._opt = {name: one.opt for name, one in ranges.items()}
        self._sizes: dict[Any, int | None] = {}
        self._flops: dict[Any, int | None] = {}

    def moved(self, node: Node) -> int | None:
        """Bytes that the node reads and writes; 0 for a view, None where a size is unknown."""
        if _is_view(node.target):
            return 0
        total = 0
        for value in (node.meta.get("val"), *(one.meta.get("val") for one in node.all_input_nodes)):
            for tensor in _tensors(value):
                shape = self._shape(tensor)
                if shape is None:
                    return None
                total += math.prod(shape) * tensor.element_size()
        return total

    def flops(self, node: Node) -> int | None:
        """Floating-point operations as torch counts them, 0 where it has no formula; None where it cannot run the op.

        The op is run on meta tensors, so nothing is computed.
        """
        target = node.target
        if not isinstance(target, torch._ops.OpOverload) or target.namespace != "aten" or is_random(node):
            return None
        arguments = self._on_meta(node.args), self._on_meta(node.kwargs)
        if any(one is None for one in arguments):
            return None
        key = target, str(arguments)
        if key not in self._flops:
            self._flops[key] = _counted(target, *arguments) if len(self._flops) < _MOST_COUNTED else None
        return self._flops[key]

    def _shape(self, tensor: torch.Tensor) -> tuple[int, ...] | None:
        sizes = [self._size(dim) for dim in tensor.shape]
        return None if None in sizes else tuple(size for size in sizes if size is not None)

    def _size(self, dim: Any) -> int | None:
        expression = expression_of(dim)
        if isinstance(expression, int):
            return expression
        if expression not in self._sizes:
            self._sizes[expression] = self._at_opt(expression)
        return self._sizes[expression]

    def _at_opt(self, expression: sympy.Expr) -> int | None:
        if any(symbol.name not in self._opt for symbol in expression.free_symbols):
            return None
        value = expression.xreplace(
            {symbol: sympy.Integer(self._opt[symbol.name]) for symbol in expression.free_symbols}
        )
        return int(value) if value.is_Integer else None

    def _on_meta(self, arguments: Any) -> Any:
        """Arguments with meta tensors for nodes and ints for sizes; None where one is unknown."""
        unknown = False

        def value_of(item: Any) -> Any:
            nonlocal unknown
            if not isinstance(item, Node):
                return item
            value = item.meta.get("val")
            if is_size(item):
                found: Any = self._size(value) if isinstance(value, torch.SymInt) else None
            elif isinstance(value, torch.Tensor):
                shape = self._shape(value)
                found = None if shape is None else torch.empty(shape, dtype=value.dtype, device="meta")
            else:
                found = None
            unknown = unknown or found is None
            return found

        made = pytree.tree_map(value_of, arguments, is_leaf=lambda item: isinstance(item, Node))
        return None if unknown else made


def _counted(target: torch._ops.OpOverload, args: Any, kwargs: Any) -> int | None:
    from torch.utils.flop_counter import FlopCounterMode

    counter = FlopCounterMode(display=False)
    try:
        with torch.no_grad(), counter:
            target(*args, **kwargs)
    except Exception:  # an op without a meta implementation, or one that reads data
        return None
    return int(counter.get_total_flops())


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    for item in value if isinstance(value, (list, tuple)) else (value,):
        if isinstance(item, torch.Tensor):
            yield item


def _is_view(target: Any) -> bool:
    """Whether an op's results are its inputs' memory, by its schema."""
    if not isinstance(target, torch._ops.OpOverload):
        return False
    returned = [one.alias_info for one in target._schema.returns]
    return bool(returned) and all(info is not None and not info.is_write for info in returned)
