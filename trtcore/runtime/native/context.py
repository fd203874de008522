"""One execution context: what has been set on it, and a run of it in every case there is.

The usual case (dense, aligned inputs of known shapes) is generated code, `fast.py`; it and this share the fields.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from trtcore.artifact.manifest import EngineManifest
from trtcore.errors import ConversionError
from trtcore.runtime.native.binding_plan import BindingPlan, choose_profile
from trtcore.runtime.native.bindings import Connection

# TensorRT wants memory aligned as cudaMalloc aligns it; torch's tensors are, views of them may not be.
ALIGNMENT = 256

Shapes = tuple[tuple[int, ...], ...]


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


class Context:
    """An execution context and what has been set on it: equal shapes and addresses cost nothing the second time.

    It holds no device memory: scratch and outputs are allocated anew for each call, on the caller's stream. Memory that
    outlives a call and was first allocated in it would be in the pool of a CUDA graph that happens to be recorded or
    warmed up, and be given to others with it.

    Args:
        manifest, plan: the engine's.
        trt: TensorRT.
        engine: its handle, kept alive.

    Attributes:
        set_address, set_memory, execute: TensorRT's own methods of this context.
        scratch: bytes of activation memory for the shapes set.
        scratch_address: where it was in the latest call.
        stream: the stream to execute on; the caller's but for the default one.
        ran: whether it has been executed: the first time may do what a capture forbids.
        p0, p1, ..., q0, q1, ...: addresses set for inputs and outputs.
        s0, s1, ..., t0, t1, ...: shapes and strides of the outputs for the shapes set, once these are known.
    """

    def __init__(self, manifest: EngineManifest, plan: BindingPlan, trt: Connection, engine: Any) -> None:
        self.manifest, self.plan, self.trt, self.engine = manifest, plan, trt, engine
        self.handle = trt.create_context(engine)
        self.set_address, self.set_memory, self.execute = trt.run_calls(self.handle)
        self.shapes: Shapes | None = None
        self.sizes: tuple[int, ...] | None = None
        self.wanted: int | None = None
        self.profile = 0
        self.scratch = 0
        self.scratch_address = 0
        self.stream = 0
        self.ran = False
        self.staged: list[torch.Tensor] = []
        self.allocators: dict[str, Any] = {}
        self.inferred: Shapes = ()
        self.addresses: dict[str, int] = {}
        for index in range(len(plan.inputs)):
            setattr(self, f"p{index}", 0)
        for index in range(len(plan.outputs)):
            setattr(self, f"q{index}", 0)

    def run(
        self,
        inputs: Sequence[torch.Tensor],
        sizes: Sequence[int],
        values: dict[str, int],
        device: torch.device,
        wanted: int | None,
    ) -> list[torch.Tensor]:
        """Queue one run on `stream`.

        Args:
            inputs, sizes, values: see `NativeEngine.run`.
            wanted: the optimisation profile that must be used, or None.
        """
        kept = self._set_inputs(inputs)  # before the shapes: some may be computed from their values
        self._set_shapes(inputs, sizes, device, wanted)
        outputs, waiting, kept_outputs = self._set_outputs(values, device)
        if self.scratch:
            memory = torch.empty(self.scratch, dtype=torch.uint8, device=device)
            if memory.data_ptr() != self.scratch_address:
                self.set_memory(memory.data_ptr(), self.scratch)
                self.scratch_address = memory.data_ptr()
            kept.append(memory)
        if not self.execute(self.stream):
            raise self.trt.refused("to run")
        self.ran = True
        del (
            kept,
            kept_outputs,
        )  # work is queued: torch's allocator gives memory only to later work of this stream
        for index, output in waiting.items():
            outputs[index] = output.tensor(self.plan.outputs[index].name)
        # Computed shapes come in (pinned) host memory; the copy is queued like the rest.
        return [output.to(device, non_blocking=True) for output in outputs if output is not None]

    def _address(self, slot: str, name: str, address: int) -> None:
        if getattr(self, slot) != address:
            if not self.set_address(name, address):
                raise self.trt.refused(f"the address of {name!r}")
            setattr(self, slot, address)

    def _set_shapes(
        self, inputs: Sequence[torch.Tensor], sizes: Sequence[int], device: torch.device, wanted: int | None
    ) -> None:
        shapes = tuple(tuple(tensor.shape) for tensor in inputs)
        if shapes == self.shapes and tuple(sizes) == self.sizes and wanted == self.wanted:
            if any(not tensor.on_host for tensor in self.plan.sizes):
                self._set_sizes(sizes, device)  # device memory does not outlive a call
            return
        self.shapes = None  # until all is set
        index = choose_profile(self.plan, shapes, sizes, wanted)
        if index != self.profile:
            self.trt.set_profile(self.handle, index, self.stream)
            self.profile = index
        for tensor, shape in zip(self.plan.inputs, shapes):
            self.trt.set_input_shape(self.handle, tensor.name, shape)
        for tensor in self.plan.sizes:
            self.trt.set_input_shape(self.handle, tensor.name, (1,))
        self._set_sizes(sizes, device)
        missing = self.trt.missing(self.handle)
        if missing:
            raise ConversionError(f"{self.manifest.name}: TensorRT lacks shape or value of {missing}")
        self.inferred = tuple(self.trt.output_shape(self.handle, t.name) for t in self.plan.outputs)
        size = self.trt.memory_size(self.handle)
        if size != self.scratch:
            self.scratch, self.scratch_address = size, 0
        if not any(tensor.on_host for tensor in self.plan.inputs):
            self.shapes, self.sizes, self.wanted = shapes, tuple(sizes), wanted

    def _set_sizes(self, sizes: Sequence[int], device: torch.device) -> None:
        # Fresh memory each time: an earlier run that is still queued may read the old values.
        self.staged = [
            torch.full((1,), size, dtype=torch.int64, device="cpu" if tensor.on_host else device)
            for tensor, size in zip(self.plan.sizes, sizes)
        ]
        for tensor, staged in zip(self.plan.sizes, self.staged):
            if not self.set_address(tensor.name, staged.data_ptr()):
                raise self.trt.refused(f"the address of {tensor.name!r}")

    def _set_inputs(self, inputs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Give TensorRT dense, aligned memory; returns what must outlive the queueing."""
        kept = []
        for index, (tensor, binding) in enumerate(zip(inputs, self.plan.inputs)):
            staged = tensor.cpu() if binding.on_host else tensor  # an input that shapes are computed from
            staged = staged.contiguous()
            if staged.data_ptr() % ALIGNMENT and not binding.on_host:
                staged = staged.clone(memory_format=torch.contiguous_format)
            if not staged.numel():  # TensorRT takes no null address
                staged = torch.empty(ALIGNMENT, dtype=torch.uint8, device=staged.device)
            kept.append(staged)
            self._address(f"p{index}", binding.name, staged.data_ptr())
        return kept

    def _set_outputs(
        self, values: dict[str, int], device: torch.device
    ) -> tuple[list[torch.Tensor | None], dict[int, _Output], list[torch.Tensor]]:
        outputs: list[torch.Tensor | None] = []
        waiting: dict[int, _Output] = {}
        kept: list[torch.Tensor] = []
        unknown = {name for name, _, _ in self.manifest.output_symbols}
        for index, (binding, dims) in enumerate(zip(self.manifest.outputs, self.manifest.output_dims)):
            name = binding.name
            if any(not unknown.isdisjoint(dim.symbols) for dim in dims):
                waiting[index] = _Output(device, binding.dtype)
                self.allocators[name] = self.trt.set_allocator(self.handle, name, waiting[index])
                outputs.append(None)
                continue
            shape = tuple(int(dim.evaluate(values)) for dim in dims)
            self._check_shape(index, shape)
            pinned = self.plan.outputs[index].on_host and device.type == "cuda"
            where = "cpu" if self.plan.outputs[index].on_host else device
            output = torch.empty(shape, dtype=binding.dtype, device=where, pin_memory=pinned)
            memory = output if output.numel() else torch.empty(ALIGNMENT, dtype=torch.uint8, device=device)
            kept.append(memory)
            self._address(f"q{index}", name, memory.data_ptr())
            setattr(self, f"s{index}", shape)
            setattr(self, f"t{index}", output.stride())
            outputs.append(output)
        return outputs, waiting, kept

    def _check_shape(self, index: int, shape: tuple[int, ...]) -> None:
        inferred = self.inferred[index]
        if shape != inferred and -1 not in inferred:
            raise ConversionError(
                f"{self.manifest.name}: TensorRT gives output {self.plan.outputs[index].name!r} the shape {inferred}, "
                f"the program promises {shape}",
                advice="a converter builds something else than its op: leave ops to torch one by one with "
                "torch_executed_ops until it goes away, and report the last one to its pack "
                "(trtcore.explain names it)",
            )
