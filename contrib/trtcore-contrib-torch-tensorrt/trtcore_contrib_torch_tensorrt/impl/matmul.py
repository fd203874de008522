"""Matrix products."""

from __future__ import annotations

from typing import Any

from trtcore_contrib_torch_tensorrt.converter_utils import broadcast, get_trt_tensor

__all__ = ["matrix_multiply"]


def matrix_multiply(
    ctx: Any,
    target: Any,
    source_ir: Any,
    name: str,
    input: Any,
    other: Any,
    input_matrix_op: Any = None,
    other_matrix_op: Any = None,
) -> Any:
    """``input @ other``, batch dims broadcast; 1-D operands are vectors.

    Args:
        input_matrix_op, other_matrix_op: ``trt.MatrixOperation``, NONE by default.
    """
    kinds = ctx.trt.MatrixOperation
    operations = [input_matrix_op or kinds.NONE, other_matrix_op or kinds.NONE]
    a, b = (get_trt_tensor(ctx, value, f"{name}_{i}") for i, value in enumerate((input, other)))
    vectors = [ctx.rank(operand) == 1 for operand in (a, b)]
    operations = [kinds.VECTOR if vector else operation for vector, operation in zip(vectors, operations)]
    a, b = broadcast(ctx, a, b, f"{name}_a", f"{name}_b", preset_diff=int(vectors[1]) - int(vectors[0]))
    return ctx.output(ctx.net.add_matrix_multiply(a, operations[0], b, operations[1]))
