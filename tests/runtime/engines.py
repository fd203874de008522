"""Tiny engines made by hand on the real TensorRT-RTX bindings, for the runtime's tests."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from trtcore.artifact.engine_file import EngineArtifact
from trtcore.artifact.manifest import EngineManifest, SizeBinding, TensorBinding
from trtcore.conversion.readback import take_snapshot
from trtcore_backends.tensorrt_rtx import RtxBackend

BACKEND = RtxBackend()

X = TensorBinding("x", torch.float32, ("s0", 4), ((1, 4), (2, 4), (8, 4)))
ROWS = {"s0": ("input", 0, 0, 1, 0)}


class Network:
    """An open network: `net` and `trt` as converters see them."""

    def __init__(self) -> None:
        self.trt = BACKEND.trt
        self.logger = BACKEND.make_logger()
        self.builder = BACKEND.make_builder(self.logger)
        self.net = self.builder.create_network(
            1 << int(self.trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
        )
        self.kept: list[Any] = []

    def constant(self, values: Any, dtype: Any = np.float32) -> Any:
        array = np.asarray(values, dtype=dtype)
        self.kept.append(array)
        return self.net.add_constant(array.shape, self.trt.Weights(array)).get_output(0)

    def sum(self, a: Any, b: Any) -> Any:
        return self.net.add_elementwise(a, b, self.trt.ElementWiseOperation.SUM).get_output(0)

    def relu(self, x: Any) -> Any:
        return self.net.add_activation(x, self.trt.ActivationType.RELU).get_output(0)


def make(
    body: Callable[..., Any],
    inputs: tuple[TensorBinding, ...],
    outputs: tuple[TensorBinding, ...],
    symbols: dict[str, Any] | None = None,
    sizes: tuple[SizeBinding, ...] = (),
    *,
    runtime: str = "reference",
    build: bool = False,
) -> EngineArtifact:
    """An engine of `body(network, *input tensors) -> output tensor(s)`; with `build`, a real plan."""
    network = Network()
    given = [
        network.net.add_input(
            b.name, BACKEND.trt_dtype(b.dtype), tuple(d if isinstance(d, int) else -1 for d in b.shape)
        )
        for b in inputs
    ]
    given += [network.net.add_input(s.name, network.trt.DataType.INT64, (1,)) for s in sizes]
    results = body(network, *given)
    for tensor, binding in zip(results if isinstance(results, tuple) else (results,), outputs):
        tensor.name = binding.name
        network.net.mark_output(tensor)
    snapshot = take_snapshot(network.trt, network.net)
    manifest = EngineManifest(
        id=uuid.uuid4().hex, name="engine_0", inputs=inputs, sizes=sizes, outputs=outputs,
        symbols=symbols or {}, backend=BACKEND.name, backend_version=str(BACKEND.version),
        target={"platform": "linux_x86_64"}, runtime=runtime, trtcore_version="0.1.0",
        torch_version=str(torch.__version__),
    )  # fmt: skip
    plan = _build(network, inputs, sizes) if build else torch.zeros(64, dtype=torch.uint8)
    return EngineArtifact(plan=plan, manifest=manifest, snapshot=snapshot)


def _build(
    network: Network, inputs: tuple[TensorBinding, ...], sizes: tuple[SizeBinding, ...]
) -> torch.Tensor:
    config = network.builder.create_builder_config()
    profile = network.builder.create_optimization_profile()
    for binding in inputs:
        if binding.profile is not None:
            profile.set_shape(binding.name, *binding.profile)
    for size in sizes:
        profile.set_shape_input(size.name, [size.min], [size.opt], [size.max])
    assert config.add_optimization_profile(profile) == 0
    plan = network.builder.build_serialized_network(network.net, config)
    assert plan is not None, network.logger.errors()
    return torch.frombuffer(bytearray(plan), dtype=torch.uint8)


def add_one(runtime: str = "reference", build: bool = False) -> EngineArtifact:
    """relu(x + 1) for x (s0 in 1..8, 4) float32."""
    out = TensorBinding("out", torch.float32, ("s0", 4))
    return make(
        lambda n, x: n.relu(n.sum(x, n.constant([[1.0, 1.0, 1.0, 1.0]]))), (X,), (out,), ROWS,
        runtime=runtime, build=build,
    )  # fmt: skip
