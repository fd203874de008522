"""Adapters (LoRA and others of PEFT) as what they make of the weights: engines take them by a refit.

PEFT puts a layer of its own around each layer that an adapter changes. Engines are made without these: of a model whose
weights have the active adapters merged into them. The model's own weights stay as they are.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from trtcore.errors import InputError

SCALES = ("cross_attention_kwargs", "joint_attention_kwargs", "attention_kwargs")
"""Arguments in which diffusers takes a scale of the adapters."""


class Weights:
    """Notices that a model has other weights, or other adapters, than before.

    Seen are adapters that come, go, are activated, scaled or merged, and changes of weights that torch counts. Not
    seen is a write through ``.data`` outside of PEFT.

    Attributes:
        epoch: counts the times that adapters came or went. Whoever owns the model counts.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._known: tuple[int, list[Any], list[torch.Tensor]] = (-1, [], [])
        self._parameters: list[torch.Tensor] = []
        self.epoch = 0

    def look(self) -> Any:
        """Equal to another look if the weights are the same."""
        if self._known[0] != self.epoch:
            layers = [layer for _, layer in _adapted(self._model)]
            self._known = self.epoch, layers, [one for layer in layers for one in layer.parameters()]
            self._parameters = list(self._model.parameters())
        _, layers, tensors = self._known
        return (
            self.epoch,
            [_version(one) for one in self._parameters],
            [_state(layer) for layer in layers],
            [(one.data_ptr(), _version(one)) for one in tensors],
        )


def _version(tensor: torch.Tensor) -> int:
    """How often torch has counted a write; tensors of inference mode count none."""
    return 0 if tensor.is_inference() else tensor._version


def _adapted(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """PEFT's layers, with their paths."""
    if "peft" not in sys.modules:
        return
    from peft.tuners.tuners_utils import BaseTunerLayer

    for path, module in model.named_modules():
        if isinstance(module, BaseTunerLayer):
            yield path, module


def _state(layer: Any) -> Any:
    scaling = getattr(layer, "scaling", {})
    return (
        tuple(layer.active_adapters),
        bool(layer.disable_adapters),
        tuple(layer.merged_adapters),
        tuple(scaling.items()),
    )


def without_adapters(model: nn.Module) -> nn.Module:
    """The model with plain layers, whose weights have what is active merged into them; itself if it has no adapters."""
    adapted = [path for path, _ in _adapted(model)]
    if not adapted:
        return model
    memo: dict[int, Any] = {id(one): one for one in (*model.parameters(), *model.buffers())}
    plain = copy.deepcopy(model, memo)
    for path in adapted:
        parent, _, last = path.rpartition(".")
        setattr(plain.get_submodule(parent), last, _merged(path, model.get_submodule(path)))
    return plain


def weights_of(model: nn.Module) -> dict[str, torch.Tensor]:
    """Parameters and buffers by their names, tied ones under each."""
    return {
        **dict(model.named_parameters(remove_duplicate=False)),
        **dict(model.named_buffers(remove_duplicate=False)),
    }


def _merged(path: str, layer: Any) -> nn.Module:
    """The layer within PEFT's, with new weights."""
    base = layer.get_base_layer()
    wanted = set() if layer.disable_adapters else set(layer.active_adapters)
    if wanted <= set(layer.merged_adapters) and not (layer.disable_adapters and layer.merged_adapters):
        return base  # type: ignore[no-any-return]
    # PEFT merges by giving `data` another tensor, and takes what it has merged away in place.
    memo: dict[int, Any] = {id(one): one for one in (*layer.parameters(), *layer.buffers())}
    for one in base.parameters():
        data = one.detach().clone() if layer.disable_adapters else one.detach()
        memo[id(one)] = nn.Parameter(data, requires_grad=False)
    twin = copy.deepcopy(layer, memo)
    try:
        with torch.no_grad():
            twin.unmerge() if layer.disable_adapters else twin.merge(safe_merge=True)
    except (ValueError, RuntimeError, NotImplementedError) as error:
        raise InputError(
            f"the adapter {', '.join(layer.active_adapters)} cannot be merged into {path}: {error}",
            advice="engines take adapters that PEFT can merge; pipe.delete_adapters(name) takes it away",
        ) from error
    return twin.get_base_layer()  # type: ignore[no-any-return]


def own_adapted_weights(model: nn.Module) -> None:
    """Copy the weights that adapters are for, which other models may share."""
    for _, layer in _adapted(model):
        for module in layer.get_base_layer().modules():
            for name, one in list(module.named_parameters(recurse=False)):
                setattr(module, name, nn.Parameter(one.detach().clone(), one.requires_grad))


@contextmanager
def scaled(model: nn.Module, arguments: Mapping[str, Any]) -> Iterator[None]:
    """Scale the adapters as the arguments of a call say, as diffusers' models do it for the time of a call."""
    scales = [arguments[name]["scale"] for name in SCALES if "scale" in (arguments.get(name) or {})]
    if not scales or "peft" not in sys.modules:
        yield
        return
    from diffusers.utils.peft_utils import scale_lora_layers, unscale_lora_layers

    scale_lora_layers(model, scales[0])
    try:
        yield
    finally:
        unscale_lora_layers(model, scales[0])


def without_scale(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a call without that scale."""
    found = dict(arguments)
    for name in SCALES:
        if isinstance(given := found.get(name), Mapping):
            rest = {key: value for key, value in given.items() if key != "scale"}
            found.pop(name)
            if rest:
                found[name] = rest
    return found
