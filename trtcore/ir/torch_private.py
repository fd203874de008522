"""What trtcore takes from the private parts of torch: each in one place, with the reason.

Everything here may change with any release of torch; ``tests/ir/test_torch_private.py`` has a canary for each, which
says what is missing. ``torch.utils._pytree``, ``torch._ops.OpOverload`` and its ``_schema`` are not here: torch's own
documentation uses them.
"""

from __future__ import annotations

import copy
import importlib
import linecache
import logging
import os
import re
import sys
import weakref
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial, wraps
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, cast

import torch
import torch.autograd.forward_ad as forward_ad
import torch.utils._pytree as pytree
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.fx import graph_module
from torch.fx._lazy_graph_module import _LazyGraphModule as LazyGraphModule

if TYPE_CHECKING:
    import sympy
    from torch.export import ExportedProgram

__all__ = [
    "FakeTensor",
    "FakeTensorMode",
    "LazyGraphModule",
    "SizeDecisionError",
    "Transforms",
    "any_autocast",
    "aot_inference",
    "autocast_entry",
    "below_autograd",
    "bounds_of_symbol",
    "can_auto_functionalize",
    "codegen_of",
    "compile_and_package",
    "compiled_forward",
    "composite_kernel",
    "constant_of",
    "copy_all",
    "core_decompositions",
    "cuda_calls",
    "default_tolerances",
    "dtensor_type",
    "empty_on_cpu",
    "evaluate_expression",
    "export",
    "export_below_dispatch",
    "export_keywords",
    "expression",
    "expression_bounds",
    "fake_like",
    "first_auto_functionalized",
    "forgetting_traces",
    "fresh_symbols_ignored",
    "functionalised",
    "grad_mode_switch",
    "guards_code",
    "has_autocast_kernel",
    "has_global_hooks",
    "has_global_pre_hooks",
    "higher_order_name",
    "hint",
    "interval_bounds",
    "is_being_differentiated",
    "is_derivative_call",
    "is_differentiated",
    "is_erased",
    "is_exporting",
    "is_inplace_view",
    "is_of_transform",
    "is_own",
    "is_size_decision",
    "is_static_input",
    "is_traced_by_jit",
    "is_transform_call",
    "is_transformed",
    "is_written",
    "keep_source",
    "keep_sources",
    "kernel_below_autocast",
    "lacks_compiler",
    "maybe_mark_dynamic",
    "names_of_ops",
    "operator_samples",
    "ops_are_watched",
    "overlaps_itself",
    "profiler_is_on",
    "python_dispatcher",
    "range_constraints",
    "remember_sizes",
    "results_of_shapes",
    "script_to_exported",
    "set_guards_code",
    "silent_export",
    "size_conditions",
    "size_functions",
    "size_interval",
    "source_text",
    "specialise_floats",
    "storage_id",
    "transforms_undone",
    "transforms_watched",
    "undecided_sizes",
    "users_of_storage",
    "version",
    "with_tensors",
    "without_linalg_checks",
    "writes_at_end",
]

# --- exported programs --------------------------------------------------------------------------------------


def guards_code(ep: ExportedProgram) -> list[str]:
    """The conditions that a capture relies on, as Python text. Nothing public has them as data."""
    return list(ep._guards_code)


def set_guards_code(ep: ExportedProgram, code: Sequence[str]) -> None:
    """Leave only some of the conditions: those that were seen not to matter would refuse good calls."""
    ep._guards_code = list(code)


def range_constraints(ep: ExportedProgram) -> MutableMapping[sympy.Symbol, Any]:
    """The ranges of the symbols, to be changed: ``ep.range_constraints`` is the same, but meant for reading."""
    return ep._range_constraints


def with_tensors(
    ep: ExportedProgram, state_dict: Mapping[str, Any], constants: Mapping[str, Any]
) -> ExportedProgram:
    """A shallow copy of a program with other tensors; the program's own attributes are read-only."""
    other = copy.copy(ep)
    other._state_dict = dict(state_dict)
    other._constants = dict(constants)
    return other


@contextmanager
def silent_export() -> Iterator[None]:
    """Keep torch.export from printing the graph that it had traced when a data-dependent size stopped it.

    There is no switch for that. The text is the exception's ``partial_fx_graph`` too. Not for several threads at once.
    """
    module: Any = importlib.import_module("torch.export._trace")

    def print(*_values: Any, **_options: Any) -> None:
        """Nothing."""

    module.print = print  # found before the builtin
    try:
        yield
    finally:
        vars(module).pop("print", None)


def export(model: torch.nn.Module, args: Any, kwargs: Any, **options: Any) -> ExportedProgram:
    """`torch.export.export`, of which nothing stays when the program is gone.

    The sizes of a trace keep its FakeTensors, whose sizes hold it: a circle through C++, which Python cannot collect.
    Dynamo takes it apart in the same way after a compile; torch.export does not.
    """
    ep = torch.export.export(model, args, kwargs, **options)
    for node in ep.graph.find_nodes(op="placeholder"):
        shape_env: Any = getattr(getattr(node.meta.get("val"), "fake_mode", None), "shape_env", None)
        if isinstance(getattr(shape_env, "tracked_fakes", None), list):
            shape_env.tracked_fakes.clear()
    return ep


def is_exporting() -> bool:
    """Whether torch.export is at work; ``torch.compiler.is_exporting()`` of torch 2.11 is true of Dynamo's compiles."""
    return bool(torch.compiler._is_exporting_flag)


def export_keywords() -> tuple[str, ...] | None:
    """Names of the keyword arguments that torch.export has for a GraphModule, while it runs the graph; None elsewhere.

    It interprets the graph with their values alone, in the order of the caller's dict: the names are in its frame only.
    """
    frame: FrameType | None = sys._getframe(1)
    for _ in range(_FRAMES):
        if frame is None:
            break
        if frame.f_code.co_name == "forward" and frame.f_globals.get("__name__") == "torch.export._trace":
            keywords = frame.f_locals.get("kwargs")
            return tuple(keywords) if isinstance(keywords, dict) else None
        frame = frame.f_back
    return None


_FRAMES = 6
"""From the codegen by way of the graph and the interpreter to torch.export."""


def script_to_exported(model: torch.jit.ScriptModule, args: Any, kwargs: Any) -> ExportedProgram:
    """A ScriptModule as an ExportedProgram: torch.export takes none, and offers its converter nowhere else."""
    from torch._export.converter import TS2EPConverter

    return TS2EPConverter(model, args, kwargs).convert()


# --- symbolic sizes -----------------------------------------------------------------------------------------


def expression(size: torch.SymInt | torch.SymFloat | torch.SymBool) -> Any:
    """The sympy expression of a symbolic number."""
    return size.node.expr


def hint(size: torch.SymInt) -> int | None:
    """The value that a SymInt had while tracing, where torch still knows it. ``int(size)`` would fix the size."""
    try:
        value = size.node.hint
    except Exception:  # torch raises several kinds for unbacked sizes
        return None
    return value if isinstance(value, int) else None


def bounds_of_symbol(size: torch.SymInt) -> tuple[Any, Any]:
    """(lower, upper) that the ShapeEnv knows of a SymInt that is one symbol; sympy numbers, perhaps infinite."""
    interval = size.node.shape_env.var_to_range[size.node.expr]
    return interval.lower, interval.upper


def size_interval(low: int, high: int) -> Any:
    """An interval as ``range_constraints`` holds them."""
    from torch.utils._sympy.value_ranges import ValueRanges

    return ValueRanges(low, high)


def interval_bounds(interval: Any) -> tuple[int | None, int | None]:
    """(lower, upper) of an interval of whole numbers; None for infinity, of which torch has two kinds."""
    import sympy
    from torch.utils._sympy.numbers import int_oo

    low = None if interval.lower in (-int_oo, -sympy.oo) else int(interval.lower)
    high = None if interval.upper in (int_oo, sympy.oo) else int(interval.upper)
    return low, high


def is_data_symbol(name: str, *, of_floats: bool = False) -> bool:
    """Whether a symbol stands for a whole number that data decide, as what `nonzero` or `item` give.

    Args:
        of_floats: also for a number in floating point.
    """
    from torch.utils._sympy.symbol import SymT, prefix_str

    kinds = (SymT.UNBACKED_INT, SymT.UNBACKED_FLOAT) if of_floats else (SymT.UNBACKED_INT,)
    prefixes = [prefix_str[kind] for kind in kinds]
    return any(name.startswith(one) and name[len(one) :].isdigit() for one in prefixes)


def known_intervals(shape_env: Any) -> dict[sympy.Symbol, Any]:
    """The interval of every symbol that a trace has met."""
    return {} if shape_env is None else dict(shape_env.var_to_range)


def expression_bounds(e: sympy.Expr, ranges: Mapping[sympy.Symbol, tuple[int, int]]) -> tuple[Any, Any]:
    """Interval bounds of an expression of sizes; knows torch's own functions, which sympy's intervals do not."""
    from torch.utils._sympy.value_ranges import bound_sympy

    interval = bound_sympy(e, {symbol: size_interval(*bounds) for symbol, bounds in ranges.items()})
    return interval.lower, interval.upper


def evaluate_expression(e: sympy.Expr, values: Mapping[sympy.Symbol, Any]) -> Any:
    """An expression computed with Python's operators on any values, fx proxies among them: torch's own interpreter."""
    from torch.utils._sympy.interp import sympy_interp
    from torch.utils._sympy.reference import PythonReferenceAnalysis

    return sympy_interp(PythonReferenceAnalysis, dict(values), e)


def size_functions() -> Any:
    """The sympy functions that torch puts into sizes (FloorDiv, Max, ...); their public names are only in texts."""
    return importlib.import_module("torch.utils._sympy.functions")


class SizeDecisionError(RuntimeError):
    """Code asked a question about a symbolic size that has no answer for all its values."""


@contextmanager
def undecided_sizes(shape_env: Any) -> Iterator[None]:
    """Within this, a question whose answer depends on a symbolic size raises, and does not make the size a constant.

    torch has it as ``ShapeEnv.error_on_new_guards`` since 2.12; for 2.11 the same is done here. What torch itself asks
    with a default for undecided answers (is this tensor of size n - 1 contiguous, were n 2?) gets the default.
    """
    from torch.fx.experimental import _config

    raising = getattr(shape_env, "error_on_new_guards", None) or partial(_raising, shape_env)
    # Not by `_config.patch`, which makes a class and a context variable each time: it is asked for every node.
    before, log = _config.backed_size_oblivious, shape_env.log
    _config.backed_size_oblivious = True
    shape_env.log = _NO_LOG  # torch warns of each such question, on the user's screen
    try:
        with raising():
            yield
    finally:
        _config.backed_size_oblivious, shape_env.log = before, log


_NO_LOG = logging.Logger("trtcore.nothing", logging.CRITICAL)


def decided_sizes(shape_env: Any) -> Any:
    """A context: questions about sizes that a trace has answered before, with the same arguments, get that answer."""
    return shape_env.suppress_guards()


@contextmanager
def _raising(shape_env: Any) -> Iterator[None]:
    original = shape_env.evaluate_sym_node

    def evaluate(sym_node: Any, *args: Any, **kwargs: Any) -> Any:
        if shape_env._maybe_evaluate_static(sym_node.expr) is None and kwargs.get("fallback_value") is None:
            raise SizeDecisionError(f"{sym_node.expr} is not known for all sizes")
        return original(sym_node, *args, **kwargs)

    shape_env.evaluate_sym_node = evaluate
    try:
        yield
    finally:
        del shape_env.evaluate_sym_node


def is_size_decision(error: BaseException) -> bool:
    """Whether an exception comes from `undecided_sizes`, or from a question about a size that data decide."""
    names = ("_ShapeEnvGuardError", "GuardOnDataDependentSymNode")
    return isinstance(error, SizeDecisionError) or type(error).__name__ in names


_SIZE_FACTS = (
    "guards", "axioms", "replacements", "replacements_slocs", "divisible", "var_to_range", "var_to_range_sloc",
    "deferred_runtime_asserts", "num_deferred_runtime_asserts", "symbol_guard_counter", "size_like",
)  # fmt: skip


def remember_sizes(shape_env: Any) -> Callable[[], None]:
    """What is known of sizes now; the function that is returned forgets what was decided since."""
    known = {name: copy.copy(getattr(shape_env, name)) for name in _SIZE_FACTS if hasattr(shape_env, name)}

    def restore() -> None:
        if shape_env is None:
            return
        for name, value in known.items():
            setattr(shape_env, name, copy.copy(value))
        for counter in ("_version_counter", "_replacements_version_counter"):  # what caches go by
            if hasattr(shape_env, counter):
                setattr(shape_env, counter, getattr(shape_env, counter) + 1)
        shape_env._update_version_counter()
        # Answers that were given before: a cache would give them again, and say nothing of what they decide.
        getattr(shape_env, "fake_tensor_cache", {}).clear()
        _forget_answers(type(shape_env))

    return restore


def _forget_answers(kind: type) -> None:
    for method in vars(kind).values():
        getattr(method, "cache_clear", lambda: None)()


@contextmanager
def forgetting_traces() -> Iterator[None]:
    """Let go of what torch keeps for ever of the traces made in it, where nobody can reach it.

    The methods of ShapeEnv have caches with `self` in the key, some of them without a bound: each keeps the sizes, the
    FakeTensors and the source lines of a trace. The last trace of all is kept for a message about leaks. And fx keeps
    the text of every graph that it made code of: those that are in no module of `keep_sources` go.
    """
    fx_sources: Any = graph_module._loader
    first = fx_sources.next_id
    _leave_to_python(_sources_since, _forget_source)
    try:
        yield
    finally:
        shapes = sys.modules.get("torch.fx.experimental.symbolic_shapes")
        tracing = sys.modules.get("torch.fx.experimental.proxy_tensor")
        if shapes is not None:
            _forget_answers(shapes.ShapeEnv)
        getattr(tracing, "_FAKE_TENSOR_ID_TO_PROXY_MAP_FOR_EXPORT", {}).clear()
        for key in _sources_since(first):
            if key not in _kept_sources:
                _forget_source(key)


def _leave_to_python(*functions: Any) -> None:
    """Let Dynamo, where it is loaded, trace none of these: whatever calls them while a compiled function runs (the
    collector of garbage, too), they change tables that Dynamo would guard."""
    dynamo = sys.modules.get("torch._dynamo.eval_frame")
    skip: Any = getattr(dynamo, "skip_code", None)
    for function in functions if skip is not None else ():
        skip(function.__code__)


_kept_sources: set[str] = set()


def keep_sources(module: torch.nn.Module) -> None:
    """Keep the texts of a module's graphs, which tracebacks show, as long as there is code that was made of them."""
    for part in module.modules():
        if isinstance(part, torch.fx.GraphModule):
            keep_source(type(part).forward)


def keep_source(generated: Any) -> None:
    """As `keep_sources`, of one function that fx made."""
    key = generated.__code__.co_filename
    if key not in _kept_sources and key in graph_module._loader.eval_cache:
        _kept_sources.add(key)
        weakref.finalize(generated, _forget_source, key).atexit = False


def _sources_since(first: int) -> list[str]:
    """The keys of the texts that fx got since its counter stood at `first`; the newest are last in its table."""
    found = []
    for key in reversed(list(graph_module._loader.eval_cache)):
        number = re.match(r"<eval_with_key>\.(\d+)", key)
        if number is not None:
            if int(number[1]) < first:
                break
            found.append(key)
    return found


def _forget_source(key: str) -> None:
    _kept_sources.discard(key)
    graph_module._loader.eval_cache.pop(key, None)
    linecache.cache.pop(key, None)


# --- tensors and ops ----------------------------------------------------------------------------------------


def storage_id(tensor: torch.Tensor) -> int:
    """Identity of a tensor's memory, of FakeTensors too, whose ``data_ptr()`` says nothing."""
    return int(tensor.untyped_storage()._cdata)


def version(tensor: torch.Tensor) -> int:
    """How often autograd counted an in-place change of a tensor; 0 for inference tensors, for which nobody counts."""
    return 0 if tensor.is_inference() else tensor._version


def composite_kernel(op: torch._ops.OpOverload) -> bool:
    """Whether torch has a kernel for an op that takes it apart into others below autograd."""
    name = op._schema.name + ("." + op._overloadname if op._overloadname != "default" else "")
    return op._can_decompose() and torch._C._dispatch_has_kernel_for_dispatch_key(
        name, torch._C.DispatchKey.CompositeImplicitAutograd
    )


def has_autocast_kernel(op: torch._ops.OpOverload, device_type: str) -> bool:
    """Whether ``torch.autocast`` casts an op's arguments on a device: what it does stands in no public table."""
    key = {"cpu": torch._C.DispatchKey.AutocastCPU, "cuda": torch._C.DispatchKey.AutocastCUDA}.get(
        device_type
    )
    name = op._schema.name + ("." + op._overloadname if op._overloadname != "default" else "")
    return key is not None and torch._C._dispatch_has_kernel_for_dispatch_key(name, key)


def names_of_ops() -> list[str]:
    """ "namespace::op.overload" of every op that is registered now."""
    return list(torch._C._dispatch_get_all_op_names())


def is_inplace_view(target: Any) -> bool:
    """Whether an op gives a tensor other sizes or other memory: ``t_``, ``set_``.

    Torch has a tag for these, which the op of ``x.data = y`` in torch 2.14 lacks; before, that was ``set_``.
    """
    schema = getattr(target, "_schema", None)
    return torch.Tag.inplace_view in getattr(target, "tags", ()) or (
        schema is not None and schema.name == "aten::shallow_copy_data_"
    )


def higher_order_name(op: torch._ops.HigherOrderOperator) -> str:
    """ "cond" for ``torch.ops.higher_order.cond``."""
    return str(op.name())  # type: ignore[no-untyped-call]


def copy_all(into: Sequence[torch.Tensor], values: Sequence[torch.Tensor]) -> None:
    """Copy tensors into others of their shapes, on a GPU by few launches."""
    torch._foreach_copy_(list(into), list(values), non_blocking=True)


def overlaps_itself(tensor: torch.Tensor) -> bool:
    """Whether elements share memory, or may: torch looks no closer than a write to the tensor does."""
    return torch._debug_has_internal_overlap(tensor) != 0


def users_of_storage(tensor: torch.Tensor) -> int:
    """How many tensors and storages hold a tensor's memory, the tensor and the storage that Python made for it too."""
    return torch._C._storage_Use_Count(tensor.untyped_storage()._cdata)


def core_decompositions() -> dict[Any, Callable[..., Any]]:
    """torch's decompositions into core ATen ops; the public table also leaves composite ops whole."""
    from torch._decomp import core_aten_decompositions

    return dict(core_aten_decompositions().items())  # type: ignore[no-untyped-call]


def operator_samples() -> Sequence[Any]:
    """torch's own OpInfo entries: sample inputs and expected behaviour of its operators."""
    from torch.testing._internal.common_methods_invocations import op_db

    return tuple(op_db)


def default_tolerances(dtype: torch.dtype) -> tuple[float, float]:
    """(rtol, atol) that ``torch.testing.assert_close`` takes for a dtype."""
    from torch.testing._comparison import default_tolerances

    rtol, atol = default_tolerances(dtype)
    return float(rtol), float(atol)


# --- what sees ops ------------------------------------------------------------------------------------------


def ops_are_watched() -> bool:
    """Whether a mode, autocast, a functorch transform, forward-mode AD, a profiler or torch.export is on: these work by
    ops."""
    return bool(
        torch.compiler._is_compiling_flag
        or _function_modes()
        or _dispatch_modes()
        or any_autocast()
        or _transform() is not None
        or _profiler()
        or forward_ad._current_level >= 0
    )


# Asked in every call of a compiled module: looked up once.
_function_modes, _dispatch_modes = torch._C._len_torch_function_stack, torch._C._len_torch_dispatch_stack
_transform, _profiler = torch._C._functorch.peek_interpreter_stack, torch.autograd._profiler_enabled

profiler_is_on: Callable[[], bool] = torch.autograd._profiler_enabled
"""Whether torch.profiler, or emit_nvtx, records ranges."""

any_autocast: Callable[[], bool] = torch._C._is_any_autocast_enabled
"""Whether autocast is on for any kind of device."""


def is_transformed() -> bool:
    """Whether a functorch transform or a dispatch mode is on."""
    return torch._C._functorch.peek_interpreter_stack() is not None or bool(
        torch._C._len_torch_dispatch_stack()
    )


def is_being_differentiated(tensors: Sequence[torch.Tensor]) -> bool:
    """Whether torch.func.grad, vjp, jvp or forward mode follows one of these tensors."""
    graded, dual = torch.is_grad_enabled(), forward_ad._current_level >= 0
    for one in tensors if graded or dual else ():
        if graded and torch._C._functorch.is_gradtrackingtensor(one):
            return True
        if dual and forward_ad.unpack_dual(one).tangent is not None:  # type: ignore[no-untyped-call]
            return True
    return False


# Asked in every call of a compiled module, like those above: torch's own functions, without one of ours around them.
is_traced_by_jit: Callable[[], Any] = torch._C._get_tracing_state
"""What torch.jit.trace keeps while it runs; None while it does not."""


def has_global_pre_hooks() -> bool:
    """Whether pre-hooks were registered for every module: these may change arguments."""
    return bool(torch.nn.modules.module._global_forward_pre_hooks)


has_global_hooks: Callable[[], Any] = torch.nn.modules.module._has_any_global_hook
"""Hooks that were registered for every module; something empty if there are none."""


below_autograd: Callable[[], Any] = torch._C._AutoDispatchBelowAutograd
"""A context manager: ops called in it begin below autograd."""


# --- CUDA -------------------------------------------------------------------------------------------------


def cuda_calls() -> tuple[Callable[..., Any], ...]:
    """The index of the current device; a device's current stream; whether the current stream is being captured; and a
    new tensor ``(size, stride, dtype)`` on the current device. Their public forms take up to twenty times as long."""
    c: Any = torch._C
    return (
        c._cuda_getDevice,
        c._cuda_getCurrentRawStream,
        c._cuda_isCurrentStreamCapturing,
        c._dynamo.guards._empty_strided_cuda,
    )


def empty_on_cpu() -> Callable[..., torch.Tensor]:
    """A new tensor ``(size, stride, dtype)`` on the CPU, as `cuda_calls` has it for GPUs."""
    guards: Any = torch._C._dynamo.guards
    made: Callable[..., torch.Tensor] = guards._empty_strided_cpu
    return made


# --- traces and graphs --------------------------------------------------------------------------------------


def python_dispatcher() -> Any:
    """A context manager: ops take their kernels in Python first. Those in C++ check some sizes as plain ints."""
    from torch._dispatch.python import enable_python_dispatcher

    return enable_python_dispatcher()


def first_auto_functionalized() -> Any:
    """A context manager: custom ops that write become ``auto_functionalized``, which torch.export writes into files."""
    from torch._inductor import config

    return config.patch(enable_auto_functionalized_v2=False)


def can_auto_functionalize(op: torch._ops.OpOverload) -> bool:
    """Whether torch's ``auto_functionalized`` takes an op that writes to its arguments; never an op of torch's own."""
    from torch._higher_order_ops.auto_functionalize import can_auto_functionalize as can

    return bool(can(op))


def is_own(op: torch._ops.OpOverload) -> bool:
    """Whether an op is torch's own."""
    from torch._library.utils import is_builtin

    return bool(is_builtin(op))


def functionalised(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` with its writes as new values; it gets functional tensors, and ``is_written`` answers for them."""
    from torch._subclasses.functional_tensor import dispatch_functionalize

    made: Callable[..., Any] = dispatch_functionalize(function)
    return made


def is_written(value: Any) -> bool:
    """Whether a functional tensor was written to."""
    return bool(torch._functionalize_has_data_mutation(value.elem))  # type: ignore[attr-defined]


def writes_at_end(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` without writes, but to its arguments, and to them at its end."""
    from torch._subclasses.functional_tensor import FunctionalTensor, FunctionalTensorMode

    def plain(value: FunctionalTensor) -> torch.Tensor:
        torch._sync(value)  # type: ignore[no-untyped-call]
        return torch._from_functional_tensor(value.elem)

    def run(*values: Any) -> Any:
        outer = torch._C.DispatchKeySet(torch._C.DispatchKey.Functionalize)
        with torch._C._ExcludeDispatchKeyGuard(outer), FunctionalTensorMode():
            given = [
                FunctionalTensor.to_functional(value) if isinstance(value, torch.Tensor) else value
                for value in values
            ]
            returned = function(*given)
            results = pytree.tree_map_only(FunctionalTensor, plain, returned)
            newest = [
                plain(one) if isinstance(one, FunctionalTensor) and is_written(one) else None for one in given
            ]
        for value, new in zip(values, newest):
            if new is not None:
                value.copy_(new)
        # A result that is a written argument is that very tensor, as in eager.
        same = {id(one): value for one, value, new in zip(given, values, newest) if new is not None}
        return pytree.tree_map(lambda one, result: same.get(id(one), result), returned, results)

    return run


def is_erased(node: torch.fx.Node) -> bool:
    """Whether a node is in its graph no more."""
    return node._erased


def compiled_forward(source: str, names: Mapping[str, Any]) -> Callable[..., Any]:
    """The function ``forward`` of a source as fx generates them, so that tracebacks show its lines."""
    from torch.fx.graph_module import _forward_from_src

    made: Callable[..., Any] = _forward_from_src(source, dict(names))
    return made


def codegen_of(graph: torch.fx.Graph) -> Any:
    """What ``graph.set_codegen`` was given."""
    return graph._codegen


# --- distributed --------------------------------------------------------------------------------------------


def dtensor_type() -> Any:
    """The class of DTensors; None where torch was built without torch.distributed, or nobody has imported them."""
    module = sys.modules.get("torch.distributed.tensor")
    return getattr(module, "DTensor", None)


def maybe_mark_dynamic(tensor: torch.Tensor, dim: int) -> None:
    """Let Dynamo see a size as one that varies, where the code below lets it."""
    torch._dynamo.maybe_mark_dynamic(tensor, dim)


def fresh_symbols_ignored(environment: Any) -> Any:
    """A context: sizes from data that ops make in it are nobody's; else the next op would miss them in its results."""
    return environment.ignore_fresh_unbacked_symbols()


def size_conditions(environment: Any) -> list[Any]:
    """What a trace took for true of its sizes: sympy relations of a graph's ShapeEnv."""
    return [guard.expr for guard in environment.guards]


def aot_inference(
    gm: Any, example_inputs: Sequence[Any], compiler: Callable[..., Any], keep_writes: bool = False
) -> Callable[..., Any]:
    """AOTAutograd without a backward pass over a graph of Dynamo's: tensor subclasses become the tensors in them.

    Args:
        compiler: (graph of plain tensors, examples) -> what takes their values one by one, and gives its results.
        keep_writes: writes to inputs are ``copy_`` in the graph; else they are results, which the caller of the
            compiled graph never sees, as torch writes them.
    """
    from torch._dynamo.backends.common import aot_autograd
    from torch._functorch.aot_autograd import make_boxed_func

    def boxed(local: Any, inputs: Sequence[Any]) -> Any:
        return make_boxed_func(compiler(local, inputs))

    made: Callable[..., Any] = aot_autograd(
        fw_compiler=boxed, inference_compiler=boxed, keep_inference_input_mutations=keep_writes
    )(gm, example_inputs)
    return made


# --- transforms and regions ---------------------------------------------------------------------------------

_TRANSFORM_FILES = ("torch._functorch", "torch._C._functorch")


def is_transform_call(target: Any) -> bool:
    """Whether a node's target is one of the calls that ``torch.vmap`` and the transforms of ``torch.func`` become."""
    return str(getattr(target, "__module__", "")).startswith(_TRANSFORM_FILES)


_DERIVATIVE_CALLS = ("grad", "jvp", "dual", "jacobian", "vjp")


def is_derivative_call(target: Any) -> bool:
    """Whether a node's target is one of the calls that ``grad``, ``vjp`` and ``jvp`` of ``torch.func`` become."""
    name = str(getattr(target, "__name__", "")).lower()
    return is_transform_call(target) and any(word in name for word in _DERIVATIVE_CALLS)


def is_of_transform(tensor: torch.Tensor) -> bool:
    """Whether a tensor is one that a transform has made: a batch that looks like one item, or one that is
    differentiated."""
    return bool(torch._C._functorch.is_functorch_wrapped_tensor(tensor))


def is_differentiated(tensor: torch.Tensor) -> bool:
    """Whether a tensor is one that ``torch.func.grad`` and its kin have made."""
    return bool(torch._C._functorch.is_gradtrackingtensor(tensor))


@contextmanager
def transforms_undone() -> Iterator[None]:
    """Leave the transforms that an exception has left on: else every later op of this thread would be in them."""
    functorch = torch._C._functorch
    depth = functorch.get_dynamic_layer_stack_depth()
    try:
        yield
    finally:
        if functorch.get_dynamic_layer_stack_depth() > depth:
            try:
                functorch.pop_dynamic_layer_stack_and_undo_to_depth(depth)
            except RuntimeError:  # torch 2.11 asks for the next layer when it has taken the last
                if functorch.get_dynamic_layer_stack_depth() > depth:
                    raise


@dataclass
class Transforms:
    """What a model has gone through while it was watched.

    Attributes:
        entered: it has called ``torch.vmap``, or taken a derivative.
        differentiated: it has taken a derivative: by a transform of ``torch.func``, or by ``torch.autograd.grad``.
    """

    entered: bool = False
    differentiated: bool = False


@contextmanager
def transforms_watched() -> Iterator[Transforms]:
    """Within this it is noted which transforms are run. For one thread at a time."""
    seen = Transforms()
    derivatives = importlib.import_module("torch._functorch.eager_transforms")
    batches = importlib.import_module("torch._functorch.vmap")
    places = (
        (derivatives, "_grad_increment_nesting", True), (derivatives, "_jvp_increment_nesting", True),
        (batches, "_vmap_increment_nesting", False), (torch.autograd, "grad", True),
    )  # fmt: skip

    def noted(function: Callable[..., Any], is_derivative: bool) -> Callable[..., Any]:
        @wraps(function)
        def run(*args: Any, **kwargs: Any) -> Any:
            seen.entered = True
            seen.differentiated |= is_derivative
            return function(*args, **kwargs)

        return run

    before = [getattr(owner, name) for owner, name, _ in places]
    for (owner, name, is_derivative), function in zip(places, before):
        setattr(owner, name, noted(function, is_derivative))
    try:
        yield seen
    finally:
        for (owner, name, _), function in zip(places, before):
            setattr(owner, name, function)


@contextmanager
def without_linalg_checks() -> Iterator[None]:
    """Let the check that ``torch.linalg`` makes of its own results be a plain op.

    torch's functionalisation takes it for an effect, and asks for a token that only an export has.
    """
    registry = getattr(importlib.import_module("torch._library.simple_registry"), "singleton", None)
    entry = registry.find("aten::_linalg_check_errors") if registry is not None else None
    holder = getattr(entry, "effect", None)
    before = getattr(holder, "effect", None)
    field = next((name for name in vars(holder) if before is not None and vars(holder)[name] is before), None)
    if field is None:
        yield
        return
    setattr(holder, field, None)
    try:
        yield
    finally:
        setattr(holder, field, before)


@contextmanager
def kernel_below_autocast(kernels: Mapping[Any, Callable[..., Any]]) -> Iterator[None]:
    """Give composite ops other kernels below autocast, which casts their arguments first.

    What ``ExportedProgram.run_decompositions`` does to keep ops whole. Within a kernel the op has its own one again.
    """
    key = torch._C.DispatchKey.CompositeImplicitAutograd

    def once(op: Any, kernel: Callable[..., Any]) -> Callable[..., Any]:
        own, busy = op.py_kernels.get(key), False

        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal busy
            if busy or any(
                isinstance(leaf, torch.Tensor) and is_of_transform(leaf) for leaf in (*args, *kwargs.values())
            ):
                return own(*args, **kwargs) if own is not None else op._op_dk(key, *args, **kwargs)
            busy = True
            try:
                return kernel(*args, **kwargs)
            finally:
                busy = False

        return call

    with _other_kernels({op: {key: once(op, kernel)} for op, kernel in kernels.items()}):
        yield


@contextmanager
def results_of_shapes(shapes: Mapping[Any, Callable[..., Any]]) -> Iterator[None]:
    """Give composite ops on FakeTensors results from functions that know their shapes alone.

    Torch has kernels in Python for some that go through a whole sequence and fix its length. Where a trace records what
    the op is made of, it is the op's own pieces still.
    """
    from torch.fx.experimental.proxy_tensor import get_proxy_mode

    composite, autograd = torch._C.DispatchKey.CompositeImplicitAutograd, torch._C.DispatchKey.Autograd

    def kernel(op: Any, shape: Callable[..., Any]) -> Callable[..., Any]:
        own = op.py_kernels.get(composite, partial(op._op_dk, composite))

        def call(*args: Any, **kwargs: Any) -> Any:
            leaves = torch.utils._pytree.tree_leaves((args, kwargs))
            fake = any(isinstance(leaf, FakeTensor) for leaf in leaves)
            if not fake or get_proxy_mode() is not None or any(map(_is_transformed, leaves)):
                return own(*args, **kwargs)
            return shape(*args, **kwargs)

        return call

    others = {
        op: dict.fromkeys((composite, *({autograd} & op.py_kernels.keys())), kernel(op, shape))
        for op, shape in shapes.items()
    }
    with _other_kernels(others):
        yield


@contextmanager
def _other_kernels(kernels: Mapping[Any, Mapping[Any, Callable[..., Any]]]) -> Iterator[None]:
    """Give ops other Python kernels: op -> dispatch key -> kernel."""
    before = {op: dict(op.py_kernels) for op in kernels}
    try:
        for op, own in kernels.items():
            op.py_kernels.update(own)
            op._dispatch_cache.clear()
        yield
    finally:
        for op, known in before.items():
            op.py_kernels.clear()
            op.py_kernels.update(known)
            op._dispatch_cache.clear()


def _is_transformed(leaf: Any) -> bool:
    return isinstance(leaf, torch.Tensor) and is_of_transform(leaf)


def constant_of(structure: Any) -> Any:
    """The value that a TreeSpec holds which has been made of a constant."""
    from torch.utils import _pytree

    return _pytree._retrieve_constant(structure)


def export_below_dispatch(
    model: torch.nn.Module, args: Any, kwargs: Any, dynamic_shapes: Any
) -> ExportedProgram:
    """``torch.export.export``, traced below the level of dispatch: composite ops are taken apart, writes are values.

    Above it torch loses what a transform differentiates: it becomes a constant.
    """
    from torch.export._trace import _export
    from torch.utils import _pytree

    # Of views it would guard the tensors that they are views of.
    args, kwargs = _pytree.tree_map_only(torch.Tensor, torch.clone, (args, kwargs))
    ep: ExportedProgram = _export(model, args, kwargs, dynamic_shapes, strict=False, pre_dispatch=False)
    return ep


# --- graphs of Dynamo's -------------------------------------------------------------------------------------


def grad_mode_switch() -> Any:
    """What ``with torch.no_grad():`` becomes in a traced graph."""
    return torch._C._set_grad_enabled


def data_getter() -> Any:
    """What ``x.data`` becomes in a graph of Dynamo's."""
    return torch._C._autograd._get_data_attr  # type: ignore[attr-defined]


def autocast_entry() -> Any:
    """What ``with torch.autocast(...):`` becomes in a graph of Dynamo's."""
    return torch.amp.autocast_mode._enter_autocast


def is_static_input(placeholder: torch.fx.Node) -> bool:
    """Whether Dynamo marked a placeholder as a parameter, a buffer, or another tensor of a module."""
    return (placeholder.meta.get("tensor_dict") or {}).get("_dynamo_static_input_type") is not None


def source_text(placeholder: torch.fx.Node, below: bool = False) -> str:
    """Dynamo's expression for where a placeholder's value came from (`below`: what it was taken of); "" for none."""
    source = getattr(placeholder.meta.get("grapharg"), "source", None)
    name = getattr(getattr(source, "base", None) if below else source, "name", None)
    text = name() if callable(name) else name
    return text if isinstance(text, str) else ""


def specialise_floats(floats: Sequence[torch.SymFloat]) -> None:
    """Make constants of floats that Dynamo made inputs of: it starts the frame again, as for its own compiler.

    Raises:
        torch._dynamo.exc.TensorifyScalarRestartAnalysis: for Dynamo, where any was no constant before.
    """
    from torch._dynamo.exc import TensorifyScalarRestartAnalysis
    from torch._dynamo.symbolic_convert import TensorifyState

    symbols = [cast(Any, number).node._expr for number in floats]
    new = [s.name for s in symbols if s.is_Symbol and not TensorifyState.should_specialize(s.name)]
    for name in new:
        TensorifyState.specialize(name)
    if new:
        raise TensorifyScalarRestartAnalysis


def compile_and_package(exported: ExportedProgram, path: Path) -> None:
    """Let AOTInductor compile a program, and write the package to `path`, which ends in .pt2."""
    from torch._inductor import aoti_compile_and_package

    aoti_compile_and_package(exported, package_path=os.fspath(path))


def lacks_compiler(error: BaseException) -> bool:
    """Whether Inductor stopped because it has found no C++ compiler."""
    from torch._inductor.exc import InvalidCxxCompiler

    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, (InvalidCxxCompiler, FileNotFoundError)):
            return True
        seen = getattr(seen, "inner_exception", None) or seen.__cause__ or seen.__context__
    return False


def fake_like(value: torch.Tensor, mode: Any) -> FakeTensor:
    """A FakeTensor of a plain tensor's shape, strides, dtype and device, in memory of its own.

    Without the dispatch that ``torch.empty_strided`` under the mode goes through, which takes fifty times as long.
    """
    meta = torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="meta")
    return FakeTensor(mode, meta, value.device)
