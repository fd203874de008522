"""What the native runtime decides; TensorRT and CUDA are behind a `Connection` (bindings.py).

Per device: one deserialised engine, and a pool of execution contexts. A context is used by one call at a
time, and always on the stream it was made for: the pool is keyed by stream, so calls of many threads run side
by side, and activation memory (from torch's caching allocator) is never shared between streams. Nothing
here waits for the GPU.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from trtcore.artifact.manifest import EngineManifest
from trtcore.errors import ArtifactError, ConversionError, InputError
from trtcore.runtime.checks import output_device
from trtcore.runtime.native.bindings import Connection, IOTensor
from trtcore.runtime.profiles import chosen_profile

# TensorRT wants memory aligned as cudaMalloc aligns it; torch's tensors are, views of them may not be.
ALIGNMENT = 256
_MAX_IDLE_CONTEXTS = 4  # per stream

_Shapes = tuple[tuple[int, ...], ...]


class NativeEngine:
    """Runs one plan on any number of GPUs.

    Args:
        manifest: what the engine takes and gives; checked against the plan when a device first uses it.
        plan: uint8, 1-D, on the CPU.
        connection: TensorRT.
        device_type: where inputs must be; "cuda" but in tests.
    """

    def __init__(
        self, manifest: EngineManifest, plan: torch.Tensor, connection: Connection, device_type: str = "cuda"
    ) -> None:
        self._manifest, self._plan, self._trt, self._device_type = manifest, plan, connection, device_type
        self._devices: dict[torch.device, _DeviceEngine] = {}
        self._lock = threading.Lock()

    def run(self, inputs: list[torch.Tensor], sizes: list[int], values: dict[str, int]) -> list[torch.Tensor]:
        """Queue one run on the current stream of the inputs' device.

        Args:
            inputs, sizes: checked against the manifest.
            values: the symbols' values, see `EngineManifest.solve`.

        Raises:
            InputError: inputs are not on a GPU.
            BackendUnavailableError: the plan cannot be read here.
            NativeError: TensorRT refused the run.
        """
        device = self._device(inputs)
        with self._trt.on_device(device):
            engine = self._devices.get(device) or self._open(device)
            stream = self._trt.current_stream(device)
            context = engine.take(stream)
            outputs = context.run(inputs, sizes, values, device, stream)
            engine.give(stream, context)  # not after an error: its state is unknown
        return outputs

    def _device(self, inputs: list[torch.Tensor]) -> torch.device:
        if inputs:
            device = inputs[0].device
            if device.type != self._device_type:
                raise InputError(
                    f"{self._manifest.name}: input {self._manifest.inputs[0].name!r} is on {device}, "
                    f"the engine runs on {self._device_type}",
                    advice=f"move the inputs (and the module) to {self._device_type!r}; "
                    'or compile or load with runtime="reference"',
                )
            return device
        if self._device_type == "cuda":
            return output_device(self._manifest, inputs)
        return torch.device(self._device_type)

    def _open(self, device: torch.device) -> _DeviceEngine:
        with self._lock:
            if device not in self._devices:
                self._devices[device] = _DeviceEngine(self._manifest, self._plan, self._trt)
            return self._devices[device]

    def release(self) -> None:
        """Free engines and idle contexts on every device; the next run sets them up again."""
        with self._lock:
            self._devices.clear()


class _DeviceEngine:
    """The engine on one device, and its idle contexts by stream."""

    def __init__(self, manifest: EngineManifest, plan: torch.Tensor, connection: Connection) -> None:
        self._trt, self._manifest = connection, manifest
        self._engine = connection.deserialize(plan)
        self.binding_plan = make_binding_plan(manifest, connection.io_tensors(self._engine))
        self._idle: dict[int, list[_Context]] = {}
        self._lock = threading.Lock()

    def take(self, stream: int) -> _Context:
        with self._lock:
            idle = self._idle.get(stream)
            if idle:
                return idle.pop()
        return _Context(self._manifest, self.binding_plan, self._trt, self._trt.create_context(self._engine))

    def give(self, stream: int, context: _Context) -> None:
        with self._lock:
            idle = self._idle.setdefault(stream, [])
            if len(idle) < _MAX_IDLE_CONTEXTS:
                idle.append(context)


# ---- pure decisions ---------------------------------------------------------------------------------


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


# ---- one execution context --------------------------------------------------------------------------


@dataclass
class _Output:
    """Memory of an output whose shape only the run tells (an `Allocator`)."""

    device: torch.device
    dtype: torch.dtype
    memory: torch.Tensor | None = None
    shape: tuple[int, ...] | None = None

    def allocate(self, size: int) -> int:
        if self.memory is None or self.memory.numel() < size:
            self.memory = torch.empty(max(size, 1), dtype=torch.uint8, device=self.device)
        return self.memory.data_ptr()

    def shaped(self, shape: tuple[int, ...]) -> None:
        self.shape = shape

    def tensor(self, name: str) -> torch.Tensor:
        if self.memory is None or self.shape is None or any(dim < 0 for dim in self.shape):
            raise ConversionError(f"TensorRT did not tell the shape of output {name!r} ({self.shape})")
        count = 1
        for dim in self.shape:
            count *= dim
        return self.memory[: count * self.dtype.itemsize].view(self.dtype).view(self.shape)


@dataclass
class _Context:
    """An execution context and what has been set on it: equal shapes cost nothing the second time."""

    manifest: EngineManifest
    plan: BindingPlan
    trt: Connection
    handle: Any
    shapes: _Shapes | None = None
    sizes: tuple[int, ...] | None = None
    wanted: int | None = None
    profile: int = 0
    scratch: torch.Tensor | None = None
    staged: list[torch.Tensor] = field(default_factory=list)
    allocators: dict[str, Any] = field(default_factory=dict)
    inferred: _Shapes = ()

    def run(
        self,
        inputs: list[torch.Tensor],
        sizes: list[int],
        values: dict[str, int],
        device: torch.device,
        stream: int,
    ) -> list[torch.Tensor]:
        kept = self._set_inputs(inputs, device)  # before the shapes: some may be computed from their values
        self._set_shapes(inputs, sizes, device, stream)
        outputs, waiting = self._set_outputs(values, device)
        if stream == 0:
            with self.trt.side_stream(device) as side:
                self.trt.execute(self.handle, side)
        else:
            self.trt.execute(self.handle, stream)
        del kept  # work is queued: torch's allocator gives the memory only to later work of this stream
        for index, output in waiting.items():
            outputs[index] = output.tensor(self.plan.outputs[index].name)
        # Computed shapes come in (pinned) host memory; the copy is queued like the rest.
        return [output.to(device, non_blocking=True) for output in outputs if output is not None]

    def _set_shapes(
        self, inputs: list[torch.Tensor], sizes: list[int], device: torch.device, stream: int
    ) -> None:
        shapes = tuple(tuple(tensor.shape) for tensor in inputs)
        wanted = chosen_profile()
        if shapes == self.shapes and tuple(sizes) == self.sizes and wanted == self.wanted:
            return
        self.shapes = None  # until all is set
        index = choose_profile(self.plan, shapes, sizes, wanted)
        if index != self.profile:
            self.trt.set_profile(self.handle, index, stream)
            self.profile = index
        for tensor, shape in zip(self.plan.inputs, shapes):
            self.trt.set_input_shape(self.handle, tensor.name, shape)
        self._set_sizes(sizes, device)
        missing = self.trt.missing(self.handle)
        if missing:
            raise ConversionError(f"{self.manifest.name}: TensorRT lacks shape or value of {missing}")
        self.inferred = tuple(self.trt.output_shape(self.handle, t.name) for t in self.plan.outputs)
        self._set_scratch(device)
        if not any(tensor.on_host for tensor in self.plan.inputs):
            self.shapes, self.sizes, self.wanted = shapes, tuple(sizes), wanted

    def _set_sizes(self, sizes: list[int], device: torch.device) -> None:
        # Fresh memory each time: an earlier run that is still queued may read the old values.
        self.staged = [
            torch.tensor([size], dtype=torch.int64, device="cpu" if tensor.on_host else device)
            for tensor, size in zip(self.plan.sizes, sizes)
        ]
        for tensor, staged in zip(self.plan.sizes, self.staged):
            self.trt.set_input_shape(self.handle, tensor.name, (1,))
            self.trt.set_address(self.handle, tensor.name, staged.data_ptr())

    def _set_scratch(self, device: torch.device) -> None:
        size = self.trt.memory_size(self.handle)
        if self.scratch is None or self.scratch.numel() < size:
            self.scratch = None  # give the old one back first
            self.scratch = torch.empty(max(size, 1), dtype=torch.uint8, device=device)
        self.trt.set_memory(self.handle, self.scratch.data_ptr(), self.scratch.numel())

    def _set_inputs(self, inputs: list[torch.Tensor], device: torch.device) -> list[torch.Tensor]:
        """Give TensorRT dense, aligned memory; returns what must outlive the queueing."""
        kept = []
        for tensor, binding in zip(inputs, self.plan.inputs):
            staged = tensor.cpu() if binding.on_host else tensor  # an input that shapes are computed from
            staged = staged.contiguous()
            if staged.data_ptr() % ALIGNMENT and not binding.on_host:
                staged = staged.clone(memory_format=torch.contiguous_format)
            if not staged.numel():  # TensorRT takes no null address
                staged = torch.empty(ALIGNMENT, dtype=torch.uint8, device=staged.device)
            kept.append(staged)
            self.trt.set_address(self.handle, binding.name, staged.data_ptr())
        return kept

    def _set_outputs(
        self, values: dict[str, int], device: torch.device
    ) -> tuple[list[torch.Tensor | None], dict[int, _Output]]:
        outputs: list[torch.Tensor | None] = []
        waiting: dict[int, _Output] = {}
        unknown = {name for name, _, _ in self.manifest.output_symbols}
        for index, (binding, dims) in enumerate(zip(self.manifest.outputs, self.manifest.output_dims)):
            name = binding.name
            if any(not unknown.isdisjoint(dim.symbols) for dim in dims):
                waiting[index] = _Output(device, binding.dtype)
                self.allocators[name] = self.trt.set_allocator(self.handle, name, waiting[index])
                outputs.append(None)
                continue
            shape = tuple(int(dim.evaluate(values)) for dim in dims)
            inferred = self.inferred[index]
            if shape != inferred and -1 not in inferred:
                raise ConversionError(
                    f"{self.manifest.name}: TensorRT gives output {name!r} the shape {inferred}, "
                    f"the program promises {shape}",
                    advice="a converter builds something else than its op: leave ops to torch one by one with "
                    "torch_executed_ops until it goes away, and report the last one to its pack "
                    "(trtcore.explain names it)",
                )
            if self.plan.outputs[index].on_host:
                pinned = device.type == "cuda"
                output = torch.empty(shape, dtype=binding.dtype, device="cpu", pin_memory=pinned)
            else:
                output = torch.empty(shape, dtype=binding.dtype, device=device)
            memory = output if output.numel() else torch.empty(ALIGNMENT, dtype=torch.uint8, device=device)
            self.trt.set_address(self.handle, name, memory.data_ptr())
            outputs.append(output)
        return outputs, waiting
