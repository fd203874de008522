"""One call of a language model of transformers on a static cache, as a module of plain tensors that can be traced.

This module and those that import it need transformers; the rest of the pack does not.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Cache
from transformers.cache_utils import CacheLayerMixin


@dataclass(frozen=True)
class LayerShape:
    """What one layer of a model keeps for each token.

    Attributes:
        heads: heads of keys and values.
        keys, values: sizes of a head's key and of its value.
    """

    heads: int
    keys: int
    values: int


class _SeenLayer(CacheLayerMixin):
    """A cache's layer that keeps nothing, and notes what it is given."""

    is_sliding = False

    def __init__(self) -> None:
        super().__init__()
        self.shape: LayerShape | None = None
        self.dtype: torch.dtype | None = None

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        if self.shape is not None:
            raise ValueError("a layer writes to the cache twice in one call")
        _, heads, _, size = key_states.shape
        self.shape = LayerShape(int(heads), int(size), int(value_states.shape[-1]))
        self.dtype = key_states.dtype
        return key_states, value_states

    def get_mask_sizes(self, query_length: Any, *args: Any) -> tuple[int, int]:
        return int(getattr(query_length, "shape", (query_length,))[0]), 0

    def get_seq_length(self, *args: Any) -> int:
        return 0

    def get_max_length(self) -> int:
        return -1

    def get_max_cache_shape(self) -> int:
        return -1


class _TracedLayer(CacheLayerMixin):
    """A cache's layer on tensors that are given, written to in place from a place on that is a tensor."""

    is_sliding = False  # windows are in the mask; the cache has room for all tokens
    is_compileable = True

    def __init__(self, keys: Tensor, values: Tensor, start: Tensor) -> None:
        super().__init__()
        self.keys, self.values, self.start = keys, values, start
        self.is_initialized = True

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Nothing is to be made."""

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        places = torch.arange(key_states.shape[-2], device=key_states.device) + self.start
        self.keys.index_copy_(2, places, key_states)
        self.values.index_copy_(2, places, value_states)
        return self.keys, self.values

    def get_mask_sizes(self, query_length: Any, *args: Any) -> tuple[int, int]:
        return self.keys.shape[2], 0

    def get_seq_length(self, *args: Any) -> Any:
        return self.start

    def get_max_length(self) -> int:
        return self.keys.shape[2]

    def get_max_cache_shape(self) -> int:
        return self.keys.shape[2]


def cache_argument(model: nn.Module) -> str | None:
    """The name under which a model's forward takes its cache; None where it takes none."""
    taken = inspect.signature(model.forward).parameters
    return next((name for name in ("cache", "past_key_values") if name in taken), None)


def shapes_of(model: nn.Module, layers: int, **inputs: Tensor) -> tuple[tuple[LayerShape, ...], torch.dtype]:
    """What each layer of a model keeps, and the dtype: seen in a call of the model.

    Raises:
        ValueError: the model does something else to its cache than to write keys and values, once for each layer.
    """
    seen = [_SeenLayer() for _ in range(layers)]
    with torch.no_grad():
        model(**inputs, **{str(cache_argument(model)): Cache(layers=seen)}, use_cache=True)
    if any(layer.shape is None for layer in seen):
        count = sum(layer.shape is None for layer in seen)
        raise ValueError(f"{count} of {layers} layers write nothing to the cache")
    (dtype,) = {layer.dtype for layer in seen}
    return tuple(layer.shape for layer in seen if layer.shape is not None), dtype


class Step(nn.Module):
    """A causal language model on a static cache: tokens in, the logits behind the last one out.

    Args:
        model: the model, in eval mode.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        taken = inspect.signature(model.forward).parameters
        self._cache = str(cache_argument(model))
        self._positions = "position_ids" in taken
        self._keeps = "logits_to_keep" in taken

    def forward(
        self,
        input_ids: Tensor,
        position_ids: Tensor,
        attention_mask: Tensor,
        start: Tensor,
        keys: list[Tensor],
        values: list[Tensor],
    ) -> Tensor:
        """One call.

        Args:
            input_ids: (batch, length) int64.
            position_ids: (batch, length) int64, places in each text: padding does not count.
            attention_mask: (batch, capacity) int64, 0 where the cache holds padding.
            start: (1,) int64, where in the cache the first of the tokens goes.
            keys, values: for each layer (batch, heads, capacity, size); written to in place.

        Returns:
            (batch, vocabulary), logits of the token that follows.
        """
        layers = [_TracedLayer(key, value, start) for key, value in zip(keys, values)]
        named: dict[str, Any] = {self._cache: Cache(layers=layers)}
        if self._positions:
            named["position_ids"] = position_ids
        if self._keeps:
            named["logits_to_keep"] = 1
        result = self.model(input_ids=input_ids, attention_mask=attention_mask, use_cache=True, **named)
        logits: Tensor = result.logits
        return logits[:, -1]
