"""The old home of the decorator, its priorities and validators."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from trtcore_contrib_torch_tensorrt._registry import (
    CallingConvention,
    ConverterPriority,
    dynamo_tensorrt_converter,
    has_dynamic_shapes_in_args,
    has_static_shapes,
    has_static_shapes_in_args,
    node_has_dynamic_shapes,
    qualified_name_or_str,
)
from trtcore_contrib_torch_tensorrt._told import NotHereError, told

__all__ = [
    "CallingConvention",
    "ConverterPriority",
    "ConverterRegistry",
    "DynamoConverterImplSignature",
    "dynamo_tensorrt_converter",
    "has_dynamic_shapes_in_args",
    "has_static_shapes",
    "has_static_shapes_in_args",
    "node_has_dynamic_shapes",
]

DynamoConverterImplSignature = ConverterImplSignature = Callable[..., Any]


class ConverterRegistry:
    """Here for its static method; making one raises `NotHereError`."""

    qualified_name_or_str = staticmethod(qualified_name_or_str)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        raise NotHereError(
            "ConverterRegistry: converters are ordered by trtcore",
            advice="trtcore.explain(model, inputs=[...]) says per node which one is chosen, and why not another",
        )


def __getattr__(name: str) -> Any:
    return told("dynamo.conversion._ConverterRegistry", name)
