"""`assert_plugin`: the test that comes with a declaration."""

from __future__ import annotations

import os
import random
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from trtcore.pack import ConversionError
from trtcore_plugins.declare import TritonPlugin
from trtcore_plugins.guards import Guarded, guarded_inputs
from trtcore_plugins.isolated import Died, in_fork, in_interpreter, place_of
from trtcore_plugins.ops import OpPlugin
from trtcore_plugins.quick import describe
from trtcore_plugins.tracing import TensorSpec

_TOLERANCES = {torch.float64: 1e-12, torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 2e-2}
_SHAPES_TRIED = 100


@dataclass(frozen=True)
class PluginProof:
    """What `assert_plugin` proved, and what it could not try here.

    Attributes:
        proved: "values" (the kernel against the reference), "memory" (it wrote to its outputs alone), "op" (torch's own
            checks of custom ops), "shapes" (the plugin's symbolic shapes at many sizes), "compiled" (PTX for each
            compute capability), "isolated" (all of that in a child process).
        not_run: the others, with the reason.
        largest: the largest absolute difference from the reference.
    """

    proved: tuple[str, ...]
    not_run: Mapping[str, str]
    largest: float = 0.0

    def __str__(self) -> str:
        """A line for what was proved, and one for each that was not."""
        lines = [f"proved: {', '.join(self.proved)}; largest difference {self.largest:.2g}"]
        return "\n".join([*lines, *(f"not run: {name}: {reason}" for name, reason in self.not_run.items())])


PARTS = ("values", "memory", "op", "shapes", "compiled", "isolated")


def assert_plugin(
    plugin: OpPlugin,
    inputs: Sequence[Any],
    *,
    kwargs: Mapping[str, Any] | None = None,
    dynamic: Mapping[int | str, Sequence[int]] | None = None,
    compute_capabilities: Sequence[tuple[int, int]] = ((8, 0), (9, 0)),
    rtol: float | None = None,
    atol: float | None = None,
    require: Sequence[str] = (),
    timeout: float = 300.0,
) -> PluginProof:
    """Prove a kernel plugin on example inputs, as far as this machine can.

    The kernel runs on CUDA tensors, or on the CPU in Triton's interpreter (``TRITON_INTERPRET=1``), in a child process,
    into poisoned outputs between guard bands, and is compared with the declaration's `reference` computed in float64.
    In a process that does not interpret the kernel is compiled for each compute capability. No TensorRT takes part.

    A kernel that crashes, does not end or writes outside of its outputs is one AssertionError. On CUDA tensors the
    child imports the plugin, so it must be in a module that can be imported; a local one runs in this process, and
    ``not_run["isolated"]`` says so.

    Args:
        plugin: what `triton_plugin`, `generate_plugin` or `custom_op` returned.
        inputs: example positional arguments.
        kwargs: example keyword arguments.
        dynamic: ``{0: [0, 1]}`` or ``{"x": [0, 1]}``: dims of tensor arguments that vary; by default all.
        compute_capabilities: GPUs to compile a Triton kernel for.
        rtol, atol: tolerances for floating point outputs; by default those of their dtype.
        require: what must be proved, of `PluginProof.proved`: ``("values",)`` fails where no kernel can run. Without
            it a proof without values comes with a warning.
        timeout: seconds for all of it.

    Raises:
        AssertionError: a wrong value, shape or dtype; a kernel that crashes, hangs or writes where it must not; a
            schema that does not tell the truth; a kernel that TensorRT could not launch; what `require` names was not
            proved.
    """
    __tracebackhide__ = True
    unknown = [name for name in require if name not in PARTS]
    if unknown:
        raise ValueError(f"require={tuple(require)}: {unknown[0]!r} is none of {', '.join(PARTS)}")
    values = plugin.signature.bind(list(inputs), dict(kwargs or {}))
    options = {
        "values": values, "dynamic": dynamic, "compute_capabilities": compute_capabilities, "rtol": rtol, "atol": atol,
    }  # fmt: skip
    proof = _isolated(plugin, options, timeout)
    missing = [name for name in require if name not in proof.proved]
    if missing:
        reasons = "; ".join(f"{name}: {proof.not_run.get(name, 'not tried')}" for name in missing)
        raise AssertionError(f"{plugin.name}: what is required was not proved: {reasons}")
    if "values" not in proof.proved:
        warnings.warn(
            f'{plugin.name}: no value of the kernel was proved: {proof.not_run["values"]}; require=("values",) makes '
            "this an error",
            UserWarning,
            stacklevel=2,
        )
    return proof


def _isolated(plugin: OpPlugin, options: Mapping[str, Any], timeout: float) -> PluginProof:
    """The proof, made in a child process where there can be one."""
    reason, found = "", None
    on_cpu = all(
        value.device.type == "cpu" for value in options["values"].values() if isinstance(value, torch.Tensor)
    )
    if on_cpu and hasattr(os, "fork"):
        found = in_fork(lambda: prove(plugin, **options), timeout)
    elif (place := place_of(plugin)) is not None:
        found = in_interpreter(place, "trtcore_plugins.conformance:prove", options, timeout)
    else:
        reason = (
            f"{plugin.name} is in no module that a fresh process could import, and a process that uses CUDA cannot be "
            "forked: it ran in this process"
        )
        found = prove(plugin, **options)
    if isinstance(found, Died):
        raise AssertionError(_death(plugin.name, found))
    if reason:
        return replace(found, not_run={**found.not_run, "isolated": reason})
    return replace(found, proved=(*found.proved, "isolated"))


def _death(name: str, died: Died) -> str:
    advice = (
        "does the kernel loop for ever? timeout= gives it more time"
        if "did not end" in died.why
        else "the kernel reads or writes memory that is not its own (a mask, the grid, a size or a stride)"
    )
    return f"{name}: the process that proves it gave no answer: {died.why}; {advice}\n{died.written}".rstrip()


def prove(
    plugin: OpPlugin,
    values: Mapping[str, Any],
    dynamic: Mapping[int | str, Sequence[int]] | None,
    compute_capabilities: Sequence[tuple[int, int]],
    rtol: float | None,
    atol: float | None,
) -> PluginProof:
    """`assert_plugin` in this process: a kernel that crashes takes it down."""
    proved, not_run, largest = [], {}, 0.0
    reason = _cannot_run(plugin, values)
    if reason:
        not_run["values"] = not_run["memory"] = not_run["op"] = reason
    else:
        if isinstance(plugin, TritonPlugin):
            largest = _check_kernel(plugin, values, rtol, atol)
            proved.append("memory")
        else:
            not_run["memory"] = "the op is torch's own, no kernel of the plugin's"
        if getattr(plugin, "reference", None):
            proved.insert(0, "values")
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


def _check_kernel(
    plugin: TritonPlugin, values: Mapping[str, Any], rtol: float | None, atol: float | None
) -> float:
    """The kernel into outputs full of a wrong value, against the reference in float64; shapes are compared first.

    Returns:
        the largest difference; 0 without a reference.
    """
    wanted = _expected(plugin, values)
    given = dict(values)
    if not plugin.strided:
        plugin.make_contiguous(given)
    given, guards = guarded_inputs(given, plugin.signature.mutated)
    outputs = [
        Guarded(name, tensor, copied=False, written=True)
        for name, tensor in zip(plugin.signature.outputs, plugin.new_outputs(given))
    ]
    for one in outputs:
        _check_shape(f"{plugin.name}: {one.name}", one.tensor, wanted.get(one.name))
        _poison(one.tensor)
    found = {one.name: one.tensor for one in outputs}
    _launch(plugin, {**given, **found})
    for one in (*guards, *outputs):
        one.check(plugin.name)
    found.update({name: given[name] for name in plugin.signature.mutated if name in given})
    names = [name for name in found if name in wanted]
    return max((_compare(f"{plugin.name}: {n}", found[n], wanted[n], rtol, atol) for n in names), default=0.0)


def _expected(plugin: TritonPlugin, values: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """What the reference makes of the arguments in float64, by name; nothing without a reference."""
    if plugin.reference is None:
        return {}
    wide = {
        name: v.double() if isinstance(v, torch.Tensor) and v.is_floating_point() else v
        for name, v in _copied(values).items()
    }
    results = plugin.signature.unpack(plugin.reference(*wide.values()))
    return {
        **dict(zip(plugin.signature.outputs, results)),
        **{name: wide[name] for name in plugin.signature.mutated if wide[name] is not None},
    }


def _launch(plugin: TritonPlugin, values: Mapping[str, Any]) -> None:
    device = next(values[name].device for name in plugin.signature.tensors if values[name] is not None)
    try:
        plugin.launch(values, device)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
    except Exception as error:
        raise AssertionError(
            f"{plugin.name}: the launch of its kernel failed: {type(error).__name__}: {error}"
        ) from error


def _check_shape(what: str, found: torch.Tensor, expected: torch.Tensor | None) -> None:
    if expected is not None and found.shape != expected.shape:
        raise AssertionError(f"{what} has shape {tuple(found.shape)}, not {tuple(expected.shape)}")


def _poison(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor full of what no kernel computes by chance."""
    if tensor.dtype == torch.bool:
        return tensor.fill_(True)
    return tensor.fill_(float("nan") if tensor.is_floating_point() else 99)


def _compare(
    what: str, found: torch.Tensor, expected: torch.Tensor, rtol: float | None, atol: float | None
) -> float:
    _check_shape(what, found, expected)
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
