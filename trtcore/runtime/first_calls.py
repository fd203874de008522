"""A look at what the first calls of a module return, where it computes in less than float32."""

from __future__ import annotations

import re
import warnings
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils import _pytree as pytree

from trtcore.ir.torch_private import FakeTensor
from trtcore.report.data import Report

_CALLS = 3
_ADVICE = {
    "float16": "float16 holds at most 65504. With autocast, bfloat16 holds what float32 does "
    "(autocast_low_precision_type=torch.bfloat16), and nodes with large results stay in float32 where "
    "autocast_calibration_dataloader shows them, or autocast_excluded_nodes names them and what reads them; a "
    "model.half() can be a model.bfloat16()",
    "bfloat16": "keep the node in float32 with autocast_excluded_nodes",
    "": "calibrate the model on inputs like these",
}


@dataclass
class FirstCalls:
    """How often results are still looked at, and what is said of those that are not finite.

    The look waits for the GPU; it is left out where a CUDA graph is being captured.
    """

    lowest: str
    left: int = _CALLS

    @classmethod
    def of(cls, report: Report) -> FirstCalls | None:
        """None where every engine computes in float32."""
        found = {
            name
            for node in report.converted
            for text in (*node.outputs, node.computes)
            for name in ("float16", "bfloat16")
            if text.startswith(name)
        }
        if found:
            return cls("float16" if "float16" in found else "bfloat16")
        quantised = any(re.search("int|float[48]", node.computes) for node in report.converted)
        return cls("") if quantised else None

    def look(self, arguments: Any, results: Any) -> None:
        """Warn of NaN and positive infinities among the results, unless an input was not finite already.

        Negative infinities alone are what models mask scores with.
        """
        if not self.left or _is_watched(results):
            return
        self.left -= 1
        faults = [
            (name, one) for name, one in named_floats(results) if bool((one.isnan() | one.isposinf()).any())
        ]
        if not faults or not all(bool(one.isfinite().all()) for one in floats(arguments)):
            return
        self.left = 0
        name, result = faults[0]
        precision = f" in {self.lowest}" if self.lowest else ", quantised,"
        warnings.warn(
            f"computed{precision} {name} {not_finite(result)}: {_ADVICE[self.lowest]}. trtcore.debug.compare(model, "
            "inputs) finds the first op whose value differs from eager's",
            UserWarning,
            stacklevel=3,
        )


def floats(tree: Any) -> list[torch.Tensor]:
    """The floating-point tensors among arguments."""
    leaves = pytree.tree_leaves(tree)
    return [one for one in leaves if isinstance(one, torch.Tensor) and one.is_floating_point()]


def named_floats(results: Any) -> list[tuple[str, torch.Tensor]]:
    """The floating-point tensors that have elements among results, each with words for its place."""
    leaves, _ = pytree.tree_flatten_with_path(results)
    return [
        ("the output" + (" " + pytree.keystr(path) if path else ""), leaf)
        for path, leaf in leaves
        if isinstance(leaf, torch.Tensor) and leaf.is_floating_point() and leaf.numel()
    ]


def not_finite(result: torch.Tensor) -> str:
    """How many elements are not finite, in words."""
    bad = int((~result.isfinite()).sum())
    return f"has {bad} of {result.numel()} elements that are not finite ({int(result.isnan().sum())} of them NaN)"


def _is_watched(results: Any) -> bool:
    """Whether values cannot be read: of a trace, or of a call that a CUDA graph records."""
    if any(isinstance(one, FakeTensor) or one.is_meta for one in floats(results)):
        return True
    return torch.cuda.is_available() and torch.cuda.is_current_stream_capturing()
