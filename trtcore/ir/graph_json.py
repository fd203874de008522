"""A graph as JSON, and back: for files, which nobody need trust.

Reading runs nothing of what the text says: names are looked up in fixed tables and in torch's registry of ops, sizes
are read by the grammar of `trtcore.ir.expressions`, and an op may be in a graph only by `trtcore.ir.op_rules`.
"""

from __future__ import annotations

import json
import keyword
import math
import operator
import re
from collections.abc import Callable, Mapping
from typing import Any

import torch

from trtcore.errors import ArtifactError
from trtcore.ir.expressions import MAX_INT, expanded_terms, parse, to_text
from trtcore.ir.graph_data import NodeData, NodeRef, OpRef, SizeSpec, TensorSpec
from trtcore.ir.op_rules import refuse_op
from trtcore.ir.torch_private import higher_order_name

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,255}\Z")
_PATH = re.compile(r"[A-Za-z0-9_]{1,256}(\.[A-Za-z0-9_]{1,256}){0,64}\Z")
_DEVICE = re.compile(r"(cpu|cuda(:\d{1,3})?|meta)\Z")
_MAX_DEPTH = 32
# The size of an input goes to sympy, which takes a second for 30 divisions in one another.
_MAX_SIZE_TEXT = 1000
_COSTLY = re.compile(r"//|%|[A-Z]\w*\(")
_MAX_COSTLY = 16
_MAX_TERMS = 1024

FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    **{
        f"operator.{name}": getattr(operator, name)
        for name in (
            "add", "and_", "eq", "floordiv", "ge", "getitem", "gt", "le", "lt", "mod", "mul", "ne", "neg", "not_",
            "or_", "pos", "pow", "sub", "truediv",
        )
    },
    **{f"math.{name}": getattr(math, name) for name in ("ceil", "floor", "sqrt", "trunc")},
    **{
        f"torch.{name}": getattr(torch, name)
        for name in ("sym_float", "sym_int", "sym_ite", "sym_max", "sym_min", "sym_not", "sym_sqrt", "sym_sum")
        if hasattr(torch, name)
    },
    "round": round,
    "abs": abs,
    "max": max,
    "min": min,
}  # fmt: skip
"""Python functions that a graph may call: arithmetic on sizes, and taking an op's result apart."""

HIGHER_ORDER = frozenset(
    {
        "associative_scan", "auto_functionalized", "auto_functionalized_v2", "cond", "map", "map_impl", "scan",
        "while_loop", "wrap_with_autocast", "wrap_with_set_grad_enabled",
    }
)  # fmt: skip
# Those that are given an op, as their first argument, and call it with the others.
_CALLS_ITS_ARGUMENT = frozenset({"auto_functionalized", "auto_functionalized_v2"})
FUNCTIONAL_WRITE = "trtcore.functional_write.default"
"""Calls the op that its first argument names (`trtcore.runtime.functional_write`)."""
_NAME_OF = {id(function): name for name, function in FUNCTIONS.items()}


def _strings(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, (list, tuple)):
        return [text for item in value for text in _strings(item)]
    if isinstance(value, dict):
        return [text for item in value.values() for text in _strings(item)]
    return []


# ---- writing ------------------------------------------------------------------------------------------------


def node_to_json(node: NodeData) -> list[Any]:
    """A node as JSON. Only an input's FakeTensor is kept: nothing reads the others, and sympy's work is what a hostile
    file could ask for.

    Raises:
        ArtifactError: it calls, or is given, what a file cannot hold.
    """
    value = spec_to_json(node.value) if node.op == "placeholder" else None
    return [
        node.op, node.name, _target_to_json(node), _value_to_json(node.args), _value_to_json(node.kwargs), value,
        node.stack_trace, [list(pair) for pair in node.module_stack],
    ]  # fmt: skip


def _target_to_json(node: NodeData) -> Any:
    if node.op in ("placeholder", "get_attr", "output"):
        return str(node.target)
    if isinstance(node.target, OpRef):
        return ["op", _allowed(node)]
    if isinstance(node.target, torch._ops.HigherOrderOperator):
        name = str(higher_order_name(node.target))
        if name in HIGHER_ORDER:
            return ["higher_order", name]
    elif id(node.target) in _NAME_OF:
        return ["function", _NAME_OF[id(node.target)]]
    raise ArtifactError(f"the node {node.name} calls {node.target}, which a file cannot hold")


def _allowed(node: NodeData) -> str:
    """The name of a node's op, which must be one that reading lets through."""
    found = find_op(node.target.name)
    texts = [*_strings(node.args), *_strings(node.kwargs)]
    if found is not None and (problem := refuse_op(found, texts)):
        raise ArtifactError(
            f"the node {node.name} cannot be saved: {problem}",
            advice="a file may hold only ops that do nothing but compute: take this one out of the model",
        )
    return str(node.target.name)


def _value_to_json(value: Any) -> Any:
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, int):
        return value
    if isinstance(value, float):
        return ["float", repr(value)]
    if isinstance(value, complex):
        return ["complex", repr(value.real), repr(value.imag)]
    if isinstance(value, NodeRef):
        return ["node", value.name]
    if isinstance(value, OpRef):
        return ["op", value.name]
    if isinstance(value, (list, tuple)):
        return ["tuple" if isinstance(value, tuple) else "list", *map(_value_to_json, value)]
    if isinstance(value, dict):
        return ["dict", *([key, _value_to_json(item)] for key, item in value.items())]
    if isinstance(value, slice):
        return ["slice", *map(_value_to_json, (value.start, value.stop, value.step))]
    for kind, type_ in _TORCH_VALUES.items():
        if isinstance(value, type_):
            return [kind, str(value).removeprefix("torch.")]
    raise ArtifactError(f"a node is given {value!r}, which a file cannot hold")


_TORCH_VALUES: Mapping[str, type] = {
    "dtype": torch.dtype,
    "layout": torch.layout,
    "memory_format": torch.memory_format,
    "device": torch.device,
}


def spec_to_json(spec: Any) -> Any:
    """What ``meta["val"]`` says, as JSON; None where a size has no text."""
    if isinstance(spec, TensorSpec):
        try:
            sizes = [[_size_to_json(size) for size in row] for row in (spec.shape, spec.stride)]
        except ArtifactError:
            return None
        return ["tensor", str(spec.dtype).removeprefix("torch."), *sizes, spec.device]
    if isinstance(spec, SizeSpec):
        try:
            return ["size", _size_to_json(spec.expression)]
        except ArtifactError:
            return None
    if isinstance(spec, list):
        return ["list", *map(spec_to_json, spec)]
    return ["float", repr(spec)] if isinstance(spec, float) else spec


def _size_to_json(size: Any) -> Any:
    return size if isinstance(size, (int, str)) else to_text(size)  # a text was read from a file


# ---- reading ------------------------------------------------------------------------------------------------


def node_from_json(value: Any) -> NodeData:
    """Read what `node_to_json` wrote; the target is an op, a function or a name.

    Raises:
        ArtifactError: it makes no sense, or calls what may not be in a file.
    """
    items = _items(value, 8)
    op, name = items[:2]
    if op not in ("placeholder", "get_attr", "call_function", "output"):
        raise ArtifactError(f"a node of the kind {_short(op)}")
    if not isinstance(name, str) or not is_identifier(name):
        raise ArtifactError(f"a node is named {_short(name)}")
    args, kwargs = _value_from_json(items[3], 0), _value_from_json(items[4], 0)
    if not isinstance(args, tuple) or not isinstance(kwargs, dict) or not all(map(is_identifier, kwargs)):
        raise ArtifactError(f"the arguments of {name}")
    strings = [*_strings(args), *_strings(kwargs)]
    target = _target_from_json(op, items[2], strings)
    _check_op_arguments(name, target, args, kwargs, strings)
    if str(target) == FUNCTIONAL_WRITE:
        _check_call(name, args)
    trace, stack = items[6], items[7]
    if not isinstance(trace, (str, type(None))):
        raise ArtifactError(f"the stack trace of {name}")
    modules = tuple((str(key), str(path)) for key, path in (_items(pair, 2) for pair in _list(stack)))
    value = spec_from_json(items[5]) if op == "placeholder" else None
    return NodeData(op, name, target, args, kwargs, value, trace, modules)


def _target_from_json(op: str, target: Any, strings: list[str]) -> Any:
    if op == "get_attr":
        if not isinstance(target, str) or not is_path(target):
            raise ArtifactError(f"an attribute is named {_short(target)}")
        return target
    if op != "call_function":
        if not isinstance(target, str) or not is_identifier(target):
            raise ArtifactError(f"an input is named {_short(target)}")
        return target
    kind, name = _items(target, 2)
    if kind == "function" and name in FUNCTIONS:
        return FUNCTIONS[name]
    if kind == "higher_order" and name in HIGHER_ORDER:
        higher = getattr(torch.ops.higher_order, name, None)
        if higher is None:
            raise UnknownOpError(
                f"it calls the higher-order op {name}, which torch {torch.__version__} does not have",
                advice="load it with the torch that it was saved with",
            )
        return higher
    if kind == "op":
        found = _op_from_json(name)
        _check_op(found, strings)
        return found
    raise ArtifactError(f"a node calls {_short(target)}")


def _op_from_json(name: Any) -> torch._ops.OpOverload:
    if not isinstance(name, str):
        raise ArtifactError(f"a node calls {_short(name)}")
    found = find_op(name)
    if found is None:
        raise UnknownOpError(
            f"it calls {name}, and no torch op of that name is registered here",
            advice="import what registers it (on the command line: --import MODULE), or install the pack that "
            "brings it, before loading",
        )
    return found


def _check_op(op: torch._ops.OpOverload, strings: list[str]) -> None:
    if problem := refuse_op(op, strings):
        raise ArtifactError(f"it may not be run: {problem}")


def _check_op_arguments(node: str, target: Any, args: Any, kwargs: Any, strings: list[str]) -> None:
    """An op may be given to what calls it with the node's own arguments alone, and is judged by these."""
    ops = [*_ops(args), *_ops(kwargs)]
    if not ops:
        return
    calls = (
        isinstance(target, torch._ops.HigherOrderOperator)
        and higher_order_name(target) in _CALLS_ITS_ARGUMENT
    )
    if not calls or len(ops) != 1 or args[:1] != (ops[0],) or ops[0].namespace == "trtcore":
        raise ArtifactError(f"{node} is given the op {ops[0]}, which it may not call")
    _check_op(ops[0], strings)


def _check_call(node: str, args: Any) -> None:
    """The op that a node calls by name is judged by what it is given there."""
    if len(args) != 5 or not isinstance(args[0], str):
        raise ArtifactError(f"the arguments of {node}")
    _check_op(_op_from_json(args[0]), _strings(read_call(args[1])))


def write_call(call: tuple[Any, Any, Any]) -> str:
    """The three parts of a call of ``trtcore::functional_write`` as its text; nodes in them are names that it gives.

    Raises:
        ArtifactError: the op is given what a file cannot hold.
    """
    return json.dumps(_value_to_json(call), separators=(",", ":"))


def read_call(text: Any) -> tuple[Any, ...]:
    """Read what `write_call` wrote.

    Raises:
        ArtifactError: it makes no sense.
    """
    try:
        call = _value_from_json(json.loads(text), 0)
    except (TypeError, ValueError, RecursionError) as error:
        raise ArtifactError(f"the call {_short(text)}") from error
    if not isinstance(call, tuple) or len(call) != 3 or not all(isinstance(part, tuple) for part in call):
        raise ArtifactError(f"the call {_short(text)}")
    return call


def _ops(value: Any) -> list[torch._ops.OpOverload]:
    if isinstance(value, torch._ops.OpOverload):
        return [value]
    if isinstance(value, (list, tuple)):
        return [op for item in value for op in _ops(item)]
    if isinstance(value, dict):
        return [op for item in value.values() for op in _ops(item)]
    return []


class UnknownOpError(ArtifactError):
    """An op that nothing here has registered."""


def find_op(name: str) -> torch._ops.OpOverload | None:
    """The op of this name, ``aten.relu.default``; None where nothing has registered it."""
    parts = name.split(".")
    if len(parts) != 3 or not all(_NAME.match(part) for part in parts):
        return None
    packet = getattr(getattr(torch.ops, parts[0]), parts[1], None)
    found = getattr(packet, parts[2], None) if isinstance(packet, torch._ops.OpOverloadPacket) else None
    return found if isinstance(found, torch._ops.OpOverload) else None


def _value_from_json(value: Any, depth: int) -> Any:
    if depth > _MAX_DEPTH:
        raise ArtifactError("an argument that is nested too deep")
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, int):
        if abs(value) > MAX_INT + 1:
            raise ArtifactError(f"the number {_short(value)}")
        return value
    kind, *rest = _list(value) or [""]
    if kind == "float":
        return _float(*_items(rest, 1))
    if kind == "complex":
        return complex(*map(_float, _items(rest, 2)))
    if kind == "node":
        (name,) = _items(rest, 1)
        if not isinstance(name, str):
            raise ArtifactError(f"the node {_short(name)}")
        return NodeRef(name)
    if kind == "op":
        return _op_from_json(*_items(rest, 1))
    if kind in ("tuple", "list"):
        items = [_value_from_json(item, depth + 1) for item in rest]
        return tuple(items) if kind == "tuple" else items
    if kind == "dict":
        pairs = [_items(pair, 2) for pair in rest]
        if not all(isinstance(key, str) for key, _ in pairs):
            raise ArtifactError("a key that is no text")
        return {key: _value_from_json(item, depth + 1) for key, item in pairs}
    if kind == "slice":
        return slice(*(_value_from_json(item, depth + 1) for item in _items(rest, 3)))
    if kind in _TORCH_VALUES:
        return torch_value(kind, *_items(rest, 1))
    raise ArtifactError(f"an argument {_short(value)}")


def torch_value(kind: str, name: Any) -> Any:
    """A dtype, layout, memory format or device by its name.

    Raises:
        ArtifactError: torch has none of that name.
    """
    if kind == "device":
        if not isinstance(name, str) or not _DEVICE.match(name):
            raise ArtifactError(f"the device {_short(name)}")
        return torch.device(name)
    found = getattr(torch, name, None) if isinstance(name, str) and _NAME.match(name) else None
    if not isinstance(found, _TORCH_VALUES[kind]):
        raise ArtifactError(f"the {kind} {_short(name)}")
    return found


def _float(text: Any) -> float:
    if not isinstance(text, str) or not re.match(
        r"-?(\d{1,40}(\.\d{0,40})?(e[+-]?\d{1,3})?|inf|nan)\Z", text
    ):
        raise ArtifactError(f"the number {_short(text)}")
    return float(text)


def spec_from_json(value: Any, depth: int = 0) -> Any:
    """Read what `spec_to_json` wrote; sizes are ints and checked texts.

    Raises:
        ArtifactError: it makes no sense.
    """
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if depth > _MAX_DEPTH:
        raise ArtifactError("a description that is nested too deep")
    kind, *rest = _list(value) or [""]
    if kind == "tensor":
        dtype, shape, stride, device = _items(rest, 4)
        sizes, strides = (tuple(map(_size_from_json, _list(row))) for row in (shape, stride))
        if len(sizes) != len(strides):
            raise ArtifactError(f"a tensor of shape {_short(shape)} and strides {_short(stride)}")
        return TensorSpec(torch_value("dtype", dtype), sizes, strides, str(torch_value("device", device)))
    if kind == "size":
        return SizeSpec(_size_from_json(*_items(rest, 1)))
    if kind == "float":
        return _float(*_items(rest, 1))
    if kind == "list":
        return [spec_from_json(item, depth + 1) for item in rest]
    raise ArtifactError(f"a description {_short(value)}")


def _size_from_json(size: Any) -> int | str:
    if isinstance(size, str):
        if len(size) > _MAX_SIZE_TEXT or len(_COSTLY.findall(size)) > _MAX_COSTLY:
            raise ArtifactError(f"the size {_short(size)} is too long")
        text = parse(size).text
        if expanded_terms(text) > _MAX_TERMS:
            raise ArtifactError(f"the size {_short(size)} has too many terms when it is multiplied out")
        return text
    if type(size) is not int or abs(size) > MAX_INT:
        raise ArtifactError(f"a size {_short(size)}")
    return size


def is_identifier(text: Any) -> bool:
    """Whether a text is a name that generated code may have."""
    return isinstance(text, str) and bool(_NAME.match(text)) and not keyword.iskeyword(text)


def is_path(text: str) -> bool:
    """Whether a text is a dotted path of attributes."""
    return bool(_PATH.match(text)) and not any(
        part.startswith("__") or keyword.iskeyword(part) for part in text.split(".")
    )


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise ArtifactError(f"{_short(value)} is no list")
    return value


def _items(value: Any, count: int) -> list[Any]:
    if len(_list(value)) != count:
        raise ArtifactError(f"{_short(value)} has not {count} parts")
    return list(value)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
