"""Steps of a token, on memory that stays where it is; on a GPU each number of texts is one CUDA graph."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from trtcore import Input
from trtcore_contrib_llm.held_cache import HeldCache
from trtcore_contrib_llm.stepping import LayerShape

if TYPE_CHECKING:
    from trtcore_contrib_llm.generator import Sizes


def examples(
    sizes: Sizes,
    shapes: tuple[LayerShape, ...],
    dtype: torch.dtype,
    device: torch.device,
    length: int | None,
) -> list[Any]:
    """What a `Step` is compiled for: any number of texts; prompts of any length, or `length` tokens."""
    # torch.export takes a size of 1 or 2 for one of exactly 2, and then knows of no two dims that they are one.
    most = sizes.max_batch if sizes.max_batch != 2 else 3
    batch = (1, sizes.opt_batch, most)
    tokens = (2, sizes.opt_prompt, max(sizes.max_prompt, 4)) if length is None else (length,) * 3

    def ranged(dtype: torch.dtype, *dims: int | tuple[int, ...]) -> Input:
        least, usual, most = zip(*(dim if isinstance(dim, tuple) else (dim,) * 3 for dim in dims))
        return Input(min_shape=least, opt_shape=usual, max_shape=most, dtype=dtype, device=device)

    return [
        ranged(torch.int64, batch, tokens),
        ranged(torch.int64, batch, tokens),
        ranged(torch.int64, batch, sizes.max_length),
        Input((1,), dtype=torch.int64, device=device),
        [ranged(dtype, batch, one.heads, sizes.max_length, one.keys) for one in shapes],
        [ranged(dtype, batch, one.heads, sizes.max_length, one.values) for one in shapes],
    ]


class Decoder:
    """Calls the engine of steps.

    Args:
        module: the compiled step of one token.
        held: the cache.
        writes: whether the engine leaves the cache as it is, so that its results are to be written there.
        more: the engine's further arguments for a number of texts, which stay where they are.

    Attributes:
        graphs: whether steps on a GPU are recorded, once for each number of texts, and replayed.
    """

    def __init__(
        self,
        module: torch.fx.GraphModule,
        held: HeldCache,
        writes: bool,
        more: Callable[[int], list[Any]] = lambda rows: [],
    ) -> None:
        self._module, self._held, self._writes = module, held, writes
        self._more = more
        rows, device = held.mask.shape[0], held.mask.device
        self.graphs = device.type == "cuda"
        self._tokens = torch.zeros(rows, 1, dtype=torch.int64, device=device)
        self._positions = torch.zeros_like(self._tokens)
        self._start = torch.zeros(1, dtype=torch.int64, device=device)
        self._arguments: dict[int, list[Any]] = {}
        self._recorded: dict[int, tuple[torch.cuda.CUDAGraph, Tensor]] = {}

    def __call__(self, tokens: Tensor, positions: Tensor, start: int) -> Tensor:
        """A step.

        Args:
            tokens, positions: (batch, 1) int64.
            start: where in the cache the tokens go.

        Returns:
            logits (batch, vocabulary).
        """
        rows = len(tokens)
        self._tokens[:rows].copy_(tokens)
        self._positions[:rows].copy_(positions)
        self._start.fill_(start)
        if not self.graphs:
            return self._step(rows)
        graph, result = self._recorded.get(rows) or self._record(rows)
        graph.replay()
        return result.clone()

    def _step(self, rows: int) -> Tensor:
        results = self._module(*self._of(rows))
        if not self._writes:
            return results
        logits, keys, values = results
        self._held.write(self._start, keys, values)
        return logits

    def _of(self, rows: int) -> list[Any]:
        """The arguments for so many texts: views of what stays where it is."""
        known = self._arguments.get(rows)
        if known is None:
            held = self._held
            known = self._arguments[rows] = [
                self._tokens[:rows],
                self._positions[:rows],
                held.mask[:rows],
                self._start,
                [one[:rows] for one in held.keys],
                [one[:rows] for one in held.values],
                *self._more(rows),
            ]
        return known

    def _record(self, rows: int) -> tuple[torch.cuda.CUDAGraph, Tensor]:
        """Record a step. The step before it, and every replay, writes to the same places of the cache the same."""
        beside = torch.cuda.Stream(self._start.device)
        beside.wait_stream(torch.cuda.current_stream(self._start.device))
        with torch.cuda.stream(beside):
            for _ in range(2):
                self._step(rows)
        torch.cuda.current_stream(self._start.device).wait_stream(beside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            result = self._step(rows)
        self._recorded[rows] = graph, result
        return graph, result
