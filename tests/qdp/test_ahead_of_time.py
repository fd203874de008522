"""Plugins compiled ahead of time against NVIDIA's own `tensorrt.plugin`."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from quick_plugins import IExprBuilder, Plugin

pytest.importorskip("triton")
sys.path.insert(0, str(Path(__file__).parent.parent / "plugins"))

from toy_kernels import BLOCK, accumulate, axpy, row_stats

from trtcore_plugins.ahead import read_parameters, scratch_parameters
from trtcore_plugins.quick import Registration

HOPPER = SimpleNamespace(target=SimpleNamespace(compute_capability=(9, 0)))
_registered: set[str] = set()


class Setter(dict[int, Any]):
    """TensorRT's list of a kernel's extra arguments."""

    nbSymExprs = 0  # TensorRT's name


class Launched:
    """What TensorRT learns of the launch of a plugin for inputs of some shapes; no dim is known at build time."""

    def __init__(
        self,
        trtp: ModuleType,
        backend: Any,
        kernel: Any,
        arguments: dict[str, Any],
        dtypes: list[torch.dtype],
        shapes: list[tuple[int, ...]],
    ) -> None:
        definition = kernel.definition((), HOPPER)
        if definition.name not in _registered:
            Registration(definition, backend, trtp).register()
            _registered.add(definition.name)
        plugin = Plugin(trtp, definition.name, definition.encode(arguments), ahead=True)
        types = [backend.trt_dtype(dtype) for dtype in dtypes]
        self.output_types, self.output_shapes, _ = plugin.outputs(types, shapes)
        every = [*types, *self.output_types], [*shapes, *self.output_shapes]
        dynamic = plugin.described(every[0], [tuple(-1 for _ in shape) for shape in every[1]])
        parameters, extra = SimpleNamespace(), Setter()
        builder = IExprBuilder(plugin.trt.DimensionOperation)
        plugin.plugin.get_launch_params(None, dynamic, len(shapes), parameters, extra, builder)
        self.parameters = {name: size.expr.value for name, size in vars(parameters).items()}
        self.extra = [extra[i].expr.value for i in range(extra.nbSymExprs)]
        self.asked = builder.asked
        described = [one.desc for one in dynamic]
        name, code = plugin.plugin.get_kernel(described[: len(shapes)], described[len(shapes) :])
        self.ptx = code.decode()
        assert f".entry {name}(" in self.ptx


@pytest.mark.parametrize("rows", [1, 3, BLOCK])
def test_launch_parameters_are_expressions_of_the_sizes(rows: int, trtp: ModuleType, backend: Any) -> None:
    shape = (rows, 77)
    found = Launched(trtp, backend, axpy, {"alpha": 0.5}, [torch.float16] * 2, [shape, shape])
    blocks = -(-rows * 77 // BLOCK)
    assert found.parameters == {
        "grid_x": blocks, "grid_y": 1, "grid_z": 1, "block_x": 128, "block_y": 1, "block_z": 1, "shared_mem": 0,
    }  # fmt: skip
    assert found.extra == [rows * 77]
    assert "CEIL_DIV" in found.asked


def test_the_kernels_parameters_are_what_tensorrt_gives(trtp: ModuleType, backend: Any) -> None:
    """Inputs, extra arguments, outputs; the outputs that nobody reads are where Triton's scratch pointers are."""
    found = Launched(trtp, backend, row_stats, {"threshold": 0.0}, [torch.bfloat16], [(5, 6, 300)])
    given = [".u64"] + [".u32"] * len(found.extra) + [".u64"] * len(found.output_types)
    assert read_parameters(found.ptx) == given
    assert found.output_shapes == [(5, 6), (5, 6)] + [(1,)] * scratch_parameters()
    assert found.output_types[:2] == [backend.trt_dtype(torch.float32), backend.trt_dtype(torch.int32)]
    assert (found.parameters["grid_x"], found.extra) == (30, [300])
    assert found.parameters["shared_mem"] > 0


def test_an_empty_tensor_still_has_a_block(trtp: ModuleType, backend: Any) -> None:
    found = Launched(trtp, backend, axpy, {"alpha": 1.0}, [torch.float32] * 2, [(0, 5), (0, 5)])
    assert (found.parameters["grid_x"], found.extra) == (1, [0])


def test_an_input_that_is_written(trtp: ModuleType, backend: Any) -> None:
    found = Launched(trtp, backend, accumulate, {}, [torch.float32] * 2, [(300,), (300,)])
    assert found.output_shapes[0] == (300,)
    assert read_parameters(found.ptx) == [".u64"] * 2 + [".u32"] + [".u64"] * len(found.output_types)
