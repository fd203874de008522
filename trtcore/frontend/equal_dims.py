"""Which dynamic sizes the model needs to be equal, found by asking the model.

torch.export unifies sizes when an operator's shape rule compares them; some rules do not (attention takes a
mask of any batch size), and the captured graph then promises more than the model does. Sizes that were asked
for with the same min, opt and max are therefore tried unequal: when the model fails on that, and works when
they change together, they are tied. On a GPU nothing is tried, see `_same_dims`.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch

from trtcore.frontend.quiet import can_run, run
from trtcore.ir.inputs import DimRange, Input, InputTree, profile_count, profile_dims_at

Place = tuple[int, int]
"""Index of a flattened input, and a dimension of it."""


def find_ties(
    model: torch.nn.Module, tree: InputTree, examples: Sequence[Any]
) -> tuple[tuple[Place, ...], ...]:
    """Groups of places that must have one size.

    Args:
        model: run a few times at its smallest sizes, on copies of its buffers.
        tree, examples: as given and as tensors, in the same order.
    """
    found: dict[tuple[DimRange, ...], list[Place]] = defaultdict(list)
    count = profile_count(tree.leaves, tree.names)
    for index, leaf in enumerate(tree.leaves):
        if isinstance(leaf, Input):
            for dim, size in enumerate(leaf.dims):
                if size.dynamic and size.max > 2:
                    asked = tuple(profile_dims_at(leaf, profile)[dim] for profile in range(count))
                    found[asked].append((index, dim))
    groups = [places for places in found.values() if len(places) > 1]
    if not groups:
        return ()
    if any(isinstance(example, torch.Tensor) and example.is_cuda for example in examples):
        return tuple(tie for places in groups for tie in _same_dims(places))
    if not can_run(model):
        return ()
    works = _trial(model, tree, examples)
    if works is None:
        return ()
    return tuple(tie for places in groups for tie in _ties_in(places, works))


def _same_dims(places: Sequence[Place]) -> Iterable[tuple[Place, ...]]:
    """Places of one dimension index in several inputs: batch with batch, length with length.

    What stands in for trying on a GPU, where an index out of range does not raise but ends the CUDA context. Two
    inputs that may differ there need different ranges.
    """
    by_dim: dict[int, list[Place]] = defaultdict(list)
    for index, dim in places:
        by_dim[dim].append((index, dim))
    return [tuple(tie) for tie in by_dim.values() if len(tie) > 1]


Trial = Callable[[Iterable[Place]], bool]


def _trial(model: torch.nn.Module, tree: InputTree, examples: Sequence[Any]) -> Trial | None:
    """A function that says whether the model runs with these places changed; None if it never runs."""
    for base in (_smallest, _usual):
        tried: dict[frozenset[Place], bool] = {}

        def works(
            changed: Iterable[Place],
            base: Callable[[DimRange], int] = base,
            tried: dict[frozenset[Place], bool] = tried,
        ) -> bool:
            places = frozenset(changed)
            if places in tried:
                return tried[places]
            leaves = list(examples)
            for index, leaf in enumerate(tree.leaves):
                if isinstance(leaf, Input) and leaf.is_dynamic:
                    sizes = [
                        _other(base(d), d) if (index, i) in places else base(d)
                        for i, d in enumerate(leaf.dims)
                    ]
                    leaves[index] = leaf.example_tensor(sizes, device=examples[index].device)
            try:
                run(model, *tree.unflatten(leaves))
            except Exception:
                tried[places] = False
            else:
                tried[places] = True
            return tried[places]

        if works(()):
            return works
    return None


def _ties_in(places: Sequence[Place], works: Trial) -> Iterable[tuple[Place, ...]]:
    """Tie what fails to change alone to the smallest set that can change with it."""
    if not works(places):
        return
    left = list(places)
    while left:
        first, *others = left
        tie: tuple[Place, ...] = (first,)
        for count in (0, 1, len(others)):
            found = next((c for c in itertools.combinations(others, count) if works((first, *c))), None)
            if found is not None:
                tie = (first, *found)
                break
        if len(tie) > 1:
            yield tie
        left = [place for place in left if place not in tie]


def _smallest(dim: DimRange) -> int:
    return max(dim.min, 2) if dim.dynamic else dim.opt


def _usual(dim: DimRange) -> int:
    return max(dim.opt, 2) if dim.dynamic else dim.opt


def _other(size: int, dim: DimRange) -> int:
    return size + 1 if size < dim.max else size - 1


def tie_hook(ties: Sequence[Sequence[Place]]) -> Callable[..., None]:
    """A forward pre-hook under which a trace learns that the tied sizes are equal."""
    from torch.utils import _pytree as pytree

    def hook(_module: torch.nn.Module, args: Any, kwargs: Any) -> None:
        leaves = pytree.tree_leaves((args, kwargs))
        for (index, dim), *others in ties:
            for other_index, other_dim in others:
                # A comparison of two SymInts is a guard, and a guard for equality unifies them.
                if leaves[index].shape[dim] != leaves[other_index].shape[other_dim]:
                    raise AssertionError("tied sizes differ")

    return hook
