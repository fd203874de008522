"""The two calls of an encoder-decoder on static caches, as modules of plain tensors that can be traced."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Cache
from transformers.cache_utils import CacheLayerMixin, EncoderDecoderCache
from transformers.modeling_outputs import BaseModelOutput

from trtcore_contrib_llm.stepping import LayerShape, TracedLayer, cache_argument


class _CrossLayer(CacheLayerMixin):
    """Keys and values of what an encoder gave: seen once, or there from the beginning."""

    is_sliding = False

    def __init__(self, keys: Tensor | None = None, values: Tensor | None = None) -> None:
        super().__init__()
        self.keys, self.values = keys, values
        self.is_initialized = True

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Nothing is to be made."""

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        self.keys, self.values = key_states, value_states
        return key_states, value_states

    def get_mask_sizes(self, query_length: Any, *args: Any) -> tuple[int, int]:
        return (0 if self.keys is None else self.keys.shape[2]), 0

    def get_seq_length(self, *args: Any) -> Any:
        return 0 if self.keys is None else 1  # not nothing: it is there

    def get_max_length(self) -> int:
        return -1

    get_max_cache_shape = get_max_length


def _decoder_layers(model: Any) -> int:
    names = ("num_decoder_layers", "decoder_layers", "num_hidden_layers")
    return int(next(getattr(model.config, name) for name in names if getattr(model.config, name, None)))


class Encode(nn.Module):
    """A source to the states of its tokens, and to what each decoder layer makes of them.

    Args:
        model: an encoder-decoder of transformers, in eval mode.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self.layers = _decoder_layers(model)
        self._cache = str(cache_argument(model))

    def forward(
        self, source: Tensor, attention_mask: Tensor | None = None
    ) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        """One call.

        Args:
            source: tokens (batch, length) int64, or features as the model takes them.
            attention_mask: (batch, length) int64, 0 for padding; None for a model of features.

        Returns:
            (states (batch, length, size), keys, values): for each decoder layer (batch, heads, length, size).
        """
        masked = {} if attention_mask is None else {"attention_mask": attention_mask}
        states = self.model.get_encoder()(source, **masked).last_hidden_state
        layers = [_CrossLayer() for _ in range(self.layers)]
        batch = source.shape[0]
        own = [_SeenLayer() for _ in layers]
        token = torch.zeros(1, 1, dtype=torch.int64, device=source.device).expand(batch, 1)
        self.model(
            encoder_outputs=BaseModelOutput(last_hidden_state=states),
            decoder_input_ids=token,
            use_cache=True,
            **masked,
            **{self._cache: EncoderDecoderCache(Cache(layers=own), Cache(layers=layers))},
        )
        return states, [layer.keys for layer in layers], [layer.values for layer in layers]


class Decode(nn.Module):
    """A step of the decoder: a token in, the logits behind it out.

    Args:
        model: an encoder-decoder of transformers, in eval mode.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self._cache = str(cache_argument(model))
        taken = inspect.signature(model.forward).parameters
        self._positions = "decoder_position_ids" in taken
        self._size = int(model.config.hidden_size)

    def forward(
        self,
        input_ids: Tensor,
        position_ids: Tensor,
        attention_mask: Tensor,
        start: Tensor,
        keys: list[Tensor],
        values: list[Tensor],
        source_keys: list[Tensor],
        source_values: list[Tensor],
        source_mask: Tensor | None = None,
    ) -> Tensor:
        """One call.

        Args:
            input_ids, position_ids, attention_mask, start, keys, values: see `stepping.Step`; the length is 1.
            source_keys, source_values: for each layer (batch, heads, source length, size).
            source_mask: (batch, source length) int64, 0 for padding; None for a model of features.

        Returns:
            (batch, vocabulary).
        """
        own = Cache(layers=[TracedLayer(key, value, start) for key, value in zip(keys, values)])
        source = Cache(layers=[_CrossLayer(key, value) for key, value in zip(source_keys, source_values)])
        batch, _, length, _ = source_keys[0].shape
        named: dict[str, Any] = {self._cache: EncoderDecoderCache(own, source)}
        if self._positions:
            named["decoder_position_ids"] = position_ids
        if source_mask is not None:
            named["attention_mask"] = source_mask
        states = torch.zeros(batch, length, self._size, dtype=source_keys[0].dtype, device=input_ids.device)
        result = self.model(
            encoder_outputs=BaseModelOutput(last_hidden_state=states),  # of which only the shape counts
            decoder_input_ids=input_ids,
            decoder_attention_mask=attention_mask,
            use_cache=True,
            **named,
        )
        logits: Tensor = result.logits[:, -1]
        return logits


class _SeenLayer(_CrossLayer):
    """The decoder's own keys and values of a token that counts for nothing."""

    def get_mask_sizes(self, query_length: Any, *args: Any) -> tuple[int, int]:
        return 1, 0

    def get_seq_length(self, *args: Any) -> Any:
        return 0


def shapes_of(
    model: Any, source: Tensor, mask: Tensor | None
) -> tuple[tuple[LayerShape, ...], tuple[LayerShape, ...], torch.dtype]:
    """What each decoder layer keeps of its own tokens and of the source, and the dtype: seen in a call.

    Raises:
        ValueError: the model does something else to its caches.
    """
    count = _decoder_layers(model)
    own, cross = [_SeenLayer() for _ in range(count)], [_CrossLayer() for _ in range(count)]
    masked = {} if mask is None else {"attention_mask": mask}
    token = torch.zeros(1, 1, dtype=torch.int64, device=source.device)
    caches = EncoderDecoderCache(Cache(layers=own), Cache(layers=cross))
    with torch.no_grad():
        states = model.get_encoder()(source, **masked).last_hidden_state
        model(
            encoder_outputs=BaseModelOutput(last_hidden_state=states),
            decoder_input_ids=token,
            use_cache=True,
            **masked,
            **{str(cache_argument(model)): caches},
        )
    found = []
    for layers in (own, cross):
        if any(layer.keys is None for layer in layers):
            raise ValueError("some layers write nothing to the cache")
        found.append(
            tuple(
                LayerShape(int(x.keys.shape[1]), int(x.keys.shape[3]), int(x.values.shape[3])) for x in layers
            )
        )
    return found[0], found[1], own[0].keys.dtype
