"""Small networks on real bindings for tests of the reference runtime."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from trtcore.artifact.snapshot import NetworkSnapshot
from trtcore.backend.builders import make_builder
from trtcore.conversion.readback import take_snapshot
from trtcore_backends.tensorrt_rtx import load
from trtcore_reference import compile_snapshot

trt = load()

_DTYPES = {
    torch.float32: trt.float32,
    torch.float16: trt.float16,
    torch.bfloat16: trt.bfloat16,
    torch.int32: trt.int32,
    torch.int64: trt.int64,
    torch.int8: trt.int8,
    torch.bool: trt.bool,
}


class Messages(trt.ILogger):
    """Keeps warnings and errors."""

    def __init__(self) -> None:
        trt.ILogger.__init__(self)
        self.lines: list[str] = []

    def log(self, severity: Any, text: str) -> None:
        if severity <= trt.ILogger.Severity.WARNING and "cudaError" not in text:
            self.lines.append(text)


messages = Messages()
_builder = make_builder(trt, messages)


class Network:
    """A strongly typed network under construction; constants are kept alive and recorded."""

    def __init__(self) -> None:
        self.net = _builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        self.weights: dict[tuple[int, str], torch.Tensor] = {}

    def input(self, like: torch.Tensor, shape: tuple[int, ...] | None = None) -> Any:
        name = f"x{self.net.num_inputs}"
        return self.net.add_input(name, _DTYPES[like.dtype], tuple(like.shape) if shape is None else shape)

    def constant(self, value: Any, dtype: torch.dtype | None = None) -> Any:
        tensor = torch.as_tensor(value, dtype=dtype).contiguous()
        self.weights[self.net.num_layers, "weights"] = tensor
        weights = trt.Weights(_DTYPES[tensor.dtype], tensor.data_ptr(), tensor.numel())
        return self.net.add_constant(tuple(tensor.shape), weights).get_output(0)

    def snapshot(self, *outputs: Any) -> NetworkSnapshot:
        for output in outputs:
            assert output.shape is not None  # TensorRT's shape errors appear here
            self.net.mark_output(output)
        return take_snapshot(trt, self.net, lambda index, role: self.weights.get((index, role)))


def run(
    build: Callable[..., Any], *inputs: torch.Tensor, shapes: tuple[tuple[int, ...], ...] | None = None
) -> Any:
    """Build a network with `build(network, *inputs)`, and run it in the reference runtime on `inputs`."""
    network = Network()
    made = [network.input(x, shapes[i] if shapes else None) for i, x in enumerate(inputs)]
    outputs = build(network, *made)
    many = isinstance(outputs, (tuple, list))
    snapshot = network.snapshot(*(outputs if many else (outputs,)))
    results = compile_snapshot(snapshot)(*inputs)
    for info, result in zip((snapshot.tensors[i] for i in snapshot.outputs), results, strict=True):
        assert result.dtype == info.dtype, info
        assert len(info.shape) == result.dim(), info
        assert all(n in (-1, m) for n, m in zip(info.shape, result.shape, strict=True)), (info, result.shape)
    return results if many else results[0]
