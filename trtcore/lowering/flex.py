"""``flex_attention`` as attention with a mask, where its functions mean that, and else as products and a softmax.

A score function that adds to the scores, or keeps them under a condition, is a mask that can be made once for all
scores: ``score + (h + 1) * (k - q)``, ``where(q >= k, score, -inf)``. So is every mask function. Other score functions
are applied to the scores themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.fx import Graph, GraphModule, Node

from trtcore.ir.graphs import attribute

_DIMS = 4
"""batch, head, query and key: what the functions are given the index of."""


def flex_attention(
    run: Callable[..., Any],
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    score_function: GraphModule,
    block_mask: Sequence[Any],
    scale: float,
    _options: Any,
    score_values: Sequence[Any] = (),
    mask_values: Sequence[Any] = (),
    *,
    needs_scores: bool = False,
) -> tuple[Any, Any, Any]:
    """What ``torch.ops.higher_order.flex_attention`` returns: the result, and per row the logarithm to base 2 of the
    sum of exponentials, and the largest score. The latter two are None unless `needs_scores`.

    Args:
        run: runs a graph on values; also an op, of which it knows whether it stays whole.
        query, key, value: (batch, heads, length, size).
        score_function: of a score, four indices and `score_values`.
        block_mask: blocks, and as its last item the function of four indices and `mask_values`. The blocks say nothing
            that the function does not.
    """
    if torch.is_autocast_enabled(query.device.type):
        dtype = torch.get_autocast_dtype(query.device.type)
        query, key, value = (t.to(dtype) if t.is_floating_point() else t for t in (query, key, value))
    if key.shape[0] == 1 and query.shape[0] != 1:
        key, value = (t.expand(query.shape[0], -1, -1, -1) for t in (key, value))
    grid = _Grid(run, query, key)
    allowed = grid.mask(block_mask[-1], mask_values)
    added = added_to_scores(score_function)
    if needs_scores or added is None or (added.terms and query.dtype in (torch.float16, torch.bfloat16)):
        return _by_scores(grid, query, key, value, score_function, allowed, scale, score_values)
    mask = grid.additive(score_function, added, allowed, score_values, query.dtype)
    result = run(
        torch.ops.aten.scaled_dot_product_attention.default,
        *(query, key, value, mask, 0.0, False),
        scale=scale,
        enable_gqa=query.shape[1] != key.shape[1],
    )
    return result, None, None


def needs_scores(node: Node) -> bool:
    """Whether anything reads more of a ``flex_attention`` than its result."""
    return any(user.args[1] != 0 and user.users for user in node.users)


# ---- what a score function means ---------------------------------------------------------------------------


@dataclass
class Added:
    """What a score function does to a score, where it only adds to it and masks it.

    Attributes:
        terms: (node, sign) of what is added.
        conditions: nodes that are true where the score stays; elsewhere it is minus infinity.
    """

    terms: list[tuple[Node, int]] = field(default_factory=list)
    conditions: list[Node] = field(default_factory=list)


_ADD = {"add": 1, "sub": -1}
_CALLS = ("call_function", "call_method")


def added_to_scores(function: GraphModule) -> Added | None:
    """The mask that a score function amounts to; None where it is more than a mask."""
    score = next(iter(function.graph.find_nodes(op="placeholder")))
    (result,) = function.graph.output_node().all_input_nodes or (None,)
    found = Added()
    moving = _reached_from(score)
    node = result
    while node is not score:
        if not isinstance(node, Node) or node.op not in _CALLS or node not in moving:
            return None
        node = _one_step(node, moving, found, function)
    return found


def _one_step(node: Node, moving: set[Node], found: Added, function: GraphModule) -> Node | None:
    """The node below one that adds or masks, with that noted; None for another."""
    name, args = _name(node.target), node.args
    if name in _ADD and len(args) == 2 and not node.kwargs:
        left, right = args
        if not isinstance(left, Node) or left not in moving:
            left, right = (right, left) if name == "add" else (None, None)
        if isinstance(right, Node) and right not in moving:
            found.terms.append((right, _ADD[name]))
        elif not isinstance(right, (int, float)):  # a number changes no softmax
            return None
        return left if isinstance(left, Node) else None
    if name == "where" and len(args) == 3:
        condition, kept, other = args
        if isinstance(condition, Node) and condition not in moving and _is_minus_infinity(other, function):
            found.conditions.append(condition)
            return kept if isinstance(kept, Node) else None
    return None


def _name(target: Any) -> str:
    """``add`` for ``aten.add.Tensor``, ``torch.add``, ``operator.add`` and the method."""
    schema = getattr(target, "_schema", None)
    if schema is not None:
        return str(schema.name).partition("::")[2]
    return target if isinstance(target, str) else str(getattr(target, "__name__", ""))


def _is_minus_infinity(value: Any, function: GraphModule) -> bool:
    if isinstance(value, float):
        return value == -float("inf")
    if not isinstance(value, Node):
        return False
    if value.op == "get_attr":
        constant = attribute(function, str(value.target))
        return (
            isinstance(constant, torch.Tensor) and constant.numel() == 1 and bool(constant == -float("inf"))
        )
    if _name(value.target) in ("full", "scalar_tensor", "full_like", "new_full", "tensor"):
        return any(number == -float("inf") for number in value.args if isinstance(number, float))
    if _name(value.target) in (
        "lift_fresh_copy",
        "lift_fresh",
        "detach",
        "detach_",
        "to",
        "_to_copy",
        "clone",
    ):
        return _is_minus_infinity(value.args[0], function)
    return False


def _reached_from(start: Node) -> set[Node]:
    """A node and all that depends on it."""
    found = {start}
    for node in start.graph.nodes:
        if not found.isdisjoint(node.all_input_nodes):
            found.add(node)
    return found


# ---- functions of indices, for all indices -----------------------------------------------------------------


class _Grid:
    """All indices of the scores of one attention, and the functions of them."""

    def __init__(self, run: Callable[..., Any], query: torch.Tensor, key: torch.Tensor) -> None:
        sizes = (query.shape[0], query.shape[1], query.shape[2], key.shape[2])
        self.indices = [torch.arange(size, device=query.device) for size in sizes]
        self.run = run

    def mask(self, function: Any, values: Sequence[Any]) -> torch.Tensor | None:
        """A mask function as a tensor that broadcasts to the scores; None where it allows all."""
        (result,) = function.graph.output_node().all_input_nodes
        if _name(result.target) in ("new_ones", "ones"):
            return None
        return self._of_indices(function, result, values, skipped=0)

    def additive(
        self, function: GraphModule, added: Added, allowed: Any, values: Sequence[Any], dtype: torch.dtype
    ) -> torch.Tensor | None:
        """What is added to the scores, or where they stay, as attention takes it."""
        for node in added.conditions:
            condition = self._of_indices(function, node, values, skipped=1)
            allowed = condition if allowed is None else allowed & condition
        total: Any = None
        for node, sign in added.terms:
            term = self._of_indices(function, node, values, skipped=1).to(dtype) * sign
            total = term if total is None else total + term
        if total is not None and allowed is not None:
            return torch.where(allowed, total, -float("inf"))
        return allowed if total is None else total  # type: ignore[no-any-return]

    def scores(self, function: GraphModule, scores: torch.Tensor, values: Sequence[Any]) -> torch.Tensor:
        """A score function applied to all scores."""
        applied: Any = lambda *arguments: self.run(function, *arguments, *values)  # noqa: E731
        for dim in reversed(range(_DIMS)):
            in_dims = (0, *(0 if index == dim else None for index in range(_DIMS)))
            applied = torch.vmap(applied, in_dims=in_dims)
        return applied(scores, *self.indices)  # type: ignore[no-any-return]

    def _of_indices(self, function: Any, node: Node, values: Sequence[Any], skipped: int) -> torch.Tensor:
        """One node of a function that depends on indices alone, as a tensor of four dims; of size 1 where it does not
        depend on that index.

        Args:
            skipped: how many arguments of the function come before the indices.
        """
        body, used = _only(function, node, skipped)
        applied: Any = lambda *indices: self.run(body, *indices, *values)  # noqa: E731
        for dim in reversed(range(_DIMS)):
            if used[dim]:
                in_dims = tuple(0 if index == dim else None for index in range(_DIMS))
                applied = torch.vmap(applied, in_dims=in_dims)
        first = [index if one else index[0] for index, one in zip(self.indices, used)]
        result = applied(*first)
        for dim in range(_DIMS):
            if not used[dim]:
                result = result.unsqueeze(dim)
        return result  # type: ignore[no-any-return]


def _only(function: GraphModule, node: Node, skipped: int) -> tuple[GraphModule, list[bool]]:
    """The part of a function that computes one node of it, as a function of the indices and of the values that come
    with it; and which of the indices it depends on."""
    graph = Graph()
    copied: dict[Node, Node] = {}
    placeholders = function.graph.find_nodes(op="placeholder")
    for placeholder in placeholders[skipped:]:
        copied[placeholder] = graph.node_copy(placeholder)
    needed = _needed(node)
    for one in function.graph.nodes:
        if one in needed and one.op != "placeholder":
            copied[one] = graph.node_copy(one, copied.__getitem__)
    graph.output(copied[node])
    used = [placeholder in needed for placeholder in placeholders[skipped : skipped + _DIMS]]
    return GraphModule(function, graph), used


def _needed(node: Node) -> set[Node]:
    found, left = {node}, [node]
    while left:
        for source in left.pop().all_input_nodes:
            if source not in found:
                found.add(source)
                left.append(source)
    return found


# ---- by hand -----------------------------------------------------------------------------------------------


def _by_scores(
    grid: _Grid,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    function: GraphModule,
    allowed: torch.Tensor | None,
    scale: float,
    values: Sequence[Any],
) -> tuple[Any, Any, Any]:
    """Products and a softmax in float32, as torch has it where no kernel is made for the functions."""
    if query.shape[1] != key.shape[1]:
        repeat = query.shape[1] // key.shape[1]
        key, value = (t.repeat_interleave(repeat, dim=1) for t in (key, value))
    working = torch.float64 if query.dtype == torch.float64 else torch.float32
    scores = (query.to(working) @ key.to(working).transpose(-2, -1)) * scale
    scores = grid.scores(function, scores, values).to(working)
    if allowed is not None:
        scores = torch.where(allowed, scores, -float("inf"))
    dead = (scores == -float("inf")).all(-1)
    weights = torch.where(dead.unsqueeze(-1), 0.0, scores.softmax(-1))
    sums = torch.where(dead, -float("inf"), scores.logsumexp(-1))
    to_base_2 = 1.4426950408889634  # 1 / ln 2
    return weights.to(query.dtype) @ value, sums * to_base_2, scores.amax(-1) * to_base_2
