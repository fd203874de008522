"""Models that differentiate: ``torch.func.grad``, ``jvp``, ``jacrev``, ``hessian`` in forward.

torch.export traces above the level at which derivatives are made, and loses there what a model differentiates: it
becomes a constant, without a word, or the trace fails. Such models are captured below that level.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext, suppress
from typing import Any

import torch
from torch.export import ExportedProgram

from trtcore.errors import TrtcoreError
from trtcore.ir.exported import derivatives_in
from trtcore.ir.torch_private import (
    Transforms,
    export,
    export_below_dispatch,
    transforms_undone,
    transforms_watched,
)


def export_differentiated(
    model: torch.nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any], shapes: Any, strict: bool
) -> ExportedProgram:
    """``torch.export.export``, and below the level of dispatch where the model differentiates, or runs transforms that
    the level above fails on."""
    try:
        # Dynamo, which traces with strict=True, looks at the functions that would be watched.
        with nullcontext(Transforms()) if strict else transforms_watched() as seen, transforms_undone():
            ep = export(model, tuple(args), dict(kwargs), dynamic_shapes=shapes, strict=strict)
    except Exception as error:
        if isinstance(error, TrtcoreError):
            raise
        if seen.entered or "functorch" in str(error):
            with suppress(Exception), transforms_undone():
                return export_below_dispatch(model, tuple(args), dict(kwargs), shapes)
        raise
    if not seen.differentiated and derivatives_in(ep) is None:
        return ep
    return export_below_dispatch(model, tuple(args), dict(kwargs), shapes)
