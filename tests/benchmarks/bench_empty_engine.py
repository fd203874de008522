"""CPU time of a call over an engine that does nothing: module, engine, and the raw loop, beside one another.

``python tests/benchmarks/bench_empty_engine.py [cpu|cuda]``. The native runtime with a connection in the place of TensorRT
whose every method returns at once; on "cuda" with torch's allocator, streams and devices as they are. "Raw" is what any
caller must do: `torch.empty` for the outputs, an address per tensor, one execute. All are called in turn; the times are
those that a tenth of the calls stay under.
"""

from __future__ import annotations

import contextlib
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any
from unittest import mock

import torch
from bench_overhead import BETWEEN, Chain

import trtcore
from trtcore.ir.torch_private import empty_on_cpu
from trtcore.runtime import engine as engines
from trtcore.runtime.native.bindings import IOTensor

ROUNDS = 3000


class Handle:
    """An execution context that does nothing."""

    def set_tensor_address(self, name: str, address: int) -> bool:
        return True

    def set_device_memory(self, address: int, size: int) -> None:
        pass

    def execute_async_v3(self, stream: int) -> bool:
        return True


def empty_connection(manifest: Any, device: str, own_stream: bool) -> Any:
    """A `Connection` to nothing, for one engine."""
    from trtcore.runtime.native.cuda import Ambient, Cuda

    class Empty(Cuda):
        def ambient(self) -> Ambient:
            if device == "cuda":
                return super().ambient()
            return Ambient(lambda: -1, lambda index: 7, lambda: False, empty_on_cpu())

        def on_device(self, where: torch.device) -> Any:
            return super().on_device(where) if device == "cuda" else contextlib.nullcontext()

        def relaxed(self) -> Any:
            return super().relaxed() if device == "cuda" else contextlib.nullcontext()

        def deserialize(self, plan: torch.Tensor) -> Any:
            return "engine"

        def io_tensors(self, engine: Any) -> tuple[IOTensor, ...]:
            found = []
            for binding in (*manifest.inputs, *manifest.outputs):
                shape = tuple(dim if isinstance(dim, int) else -1 for dim in binding.shape)
                profiles = binding.all_profiles if binding in manifest.inputs else ()
                found.append(
                    IOTensor(binding.name, binding in manifest.inputs, binding.dtype, shape, False, profiles)
                )
            return tuple(found)

        def create_context(self, engine: Any) -> Any:
            return Handle()

        def run_calls(self, context: Any) -> Any:
            return context.set_tensor_address, context.set_device_memory, context.execute_async_v3

        def set_input_shape(self, context: Any, name: str, shape: Any) -> None:
            pass

        def missing(self, context: Any) -> list[str]:
            return []

        def output_shape(self, context: Any, name: str) -> tuple[int, ...]:
            binding = next(binding for binding in manifest.outputs if binding.name == name)
            return (-1,) * len(binding.shape)

        def memory_size(self, context: Any) -> int:
            return 4096

        def refused(self, what: str) -> Exception:
            return RuntimeError(what)

    return Empty()


def compiled(segments: int, device: str, dynamic: bool) -> Any:
    """A module whose engines are native, and empty."""
    x = torch.rand(4, 8, device=device)
    inputs = (
        trtcore.Input(min_shape=(1, 8), opt_shape=(4, 8), max_shape=(8, 8), device=device) if dynamic else x
    )
    options: dict[str, Any] = {} if segments == 1 else {"torch_executed_ops": {BETWEEN}}
    with torch.inference_mode(False):
        return trtcore.compile(Chain(segments), (inputs,), runtime="native", min_block_size=1, **options)


def fastest(*calls: Callable[[], Any]) -> list[float]:
    """Microseconds that a tenth of the calls of each stay under, called in turn."""
    times: list[list[float]] = [[] for _ in calls]
    for _ in range(ROUNDS):
        for call, found in zip(calls, times):
            start = time.perf_counter()
            call()
            found.append(time.perf_counter() - start)
    return [statistics.quantiles(found, n=10)[0] * 1e6 for found in times]


def raw(segments: int, device: str) -> Callable[[], Any]:
    """The loop over engines that do nothing, without any check."""
    handle, x = Handle(), torch.rand(4, 8, device=device)
    stream = torch.cuda.current_stream().cuda_stream if device == "cuda" else 7

    def call() -> torch.Tensor:
        y = x
        for index in range(segments):
            out = torch.empty((4, 8), device=device)
            handle.set_tensor_address("x", y.data_ptr())
            handle.set_tensor_address("y", out.data_ptr())
            handle.execute_async_v3(stream)
            y = out if index == segments - 1 else BETWEEN(out)
        return y

    return call


@torch.inference_mode()
def row(segments: int, device: str, dynamic: bool, own_stream: bool) -> list[float]:
    """Microseconds of the raw loop, of the engines alone (one segment), and of the module."""
    from trtcore.runtime.native import logic

    def native(manifest: Any, artifact: Any) -> Any:
        return logic.NativeEngine(
            manifest, artifact.plan, empty_connection(manifest, device, own_stream), device
        )

    x = torch.rand(4, 8, device=device)
    alignment = 256 if device == "cuda" else 64  # what torch's allocators give
    with mock.patch.object(engines, "_native", native), mock.patch.object(logic, "ALIGNMENT", alignment):
        module = compiled(segments, device, dynamic)
        module(x)
    return fastest(raw(segments, device), lambda: module(x))


def main() -> None:
    torch.set_num_threads(1)
    device = sys.argv[1] if len(sys.argv) > 1 else "cpu"
    print(f"| engines | shapes | stream | raw | module | over raw |\n{'|---' * 6}|")
    for own in (True, False) if device == "cuda" else (True,):
        for segments in (1, 5):
            for dynamic in (False, True):
                with (
                    torch.cuda.stream(torch.cuda.Stream())
                    if device == "cuda" and own
                    else contextlib.nullcontext()
                ):
                    bare, module = row(segments, device, dynamic, own)
                print(f"| {segments} | {'dynamic' if dynamic else 'static'} | {'own' if own else 'default'} "
                      f"| {bare:.1f} us | {module:.1f} us | {module - bare:.1f} us |", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
