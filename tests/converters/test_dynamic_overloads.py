"""Overloads that torch.export makes of no sample input: called as they are, on sizes that vary.

Each is compiled once with a dynamic size and compared with eager at its min, opt, max and between; the rows are the
overloads that docs/dynamic.md lists as reached by this table.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
import torch.ao.quantization.fx._decomposed

from trtcore.testing import assert_converts

aten = torch.ops.aten
quantized = torch.ops.quantized_decomposed
SIZES = (2, 4, 7)
Call = Callable[..., Any]


def floats(*shape: int) -> torch.Tensor:
    return torch.randn(shape)


def ints(*shape: int) -> torch.Tensor:
    return torch.randint(1, 6, shape)


BITS: dict[Any, Call] = {
    aten.__lshift__.Tensor: lambda op, x: op(x, x),
    aten.__rshift__.Tensor: lambda op, x: op(x, x),
    aten.__xor__.Scalar: lambda op, x: op(x, 3),
    aten.bitwise_and.Scalar: lambda op, x: op(x, 3),
    aten.bitwise_and.Scalar_Tensor: lambda op, x: op(3, x),
    aten.bitwise_left_shift.Scalar_Tensor: lambda op, x: op(3, x),
    aten.bitwise_left_shift.Tensor_Scalar: lambda op, x: op(x, 2),
    aten.bitwise_or.Scalar: lambda op, x: op(x, 3),
    aten.bitwise_or.Scalar_Tensor: lambda op, x: op(3, x),
    aten.bitwise_right_shift.Scalar_Tensor: lambda op, x: op(300, x),
    aten.bitwise_right_shift.Tensor_Scalar: lambda op, x: op(x, 1),
    aten.bitwise_xor.Scalar_Tensor: lambda op, x: op(3, x),
    aten.remainder.Scalar_Tensor: lambda op, x: op(7, x),
    aten.floor_divide.Scalar: lambda op, x: op(x, 2),
    aten.div.Scalar_mode: lambda op, x: op(x, 2, rounding_mode="floor"),
}
POINTWISE: dict[Any, Call] = {
    aten.alpha_dropout.default: lambda op, x: op(x * 2, 0.5, False),
    aten.feature_dropout.default: lambda op, x: op(x, 0.5, False),
    aten.clip.default: lambda op, x: op(x, -0.5, 0.5),
    aten.true_divide.Scalar: lambda op, x: op(x, 3),
    aten.to.dtype_layout: lambda op, x: op(x, dtype=torch.float16),
    aten.to.other: lambda op, x: op(x, torch.ones(1, dtype=torch.float16)),
    aten._prelu_kernel.default: lambda op, x: op(x, torch.full((1, 6, 1), 0.2)),
    aten.norm.ScalarOpt_dim_dtype: lambda op, x: op(x.half(), 2, [1], False, dtype=torch.float32),
    aten.norm.ScalarOpt_dtype: lambda op, x: op(x.half(), 2, dtype=torch.float32),
    aten.concat.default: lambda op, x: op([x, x], 1),
    aten.lift_fresh_copy.default: lambda op, x: op(x),
    aten.unsafe_split_with_sizes.default: lambda op, x: op(x, [2, 4], 1)[1],
    aten.scatter.value_reduce: lambda op, x: op(x, 1, torch.zeros(1, 1, 1).long(), 2.0, reduce="multiply"),
}
MADE: dict[Any, Call] = {
    aten.eye.m: lambda op, x: op(x.shape[0], x.shape[0] + 1),
    aten.empty_strided.default: lambda op, x: (op((x.shape[0], 2), (2, 1)) * 0).nan_to_num() + x[:, :2, 0],
}
WINDOWS: dict[Any, Call] = {
    aten._adaptive_avg_pool2d.default: lambda op, x: op(x, [1, 1]),
    aten._adaptive_avg_pool3d.default: lambda op, x: op(x[:, :, None], [1, 1, 1]),
    aten.adaptive_max_pool1d.default: lambda op, x: op(x[:, 0], [1])[0],
    aten.max_pool1d_with_indices.default: lambda op, x: op(x[:, 0], [2], [1])[0],
    aten.max_pool3d.default: lambda op, x: op(x[:, :, None], [1, 2, 2], [1, 1, 1]),
    aten.max_pool3d_with_indices.default: lambda op, x: op(x[:, :, None], [1, 2, 2], [1, 1, 1])[0],
    aten._pad_circular.default: lambda op, x: op(x, [1, 1, 1, 0]),
    aten.reflection_pad1d.default: lambda op, x: op(x[:, 0], [1, 1]),
    aten.reflection_pad2d.default: lambda op, x: op(x, [1, 1, 1, 0]),
    aten.reflection_pad3d.default: lambda op, x: op(x[:, :, None], [1, 1, 1, 0, 0, 0]),
    aten.replication_pad1d.default: lambda op, x: op(x[:, 0], [1, 1]),
    aten.replication_pad2d.default: lambda op, x: op(x, [1, 1, 1, 0]),
    aten.replication_pad3d.default: lambda op, x: op(x[:, :, None], [1, 1, 1, 0, 2, 0]),
}
RESIZED: dict[Any, Call] = {
    aten._upsample_nearest_exact1d.default: lambda op, x: op(x[:, 0], [9]),
    aten._upsample_nearest_exact2d.default: lambda op, x: op(x, [9, 5]),
    aten._upsample_nearest_exact3d.default: lambda op, x: op(x[:, :, None], [2, 9, 5]),
    aten._upsample_nearest_exact3d.vec: lambda op, x: op(x[:, :, None], None, [2.0, 2.0, 2.0]),
    aten.upsample_nearest1d.default: lambda op, x: op(x[:, 0], [9]),
    aten.upsample_nearest2d.default: lambda op, x: op(x, [9, 5]),
    aten.upsample_nearest3d.default: lambda op, x: op(x[:, :, None], [2, 9, 5]),
    aten.upsample_nearest3d.vec: lambda op, x: op(x[:, :, None], None, [2.0, 2.0, 2.0]),
    aten.upsample_linear1d.default: lambda op, x: op(x[:, 0], [9], False),
    aten.upsample_bilinear2d.default: lambda op, x: op(x, [9, 5], True),
    aten.upsample_bicubic2d.default: lambda op, x: op(x, [9, 5], False),
    aten.upsample_trilinear3d.default: lambda op, x: op(x[:, :, None], [2, 9, 5], False),
}
NORM = (torch.rand(3), torch.rand(3), torch.rand(3), torch.rand(3))
BATCHED: dict[Any, Call] = {
    aten._upsample_bicubic2d_aa.default: lambda op, x: op(x, [3, 5], False),
    aten._upsample_bilinear2d_aa.default: lambda op, x: op(x, [3, 5], False),
    aten._batch_norm_no_update.default: lambda op, x: op(x, *NORM, 0.1, 1e-5)[0],
    aten._batch_norm_with_update_functional.default: lambda op, x: op(x, *NORM, 0.1, 1e-5)[0],
    aten._native_batch_norm_legit_no_training.default: lambda op, x: op(x, *NORM, 0.1, 1e-5)[0],
    aten.max_pool1d.default: lambda op, x: op(x[:, 0], [2], [1]),
    aten.native_group_norm.default: lambda op, x: op(x, None, None, x.shape[0], 3, 24, 3, 1e-5)[0],
}  # fmt: skip
TABLES: dict[Any, Call] = {
    aten.embedding_bag.default: lambda op, x: op(torch.ones(6, 3), x, torch.tensor([0, 1]))[0],
    aten._embedding_bag.default: lambda op, x: op(torch.ones(6, 3), x, torch.tensor([0, 1]))[0],
    aten._embedding_bag_forward_only.default: lambda op, x: op(torch.ones(6, 3), x, torch.tensor([0, 1]))[0],
}
SCALE, ZERO = torch.full((3,), 0.05), torch.zeros(3, dtype=torch.int64)
QUANTISED: dict[Any, Call] = {
    quantized.quantize_per_channel.default: lambda op, x: quantized.dequantize_per_channel.default(
        op(x, SCALE, ZERO, 1, -128, 127, torch.int8), SCALE, ZERO, 1, -128, 127, torch.int8
    ),
    quantized.quantize_per_tensor.tensor: lambda op, x: quantized.dequantize_per_tensor.tensor(
        op(x, SCALE[0], ZERO[0], -128, 127, torch.int8), SCALE[0], ZERO[0], -128, 127, torch.int8
    ),
}
GROUPS: list[tuple[str, dict[Any, Call], torch.Tensor, Sequence[int]]] = [
    ("bits", BITS, ints(4, 3), (0, 1)),
    ("pointwise", POINTWISE, floats(4, 6, 4), (0, 2)),
    ("made", MADE, floats(4, 3, 3), (0,)),
    ("windows", WINDOWS, floats(2, 3, 4, 4), (2, 3)),
    ("resized", RESIZED, floats(2, 3, 4, 4), (0, 2, 3)),
    ("batched", BATCHED, floats(4, 3, 4, 6), (0,)),
    ("tables", TABLES, ints(4), (0,)),
    ("quantised", QUANTISED, floats(4, 3, 4), (0, 2)),
]


@pytest.mark.parametrize(
    ("calls", "x", "dims"), [group[1:] for group in GROUPS], ids=[group[0] for group in GROUPS]
)
def test_overloads(calls: dict[Any, Call], x: torch.Tensor, dims: Sequence[int]) -> None:
    def run(x: torch.Tensor) -> Any:
        return tuple(call(op, x) for op, call in calls.items())

    proof = assert_converts(run, (x,), dynamic={0: dict.fromkeys(dims, SIZES)})
    converted = {node.op for node in proof.report.nodes if node.in_engine}
    assert sorted(str(op) for op in calls if str(op) not in converted) == []
