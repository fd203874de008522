"""The mutable module by its old name."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import torch

import trtcore
from trtcore_contrib_torch_tensorrt._Input import as_inputs
from trtcore_contrib_torch_tensorrt._settings import as_settings
from trtcore_contrib_torch_tensorrt._told import NotHereError

__all__ = ["MutableTorchTensorRTModule"]


class _Kind(type):
    def __instancecheck__(cls, value: object) -> bool:
        return isinstance(value, trtcore.MutableModule)


class MutableTorchTensorRTModule(metaclass=_Kind):
    """Makes a `trtcore.MutableModule`: a model that computes in engines and may be changed at any time.

    Args:
        pytorch_model: the model.
        arg_inputs, kwarg_inputs: `Input`s with ranges, for calls whose sizes vary.
        **kwargs: settings by their old names.
    """

    def __new__(  # type: ignore[misc]
        cls,
        pytorch_model: torch.nn.Module,
        *,
        arg_inputs: Sequence[Any] | None = None,
        kwarg_inputs: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> trtcore.MutableModule:
        return trtcore.MutableModule(
            pytorch_model,
            arg_inputs=None if arg_inputs is None else as_inputs(list(arg_inputs)),
            kwarg_inputs=None if kwarg_inputs is None else as_inputs(dict(kwarg_inputs)),
            **as_settings(kwargs),
        )

    @staticmethod
    def save(module: Any, path: str | os.PathLike[str]) -> None:
        """Weights and engines into a file."""
        trtcore.MutableModule.save(module, path)

    @staticmethod
    def load(path: str | os.PathLike[str], model: torch.nn.Module | None = None, **kwargs: Any) -> Any:
        """What `save` wrote, on a model of the same code: files hold no code, so that `model` is needed.

        Raises:
            NotHereError: no `model`.
        """
        if model is None:
            raise NotHereError(
                "MutableTorchTensorRTModule.load(path) without the model: files hold weights and engines, and no code",
                advice="MutableTorchTensorRTModule.load(path, model), with a model of the same class",
            )
        return trtcore.MutableModule.load(path, model, **as_settings(kwargs))
