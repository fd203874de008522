"""What `--input` and `--set` take, as values.

--input [NAME=]SHAPE[:DTYPE][@MIN,OPT,MAX]...

1x3x224x224                                  a float32 image
1x128:int64                                  token ids
?x128:int64@1x128,8x128,32x128               batch 1 to 32, tuned for 8
?x9@1x9@8x9,32x9,64x9                        two optimisation profiles: 1, or 8 to 64 tuned for 32
attention_mask=?x?:int64@1x8,4x32,8x128      a keyword argument, two dynamic dimensions
scalar:float32                               a tensor of rank 0
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from trtcore.errors import InputError, SettingsError

if TYPE_CHECKING:
    import torch

    from trtcore.ir.inputs import Input

GRAMMAR = "[NAME=]SHAPE[:DTYPE][@MIN,OPT,MAX]..."
EXAMPLE = "?x128:int64@1x128,8x128,32x128"

_INPUT = re.compile(
    r"(?:(?P<name>[A-Za-z_]\w*)=)?(?P<shape>[^:@=]*)(?::(?P<dtype>[^:@]*))?(?:@(?P<ranges>.*))?\Z"
)
_SHORT = {
    "fp32": "float32", "f32": "float32", "fp16": "float16", "f16": "float16", "bf16": "bfloat16",
    "fp64": "float64", "f64": "float64", "i8": "int8", "i32": "int32", "i64": "int64", "u8": "uint8",
}  # fmt: skip


def parse_input(text: str) -> tuple[str | None, Input]:
    """One ``--input`` as the keyword it is for (None: positional) and what it describes.

    Raises:
        InputError: the text does not follow the grammar, or its shapes contradict each other.
    """
    from trtcore.ir.inputs import Input

    match = _INPUT.match(text.strip())
    if match is None:
        raise _error(text, "it does not have the form " + GRAMMAR)
    name, ranges = match["name"], match["ranges"]
    shape = _shape(text, match["shape"], wildcard=True)
    dtype = parse_dtype(match["dtype"] or "float32", text)
    if ranges is None:
        if None in shape:
            raise _error(text, "a shape with ? needs its ranges, as @MIN,OPT,MAX")
        return name, Input([size for size in shape if size is not None], dtype=dtype, name=name)
    profiles = [_profile(text, part, shape) for part in ranges.split("@")]
    return name, Input(profiles=profiles, dtype=dtype, name=name)


def parse_dtype(name: str, text: str | None = None) -> torch.dtype:
    """A torch dtype by its name (``int64``, ``torch.int64``) or a short one (``fp16``).

    Raises:
        InputError: torch has no dtype of this name; the nearest are offered.
    """
    import torch

    plain = name.strip().removeprefix("torch.")
    dtype = getattr(torch, _SHORT.get(plain.lower(), plain), None)
    if isinstance(dtype, torch.dtype):
        return dtype
    known = [key for key, value in vars(torch).items() if isinstance(value, torch.dtype)]
    near = difflib.get_close_matches(plain, [*known, *_SHORT], 3)
    hint = f"; did you mean {' or '.join(near)}?" if near else ""
    raise _error(text or name, f"torch has no dtype {name!r}{hint}")


def _shape(text: str, shape: str, *, wildcard: bool = False) -> tuple[int | None, ...]:
    if shape.strip().lower() in ("scalar", "()"):
        return ()
    sizes: list[int | None] = []
    for part in shape.strip().lower().split("x"):
        if part.isdecimal():
            sizes.append(int(part))
        elif part == "?" and wildcard:
            sizes.append(None)
        else:
            allowed = "a number or ?" if wildcard else "a number"
            raise _error(text, f"in the shape {shape!r}, {part!r} is not {allowed}")
    return tuple(sizes)


def _profile(text: str, ranges: str, shape: Sequence[int | None]) -> list[tuple[int, ...]]:
    """What follows an ``@``: (min, opt, max); one shape is all three, where there are further profiles."""
    parts = ranges.split(",")
    if len(parts) == 1 and text.count("@") > 1:
        parts *= 3
    if len(parts) != 3:
        raise _error(text, f"after @ come three shapes, MIN,OPT,MAX; here are {len(parts)}")
    return [_sizes(text, part, shape) for part in parts]


def _sizes(text: str, part: str, shape: Sequence[int | None]) -> tuple[int, ...]:
    """One of MIN, OPT, MAX; it must agree with the sizes that SHAPE fixes."""
    sizes = tuple(size for size in _shape(text, part) if size is not None)
    if len(sizes) != len(shape):
        raise _error(text, f"{part!r} has {len(sizes)} dimensions, the shape has {len(shape)}")
    for dim, (size, fixed) in enumerate(zip(sizes, shape)):
        if fixed is not None and size != fixed:
            raise _error(
                text,
                f"dimension {dim} is {fixed} in the shape and {size} in {part!r}: write ? for a dynamic one",
            )
    return sizes


def _error(text: str, why: str) -> InputError:
    return InputError(f"--input {text!r}: {why}", advice=f"write {GRAMMAR}, for example {EXAMPLE}")


class InputType(click.ParamType):  # type: ignore[type-arg]  # generic from click 8.2 on
    """Click's type of ``--input``: `parse_input`, its errors as usage errors."""

    name = GRAMMAR

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str):
            return value
        try:
            return parse_input(value)
        except InputError as error:
            self.fail(str(error), param, ctx)


def split_inputs(parsed: Sequence[tuple[str | None, Input]]) -> tuple[tuple[Input, ...], dict[str, Input]]:
    """Positional and keyword inputs.

    Raises:
        InputError: one keyword twice.
    """
    positional = tuple(value for name, value in parsed if name is None)
    named: dict[str, Input] = {}
    for name, value in parsed:
        if name is not None:
            if name in named:
                raise InputError(f"--input {name}= was given twice")
            named[name] = value
    return positional, named


def parse_settings(texts: Sequence[str]) -> dict[str, Any]:
    """Every ``--set KEY=VALUE`` as keyword arguments of `CompilationSettings`, typed by the field.

    Collections are comma separated (``torch_executed_ops=aten.relu,aten.gelu``), ``none`` is None where the
    field takes it, one entry of a mapping is ``pins.aten.gelu.default=distribution:pack``, and a whole one is JSON
    (``pins={"aten.gelu.default": "distribution:pack"}``). Values are checked by the settings themselves.

    Raises:
        SettingsError: no ``=``, or one key twice.
    """
    from trtcore.settings import CompilationSettings

    types = {item.name: item.type for item in CompilationSettings.describe()}
    found: dict[str, Any] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        key = key.strip()
        field, dot, entry = key.partition(".")
        if not equals or not key:
            raise SettingsError(f"--set {text!r}: write KEY=VALUE, for example min_block_size=1")
        if dot and types.get(field, "").startswith("Mapping"):
            found.setdefault(field, {})[entry] = value.strip()
        elif key in found:
            raise SettingsError(f"--set {key}= was given twice")
        else:
            found[key] = _typed(value.strip(), types.get(key, "bool"))
    return found


_WORDS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}


def _typed(value: str, annotation: str) -> Any:
    """The text as what the annotation says; text that is not one stays text, for the setting's own error."""
    kinds = {kind.strip().partition("[")[0] for kind in annotation.split("|")}
    word = value.lower()
    if "None" in kinds and word == "none":
        return None
    if "bool" in kinds and word in _WORDS:
        return _WORDS[word]
    if "bool" in kinds and word in ("0", "1"):
        return word == "1"
    if "int" in kinds and re.fullmatch(r"-?\d+", value):
        return int(value)
    if "Mapping" in kinds and value.startswith("{"):
        try:
            return json.loads(value)
        except json.JSONDecodeError:
            return value
    if kinds & {"frozenset", "tuple"} and "torch.device" not in kinds:
        return [part.strip() for part in value.split(",") if part.strip()]
    return value
