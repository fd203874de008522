"""PyTorch's own sample inputs as a test of converters: every op, every dtype, forward, against eager.

`op_db` (in ``torch.testing._internal``) has, for each of some 700 operators, the inputs that PyTorch is itself tested
with. `samples` reads them, `check` compiles them and compares with eager:

    from trtcore.testing.opinfo import check, samples

    for result in check(samples("clamp", torch.float16)):
        print(result)

A sample is one call of the operator. It is *passed* when every op of its traced program ended in an engine that
TensorRT built (L1: the network was accepted, L3: the engine was built) and the numbers of the reference runtime are
eager's (L2); *refused* when an op stays in torch, with the reason, and the numbers are right all the same; *failed*
when a number, a shape or a dtype is wrong, something raised, or TensorRT refused what a converter had taken (a
capability validator should have said so). Two outcomes are on no account: *invalid*, where
eager itself raises, and *foreign*, where an op stays in torch and an argument or a result has a dtype of which
TensorRT has none (float64, complex numbers, int16), or the call draws random numbers: right, and rightly in torch.

Many samples are compiled as one program, which saves most of the time; a sample that fails is compiled again alone, and
the result of that counts.

Numbers are eager's when they are within the operator's own tolerance for the dtype (the ``toleranceOverride`` of its
OpInfo, else the defaults of `torch.testing`), element by element, of eager's result or of the op computed in float64
and rounded once: eager itself may be the less exact one, above all in float16 and bfloat16.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import torch
from torch.fx import Graph, GraphModule, Node
from torch.utils import _pytree as pytree

from trtcore.errors import TrtcoreError
from trtcore.ir.graphs import TRACING, attribute, is_random, set_attribute
from trtcore.ir.program import InputSpec, Program
from trtcore.ir.torch_private import (
    FakeTensorMode,
    default_tolerances,
    grad_mode_switch,
    operator_samples,
)

if TYPE_CHECKING:
    from trtcore.report.data import Report

__all__ = [
    "DTYPES", "OpSample", "SampleResult", "check", "chosen", "difference", "operators", "samples", "tolerance",
]  # fmt: skip

DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.int32, torch.int64, torch.bool)
"""The dtypes TensorRT computes in."""

Compare = Callable[["OpSample", Any, Any], "str | None"]
"""(sample, eager's result, ours) -> "" when they are the same for this op, what is wrong, or None: no opinion."""

_SEED = 42  # the one that random operators of op_db set themselves


@dataclass(frozen=True)
class OpSample:
    """One call of an operator.

    Attributes:
        op: the operator's name in `op_db`, as ``nn.functional.pad``.
        variant: tells apart operators of one name (``reflect``); "" where there is one.
        dtype: of the sample's tensors.
        index: number of the sample among those of the operator and dtype.
        function: what is called with `args` and `kwargs`.
        tolerance: (rtol, atol) for outputs of the sample's dtype; None takes the defaults of their dtype.
    """

    op: str
    variant: str
    dtype: torch.dtype
    index: int
    function: Callable[..., Any] = field(repr=False)
    args: tuple[Any, ...] = field(repr=False)
    kwargs: Mapping[str, Any] = field(repr=False, default_factory=dict)
    tolerance: tuple[float, float] | None = field(repr=False, default=None)

    @property
    def key(self) -> tuple[str, str, str, int]:
        """What names the sample: operator, variant, dtype, index."""
        return self.op, self.variant, str(self.dtype).removeprefix("torch."), self.index

    @property
    def tensors(self) -> tuple[torch.Tensor, ...]:
        """The tensors among the arguments, in order, without history."""
        leaves = pytree.tree_leaves((self.args, dict(self.kwargs)))
        return tuple(leaf.detach() for leaf in leaves if isinstance(leaf, torch.Tensor))

    def with_tensors(self, tensors: Sequence[Any]) -> OpSample:
        """The same call with other tensors, one for each of `tensors`."""
        others = iter(tensors)
        args, kwargs = pytree.tree_map(
            lambda leaf: next(others) if isinstance(leaf, torch.Tensor) else leaf,
            (self.args, dict(self.kwargs)),
        )
        return replace(self, args=args, kwargs=kwargs)

    def run(self) -> Any:
        """Call the operator."""
        return self.function(*self.args, **self.kwargs)

    def call_text(self) -> str:
        """The call for people: ``float32[2, 3], dim=1``."""
        parts = [_text(value) for value in self.args]
        parts += [f"{name}={_text(value)}" for name, value in self.kwargs.items()]
        return ", ".join(parts)


@dataclass(frozen=True)
class SampleResult:
    """What became of a sample.

    Attributes:
        op, variant, dtype, index: the sample, as in `OpSample`; the dtype as text, without ``torch.``.
        outcome: "passed", "refused", "failed", "foreign" or "invalid", see the module.
        reason: why it was refused or failed; "" when passed.
        call: the arguments as text.
        ops: how many ops of the lowered program are in engines.
        in_torch: names of the ops that stay in torch.
        traced: names of the ops that the call was traced to, before lowering.
    """

    op: str
    variant: str
    dtype: str
    index: int
    outcome: str
    reason: str = ""
    call: str = ""
    ops: int = 0
    in_torch: tuple[str, ...] = ()
    traced: tuple[str, ...] = ()

    def __str__(self) -> str:
        name = f"{self.op}.{self.variant}" if self.variant else self.op
        text = f"{name} {self.dtype} #{self.index} ({self.call}): {self.outcome}"
        return f"{text}: {self.reason}" if self.reason else text


# ---- samples -----------------------------------------------------------------------------------------------


@lru_cache(maxsize=1)
def operators() -> Mapping[tuple[str, str], Any]:
    """(name, variant) -> OpInfo, of every operator that PyTorch has samples for."""
    return {(op.name, op.variant_test_name): op for op in operator_samples()}


def samples(
    op: str, dtype: torch.dtype, *, variant: str | None = None, limit: int | None = None, device: str = "cpu"
) -> Iterator[OpSample]:
    """The samples of an operator in a dtype; none where the operator has no such dtype on the device.

    Args:
        op: its name in `op_db`.
        variant: one of several operators of the name; None takes them all.
        limit: at most so many of each operator, see `chosen`.
        device: where their tensors are, as ``cuda``.

    Raises:
        KeyError: `op_db` has no such operator.
    """
    found = [(key, info) for key, info in operators().items() if key[0] == op and variant in (None, key[1])]
    if not found:
        raise KeyError(
            f"op_db has no operator {op!r}" + (f" with the variant {variant!r}" if variant else "")
        )
    for (name, kind), info in found:
        if dtype not in info.supported_dtypes(torch.device(device).type):
            continue
        within = tolerance(info, dtype)
        everything = _seeded(info, dtype, device)
        for index in chosen(len(everything), limit):
            given = everything[index]
            yield OpSample(
                name, kind, dtype, index, info.op, (given.input, *given.args), dict(given.kwargs), within
            )


def _seeded(info: Any, dtype: torch.dtype, device: str) -> list[Any]:
    """The samples of an OpInfo, the same in every run; generators that raise end where they do."""
    import numpy

    torch.manual_seed(_SEED)
    random.seed(_SEED)
    numpy.random.seed(_SEED)
    made: list[Any] = []
    try:
        for sample in info.sample_inputs(device, dtype):
            made.append(sample)
    except Exception:
        if not made:
            raise
    return made


def chosen(count: int, limit: int | None) -> list[int]:
    """Which of `count` samples to take: all, or `limit` of them at even distances, the first always."""
    if limit is None or count <= limit:
        return list(range(count))
    return sorted({i * count // limit for i in range(limit)})


_TOLERANCE_TESTS = frozenset(
    {None, "TestCommon", "TestUnaryUfuncs", "TestBinaryUfuncsDevice", "TestReductions"}
)


def tolerance(info: Any, dtype: torch.dtype) -> tuple[float, float] | None:
    """(rtol, atol) that an OpInfo allows results in a dtype; None where it says nothing.

    The widest ``toleranceOverride`` that its tests of the values have; those of gradients and compilers do not count.
    """
    rtol = atol = 0.0
    for decoration in info.decorators:
        if getattr(decoration, "cls_name", None) not in _TOLERANCE_TESTS:
            continue
        for decorator in getattr(decoration, "decorators", ()):
            allowed = getattr(decorator, "d", None)
            if type(decorator).__name__ == "toleranceOverride" and allowed is not None and dtype in allowed:
                atol, rtol = max(atol, allowed[dtype].atol), max(rtol, allowed[dtype].rtol)
    if not rtol and not atol:
        return None
    default = default_tolerances(dtype)
    return max(rtol, default[0]), max(atol, default[1])


def _text(value: Any) -> str:
    if isinstance(value, torch.Tensor):
        return f"{str(value.dtype).removeprefix('torch.')}{list(value.shape)}"
    if isinstance(value, (list, tuple)):
        inside = ", ".join(map(_text, value))
        return f"[{inside}]" if isinstance(value, list) else f"({inside})"
    return repr(value) if len(repr(value)) <= 60 else type(value).__name__


# ---- checking ----------------------------------------------------------------------------------------------


def check(
    given: Iterable[OpSample],
    *,
    settings: Mapping[str, Any] | None = None,
    compare: Compare | None = None,
    batch: int = 24,
) -> list[SampleResult]:
    """Compile samples, run them in the reference runtime and compare with eager.

    Args:
        given: the samples.
        settings: further compile settings; ``min_block_size`` is 1 unless given.
        compare: has the first word on whether two results are the same.
        batch: how many samples go into one program.

    Returns:
        one result for each sample, in order.

    Raises:
        BackendUnavailableError: there is no TensorRT here.
    """
    from trtcore.testing.conformance import usable_backend

    options = {"min_block_size": 1, "runtime": "reference", **(settings or {})}
    options.setdefault("backend", usable_backend().name)
    checker = _Checker(options, compare)
    results: list[SampleResult] = []
    waiting: list[OpSample] = []
    for sample in given:
        waiting.append(sample)
        if len(waiting) == batch:
            results += checker.check(waiting)
            waiting = []
    return results + checker.check(waiting)


@dataclass
class _Captured:
    """A sample, what eager makes of it, and its graph."""

    sample: OpSample
    expected: Any
    after: list[torch.Tensor]
    tensors: list[torch.Tensor]
    graph_module: GraphModule | None = None
    outputs: Any = None
    problem: str = ""
    random: bool = False

    @property
    def traced(self) -> tuple[str, ...]:
        """Names of the ops in the graph."""
        assert self.graph_module is not None
        targets = {n.target for n in self.graph_module.graph.nodes if n.op == "call_function"}
        return tuple(sorted(str(t) for t in targets if isinstance(t, torch._ops.OpOverload)))


class _Checker:
    def __init__(self, options: Mapping[str, Any], compare: Compare | None) -> None:
        self.options, self.compare = options, compare

    def check(self, batch: Sequence[OpSample]) -> list[SampleResult]:
        """Results in the order of the samples."""
        found: dict[int, SampleResult] = {}
        together: list[tuple[int, _Captured]] = []
        fake_mode = _fake_mode()
        for position, sample in enumerate(batch):
            captured = _capture(sample, fake_mode)
            if isinstance(captured, SampleResult):
                found[position] = captured
            elif captured.random or len(batch) == 1:
                found[position] = self._alone(sample)
            else:
                together.append((position, captured))
        results = self._together([captured for _, captured in together])
        for (position, captured), result in zip(together, results):
            found[position] = result or self._alone(captured.sample)
        return [found[position] for position in range(len(batch))]

    def _together(self, batch: Sequence[_Captured]) -> list[SampleResult | None]:
        """A result for each sample that is settled; None for those to be looked at alone."""
        if not batch:
            return []
        try:
            results = self._run(batch)
        except Exception:
            return [None] * len(batch)
        return [None if result.outcome == "failed" else result for result in results]

    def _alone(self, sample: OpSample) -> SampleResult:
        captured = _capture(sample, _fake_mode())
        if isinstance(captured, SampleResult):
            return captured
        try:
            (result,) = self._run([captured])
        except TrtcoreError as error:
            return _result(sample, "failed", f"{type(error).__name__}: {error}")
        except Exception as error:
            return _result(sample, "failed", f"raised {type(error).__name__}: {_first_line(error)}")
        return result

    def _run(self, batch: Sequence[_Captured]) -> list[SampleResult]:
        from trtcore.compiler import compile_program
        from trtcore.settings import CompilationSettings

        program, places = _program(batch)
        compiled = compile_program(program, CompilationSettings.from_kwargs(**self.options))
        inputs = [tensor.clone() for captured in batch for tensor in captured.tensors]
        torch.manual_seed(_SEED)
        with torch.no_grad():
            values = compiled(*inputs)
        results = []
        start = 0
        for number, (captured, (spec, indices)) in enumerate(zip(batch, places)):
            leaves = [values[place] if isinstance(place, int) else place.value for place in indices]
            actual = pytree.tree_unflatten(leaves, spec)
            changed = inputs[start : start + len(captured.tensors)]
            start += len(captured.tensors)
            problem = self._difference(captured, actual, changed)
            verdict = _verdict(captured, number, problem, compiled.report)
            results.append(replace(verdict, traced=captured.traced))
        return results

    def _difference(self, captured: _Captured, actual: Any, after: Sequence[torch.Tensor]) -> str:
        sample = captured.sample
        verdict = self.compare(sample, captured.expected, actual) if self.compare is not None else None
        if verdict is None:
            verdict = difference(sample, captured.expected, actual)
        if verdict:
            return verdict
        for number, (want, got) in enumerate(zip(captured.after, after)):
            changed = _unlike(sample, want, got, None)
            if changed and want.is_floating_point():  # as with results, eager may be the less exact one
                exact = _in_float64(sample)[1]
                changed = _unlike(sample, want, got, exact[number]) if exact else changed
            if changed:
                return f"tensor argument {number} is not left as eager leaves it: {changed}"
        return ""


def _verdict(captured: _Captured, number: int, problem: str, report: Report) -> SampleResult:
    """The result of a sample from the report's nodes that carry its number."""
    sample = captured.sample
    own = [node for node in report.nodes if node.module_path == f"sample_{number}"]
    left = [node for node in own if not node.in_engine and node.lost_to != "write_back"]
    inside = sum(node.in_engine for node in own)
    in_torch = tuple(dict.fromkeys(node.op for node in left))
    if problem:
        return _result(sample, "failed", problem, inside, in_torch)
    failed = [
        f"{one.op}: quarantined: {one.reason}"
        for one in report.quarantined
        if one.module_path == f"sample_{number}"
    ]
    if failed:  # though the next candidate may have taken the node
        return _result(sample, "failed", "; ".join(dict.fromkeys(failed)), inside, in_torch)
    if left:
        outcome = "foreign" if captured.random or _is_foreign(captured) else "refused"
        reasons = dict.fromkeys(f"{node.op}: {node.reason}" for node in left)
        return _result(sample, outcome, "; ".join(reasons), inside, in_torch)
    unbuilt = [segment.name for segment in report.engines if not segment.engine_bytes]
    if unbuilt:
        return _result(sample, "failed", f"no engine was built for {', '.join(unbuilt)}", inside)
    return _result(sample, "passed", "", inside)


def _is_foreign(captured: _Captured) -> bool:
    """Whether an argument or a result has a dtype that TensorRT does not compute in, or is sparse."""
    tensors = (*captured.tensors, *pytree.tree_leaves(captured.expected))
    return any(
        isinstance(leaf, torch.Tensor) and (leaf.dtype not in DTYPES or leaf.layout is not torch.strided)
        for leaf in tensors
    )


def _result(
    sample: OpSample, outcome: str, reason: str = "", ops: int = 0, in_torch: tuple[str, ...] = ()
) -> SampleResult:
    op, variant, dtype, index = sample.key
    return SampleResult(op, variant, dtype, index, outcome, reason, sample.call_text(), ops, in_torch)


# ---- capture -----------------------------------------------------------------------------------------------


def _fake_mode() -> Any:
    from torch.fx.experimental.symbolic_shapes import ShapeEnv

    return FakeTensorMode(shape_env=ShapeEnv(), static_shapes=True)


def _capture(sample: OpSample, fake_mode: Any) -> _Captured | SampleResult:
    """Eager's result and the graph of a sample; a result where there is none to compile."""

    def call(*tensors: torch.Tensor) -> Any:
        return sample.with_tensors(tensors).run()

    given = sample.tensors
    after = list(map(_copy, given))
    torch.manual_seed(_SEED)
    try:
        with torch.no_grad():
            expected = call(*after)
    except Exception as error:
        return _result(sample, "invalid", f"eager: {type(error).__name__}: {_first_line(error)}")
    tensors = list(map(_copy, given))
    try:
        graph_module, outputs = _trace(call, tensors, fake_mode)
    except Exception as error:
        reason = f"torch cannot capture it: {type(error).__name__}: {_first_line(error)}"
        return _result(sample, "refused", reason)
    captured = _Captured(sample, expected, after, tensors, graph_module, outputs)
    captured.random = any(map(is_random, graph_module.graph.nodes))
    return captured


def _copy(tensor: torch.Tensor) -> torch.Tensor:
    """A copy with the strides of the original (an expanded tensor becomes dense)."""
    return tensor.clone(memory_format=torch.preserve_format)


def _trace(
    call: Callable[..., Any], tensors: Sequence[torch.Tensor], fake_mode: Any
) -> tuple[GraphModule, Any]:
    """The ATen graph of a call, as torch.compile's backend traces it, and its result (FakeTensors)."""
    from torch.fx.experimental.proxy_tensor import make_fx

    kept: list[Any] = []

    def run(*values: Any) -> Any:
        result = call(*values)
        leaves, spec = pytree.tree_flatten(result)
        kept[:] = [spec, [isinstance(leaf, torch.Tensor) for leaf in leaves], leaves]
        return [leaf for leaf in leaves if isinstance(leaf, (torch.Tensor, torch.SymInt, torch.SymFloat))]

    with ExitStack() as stack:
        stack.enter_context(TRACING)
        stack.enter_context(torch.no_grad())
        fakes = [fake_mode.from_tensor(tensor) for tensor in tensors]
        stack.enter_context(fake_mode)
        traced = make_fx(run, tracing_mode="real", pre_dispatch=True)(*fakes)
    for node, fake in zip(traced.graph.find_nodes(op="placeholder"), fakes):
        node.meta.setdefault("val", fake)
    for node in list(traced.graph.nodes):
        if node.target is grad_mode_switch():
            traced.graph.erase_node(node)  # there are no gradients here
    return traced, kept


@dataclass(frozen=True)
class _Plain:
    """An output that is no tensor, and known since the capture."""

    value: Any


def _program(batch: Sequence[_Captured]) -> tuple[Program, list[tuple[Any, list[int | _Plain]]]]:
    """One program of all samples side by side; for each the spec of its result and where its leaves are."""
    root, graph = torch.nn.Module(), Graph()
    specs: list[InputSpec] = []
    results: list[Node] = []
    places: list[tuple[Any, list[int | _Plain]]] = []
    env: dict[tuple[int, Node], Node] = {}
    for number, captured in enumerate(batch):
        assert captured.graph_module is not None
        for position, node in enumerate(captured.graph_module.graph.find_nodes(op="placeholder")):
            name = f"sample_{number}_input_{position}"
            new = env[number, node] = graph.placeholder(name)
            new.meta = dict(node.meta)
            specs.append(_input_spec(name, node.meta["val"]))
    for number, captured in enumerate(batch):
        made = _add(captured, number, graph, root, env)
        spec, is_tensor, leaves = captured.outputs
        rest = iter(made)
        indices: list[int | _Plain] = []
        for tensor, leaf in zip(is_tensor, leaves):
            if tensor or isinstance(leaf, (torch.SymInt, torch.SymFloat)):
                indices.append(len(results))
                results.append(next(rest))
            else:
                indices.append(_Plain(leaf))
        places.append((spec, indices))
    graph.output(tuple(results))
    program = Program(
        graph_module=GraphModule(root, graph),
        inputs=tuple(specs),
        in_spec=None,
        out_spec=None,
        arg_names=tuple(spec.name for spec in specs),
        model_name="Samples",
    )
    return program, places


def _add(
    captured: _Captured,
    number: int,
    graph: Graph,
    root: torch.nn.Module,
    env: dict[tuple[int, Node], Node],
) -> list[Node]:
    """Copy a sample's nodes, each with the sample's number as its module; the nodes of its outputs."""
    source = captured.graph_module
    assert source is not None
    for node in source.graph.nodes:
        if node.op == "output":
            return [env[number, item] for item in node.args[0]]
        if node.op == "placeholder":
            continue
        new = env[number, node] = graph.node_copy(node, lambda n: env[number, n])
        if node.op == "get_attr":
            value = attribute(source, str(node.target))
            new.target = f"sample_{number}_{str(node.target).replace('.', '_')}"
            if isinstance(value, torch.Tensor):
                root.register_buffer(new.target, value)
            else:
                set_attribute(root, new.target, value)
            new.meta.setdefault("val", value)
        new.meta["nn_module_stack"] = {"sample": (f"sample_{number}", "torch.nn.Module")}
    raise AssertionError("a graph has an output")


def _input_spec(name: str, value: torch.Tensor) -> InputSpec:
    return InputSpec(name, name, "tensor", value.dtype, tuple(map(int, value.shape)), value.device)


# ---- comparing ---------------------------------------------------------------------------------------------


def difference(sample: OpSample, expected: Any, actual: Any) -> str:
    """What distinguishes our result of a sample from eager's; "" if nothing does that tolerance does not allow."""
    want_spec, got_spec = pytree.tree_structure(expected), pytree.tree_structure(actual)
    if want_spec != got_spec:
        return f"the result is {got_spec}, eager's {want_spec}"
    want, got = pytree.tree_leaves(expected), pytree.tree_leaves(actual)
    exact: list[Any] | None = None
    for number, (one, other) in enumerate(zip(want, got)):
        problem = _unlike(sample, one, other, None)
        if problem and isinstance(one, torch.Tensor) and one.is_floating_point():
            exact = _in_float64(sample)[0] if exact is None else exact
            if len(exact) == len(want):
                problem = _unlike(sample, one, other, exact[number])
        if problem:
            return f"output {number}: {problem}" if len(want) > 1 else problem
    return ""


def _unlike(sample: OpSample, want: Any, got: Any, exact: Any) -> str:
    if not isinstance(want, torch.Tensor) or not isinstance(got, torch.Tensor):
        same = type(want) is type(got) and (want == got or (want != want and got != got))
        return "" if same else f"{got!r}, eager's is {want!r}"
    if want.dtype != got.dtype:
        return f"dtype {got.dtype}, eager's is {want.dtype}"
    if want.shape != got.shape:
        return f"shape {list(got.shape)}, eager's is {list(want.shape)}"
    if want.is_floating_point():
        own = sample.tolerance if want.dtype == sample.dtype else None
        rtol, atol = own or default_tolerances(want.dtype)
        allowed = f" (allowed: {atol:.2g}, and {rtol:.2g} of it)"
        near = _near(got, want, rtol, atol)
        if isinstance(exact, torch.Tensor) and exact.shape == want.shape:
            near |= _near(got, exact.to(want.dtype), rtol, atol)
    else:
        near, allowed = got == want, ""
    if bool(near.all()):
        return ""
    wrong = ~near
    first = tuple(int(i) for i in wrong.nonzero()[0])
    return (
        f"{int(wrong.sum())} of {near.numel()} elements are wrong, first at {list(first)}: "
        f"{got[first].item()}, eager's is {want[first].item()}{allowed}"
    )


def _near(a: torch.Tensor, b: torch.Tensor, rtol: float, atol: float) -> torch.Tensor:
    return torch.isclose(a.double(), b.double(), rtol=rtol, atol=atol, equal_nan=True)


def _in_float64(sample: OpSample) -> tuple[list[Any], list[torch.Tensor]]:
    """The leaves of the op's result computed in float64, and what it leaves of its tensors; [] where it has none."""
    args, kwargs = pytree.tree_map(_widened, (sample.args, dict(sample.kwargs)))
    wide = replace(sample, args=args, kwargs=kwargs)
    tensors = list(map(_copy, wide.tensors))
    torch.manual_seed(_SEED)
    try:
        with torch.no_grad():
            found = pytree.tree_leaves(wide.with_tensors(tensors).run())
    except Exception:
        return [], []
    return found, tensors


def _widened(leaf: Any) -> Any:
    """Floating point tensors, and dtypes, as float64; whatever else as it is."""
    if isinstance(leaf, torch.Tensor):
        return leaf.detach().double() if leaf.is_floating_point() else leaf.detach()
    return torch.float64 if isinstance(leaf, torch.dtype) and leaf.is_floating_point else leaf


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), "")[:300]
