"""What decides what a module computes, as values that can be compared: its submodules, attributes, hooks and code.

Two looks at a model are equal where torch.export would capture the same program, up to the values of registered
parameters and buffers. Everything that the model holds counts, down to the attributes of its attributes; what its code
reads elsewhere (globals, files) does not.
"""

from __future__ import annotations

import functools
import operator
import types
import weakref
from collections.abc import Iterator, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import nn

_PLAIN = (bool, int, complex, str, bytes, type(None))
_TORCH_VALUES = (torch.dtype, torch.device, torch.layout, torch.memory_format, torch.Size)
# What nn.Module keeps for itself and what does not act on a call.
_NOT_LOOKED_AT = frozenset(
    {
        "_parameters", "_buffers", "_modules", "_non_persistent_buffers_set", "_backward_hooks", "_backward_pre_hooks",
        "_is_full_backward_hook", "_state_dict_hooks", "_state_dict_pre_hooks", "_load_state_dict_pre_hooks",
        "_load_state_dict_post_hooks", "_compiled_call_impl", "_forward_hooks_always_called",
    }
)  # fmt: skip


# Of a GraphModule, whose code says what it does.
_OF_A_GRAPH = frozenset({"_graph", "_codegen", "meta", "_tracer_cls", "_tracer_extras", "_metadata"})
_DEPTH = 60
"""How deep attributes of attributes are looked at; below, objects count by what they are, not by what they hold."""

_HOOKS = (
    "_forward_hooks",
    "_forward_pre_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_pre_hooks_with_kwargs",
)


class Same:
    """An object that is equal to itself alone."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Same) and other.value is self.value

    def __hash__(self) -> int:
        return id(self.value)


@dataclass(frozen=True)
class Look:
    """What was found.

    Attributes:
        structure: everything but the values of `tensors`; compared with ``==``.
        tensors: registered parameters and buffers by their full names; tied ones under each name.
        loose: tensors in plain attributes, with their names: a program holds them as they are.
    """

    structure: Any
    tensors: Mapping[str, torch.Tensor]
    loose: Mapping[str, torch.Tensor]


class Looker:
    """Looks at models, and remembers what it saw of modules whose attributes are plain values: a module costs some
    microseconds where nothing about it has changed."""

    def __init__(self) -> None:
        self._known: weakref.WeakKeyDictionary[nn.Module, _Known] = weakref.WeakKeyDictionary()

    def look_at(self, model: nn.Module) -> Look:
        """Look at a model."""
        looking = _Looking(self._known)
        structure = looking.module(model, "")
        return Look((structure, tuple(looking.classes)), looking.tensors, looking.loose)


class _Known(NamedTuple):
    """A module's attributes, all of them plain, and what was made of them."""

    keys: tuple[str, ...]
    values: tuple[Any, ...]
    own: Any


class _Looking:
    def __init__(self, known: MutableMapping[nn.Module, _Known]) -> None:
        self.tensors: dict[str, torch.Tensor] = {}
        self.loose: dict[str, torch.Tensor] = {}
        self.classes: dict[Any, None] = {}
        self._known = known
        self._numbers: dict[int, int] = {}
        self._kept: list[Any] = []  # an id is an object's while it lives
        self._known_classes: set[type] = set()
        self._depth = 0

    def module(self, module: nn.Module, prefix: str, registered: bool = True) -> Any:
        """A module with all below it."""
        if (known := self._seen(module)) is not None:
            return known
        if type(module) not in self._known_classes:
            self._code_of(type(module))
        own = self._own(module, prefix)
        tensors = tuple(
            (kind, name, self._tensor(tensor, prefix + name, registered))
            for kind, group in (("parameter", module._parameters), ("buffer", module._buffers))
            if group
            for name, tensor in group.items()
        )
        below = tuple(
            (name, None if child is None else self.module(child, f"{prefix}{name}.", registered))
            for name, child in module._modules.items()
        )
        return own, tensors, below

    def _own(self, module: nn.Module, prefix: str) -> Any:
        """A module's class and attributes."""
        attributes = module.__dict__
        plain = not any(map(attributes.get, _HOOKS))
        if plain and (known := self._known.get(module)) is not None:
            keys, values, own = known
            if tuple(attributes) == keys and all(map(operator.is_, attributes.values(), values)):
                return own
        skipped = _NOT_LOOKED_AT | _OF_A_GRAPH if isinstance(module, torch.fx.GraphModule) else _NOT_LOOKED_AT
        looked_at = [(name, value) for name, value in attributes.items() if name not in skipped]
        own = Same(type(module)), tuple((name, self.value(value, prefix + name)) for name, value in looked_at)
        if plain and all(name in _HOOKS or _is_plain(value) for name, value in looked_at):
            self._known[module] = _Known(tuple(attributes), tuple(attributes.values()), own)
        return own

    def value(self, value: Any, name: str) -> Any:
        """An attribute's value."""
        if isinstance(value, (*_PLAIN, *_TORCH_VALUES)):
            return type(value), value
        if isinstance(value, float):
            return repr(value)
        if isinstance(value, torch.Tensor):
            return self._tensor(value, name, False)
        if isinstance(value, nn.Module):
            return self.module(value, f"{name}.", False)
        if isinstance(value, (type, types.ModuleType, types.BuiltinFunctionType)):
            return Same(value)
        if (known := self._seen(value)) is not None:
            return known
        if self._depth > _DEPTH:
            return Same(value)
        self._depth += 1
        found = self._compound(value, name)
        self._depth -= 1
        return found

    def _compound(self, value: Any, name: str) -> Any:
        if isinstance(value, types.FunctionType):
            return self._function(value, name)
        if isinstance(value, types.MethodType):
            return self.value(value.__func__, name), self.value(value.__self__, f"{name}.__self__")
        if isinstance(value, functools.partial):
            return "partial", self.value((value.func, value.args, value.keywords), name)
        if isinstance(value, Mapping):
            return type(value), tuple(
                (self.value(key, name), self.value(item, f"{name}[{key!r}]")) for key, item in value.items()
            )
        if isinstance(value, (list, tuple)):
            return type(value), tuple(self.value(item, f"{name}[{i}]") for i, item in enumerate(value))
        if isinstance(value, (set, frozenset)):
            return type(value), frozenset(self.value(item, name) for item in value)
        if hasattr(value, "__array_interface__"):
            return type(value), str(value.dtype), value.shape, value.tobytes()
        fields = dict(_fields(value))
        self._code_of(type(value))
        if not fields:
            return Same(value)  # nothing can be seen of it: another one counts as a change
        return Same(type(value)), tuple(
            (key, self.value(item, f"{name}.{key}")) for key, item in fields.items()
        )

    def _function(self, function: types.FunctionType, name: str) -> Any:
        cells = tuple(_content(cell) for cell in function.__closure__ or ())
        given = function.__defaults__, function.__kwdefaults__, cells
        return Same(function.__code__), self.value(given, name)

    def _tensor(self, tensor: torch.Tensor | None, name: str, registered: bool) -> Any:
        if tensor is None:
            return None
        (self.tensors if registered else self.loose)[name] = tensor
        if (known := self._seen(tensor)) is not None:
            return known  # tied
        layout = tensor.stride() if tensor.layout is torch.strided else None
        return type(tensor), tensor.dtype, tensor.device, tensor.layout, tensor.shape, layout

    def _seen(self, value: Any) -> Any:
        """Where an object was met before; None for the first time."""
        number = self._numbers.setdefault(id(value), len(self._numbers))
        if number == len(self._kept):
            self._kept.append(value)
            return None
        return "seen", number

    def _code_of(self, kind: type) -> None:
        """Methods and class attributes of a class that is not torch's."""
        for one in kind.__mro__:
            if one in self._known_classes:
                continue
            self._known_classes.add(one)
            if one.__module__.partition(".")[0] in ("torch", "builtins", "trtcore", "abc", "typing", "enum"):
                continue
            for name, value in vars(one).items():
                if isinstance(value, types.FunctionType):
                    self.classes[Same(one), name, Same(value.__code__)] = None
                elif isinstance(value, (*_PLAIN, float, list, tuple, dict)) and not name.startswith("__"):
                    self.classes[Same(one), name, self.value(value, f"{one.__name__}.{name}")] = None


def _is_plain(value: Any) -> bool:
    """Whether nothing in a value can change while it is the same object."""
    if isinstance(value, tuple):
        return all(map(_is_plain, value))
    return isinstance(value, (*_PLAIN, *_TORCH_VALUES, float, type, types.BuiltinFunctionType)) or (
        isinstance(value, types.FunctionType) and not value.__closure__ and not value.__kwdefaults__
    )


def _fields(value: Any) -> Iterator[tuple[str, Any]]:
    """What an object of a class of somebody's holds."""
    yield from getattr(value, "__dict__", {}).items()
    for kind in type(value).__mro__:
        slots = kind.__dict__.get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if name not in ("__dict__", "__weakref__") and hasattr(value, name):
                yield name, getattr(value, name)


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # empty
        return None
