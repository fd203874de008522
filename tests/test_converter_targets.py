"""What a converter can be declared for: ops in every spelling, ops of libraries that are not there, ops that torch
would take apart, higher-order ops."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import torch

import trtcore
from trtcore.errors import PackError
from trtcore.ir.ops import find_target, resolve_target
from trtcore.pack import Priority, converter, converters_in, hookimpl, scoped_registry
from trtcore.packs.listing import describe_packs
from trtcore.packs.loading import build_registry, register_pack
from trtcore.packs.registry import ConverterRegistry
from trtcore.settings import CompilationSettings
from trtcore.testing import assert_converts

ops = torch.ops
_library = torch.library.Library("targets", "FRAGMENT")
_library.define("shifted_relu(Tensor x) -> Tensor")
_library.impl("shifted_relu", lambda x: torch.relu(x) + 1, "CompositeImplicitAutograd")
_library.define("two.a(Tensor x) -> Tensor")
_library.define("two.b(Tensor x, int n) -> Tensor")


@torch.library.custom_op("targets::triple", mutates_args=())
def triple(x: torch.Tensor) -> torch.Tensor:
    return x * 3


@triple.register_fake
def _(x: torch.Tensor) -> torch.Tensor:
    return torch.empty_like(x)


@pytest.fixture(autouse=True)
def _scope() -> Iterator[None]:
    with scoped_registry():
        yield


def times_three(ctx: Any, x: Any) -> Any:
    return ctx.elementwise(x, 3.0, "PROD")


def shifted(ctx: Any, x: Any) -> Any:
    return ctx.elementwise(ctx.activation(x, "RELU"), 1.0, "SUM")


class Triple(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return triple(x)


class ShiftedRelu(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return ops.targets.shifted_relu(x)


# -- spellings ---------------------------------------------------------------------------------------------

SPELLINGS = [
    triple,
    ops.targets.triple,
    ops.targets.triple.default,
    "targets::triple",
    "targets::triple.default",
    "targets.triple",
    "torch.ops.targets.triple",
]


@pytest.mark.parametrize("target", SPELLINGS, ids=str)
def test_every_spelling_of_an_op_is_the_op(target: Any) -> None:
    assert find_target(resolve_target(target)) is ops.targets.triple.default
    converter(target)(times_three)
    registry = build_registry(CompilationSettings())
    (found,) = registry.candidates(ops.targets.triple.default)
    assert found.implementation is times_three
    assert found.target is ops.targets.triple.default


@pytest.mark.parametrize("target", [triple, *SPELLINGS[1:4]], ids=str)
def test_every_spelling_at_the_call_site(target: Any) -> None:
    registry = build_registry(CompilationSettings(converters={target: times_three}))
    (found,) = registry.candidates(ops.targets.triple.default)
    assert found.source == "call site"


def test_a_decorated_function_keeps_its_options_at_the_call_site_however_it_was_named() -> None:
    converter("targets::triple", supports_dynamic_shapes=True)(times_three)
    registry = build_registry(CompilationSettings(converters={triple: times_three}))
    first = registry.candidates(ops.targets.triple.default)[0]
    assert first.source == "call site"
    assert first.supports_dynamic_shapes


def test_several_ops_in_any_spelling() -> None:
    converter([triple, "targets::shifted_relu"])(times_three)
    registry = build_registry(CompilationSettings())
    assert registry.candidates(ops.targets.triple.default)
    assert registry.candidates(ops.targets.shifted_relu.default)


def test_a_packet_with_one_overload_that_writes_to_nothing_is_that_overload() -> None:
    assert resolve_target(ops.aten.gelu) is ops.aten.gelu.default  # and not gelu.out


@pytest.mark.parametrize(
    ("target", "said"),
    [
        (torch.relu, r"torch.relu is no op.*torch.ops.aten.relu.default"),
        (torch.nn.functional.gelu, r"torch.nn.functional.gelu is no op"),
        (torch.Tensor.neg, r"Tensor.neg is no op"),
        (ops.targets.two, r"targets.two is a family of ops.*targets.two.a, targets.two.b"),
        ("not an op", r"is no name of an op.*namespace::op"),
        ("", r"is no name of an op"),
        (3, r"3 is not an op"),
    ],
)
def test_what_no_graph_calls_is_refused(target: Any, said: str) -> None:
    with pytest.raises(PackError, match=f"(?s){said}"):
        converter(target)


# -- libraries that are not there ----------------------------------------------------------------------------


def waiting_of(registry: ConverterRegistry, op: str) -> list[tuple[Any, str]]:
    """(converter, reason) of those that wait for an op; the shipped packs have some that wait for their libraries."""
    return [(one, reason) for one, reason in registry.unknown if one.target == op]


class Visions:
    """A pack for a library that may be there or not."""

    @hookimpl
    def converters(self) -> Any:
        @converter("nolibrary::nms")
        def nms(ctx: Any, x: Any) -> Any: ...

        return converters_in(nms)

    @hookimpl
    def decompositions(self) -> Any:
        return {"nolibrary::old": torch.relu, "targets::shifted_relu": lambda x: torch.relu(x) + 1}


def test_a_pack_for_a_library_that_is_not_there_loads_and_waits() -> None:
    register_pack(Visions(), name="visions")
    registry = build_registry(CompilationSettings())
    ((_, reason),) = waiting_of(registry, "nolibrary::nms")
    assert "nothing in this process has registered the op nolibrary::nms" in reason
    assert list(registry.decompositions) == [ops.targets.shifted_relu.default, *_others(registry)]
    (described,) = (pack for pack in describe_packs() if pack["name"] == "visions")
    assert described["status"] == "loaded"
    assert "nolibrary.nms" in described["gives"]["converters"]


def _others(registry: ConverterRegistry) -> list[Any]:
    return [op for op in registry.decompositions if op is not ops.targets.shifted_relu.default]


def test_the_converter_acts_as_soon_as_the_op_is_there() -> None:
    converter("latecomer::twice")(times_three)
    assert waiting_of(build_registry(CompilationSettings()), "latecomer::twice")
    library = torch.library.Library("latecomer", "FRAGMENT")
    library.define("twice(Tensor x) -> Tensor")
    try:
        registry = build_registry(CompilationSettings())
        assert not waiting_of(registry, "latecomer::twice")
        assert registry.candidates(ops.latecomer.twice.default)
    finally:
        library._destroy()


def test_the_name_of_a_family_waits_with_its_overloads_as_the_reason() -> None:
    converter("targets::two")(times_three)
    ((_, reason),) = waiting_of(build_registry(CompilationSettings()), "targets::two")
    assert "name the overload: targets.two.a, targets.two.b" in reason


def test_naming_an_op_imports_nothing() -> None:
    code = (
        "import sys\n"
        "from trtcore.pack import converter\n"
        "converter('torchvision::nms')(lambda ctx, *args: None)\n"
        "sys.exit('torchvision' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# -- ops that torch would take apart ---------------------------------------------------------------------------


@pytest.mark.usefixtures("trt_backend")
def test_a_custom_ops_converter_in_a_script() -> None:
    converter(triple, supports_dynamic_shapes=True)(times_three)
    assert_converts(Triple(), (torch.randn(2, 3),), dynamic={0: {0: (1, 2, 5)}})


def _chosen(report: Any, op: str) -> str:
    (node,) = (node for node in report.nodes if node.op == op)
    assert node.in_engine, report
    return str(node.converter)


@pytest.mark.usefixtures("trt_backend")
def test_a_converter_keeps_a_composite_op_whole_and_without_one_it_is_decomposed() -> None:
    x = (torch.randn(2, 3),)
    without = assert_converts(ShiftedRelu(), x).report
    assert {node.op for node in without.nodes} == {"aten.relu.default", "aten.add.Tensor"}
    converter(ops.targets.shifted_relu)(shifted)
    report = assert_converts(ShiftedRelu(), x).report
    assert [node.op for node in report.nodes] == ["targets.shifted_relu.default"]


class WritesToAView(torch.nn.Module):
    """Needs torch's functionalisation, which takes composite ops apart."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows = torch.zeros(3, 4)
        rows[1:2].add_(x[1:2])
        return ops.targets.shifted_relu(torch.nn.functional.linear(rows, x))


@pytest.mark.usefixtures("trt_backend")
def test_composite_ops_with_a_converter_outlive_functionalisation() -> None:
    converter(ops.targets.shifted_relu)(shifted)
    report = assert_converts(WritesToAView(), (torch.randn(3, 4),)).report
    assert _chosen(report, "targets.shifted_relu.default") == "shifted"
    assert _chosen(report, "aten.linear.default")
    assert "slice_scatter" in str([node.op for node in report.nodes])  # it was functionalised by torch


@pytest.mark.usefixtures("trt_backend")
def test_composite_ops_with_a_converter_outlive_torch_compile() -> None:
    converter(ops.targets.shifted_relu)(shifted)
    torch._dynamo.reset()
    model, x = ShiftedRelu(), torch.randn(2, 3)
    compiled = torch.compile(model, backend="trtcore", options={"min_block_size": 1, "runtime": "reference"})
    with torch.no_grad():
        torch.testing.assert_close(compiled(x), model(x))
    (made,) = trtcore.dynamo.reports()
    assert [node.op for node in made.report.nodes] == ["targets.shifted_relu.default"]
    torch._dynamo.reset()


# -- higher-order ops --------------------------------------------------------------------------------------------


class Branch(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cond(x.sum() > 0, lambda x: torch.relu(x) * 2, lambda x: x - 1, (x,)) * 3


def condition(ctx: Any, predicate: Any, true: Any, false: Any, operands: Any) -> Any:
    """An if-conditional: only the layers of one branch run."""
    layer = ctx.net.add_if_conditional()
    layer.set_condition(ctx.reshape(predicate, []))
    inputs = [ctx.output(layer.add_input(operand)) for operand in operands]
    results = zip(ctx.inline(true, *inputs), ctx.inline(false, *inputs))
    return tuple(ctx.output(layer.add_output(yes, no)) for yes, no in results)


@pytest.mark.usefixtures("trt_backend")
@pytest.mark.parametrize("sign", [1, -1])
def test_a_higher_order_op_with_its_subgraphs_in_one_engine(sign: int) -> None:
    converter(ops.higher_order.cond)(condition)
    proof = assert_converts(Branch(), (torch.ones(2, 3) * sign,))
    assert len(proof.report.engines) == 1
    assert _chosen(proof.report, "cond") == "condition"


@pytest.mark.usefixtures("trt_backend")
def test_a_subgraph_that_does_not_convert_leaves_the_op_to_torch_with_the_reason() -> None:
    class Bessel(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.cond(x.sum() > 0, lambda x: torch.special.bessel_j0(x), lambda x: x - 1, (x,)) * 3

    converter(ops.higher_order.cond)(condition)
    x = torch.full((2, 3), 0.5)
    compiled = trtcore.compile(Bessel(), [x], min_block_size=1, runtime="reference")
    (node,) = (node for node in compiled.report.nodes if node.op == "cond")
    assert "in its subgraph" in node.reason
    assert "no converter for aten.special_bessel_j0.default" in node.reason
    assert not compiled.report.quarantined
    torch.testing.assert_close(compiled(x), Bessel()(x))


def test_names_and_priorities_mix() -> None:
    def by_name(ctx: Any, x: Any) -> Any: ...
    def by_op(ctx: Any, x: Any) -> Any: ...

    converter("targets::triple", priority=Priority.HIGH)(by_name)
    converter(triple)(by_op)
    registry = build_registry(CompilationSettings())
    assert [one.name for one in registry.candidates(ops.targets.triple.default)] == ["by_name", "by_op"]
