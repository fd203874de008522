"""The cache of a compiled language model: fixed tensors, which its engines write to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import Cache
from transformers.cache_utils import CacheLayerMixin

from trtcore_contrib_llm.stepping import LayerShape


class HeldLayer(CacheLayerMixin):
    """Keys and values of one layer, of which only the engines know what they hold."""

    is_sliding = False
    is_compileable = False  # transformers would give masks of four dims for what it compiles itself
    is_croppable = True

    def __init__(self, keys: Tensor, values: Tensor, owner: HeldCache) -> None:
        super().__init__()
        self.keys, self.values = keys, values
        self._owner = owner
        self.is_initialized = True

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Nothing is to be made."""

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Nobody but the engines writes here."""
        raise RuntimeError("the cache of a compiled model is written to by its engines only")

    def get_mask_sizes(self, query_length: Any, *args: Any) -> tuple[int, int]:
        """(places of the cache, the first of them)."""
        return self.keys.shape[2], 0

    def get_seq_length(self, *args: Any) -> int:
        """Tokens in the cache, those of padding among them."""
        return self._owner.length

    def get_max_length(self) -> int:
        """Places of the cache."""
        return int(self.keys.shape[2])

    get_max_cache_shape = get_max_length  # its name in older versions

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Row i becomes what row ``beam_idx[i]`` was, in place: the engines know the memory."""
        rows, length = beam_idx.to(self.keys.device), self._owner.length
        for held in (self.keys, self.values):
            held[: len(rows), :, :length] = held[:, :, :length].index_select(0, rows)

    def crop(self, tokens_to_remove: int) -> None:
        """Forget the last tokens; a negative number of them."""
        self._owner.crop(tokens_to_remove)

    def reset(self) -> None:
        """Forget everything."""
        self._owner.length = 0


class HeldCache(Cache):
    """Keys and values of all layers, for so many texts and tokens.

    Args:
        shapes: of each layer.
        dtype, device: of the tensors.
        max_batch, max_length: texts, and tokens of each.

    Attributes:
        length: tokens that every text has by now.
        mask: (max_batch, max_length) int64, 0 for padding.
        keys, values: for each layer (max_batch, heads, max_length, size).
    """

    def __init__(
        self,
        shapes: Sequence[LayerShape],
        dtype: torch.dtype,
        device: torch.device | str,
        max_batch: int,
        max_length: int,
    ) -> None:
        self.length = 0
        self.mask = torch.ones(max_batch, max_length, dtype=torch.int64, device=device)
        made = {"dtype": dtype, "device": device}
        self._count = len(shapes)
        self._key_rooms = _rooms([(one.heads, one.keys) for one in shapes], max_batch, max_length, made)
        self._value_rooms = _rooms([(one.heads, one.values) for one in shapes], max_batch, max_length, made)
        self._name_parts()
        super().__init__(layers=[HeldLayer(k, v, self) for k, v in zip(self.keys, self.values)])

    def _name_parts(self) -> None:
        self.keys, self.values = (
            [
                whole[layers.index(index)]
                for index in range(self._count)
                for whole, layers in rooms
                if index in layers
            ]
            for rooms in (self._key_rooms, self._value_rooms)
        )

    def write(self, start: Tensor, keys: Sequence[Tensor], values: Sequence[Tensor]) -> None:
        """Write what one token gave, at the place ``start`` (1,): for each layer (batch, heads, 1, size)."""
        for stacked, given in ((self._key_rooms, keys), (self._value_rooms, values)):
            for whole, layers in stacked:
                new = torch.stack([given[index] for index in layers])
                whole[:, : new.shape[1]].index_copy_(3, start, new)

    def reset(self) -> None:
        """Forget everything: the next tokens are those of new texts."""
        self.length = 0
        self.mask.fill_(1)

    def crop(self, tokens_to_remove: int) -> None:
        """Forget the last tokens; a negative number of them."""
        self.length = max(0, self.length - abs(tokens_to_remove))

    def to(self, device: torch.device | str) -> None:
        """Move to a device, contents and all."""
        self.mask = self.mask.to(device)
        self._key_rooms, self._value_rooms = (
            [(whole.to(device), layers) for whole, layers in rooms]
            for rooms in (self._key_rooms, self._value_rooms)
        )
        self._name_parts()
        for layer, keys, values in zip(self.layers, self.keys, self.values):
            layer.keys, layer.values = keys, values


def _rooms(
    shapes: Sequence[tuple[int, int]], rows: int, length: int, made: dict[str, Any]
) -> list[tuple[Tensor, list[int]]]:
    """Tensors (layers, rows, heads, length, size), and which layers: those of one shape are written to at once."""
    found = []
    for heads, size in dict.fromkeys(shapes):
        layers = [index for index, one in enumerate(shapes) if one == (heads, size)]
        found.append((torch.zeros(len(layers), rows, heads, length, size, **made), layers))
    return found
