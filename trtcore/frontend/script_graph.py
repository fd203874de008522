"""A TorchScript graph as an ``nn.Module`` whose forward goes through it node by node.

torch.export sees ops through it as through any Python code: sizes stay symbolic, conditions on sizes become guards,
loops are unrolled, and the weights keep their names. So a ScriptModule is captured like the model that it was made
from, whether its source is at hand or not.
"""

from __future__ import annotations

import inspect
import math
import operator
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.utils import _pytree as pytree

from trtcore.errors import ExportError
from trtcore.frontend.comparing import agree
from trtcore.frontend.quiet import run, without_traces

_DTYPES = (
    *(
        torch.uint8,
        torch.int8,
        torch.int16,
        torch.int32,
        torch.int64,
        torch.float16,
        torch.float32,
        torch.float64,
    ),
    *(
        torch.complex32,
        torch.complex64,
        torch.complex128,
        torch.bool,
        torch.qint8,
        torch.quint8,
        torch.qint32,
    ),
    torch.bfloat16,
)  # TorchScript's numbers for them
_FORMATS = (torch.contiguous_format, torch.preserve_format, torch.channels_last, torch.channels_last_3d)


def script_as_module(script: torch.jit.ScriptModule) -> nn.Module:
    """An ``nn.Module`` that computes what a ScriptModule does, on its very weights.

    Its forward has the arguments of the script's, with names and defaults.
    """
    made: nn.Module = type(script.original_name, (_ScriptGraph,), {"__module__": __name__})(script)
    return made.train(script.training)


class _ScriptGraph(nn.Module):
    def __init__(self, script: torch.jit.ScriptModule) -> None:
        super().__init__()
        _take_over(self, script)
        method: Any = script.forward
        schema = method.schema
        graph = script.inlined_graph

        def forward(*args: Any, **kwargs: Any) -> Any:
            call = forward.__signature__.bind(*args, **kwargs)  # type: ignore[attr-defined]
            call.apply_defaults()
            values = [self, *call.arguments.values()]
            return _Run(dict(zip((one.debugName() for one in graph.inputs()), values))).graph(graph)

        kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
        parameters = [
            inspect.Parameter(
                one.name,
                kind,
                default=one.default_value if one.has_default_value() else inspect.Parameter.empty,
            )
            for one in schema.arguments[1:]
        ]
        forward.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        self.forward = forward


def _take_over(module: nn.Module, script: nn.Module) -> None:
    """Put a script's weights and constants, and those below it, into a plain module."""
    for name, parameter in script.named_parameters(recurse=False):
        # Of a file they come as plain tensors; a Parameter of one shares its memory.
        known = isinstance(parameter, nn.Parameter)
        module.register_parameter(
            name, parameter if known else nn.Parameter(parameter, requires_grad=parameter.requires_grad)
        )
    for name, buffer in script.named_buffers(recurse=False):
        module.register_buffer(name, buffer)
    for name, child in script.named_children():
        container = nn.Module()
        module.add_module(name, container)
        _take_over(container, child)
    object.__setattr__(module, "_script", script)


def _attribute(owner: Any, name: str) -> Any:
    if isinstance(owner, nn.Module):
        for table in (owner._parameters, owner._buffers, owner._modules):
            if name in table:
                return table[name]
        if name in owner.__dict__:
            return owner.__dict__[name]
        return getattr(owner.__dict__["_script"], name)
    return getattr(owner, name)


class _Run:
    """One run through a graph, with the values that nodes have made."""

    def __init__(self, values: dict[str, Any]) -> None:
        self.values = values

    def graph(self, graph: Any) -> Any:
        self._nodes(graph.nodes())
        results = [self._value(one) for one in graph.outputs()]
        return results[0] if len(results) == 1 else tuple(results)

    def _value(self, value: Any) -> Any:
        return self.values[value.debugName()]

    def _nodes(self, nodes: Any) -> None:
        for node in nodes:
            outputs = list(node.outputs())
            result = self._node(node)
            if len(outputs) == 1:
                result = (result,)
            for output, one in zip(outputs, result or ()):
                self.values[output.debugName()] = one

    def _block(self, block: Any, *inputs: Any) -> list[Any]:
        for name, value in zip((one.debugName() for one in block.inputs()), inputs):
            self.values[name] = value
        self._nodes(block.nodes())
        return [self._value(one) for one in block.outputs()]

    def _node(self, node: Any) -> Any:
        kind = node.kind()
        if kind == "prim::If":
            taken, otherwise = node.blocks()
            results = self._block(taken if self._value(next(node.inputs())) else otherwise)
            return results[0] if len(results) == 1 else results
        if kind == "prim::Loop":
            results = self._loop(node)
            return results[0] if len(results) == 1 else results
        arguments = [self._value(one) for one in node.inputs()]
        try:
            return _call(node, kind, arguments)
        except ExportError:
            raise
        except NotImplementedError as error:
            raise ExportError(f"the ScriptModule holds {kind}, which is not supported: {error}") from error

    def _loop(self, node: Any) -> list[Any]:
        (body,) = node.blocks()
        trips, go_on, *carried = (self._value(one) for one in node.inputs())
        index = 0
        while go_on and index < trips:
            go_on, *carried = self._block(body, index, *carried)
            index += 1
        return carried


def _call(node: Any, kind: str, arguments: Sequence[Any]) -> Any:
    if kind == "prim::Constant":
        return node.output().toIValue() if node.hasAttributes() else None
    if kind in ("prim::GetAttr", "prim::SetAttr"):
        name = node.s("name")
        return _attribute(arguments[0], name) if kind == "prim::GetAttr" else setattr(*_pair(arguments, name))
    if kind == "prim::TupleConstruct":
        return tuple(arguments)
    if kind == "prim::ListConstruct":
        return list(arguments)
    if kind == "prim::DictConstruct":
        return dict(zip(arguments[::2], arguments[1::2]))
    if kind == "prim::RaiseException":
        raise RuntimeError(f"the model raises {arguments[-1] if len(arguments) > 1 else ''}: {arguments[0]}")
    if kind == "prim::isinstance":
        raise NotImplementedError("whether a value is of a type")
    namespace, _, name = kind.partition("::")
    simple = _SIMPLE.get(name)
    if simple is not None and not (name in _NUMBERS_ONLY and _has_tensor(arguments)):
        return simple(*arguments)
    if namespace != "prim":
        return _operator(node)(*arguments)
    raise NotImplementedError(f"{node.sourceRange().strip()}")


def _pair(arguments: Sequence[Any], name: str) -> tuple[Any, str, Any]:
    return arguments[0], name, arguments[1]


def _has_tensor(arguments: Sequence[Any]) -> bool:
    return any(isinstance(one, torch.Tensor) for one in arguments)


def _operator(node: Any) -> Callable[..., Any]:
    """The op of a node, which takes TorchScript's numbers for dtypes, layouts and formats."""
    found = re.match(r"(\w+)::(\w+)(?:\.(\w+))?\(", node.schema())
    if found is None:
        raise NotImplementedError("it has no schema")
    namespace, name, overload = found.groups()
    if name == "to" and str(overload).startswith("prim_"):
        return _to
    op = getattr(getattr(getattr(torch.ops, namespace), name), overload or "default")
    declared = op._schema.arguments

    def call(*values: Any) -> Any:
        named = [_converted(str(one.real_type), value) for one, value in zip(declared, values)]
        positional = [value for one, value in zip(declared, named) if not one.kwarg_only]
        keywords = {one.name: value for one, value in zip(declared, named) if one.kwarg_only}
        return op(*positional, **keywords)

    return call


def _converted(kind: str, value: Any) -> Any:
    if type(value) is not int:
        return value
    if "ScalarType" in kind:
        return _DTYPES[value]
    if "MemoryFormat" in kind:
        return _FORMATS[value]
    if "Layout" in kind:
        return torch.strided
    return value


# ---- what is no op on tensors ------------------------------------------------------------------------------


def _number(value: Any) -> Any:
    """A number of a tensor, or one as it is: a size stays symbolic."""
    return value.item() if isinstance(value, torch.Tensor) else value


def _integer(value: Any) -> Any:
    value = _number(value)
    return int(value) if isinstance(value, (float, bool, str)) else value


def _real(value: Any) -> Any:
    value = _number(value)
    return float(value) if isinstance(value, (int, bool, str)) else value


def _truth(value: Any) -> bool:
    return bool(value)


def _dtype_number(value: torch.Tensor) -> int:
    return _DTYPES.index(value.dtype)


def _dtype_of(number: Any) -> Any:
    return _DTYPES[number] if type(number) is int else number


def _to(tensor: Any, *arguments: Any) -> Any:
    """``aten::to`` in the forms that only TorchScript has: device, dtype, non_blocking, copy, as given."""
    device = next((one for one in arguments if isinstance(one, (torch.device, str))), None)
    dtype = next((_DTYPES[one] for one in arguments if type(one) is int), None)
    return tensor.to(device=device, dtype=dtype)


def _tensor(data: Any, dtype: Any = None, device: Any = None, _grad: bool = False) -> torch.Tensor:
    return torch.tensor(data, dtype=_dtype_of(dtype), device=device)


def _interpolate(
    x: torch.Tensor,
    size: Any = None,
    scale_factor: Any = None,
    mode: str = "nearest",
    align_corners: Any = None,
    recompute: Any = None,
    antialias: bool = False,
) -> torch.Tensor:
    return functional.interpolate(x, size, scale_factor, mode, align_corners, recompute, antialias)


def _set_item(container: Any, key: Any, value: Any) -> Any:
    container[key] = value
    return container


def _appended(items: list[Any], value: Any) -> list[Any]:
    items.append(value)
    return items


def _slice(items: Any, start: Any = None, end: Any = None, step: Any = 1) -> Any:
    return items[start:end:step]


def _unpacked(items: Any) -> Any:
    return tuple(items)


def _first(value: Any, *_others: Any) -> Any:
    return value


def _nothing(*_arguments: Any) -> None:
    return None


def _minimum(first: Any, *others: Any) -> Any:
    return torch.sym_min(first, others[0]) if others else min(first)  # type: ignore[no-untyped-call]


def _maximum(first: Any, *others: Any) -> Any:
    return torch.sym_max(first, others[0]) if others else max(first)  # type: ignore[no-untyped-call]


def _size(tensor: torch.Tensor, dim: Any = None) -> Any:
    return list(tensor.shape) if dim is None else tensor.shape[dim]


def _length(value: Any) -> Any:
    return value.shape[0] if isinstance(value, torch.Tensor) else len(value)


_ARITHMETIC: Mapping[str, Callable[..., Any]] = {
    "add": operator.add, "sub": operator.sub, "mul": operator.mul, "div": operator.truediv,
    "floordiv": operator.floordiv, "floor_divide": operator.floordiv, "remainder": operator.mod, "fmod": math.fmod,
    "pow": operator.pow, "neg": operator.neg, "eq": operator.eq, "ne": operator.ne, "lt": operator.lt,
    "le": operator.le, "gt": operator.gt, "ge": operator.ge, "__and__": operator.and_, "__or__": operator.or_,
    "__xor__": operator.xor, "abs": abs, "ceil": math.ceil, "floor": math.floor, "round": round,
    "sqrt": math.sqrt, "exp": math.exp, "log": math.log, "sin": math.sin, "cos": math.cos, "tanh": math.tanh,
    "add_": operator.iadd, "copy": list, "slice": _slice, "index": list.index, "sorted": sorted,
    "insert": list.insert, "clear": list.clear, "any": any, "all": all, "format": str.format, "str": str,
    "min": _minimum, "max": _maximum, "unbind": tuple,
}  # fmt: skip
"""Of numbers and lists; for tensors these names are ops."""

_NUMBERS_ONLY = frozenset(_ARITHMETIC)

_SIMPLE: Mapping[str, Callable[..., Any]] = {
    **_ARITHMETIC,
    "__is__": operator.is_, "__isnot__": operator.is_not, "__not__": operator.not_, "__getitem__": operator.getitem,
    "__contains__": operator.contains, "_set_item": _set_item, "append": _appended, "extend": list.extend,
    "pop": list.pop, "len": _length, "keys": lambda d: list(d), "values": lambda d: list(d.values()),
    "items": lambda d: list(d.items()), "get": dict.get, "list": list, "dict": dict,
    "Int": _integer, "Float": _real, "Bool": _truth, "IntImplicit": _integer, "FloatImplicit": _real,
    "ScalarImplicit": _number, "ImplicitTensorToNum": _number, "NumToTensor": _first, "size": _size,
    "dim": torch.Tensor.dim, "numel": torch.Tensor.numel, "is_floating_point": torch.Tensor.is_floating_point,
    "warn": _nothing, "Print": _nothing, "Uninitialized": _nothing, "unchecked_cast": _first,
    "unchecked_unwrap_optional": _first, "_unwrap_optional": _first, "data": _first, "TupleUnpack": _unpacked,
    "ListUnpack": _unpacked, "TupleIndex": operator.getitem, "TupleSlice": _slice, "dtype": _dtype_number,
    "device": lambda x: x.device, "layout": lambda _x: 0, "is_cuda": lambda x: x.is_cuda, "ndim": torch.Tensor.dim,
    "shape": _size, "requires_grad": lambda _x: False, "is_quantized": lambda x: x.is_quantized,
    "tensor": _tensor, "as_tensor": _tensor, "__interpolate": _interpolate, "is_scripting": lambda: True,
    "is_autocast_enabled": lambda: False, "is_autocast_cpu_enabled": lambda: False,
}  # fmt: skip


@contextmanager
def scripts_replaced(model: nn.Module) -> Iterator[None]:
    """Within this, the ScriptModules below a model are plain modules that compute the same."""
    replaced: list[tuple[nn.Module, str, nn.Module]] = []
    made: dict[nn.Module, nn.Module] = {}
    for parent in list(model.modules()):
        if isinstance(parent, torch.jit.ScriptModule):
            continue
        for name, child in parent._modules.items():
            if isinstance(child, torch.jit.ScriptModule):
                replaced.append((parent, name, child))
                made.setdefault(child, script_as_module(child))
    for parent, name, child in replaced:
        parent._modules[name] = made[child]
    try:
        yield
    finally:
        for parent, name, child in replaced:
            parent._modules[name] = child


def differs(script: torch.jit.ScriptModule, module: nn.Module, args: Any, kwargs: Any) -> bool:
    """Whether a module that was made of a script computes something else with these arguments."""
    wanted, have = (
        pytree.tree_leaves(_run_script(script, args, kwargs)),
        pytree.tree_leaves(run(module, args, kwargs)),
    )
    return len(wanted) != len(have) or not all(map(agree, wanted, have))


def _run_script(script: torch.jit.ScriptModule, args: Any, kwargs: Any) -> Any:
    """A script's results, on copies of the inputs; its buffers are afterwards as they were."""
    before = {name: buffer.clone() for name, buffer in script.named_buffers()}
    with without_traces((tuple(args), dict(kwargs))) as (own_args, own_kwargs):
        try:
            return script(*own_args, **own_kwargs)
        finally:
            for name, buffer in script.named_buffers():
                buffer.copy_(before[name])
