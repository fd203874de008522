"""What every call of an engine is held to, whichever runtime executes it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from trtcore.artifact.manifest import EngineManifest
from trtcore.errors import ConversionError, InputError
from trtcore.ir.torch_private import users_of_storage

_EMPTY = torch.empty(0)


def output_device(manifest: EngineManifest, inputs: Sequence[torch.Tensor]) -> torch.device:
    """Where an engine's outputs are: with its inputs.

    Without inputs on the device that the manifest's target names, where it is there: the one of the model. Else on the
    current GPU (native) or the CPU.
    """
    if inputs:
        return inputs[0].device
    there = torch.cuda.is_available()
    named = torch.device(manifest.target.get("device", "cuda" if manifest.runtime == "native" else "cpu"))
    if named.type != "cuda" or not (there or manifest.runtime == "native"):
        return torch.device("cpu")
    if named.index is not None and there and named.index < torch.cuda.device_count():
        return named
    return torch.device("cuda", torch.cuda.current_device() if there else 0)


def check_structure(manifest: EngineManifest, inputs: Sequence[torch.Tensor], sizes: Sequence[Any]) -> None:
    """Check numbers, dtypes and ranks, which are the same for fake and real tensors.

    Raises:
        InputError: names the input, what came, and what is allowed.
    """
    if len(inputs) != len(manifest.inputs):
        raise InputError(f"{manifest.name} takes {len(manifest.inputs)} tensors, {len(inputs)} came")
    if len(sizes) != len(manifest.sizes):
        raise InputError(f"{manifest.name} takes {len(manifest.sizes)} sizes, {len(sizes)} came")
    for tensor, binding in zip(inputs, manifest.inputs):
        if tensor.dtype != binding.dtype:
            raise InputError(
                f"{manifest.name}: input {binding.name!r} is {tensor.dtype}, "
                f"the engine takes {binding.dtype}",
                advice=f"pass it as {binding.dtype}, or compile for {tensor.dtype}; nothing is cast silently",
            )
        if tensor.dim() != len(binding.shape):
            raise InputError(
                f"{manifest.name}: input {binding.name!r} has {tensor.dim()} dims {tuple(tensor.shape)}, "
                f"the engine takes {len(binding.shape)}: {list(binding.shape)}"
            )


def keep_promises(
    manifest: EngineManifest, results: list[torch.Tensor], values: dict[str, int], device: torch.device
) -> list[torch.Tensor]:
    """Hold what the fake implementation promises: dtype, shape, device, contiguous, memory of its own.

    Changes `results`, and returns it.

    Raises:
        ConversionError: another number of outputs, another dtype or shape.
    """
    if len(results) != len(manifest.outputs):
        raise ConversionError(
            f"{manifest.name} gave {len(results)} outputs, {len(manifest.outputs)} are promised"
        )
    for name, index, dim in manifest.output_symbols:
        values = {**values, name: results[index].shape[dim]}
    for index, shape in enumerate(manifest.output_shapes(values)):
        result, binding = results[index], manifest.outputs[index]
        if result.dtype is not binding.dtype or result.shape != shape:
            raise ConversionError(
                f"{manifest.name}: output {binding.name!r} is {result.dtype} {tuple(result.shape)}, "
                f"the program promises {binding.dtype} {tuple(shape)}",
                advice="a converter builds something else than its op: leave ops to torch one by one with "
                "torch_executed_ops until it goes away, and report the last one to its pack (trtcore.explain names it)",
            )
        results[index] = _EMPTY
        # `.data` is a tensor of our own without a base, so that the count below tells whether an input, a
        # constant or another output has the memory too: two are the tensor and the Python storage.
        result = result.to(device).contiguous().data
        shared = users_of_storage(result) > 2
        results[index] = result.clone() if shared else result
    return results
