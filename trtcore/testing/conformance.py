"""Three levels of proof that a module converts: accepted (L1), right (L2), built (L3)."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch.utils import _pytree as pytree

from trtcore.errors import ConversionError, EngineBuildError, TrtcoreError, UnsupportedOperatorError
from trtcore.ir.graphs import attribute
from trtcore.ir.inputs import Input
from trtcore.ir.output_views import views_are_computed

if TYPE_CHECKING:
    from trtcore.backend.base import Backend
    from trtcore.report.data import Report

Dynamic = Mapping["int | str", Mapping[int, "tuple[int, int, int]"]]
"""Input (position or keyword) -> dimension -> (min, opt, max)."""

# (rtol, atol) against eager; integers and bools are compared exactly. Sums of a few hundred terms in another
# order differ by a few ulps.
TOLERANCES: Mapping[torch.dtype, tuple[float, float]] = {
    torch.float32: (1e-4, 1e-5),
    torch.float16: (5e-3, 1e-3),
    torch.bfloat16: (3e-2, 1e-2),
    torch.float64: (1e-7, 1e-9),
}

_TORCH_FALLBACK = (UnsupportedOperatorError, ConversionError, EngineBuildError)


@dataclass(frozen=True)
class Deviation:
    """How far the compiled module was from eager in one call.

    Attributes:
        dtype: what floating point inputs and weights were.
        shapes: "example", "min", "opt", "max" or "between".
        sizes: the tensor inputs' shapes.
        largest: the largest absolute difference over all outputs.
        relative: norm of the difference over the norm of eager's outputs.
    """

    dtype: torch.dtype
    shapes: str
    sizes: tuple[tuple[int, ...], ...]
    largest: float
    relative: float


@dataclass(frozen=True)
class ConversionProof:
    """What `assert_converts` proved.

    Attributes:
        levels: "L1" the network was accepted, "L2" the numbers are right in the reference runtime, "L3" a
            real engine was built. All are True: what fails raises.
        deviations: one per dtype and shape.
        reports: the compile's report, one per dtype.
    """

    levels: Mapping[str, bool]
    deviations: tuple[Deviation, ...]
    reports: tuple[Report, ...]

    def __str__(self) -> str:
        """A line for each level, and for each call how far it was from eager."""
        ops = sorted({f"{node.op} by {node.converter} of {node.pack}" for node in self.report.converted})
        lines = [f"converted: {', '.join(ops)}"]
        lines += [
            f"  {str(item.dtype).removeprefix('torch.')} {item.shapes} {' '.join(map(str, item.sizes))}: "
            f"largest difference {item.largest:.2g}"
            for item in self.deviations
        ]
        return "\n".join(lines)

    @property
    def report(self) -> Report:
        """The first dtype's report."""
        return self.reports[0]

    @property
    def relative_error(self) -> float:
        """The largest relative error of all calls."""
        return max(item.relative for item in self.deviations)


def usable_backend() -> Backend:
    """The backend that ``backend="auto"`` takes here.

    Raises:
        BackendUnavailableError: there is none; the message has every reason and pip command.
    """
    from trtcore.backend.base import resolve_backend
    from trtcore.packs.loading import build_registry
    from trtcore.settings import CompilationSettings

    return resolve_backend("auto", build_registry(CompilationSettings()).backends)


def assert_converts(
    module: torch.nn.Module | Callable[..., Any],
    inputs: Sequence[Any],
    *,
    kwargs: Mapping[str, Any] | None = None,
    dynamic: Dynamic | None = None,
    dtypes: Sequence[torch.dtype] | None = None,
    rtol: float | None = None,
    atol: float | None = None,
    settings: Mapping[str, Any] | None = None,
    min_converted: int = 1,
) -> ConversionProof:
    """Export, convert, build and compare a module; every op must end in an engine.

    The module is compiled with ``min_block_size=1`` and ``require_full_compilation`` and run in the reference
    runtime, on the given inputs and, for a dynamic one, at min, opt, max and between, on values drawn from
    the given tensors (so that indices stay valid and domains are kept). Outputs must have eager's structure,
    dtypes, shapes and values, and inputs that eager changes must be changed in the same way.

    Args:
        module: a module, or a function of tensors.
        inputs: example positional arguments: tensors, numbers, None, or pytrees of these.
        kwargs: example keyword arguments.
        dynamic: ``{0: {0: (1, 4, 8)}}``: dimension 0 of the first argument is 1 to 8. Dimensions of equal
            ranges get equal sizes.
        dtypes: each turn casts floating point tensors to one of these, and weights if it is a floating point one.
            None: one turn, in the dtypes of the example; weights get that of its floating point tensors.
        rtol, atol: tolerances for floating point outputs; by default those of the turn's dtype.
        settings: further compile settings.
        min_converted: how many ops must at least be in engines.

    Raises:
        AssertionError: an op stays in torch (with the report), TensorRT refuses the network or the engine,
            or a number is wrong.
        TrtcoreError: what has nothing to do with converting: no backend, unusable inputs or settings.
    """
    __tracebackhide__ = True
    kwargs = dict(kwargs or {})
    backend = usable_backend() if "backend" not in (settings or {}) else None
    deviations: list[Deviation] = []
    reports: list[Report] = []
    for asked in dtypes if dtypes is not None else (None,):
        eager, (args, named), dtype = _turn(module, (tuple(inputs), kwargs), asked)
        options = {
            "min_block_size": 1,
            "require_full_compilation": True,
            "runtime": "reference",
            **({"backend": backend.name} if backend is not None else {}),
            **(settings or {}),
        }
        compiled = _compile(eager, args, named, dynamic, options)
        reports.append(compiled.report)
        _check_report(compiled.report, min_converted)
        tolerances = _tolerances(dtype, rtol, atol)
        for label, call_args, call_kwargs in _calls(args, named, dynamic):
            where = f"{str(dtype).removeprefix('torch.')}, {label} shapes"
            try:
                largest, relative = _compare(eager, compiled, call_args, call_kwargs, tolerances, where)
            except AssertionError as error:
                raise AssertionError(f"{error}\n\n{made_by(compiled)}") from None
            except TrtcoreError as error:
                raise AssertionError(f"L2 failed ({where}): {error}\n\n{made_by(compiled)}") from error
            sizes = tuple(tuple(leaf.shape) for leaf in _tensors((call_args, call_kwargs)))
            deviations.append(Deviation(dtype, label, sizes, largest, relative))
    return ConversionProof({"L1": True, "L2": True, "L3": True}, tuple(deviations), tuple(reports))


def assert_refuses(
    module: torch.nn.Module | Callable[..., Any],
    inputs: Sequence[Any],
    reason: str,
    *,
    kwargs: Mapping[str, Any] | None = None,
    dynamic: Dynamic | None = None,
    settings: Mapping[str, Any] | None = None,
    rtol: float | None = None,
    atol: float | None = None,
) -> Report:
    """Compile a module of which an op must stay in torch, and prove that the result is right all the same.

    Args:
        module, inputs, kwargs, dynamic, settings, rtol, atol: as for `assert_converts`.
        reason: regular expression; the reason of some op in torch must match it (``re.search``).

    Returns:
        The compile's report.

    Raises:
        AssertionError: every op was converted, or none stays in torch for that reason, or a number is wrong.
    """
    __tracebackhide__ = True
    args, named = tuple(inputs), dict(kwargs or {})
    eager = _as_module(module, None)
    options = {"min_block_size": 1, "runtime": "reference", **(settings or {})}
    compiled = _compile(eager, args, named, dynamic, options)
    report: Report = compiled.report
    reasons = [node.reason for node in report.in_torch]
    if not reasons:
        raise AssertionError(f"every op was converted, none was refused\n\n{report}")
    if not any(re.search(reason, text) for text in reasons):
        raise AssertionError(f"no op stays in torch for a reason like {reason!r}\n\n{report}")
    for label, call_args, call_kwargs in _calls(args, named, dynamic):
        _compare(eager, compiled, call_args, call_kwargs, (rtol, atol), f"{label} shapes")
    return report


def made_by(compiled: Any) -> str:
    """For every converted op of a compiled module: its converter and the layers it added, one op a line."""
    layers: dict[str, list[str]] = {}
    for snapshot in _networks(compiled):
        for layer in snapshot.layers:
            with suppress(ValueError):
                node = json.loads(layer.metadata)["node"]
                outputs = ", ".join(_tensor_text(snapshot.tensors[i]) for i in layer.outputs)
                layers.setdefault(node, []).append(f"{layer.type}{_options(layer.attributes)} -> {outputs}")
    lines = ["the converters and the layers that they added:"]
    for node in compiled.report.converted:
        lines.append(f"  {node.op} by {node.converter} of {node.pack} (at {node.place})")
        lines += [f"      {text}" for text in layers.get(node.name, ["no layer of its own"])]
    return "\n".join(lines)


def _networks(compiled: Any) -> list[Any]:
    from trtcore.runtime.engine import resolve
    from trtcore.runtime.op import execute_engine

    found = []
    for node in compiled.graph.nodes:
        if node.op == "call_function" and node.target is execute_engine:
            plan = attribute(compiled, str(node.args[2].target))
            found.append(resolve(node.args[3], plan).artifact.snapshot)
    return [snapshot for snapshot in found if snapshot is not None]


def _tensor_text(info: Any) -> str:
    return f"{str(info.dtype).rpartition('.')[2].lower()}{list(info.shape)}"


def _options(attributes: Mapping[str, Any]) -> str:
    text = ", ".join(f"{name}={value}" for name, value in attributes.items() if value is not None)
    return f"({text[:100]})" if text else ""


# -- the module and its inputs ------------------------------------------------------------------------


class _Function(torch.nn.Module):
    """A function of tensors as a module, which is what torch.export takes."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(*args, **kwargs)

    def __deepcopy__(self, memo: dict[int, Any]) -> _Function:
        return _Function(self.function)  # some callables, as torch.library's, cannot be copied


def _as_module(module: torch.nn.Module | Callable[..., Any], dtype: torch.dtype | None) -> torch.nn.Module:
    """A copy in eval mode, its floating point weights of `dtype`."""
    if not isinstance(module, torch.nn.Module):
        return _Function(module)
    copied = copy.deepcopy(module).eval()
    return copied.to(dtype) if dtype is not None and dtype.is_floating_point else copied


def _turn(
    module: torch.nn.Module | Callable[..., Any], tree: Any, dtype: torch.dtype | None
) -> tuple[torch.nn.Module, Any, torch.dtype]:
    """The module and its example in a dtype, or as the example has it; and what tolerances go by."""
    if dtype is not None:
        return _as_module(module, dtype), _cast(tree, dtype), dtype
    own = {leaf.dtype for leaf in _tensors(tree) if leaf.is_floating_point()}
    eager = _as_module(module, next(iter(own)) if len(own) == 1 else None)
    own |= {weight.dtype for weight in eager.state_dict().values() if weight.is_floating_point()}
    return eager, tree, max(own or {torch.float32}, key=lambda one: TOLERANCES.get(one, (1.0, 1.0)))


def _tensors(tree: Any) -> list[torch.Tensor]:
    return [leaf for leaf in pytree.tree_leaves(tree) if isinstance(leaf, torch.Tensor)]


def _cast(tree: Any, dtype: torch.dtype) -> Any:
    """Floating point tensors of a pytree as `dtype`; everything else unchanged."""

    def cast(leaf: Any) -> Any:
        floating = isinstance(leaf, torch.Tensor) and leaf.is_floating_point()
        return leaf.to(dtype) if floating else leaf

    return pytree.tree_map(cast, tree)


def _ranges(dynamic: Dynamic | None, key: int | str, value: Any) -> Mapping[int, tuple[int, int, int]]:
    """The dynamic dimensions of one argument, counted from the front."""
    found = (dynamic or {}).get(key, {})
    if found and not isinstance(value, torch.Tensor):
        raise ValueError(f"dynamic[{key!r}]: that input is a {type(value).__name__}, not a tensor")
    return {dim % value.dim(): sizes for dim, sizes in found.items()} if found else {}


def _input(value: Any, ranges: Mapping[int, tuple[int, int, int]]) -> Any:
    """A tensor argument with dynamic dimensions as the `Input` to compile for."""
    if not ranges:
        return value
    low, opt, high = (
        [ranges[dim][which] if dim in ranges else size for dim, size in enumerate(value.shape)]
        for which in range(3)
    )
    return Input(min_shape=low, opt_shape=opt, max_shape=high, example=value)


def _calls(
    args: tuple[Any, ...], kwargs: Mapping[str, Any], dynamic: Dynamic | None
) -> Iterator[tuple[str, tuple[Any, ...], dict[str, Any]]]:
    """(label, args, kwargs) of every call to compare: the example, then sizes inside the ranges."""
    yield "example", args, dict(kwargs)
    if not dynamic:
        return
    keyed: dict[int | str, Any] = dict(enumerate(args))
    keyed.update(kwargs)
    ranges = {key: _ranges(dynamic, key, value) for key, value in keyed.items()}
    distinct = sorted({sizes for dims in ranges.values() for sizes in dims.values()})
    for label in ("min", "opt", "max", "between"):
        generator = torch.Generator().manual_seed(0)
        chosen = {
            key: resampled(
                value, {dim: _size(label, sizes, distinct) for dim, sizes in dims.items()}, generator
            )
            if (dims := ranges[key])
            else value
            for key, value in keyed.items()
        }
        yield label, tuple(chosen[i] for i in range(len(args))), {key: chosen[key] for key in kwargs}


def _size(label: str, sizes: tuple[int, int, int], distinct: Sequence[tuple[int, int, int]]) -> int:
    """A size in a range; "between" puts each distinct range at a fraction of its own."""
    low, opt, high = sizes
    if label != "between":
        return {"min": low, "opt": opt, "max": high}[label]
    fraction = (distinct.index(sizes) + 1) / (len(distinct) + 1)
    return low + round((high - low) * fraction)


def resampled(
    value: torch.Tensor, sizes: Mapping[int, int], generator: torch.Generator, nudge: float = 0.01
) -> torch.Tensor:
    """A tensor of other sizes (dim -> size), its values drawn from `value`; floating point ones a little nearer to 0.

    The nudge (at most that share of the value) makes ties unlikely, and keeps signs and the interval around zero that
    the values lie in.
    """
    shape = [sizes.get(dim, size) for dim, size in enumerate(value.shape)]
    if value.numel() == 0:
        return value.new_zeros(shape)
    index = torch.randint(value.numel(), shape, generator=generator)
    drawn = value.detach().flatten()[index.to(value.device)]
    if value.is_floating_point():
        factors = 1 - nudge * torch.rand(shape, generator=generator)
        drawn = drawn * factors.to(value.device, value.dtype)
    return drawn


# -- compiling ----------------------------------------------------------------------------------------


def _compile(
    eager: torch.nn.Module,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    dynamic: Dynamic | None,
    options: Mapping[str, Any],
) -> Any:
    import trtcore

    __tracebackhide__ = True
    unknown = set(dynamic or {}) - set(range(len(args))) - set(kwargs)
    if unknown:
        raise ValueError(f"dynamic names inputs that do not exist: {sorted(map(str, unknown))}")
    arg_inputs = tuple(_input(value, _ranges(dynamic, i, value)) for i, value in enumerate(args))
    kwarg_inputs = {key: _input(value, _ranges(dynamic, key, value)) for key, value in kwargs.items()}
    # The compiled module must not share what the eager one changes.
    model = copy.deepcopy(eager)
    try:
        with (
            views_are_computed()
        ):  # an op that only makes a view of its input is the converter's all the same
            return trtcore.compile(model, arg_inputs=arg_inputs, kwarg_inputs=kwarg_inputs or None, **options)
    except _TORCH_FALLBACK as error:
        raise AssertionError(
            f"{_level(error)}: {error}{_explanation(error, model, arg_inputs, kwarg_inputs, options)}"
        ) from error


def _level(error: TrtcoreError) -> str:
    if isinstance(error, EngineBuildError):
        return "L3 failed, TensorRT builds no engine"
    return "L1 failed"


def _explanation(error: TrtcoreError, model: Any, args: Any, kwargs: Any, options: Mapping[str, Any]) -> str:
    """The report of what was tried; "" where a converter was chosen and failed, or explaining fails as well."""
    import trtcore

    if not isinstance(error, UnsupportedOperatorError):
        return ""
    try:
        allowed = {**options, "require_full_compilation": False}
        report = trtcore.explain(model, arg_inputs=args, kwarg_inputs=kwargs or None, **allowed)
    except TrtcoreError:
        return ""
    return f"\n\n{report.text(verbose=len(report.nodes) <= 20)}"


def _check_report(report: Report, min_converted: int) -> None:
    if report.in_torch:
        raise AssertionError(f"L1 failed, ops stay in torch\n\n{report}")
    if report.quarantined:  # another candidate took the node: not the one that is to be proved
        told = "; ".join(f"{one.converter}: {one.reason}" for one in report.quarantined)
        raise AssertionError(f"L1 failed, a converter failed and another was used: {told}\n\n{report}")
    if len(report.converted) < min_converted:
        raise AssertionError(
            f"only {len(report.converted)} ops were converted, at least {min_converted} were expected: "
            f"does lowering fold the module away?\n\n{report}"
        )
    without = [segment.name for segment in report.engines if not segment.engine_bytes]
    if without:
        raise AssertionError(f"L3 failed, no engine was built for {', '.join(without)}\n\n{report}")


# -- comparing ----------------------------------------------------------------------------------------


def _tolerances(
    dtype: torch.dtype, rtol: float | None, atol: float | None
) -> tuple[float | None, float | None]:
    default = TOLERANCES.get(dtype, (None, None))
    return (default[0] if rtol is None else rtol), (default[1] if atol is None else atol)


def _compare(
    eager: torch.nn.Module,
    compiled: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    tolerances: tuple[float | None, float | None],
    where: str,
) -> tuple[float, float]:
    """Largest and relative difference; AssertionError for a wrong output or a wrongly changed input."""
    expected_in, actual_in = _copied((args, kwargs)), _copied((args, kwargs))
    with torch.no_grad():
        expected = copy.deepcopy(eager)(*expected_in[0], **expected_in[1])
        try:
            actual = compiled(*actual_in[0], **actual_in[1])
        except TrtcoreError:
            raise
        except Exception as error:  # a size that a converter took for a fixed one, say
            text = f"L2 failed ({where}): the compiled module raised {type(error).__name__}: {error}"
            raise AssertionError(text) from error
    _check_structure(expected, actual, where)
    pairs = [
        (f"output{pytree.keystr(path)}", want, got)
        for (path, want), got in zip(pytree.tree_flatten_with_path(expected)[0], pytree.tree_leaves(actual))
    ]
    pairs += [
        (f"input {i} after the call", want, got)
        for i, (want, got) in enumerate(zip(_tensors(expected_in), _tensors(actual_in)))
    ]
    for name, want, got in pairs:
        _check_value(name, want, got, tolerances, where)
    return _deviation([(want, got) for name, want, got in pairs if name.startswith("output")])


def _copied(tree: Any) -> Any:
    return pytree.tree_map(lambda leaf: leaf.clone() if isinstance(leaf, torch.Tensor) else leaf, tree)


def _check_structure(expected: Any, actual: Any, where: str) -> None:
    want, got = pytree.tree_structure(expected), pytree.tree_structure(actual)
    if want != got:
        raise AssertionError(f"L2 failed ({where}): outputs are {got}, eager's are {want}")


def _check_value(
    name: str, want: Any, got: Any, tolerances: tuple[float | None, float | None], where: str
) -> None:
    if not isinstance(want, torch.Tensor):
        if want != got:
            raise AssertionError(f"L2 failed ({where}): {name} is {got!r}, eager's is {want!r}")
        return
    exact = not (want.is_floating_point() or want.is_complex())
    rtol, atol = (0.0, 0.0) if exact else tolerances
    if rtol is None or atol is None:
        rtol, atol = TOLERANCES.get(want.dtype, (1e-4, 1e-5))
    torch.testing.assert_close(
        got,
        want,
        rtol=rtol,
        atol=atol,
        equal_nan=True,
        msg=lambda text: f"L2 failed ({where}): {name} is not eager's\n{text}",
    )


def _deviation(pairs: Sequence[tuple[Any, Any]]) -> tuple[float, float]:
    largest = square = scale = 0.0
    for want, got in pairs:
        if isinstance(want, torch.Tensor) and want.numel():
            wide = torch.complex128 if want.is_complex() else torch.float64
            difference = (got.to(wide) - want.to(wide)).abs().nan_to_num(0.0, 0.0, 0.0)
            largest = max(largest, difference.max().item())
            square += difference.square().sum().item()
            scale += want.to(wide).abs().nan_to_num(0.0, 0.0, 0.0).square().sum().item()
    return largest, (square / scale) ** 0.5 if scale else square**0.5
