"""What a plugin's kernel is launched with, for all sizes, as data: the declaration traced with symbolic sizes."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch

from trtcore.pack import ConversionError
from trtcore_plugins.torch_private import shares_storage
from trtcore_plugins.tracing import TensorSpec, trace_sizes

if TYPE_CHECKING:
    from trtcore_plugins.signature import OpSignature


class KernelDeclaration(Protocol):
    """What is launched or compiled: a `trtcore_plugins.declare.TritonPlugin`."""

    name: str
    signature: OpSignature
    options: dict[str, Any]
    ptx_version: int | None

    @property
    def kernel(self) -> Any: ...

    @property
    def interpreted(self) -> bool: ...

    def grid(self, values: Mapping[str, Any]) -> tuple[Any, ...]: ...

    def kernel_arguments(self, values: Mapping[str, Any]) -> dict[str, Any]: ...

    def new_outputs(self, values: Mapping[str, Any]) -> list[torch.Tensor]: ...


@dataclass(frozen=True)
class Role:
    """What a kernel parameter gets.

    Attributes:
        kind: "input" or "output" (`value` is its position), "size" (position in `LaunchPlan.sizes`), "number" (an
            int, float or bool that Triton sees as a typed scalar), or "constant" (known at compile time).
        value: see `kind`.
    """

    kind: str
    value: Any


@dataclass(frozen=True)
class LaunchPlan:
    """One launch of a kernel for inputs of some ranks, fixed dims and dtypes, and some attributes.

    Attributes:
        inputs: dtype of each tensor input that is there (not None), in the op's order.
        aliased: dtype of each input that the op writes to; TensorRT has an output for each, in the same memory.
        shapes: per output its dims, over the symbols of `trtcore_plugins.tracing.symbol_name`.
        dtypes: per output its dtype.
        grid: x, y, z.
        sizes: the numbers that depend on dynamic dims, in the order the kernel wants them.
        roles: per kernel parameter, in the kernel's order.
    """

    inputs: tuple[torch.dtype, ...]
    aliased: tuple[torch.dtype, ...]
    shapes: tuple[tuple[Any, ...], ...]
    dtypes: tuple[torch.dtype, ...]
    grid: tuple[Any, ...]
    sizes: tuple[Any, ...]
    roles: tuple[tuple[str, Role], ...]


def plan_launch(
    plugin: KernelDeclaration, specs: Sequence[TensorSpec], attributes: Mapping[str, Any]
) -> LaunchPlan:
    """Trace a declaration for one kind of inputs.

    Args:
        plugin: the declaration.
        specs: the tensor inputs that are not None, in the op's order.
        attributes: every other argument by name: numbers, lists, and None for an absent optional tensor.

    Raises:
        ConversionError: shapes, grid or arguments cannot be followed for all sizes, or a compile-time constant of
            the kernel depends on a dynamic dim.
    """
    names = tuple(name for name in plugin.signature.tensors if name not in attributes)
    constexprs = {parameter.name for parameter in compilable(plugin).params if parameter.is_constexpr}

    def run(tensors: list[torch.Tensor]) -> tuple[list[Any], Any]:
        values = {**attributes, **dict(zip(names, tensors))}
        outputs = plugin.new_outputs(values)
        values.update(zip(plugin.signature.outputs, outputs))
        numbers: list[Any] = [dim for output in outputs for dim in output.shape]
        numbers += plugin.grid(values)
        roles = []
        for parameter, value in plugin.kernel_arguments(values).items():
            role = _role(plugin.name, parameter, value, tensors, outputs)
            if role.kind == "size":
                numbers.append(value)
            roles.append((parameter, role))
        return numbers, (tuple(roles), tuple((output.dtype, output.dim()) for output in outputs))

    traced = trace_sizes(run, specs, plugin.name)
    roles, outputs = traced.rest
    numbers = iter(traced.sizes)
    shapes = tuple(tuple(itertools.islice(numbers, rank)) for _, rank in outputs)
    grid = tuple(itertools.islice(numbers, 3))
    roles, sizes = _specialise(plugin.name, roles, numbers, constexprs)
    dtypes = dict(zip(names, (spec.dtype for spec in specs)))
    aliased = tuple(dtypes[name] for name in plugin.signature.mutated if name in dtypes)
    return LaunchPlan(
        tuple(dtypes.values()), aliased, shapes, tuple(dtype for dtype, _ in outputs), grid, sizes, roles
    )


def compilable(plugin: KernelDeclaration) -> Any:
    """The plugin's kernel as a `triton.jit` function.

    Raises:
        ConversionError: there is no Triton here, it interprets, or the kernel is more than a ``@triton.jit`` function.
    """
    try:
        kernel = plugin.kernel
    except ImportError as error:
        raise ConversionError(f"{plugin.name}: {error}", advice="pip install 'trtcore[triton]'") from error
    if plugin.interpreted:
        raise ConversionError(
            f"{plugin.name}: this process interprets Triton kernels (TRITON_INTERPRET=1) and cannot compile them"
        )
    if not hasattr(kernel, "params"):
        raise ConversionError(
            f"{plugin.name}: {type(kernel).__name__} kernels choose their constants at run time",
            advice="declare the plain @triton.jit function, and its constants in arguments={...}",
        )
    return kernel


def _role(
    plugin: str,
    parameter: str,
    value: Any,
    inputs: Sequence[torch.Tensor],
    outputs: Sequence[torch.Tensor],
) -> Role:
    if isinstance(value, torch.Tensor):
        for kind, tensors in (("input", inputs), ("output", outputs)):
            for position, tensor in enumerate(tensors):
                if value is tensor or _starts_where(value, tensor):
                    return Role(kind, position)
        raise ConversionError(
            f"{plugin}: the kernel's {parameter} is a tensor that is no input or output of the op"
        )
    if isinstance(value, (torch.SymInt, int)) and not isinstance(value, bool):
        return Role("size", None)
    if isinstance(value, (float, bool)):
        return Role("number", value)
    return Role("constant", value)


def _starts_where(value: torch.Tensor, tensor: torch.Tensor) -> bool:
    """Whether one is a view of the other from its first element on: the same pointer."""
    same = shares_storage(value, tensor)
    return same and value.storage_offset() == tensor.storage_offset() and value.dtype == tensor.dtype


def _specialise(
    plugin: str, roles: Sequence[tuple[str, Role]], numbers: Iterator[Any], constexprs: set[str]
) -> tuple[tuple[tuple[str, Role], ...], tuple[Any, ...]]:
    """Numbers that turned out to be fixed become constants; the others are counted through."""
    sizes: list[Any] = []
    result = []
    for parameter, role in roles:
        if role.kind == "size":
            number = next(numbers)
            if isinstance(number, int) or getattr(number, "is_Integer", False):
                role = Role("number", int(number))
            elif parameter in constexprs:
                raise ConversionError(
                    f"{plugin}: the kernel's constant {parameter} depends on a dynamic size: {number}",
                )
            else:
                role = Role("size", len(sizes))
                sizes.append(number)
        if role.kind == "number" and parameter in constexprs:
            role = Role("constant", role.value)
        result.append((parameter, role))
    return tuple(result), tuple(sizes)
