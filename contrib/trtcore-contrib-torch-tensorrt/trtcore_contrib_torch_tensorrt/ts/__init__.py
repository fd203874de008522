"""ScriptModules by the old frontend's names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from trtcore_contrib_torch_tensorrt import _compile
from trtcore_contrib_torch_tensorrt._told import NotHereError, told

__all__ = ["compile", "convert_method_to_trt_engine"]


def compile(
    module: torch.jit.ScriptModule,
    inputs: Sequence[Any] | None = None,
    input_signature: Any = None,
    enabled_precisions: Any = None,
    **kwargs: Any,
) -> Any:
    """Compile a ScriptModule. What comes back is a compiled module, which `torch_tensorrt.save` saves: no ScriptModule.

    Args:
        input_signature: inputs as a tree; the same as `inputs`.
        **kwargs: settings by their old names.
    """
    given = inputs if inputs is not None else input_signature
    return _compile.compile(
        module, ir="ts", inputs=given, enabled_precisions=enabled_precisions, **_settings(kwargs)
    )


def convert_method_to_trt_engine(
    module: torch.jit.ScriptModule,
    inputs: Sequence[Any] | None = None,
    method_name: str = "forward",
    enabled_precisions: Any = None,
    **kwargs: Any,
) -> bytes:
    """A ScriptModule as one serialised engine."""
    return _compile.convert_method_to_trt_engine(
        module,
        method_name,
        inputs=inputs,
        ir="ts",
        enabled_precisions=enabled_precisions,
        **_settings(kwargs),
    )


def _settings(kwargs: dict[str, Any]) -> dict[str, Any]:
    given = dict(kwargs)
    if "capability" in given:
        given["engine_capability"] = given.pop("capability")
    if given.pop("calibrator", None) is not None:
        raise NotHereError(
            "calibrator=...: engines are strongly typed, and calibration is no part of a build",
            advice="quantise the model with torchao or ModelOpt, export it, and compile that",
        )
    return given


def __getattr__(name: str) -> Any:
    return told("ts", name)
