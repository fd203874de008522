"""Collectives between processes: refusals, since engines here run in one process."""

from __future__ import annotations

from typing import Any, NoReturn

from trtcore.pack import ConversionError

__all__ = [
    "nccl_all_gather",
    "nccl_all_gather_native",
    "nccl_all_reduce",
    "nccl_all_reduce_native",
    "nccl_all_to_all_native",
    "nccl_gather",
    "nccl_gather_native",
    "nccl_reduce_scatter",
    "nccl_reduce_scatter_native",
    "nccl_scatter_native",
]


def _refuse(what: str) -> NoReturn:
    raise ConversionError(
        f"{what}: an engine has no collectives here",
        advice="leave the op without a converter: it runs in torch between engines; use_distributed_mode_trace=True "
        "traces tensor parallel models",
    )


def nccl_all_gather(ctx: Any, target: Any, source_ir: Any, name: str, plug_inputs: Any) -> NoReturn:
    """Refused: see the error."""
    _refuse("nccl_all_gather")


def nccl_all_gather_native(
    ctx: Any, target: Any, source_ir: Any, name: str, plug_inputs: Any, group_name: str | None = None
) -> NoReturn:
    """Refused: see the error."""
    _refuse("nccl_all_gather_native")


def nccl_all_reduce(ctx: Any, target: Any, source_ir: Any, name: str, plug_inputs: Any) -> NoReturn:
    """Refused: see the error."""
    _refuse("nccl_all_reduce")


def nccl_all_reduce_native(
    ctx: Any,
    target: Any,
    source_ir: Any,
    name: str,
    plug_inputs: Any,
    reduce_op: str = "sum",
    group_name: str | None = None,
) -> NoReturn:
    """Refused: see the error."""
    _refuse("nccl_all_reduce_native")


def nccl_all_to_all_native(
    ctx: Any, target: Any, source_ir: Any, name: str, plug_inputs: Any, group_name: str | None = None
) -> NoReturn:
    """Refused: see the error."""
    _refuse("nccl_all_to_all_native")


def nccl_gather(ctx: Any, target: Any, source_ir: Any, name: str, plug_inputs: Any) -> NoReturn:
    """Refused: see the error."""
    _refuse("nccl_gather")


def nccl_gather_native(
    ctx: Any,
    target: Any,
    source_ir: Any,
    name: str,
    plug_inputs: Any,
    root: int = 0,
    group_name: str | None = None,
) -> NoReturn:
    """Refused: see the error."""
    _refuse("nccl_gather_native")


def nccl_reduce_scatter(ctx: Any, target: Any, source_ir: Any, name: str, plug_inputs: Any) -> NoReturn:
    """Refused: see the error."""
    _refuse("nccl_reduce_scatter")


def nccl_reduce_scatter_native(
    ctx: Any,
    target: Any,
    source_ir: Any,
    name: str,
    plug_inputs: Any,
    reduce_op: str = "sum",
    group_name: str | None = None,
) -> NoReturn:
    """Refused: see the error."""
    _refuse("nccl_reduce_scatter_native")


def nccl_scatter_native(
    ctx: Any,
    target: Any,
    source_ir: Any,
    name: str,
    plug_inputs: Any,
    root: int = 0,
    group_name: str | None = None,
) -> NoReturn:
    """Refused: see the error."""
    _refuse("nccl_scatter_native")
