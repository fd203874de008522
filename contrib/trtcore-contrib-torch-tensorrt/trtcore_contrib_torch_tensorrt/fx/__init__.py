"""`fx.GraphModule`s by the old frontend's names."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import Any

import torch

from trtcore_contrib_torch_tensorrt import _compile
from trtcore_contrib_torch_tensorrt._old_paths import give_old_paths
from trtcore_contrib_torch_tensorrt._told import told

__all__ = ["LowerPrecision", "compile"]


class LowerPrecision(Enum):
    """What engines may compute in beside float32."""

    FP32 = "fp32"
    FP16 = "fp16"
    INT8 = "int8"


def compile(
    module: torch.nn.Module,
    input: Sequence[Any],
    min_acc_module_size: int = 10,
    max_workspace_size: int = 0,
    lower_precision: Any = LowerPrecision.FP32,
    **kwargs: Any,
) -> Any:
    """Compile a module or a graph module.

    Args:
        input: its inputs.
        min_acc_module_size: the setting min_block_size.
        lower_precision: "fp16" is autocast to float16.
        **kwargs: settings by their old names; what only that frontend had is an error with the nearest names.
    """
    precision = LowerPrecision(lower_precision)
    precisions = {"fp16": {torch.float16}, "int8": {torch.int8}}.get(precision.value)
    for name in (
        "explicit_batch_dimension",
        "dynamic_batch",
        "is_aten",
        "use_experimental_fx_rt",
        "max_batch_size",
    ):
        kwargs.pop(name, None)  # batch sizes are the inputs'
    return _compile.compile(
        module,
        ir="fx" if isinstance(module, torch.fx.GraphModule) else "dynamo",
        inputs=input,
        enabled_precisions=precisions,
        min_block_size=min_acc_module_size,
        workspace_size=max_workspace_size,
        **kwargs,
    )


def __getattr__(name: str) -> Any:
    return told("fx", name)


give_old_paths("fx")
