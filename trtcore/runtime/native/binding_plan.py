"""The manifest's bindings beside those of the engine that TensorRT read, and the profile for a call."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from trtcore.artifact.manifest import EngineManifest
from trtcore.errors import ArtifactError, InputError
from trtcore.runtime.native.bindings import IOTensor


@dataclass(frozen=True)
class BindingPlan:
    """The manifest's bindings beside the engine's own.

    Attributes:
        inputs, sizes, outputs: the engine's bindings in the manifest's order.
        profiles: per optimisation profile, per input and then size: (min, max) of each dim or value.
    """

    inputs: tuple[IOTensor, ...]
    sizes: tuple[IOTensor, ...]
    outputs: tuple[IOTensor, ...]
    profiles: tuple[tuple[tuple[tuple[int, int], ...], ...], ...]

    @property
    def in_host_memory(self) -> str:
        """The name of a tensor that TensorRT reads or writes on the host during a run; "" where there is none."""
        return next((tensor.name for tensor in (*self.inputs, *self.outputs) if tensor.on_host), "")

    @property
    def sizes_on_host(self) -> bool:
        """Whether all sizes are in host memory, where they may stay from call to call."""
        return all(tensor.on_host for tensor in self.sizes)


def make_binding_plan(manifest: EngineManifest, tensors: Sequence[IOTensor]) -> BindingPlan:
    """Match the manifest with the plan's own bindings.

    Raises:
        ArtifactError: the plan is not the manifest's: a binding is missing, or of another dtype or shape.
    """
    by_name = {tensor.name: tensor for tensor in tensors}
    wanted = [b.name for b in (*manifest.inputs, *manifest.outputs)] + [s.name for s in manifest.sizes]
    if set(wanted) != set(by_name) or len(wanted) != len(tensors):
        raise ArtifactError(
            f"{manifest.name}: the plan has the bindings {sorted(by_name)}, its manifest {sorted(wanted)}"
        )
    for binding, is_input in [(b, True) for b in manifest.inputs] + [(b, False) for b in manifest.outputs]:
        tensor = by_name[binding.name]
        shape = tuple(dim if isinstance(dim, int) else -1 for dim in binding.shape)
        fits = len(shape) == len(tensor.shape) and all(
            a == b or -1 in (a, b) for a, b in zip(shape, tensor.shape)
        )
        if tensor.is_input != is_input or tensor.dtype != binding.dtype or not fits:
            raise ArtifactError(
                f"{manifest.name}: binding {binding.name!r} is {_describe(tensor)} in the plan, "
                f"{binding.dtype} {list(binding.shape)} in its manifest"
            )
    for size in manifest.sizes:
        tensor = by_name[size.name]
        if not tensor.is_input or tensor.dtype != torch.int64 or tensor.shape != (1,):
            raise ArtifactError(f"{manifest.name}: size {size.name!r} is {_describe(tensor)} in the plan")
    inputs = tuple(by_name[binding.name] for binding in manifest.inputs)
    sizes = tuple(by_name[size.name] for size in manifest.sizes)
    outputs = tuple(by_name[binding.name] for binding in manifest.outputs)
    return BindingPlan(inputs, sizes, outputs, _profiles((*inputs, *sizes)))


def _describe(tensor: IOTensor) -> str:
    return f"{'an input' if tensor.is_input else 'an output'}, {tensor.dtype} {list(tensor.shape)}"


def _profiles(inputs: Sequence[IOTensor]) -> tuple[tuple[tuple[tuple[int, int], ...], ...], ...]:
    count = max((len(tensor.profiles) for tensor in inputs), default=0)
    return tuple(
        tuple(
            tuple(zip(tensor.profiles[index][0], tensor.profiles[index][2]))
            if index < len(tensor.profiles) and len(tensor.profiles[index]) == 3
            else ()
            for tensor in inputs
        )
        for index in range(count)
    )


def choose_profile(
    plan: BindingPlan, shapes: Sequence[Sequence[int]], sizes: Sequence[int], wanted: int | None = None
) -> int:
    """The first optimisation profile that takes these shapes and sizes (0 where the engine has none).

    Args:
        wanted: the one that must take them, see `trtcore.runtime.optimization_profile`.

    Raises:
        InputError: none does, or not the one that is wanted; the message has every profile's range of the first misfit.
    """
    rows = [*shapes, *([size] for size in sizes)]
    for index, profile in enumerate(plan.profiles):
        if wanted not in (None, index):
            continue
        if all(low <= v <= high for row, ranges in zip(rows, profile) for v, (low, high) in zip(row, ranges)):
            return index
    if not plan.profiles:
        return 0
    names = [tensor.name for tensor in (*plan.inputs, *plan.sizes)]
    if wanted is not None:
        raise InputError(
            f"optimisation profile {wanted} of {len(plan.profiles)} does not take {dict(zip(names, map(tuple, rows)))}"
        )
    for position, (name, row) in enumerate(zip(names, rows)):
        allowed = [profile[position] for profile in plan.profiles]
        if not any(all(low <= v <= high for v, (low, high) in zip(row, ranges)) for ranges in allowed):
            text = " or ".join(str([f"{low}..{high}" for low, high in ranges]) for ranges in allowed)
            raise InputError(f"input {name!r} is {tuple(row)}; the engine's profiles take {text}")
    raise InputError(
        f"no optimisation profile takes the shapes {dict(zip(names, map(tuple, rows)))} together"
    )
