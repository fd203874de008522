"""What a compiled module was made with, so that its engines can be given other weights later, from a file too."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import attrs
import torch

from trtcore.errors import ArtifactError
from trtcore.ir.graphs import attribute
from trtcore.ir.program import Program
from trtcore.settings import CompilationSettings

WeightKinds = Mapping[str, tuple[torch.dtype, tuple[int, ...]]]
"""name -> (dtype, shape) of a captured program's weights."""


# Settings that say where a compile reads and writes, or how it runs, and not what becomes of the model: not for files.
_OF_THE_COMPILE = frozenset(
    {
        "build_executor", "build_isolation", "cache_built_engines", "custom_engine_cache", "dryrun", "engine_cache_dir",
        "engine_cache_size", "lazy_engine_init", "offload_module_to_cpu", "reuse_cached_engines", "timing_cache_path",
        "cpu_memory_budget",
    }
)  # fmt: skip
_PLAIN_TEXT = re.compile(r"[\w.:\-\[\]^$|()*+?\\/ ]{0,1000}")


@dataclass(frozen=True)
class Recipe:
    """What a module was compiled with.

    Attributes:
        settings: of the compile; plain values, where they come from a file.
        failed: converters that failed for a node, as `Program.failed` has them.
        weights: of the captured program.
        lost: names of settings that are not the compile's any more, because no file can hold their values.
        limit: bytes of weights that a segment had at most, with ``enable_resource_partitioning``.
    """

    settings: CompilationSettings | Mapping[str, Any]
    failed: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    weights: WeightKinds = field(default_factory=dict)
    lost: tuple[str, ...] = ()
    limit: int | None = None

    def chosen(self) -> CompilationSettings:
        """The settings. Names of ops in those of a file are looked up here, and not before.

        Raises:
            SettingsError: one of a file's has no meaning here.
        """
        if isinstance(self.settings, CompilationSettings):
            return self.settings
        return CompilationSettings(**{name: _from_json(value) for name, value in self.settings.items()})

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        saved, lost = (
            _settings_to_json(self.settings)
            if isinstance(self.settings, CompilationSettings)
            else (self.settings, [])
        )
        return {
            "settings": dict(saved),
            "failed": {node: dict(why) for node, why in self.failed.items()},
            "weights": {name: [_name(kind), list(shape)] for name, (kind, shape) in self.weights.items()},
            "lost": sorted({*lost, *self.lost}),
            "limit": self.limit,
        }

    @staticmethod
    def from_json(data: Any) -> Recipe:
        """Read `to_json` back.

        Raises:
            ArtifactError: it makes no sense.
        """
        try:
            weights = {
                _text(name): (_dtype(kind), tuple(map(_size, shape)))
                for name, (kind, shape) in data["weights"].items()
            }
            failed = {
                _text(node): {_text(k): _text(v) for k, v in why.items()}
                for node, why in data["failed"].items()
            }
            given = dict(data["settings"])
            if unknown := given.keys() - _SAVED:
                raise ValueError(f"the setting {min(unknown)}")
            for value in given.values():
                _check(value, 0)
            limit = None if data["limit"] is None else _size(data["limit"])
            return Recipe(given, failed, weights, tuple(map(_text, data["lost"])), limit)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ArtifactError(f"what the module was compiled with is damaged: {error!r}") from None

    def __reduce__(self) -> tuple[Any, ...]:
        return _read, (json.dumps(self.to_json()),)


def _read(text: str) -> Recipe:
    return Recipe.from_json(json.loads(text))


def weights_of(program: Program) -> WeightKinds:
    """The weights of a program as it was captured."""
    found = {}
    for node in program.graph_module.graph.find_nodes(op="get_attr"):
        value = attribute(program.graph_module, str(node.target))
        if isinstance(value, torch.Tensor):
            found[str(node.target)] = value.dtype, tuple(value.shape)
    return found


# ---- settings as plain values -------------------------------------------------------------------------------


def _settings_to_json(settings: CompilationSettings) -> tuple[dict[str, Any], list[str]]:
    """The settings that were given, and the names of those that cannot be written."""
    saved, lost = {}, []
    for item in attrs.fields(type(settings)):
        value = getattr(settings, item.name)
        if item.name in _OF_THE_COMPILE or item.name.startswith("_"):
            continue
        if item.name not in settings.explicit and value == item.default:
            continue
        try:
            saved[item.name] = _to_json(value)
        except TypeError:
            lost.append(item.name)
    return saved, lost


def _to_json(value: Any) -> Any:
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (torch.dtype, torch.device)):
        return {type(value).__name__: _name(value)}
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {"map": {key: _to_json(item) for key, item in value.items()}}
    if isinstance(value, (frozenset, set)):
        return {"set": sorted(map(_to_json, value), key=json.dumps)}
    if isinstance(value, (list, tuple)):
        return [_to_json(item) for item in value]
    raise TypeError(f"{type(value).__name__} is no plain value")


def _from_json(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(map(_from_json, value))
    if isinstance(value, dict):
        ((kind, inner),) = value.items()
        if kind == "dtype":
            return _dtype(inner)
        if kind == "device":
            return torch.device(_text(inner))
        if kind == "set":
            return frozenset(map(_from_json, inner))
        if kind == "map":
            return {key: _from_json(item) for key, item in inner.items()}
        raise ValueError(kind)
    return value


def _name(value: Any) -> str:
    return str(value).removeprefix("torch.")


_DTYPES = {
    str(value).removeprefix("torch."): value
    for value in vars(torch).values()
    if isinstance(value, torch.dtype)
}
_SAVED = frozenset(item.name for item in attrs.fields(CompilationSettings)) - _OF_THE_COMPILE


def _dtype(name: Any) -> torch.dtype:
    return _DTYPES[_text(name)]


def _text(value: Any) -> str:
    if not isinstance(value, str) or len(value) > 1 << 16:
        raise ValueError(f"{str(value)[:60]!r} is no text")
    return value


def _size(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 1 << 62:
        raise ValueError(f"{value!r} is no size")
    return value


def _check(value: Any, depth: int) -> None:
    """See that a saved setting is plain: numbers, and texts as names and patterns are."""
    if depth > 4:
        raise ValueError("a setting is nested too deeply")
    if isinstance(value, dict):
        for key, item in value.items():
            _check(key, depth + 1)
            _check(item, depth + 1)
    elif isinstance(value, list):
        for item in value:
            _check(item, depth + 1)
    elif isinstance(value, str):
        if not _PLAIN_TEXT.fullmatch(value):
            raise ValueError(f"the setting {value[:60]!r}")
    elif value is not None and type(value) not in (bool, int, float):
        raise ValueError(f"a setting of type {type(value).__name__}")
