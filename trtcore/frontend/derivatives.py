"""Models that differentiate: ``torch.func.grad``, ``jvp``, ``jacrev``, ``hessian`` in forward.

torch.export traces above the level at which derivatives are made, and loses there what a model differentiates: it
becomes a constant, without a word, or the trace fails. Such models are captured below that level.
"""

from __future__ import annotations

import traceback
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import torch
from torch.export import ExportedProgram

from trtcore.errors import TrtcoreError
from trtcore.ir.exported import derivatives_in
from trtcore.ir.torch_private import export, export_below_dispatch, is_transform_file


def export_differentiated(
    model: torch.nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any], shapes: Any, strict: bool
) -> ExportedProgram:
    """``torch.export.export``, and below the level of dispatch where the model differentiates."""
    try:
        ep = export(model, tuple(args), dict(kwargs), dynamic_shapes=shapes, strict=strict)
    except Exception as error:
        if isinstance(error, TrtcoreError) or not _in_transform(error):
            raise
        with suppress(Exception):
            return export_below_dispatch(model, tuple(args), dict(kwargs), shapes)
        raise
    if derivatives_in(ep) is None:
        return ep
    return export_below_dispatch(model, tuple(args), dict(kwargs), shapes)


def _in_transform(error: Exception) -> bool:
    """Whether an exception came out of a transform of torch's, or of what it calls."""
    frames = traceback.walk_tb(error.__traceback__)
    return "functorch" in str(error) or any(
        is_transform_file(frame.f_code.co_filename) for frame, _ in frames
    )
