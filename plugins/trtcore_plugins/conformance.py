"""`assert_plugin`: the test that comes with a declaration."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from trtcore.pack import ConversionError
from trtcore_plugins.declare import TritonPlugin
from trtcore_plugins.ops import OpPlugin
from trtcore_plugins.quick import describe
from trtcore_plugins.tracing import TensorSpec

_TOLERANCES = {torch.float64: 1e-12, torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 2e-2}
_SHAPES_TRIED = 100


@dataclass(frozen=True)
class PluginProof:
    """What `assert_plugin` proved, and what it could not try here.

    Attributes:
        proved: "values" (the kernel against the reference), "op" (torch's own checks of custom ops), "shapes" (the
            plugin's symbolic shapes at many sizes), "compiled" (PTX for each compute capability).
        not_run: the others, with the reason.
        largest: the largest absolute difference from the reference.
    """

    proved: tuple[str, ...]
    not_run: Mapping[str, str]
    largest: float = 0.0


def assert_plugin(
    plugin: OpPlugin,
    inputs: Sequence[Any],
    *,
    kwargs: Mapping[str, Any] | None = None,
    dynamic: Mapping[int | str, Sequence[int]] | None = None,
    compute_capabilities: Sequence[tuple[int, int]] = ((8, 0), (9, 0)),
    rtol: float | None = None,
    atol: float | None = None,
) -> PluginProof:
    """Prove a kernel plugin on example inputs, as far as this machine can.

    The kernel runs on CUDA tensors, or on the CPU in Triton's interpreter (``TRITON_INTERPRET=1``), into poisoned
    outputs, and is compared with the declaration's `reference` computed in float64. In a process that does not
    interpret the kernel is compiled for each compute capability. No TensorRT takes part.

    Args:
        plugin: what `triton_plugin`, `generate_plugin` or `custom_op` returned.
        inputs: example positional arguments.
        kwargs: example keyword arguments.
        dynamic: ``{0: [0, 1]}`` or ``{"x": [0, 1]}``: dims of tensor arguments that vary; by default all.
        compute_capabilities: GPUs to compile a Triton kernel for.
        rtol, atol: tolerances for floating point outputs; by default those of their dtype.

    Raises:
        AssertionError: a wrong value, shape or dtype; a schema that does not tell the truth; a kernel that TensorRT
            could not launch.
    """
    values = plugin.signature.bind(list(inputs), dict(kwargs or {}))
    proved, not_run, largest = [], {}, 0.0
    reason = _cannot_run(plugin, values)
    if reason:
        not_run["values"] = not_run["op"] = reason
    else:
        largest = _check_values(plugin, values, rtol, atol) if getattr(plugin, "reference", None) else 0.0
        if getattr(plugin, "reference", None):
            proved.append("values")
        else:
            not_run["values"] = "there is no reference to compare with"
        _check_op(plugin, values)
        proved.append("op")
    specs = _specs(plugin, values, dynamic)
    try:
        _check_shapes(plugin, values, specs)
        proved.append("shapes")
        unable = _cannot_compile(plugin)
        if unable:
            not_run["compiled"] = unable
        else:
            for capability in compute_capabilities:
                plugin.compile(specs, _attributes(plugin, values), capability)  # type: ignore[attr-defined]
            proved.append("compiled")
    except ConversionError as error:
        raise AssertionError(str(error)) from error
    return PluginProof(tuple(proved), not_run, largest)


def _cannot_run(plugin: OpPlugin, values: Mapping[str, Any]) -> str:
    if not isinstance(plugin, TritonPlugin):
        return ""
    devices = {values[name].device.type for name in plugin.signature.tensors if values[name] is not None}
    if devices == {"cuda"} or plugin.interpreted:
        return ""
    return "the inputs are not on a GPU, and Triton does not interpret (TRITON_INTERPRET=1)"


def _cannot_compile(plugin: OpPlugin) -> str:
    if not isinstance(plugin, TritonPlugin) or plugin.python_callback:
        return "the plugin is a Python callback"
    return "this process interprets Triton kernels" if plugin.interpreted else ""


def _attributes(plugin: OpPlugin, values: Mapping[str, Any]) -> dict[str, Any]:
    tensors = plugin.signature.tensors
    return {name: value for name, value in values.items() if name not in tensors or value is None}


def _copied(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: v.clone() if isinstance(v, torch.Tensor) else v for name, v in values.items()}


def _check_values(plugin: Any, values: Mapping[str, Any], rtol: float | None, atol: float | None) -> float:
    """The kernel into outputs full of a wrong value, against the reference in float64."""
    given = _copied(values)
    outputs = [_poison(tensor) for tensor in plugin.new_outputs(given)]
    device = next(given[name].device for name in plugin.signature.tensors if given[name] is not None)
    if not plugin.strided:
        plugin.make_contiguous(given)
    plugin.launch({**given, **dict(zip(plugin.signature.outputs, outputs))}, device)
    wide = {
        name: v.double() if isinstance(v, torch.Tensor) and v.is_floating_point() else v
        for name, v in _copied(values).items()
    }
    expected = plugin.signature.unpack(plugin.reference(*wide.values()))
    found = dict(zip(plugin.signature.outputs, outputs))
    wanted = dict(zip(plugin.signature.outputs, expected))
    found.update({name: given[name] for name in plugin.signature.mutated})
    wanted.update({name: wide[name] for name in plugin.signature.mutated})
    return max((_compare(f"{plugin.name}: {n}", found[n], wanted[n], rtol, atol) for n in found), default=0.0)


def _poison(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor full of what no kernel computes by chance."""
    if tensor.dtype == torch.bool:
        return tensor.fill_(True)
    return tensor.fill_(float("nan") if tensor.is_floating_point() else 99)


def _compare(
    what: str, found: torch.Tensor, expected: torch.Tensor, rtol: float | None, atol: float | None
) -> float:
    if found.shape != expected.shape:
        raise AssertionError(f"{what} has shape {tuple(found.shape)}, not {tuple(expected.shape)}")
    if not found.is_floating_point():
        if not torch.equal(found, expected.to(found.dtype)):
            raise AssertionError(
                f"{what} differs at {int((found != expected).sum())} of {found.numel()} places"
            )
        return 0.0
    tolerance = _TOLERANCES.get(found.dtype, 2e-2)
    torch.testing.assert_close(
        found.double(),
        expected.double(),
        rtol=tolerance if rtol is None else rtol,
        atol=tolerance if atol is None else atol,
        equal_nan=True,
        msg=lambda text: f"{what} is wrong: {text}",
    )
    difference = (found.double() - expected.double()).abs().nan_to_num(0.0, 0.0, 0.0)
    return float(difference.max()) if difference.numel() else 0.0


def _check_op(plugin: OpPlugin, values: Mapping[str, Any]) -> None:
    given = _copied(values)
    torch.library.opcheck(
        plugin.op,
        tuple(plugin.signature.positional(given)),
        plugin.signature.keyword(given),
        test_utils=("test_schema", "test_faketensor"),
    )


def _specs(
    plugin: OpPlugin, values: Mapping[str, Any], dynamic: Mapping[int | str, Sequence[int]] | None
) -> list[TensorSpec]:
    specs = []
    for name in plugin.signature.tensors:
        tensor = values[name]
        if tensor is None:
            continue
        position = plugin.signature.inputs.index(name)
        dims = range(tensor.dim()) if dynamic is None else dynamic.get(name, dynamic.get(position, ()))
        varying = {dim % tensor.dim() for dim in dims}
        shape = tuple(None if dim in varying else size for dim, size in enumerate(tensor.shape))
        specs.append(TensorSpec(tensor.dtype, shape))
    return specs


def _check_shapes(plugin: OpPlugin, values: Mapping[str, Any], specs: Sequence[TensorSpec]) -> None:
    """The symbolic shapes at random sizes, against the op on tensors of those sizes without data."""
    absent = tuple(name for name in plugin.signature.tensors if values[name] is None)
    definition = plugin.shape_definition(absent)
    attributes = _attributes(plugin, values)
    traced = describe(definition, specs, attributes)
    randoms = random.Random(0)
    tried = 0
    for attempt in range(4 * _SHAPES_TRIED):
        shapes = _random_shapes(specs, randoms, together=attempt % 2 == 0)
        tensors = [torch.empty(s, dtype=spec.dtype, device="meta") for s, spec in zip(shapes, specs)]
        try:
            outputs = definition.call(tensors, attributes)
        except Exception:  # these sizes do not fit each other
            continue
        expected = tuple(size for output in outputs for size in output.shape)
        if traced.evaluate(shapes) != expected:
            raise AssertionError(
                f"{plugin.name}: for inputs {shapes} the plugin has {traced.evaluate(shapes)}, the op {expected}"
            )
        tried += 1
        if tried == _SHAPES_TRIED:
            break


def _random_shapes(
    specs: Sequence[TensorSpec], randoms: random.Random, together: bool
) -> list[tuple[int, ...]]:
    """Sizes for dynamic dims: the same where dims line up (or one), or each its own."""
    common = [randoms.choice((1, 2, 3, 7, 64, 129, randoms.randint(1, 500))) for _ in range(8)]
    return [
        tuple(
            size
            if size is not None
            else (
                randoms.choice((common[d - len(spec.shape)],) * 4 + (1,))
                if together
                else randoms.choice(common)
            )
            for d, size in enumerate(spec.shape)
        )
        for spec in specs
    ]
