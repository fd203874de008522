"""Between which numbers a tensor's elements lie, where the graph alone says so: masks, tables, constants."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import torch
from torch import fx

from trtcore.pack import node_arguments
from trtcore_converters.passes._graph import tensor_of

aten = torch.ops.aten

Range: TypeAlias = tuple[float, float]


class Bounds:
    """The ranges of a graph's tensors, worked out once each.

    Args:
        known: the constants of the graph.
    """

    def __init__(self, known: Mapping[fx.Node, torch.Tensor]) -> None:
        self._known = known
        self._memo: dict[fx.Node, Range | None] = {}

    def of(self, value: Any) -> Range | None:
        """(least, largest) of a node or number, rounded as its dtype rounds; None where nothing is known."""
        if isinstance(value, (bool, int, float)):
            return (float(value), float(value)) if value == value else None
        if not isinstance(value, fx.Node):
            return None
        stack = [value]
        while stack:  # without recursion: chains of nodes may be long
            node = stack[-1]
            waiting = [source for source in self._sources(node) if source not in self._memo]
            if node not in self._memo and waiting:
                stack.extend(waiting)
                continue
            if node not in self._memo:
                self._memo[node] = self._rounded(node, self._range(node))
            stack.pop()
        return self._memo[value]

    def _sources(self, node: fx.Node) -> list[fx.Node]:
        return node.all_input_nodes if node.target in _RULES and node not in self._known else []

    def _range(self, node: fx.Node) -> Range | None:
        if node in self._known:
            return _extent(self._known[node])
        traced = tensor_of(node)
        if traced is not None and traced.dtype == torch.bool:
            return (0.0, 1.0)
        rule = _RULES.get(node.target) if node.op == "call_function" else None
        if rule is None:
            return None
        given = node_arguments(node)
        found = [self._memo.get(v) if isinstance(v, fx.Node) else v for v in given.values()]
        return rule(dict(zip(given, (self._as_range(v) for v in found))))

    def _as_range(self, value: Any) -> Any:
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        return (float(value), float(value)) if number else value

    def _rounded(self, node: fx.Node, found: Range | None) -> Range | None:
        traced = tensor_of(node)
        if found is None or traced is None or any(bound != bound for bound in found):
            return None
        if not traced.is_floating_point():
            return found
        low, high = (float(torch.tensor(b, dtype=torch.float64).to(traced.dtype)) for b in found)
        return (low, high)


def is_finite(found: Range | None) -> bool:
    """Whether a range is known and holds no infinity."""
    return found is not None and all(math.isfinite(bound) for bound in found)


def _extent(tensor: torch.Tensor) -> Range | None:
    if tensor.is_complex() or not tensor.numel() or tensor.is_quantized or tensor.dtype.itemsize < 1:
        return None
    if tensor.is_floating_point() and tensor.dtype.itemsize == 1:
        return None  # fp8: no minimum on every torch
    low, high = (float(bound) for bound in torch.aminmax(tensor.detach()))
    return (low, high) if low == low and high == high else None


def _same(given: dict[str, Any]) -> Range | None:
    return given.get("self") or given.get("input")


def _union(*names: str) -> Callable[[dict[str, Any]], Range | None]:
    def rule(given: dict[str, Any]) -> Range | None:
        ranges = [given[name] for name in names]
        if any(r is None for r in ranges):
            return None
        return (min(low for low, _ in ranges), max(high for _, high in ranges))

    return rule


def _with_zero(given: dict[str, Any]) -> Range | None:
    found = given["self"]
    return None if found is None else (min(found[0], 0.0), max(found[1], 0.0))


def _constant(value: float) -> Callable[[dict[str, Any]], Range | None]:
    return lambda given: (value, value)


def _filled(given: dict[str, Any]) -> Range | None:
    return given["fill_value"]  # type: ignore[no-any-return]


def _sum(given: dict[str, Any], sign: float = 1.0, swapped: bool = False) -> Range | None:
    a, b = given["self"], given["other"]
    alpha = given["alpha"]
    if a is None or b is None or alpha is None or alpha[0] != alpha[1]:
        return None
    a, b = (b, a) if swapped else (a, b)
    ends = sorted(sign * alpha[0] * end for end in b)
    return (a[0] + ends[0], a[1] + ends[1])


def _product(given: dict[str, Any]) -> Range | None:
    a, b = given["self"], given["other"]
    if a is None or b is None:
        return None
    ends = [x * y for x in a for y in b]
    return None if any(end != end for end in ends) else (min(ends), max(ends))


def _negative(given: dict[str, Any]) -> Range | None:
    found = given["self"]
    return None if found is None else (-found[1], -found[0])


_RULES: Mapping[Any, Callable[[dict[str, Any]], Range | None]] = {
    **dict.fromkeys(
        (
            aten.expand.default, aten.view.default, aten.reshape.default, aten.unsqueeze.default,
            aten.squeeze.dim, aten.slice.Tensor, aten.select.int, aten.transpose.int, aten.permute.default,
            aten.t.default, aten.clone.default, aten.contiguous.default, aten.alias.default,
            aten.to.dtype, aten.to.dtype_layout, aten._to_copy.default, aten.type_as.default, aten.repeat.default,
        ),
        _same,
    ),
    aten.embedding.default: lambda given: given["weight"],
    aten.where.self: _union("self", "other"),
    aten.where.ScalarSelf: _union("self", "other"),
    aten.where.ScalarOther: _union("self", "other"),
    aten.where.Scalar: _union("self", "other"),
    aten.masked_fill.Scalar: _union("self", "value"),
    aten.masked_fill.Tensor: _union("self", "value"),
    aten.triu.default: _with_zero,
    aten.tril.default: _with_zero,
    aten.full.default: _filled,
    aten.full_like.default: _filled,
    aten.new_full.default: _filled,
    aten.zeros.default: _constant(0.0),
    aten.zeros_like.default: _constant(0.0),
    aten.new_zeros.default: _constant(0.0),
    aten.ones.default: _constant(1.0),
    aten.ones_like.default: _constant(1.0),
    aten.add.Tensor: _sum,
    aten.add.Scalar: _sum,
    aten.sub.Tensor: lambda given: _sum(given, -1.0),
    aten.rsub.Scalar: lambda given: _sum(given, -1.0, swapped=True),
    aten.mul.Tensor: _product,
    aten.mul.Scalar: _product,
    aten.neg.default: _negative,
}  # fmt: skip
"""How an op's range follows from its arguments' ranges."""
