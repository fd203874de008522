"""Ops of a collective and its wait, which converter files name. No graph here has them: collectives stay in torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn

from trtcore_contrib_torch_tensorrt._told import NotHereError, told

__all__ = [
    "tensorrt_fused_nccl_all_gather_op",
    "tensorrt_fused_nccl_all_reduce_op",
    "tensorrt_fused_nccl_all_to_all_op",
    "tensorrt_fused_nccl_gather_op",
    "tensorrt_fused_nccl_reduce_scatter_op",
    "tensorrt_fused_nccl_scatter_op",
]


def _tell(name: str, instead: str) -> NoReturn:
    raise NotHereError(
        f"tensorrt_fused_nccl_{name}_op is not here: a collective and its wait are ops of the graph",
        advice=f"call torch.distributed.{instead}, which runs in torch between engines",
    )


def tensorrt_fused_nccl_all_gather_op(inp: Any, group_size: int, group_name: str) -> NoReturn:
    """For converters' keys; a call tells."""
    _tell("all_gather", "_functional_collectives.all_gather_tensor")


def tensorrt_fused_nccl_reduce_scatter_op(
    inp: Any, reduce_op: str, group_size: int, group_name: str
) -> NoReturn:
    """For converters' keys; a call tells."""
    _tell("reduce_scatter", "_functional_collectives.reduce_scatter_tensor")


def tensorrt_fused_nccl_all_reduce_op(inp: Any, reduce_op: str, group_name: str) -> NoReturn:
    """For converters' keys; a call tells."""
    _tell("all_reduce", "_functional_collectives.all_reduce")


def tensorrt_fused_nccl_all_to_all_op(
    inp: Any, output_split_sizes: Sequence[int], input_split_sizes: Sequence[int], group_name: str
) -> NoReturn:
    """For converters' keys; a call tells."""
    _tell("all_to_all", "_functional_collectives.all_to_all_single")


def tensorrt_fused_nccl_gather_op(inp: Any, root: int, group_name: str) -> NoReturn:
    """For converters' keys; a call tells."""
    _tell("gather", "gather")


def tensorrt_fused_nccl_scatter_op(inp: Any, root: int, group_name: str) -> NoReturn:
    """For converters' keys; a call tells."""
    _tell("scatter", "scatter")


def __getattr__(name: str) -> Any:
    return told("dynamo.lowering.passes.fuse_distributed_ops", name)
