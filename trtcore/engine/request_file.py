"""An EngineRequest as a file that holds no code and no pickle: what a bug report needs to build an engine again.

The file is a safetensors file: tensors ``storage.<number>`` are the weights' bytes, ``__metadata__`` has the request as
JSON. Reading looks names up in fixed tables, in torch's registry of ops and among the packs that are loaded; a
converter outside of packs must be imported by whoever reads.
"""

from __future__ import annotations

import json
import operator
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import torch

from trtcore.backend.base import Target
from trtcore.engine.request import (
    LEFT_BEHIND,
    ConverterReference,
    EngineRequest,
    InlineStorages,
    PatternRef,
    RequestData,
    WeightView,
)
from trtcore.errors import ArtifactError, SettingsError
from trtcore.ir.expressions import parse_condition
from trtcore.ir.graph_data import FunctionRef, NodeData, OpRef
from trtcore.ir.graph_json import (
    is_identifier,
    is_path,
    node_from_json,
    node_to_json,
    spec_from_json,
    spec_to_json,
    torch_value,
)
from trtcore.ir.program import SymbolRange
from trtcore.packs.model import Converter
from trtcore.paths import atomic_write
from trtcore.settings import CompilationSettings

FORMAT = 1
_KEY = "trtcore_request"
_MAX_DEPTH = 16


def write_request(request: EngineRequest, path: str | os.PathLike[str], *, weights: bool = True) -> None:
    """Write a request.

    Args:
        path: by custom with the suffix ``.request``.
        weights: False leaves the weights' values out; who reads the file gets random ones.

    Raises:
        ArtifactError: it holds what a file cannot, or cannot be written.
    """
    from safetensors.torch import save

    data, storages = request.described(_reference)
    document = {
        "format": FORMAT,
        "name": request.name,
        "backend": request.backend,
        "backend_version": request.backend_version,
        "target": [request.target.compute_capability, request.target.platform],
        "ranges": {name: [r.min, r.opt, r.max, r.profiles] for name, r in request.ranges.items()},
        "conditions": request.conditions,
        "runtime": request.runtime,
        "weight_names": request.weight_names,
        "settings": _settings_to_json(request.settings),
        "graph": _graph_to_json(data),
        "storages": [storage.nbytes() for storage in storages],
        "has_weights": weights,
    }
    tensors = {}
    if weights:
        for number, storage in enumerate(storages):
            tensors[f"storage.{number}"] = (
                torch.empty(0, dtype=torch.uint8, device=storage.device).set_(storage).cpu()
            )
    try:
        with atomic_write(path) as file:
            file.write(save(tensors, {_KEY: json.dumps(document)}))
    except OSError as error:
        raise ArtifactError(f"{os.fspath(path)} cannot be written: {error}") from error


def read_request(path: str | os.PathLike[str], *, seed: int = 0) -> EngineRequest:
    """Read what `write_request` wrote; nothing of it is executed.

    Args:
        seed: of the weights' values, where the file has none.

    Raises:
        ArtifactError: it is damaged, of another format, or holds what it may not.
    """
    document, tensors = _contents(path)
    if document.get("format") != FORMAT:
        raise ArtifactError(
            f"{os.fspath(path)} has format {document.get('format')!r}; this trtcore reads {FORMAT}",
            advice="use the trtcore that wrote it",
        )
    try:
        return _request(document, tensors, seed)
    except ArtifactError as error:
        raise ArtifactError(f"{os.fspath(path)}: {error.message}", advice=error.advice) from error
    except SettingsError as error:
        raise ArtifactError(f"{os.fspath(path)}: {error.message}", advice=error.advice) from error
    except (
        KeyError,
        TypeError,
        ValueError,
        AttributeError,
        IndexError,
        OverflowError,
        RuntimeError,
    ) as error:
        raise ArtifactError(f"{os.fspath(path)} is damaged: {type(error).__name__}: {error}") from error


def is_request(path: str | os.PathLike[str]) -> bool:
    """Whether a file calls itself a request."""
    try:
        return bool(_contents(path))
    except ArtifactError:
        return False


def _contents(path: str | os.PathLike[str]) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(os.fspath(path), "pt") as file:
            text = (file.metadata() or {}).get(_KEY)
            if text is None:
                raise ArtifactError(f"{os.fspath(path)} is no request of trtcore's")
            document = json.loads(text)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, ValueError, RecursionError) as error:
        raise ArtifactError(f"{os.fspath(path)} is no request of trtcore's, or damaged: {error}") from error
    if not isinstance(document, dict):
        raise ArtifactError(f"{os.fspath(path)} is damaged: its description is no object")
    return document, tensors


# ---- writing ------------------------------------------------------------------------------------------------


def _reference(one: Converter, target: Any) -> ConverterReference:
    """Where a converter is found; one that no other process could find goes by its name."""
    try:
        return ConverterReference.of(one, target)
    except SettingsError:
        return ConverterReference(one.name)


def _settings_to_json(settings: CompilationSettings) -> dict[str, Any]:
    return {name: _plain(getattr(settings, name)) for name in sorted(settings.explicit - LEFT_BEHIND.keys())}


def _plain(value: Any) -> Any:
    if isinstance(value, (set, frozenset, list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, torch.dtype):
        return str(value).removeprefix("torch.")
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)


def _graph_to_json(data: RequestData) -> dict[str, Any]:
    return {
        "nodes": [[_node_to_json(node), spec_to_json(node.value)] for node in data.nodes],
        "weights": {
            name: ["graph", _graph_to_json(one)] if isinstance(one, RequestData) else ["view", *_view(one)]
            for name, one in data.weights.items()
        },
        "converters": {name: asdict(one) for name, one in data.converters.items()},
    }


_STAND_IN = operator.getitem  # in the place of a pattern, which is found by its converter


def _node_to_json(node: NodeData) -> Any:
    if isinstance(node.target, PatternRef):
        return ["pattern", node.target.name, node_to_json(replace(node, target=_STAND_IN))]
    if isinstance(node.target, FunctionRef):
        return node_to_json(replace(node, target=node.target.find()))
    return node_to_json(node)


def _view(one: WeightView) -> list[Any]:
    return [one.storage, str(one.dtype).removeprefix("torch."), one.offset, list(one.shape), list(one.stride)]


# ---- reading ------------------------------------------------------------------------------------------------


def _request(document: Mapping[str, Any], tensors: Mapping[str, torch.Tensor], seed: int) -> EngineRequest:
    sizes = [_count(size) for size in document["storages"]]
    data = replace(
        _graph(document["graph"], 0),
        storages=InlineStorages(
            tuple(_bytes(number, size, tensors, seed) for number, size in enumerate(sizes))
        ),
    )
    capability, platform = document["target"]
    for condition in document["conditions"]:
        parse_condition(condition)
    return EngineRequest(
        _name(document["name"]),
        data,
        CompilationSettings.from_kwargs(**document["settings"]),
        str(document["backend"]),
        str(document["backend_version"]),
        Target(None if capability is None else (_count(capability[0]), _count(capability[1])), str(platform)),
        {_name(name): _range(name, *row) for name, row in document["ranges"].items()},
        tuple(document["conditions"]),
        str(document["runtime"]),
        {str(name): str(value) for name, value in document["weight_names"].items()},
    )


def _range(name: str, low: Any, opt: Any, high: Any, profiles: Any) -> SymbolRange:
    rows = tuple((_count(a), _count(b), _count(c)) for a, b, c in profiles)
    return SymbolRange(name, _count(low), _count(opt), _count(high), rows)


def _graph(saved: Mapping[str, Any], depth: int) -> RequestData:
    if depth > _MAX_DEPTH:
        raise ArtifactError("its graphs are nested too deep")
    return RequestData(
        tuple(_node(node, value) for node, value in saved["nodes"]),
        {name: _weight(name, kind, rest, depth) for name, (kind, *rest) in saved["weights"].items()},
        {name: _converter(one) for name, one in saved["converters"].items()},
    )


def _node(saved: Sequence[Any], value: Any) -> NodeData:
    if saved[0] == "pattern":
        _, name, plain = saved
        return replace(node_from_json(plain), target=PatternRef(_name(name)), value=spec_from_json(value))
    node = node_from_json(list(saved))
    target = OpRef.of(node.target) if isinstance(node.target, torch._ops.OpOverload) else node.target
    return replace(node, target=target, value=spec_from_json(value))


def _weight(name: str, kind: str, rest: Sequence[Any], depth: int) -> WeightView | RequestData:
    if not is_path(name):
        raise ArtifactError(f"a weight is named {name!r}")
    if kind == "graph":
        return _graph(rest[0], depth + 1)
    storage, dtype, offset, shape, stride = rest
    return WeightView(
        name, _count(storage), torch_value("dtype", dtype), _count(offset), tuple(map(_count, shape)),
        tuple(map(_count, stride)),
    )  # fmt: skip


def _converter(saved: Mapping[str, Any]) -> ConverterReference:
    plugin = saved["plugin"]
    one = ConverterReference(
        **{**saved, "plugin": None if plugin is None else (str(plugin[0]), bool(plugin[1]))}
    )
    if one.module and one.module not in sys.modules:
        raise ArtifactError(
            f"it needs the converter {one.name} of the module {one.module}, which is not imported",
            advice=f"look at that module, and import it first: trtcore replay --import {one.module}",
        )
    return one


def _bytes(number: int, size: int, tensors: Mapping[str, torch.Tensor], seed: int) -> bytes:
    """A storage; where the file has none, small numbers in whatever dtype reads them: half of one, about."""
    found = tensors.get(f"storage.{number}")
    if found is not None:
        if found.dtype != torch.uint8 or found.numel() != size:
            raise ArtifactError(f"the storage {number} is not what its description says")
        return bytes(found.numpy().data)
    generator = torch.Generator().manual_seed(seed + number)
    values = torch.randn(size // 4 + 1, generator=generator).mul_(0.1)
    return bytes(values.view(torch.uint8)[:size].numpy().data)


def _count(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 1 << 62:
        raise ArtifactError(f"a size {value!r}")
    return value


def _name(value: Any) -> str:
    if not isinstance(value, str) or not is_identifier(value):
        raise ArtifactError(f"a name {value!r}")
    return value


def describe_request(path: str | os.PathLike[str]) -> dict[str, Any]:
    """What a request's file says, as plain values; its converters need not be here.

    Raises:
        ArtifactError: it is damaged.
    """
    document, _ = _contents(path)
    try:
        graph = document["graph"]
        nodes = [_described(node, graph["converters"]) for node, _ in graph["nodes"]]
        capability, platform = document["target"]
        return {
            "name": str(document["name"]),
            "backend": f"{document['backend']} {document['backend_version']}",
            "target": Target(None if capability is None else tuple(capability), str(platform)).name,
            "settings": dict(document["settings"]),
            "ranges": dict(document["ranges"]),
            "conditions": list(document["conditions"]),
            "has_weights": bool(document["has_weights"]),
            "weights_bytes": sum(map(_count, document["storages"])),
            "nodes": [node for node in nodes if node is not None],
        }
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise ArtifactError(f"{os.fspath(path)} is damaged: {type(error).__name__}: {error}") from error


def _described(node: Sequence[Any], converters: Mapping[str, Any]) -> dict[str, Any] | None:
    """A called op by its names; None for inputs, weights and the output."""
    pattern = node[0] == "pattern"
    op, name, target = (node[2] if pattern else node)[:3]
    if op != "call_function":
        return None
    one = converters.get(name)
    whose = "" if one is None else f"{one['name']} of {one['distribution'] or one['module'] or 'a script'}"
    return {"name": name, "op": node[1] if pattern else target[1], "converter": whose}
