"""Patterns: several ops that one converter takes together, and what happens when it does not."""

from __future__ import annotations

import sys
import textwrap
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

import trtcore
from trtcore.compiler import make_context
from trtcore.errors import PackError
from trtcore.frontend.export import program_from_exported, trace
from trtcore.lowering import lower
from trtcore.lowering.match import unfuse
from trtcore.pack import Pattern, Reject, converter, node_arguments, pattern_converter, scoped_registry
from trtcore.packs import loading as packs
from trtcore.packs.loading import PackWarning
from trtcore.packs.patterns import is_pattern
from trtcore.settings import CompilationSettings
from trtcore.testing import assert_converts

aten = torch.ops.aten
pytestmark = pytest.mark.usefixtures("trt_backend")


@pytest.fixture(autouse=True)
def _scope() -> Iterator[None]:
    with scoped_registry():
        yield


def abs_norm(x: Any, weight: Any, eps: float) -> Any:
    return x * torch.rsqrt(x.abs().mean(-1, keepdim=True) + eps) * weight


def convert_abs_norm(ctx: Any, x: Any, weight: Any, eps: float) -> Any:
    sizes = ctx.reduce(ctx.unary(x, "ABS"), "AVG", (-1,), True)
    root = ctx.unary(ctx.elementwise(sizes, eps, "SUM"), "SQRT")
    return ctx.elementwise(*ctx.broadcast(ctx.elementwise(x, root, "DIV"), weight), "PROD")


EXAMPLE = (torch.empty(2, 8), torch.empty(8), 1e-6)


def declare(
    body: Any = convert_abs_norm, pattern: Any = abs_norm, inputs: Any = EXAMPLE, **options: Any
) -> None:
    options.setdefault("supports_dynamic_shapes", True)
    pattern_converter(pattern, inputs, **options)(body)


class Norm(torch.nn.Module):
    def __init__(self, eps: float = 1e-5) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.rand(8))
        self.eps = eps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return abs_norm(x, self.weight, self.eps)


class Twice(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = Norm(), Norm(1e-3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(torch.relu(self.first(x)))


class Function(torch.nn.Module):
    def __init__(self, body: Callable[..., Any]) -> None:
        super().__init__()
        self.body = body

    def forward(self, *inputs: Any) -> Any:
        return self.body(*inputs)


def ops(report: Any) -> list[str]:
    return [node.op for node in report.nodes]


# -- what matches ----------------------------------------------------------------------------------------------


def test_a_pattern_becomes_one_op_with_all_its_sources() -> None:
    seen: list[float] = []

    def convert(ctx: Any, x: Any, weight: Any, eps: float) -> Any:
        seen.append(eps)
        return convert_abs_norm(ctx, x, weight, eps)

    declare(convert)
    proof = assert_converts(Twice(), (torch.randn(2, 3, 8),), dynamic={0: {0: (1, 2, 5)}})
    assert ops(proof.report) == ["pattern.abs_norm", "aten.relu.default", "pattern.abs_norm"]
    assert seen == [1e-5, 1e-3]
    first, _, second = proof.report.nodes
    assert first.sources == (
        "abs_1 (aten.abs.default)", "mean (aten.mean.dim)", "add (aten.add.Tensor)",
        "rsqrt (aten.rsqrt.default)", "mul (aten.mul.Tensor)", "mul_1 (aten.mul.Tensor)",
    )  # fmt: skip
    assert (first.module_path, second.module_path) == ("first", "second")
    assert "test_match.py" in first.source
    assert "stands for abs_1 (aten.abs.default), mean (aten.mean.dim)" in proof.report.text(verbose=True)
    assert trtcore.Report.from_json(proof.report.to_json()).nodes[0].sources == first.sources


def test_sizes_of_the_example_do_not_matter() -> None:
    declare(inputs=(torch.empty(5), torch.empty(5), 1.0))
    assert ops(assert_converts(Norm(), (torch.randn(3, 4, 8),)).report) == ["pattern.abs_norm"]


def test_two_ways_to_write_it() -> None:
    def other(x: Any, weight: Any, eps: float) -> Any:
        return weight * (x * (x.abs().mean(-1, keepdim=True) + eps).rsqrt())

    declare(pattern=[abs_norm, other])
    model = Function(lambda x, w: abs_norm(other(x, w, 0.5), w, 0.25))
    report = assert_converts(model, (torch.rand(2, 8), torch.rand(8))).report
    assert ops(report) == ["pattern.other", "pattern.abs_norm"]


def split_heads(x: Any, batch: int, heads: int) -> Any:
    return torch.relu(x).view(batch, -1, heads, x.shape[-1] // heads).transpose(1, 2)


def convert_split_heads(ctx: Any, x: Any, batch: Any, heads: Any) -> Any:
    size = ctx.dim(x, -1) // heads
    x = ctx.reshape(ctx.activation(x, "RELU"), [batch, -1, heads, size])
    return ctx.permute(x, [0, 2, 1, 3])


@pytest.mark.parametrize("dynamic", [None, {0: {0: (1, 2, 6), 1: (2, 4, 9)}}])
def test_sizes_inside_a_pattern_are_compared_as_expressions(dynamic: Any) -> None:
    declare(convert_split_heads, split_heads, (torch.empty(5, 7, 12), 5, 3))
    model = Function(lambda x: split_heads(x, x.shape[0], 4))
    report = assert_converts(model, (torch.randn(2, 4, 8),), dynamic=dynamic).report
    assert ops(report) == ["pattern.split_heads"]


def rotate(query: Any, key: Any, angle: Any) -> Any:
    sine, cosine = torch.sin(angle), torch.cos(angle)
    return query * cosine + query.neg() * sine, key * cosine + key.neg() * sine


def convert_rotate(ctx: Any, query: Any, key: Any, angle: Any) -> Any:
    factor = ctx.elementwise(ctx.unary(angle, "COS"), ctx.unary(angle, "SIN"), "SUB")
    return [ctx.elementwise(x, factor, "PROD") for x in (query, key)]


@pytest.mark.parametrize("used", ["both", "first"])
def test_several_outputs_of_which_none_needs_another(used: str) -> None:
    declare(convert_rotate, rotate, [torch.empty(2, 8)] * 3)

    def both(q: Any, k: Any, a: Any) -> Any:
        return [torch.relu(x) for x in rotate(q, k, a)]

    model = Function(both if used == "both" else lambda q, k, a: both(q, k, a)[0])
    report = assert_converts(model, tuple(torch.randn(2, 8) for _ in range(3))).report
    assert ops(report) == ["pattern.rotate", *["aten.relu.default"] * (2 if used == "both" else 1)]


def test_torch_compile_matches_too() -> None:
    declare()
    torch._dynamo.reset()
    model, x = Norm().eval(), torch.randn(2, 8)
    compiled = torch.compile(model, backend="trtcore", options={"min_block_size": 1, "runtime": "reference"})
    with torch.no_grad():
        torch.testing.assert_close(compiled(x), model(x))
    assert ops(trtcore.dynamo.reports()[-1].report) == ["pattern.abs_norm"]
    torch._dynamo.reset()


# -- what does not -----------------------------------------------------------------------------------------------

UNLIKE: dict[str, Callable[..., Any]] = {
    "another constant": lambda x, w: (
        x * torch.rsqrt(torch.add(x.abs().mean(-1, keepdim=True), 1e-5, alpha=2)) * w
    ),
    "another dim": lambda x, w: x * torch.rsqrt(x.abs().mean(0, keepdim=True) + 1e-5) * w,
    "a tensor for a number": lambda x, w: x * torch.rsqrt(x.abs().mean(-1, keepdim=True) + w) * w,
    "other inputs": lambda x, w: torch.relu(x) * torch.rsqrt(x.abs().mean(-1, keepdim=True) + 1e-5) * w,
}


@pytest.mark.parametrize("kind", UNLIKE)
def test_what_is_not_the_pattern_is_left_alone(kind: str) -> None:
    declare()
    report = assert_converts(Function(UNLIKE[kind]), (torch.rand(8, 8), torch.rand(8))).report
    assert "pattern.abs_norm" not in ops(report)


def test_a_result_in_the_middle_that_is_read_elsewhere_prevents_the_match() -> None:
    def leaks(x: Any, w: Any) -> Any:
        sizes = x.abs()
        return x * torch.rsqrt(sizes.mean(-1, keepdim=True) + 1e-5) * w + sizes

    declare()
    assert "pattern.abs_norm" not in ops(
        assert_converts(Function(leaks), (torch.rand(2, 8), torch.rand(8))).report
    )


# -- the rules of order ------------------------------------------------------------------------------------------


def explained(model: torch.nn.Module | None = None, **options: Any) -> Any:
    return trtcore.explain(model or Norm(), inputs=[torch.randn(2, 8)], min_block_size=1, **options)


def rsqrt(ctx: Any, x: Any) -> Any:
    return ctx.unary(ctx.unary(x, "SQRT"), "RECIP")


def refusal(report: Any) -> str:
    """Why the pattern's converter did not take its last op."""
    assert "pattern.abs_norm" not in ops(report)
    (reason,) = (
        one.reason
        for node in report.nodes
        for one in node.candidates
        if one.converter.startswith("convert_abs")
    )
    return str(reason)


class RootMeanSquare(torch.nn.Module):
    """What a pass of the built-in pack makes one op of."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5)


def test_a_pattern_goes_before_what_passes_recover() -> None:
    def convert(ctx: Any, x: Any, eps: float) -> Any:
        sizes = ctx.reduce(ctx.elementwise(x, x, "PROD"), "AVG", (-1,), True)
        return ctx.elementwise(x, ctx.unary(ctx.elementwise(sizes, eps, "SUM"), "SQRT"), "DIV")

    x = torch.randn(2, 8)
    assert ops(assert_converts(RootMeanSquare(), (x,)).report) == ["aten.rms_norm.default"]
    declare(convert, lambda x, eps: x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps), (x, 1e-6))
    assert ops(assert_converts(RootMeanSquare(), (x,)).report) == ["pattern.lambda"]


def test_a_pattern_matches_what_passes_leave() -> None:
    def convert(ctx: Any, x: Any, y: Any) -> Any:
        return ctx.elementwise(*ctx.broadcast(ctx.activation(x, "RELU"), y), "PROD")

    declare(convert, lambda x, y: torch.relu(x) * y, EXAMPLE[:2])
    model = Function(lambda x, y: torch.relu(x).to(torch.float32) * y)  # a cast that does nothing
    assert ops(assert_converts(model, (torch.randn(2, 8), torch.randn(8))).report) == ["pattern.lambda"]


def test_a_call_site_converter_of_one_of_its_ops_goes_before() -> None:
    declare(priority=1000)
    assert ops(explained()) == ["pattern.abs_norm"]
    said = refusal(explained(converters={aten.rsqrt.default: rsqrt}))
    assert said == "call site:rsqrt goes before it for its op aten.rsqrt.default"


def test_a_pin_of_one_of_its_ops_goes_before() -> None:
    declare(priority=1000)
    said = refusal(explained(pins={"aten.rsqrt.default": "trtcore:aten"}))
    assert "goes before it for its op aten.rsqrt.default" in said


def test_a_higher_priority_goes_before_and_an_equal_one_does_not() -> None:
    declare()
    converter(aten.rsqrt.default)(rsqrt)
    assert ops(explained()) == ["pattern.abs_norm"]
    converter(aten.rsqrt.default, priority=1, name="better")(rsqrt)
    assert "better goes before it" in refusal(explained())


def test_an_op_forced_to_torch_is_not_taken() -> None:
    declare()
    report = explained(torch_executed_ops={"aten.rsqrt"})
    assert "forced to torch by settings.torch_executed_ops" in refusal(report)
    assert [node.op for node in report.in_torch] == ["aten.rsqrt.default"]


def test_a_validator_sees_the_arguments_by_name_and_its_reason_is_in_the_report() -> None:
    def validator(node: Any, ctx: Any) -> Any:
        eps = node_arguments(node)["eps"]
        return True if eps < 1e-4 else Reject(f"eps={eps} is too much")

    declare(capability_validator=validator)
    assert ops(explained(Norm(1e-5))) == ["pattern.abs_norm"]
    assert refusal(explained(Norm(1e-3))) == "eps=0.001 is too much"


def test_of_two_patterns_the_one_with_the_higher_priority_takes_the_ops() -> None:
    declare(name="low")
    declare(pattern=lambda x, w: x * torch.rsqrt(x.abs().mean(-1, keepdim=True) + 1e-5) * w, inputs=EXAMPLE[:2],
            priority=5, name="high")  # fmt: skip
    (node,) = explained().nodes
    assert node.converter == "high"


# -- failing -----------------------------------------------------------------------------------------------------


def test_a_pattern_whose_converter_fails_leaves_its_ops_to_their_own_converters() -> None:
    def fails(ctx: Any, x: Any, weight: Any, eps: float) -> Any:
        raise ValueError("not today")

    declare(fails)
    model, x = Twice(), torch.randn(2, 8)
    compiled = trtcore.compile(model, inputs=[x], min_block_size=1, runtime="reference")
    report = compiled.report
    assert not report.in_torch
    assert "aten.rsqrt.default" in ops(report)
    assert {item.op for item in report.quarantined} == {"pattern.abs_norm"}
    assert "not today" in report.quarantined[0].reason
    torch.testing.assert_close(compiled(x), model(x))


def test_ops_that_only_a_decomposition_helps_get_it_after_all() -> None:
    """`hypot` has no converter in this registry; as a part of a pattern it was not decomposed."""

    def pattern(x: Any, y: Any) -> Any:
        return torch.addcmul(x, x, y, value=3) * 2

    def fails(ctx: Any, x: Any, y: Any) -> Any:
        raise ValueError("not today")

    declare(fails, pattern, EXAMPLE[:2])
    x = torch.rand(2, 8)
    compiled = trtcore.compile(Function(pattern), inputs=[x, x], min_block_size=1, runtime="reference")
    assert not compiled.report.in_torch
    torch.testing.assert_close(compiled(x, x), pattern(x, x))


@pytest.mark.parametrize(("size", "engines"), [(6, 1), (7, 0)])
def test_min_block_size_counts_the_ops_of_a_pattern(size: int, engines: int) -> None:
    declare()
    x, model = torch.randn(2, 8), Norm()
    compiled = trtcore.compile(model, inputs=[x], min_block_size=size, runtime="reference")
    assert len(compiled.report.engines) == engines
    assert ("pattern.abs_norm" in ops(compiled.report)) == bool(engines)
    torch.testing.assert_close(compiled(x), model(x))


UNUSABLE: dict[str, tuple[Callable[..., Any], str]] = {
    "raises": (lambda x, w, e: x.nothing(), "tracing it raised AttributeError"),
    "makes a tensor": (lambda x, w, e: x * torch.tensor(2.0), "it makes a tensor"),
    "writes": (lambda x, w, e: x.add_(w), "writes to a tensor"),
    "returns an input": (lambda x, w, e: x, "none of its ops computes"),
}


@pytest.mark.parametrize("kind", UNUSABLE)
def test_a_pattern_that_cannot_be_used_is_told_once_and_the_rest_goes_on(kind: str, monkeypatch: Any) -> None:
    function, said = UNUSABLE[kind]
    declare(pattern=function, name=kind)
    declare(name="good")
    packs.forget_packs()
    with pytest.warns(PackWarning, match=said):
        assert explained().nodes[0].converter == "good"
    with warnings.catch_warnings():
        warnings.simplefilter("error", PackWarning)
        explained()
    monkeypatch.setenv("TRTCORE_STRICT_PACKS", "1")
    with pytest.raises(PackError, match=said):
        explained()


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        ((torch.empty(2), 1e-6), "its inputs are not those of its function"),
        ((torch.empty(2), torch.empty(2), 1), "the input 1 would be taken for a constant"),
    ],
)
def test_inputs_that_make_no_sense(inputs: Any, said: str) -> None:
    with pytest.raises(PackError, match=said):
        Pattern(abs_norm, inputs)


def test_a_notebook_cell_run_twice_leaves_one_pattern() -> None:
    assert Pattern(abs_norm, EXAMPLE) == Pattern(abs_norm, EXAMPLE)
    assert Pattern(abs_norm, EXAMPLE) != Pattern(abs_norm, (torch.empty(2, 8).half(), *EXAMPLE[1:]))
    declare()
    declare()
    (pattern,) = packs.build_registry(CompilationSettings()).patterns
    assert pattern == Pattern(abs_norm, EXAMPLE)


# -- other processes ---------------------------------------------------------------------------------------------


def test_a_pattern_in_a_module_is_found_by_the_build_process(tmp_path: Path, monkeypatch: Any) -> None:
    (tmp_path / "pattern_module.py").write_text(
        textwrap.dedent("""
        import torch
        from trtcore.pack import pattern_converter

        def scaled(x, factor):
            return torch.relu(x) * factor

        @pattern_converter(scaled, (torch.empty(2, 3), 2.0), supports_dynamic_shapes=True)
        def convert(ctx, x, factor):
            return ctx.elementwise(ctx.activation(x, "RELU"), factor, "PROD")
        """)
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    import pattern_module  # type: ignore[import-not-found]

    try:
        model = Function(lambda x: pattern_module.scaled(x, 3.0))
        report = assert_converts(model, (torch.randn(2, 3),), settings={"build_isolation": "process"}).report
        assert ops(report) == ["pattern.scaled"]
    finally:
        del sys.modules["pattern_module"]


# -- in general --------------------------------------------------------------------------------------------------

_UNARY = (torch.relu, torch.sigmoid, torch.tanh, torch.abs)
_BINARY = (torch.add, torch.mul, torch.sub)


@st.composite
def expressions(draw: Any) -> list[tuple[Any, int, int]]:
    """Steps of (function, first operand, second operand), each over the inputs 0 and 1 and earlier results."""
    steps = []
    for index in range(draw(st.integers(1, 6))):
        operand = st.integers(0, index + 1)
        steps.append((draw(st.sampled_from(_UNARY + _BINARY)), draw(operand), draw(operand)))
    return steps


def evaluated(steps: list[tuple[Any, int, int]], *values: Any) -> Any:
    made = list(values)
    for function, first, second in steps:
        made.append(function(made[first]) if function in _UNARY else function(made[first], made[second]))
    return made[-1]


@settings(max_examples=15, deadline=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
@given(pattern=expressions(), before=expressions(), after=expressions())
def test_fused_and_put_back_a_graph_computes_what_it_did(pattern: Any, before: Any, after: Any) -> None:
    def model(x: Any, y: Any) -> Any:
        inner = evaluated(before, x, y)
        return evaluated(after, evaluated(pattern, inner, y), x)

    with scoped_registry():
        declare(
            lambda ctx, x, y: None,
            lambda x, y: evaluated(pattern, x, y),
            (torch.empty(2, 3), torch.empty(2, 3)),
        )
        inputs = (torch.randn(2, 3), torch.randn(2, 3))
        exported = trace(Function(model), list(inputs))
        context = make_context(CompilationSettings())
        lowered = lower(program_from_exported(exported, None, None), context).graph_module
    fused = [node for node in lowered.graph.nodes if is_pattern(node)]
    torch.testing.assert_close(lowered(*inputs)[0], model(*inputs))  # a pattern runs as its function
    for node in fused:
        unfuse(lowered.graph, node)
    lowered.graph.lint()
    lowered.recompile()
    assert not any(is_pattern(node) for node in lowered.graph.nodes)
    torch.testing.assert_close(lowered(*inputs)[0], model(*inputs))
