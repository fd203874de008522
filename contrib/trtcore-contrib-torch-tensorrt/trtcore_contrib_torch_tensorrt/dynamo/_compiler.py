"""The dynamo entry points by their old names and arguments."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

import torch

import trtcore
from trtcore import errors
from trtcore_contrib_torch_tensorrt._arguments import one_of, refuse_binding_names
from trtcore_contrib_torch_tensorrt._engine_module import remembering
from trtcore_contrib_torch_tensorrt._Input import as_inputs
from trtcore_contrib_torch_tensorrt._settings import as_settings, split
from trtcore_contrib_torch_tensorrt._told import NotHereError

__all__ = [
    "compile",
    "convert_exported_program_to_serialized_trt_engine",
    "cross_compile_for_windows",
    "export",
    "load_cross_compiled_exported_program",
    "refit_module_weights",
    "save_cross_compiled_exported_program",
    "trace",
]


def trace(
    mod: Any,
    inputs: Sequence[Any] | None = None,
    *,
    arg_inputs: Sequence[Any] | None = None,
    kwarg_inputs: Mapping[str, Any] | None = None,
    **kwargs: Any,
) -> torch.export.ExportedProgram:
    """Export a model from example tensors and `Input`s; dims with a range become dynamic.

    Args:
        **kwargs: settings, which a capture does not look at, and strict=, which it does not need; dynamic_shapes is an
            error that says what to write.
    """
    _, rest = split(kwargs)
    if rest.pop("dynamic_shapes", None) is not None:
        raise NotHereError(
            "trace(dynamic_shapes=...): ranges come from the inputs",
            advice="give Input(min_shape=, opt_shape=, max_shape=), or call torch.export.export yourself",
        )
    if rest:
        raise errors.InputError(f"trace has no argument {next(iter(rest))!r}")
    if isinstance(mod, torch.export.ExportedProgram):
        return mod
    keywords = as_inputs(dict(kwarg_inputs)) if kwarg_inputs else None
    return trtcore.dynamo.trace(mod, **one_of(inputs, arg_inputs), kwarg_inputs=keywords)


def compile(
    exported_program: Any,
    inputs: Sequence[Any] | None = None,
    *,
    arg_inputs: Sequence[Any] | None = None,
    kwarg_inputs: Mapping[str, Any] | None = None,
    **kwargs: Any,
) -> Any:
    """Compile an ExportedProgram (or a module) ahead of time; `kwargs` are settings by their old names."""
    keywords = as_inputs(dict(kwarg_inputs)) if kwarg_inputs else None
    return trtcore.dynamo.compile(
        exported_program, **one_of(inputs, arg_inputs), kwarg_inputs=keywords, **as_settings(kwargs)
    )


def convert_exported_program_to_serialized_trt_engine(
    exported_program: Any,
    inputs: Sequence[Any] | None = None,
    *,
    arg_inputs: Sequence[Any] | None = None,
    kwarg_inputs: Mapping[str, Any] | None = None,
    **kwargs: Any,
) -> bytes:
    """A whole program as one serialised engine."""
    given = dict(kwargs)
    refuse_binding_names(given)
    keywords = as_inputs(dict(kwarg_inputs)) if kwarg_inputs else None
    settings = as_settings(given)
    return remembering(
        lambda: trtcore.dynamo.convert_exported_program_to_serialized_trt_engine(
            exported_program, **one_of(inputs, arg_inputs), kwarg_inputs=keywords, **settings
        )
    )


def refit_module_weights(
    compiled_module: Any,
    new_weight_module: torch.export.ExportedProgram,
    arg_inputs: Any = None,
    kwarg_inputs: Any = None,
    verify_output: bool = False,
    use_weight_map_cache: bool = True,
    in_place: bool = False,
) -> Any:
    """A compiled module with another program's weights. Not in place, unless asked; see `trtcore.dynamo`."""
    given = None if arg_inputs is None else one_of(arg_inputs, None)["arg_inputs"]
    return trtcore.dynamo.refit_module_weights(
        compiled_module,
        new_weight_module,
        given,
        as_inputs(dict(kwarg_inputs)) if kwarg_inputs else None,
        verify_output,
        use_weight_map_cache,
        in_place,
    )


def export(gm: Any, cross_compile_module: bool = False, **kwargs: Any) -> torch.export.ExportedProgram:
    """A compiled module as an ExportedProgram, whose engines are calls of ``trtcore::execute_engine``.

    Raises:
        NotHereError: cross_compile_module=True.
        ArtifactError: `gm` is no compiled module.
    """
    if cross_compile_module:
        raise NotHereError(
            "export(cross_compile_module=True): a program with engines for Windows is a file's",
            advice="torch_tensorrt.dynamo.save_cross_compiled_exported_program(module, path)",
        )
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "module.pt2")
        trtcore.save(gm, path)
        return torch.export.load(path)


def cross_compile_for_windows(
    exported_program: Any,
    inputs: Sequence[Any] | None = None,
    *,
    arg_inputs: Sequence[Any] | None = None,
    kwarg_inputs: Mapping[str, Any] | None = None,
    **kwargs: Any,
) -> Any:
    """As `compile`, on Linux, with engines that run on Windows: see `trtcore.dynamo.cross_compile_for_windows`.

    Raises:
        SettingsError: the backend builds for no other platform, as TensorRT for RTX.
    """
    keywords = as_inputs(dict(kwarg_inputs)) if kwarg_inputs else None
    return trtcore.dynamo.cross_compile_for_windows(
        exported_program, **one_of(inputs, arg_inputs), kwarg_inputs=keywords, **as_settings(kwargs)
    )


def save_cross_compiled_exported_program(gm: Any, file_path: str) -> None:
    """Save what `cross_compile_for_windows` gave.

    Raises:
        ArtifactError: an engine of the module is for another platform.
    """
    trtcore.dynamo.save_cross_compiled_exported_program(gm, file_path)


def load_cross_compiled_exported_program(file_path: str = "") -> Any:
    """Load such a file, on Windows.

    Raises:
        BackendUnavailableError: this is not Windows.
    """
    return trtcore.dynamo.load_cross_compiled_exported_program(file_path)
