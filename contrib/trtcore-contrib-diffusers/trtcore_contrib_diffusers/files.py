"""A compiled pipeline's engines in a folder."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn
from torch.utils import _pytree as pytree

import trtcore
from trtcore.errors import ArtifactError, InputError
from trtcore.pack import atomic_write
from trtcore_contrib_diffusers.adapters import weights_of, without_adapters
from trtcore_contrib_diffusers.component import InEngines, component
from trtcore_contrib_diffusers.engines import Built, Engines, Form
from trtcore_contrib_diffusers.pipeline import copied, device_of
from trtcore_contrib_diffusers.recording import PLAIN, Calling
from trtcore_contrib_diffusers.support import check_pipeline, methods_of
from trtcore_contrib_diffusers.turns import Turns

Pipeline = TypeVar("Pipeline")

_INDEX, _SCHEMA = "pipeline.json", 1
_KINDS = {kind.__name__: kind for kind in PLAIN}
_SAMPLES = 64  # elements of each weight that are compared


def save_pipeline(pipe: Any, folder: str | os.PathLike[str]) -> None:
    """Save the engines of a compiled pipeline, for `load_pipeline`.

    The models themselves are not saved: ``pipe.save_pretrained`` of the pipeline that was compiled does it.

    Args:
        pipe: what `compile_pipeline` or `load_pipeline` returned.
        folder: made where it is not there; files of an older save are replaced.

    Raises:
        InputError: the pipeline has no engines.
        ArtifactError: a file cannot be written.
    """
    check_pipeline(pipe)
    found = {name: one._engines for name, one in pipe.components.items() if isinstance(one, InEngines)}
    if not found:
        raise InputError(
            f"the {type(pipe).__name__} has no engines to save", advice="give what compile_pipeline returned"
        )
    target = Path(folder)
    index: dict[str, Any] = {"schema": _SCHEMA, "pipeline": type(pipe).__name__, "components": {}}
    try:
        target.mkdir(parents=True, exist_ok=True)
        for name, engines in found.items():
            engines.follow_weights()
            index["serves"] = engines.serves
            index["components"][name] = _saved(engines, target)
        with atomic_write(target / _INDEX) as file:
            file.write(json.dumps(index, indent=1).encode())
    except OSError as error:
        raise ArtifactError(f"the pipeline cannot be saved to {target}: {error}") from error


def load_pipeline(
    pipe: Pipeline, folder: str | os.PathLike[str], *, offload: bool = False, runtime: str = "auto"
) -> Pipeline:
    """A pipeline with the engines that `save_pipeline` wrote. Nothing is run, captured or built.

    Args:
        pipe: a pipeline of the same class in torch, with the same models and weights; stays as it is.
        folder: what was written.
        offload: as of `compile_pipeline`.
        runtime: as of `trtcore.load`.

    Raises:
        ArtifactError: the folder is none that was saved, or damaged, or of other models or weights.
    """
    check_pipeline(pipe)
    source = Path(folder)
    index = _read(source)
    if index["pipeline"] != type(pipe).__name__:
        raise ArtifactError(
            f"{source} has the engines of a {index['pipeline']}, not of a {type(pipe).__name__}",
            advice="give a pipeline of that class",
        )
    made: Any = copied(pipe)
    turns = Turns() if offload else None
    for name, saved in index["components"].items():
        model = made.components.get(name)
        if not isinstance(model, nn.Module) or saved["weights"] != _digest(without_adapters(model)):
            raise ArtifactError(
                f"the {name} of the pipeline is not the one whose engines {source} has: its class, its configuration "
                "or its weights differ",
                advice="give the pipeline that was compiled, with the adapters that it had; or compile this one",
            )
        engines = Engines(name, index["pipeline"], index["serves"], model, device_of(model))
        for method, forms in saved["methods"].items():
            if method not in methods_of(model):
                raise _damaged(source, f"{name} has no method {method}")
            kinds = [_loaded(source, one, runtime) for one in forms]
            engines.add(Calling(model, method), {built.form.kind: built for built in kinds})
        engines.dtypes = {getattr(torch, dtype) for dtype in saved["dtypes"]}
        engines.take_turns(turns)
        setattr(made, name, component(engines))
    result: Pipeline = made
    return result


def _saved(engines: Engines, target: Path) -> dict[str, Any]:
    """A component's entry in the index, whose files are written."""
    methods: dict[str, list[Any]] = {}
    for method, kinds in engines.methods.items():
        for number, built in enumerate(kinds.values()):
            file = f"{engines.name}.{method}.{number}.pt2"
            trtcore.save(built.module, target / file)
            methods.setdefault(method, []).append({"file": file, **_form_to_json(built.form)})
    dtypes = sorted(str(dtype).removeprefix("torch.") for dtype in engines.dtypes)
    return {"weights": _digest(without_adapters(engines.model)), "dtypes": dtypes, "methods": methods}


def _form_to_json(form: Form) -> dict[str, Any]:
    spec, leaves = form.kind
    return {
        "arguments": json.loads(pytree.treespec_dumps(spec)),
        "leaves": [
            ["tensor", str(rest[0]).removeprefix("torch."), rest[1]]
            if first is torch.Tensor
            else [first.__name__, rest[0]]
            for first, *rest in leaves
        ],
        "profiles": form.profiles,
        "folded": {str(place): list(dims) for place, dims in form.folded.items()},
        "factor": form.factor,
    }


def _loaded(source: Path, saved: dict[str, Any], runtime: str) -> Built:
    file = saved["file"]
    if os.path.basename(file) != file:
        raise _damaged(source, f"{file!r} is no file of the folder")
    try:
        leaves = tuple(
            (torch.Tensor, getattr(torch, rest[0]), rest[1])
            if first == "tensor"
            else (_KINDS[first], rest[0])
            for first, *rest in saved["leaves"]
        )
        spec = pytree.treespec_loads(json.dumps(saved["arguments"]))
        profiles = tuple(
            tuple(tuple(None if shape is None else tuple(shape) for shape in shapes) for shapes in row)
            for row in saved["profiles"]
        )
        folded = {int(place): tuple(dims) for place, dims in saved["folded"].items()}
        form = Form((spec, leaves), profiles, folded, int(saved["factor"]))  # type: ignore[arg-type]
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, NotImplementedError) as error:
        raise _damaged(source, f"the entry of {file} cannot be read: {error}") from error
    return Built(trtcore.load(source / file, runtime=runtime), form)


def _read(source: Path) -> dict[str, Any]:
    try:
        index = json.loads((source / _INDEX).read_text())
    except OSError as error:
        raise ArtifactError(
            f"{source} is no folder of a saved pipeline: {error}", advice="give what save_pipeline wrote"
        ) from error
    except ValueError as error:
        raise _damaged(source, f"{_INDEX} is no JSON: {error}") from error
    if not isinstance(index, dict) or index.get("schema") != _SCHEMA:
        raise ArtifactError(
            f"{source} was written by another version of trtcore-contrib-diffusers",
            advice="compile the pipeline and save it with this version",
        )
    components = index.get("components")
    if not isinstance(components, dict) or not {"pipeline", "serves"} <= index.keys():
        raise _damaged(source, f"{_INDEX} lacks entries")
    for name, entry in components.items():
        if (
            not isinstance(entry, dict)
            or not isinstance(entry.get("methods"), dict)
            or "weights" not in entry
        ):
            raise _damaged(source, f"the entry of {name} cannot be read")
    return index


def _are_dtypes(names: Any) -> bool:
    return isinstance(names, list) and all(
        isinstance(getattr(torch, str(one), None), torch.dtype) for one in names
    )


def _damaged(source: Path, why: str) -> ArtifactError:
    return ArtifactError(f"{source} is damaged: {why}", advice="save the pipeline again")


def _digest(model: nn.Module) -> str:
    """Of the class, the configuration, and some elements of every weight."""
    config = getattr(model, "config", None)
    values = config.to_dict() if config is not None and hasattr(config, "to_dict") else dict(config or {})
    own = {key: repr(value) for key, value in values.items() if not key.startswith("_")}
    digest = hashlib.sha256(json.dumps([type(model).__name__, sorted(own.items())]).encode())
    for name, tensor in sorted(weights_of(model).items()):
        flat = tensor.detach().reshape(-1)
        step = max(1, flat.numel() // _SAMPLES)
        some = flat[::step].to("cpu", copy=True).contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(some.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
