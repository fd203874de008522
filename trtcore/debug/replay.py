"""Building the engine of a request that a file holds, once more."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from trtcore.artifact.engine_file import EngineArtifact
from trtcore.engine.build import Failure, build_engine
from trtcore.engine.request_file import read_request
from trtcore.errors import TrtcoreError
from trtcore.packs.loading import build_registry


@dataclass(frozen=True)
class Replay:
    """What became of a request.

    Attributes:
        name: of the engine.
        artifact: the engine; None where there is none.
        error: why there is none.
        kind: "node", "network", "build" or "crash", see `trtcore.engine.build.Failure`; "" with an engine.
        named: nodes whose layers TensorRT's lines name.
        layers: of each node its layers, where the network was made.
    """

    name: str
    artifact: EngineArtifact | None = None
    error: TrtcoreError | None = None
    kind: str = ""
    named: tuple[str, ...] = ()
    layers: Mapping[str, tuple[str, ...]] | None = None


def replay(path: str | os.PathLike[str], *, seed: int = 0) -> Replay:
    """Build the engine of a request that `Debugger` wrote.

    Args:
        path: the file.
        seed: of the weights' values, where the file was written without them.

    Raises:
        ArtifactError: the file is damaged, foreign or of another format.
        BackendUnavailableError: the request's backend is not here.
        SettingsError: one of its converters is not here: import the module that defines it first.
    """
    request = read_request(path, seed=seed)
    result = build_engine(request, build_registry(request.settings))
    if isinstance(result, Failure):
        return Replay(request.name, None, result.error, result.kind, result.named, result.layers)
    return Replay(request.name, result)
