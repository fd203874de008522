"""What a setting's value becomes: converters, which normalise a value or say what it must be, and checks.

A converter takes what a person may write and returns the frozen, canonical form; a check only looks. Both raise
`Unfit`, which does not know the setting's name; `named`, the class's field transformer, adds it.
"""

from __future__ import annotations

import difflib
import math
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeAlias, TypeVar

import attrs
import torch

from trtcore.errors import SettingsError
from trtcore.ir.torch_private import higher_order_name, names_of_ops

_K = TypeVar("_K")
_V = TypeVar("_V")

Op: TypeAlias = "torch._ops.OpOverload | torch._ops.OpOverloadPacket | torch._ops.HigherOrderOperator | str"
Check: TypeAlias = Callable[[Any, "attrs.Attribute[Any]", Any], None]


class FrozenMapping(Mapping[_K, _V]):
    """A mapping that cannot change, hashes by its items and pickles."""

    __slots__ = ("_items",)
    _items: dict[_K, _V]

    def __init__(self, items: Mapping[_K, _V] | Iterable[tuple[_K, _V]] = ()) -> None:
        object.__setattr__(self, "_items", dict(items))

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError("a FrozenMapping cannot change")

    def __getitem__(self, key: _K) -> _V:
        return self._items[key]

    def __iter__(self) -> Iterator[_K]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def __hash__(self) -> int:
        return hash(frozenset(self._items.items()))

    def __repr__(self) -> str:
        return repr(self._items)

    def __reduce__(self) -> tuple[Any, ...]:
        return FrozenMapping, (dict(self._items),)


# -- errors that are given the setting's name ------------------------------------------------------------


class Unfit(Exception):
    """A value that a setting does not take.

    Args:
        text: what follows the setting's name: ``"=5: it must be ..."``.
        advice: what to do.
    """

    def __init__(self, text: str, advice: str | None = None) -> None:
        super().__init__(text)
        self.text = text
        self.advice = advice

    def of(self, name: str) -> SettingsError:
        """The error, for a setting of this name."""
        return SettingsError(f"{name}{self.text}", advice=self.advice and self.advice.replace("{name}", name))


def _must_be(wanted: str, value: Any, advice: str | None = None) -> Unfit:
    return Unfit(f"={value!r}: it must be {wanted}", advice)


def named(cls: type, fields: list[attrs.Attribute[Any]]) -> list[attrs.Attribute[Any]]:
    """An attrs field transformer: converters and checks raise SettingsErrors with the field's name."""
    return [
        field.evolve(
            converter=_naming(field.converter, field.name) if callable(field.converter) else None,
            validator=field.validator and _naming(field.validator, field.name),
        )
        for field in fields
    ]


def _naming(function: Callable[..., Any], name: str) -> Callable[..., Any]:
    def call(*args: Any) -> Any:
        try:
            return function(*args)
        except Unfit as error:
            raise error.of(name) from None

    return call


# -- checks: attrs validators ----------------------------------------------------------------------------


def flag(_: Any, __: attrs.Attribute[Any], value: Any) -> None:
    """True or False."""
    if not isinstance(value, bool):
        raise _must_be("True or False", value)


def integer(least: int, most: int | None = None, *, none: bool = False) -> Check:
    """An int in a range; with `none` also None."""
    wanted = f"an int of at least {least}" if most is None else f"an int from {least} to {most}"

    def check(_: Any, __: attrs.Attribute[Any], value: Any) -> None:
        if value is None and none:
            return
        number = isinstance(value, int) and not isinstance(value, bool)
        if not number or value < least or (most is not None and value > most):
            raise _must_be(wanted + (" or None" if none else ""), value)

    return check


def positive(_: Any, __: attrs.Attribute[Any], value: Any) -> None:
    """A number above 0."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
        raise _must_be("a number above 0", value)


def power_of_two(_: Any, __: attrs.Attribute[Any], value: Any) -> None:
    """A number of bytes that DLA memory comes in."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 4096 or value & (value - 1):
        raise _must_be("a power of two of at least 4096 bytes", value)


def choice(*values: str) -> Check:
    """One of these words, as `word` leaves it."""

    def check(_: Any, __: attrs.Attribute[Any], value: Any) -> None:
        if value not in values:
            raise _must_be("one of " + ", ".join(map(repr, values)), value)

    return check


def name(_: Any, __: attrs.Attribute[Any], value: Any) -> None:
    """A string that is not empty."""
    if not isinstance(value, str) or not value.strip():
        raise _must_be("a non-empty string", value)


def name_or_none(_: Any, __: attrs.Attribute[Any], value: Any) -> None:
    """A string that is not empty, or None."""
    if value is not None:
        name(_, __, value)


def python_runtime(_: Any, __: attrs.Attribute[Any], value: Any) -> None:
    """True; False asks for what there is not."""
    flag(_, __, value)
    if not value:
        raise Unfit(
            "=False asks for the C++ runtime, and the C++ runtime is not offered",
            "leave {name} out (engines run from Python, without a copy or a synchronisation of its own), or, to "
            "run without Python, write the bytes of "
            "trtcore.dynamo.convert_exported_program_to_serialized_trt_engine to a file and load it in C++",
        )


def executor(_: Any, __: attrs.Attribute[Any], value: Any) -> None:
    """A concurrent.futures.Executor, or None."""
    if isinstance(value, type):
        raise _must_be(
            "a concurrent.futures.Executor or None",
            value,
            "give an object of the class, made with its arguments",
        )
    if value is not None and not hasattr(value, "submit"):
        raise _must_be(
            "a concurrent.futures.Executor or None",
            value,
            "trtcore.executors.connect makes one from an address" if isinstance(value, str) else None,
        )


def engine_cache(_: Any, __: attrs.Attribute[Any], value: Any) -> None:
    """An object with save and load, or None."""
    if isinstance(value, type):
        raise _must_be("an object with save(hash, blob) and load(hash)", value, "give an object of the class")
    if value is not None and not all(callable(getattr(value, name, None)) for name in ("save", "load")):
        raise _must_be("an object with save(hash, blob) and load(hash)", value)


@attrs.frozen(repr=False)
class Secret:
    """A value that no report, log or error shows."""

    value: bytes

    def __repr__(self) -> str:
        return "<secret>"


# -- converters: words, numbers, paths -------------------------------------------------------------------


def word(value: Any) -> str:
    """A choice as text in lower case; of an enum's member (trt.EngineCapability.STANDARD) its name."""
    text = getattr(value, "name", value)
    return text.lower() if isinstance(text, str) else value  # else for the check to refuse


def block_size(value: float) -> int:
    """An int; infinity, of which the field's tutorials make "nothing goes into an engine", is the largest."""
    if isinstance(value, float) and value == math.inf:
        return sys.maxsize
    return value  # type: ignore[return-value]  # for the check


def path_or_none(value: str | os.PathLike[str] | None) -> str | None:
    """A path as text."""
    if value is None:
        return None
    if not isinstance(value, str | os.PathLike):
        raise _must_be("a path or None", value)
    return os.fspath(value)


def secret(value: str | bytes | Secret | None) -> Secret | None:
    """A secret: text or bytes, of which there must be some."""
    if value is None or isinstance(value, Secret):
        return value
    data = value.encode() if isinstance(value, str) else value
    if not isinstance(data, bytes) or not data:
        raise Unfit(": it must be a non-empty string or bytes")
    return Secret(data)


def flag_or_path(value: bool | str | os.PathLike[str]) -> bool | str:
    """True, False or a file name."""
    if isinstance(value, bool):
        return value
    if isinstance(value, str | os.PathLike) and os.fspath(value):
        return os.fspath(value)
    raise _must_be("True, False or a file name", value)


# -- converters: collections -----------------------------------------------------------------------------


def _collected(value: Any, item: Callable[[Any], _V]) -> tuple[_V, ...]:
    """The items of a collection, each as `item` has it, once each.

    ``{}`` is an empty collection: it is how the documentation of these settings writes one.
    """
    if isinstance(value, Iterable) and not isinstance(value, str | bytes | Mapping):
        return tuple(dict.fromkeys(map(item, value)))
    if isinstance(value, Mapping):
        if not value:
            return ()
        raise _must_be("a collection", value, f"write {{name}}={list(value)!r}")
    try:
        item(value)
    except Unfit:
        raise _must_be("a collection (a list, a set or a tuple)", value) from None
    shown = repr(value if isinstance(value, str) else str(value))
    raise _must_be("a collection", value, f"write {{name}}=[{shown}]")


def _name(value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise _must_be("a non-empty string", value)
    return value


def names(value: Iterable[str]) -> tuple[str, ...]:
    """Names, in the order given."""
    return _collected(value, _name)


def name_set(value: Iterable[str]) -> frozenset[str]:
    """Names."""
    return frozenset(_collected(value, _name))


def regexes(value: Iterable[str]) -> tuple[str, ...]:
    """Regular expressions, as text."""
    patterns = _collected(value, _name)
    for pattern in patterns:
        try:
            re.compile(pattern)
        except re.error as error:
            raise Unfit(f": {pattern!r} is not a regular expression: {error}") from None
    return patterns


def modules(value: Iterable[str | type]) -> tuple[str | type, ...]:
    """Module paths and classes."""
    return _collected(value, _module)


def _module(value: Any) -> str | type:
    if isinstance(value, type) and issubclass(value, torch.nn.Module):
        return value
    if isinstance(value, str) and value.strip():
        return value
    raise _must_be("module paths (strings) or nn.Module classes", value)


# -- converters: dtypes ----------------------------------------------------------------------------------

FP4: torch.dtype | None = getattr(torch, "float4_e2m1fn_x2", None)
AUTOCAST = (torch.float16, torch.bfloat16)
QUANTISED = (torch.int8, torch.float8_e4m3fn, *([FP4] if FP4 else []))
_PRECISIONS = (torch.float32, *AUTOCAST, *QUANTISED)
_DTYPE_NAMES = {
    "float": torch.float32,
    "fp32": torch.float32,
    "half": torch.float16,
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
    "int8": torch.int8,
    "fp8": torch.float8_e4m3fn,
    "fp4": FP4,
}


def _dtype(value: Any) -> torch.dtype:
    found = value
    if isinstance(value, str):
        found = _DTYPE_NAMES.get(value, getattr(torch, value, None))
    if not isinstance(found, torch.dtype):
        raise _must_be("a torch dtype, or its name", value)
    return found


def precisions(value: Iterable[torch.dtype | str]) -> frozenset[torch.dtype]:
    """Dtypes that engines may compute in."""
    dtypes = frozenset(_collected(value, _dtype))
    if not dtypes:
        raise _must_be("a non-empty set of dtypes", value)
    for dtype in dtypes:
        if dtype not in _PRECISIONS:
            raise _must_be("of " + ", ".join(map(str, _PRECISIONS)), dtype)
    return dtypes


def autocast_type(value: torch.dtype | str | None) -> torch.dtype | None:
    """What autocast casts to, or None."""
    dtype = None if value is None else _dtype(value)
    if dtype is not None and dtype not in AUTOCAST:
        raise _must_be("torch.float16, torch.bfloat16 or None", value)
    return dtype


# -- converters: devices ---------------------------------------------------------------------------------

_DEVICES = 'a CUDA device ("cuda:0"), or a compute capability ("sm_89", (8, 9)), or None'


def device(value: torch.device | str | tuple[int, int] | None) -> torch.device | tuple[int, int] | None:
    """None, a CUDA device, or a compute capability ("sm_89", "8.9", (8, 9))."""
    if value is None:
        return None
    if isinstance(value, tuple | list):
        ok = len(value) == 2 and all(isinstance(n, int) and not isinstance(n, bool) and n >= 0 for n in value)
        if not ok:
            raise _must_be(_DEVICES, value)
        return (int(value[0]), int(value[1]))
    if isinstance(value, str):
        if match := re.fullmatch(r"sm_?(\d{1,2})(\d)|(\d{1,2})\.(\d)", value, re.IGNORECASE):
            major, minor = filter(None, match.groups())
            return (int(major), int(minor))
        try:
            value = torch.device(value)
        except RuntimeError:
            raise _must_be(_DEVICES, value) from None
    if not isinstance(value, torch.device) or value.type != "cuda":
        raise _must_be(
            _DEVICES, value, 'on a machine without a GPU, leave it None or name a compute capability: "sm_89"'
        )
    return value


# -- converters: ops -------------------------------------------------------------------------------------


def op_name(value: Op) -> str:
    """The canonical name of a torch op: "aten.gelu" for all its overloads, "aten.gelu.default" for one.

    Args:
        value: an op object (overload, packet, higher-order op), or a name: "ns.op", "ns.op.overload", "ns::op",
            each with or without "torch.ops." before it; "cond" or "higher_order.cond" for a higher-order op.

    Raises:
        SettingsError: torch knows no such op; the message has the nearest names.
    """
    if isinstance(value, torch._ops.OpOverload | torch._ops.OpOverloadPacket):
        return str(value)
    if isinstance(value, torch._ops.HigherOrderOperator):
        return higher_order_name(value)
    if not isinstance(value, str):
        raise SettingsError(
            f"{value!r} is not a torch op", advice="write its name, like 'aten.gelu', or give the op object"
        )
    text = value.strip().removeprefix("torch.ops.").replace("::", ".")
    higher = text.removeprefix("higher_order.")
    if higher and isinstance(getattr(torch.ops.higher_order, higher, None), torch._ops.HigherOrderOperator):
        return higher
    packet = _packet(text)
    if packet is None:
        raise SettingsError(f"torch has no op {value!r}", advice=_nearest_ops(text))
    namespace, op, *overload = text.split(".")
    if overload and overload[0] not in packet.overloads():
        near = [f"{namespace}.{op}.{one}" for one in packet.overloads()]
        raise SettingsError(f"torch has no op {value!r}", advice="its overloads are " + ", ".join(near))
    return text


def _packet(text: str) -> Any:
    """The op packet of "ns.op" or "ns.op.overload"; None if there is none."""
    parts = text.split(".")
    if len(parts) not in (2, 3):
        return None
    packet = getattr(getattr(torch.ops, parts[0]), parts[1], None)
    return packet if isinstance(packet, torch._ops.OpOverloadPacket) else None


def _nearest_ops(text: str) -> str:
    known = sorted({n.split(".")[0].replace("::", ".") for n in names_of_ops()})
    near = difflib.get_close_matches(text, known, n=3)
    if not near and "." not in text:
        near = difflib.get_close_matches(f"aten.{text}", known, n=3)
    if near:
        return "did you mean " + " or ".join(map(repr, near)) + "?"
    return "write namespace and name, like 'aten.gelu'; import the module that registers a custom op first"


def _op(value: Any) -> str:
    try:
        return op_name(value)
    except SettingsError as error:
        raise Unfit(f": {error.message}", error.advice) from None


def ops(value: Iterable[Op]) -> frozenset[str]:
    """Ops by their canonical names."""
    return frozenset(_collected(value, _op))


def pins(value: Mapping[Any, str]) -> FrozenMapping[str, str]:
    """Packs by the canonical names of ops."""
    if not isinstance(value, Mapping):
        raise _must_be('a mapping from ops to packs, {"aten.gelu.default": "pack:name"}', value)
    found: dict[str, str] = {}
    for key, pack in value.items():
        if not isinstance(pack, str) or not pack:
            raise Unfit(f"[{key!s}]={pack!r}: it must be the name of a pack")
        found[_op(key)] = pack
    return FrozenMapping(found)


def converters(value: Mapping[Any, Callable[..., Any]]) -> FrozenMapping[Any, Callable[..., Any]]:
    """Functions or Converters by overload; a packet as key stands for all of its overloads."""
    if not isinstance(value, Mapping):
        raise _must_be("a mapping from ops to converter functions", value)
    found: dict[Any, Any] = {}
    for key, function in value.items():
        if not callable(getattr(function, "implementation", function)):  # a Converter holds its function
            raise Unfit(
                f"[{key!s}]={function!r} is neither a function nor a Converter",
                "give a function that is called as the op is, after ctx: def convert(ctx, x): ...",
            )
        found.update(dict.fromkeys(_overloads(key), function))
    return FrozenMapping(found)


def _overloads(key: Any) -> list[Any]:
    """The overloads (or the Python callable) that a key of `converters` stands for."""
    key = getattr(key, "_opoverload", key)  # what torch.library.custom_op returned
    if callable(key) and not isinstance(key, torch._ops.OpOverload | torch._ops.OpOverloadPacket):
        return [key]
    text = _op(key)
    packet = _packet(text)
    if packet is None:
        return [getattr(torch.ops.higher_order, text)]
    overloads = text.split(".")[2:] or packet.overloads()
    return [getattr(packet, overload) for overload in overloads]
