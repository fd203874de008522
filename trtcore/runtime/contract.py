"""The calling contract of a compiled module as JSON: parameters, structures, what each input may be, conditions."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from torch.utils import _pytree as pytree

from trtcore.errors import ArtifactError
from trtcore.ir.expressions import parse
from trtcore.ir.graph_json import is_identifier, torch_value
from trtcore.ir.guards import Guard
from trtcore.ir.inputs import structure_text
from trtcore.ir.program import SymbolRange
from trtcore.ir.signature import KINDS, PLAIN, Binding, Parameter, Parameters
from trtcore.ir.structures import spec_state
from trtcore.runtime.input_check import InputCheck, _Constant, _LinearDim, _Number, _Tensor

_MOST = 1 << 62


# ---- writing ------------------------------------------------------------------------------------------------


def check_to_json(check: InputCheck) -> dict[str, Any]:
    """The contract of a module's calls."""
    binding = check.binding
    saved: dict[str, Any] = {
        "model": binding.model,
        "parameters": [_parameter_to_json(one) for one in binding.parameters],
        "names": list(binding.names),
        "positional": binding.positional,
        "ordered": check.ordered,
        "specs": [spec_to_json(spec) for spec in check.specs],
        "leaves": [_leaf_to_json(leaf) for leaf in check.leaves],
        "guards": [[guard.text, guard.expression] for guard in check.guards],
        "profiles": [[list(symbol) for symbol in profile] for profile in check.profiles],
    }
    return saved


def _parameter_to_json(one: Parameter) -> list[Any]:
    """A default that is no plain value is left out: such a parameter must be given to the loaded module."""
    plain = one.has_default and isinstance(one.default, PLAIN)
    return [one.name, one.kind, *([_constant_to_json(one.default)] if plain else [])]


def _leaf_to_json(leaf: Any) -> list[Any]:
    if isinstance(leaf, _Tensor):
        dims = [[d.index, d.symbol, d.scale, d.offset, d.min, d.max] for d in leaf.linear]
        layout = None if leaf.stride is None else [list(leaf.stride), leaf.storage_offset]
        return [
            "tensor", leaf.name, str(leaf.dtype).removeprefix("torch."), leaf.rank, leaf.device_group,
            [list(one) for one in leaf.fixed], dims, [list(one) for one in leaf.derived], layout,
        ]  # fmt: skip
    if isinstance(leaf, _Number):
        return ["number", leaf.name, leaf.symbol, leaf.min, leaf.max]
    return ["constant", leaf.name, _constant_to_json(leaf.value)]


def _constant_to_json(value: Any) -> Any:
    if value is None or isinstance(value, (bool, str, int)):
        return value
    if isinstance(value, float):
        return ["float", repr(value)]
    for kind in ("dtype", "layout", "memory_format", "device"):
        if type(value).__name__ == kind:
            return [kind, str(value).removeprefix("torch.")]
    raise ArtifactError(f"an input was fixed to {value!r}, which a file cannot hold")


def spec_to_json(spec: pytree.TreeSpec | None) -> Any:
    """A structure, as torch writes it: text of JSON.

    Raises:
        ArtifactError: the text would not give it back.
    """
    if spec is None:
        return None
    text = spec_state(spec)
    if not isinstance(text, str):
        raise ArtifactError(
            f"the structure {structure_text(spec)} cannot be saved",
            advice="give dicts keys that are texts, and register types of your own with a serialized_type_name (a "
            "NamedTuple with torch.utils._pytree._register_namedtuple)",
        )
    if any(_holds(json.loads(text)[1], kind) for kind in _REFUSED):
        raise ArtifactError(
            f"the structure {structure_text(spec)} cannot be saved: to read it, torch imports what the file names",
            advice="compile the model with a dict in the place of a defaultdict, and a list in that of a deque",
        )
    return text


def _holds(schema: Any, kind: str) -> bool:
    return schema["type"] == kind or any(_holds(child, kind) for child in schema["children_spec"])


def ranges_to_json(ranges: Mapping[str, SymbolRange]) -> dict[str, list[int]]:
    """Ranges of symbols."""
    return {name: [one.min, one.opt, one.max] for name, one in ranges.items()}


# ---- reading ------------------------------------------------------------------------------------------------


def check_from_json(saved: Any) -> InputCheck:
    """Read what `check_to_json` wrote.

    Raises:
        ArtifactError: it makes no sense.
        KeyError, TypeError, ValueError: it is not of this form.
    """
    names = tuple(_text(name) for name in saved["names"])
    specs = tuple(spec_from_json(spec) for spec in saved["specs"])
    leaves = tuple(_leaf_from_json(leaf) for leaf in saved["leaves"])
    positional = _number(saved["positional"])
    if any(spec is None for spec in specs) or len(specs) != len(names) or positional > len(names):
        raise ArtifactError(
            "the calling contract has arguments without a structure, or structures without a name"
        )
    if sum(spec.num_leaves for spec in specs if spec is not None) != len(leaves):
        raise ArtifactError("the calling contract has another number of inputs than its structures")
    profiles = tuple(
        tuple((_text(name), _number(low), _number(high)) for name, low, high in profile)
        for profile in saved["profiles"]
    )
    _check_profiles(leaves, profiles)
    return InputCheck(
        binding=Binding(parameters_from_json(saved), names, positional, _text(saved["model"])),
        specs=specs,  # type: ignore[arg-type]
        leaves=leaves,
        guards=tuple(Guard.from_text(_text(expression), _text(text)) for text, expression in saved["guards"]),
        profiles=profiles,
        ordered=saved["ordered"] is not False,
        _flat=all(spec is not None and spec.is_leaf() for spec in specs),
    )


def parameters_from_json(saved: Mapping[str, Any]) -> Parameters:
    """The model's parameters; their names and defaults become generated code, so they are names and plain values."""
    parameters = []
    for name, kind, *default in saved["parameters"]:
        if not is_identifier(name) or kind not in KINDS or len(default) > 1:
            raise ArtifactError(f"the saved parameter {name!r} makes no sense")
        value = _constant_from_json(default[0]) if default else None
        if not isinstance(value, PLAIN):
            raise ArtifactError(f"the saved default of the parameter {name!r} is no plain value")
        parameters.append(Parameter(name, kind, bool(default), value))
    if len({one.name for one in parameters}) != len(parameters):
        raise ArtifactError("two saved parameters have one name")
    return tuple(parameters)


def _leaf_from_json(leaf: Any) -> Any:
    kind, name, *rest = leaf
    if kind == "number":
        symbol, low, high = rest
        return _Number(_text(name), _text(symbol), _number(low), _number(high, (1 << 63) - 1))
    if kind == "constant":
        (value,) = rest
        return _Constant(_text(name), _constant_from_json(value))
    if kind != "tensor":
        raise ArtifactError(f"an input of the kind {kind!r}")
    dtype, rank, device, fixed, linear, derived, layout = rest
    found = _Tensor(
        _text(name),
        torch_value("dtype", dtype),
        _number(rank),
        _text(device),
        tuple((_number(i), _number(n)) for i, n in fixed),
        tuple(_linear(dim) for dim in linear),
        tuple((_number(i), parse(_text(text)).text) for i, text in derived),
        *_layout(layout),
    )
    places = [i for i, _ in found.fixed] + [d.index for d in found.linear] + [i for i, _ in found.derived]
    if found.rank > 64 or sorted(places) != list(range(found.rank)):
        raise ArtifactError(f"the dimensions of input {found.name} make no sense")
    if found.stride is not None and len(found.stride) != found.rank:
        raise ArtifactError(f"the saved strides {found.stride!r} are not those of {found.rank} dimensions")
    return found


def _linear(dim: Any) -> _LinearDim:
    index, symbol, scale, offset, low, high = dim
    if type(offset) is not int or abs(offset) > _MOST or _number(scale) < 1:
        raise ArtifactError(f"the dimension {dim!r} makes no sense")
    return _LinearDim(_number(index), _text(symbol), scale, offset, _number(low), _number(high))


def _layout(saved: Any) -> tuple[Any, Any]:
    """The layout that an input must have, if any."""
    if saved is None:
        return None, None
    stride, offset = saved
    return tuple(parse(_text(text)).text for text in stride), None if offset is None else parse(
        _text(offset)
    ).text


def _check_profiles(leaves: Sequence[Any], profiles: Sequence[Any]) -> None:
    used = {dim.symbol for leaf in leaves if isinstance(leaf, _Tensor) for dim in leaf.linear}
    for profile in profiles:
        missing = used - {name for name, _, _ in profile}
        if missing:
            raise ArtifactError(f"a saved optimisation profile has no range of {', '.join(sorted(missing))}")


def _constant_from_json(value: Any) -> Any:
    if value is None or isinstance(value, (bool, str, int)):
        return value
    kind, text = value
    return float(_text(text)) if kind == "float" else torch_value(kind, text)


# Structures that torch knows by itself. Others are looked up among those that a library has registered; torch's own
# reading of a defaultdict's factory, or of a deque, imports by name.
_REFUSED = ("collections.defaultdict", "collections.deque")


def spec_from_json(text: Any) -> pytree.TreeSpec | None:
    """A structure from torch's text for it.

    Raises:
        ArtifactError: it names a type that nothing here has registered.
    """
    if text is None:
        return None
    _, schema = json.loads(_text(text))
    _check_spec(schema, 0)
    try:
        return pytree.treespec_loads(text)
    except Exception as error:
        raise ArtifactError(f"a saved structure makes no sense: {error}") from None


def _check_spec(schema: Any, depth: int) -> None:
    kind = schema["type"]
    if (
        depth > 64
        or kind in _REFUSED
        or (kind is not None and kind not in pytree.SERIALIZED_TYPE_TO_PYTHON_TYPE)
    ):
        raise ArtifactError(
            f"a saved structure is of the type {kind!r}, which is not registered here",
            advice="import the library that defines it before loading",
        )
    for child in schema["children_spec"]:
        _check_spec(child, depth + 1)


def ranges_from_json(saved: Mapping[str, Any]) -> dict[str, SymbolRange]:
    """Read what `ranges_to_json` wrote."""
    found = {}
    for name, (low, opt, high) in saved.items():
        numbers = _number(low), _number(opt), _number(high)
        if not is_identifier(name) or not numbers[0] <= numbers[1] <= numbers[2]:
            raise ArtifactError(f"the range of {name!r}: {numbers}")
        found[name] = SymbolRange(name, *numbers)
    return found


def _number(value: Any, most: int = _MOST) -> int:
    if type(value) is not int or not 0 <= value <= most:
        raise ArtifactError(f"the number {value!r}")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str) or len(value) > 1 << 20:
        raise ArtifactError(f"{str(value)[:60]!r} is no text")
    return value
