"""Ops as quick-deployable plugins (``tensorrt.plugin``): what is registered with TensorRT, and what it calls.

A plugin is registered under the op's name; where optional tensors are absent, under the name and which ones
(``ns::op__no_bias``), since a plugin has a fixed number of inputs. Its attributes are the op's other arguments:
ints, floats, bools and strings as they are, lists as arrays, everything else (None among it) as JSON text.
"""

from __future__ import annotations

import importlib
import inspect
import json
import threading
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from trtcore.pack import Backend, ConversionError, PackError
from trtcore_plugins.expressions import lower
from trtcore_plugins.memory import tensor_at
from trtcore_plugins.tracing import TensorSpec, Traced, symbol_name, trace_sizes

if TYPE_CHECKING:
    from trtcore_plugins.ahead import CompiledKernel
    from trtcore_plugins.launching import LaunchPlan
    from trtcore_plugins.signature import OpSignature

_RESERVED = ("outputs", "stream", "tactic")
_lock = threading.RLock()
_defined: dict[tuple[str, str], object] = {}


# ---- attributes -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Attribute:
    """An op's argument as a plugin's attribute.

    Attributes:
        annotation: the type that the plugin declares.
        encode: from the op's value to one of that type.
        decode: and back.
    """

    annotation: Any
    encode: Callable[[Any], Any]
    decode: Callable[[Any], Any]


def _array(dtype: Any, item: type) -> Attribute:
    return Attribute(
        npt.NDArray[dtype],
        lambda value: np.array(value, dtype=dtype).reshape(-1),
        lambda array: [item(value) for value in np.asarray(array).reshape(-1)],
    )


def _to_json(value: Any) -> str:
    if isinstance(value, (torch.dtype, torch.device, torch.layout, torch.memory_format)):
        return json.dumps({type(value).__name__: str(value).removeprefix("torch.")})
    return json.dumps(list(value) if isinstance(value, (list, tuple)) else value)


def _from_json(text: str) -> Any:
    value = json.loads(text)
    if isinstance(value, dict):
        ((kind, name),) = value.items()
        return torch.device(name) if kind == "device" else getattr(torch, name)
    return value


_JSON = Attribute(str, _to_json, _from_json)
_ATTRIBUTES: Mapping[str, Attribute] = {
    "int": Attribute(int, int, int),
    "float": Attribute(float, float, float),
    "bool": Attribute(bool, bool, bool),
    "str": Attribute(str, str, str),
    "List[int]": _array(np.int64, int),
    "List[float]": _array(np.float64, float),
    "List[bool]": _array(np.bool_, bool),
}


def attribute_of(kind: str) -> Attribute:
    """How an argument of a schema type becomes an attribute: ``"int"``, ``"List[float]"``, ``"Optional[int]"``."""
    return _ATTRIBUTES.get(kind, _JSON)


# ---- what TensorRT is told ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Combination:
    """Types and formats that a plugin takes, for TensorRT to choose from, in the notation of ``tensorrt.plugin``.

    Attributes:
        types: per input and output, separated by commas, ``"FP32"``, or ``"FP32|FP16"`` for types that go together,
            or ``"FP32*FP16"`` for independent ones.
        formats: the same for formats; one stands for all.
    """

    types: str
    formats: str = "LINEAR"


@dataclass(frozen=True)
class Definition:
    """One plugin as it is registered with TensorRT.

    Attributes:
        name: ``"namespace::name"``.
        op: the torch op.
        signature: its arguments.
        absent: the optional tensors that this plugin has not.
        combinations: types and formats; none means those of the network, and linear.
        compile: for a plugin that is compiled ahead of time, ``(specs, attributes) -> (plan, kernel)``; None for a
            Python callback.
        scratch: small outputs at the end that nobody reads; see `trtcore_plugins.ahead`.
        device: where a Python callback finds its tensors.
    """

    name: str
    op: Any
    signature: OpSignature
    absent: tuple[str, ...] = ()
    combinations: tuple[Combination, ...] = ()
    compile: Callable[..., tuple[LaunchPlan, CompiledKernel]] | None = None
    scratch: int = 0
    device: str = "cuda"

    @property
    def tensors(self) -> tuple[str, ...]:
        """The op's tensor arguments that the plugin has."""
        return tuple(name for name in self.signature.tensors if name not in self.absent)

    @property
    def attributes(self) -> dict[str, Attribute]:
        """The op's other arguments."""
        kinds = self.signature.kinds
        return {
            name: attribute_of(kinds[name])
            for name in self.signature.inputs
            if name not in self.signature.tensors
        }

    @property
    def aliased(self) -> tuple[str, ...]:
        """The tensors that the op writes to: each is an output that shares its input's memory."""
        return tuple(name for name in self.signature.mutated if name in self.tensors)

    @property
    def num_outputs(self) -> int:
        """The plugin's outputs: the aliased ones, the op's, and the ones that nobody reads."""
        return len(self.aliased) + len(self.signature.outputs) + self.scratch

    def encode(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """The attributes of a call, as the plugin wants them."""
        return {_safe(name): attribute.encode(values[name]) for name, attribute in self.attributes.items()}

    def decode(self, encoded: Mapping[str, Any]) -> dict[str, Any]:
        """The op's arguments that are no tensors, and None for the tensors that are absent."""
        decoded = {
            name: attribute.decode(encoded[_safe(name)]) for name, attribute in self.attributes.items()
        }
        return {**decoded, **dict.fromkeys(self.absent)}

    def call(self, tensors: Sequence[torch.Tensor], attributes: Mapping[str, Any]) -> list[torch.Tensor]:
        """Call the op; its outputs as a list."""
        values = {**attributes, **dict(zip(self.tensors, tensors))}
        return self.signature.unpack(
            self.op(*self.signature.positional(values), **self.signature.keyword(values))
        )


def _safe(name: str) -> str:
    """A name that ``tensorrt.plugin`` does not use itself."""
    return f"{name}_" if name in _RESERVED else name


def describe(definition: Definition, specs: Sequence[TensorSpec], attributes: Mapping[str, Any]) -> Traced:
    """The op's output shapes for all sizes; `Traced.rest` is (dtype, rank) per output.

    Raises:
        ConversionError: the op's fake implementation cannot be followed.
    """

    def run(tensors: list[torch.Tensor]) -> tuple[list[Any], Any]:
        outputs = definition.call(tensors, attributes)
        return [dim for output in outputs for dim in output.shape], tuple((o.dtype, o.dim()) for o in outputs)

    return trace_sizes(run, specs, f"the fake implementation of {definition.signature.name}")


class ShapeArithmetic:
    """TensorRT's symbolic integers (``tensorrt.plugin.ShapeExpr``)."""

    def __init__(self, trtp: Any) -> None:
        self._trtp = trtp

    def _expression(self, value: Any) -> Any:
        return self._trtp.ShapeExpr(value) if isinstance(value, int) else value

    def add(self, a: Any, b: Any) -> Any:
        return self._expression(a) + b

    def sub(self, a: Any, b: Any) -> Any:
        return self._expression(a) - b

    def mul(self, a: Any, b: Any) -> Any:
        return self._expression(a) * b

    def floor_div(self, a: Any, b: Any) -> Any:
        return self._expression(a) // b

    def ceil_div(self, a: Any, b: Any) -> Any:
        return self._trtp.cdiv(self._expression(a), b)

    def min(self, a: Any, b: Any) -> Any:
        return self._trtp.min(self._expression(a), b)

    def max(self, a: Any, b: Any) -> Any:
        return self._trtp.max(self._expression(a), b)

    def equal(self, a: Any, b: Any) -> Any:
        return self._expression(a) == b

    def less(self, a: Any, b: Any) -> Any:
        return self._expression(a) < b


class Registration:
    """The functions that one definition registers with ``tensorrt.plugin``."""

    def __init__(self, definition: Definition, backend: Backend, trtp: Any) -> None:
        self.definition = definition
        self.backend = backend
        self.trtp = trtp
        self.arithmetic = ShapeArithmetic(trtp)
        self._described: dict[Any, Traced] = {}

    def register(self) -> None:
        """Register everything.

        Raises:
            ConversionError: ``tensorrt.plugin`` refuses it, or is too old for it.
        """
        name, trtp = self.definition.name, self.trtp
        if self.definition.compile is not None and not hasattr(trtp, "aot_impl"):
            raise ConversionError(
                f"{self.backend.name} {self.backend.version} has no plugins that are compiled ahead of time",
                advice="TensorRT 10.8 and later have",
            )
        descriptions = self._tensors(trtp.TensorDesc)
        returned = types.GenericAlias(tuple, (trtp.TensorDesc,) * self.definition.num_outputs)
        try:
            trtp.register(name)(
                _with_signature(self.describe_outputs, [*descriptions, *self._attributes()], returned)
            )
            if self.definition.combinations:
                trtp.autotune(name)(
                    _with_signature(
                        self.combinations,
                        [*descriptions, *self._attributes(), self._outputs(trtp.TensorDesc)],
                        types.GenericAlias(list, trtp.AutoTuneCombination),
                    )
                )
            if self.definition.compile is None:
                parameters = [*self._tensors(trtp.Tensor), *self._attributes(), self._outputs(trtp.Tensor)]
                trtp.impl(name)(_with_signature(self.run, [*parameters, _parameter("stream", int)], None))
            else:
                parameters = [*descriptions, *self._attributes(), self._outputs(trtp.TensorDesc)]
                trtp.aot_impl(name)(
                    _with_signature(
                        self.launch,
                        [*parameters, _parameter("tactic", int)],
                        types.GenericAlias(
                            tuple, (str | bytes, str | bytes, trtp.KernelLaunchParams, trtp.SymExprs)
                        ),
                    )
                )
        except (ValueError, TypeError) as error:
            raise ConversionError(f"tensorrt.plugin refuses the plugin {name}: {error}") from error

    def _tensors(self, kind: Any) -> list[inspect.Parameter]:
        return [_parameter(_safe(name), kind) for name in self.definition.tensors]

    def _attributes(self) -> list[inspect.Parameter]:
        return [_parameter(_safe(n), a.annotation) for n, a in self.definition.attributes.items()]

    def _outputs(self, kind: Any) -> inspect.Parameter:
        return _parameter("outputs", tuple[(kind,) * self.definition.num_outputs])  # type: ignore[misc]

    def _split(
        self, given: Sequence[Any], named: Mapping[str, Any]
    ) -> tuple[list[Any], dict[str, Any], list[Any]]:
        """The tensors, the op's other arguments, and what comes after them, of a call by TensorRT."""
        tensors, rest = (
            list(given[: len(self.definition.tensors)]),
            list(given[len(self.definition.tensors) :]),
        )
        encoded = {}
        for name in self.definition.attributes:
            safe = _safe(name)
            encoded[safe] = named[safe] if safe in named else rest.pop(0)
        return tensors, self.definition.decode(encoded), rest

    def _specs(self, descriptions: Sequence[Any]) -> list[TensorSpec]:
        return [
            TensorSpec(
                self.backend.torch_dtype(description.dtype),
                tuple(
                    int(dim.constant_value()) if not dim.is_fake and dim.is_constant else None
                    for dim in description.shape_expr
                ),
            )
            for description in descriptions
        ]

    def _symbols(self, descriptions: Sequence[Any]) -> dict[str, Any]:
        return {
            symbol_name(i, d): dim
            for i, description in enumerate(descriptions)
            for d, dim in enumerate(description.shape_expr)
        }

    def describe_outputs(self, *given: Any, **named: Any) -> tuple[Any, ...]:
        """What ``tensorrt.plugin.register`` registers: shapes and dtypes of the outputs from those of the inputs."""
        descriptions, attributes, _ = self._split(given, named)
        specs = self._specs(descriptions)
        key = (tuple(specs), repr(sorted(attributes.items())))
        if key not in self._described:
            self._described[key] = describe(self.definition, specs, attributes)
        traced = self._described[key]
        symbols = self._symbols(descriptions)
        fake = any(dim.is_fake for dim in symbols.values())  # asked for dtypes only
        sizes = iter(
            [
                self.trtp.ShapeExpr() if fake else lower(size, symbols, self.arithmetic)
                for size in traced.sizes
            ]
        )
        aliased = [
            descriptions[self.definition.tensors.index(name)].aliased() for name in self.definition.aliased
        ]
        outputs = [
            self.trtp.from_shape_expr(tuple(next(sizes) for _ in range(rank)), self.backend.trt_dtype(dtype))
            for dtype, rank in traced.rest
        ]
        unread = [
            self.trtp.from_shape_expr((1,), self.backend.trt_dtype(torch.float32))
            for _ in range(self.definition.scratch)
        ]
        return (*aliased, *outputs, *unread)

    def combinations(self, *given: Any, **named: Any) -> list[Any]:
        """What ``tensorrt.plugin.autotune`` registers."""
        more = self.definition.scratch
        return [
            self.trtp.AutoTuneCombination(
                ", ".join([one.types, *["FP32"] * more]),
                ", ".join([one.formats, *["LINEAR"] * more]) if "," in one.formats else one.formats,
            )
            for one in self.definition.combinations
        ]

    def run(self, *given: Any, **named: Any) -> None:
        """What ``tensorrt.plugin.impl`` registers: the op on TensorRT's memory, on TensorRT's stream."""
        stream = named.pop("stream", None)
        tensors, attributes, rest = self._split(given, named)
        outputs, stream = rest[0], rest[1] if stream is None else stream
        device = self.definition.device
        inputs = [tensor_at(t, self.backend.torch_dtype(t.dtype), device) for t in tensors]
        external = torch.cuda.ExternalStream(stream) if device == "cuda" else None  # type: ignore[no-untyped-call]
        with torch.no_grad(), torch.cuda.stream(external):  # a None stream changes nothing
            results = self.definition.call(inputs, attributes)
            for result, output in zip(results, outputs[len(self.definition.aliased) :]):
                target = tensor_at(output, self.backend.torch_dtype(output.dtype), device)
                if (result.dtype, result.shape) != (target.dtype, target.shape):
                    raise RuntimeError(
                        f"{self.definition.signature.name} returned {result.dtype} {tuple(result.shape)}, and its fake "
                        f"implementation says {target.dtype} {tuple(target.shape)}"
                    )
                target.copy_(result)

    def launch(self, *given: Any, **named: Any) -> tuple[str, str, Any, Any]:
        """What ``tensorrt.plugin.aot_impl`` registers: kernel, code, launch parameters and extra arguments."""
        descriptions, attributes, _ = self._split(given, named)
        assert self.definition.compile is not None
        plan, kernel = self.definition.compile(self._specs(descriptions), attributes)
        symbols = self._symbols(descriptions)
        parameters = self.trtp.KernelLaunchParams()
        for axis, size in zip("xyz", plan.grid):
            blocks = lower(size, symbols, self.arithmetic)
            # A grid of no blocks is an error to CUDA; a kernel masks what is outside of its tensors.
            blocks = max(blocks, 1) if isinstance(blocks, int) else self.arithmetic.max(blocks, 1)
            setattr(parameters, f"grid_{axis}", blocks)
        parameters.block_x = kernel.threads
        parameters.shared_mem = kernel.shared_bytes
        extra = self.trtp.SymIntExprs(len(plan.sizes))
        for i, size in enumerate(plan.sizes):
            extra[i] = self.trtp.SymInt32(lower(size, symbols, self.arithmetic))
        return kernel.name, kernel.ptx, parameters, extra


def _parameter(name: str, annotation: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=annotation)


def _with_signature(
    function: Callable[..., Any], parameters: Sequence[inspect.Parameter], returned: Any
) -> Callable[..., Any]:
    """A function of any arguments that says it has these parameters: ``tensorrt.plugin`` reads signatures."""

    def described(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    described.__signature__ = inspect.Signature(parameters, return_annotation=returned)  # type: ignore[attr-defined]
    return described


def define(definition: Definition, backend: Backend) -> None:
    """Register a definition with the backend's TensorRT; once per name and process.

    Raises:
        ConversionError: the backend has no plugins, or refuses this one.
        PackError: another definition has the name.
    """
    key = (backend.name, definition.name)
    with _lock:
        known = _defined.get(key)
        if known is not None and known is not definition.op:
            raise PackError(
                f"a plugin {definition.name} is registered already, for another op of that name",
                advice="TensorRT keeps a plugin for the life of the process: restart it, or choose another name",
            )
        if known is None:
            Registration(definition, backend, plugin_module(backend)).register()
            _defined[key] = definition.op


def plugin_module(backend: Backend) -> Any:
    """The backend's ``tensorrt.plugin``.

    Raises:
        ConversionError: it has none.
    """
    if not backend.has_plugins:
        raise ConversionError(f"{backend.name} has no plugin layers")
    try:
        return importlib.import_module(f"{backend.trt.__name__}.plugin")
    except ImportError as error:
        raise ConversionError(f"{backend.name} {backend.version} has no tensorrt.plugin: {error}") from error
