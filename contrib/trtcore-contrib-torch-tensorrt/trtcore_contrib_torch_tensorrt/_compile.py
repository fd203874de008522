"""`compile`, `save`, `load` and what is beside them, by their old names and arguments."""

from __future__ import annotations

import os
import types
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

import trtcore
from trtcore import errors
from trtcore_contrib_torch_tensorrt._arguments import one_of, refuse_binding_names
from trtcore_contrib_torch_tensorrt._engine_module import remembering
from trtcore_contrib_torch_tensorrt._Input import as_inputs
from trtcore_contrib_torch_tensorrt._settings import as_settings
from trtcore_contrib_torch_tensorrt._told import NotHereError

__all__ = [
    "compile",
    "convert_method_to_trt_engine",
    "cross_compile_for_windows",
    "load",
    "load_cross_compiled_exported_program",
    "save",
    "torch_compile",
]

_IRS = {
    "default": "dynamo",
    "dynamo": "dynamo",
    "exported_program": "dynamo",
    "torch_compile": "torch_compile",
    "ts": "ts",
    "torchscript": "ts",
    "fx": "fx",
}


def compile(
    module: Any,
    ir: str = "default",
    inputs: Sequence[Any] | None = None,
    arg_inputs: Sequence[Any] | None = None,
    kwarg_inputs: Mapping[str, Any] | None = None,
    enabled_precisions: Any = None,
    **kwargs: Any,
) -> Any:
    """Compile a model, by any `ir`: "default" and "dynamo" ahead of time, "torch_compile" at the first call, "ts" for
    ScriptModules, "fx" for `fx.GraphModule`s.

    Args:
        module: an `nn.Module`, `ExportedProgram`, `fx.GraphModule` or `ScriptModule`.
        inputs, arg_inputs: the same thing: tensors, `Input`s, trees of them; one of the two.
        kwarg_inputs: keyword inputs.
        enabled_precisions: a setting; float16 or bfloat16 in it means autocast.
        **kwargs: settings by their old names.

    Raises:
        SettingsError, InputError, NotHereError, and what `trtcore.compile` raises.
    """
    if ir not in _IRS:
        raise errors.SettingsError(f"ir={ir!r}: it must be one of {', '.join(map(repr, _IRS))}")
    given = (
        dict(kwargs) if enabled_precisions is None else {**kwargs, "enabled_precisions": enabled_precisions}
    )
    kind = _IRS[ir]
    if isinstance(module, torch.jit.ScriptModule) and ir == "default":
        kind = "ts"
    if kind == "torch_compile":
        return torch_compile(module, **given)
    return trtcore.compile(
        module,
        **one_of(inputs, arg_inputs),
        kwarg_inputs=as_inputs(dict(kwarg_inputs)) if kwarg_inputs else None,
        ir=kind,
        **as_settings(given),
    )


def torch_compile(module: torch.nn.Module, **kwargs: Any) -> Any:
    """What ``torch.compile(module, backend="torch_tensorrt", dynamic=False, options=kwargs)`` returns."""
    from trtcore_contrib_torch_tensorrt.dynamo.backend.backends import torch_tensorrt_backend

    as_settings(kwargs)  # what cannot be is said now, not at the first call
    return torch.compile(module, backend=torch_tensorrt_backend, dynamic=False, options=dict(kwargs))


def convert_method_to_trt_engine(
    module: Any,
    method_name: str = "forward",
    inputs: Sequence[Any] | None = None,
    arg_inputs: Sequence[Any] | None = None,
    kwarg_inputs: Mapping[str, Any] | None = None,
    ir: str = "default",
    enabled_precisions: Any = None,
    **kwargs: Any,
) -> bytes:
    """A model as one serialised engine, whose bytes load in plain TensorRT.

    Raises:
        NotHereError: another method than forward, or ir="torch_compile".
        UnsupportedOperatorError: something has no converter; the message names it.
    """
    if method_name != "forward":
        raise NotHereError(
            f"convert_method_to_trt_engine(method_name={method_name!r}): a compile takes forward",
            advice=f"give a module whose forward calls {method_name}",
        )
    if _IRS.get(ir) == "torch_compile":
        raise NotHereError(
            "convert_method_to_trt_engine(ir='torch_compile'): torch.compile makes engines at calls, and keeps them",
            advice="use ir='dynamo'",
        )
    given = (
        dict(kwargs) if enabled_precisions is None else {**kwargs, "enabled_precisions": enabled_precisions}
    )
    refuse_binding_names(given)
    positional = one_of(inputs, arg_inputs)
    keywords = as_inputs(dict(kwarg_inputs)) if kwarg_inputs else None
    settings = as_settings(given)
    return remembering(
        lambda: trtcore.dynamo.convert_exported_program_to_serialized_trt_engine(
            module, **positional, kwarg_inputs=keywords, **settings
        )
    )


def save(
    module: Any,
    file_path: str | os.PathLike[str] = "",
    *,
    output_format: str = "exported_program",
    inputs: Sequence[Any] | None = None,
    arg_inputs: Sequence[Any] | None = None,
    kwarg_inputs: Mapping[str, Any] | None = None,
    retrace: bool = True,
    **kwargs: Any,
) -> None:
    """Save a compiled module, or an ExportedProgram or ScriptModule as it is.

    Args:
        output_format: "exported_program"; "torchscript" for a ScriptModule alone.
        inputs, arg_inputs, kwarg_inputs: not needed: the file has the shapes that the module was compiled for.
        retrace: no difference here.
        **kwargs: use_legacy_exporter, pickle_protocol, dynamic_shapes, extra_files: taken where they change nothing.

    Raises:
        NotHereError: another format, or an argument that asks for what is not here.
        ArtifactError: as `trtcore.save`.
    """
    if not file_path:
        raise errors.InputError("save needs a path", advice='save(module, "model.pt2", inputs=[x])')
    _refuse_save_arguments(kwargs)
    if isinstance(module, torch.export.ExportedProgram):
        return torch.export.save(module, os.fspath(file_path))
    if isinstance(module, torch.jit.ScriptModule):
        return torch.jit.save(module, os.fspath(file_path))
    if output_format != "exported_program":
        raise NotHereError(
            f"save(output_format={output_format!r}) is not here: the file is an exported program",
            advice="leave output_format out; for C++ write the bytes of convert_method_to_trt_engine to a file",
        )
    given = inputs if inputs is not None else arg_inputs
    if any(not isinstance(leaf, torch.Tensor) for leaf in given or ()):
        given = None  # shapes that the file has anyway
    return trtcore.save(module, file_path, given, kwarg_inputs=kwarg_inputs if given is not None else None)


def _refuse_save_arguments(kwargs: dict[str, Any]) -> None:
    harmless = {"use_legacy_exporter", "pickle_protocol", "dynamic_shapes"}
    for name, value in kwargs.items():
        if name in harmless or value is None or value == {}:
            continue
        raise NotHereError(
            f"save({name}=...) is not here", advice="leave it out; what it holds goes into a file beside"
        )


def load(
    file_path: str | os.PathLike[str] = "", extra_files: dict[str, Any] | None = None, **kwargs: Any
) -> Any:
    """Load what `save` wrote, or any other exported program or ScriptModule.

    Returns:
        a compiled module, whose ``module()`` is itself, so that ``load(path).module()`` is what it was; or an
        ExportedProgram; or a ScriptModule.

    Raises:
        ArtifactError: as `trtcore.load`, for a file that trtcore wrote.
        InputError: no such file, or none of these.
    """
    if extra_files:
        raise NotHereError("load(extra_files=...) is not here", advice="read them from a file beside")
    path = Path(os.fspath(file_path))
    if not path.is_file():
        raise errors.InputError(f"there is no file {os.fspath(file_path)!r}")
    try:
        compiled = trtcore.load(path)
    except errors.ArtifactError as error:
        return _other(path, error)
    compiled.module = types.MethodType(_itself, compiled)
    return compiled


def _itself(compiled: Any) -> Any:
    return compiled


def _other(path: Path, error: errors.ArtifactError) -> Any:
    """A file that trtcore did not write: an exported program or a ScriptModule of torch's."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.namelist()
    except zipfile.BadZipFile:
        raise error from None
    if any("trtcore" in name for name in members):  # damaged, or of another version
        raise error
    script = any(name.endswith("/constants.pkl") for name in members)
    try:
        return torch.jit.load(path) if script else torch.export.load(path)
    except Exception as other:
        raise errors.InputError(
            f"{path} is no exported program, ScriptModule or compiled module: {other}"
        ) from other


def cross_compile_for_windows(
    module: torch.nn.Module,
    file_path: str,
    inputs: Sequence[Any] | None = None,
    arg_inputs: Sequence[Any] | None = None,
    kwarg_inputs: Mapping[str, Any] | None = None,
    enabled_precisions: Any = None,
    **kwargs: Any,
) -> None:
    """Compile a module on Linux for Windows, into a file.

    Raises:
        SettingsError: the backend builds for no other platform, as TensorRT for RTX.
    """
    given = (
        dict(kwargs) if enabled_precisions is None else {**kwargs, "enabled_precisions": enabled_precisions}
    )
    keywords = as_inputs(dict(kwarg_inputs)) if kwarg_inputs else None
    compiled = trtcore.dynamo.cross_compile_for_windows(
        module, **one_of(inputs, arg_inputs), kwarg_inputs=keywords, **as_settings(given)
    )
    trtcore.dynamo.save_cross_compiled_exported_program(compiled, file_path)


def load_cross_compiled_exported_program(file_path: str = "") -> Any:
    """Load such a file, on Windows.

    Raises:
        BackendUnavailableError: this is not Windows.
    """
    return trtcore.dynamo.load_cross_compiled_exported_program(file_path)
