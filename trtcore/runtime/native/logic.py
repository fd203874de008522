"""What the native runtime decides; TensorRT and CUDA are behind a `Connection` (bindings.py).

Per device: one deserialised engine. A context is used by one call at a time, and always on the stream that it was
first used on: idle ones are kept by stream and shapes, so calls of many threads run side by side, and a shape that
comes again finds a context that is set for it. Nothing here waits for the GPU, and nothing on the GPU that a call
allocates outlives it. Calls that are captured into a CUDA graph have contexts of the graph's own (captures.py).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from trtcore.artifact.manifest import EngineManifest
from trtcore.errors import InputError
from trtcore.runtime.checks import output_device
from trtcore.runtime.native import captures
from trtcore.runtime.native.binding_plan import make_binding_plan
from trtcore.runtime.native.bindings import Connection, GivenWeights
from trtcore.runtime.native.context import ALIGNMENT, Context, Shapes
from trtcore.runtime.native.fast import Ready, make_fast, ready_key
from trtcore.runtime.profiles import chosen, chosen_profile

_MOST_CONTEXTS = 8  # per stream: beyond, the one of the oldest shapes is set anew
_MOST_KEYS = 64  # shapes per stream that are remembered


class NativeEngine:
    """Runs one plan on any number of GPUs.

    Args:
        manifest: what the engine takes and gives; checked against the plan when a device first uses it.
        plan: uint8, 1-D, on the CPU.
        connection: TensorRT.
        device_type: where inputs must be; "cuda" but in tests.
        weights: gives the weights that the plan lacks, and which of them it must take; None where it has them all.

    Attributes:
        fast: (inputs, sizes) -> outputs, for the usual call; None for one that `run` must do.
        fast_checked: as `fast`, for inputs that the caller has checked as `accepts` does.
    """

    def __init__(
        self,
        manifest: EngineManifest,
        plan: torch.Tensor,
        connection: Connection,
        device_type: str = "cuda",
        weights: Callable[[], GivenWeights] | None = None,
    ) -> None:
        self._weights = weights
        self._manifest, self._plan, self._trt, self._device_type = manifest, plan, connection, device_type
        self._devices: dict[int, _DeviceEngine] = {}
        self._lock = threading.Lock()
        self._ready: Ready = {}
        given = manifest, self._ready, connection.ambient(), ALIGNMENT, connection.refused
        self.fast, self.fast_checked = make_fast(*given), make_fast(*given, checked=True)

    def run(self, inputs: list[torch.Tensor], sizes: list[int], values: dict[str, int]) -> list[torch.Tensor]:
        """Queue one run on the current stream of the inputs' device.

        Args:
            inputs, sizes: checked against the manifest.
            values: the symbols' values, see `EngineManifest.solve`.

        Raises:
            InputError: inputs are not on a GPU; or the call is captured, and the engine reads or writes host memory.
            BackendUnavailableError: the plan cannot be read here.
            NativeError: TensorRT refused the run.
        """
        device, wanted = self._device(inputs), chosen_profile(self._manifest.id)
        with self._trt.on_device(device):
            ambient = self._trt.ambient()
            index = ambient.current_device()
            stream = ambient.raw_stream(index)
            engine = self._devices.get(index) or self._open(index)
            key = ready_key(self._manifest, index, stream, inputs, sizes, chosen())
            if ambient.capturing():
                return engine.captured(key, stream, inputs, sizes, values, device, wanted)
            return engine.run(key, stream, inputs, sizes, values, device, wanted)

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

    def _open(self, index: int) -> _DeviceEngine:
        with self._lock:
            if index not in self._devices:
                given = None if self._weights is None else self._weights()
                with self._trt.relaxed():  # another thread may be capturing
                    made = _DeviceEngine(self._manifest, self._plan, self._trt, index, self._ready, given)
                self._devices[index] = made
            return self._devices[index]

    def run_profiled(
        self,
        inputs: list[torch.Tensor],
        sizes: list[int],
        values: dict[str, int],
        told: Callable[[str, float], None],
    ) -> list[torch.Tensor]:
        """As `run`, in a context of its own with TensorRT's profiler, which waits for the GPU.

        Args:
            told: called with the name and the milliseconds of each layer.
        """
        device = self._device(inputs)
        with self._trt.on_device(device), self._trt.relaxed():
            ambient = self._trt.ambient()
            index = ambient.current_device()
            engine = self._devices.get(index) or self._open(index)
            context = Context(self._manifest, engine.binding_plan, self._trt, engine.handle)
            context.stream = self._trt.execution_stream(index, ambient.raw_stream(index))
            wanted = chosen_profile(self._manifest.id)
            context.run(inputs, sizes, values, device, wanted)  # the first run does more than a run
            profiler = self._trt.set_profiler(context.handle, told)
            outputs = context.run(inputs, sizes, values, device, wanted)
            del profiler
        return outputs

    def described(self) -> tuple[int, str]:
        """Bytes of activation memory, and TensorRT's own description of the engine on the current device, as JSON."""
        index = self._trt.ambient().current_device()
        engine = self._devices.get(index) or self._open(index)
        return self._trt.describe(engine.handle)

    def handle(self) -> Any:
        """TensorRT's engine on the current device, opened where it is not yet."""
        index = self._trt.ambient().current_device()
        return (self._devices.get(index) or self._open(index)).handle

    def streaming(self) -> tuple[int, int, int]:
        """Of the engine on the current device: bytes of weights that can be streamed (0 where it was not built for it),
        bytes of them that are on the GPU, and bytes that TensorRT would keep there."""
        return self._trt.streaming(self.handle())

    def set_streaming_budget(self, budget: int) -> None:
        """Bytes of weights that may be on the current device. No call may be running."""
        handle = self.handle()
        with self._lock:
            self._ready.clear()
            for engine in self._devices.values():
                engine.forget_contexts()
            self._trt.set_streaming_budget(handle, budget)

    def release(self) -> None:
        """Free engines and idle contexts on every device; the next run sets them up again."""
        with self._lock:
            self._ready.clear()
            self._devices.clear()


class _DeviceEngine:
    """The engine on one device, and the contexts that have been made of it.

    Attributes:
        spares: contexts that a graph has given back.
    """

    def __init__(
        self,
        manifest: EngineManifest,
        plan: torch.Tensor,
        connection: Connection,
        index: int,
        ready: Ready,
        weights: GivenWeights | None = None,
    ) -> None:
        self._trt, self._manifest, self._index, self._ready = connection, manifest, index, ready
        self.handle = connection.deserialize(plan)
        if weights is not None:
            connection.refit(self.handle, *weights)
        self.binding_plan = make_binding_plan(manifest, connection.io_tensors(self.handle))
        self.spares: list[Context] = []
        self._usual = (
            not self.binding_plan.in_host_memory
            and self.binding_plan.sizes_on_host
            and not manifest.output_symbols
        )
        self._idle: dict[int, list[Context]] = {}  # by stream, where calls are never usual
        self._keys: dict[int, list[Hashable]] = {}  # of `_ready`, by stream, the oldest first
        self._made: dict[int, int] = {}
        self._lock = threading.Lock()

    # ---- eager calls --------------------------------------------------------------------------------

    def run(
        self,
        key: Hashable,
        stream: int,
        inputs: Sequence[torch.Tensor],
        sizes: Sequence[int],
        values: dict[str, int],
        device: torch.device,
        wanted: int | None,
    ) -> list[torch.Tensor]:
        context = self._take(key, stream)
        with self._first_run(context):
            outputs = context.run(inputs, sizes, values, device, wanted)
        self._give(key, stream, context, inputs, outputs)  # not after an error: its state is unknown
        return outputs

    def _first_run(self, context: Context) -> AbstractContextManager[None]:
        return nullcontext() if context.ran else self._trt.relaxed()

    def _take(self, key: Hashable, stream: int) -> Context:
        with self._lock:
            pools = [self._ready.get(key), self._idle.get(stream)]
            if self._usual and self._made.get(stream, 0) >= _MOST_CONTEXTS:
                pools += [self._ready.get(other) for other in self._keys.get(stream, ())]
            for pool in pools:
                try:
                    if pool:
                        return pool.pop()
                except IndexError:  # a call in another thread was faster
                    pass
            self._made[stream] = self._made.get(stream, 0) + 1
        captures.sweep()
        with self._trt.relaxed():
            context = self._spare() or Context(self._manifest, self.binding_plan, self._trt, self.handle)
            context.stream = self._trt.execution_stream(self._index, stream)
        return context

    def _give(
        self,
        key: Hashable,
        stream: int,
        context: Context,
        inputs: Sequence[torch.Tensor],
        outputs: Sequence[torch.Tensor],
    ) -> None:
        with self._lock:
            if self._manifest.dynamic_resources:
                self._made[stream] = self._made.get(stream, 1) - 1
                return
            if not self._usual or not all(tensor.numel() for tensor in (*inputs, *outputs)):
                self._idle.setdefault(stream, []).append(context)
                return
            if key not in self._ready:
                keys = self._keys.setdefault(stream, [])
                keys.append(key)
                if len(keys) > _MOST_KEYS:
                    self._ready.pop(keys.pop(0), None)
                self._ready[key] = []
            self._ready[key].append(context)

    def forget_contexts(self) -> None:
        """Drop all contexts but those of CUDA graphs."""
        with self._lock:
            for known in (self._idle, self._keys, self._made, self.spares):
                known.clear()

    # ---- captured calls -----------------------------------------------------------------------------

    def captured(
        self,
        key: Hashable,
        stream: int,
        inputs: Sequence[torch.Tensor],
        sizes: Sequence[int],
        values: dict[str, int],
        device: torch.device,
        wanted: int | None,
    ) -> list[torch.Tensor]:
        """A call that is captured into a CUDA graph, in a context of the graph's own."""
        self._refuse_host_memory()
        captures.sweep()
        key = self._trt.capture_number(stream), stream, key
        context = captures.held(key, self)
        if context is None:
            context = self._warmed_up(inputs, sizes, values, device, wanted)
            captures.hold(self._trt.graph_token(stream), context, key, self)
        context.stream = stream
        return context.run(inputs, sizes, values, device, wanted)

    def _spare(self, shapes: Shapes | None = None) -> Context | None:
        """A context that a graph has given back, better one of these shapes."""
        with self._lock:
            fitting = [one for one in self.spares if one.shapes == shapes] or self.spares
            if not fitting:
                return None
            chosen = fitting[0]
            self.spares.remove(chosen)
            return chosen

    def _refuse_host_memory(self) -> None:
        name = self.binding_plan.in_host_memory
        if not name and (self._manifest.output_symbols or not self.binding_plan.sizes_on_host):
            name = next(iter(self._manifest.output_symbols), ("a size",))[0]
        if name:
            raise InputError(
                f"{self._manifest.name} cannot be captured into a CUDA graph: {name!r} is read or written on the host "
                "in every call",
                advice="call this module without a CUDA graph, or leave the ops whose sizes depend on data to torch "
                "(torch_executed_ops)",
            )

    def _warmed_up(
        self,
        inputs: Sequence[torch.Tensor],
        sizes: Sequence[int],
        values: dict[str, int],
        device: torch.device,
        wanted: int | None,
    ) -> Context:
        """A context that has run these shapes once, outside of the capture: the first run does what captures forbid."""
        shapes = tuple(tuple(tensor.shape) for tensor in inputs)
        context = self._spare(shapes)
        if context is not None and (context.shapes, context.sizes, context.wanted) == (
            shapes, tuple(sizes), wanted,
        ):  # fmt: skip
            return context
        with self._trt.relaxed(), self._trt.side_stream(device) as side:
            if context is None:
                context = Context(self._manifest, self.binding_plan, self._trt, self.handle)
            context.stream = side
            zeros = [torch.zeros(tensor.shape, dtype=tensor.dtype, device=device) for tensor in inputs]
            context.run(zeros, sizes, values, device, wanted)
        return context
