"""Mutable modules in files: weights and engines, as data. The model's code is the reader's."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from trtcore._version import __version__
from trtcore.artifact.engine_file import EngineArtifact, map_and_unlink
from trtcore.errors import ArtifactError, SettingsError
from trtcore.paths import atomic_write, temporary_file
from trtcore.runtime.recipe import Recipe
from trtcore.settings import CompilationSettings

if TYPE_CHECKING:
    from trtcore.mutable.calls import Calls

FORMAT = 1
_HEAD, _STATE = "mutable.json", "weights.safetensors"
_CHUNK = 16 << 20


def save(calls: Calls, path: str | os.PathLike[str]) -> None:
    """Write a mutable module's weights and engines; see `MutableModule.save`."""
    from safetensors.torch import save as to_bytes

    tensors, ties = _distinct(calls.model.state_dict())
    engines = calls.engines()
    head = {
        "format": FORMAT,
        "trtcore": __version__,
        "recipe": Recipe(calls.settings).to_json(),
        "ties": ties,
        "engines": len(engines),
    }
    try:
        with atomic_write(path) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
            archive.writestr(_HEAD, json.dumps(head))
            archive.writestr(_STATE, to_bytes(tensors))
            for number, engine in enumerate(engines):
                with archive.open(f"engines/{number}.engine", "w", force_zip64=True) as member:
                    data = engine.to_tensor().numpy().data  # with the manifest that it has now
                    for start in range(0, len(data), _CHUNK):
                        member.write(data[start : start + _CHUNK])
    except OSError as error:
        raise ArtifactError(f"{os.fspath(path)} cannot be written: {error}") from error


def load(
    path: str | os.PathLike[str], model: nn.Module, changes: Mapping[str, Any]
) -> tuple[CompilationSettings, list[EngineArtifact]]:
    """Put the saved weights into a model; the saved settings with changes, and the engines."""
    from safetensors import SafetensorError
    from safetensors.torch import load as from_bytes

    try:
        with zipfile.ZipFile(path) as archive:
            head = json.loads(archive.read(_HEAD))
            if head["format"] != FORMAT:
                raise ArtifactError(
                    f"{os.fspath(path)} has format {head['format']!r}; this trtcore reads {FORMAT}",
                    advice="save it again with this version",
                )
            state = from_bytes(archive.read(_STATE))
            state.update({name: state[source] for name, source in head["ties"].items()})
            engines = [_engine(archive, f"engines/{number}.engine") for number in range(int(head["engines"]))]
            recipe = Recipe.from_json(head["recipe"])
    except (
        OSError,
        zipfile.BadZipFile,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        SafetensorError,
    ) as error:
        raise ArtifactError(f"{os.fspath(path)} is no saved MutableModule, or is damaged: {error}") from error
    chosen = _settings(recipe, changes)
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise ArtifactError(
            f"the weights in {os.fspath(path)} are not those of this {type(model).__name__}: {error}",
            advice="make the model as it was when it was saved (its adapters, too)",
        ) from error
    return chosen, engines


def _settings(recipe: Recipe, changes: Mapping[str, Any]) -> CompilationSettings:
    lost = [name for name in recipe.lost if name not in changes]
    if lost:
        raise SettingsError(
            f"the module was made with {', '.join(lost)}, which no file can hold",
            advice="give them to load again",
        )
    return CompilationSettings.from_kwargs(recipe.chosen(), **changes)


def _engine(archive: zipfile.ZipFile, name: str) -> EngineArtifact:
    with archive.open(name) as member, temporary_file() as (file, path):
        while data := member.read(_CHUNK):
            file.write(data)
        file.flush()
        engine = EngineArtifact.from_tensor(map_and_unlink(path))
    engine.verify()
    return engine


def _distinct(state: Mapping[str, Any]) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Each tensor once, on the CPU, and the names that stand for another's."""
    tensors: dict[str, torch.Tensor] = {}
    ties: dict[str, str] = {}
    known: dict[Any, str] = {}
    for name, value in state.items():
        if not isinstance(value, torch.Tensor):
            raise ArtifactError(
                f"the model's state has {name}, a {type(value).__name__}, which this file cannot hold"
            )
        place = value.device, value.data_ptr(), value.dtype, tuple(value.shape), value.stride()
        if value.numel() and place in known:
            ties[name] = known[place]
            continue
        known[place] = name
        tensors[name] = value.detach().cpu().clone(memory_format=torch.contiguous_format)
    return tensors, ties
