"""Generated kernels as plugins against NVIDIA's own `tensorrt.plugin`: shapes, launch parameters, the PTX's parameters."""

from __future__ import annotations

import random
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from quick_plugins import IExprBuilder, Plugin

pytest.importorskip("triton")

import trtcore
from trtcore_plugins.ahead import read_parameters, scratch_parameters
from trtcore_plugins.codegen.op import run
from trtcore_plugins.codegen.plugin import program_plugin
from trtcore_plugins.codegen.program import Program
from trtcore_plugins.codegen.trace import program_of
from trtcore_plugins.quick import Registration
from trtcore_plugins.tracing import TensorSpec, symbol_name

HOPPER = SimpleNamespace(target=SimpleNamespace(compute_capability=(9, 0)))
F32, F16 = torch.float32, torch.float16
_registered: set[str] = set()

# function, examples; dims of size 1 stay, all others vary, and the equal ones together
PROGRAMS: dict[str, tuple[Any, list[torch.Tensor]]] = {
    "broadcast": (lambda x, w, c: torch.tanh(x * w) + c, [torch.randn(3, 5, 7), torch.randn(7), torch.randn(3, 5, 1)]),
    "normalisation": (lambda x, w: x * (x.square().mean(-1, keepdim=True) + 1e-6).rsqrt() * w, [torch.randn(4, 9), torch.randn(9)]),
    "several results": (lambda x: torch.max(x * 2, -1, keepdim=True), [torch.randn(4, 9).half()]),
    "down columns": (lambda x: x.sum(0), [torch.randn(30, 9)]),
    "transposed": (lambda x, y: x.mT.contiguous() * y, [torch.randn(5, 3), torch.randn(3, 5)]),
}  # fmt: skip


def planned(name: str) -> tuple[Program, Any, list[TensorSpec], list[list[int]]]:
    """A program, its plugin for dims that vary, and which axis of its domain each dim is."""
    function, examples = PROGRAMS[name]
    program = program_of(function, *examples)
    specs = [TensorSpec(x.dtype, tuple(None if size > 1 else 1 for size in x.shape)) for x in examples]
    bounds = {symbol_name(i, d): 512 for i, x in enumerate(examples) for d in range(x.dim())}
    return program, program_plugin(program, specs, bounds), specs, [list(one.axes) for one in program.inputs]


def as_tensorrt(trtp: ModuleType, backend: Any, plugin: Any) -> Plugin:
    definition = plugin.definition((), HOPPER)
    if definition.name not in _registered:
        Registration(definition, backend, trtp).register()
        _registered.add(definition.name)
    return Plugin(trtp, definition.name, definition.encode({}), ahead=True)


@pytest.mark.parametrize("name", PROGRAMS)
def test_shapes_at_100_sizes(name: str, trtp: ModuleType, backend: Any) -> None:
    """The outputs' shapes are those of ``trtcore_fused::run``; their dtypes too."""
    program, plugin, specs, axes = planned(name)
    driven = as_tensorrt(trtp, backend, plugin)
    types = [backend.trt_dtype(spec.dtype) for spec in specs]
    randoms = random.Random(name)
    for _ in range(100):
        sizes = [randoms.choice((1, 2, randoms.randint(3, 500))) for _ in range(program.rank)]
        shapes = [tuple(1 if axis < 0 else sizes[axis] for axis in one) for one in axes]
        fakes = [torch.empty(shape, dtype=spec.dtype, device="meta") for shape, spec in zip(shapes, specs)]
        expected = run(fakes, [], program.text)
        found_types, found, _ = driven.outputs(types, shapes)
        count = len(expected)
        assert found == [tuple(one.shape) for one in expected] + [(1,)] * scratch_parameters()
        assert found_types[:count] == [backend.trt_dtype(one.dtype) for one in expected]


@pytest.mark.parametrize("name", PROGRAMS)
def test_the_ptx_takes_what_tensorrt_gives(name: str, trtp: ModuleType, backend: Any) -> None:
    """Inputs, extra arguments, outputs (and those that nobody reads): the PTX's parameters, in this order."""
    program, plugin, specs, axes = planned(name)
    driven = as_tensorrt(trtp, backend, plugin)
    sizes = [40 + axis for axis in range(program.rank)]
    shapes = [tuple(1 if axis < 0 else sizes[axis] for axis in one) for one in axes]
    types = [backend.trt_dtype(spec.dtype) for spec in specs]
    output_types, output_shapes, _ = driven.outputs(types, shapes)
    every = [*shapes, *output_shapes]
    dynamic = driven.described([*types, *output_types], [tuple(-1 for _ in shape) for shape in every])
    parameters, extra = SimpleNamespace(), _Setter()
    driven.plugin.get_launch_params(
        None, dynamic, len(shapes), parameters, extra, IExprBuilder(driven.trt.DimensionOperation)
    )
    described = [one.desc for one in dynamic]
    kernel, code = driven.plugin.get_kernel(described[: len(shapes)], described[len(shapes) :])
    ptx = code.decode()
    assert f".entry {kernel}(" in ptx
    given = [".u64"] * len(shapes) + [".u32"] * extra.nbSymExprs + [".u64"] * len(output_types)
    assert read_parameters(ptx) == given


class _Setter(dict[int, Any]):
    """TensorRT's list of a kernel's extra arguments."""

    nbSymExprs = 0  # TensorRT's name


class Layers(torch.nn.Module):
    """Two kernels in one graph."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.softmax(torch.tanh(torch.cumsum(torch.sigmoid(x) * 2, -1)), -1)


def test_several_programs_of_one_graph_are_several_plugins(
    trtp: ModuleType, backend: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Placed by the converter: each under its name, registered once, with an output of the network per result."""
    from trtcore_plugins import quick
    from trtcore_plugins.codegen.plugin import FusedKernels

    x = trtcore.Input(min_shape=(2, 6), opt_shape=(4, 6), max_shape=(64, 6))
    named = ["aten.sigmoid", "aten.mul", "aten.tanh", "aten.softmax", "aten._softmax"]
    graph = trtcore.compile(Layers(), inputs=[x], min_block_size=1, fused_ops=named).graph
    calls = [node for node in graph.nodes if node.target is run]
    assert len(calls) == 2
    placed: list[tuple[str, int, bool]] = []

    class Context:
        """What a converter asks of a network with plugin layers."""

        target = HOPPER.target

        def __init__(self, node: torch.fx.Node) -> None:
            self.node, self.backend = node, backend

        def tensor(self, value: Any) -> Any:
            return value

        def plugin(self, name: str, inputs: Any, attributes: Any, *, ahead_of_time: bool) -> str:
            placed.append((name, len(inputs), ahead_of_time))
            return name

        def output(self, layer: str, index: int) -> tuple[str, int]:
            return layer, index

    monkeypatch.setattr(quick, "plugin_module", lambda backend: trtp)
    for _ in range(2):
        for call in calls:
            results = FusedKernels().place(Context(call), *call.args)  # type: ignore[arg-type]
            assert results == [(placed[-1][0], 0)]
    names = [name for name, _, _ in placed]
    assert len(set(names)) == 2
    assert names[:2] == names[2:]
    assert all((inputs, ahead) == (1, True) for _, inputs, ahead in placed)
