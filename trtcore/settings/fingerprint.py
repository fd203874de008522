"""A setting's value as plain JSON that stands for it, the same in every process."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from collections.abc import Mapping
from typing import Any

import attrs
import torch

from trtcore.errors import SettingsError


def digest(values: Mapping[str, Any]) -> str:
    """A SHA-256 hex digest of settings by name.

    Raises:
        SettingsError: a value that nothing can stand for.
    """
    plain = {name: _plain(value) for name, value in values.items()}
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def _plain(value: Any) -> Any:
    """A JSON value that stands for a setting's value, the same in every process."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Mapping):
        return sorted([str(key), _plain(item)] for key, item in value.items())
    if isinstance(value, frozenset):
        return sorted(json.dumps(_plain(item)) for item in value)
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if isinstance(value, torch.dtype | torch.device | torch._ops.OpOverload | torch._ops.OpOverloadPacket):
        return str(value)
    if isinstance(value, type):
        return f"{value.__module__}.{value.__qualname__}"
    if (fields := _fields(value)) is not None:  # a Converter given at the call site
        return [type(value).__qualname__, {name: _plain(getattr(value, name)) for name in fields}]
    if callable(value):
        return _plain_function(value)
    raise SettingsError(f"a setting of type {type(value).__name__} has no fingerprint")


def _fields(value: Any) -> list[str] | None:
    """The names of a record's fields; None for other values."""
    if attrs.has(type(value)):
        return [item.name for item in attrs.fields(type(value))]
    return [item.name for item in dataclasses.fields(value)] if dataclasses.is_dataclass(value) else None


def _plain_function(function: Any) -> list[Any]:
    """Where a function is defined, and its code: another body is another fingerprint."""
    if isinstance(function, functools.partial):
        return [_plain_function(function.func), _plain(function.args), _plain(function.keywords)]
    module = getattr(function, "__module__", "")
    name = getattr(function, "__qualname__", type(function).__qualname__)
    code = getattr(function, "__code__", None)
    return [f"{module}.{name}", _code_digest(code) if code is not None else ""]


def _code_digest(code: Any) -> str:
    constants = [_constant(value) for value in code.co_consts]
    text = repr((code.co_code, constants, code.co_names, code.co_varnames, code.co_freevars))
    return hashlib.sha256(text.encode()).hexdigest()


def _constant(value: Any) -> str:
    if hasattr(value, "co_code"):
        return _code_digest(value)
    if isinstance(value, frozenset):  # its order changes with the process's hash seed
        return repr(sorted(map(_constant, value)))
    return repr(value)
