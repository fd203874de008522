"""One call of a language model of transformers on a static cache, as a module of plain tensors that can be traced.

This module and those that import it need transformers; the rest of the pack does not.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Cache
from transformers.cache_utils import CacheLayerMixin
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS


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


class TracedLayer(CacheLayerMixin):
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
        reads_only: a step of one token that leaves the cache as it is, and gives the token's keys and values instead:
            whoever calls it writes these few numbers, and nobody copies a cache. For models that compute their
            attention by transformers' interface (`has_attention_interface`).
    """

    def __init__(self, model: nn.Module, *, reads_only: bool = False) -> None:
        super().__init__()
        self.model = model
        self.reads_only = reads_only
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
    ) -> Any:
        """One call.

        Args:
            input_ids: (batch, length) int64.
            position_ids: (batch, length) int64, places in each text: padding does not count.
            attention_mask: (batch, capacity) int64, 0 where the cache holds padding.
            start: (1,) int64, where in the cache the first of the tokens goes.
            keys, values: for each layer (batch, heads, capacity, size); written to in place, if at all.

        Returns:
            (batch, vocabulary), logits of the token that follows. With `reads_only` (logits, keys, values), where
            keys and values are of the token, for each layer (batch, heads, 1, size).
        """
        kind = _ReadLayer if self.reads_only else TracedLayer
        layers = [kind(key, value, start) for key, value in zip(keys, values)]
        named: dict[str, Any] = {self._cache: Cache(layers=layers)}
        if self._positions:
            named["position_ids"] = position_ids
        if self._keeps:
            named["logits_to_keep"] = 1
        with attending_to(self.model, layers) if self.reads_only else nullcontext():
            result = self.model(input_ids=input_ids, attention_mask=attention_mask, use_cache=True, **named)
        logits: Tensor = result.logits[:, -1]
        if not self.reads_only:
            return logits
        return logits, [layer.new[0] for layer in layers], [layer.new[1] for layer in layers]


class _ReadLayer(TracedLayer):
    """A cache's layer that is read and not written to: attention looks at the new keys and values beside it."""

    new: tuple[Tensor, Tensor]
    attended = False

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        self.new = key_states, value_states
        return key_states, value_states


_NAME = "trtcore_llm"
_tracing = threading.RLock()  # one call is traced at a time
_layers: list[_ReadLayer] = []  # of that call
_biases: dict[int, tuple[Tensor, Tensor]] = {}  # the mask's id -> (the mask, what is added to scores)


@contextmanager
def attending_to(model: Any, layers: Sequence[_ReadLayer]) -> Iterator[None]:
    """The model's attention is `attend`, over these layers."""
    ALL_ATTENTION_FUNCTIONS.register(_NAME, attend)
    ALL_MASK_ATTENTION_FUNCTIONS.register(_NAME, ALL_MASK_ATTENTION_FUNCTIONS["sdpa"])
    with _tracing:
        configs = {id(one.config): one.config for one in model.modules() if hasattr(one, "config")}.values()
        before = [(config, config._attn_implementation) for config in configs]
        _layers[:] = layers
        try:
            for config in configs:
                config._attn_implementation = _NAME
            yield
            left = sum(not one.attended for one in layers)
        finally:
            for config, name in before:
                config._attn_implementation = name
            _layers.clear()
            _biases.clear()
    if left:
        raise ValueError(f"{left} layers do not attend by transformers' interface")


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **more: Any,
) -> tuple[Tensor, None]:
    """Attention of one token to a cache and to itself; the query heads of a group are rows of one product.

    Args:
        module: the model's attention layer.
        query: (batch, heads, 1, size).
        key, value: (batch, key heads, 1, size), the token's own.
        attention_mask: (batch, 1, 1, capacity) bool, the token's own place among what is True.
        scaling: of scores; ``1 / sqrt(size)`` by default.
        dropout: 0.
        more: what layers pass besides; `softcap` is heeded.

    Returns:
        (batch, 1, heads, size), and no weights.

    Raises:
        ValueError: something is asked for that this attention does not have.
    """
    layer = next((one for one in _layers if getattr(one, "new", (None,))[0] is key), None)
    odd = [name for name in ("position_bias", "s_aux") if more.get(name) is not None]
    if layer is None or attention_mask is None or odd or dropout:
        raise ValueError(f"attention over other keys than the cache's, or with {odd}")
    layer.attended = True
    batch, heads, _, size = query.shape
    groups = key.shape[1]
    rows = query.reshape(batch, groups, heads // groups, size) * (size**-0.5 if scaling is None else scaling)
    scores, own = rows @ layer.keys.mT, rows @ key.mT
    cap = more.get("softcap")
    if cap is not None:
        scores, own = cap * torch.tanh(scores / cap), cap * torch.tanh(own / cap)
    scores = scores + _bias(attention_mask, layer, scores.dtype)
    weights = torch.softmax(torch.cat([scores, own], -1), -1, dtype=torch.float32).to(query.dtype)
    capacity = layer.keys.shape[2]
    result = weights[..., :capacity] @ layer.values + weights[..., capacity:] @ value
    return result.reshape(batch, 1, heads, value.shape[-1]), None


def _bias(mask: Tensor, layer: _ReadLayer, dtype: torch.dtype) -> Tensor:
    """0 where a token looks, -inf elsewhere and at its own place, which is not written yet."""
    known = _biases.get(id(mask))
    if known is None:
        places = torch.arange(layer.keys.shape[2], device=mask.device)
        hidden = torch.zeros((), dtype=dtype, device=mask.device)
        bias = torch.where(mask & (places != layer.start), hidden, -torch.inf)
        known = _biases[id(mask)] = mask, bias
    return known[1]


def has_attention_interface(model: nn.Module, shapes: Sequence[LayerShape], dtype: torch.dtype) -> bool:
    """Whether every layer of a model attends by `attend` to what the cache gives it: tried, with one token."""
    device = next(model.parameters()).device
    made = {"dtype": dtype, "device": device}
    keys = [torch.zeros(1, one.heads, 2, one.keys, **made) for one in shapes]
    values = [torch.zeros(1, one.heads, 2, one.values, **made) for one in shapes]
    token, start = (torch.zeros(size, dtype=torch.int64, device=device) for size in ((1, 1), (1,)))
    mask = torch.ones(1, 2, dtype=torch.int64, device=device)
    try:
        with torch.no_grad():
            Step(model, reads_only=True)(token, token, mask, start, keys, values)
    except Exception:  # whatever a model does otherwise: it is traced with its own attention then
        return False
    return True
