"""Finding the node whose layers TensorRT refuses at build, without its name in TensorRT's message."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

import trtcore
from trtcore.conversion.interpreter import NodeConversionError
from trtcore.engine.build import Failure, build_engine
from trtcore.engine.builders import ThreadBuilder
from trtcore.errors import ConversionError, EngineBuildError
from trtcore.pack import converter

aten = torch.ops.aten
pytestmark = pytest.mark.usefixtures("trt_backend")


@pytest.fixture(autouse=True)
def _scope() -> Iterator[None]:
    with trtcore.scoped_registry():
        yield


@pytest.fixture
def builds(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the segments that were built, trials too."""
    return _told(monkeypatch, "build")


def _told(monkeypatch: pytest.MonkeyPatch, wanted: str) -> list[str]:
    """The names of the requests that get to this stage."""
    names: list[str] = []

    def counting(request: Any, registry: Any, *, tell: Any, **options: Any) -> Any:
        def telling(what: str, *data: Any) -> Any:
            if what == wanted:
                names.append(request.name)
            return tell(what, *data)

        return build_engine(request, registry, tell=telling, **options)

    monkeypatch.setattr("trtcore.engine.builders.build_engine", counting)
    return names


def model_of(forward: Callable[[Tensor], Any]) -> torch.nn.Module:
    class Model(torch.nn.Module):
        def forward(self, x: Tensor) -> Any:
            return forward(x)

    return Model().eval()


def strided_and_dilated(ctx: Any, x: Any) -> Any:
    """A deconvolution that Myelin refuses without naming a layer; x is (1, 2, 8, 8)."""
    layer = ctx.net.add_deconvolution_nd(x, 2, (3, 3), ctx.weights(torch.ones(2, 2, 3, 3)), ctx.trt.Weights())
    layer.stride_nd, layer.dilation_nd = (2, 2), (2, 2)
    return ctx.slice(ctx.output(layer), [0, 0, 0, 0], [1, 2, 8, 8])


def non_zero_point(ctx: Any, x: Any) -> Any:
    """Refused by name: a zero point that is not 0."""
    scale, zero = ctx.constant(0.5), ctx.constant(torch.tensor(3, dtype=torch.int8))
    layer = ctx.net.add_quantize(x, scale, ctx.trt.DataType.INT8)
    layer.set_input(2, zero)
    back = ctx.net.add_dequantize(layer.get_output(0), scale, ctx.trt.DataType.FLOAT)
    back.set_input(2, zero)
    return back.get_output(0)


def identity(ctx: Any, x: Any) -> Any:
    return ctx.output(ctx.net.add_identity(x))


X = torch.linspace(-1, 1, 128).reshape(1, 2, 8, 8)


def compiled(forward: Callable[[Tensor], Any], **settings: Any) -> Any:
    module = trtcore.compile(model_of(forward), [X], min_block_size=1, **settings)
    with torch.no_grad():
        torch.testing.assert_close(module(X), forward(X), rtol=1e-5, atol=1e-5)
    return module


def quarantined(module: Any) -> list[str]:
    return sorted(item.node for item in module.report.quarantined)


def test_a_culprit_without_a_name_is_found_by_building_it_alone() -> None:
    converter(aten.erfinv.default)(strided_and_dilated)
    module = compiled(lambda x: torch.erfinv(x.relu().tanh() * 0.5).exp())
    assert quarantined(module) == ["erfinv"]
    (item,) = module.report.quarantined
    assert "alone" in item.reason
    assert any("Deconv" in line for line in item.tensorrt)
    assert len(module.report.engines) == 2


def test_an_error_that_is_asked_for_names_the_culprit_that_tensorrt_does_not() -> None:
    converter(aten.erfinv.default)(strided_and_dilated)
    with pytest.raises(EngineBuildError, match="refuses it built alone") as caught:
        compiled(lambda x: torch.erfinv(x.relu() * 0.5).exp(), pass_through_build_failures=True)
    for part in ("aten.erfinv.default", "test_quarantine.py", "Deconv", "torch_executed_ops"):
        assert part in str(caught.value)


def test_two_different_culprits() -> None:
    converter(aten.erfinv.default)(strided_and_dilated)
    converter(aten.sinc.default)(non_zero_point)
    module = compiled(lambda x: torch.sinc(torch.erfinv(x.relu().tanh() * 0.5).exp()) + 1)
    assert quarantined(module) == ["erfinv", "sinc"]


@pytest.mark.parametrize(
    "body",
    [strided_and_dilated, pytest.param(non_zero_point, marks=pytest.mark.slow)],
    ids=["nameless", "named"],
)
def test_a_culprit_fifty_times(body: Any, builds: list[str]) -> None:
    def forward(x: Tensor) -> Tensor:
        for _ in range(50):
            x = torch.erfinv(x.tanh() * 0.5)
        return x

    converter(aten.erfinv.default)(body)
    module = compiled(forward, max_segment_size=5000)
    assert len(quarantined(module)) == 50
    assert len(module.report.engines) == 50
    assert builds.count("trial") <= 16
    assert len(builds) - builds.count("trial") <= 51  # the whole once, then each piece


def many(x: Tensor) -> Tensor:
    """More kinds of ops than may be tried one by one, a culprit in between."""
    for op in (torch.sin, torch.cos, torch.tanh, torch.sigmoid, torch.exp, torch.abs, torch.relu, torch.neg):
        x = op(x)
    x = torch.erfinv(x.tanh() * 0.5)
    for op in (
        torch.atan,
        torch.sinh,
        torch.asinh,
        torch.floor,
        torch.ceil,
        torch.erf,
        torch.sign,
        torch.cosh,
    ):
        x = op(x) + 0.25
    return x


def test_a_culprit_among_many_kinds_is_found_by_halving(builds: list[str]) -> None:
    converter(aten.erfinv.default)(strided_and_dilated)
    module = compiled(many)
    assert quarantined(module) == ["erfinv"]
    assert "up to it" in module.report.quarantined[0].reason
    assert builds.count("trial") <= 6
    assert len(module.report.engines) == 2


def test_a_culprit_of_twenty_shapes(builds: list[str]) -> None:
    """More than may be tried one by one: where halving finds one, the other shapes of its op are tried too."""

    def refused(ctx: Any, x: Any) -> Any:
        rows = ctx.shape(x)[0]
        layer = ctx.net.add_deconvolution_nd(
            ctx.reshape(x, [1, 1, rows, 8]), 1, (3, 3), ctx.weights(torch.ones(1, 1, 3, 3)), ctx.trt.Weights()
        )
        layer.stride_nd, layer.dilation_nd = (2, 2), (2, 2)
        return ctx.reshape(ctx.slice(ctx.output(layer), [0, 0, 0, 0], [1, 1, rows, 8]), [rows, 8])

    def forward(x: Tensor) -> Tensor:
        x = x.reshape(16, 8)
        for _ in range(20):
            x = torch.erfinv(torch.cat([x, x[:1]]).tanh() * 0.5)
        return x

    converter(aten.erfinv.default)(refused)
    module = compiled(forward)
    assert {item.op for item in module.report.quarantined} == {"aten.erfinv.default"}
    assert len(quarantined(module)) == 20
    assert builds.count("trial") <= 48


class _Combination(ThreadBuilder):
    """A builder that refuses networks with both of two kinds of nodes, as TensorRT does for some fusions."""

    def __init__(self, ctx: Any, first: str, second: str) -> None:
        super().__init__(ctx)
        self.first, self.second = first, second
        self.refused = 0

    def build(self, request: Any, tell: Any, *, convert_only: bool = False, **options: Any) -> Any:
        ops = [str(node.target) for node in request.segment.nodes]
        both = any(self.first in op for op in ops) and any(self.second in op for op in ops)
        if both and not convert_only:
            self.refused += 1
            lines = ["Myelin: no such fusion"]
            return Failure("build", EngineBuildError("TensorRT could not build the engine", tensorrt=lines))
        return super().build(request, tell, convert_only=convert_only, **options)


def test_a_converter_that_crashes_for_every_shape_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """A crash costs a new process, so that after three nobody asks again."""
    crashes: list[str] = []

    class Crashing(ThreadBuilder):
        def build(self, request: Any, tell: Any, **options: Any) -> Any:
            for node in request.segment.nodes:
                if node.target is aten.erf.default:
                    crashes.append(node.name)
                    return Failure("crash", NodeConversionError("its process was killed", node=node.name))
            return super().build(request, tell, **options)

    def forward(x: Tensor) -> Tensor:
        for _ in range(6):
            x = torch.erf(torch.cat([x, x[:1]]))
        return x

    monkeypatch.setattr("trtcore.engine.builds.builder_of", Crashing)
    module = compiled(forward)
    assert len(crashes) == 3
    reasons = [item.reason for item in module.report.quarantined]
    assert len(reasons) == 6
    assert sum("crashed for 3 other nodes" in reason for reason in reasons) == 3


def test_nodes_that_fail_only_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "trtcore.engine.builds.builder_of", lambda ctx: _Combination(ctx, "aten.cos.", "aten.erf.")
    )
    module = compiled(lambda x: torch.erf(torch.tanh(torch.cos(torch.sin(x)) + 1)).exp())
    (item,) = module.report.quarantined
    assert item.op == "aten.erf.default"
    assert len(module.report.engines) == 2
    assert "up to it" in item.reason


def test_combinations_again_and_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """The likes of a node that is blamed twice go with it, so that the rounds are few."""
    made: list[_Combination] = []

    def builder(ctx: Any) -> _Combination:
        made.append(_Combination(ctx, "aten.cos.", "aten.erf."))
        return made[-1]

    def forward(x: Tensor) -> Tensor:
        for _ in range(20):
            x = torch.erf(torch.cos(x))
        return x

    monkeypatch.setattr("trtcore.engine.builds.builder_of", builder)
    module = compiled(forward)
    assert {item.op for item in module.report.quarantined} == {"aten.erf.default"}
    assert made[0].refused < 25


@pytest.mark.parametrize("limit", [0, 2])
def test_the_limit_gives_the_whole_segment_to_torch(limit: int, builds: list[str]) -> None:
    converter(aten.erfinv.default)(strided_and_dilated)
    module = compiled(many, max_quarantine_builds=limit)
    assert not module.report.engines
    assert builds.count("trial") <= limit
    assert all(f"max_quarantine_builds={limit}" in node.reason for node in module.report.in_torch)


def test_a_fused_name_blames_nobody() -> None:
    """TensorRT names a fusion by its first and last layers, which need not be at fault."""
    from trtcore.engine.build import _FUSED

    text = "could not find any implementation for node {ForeignNode[m/aten.add/add...m/aten.mul/mul_3]}."
    assert "aten" not in _FUSED.sub("", text)


def test_a_tensor_of_nine_dims_stays_in_torch() -> None:
    x = torch.linspace(-1, 1, 2**9).reshape([2] * 9)
    model = model_of(lambda x: ((x + 1).relu().reshape(8, 64) * 2).tanh())
    module = trtcore.compile(model, [x], min_block_size=1)
    torch.testing.assert_close(module(x), model(x))
    assert len(module.report.engines) == 1
    assert {node.op: node.reason for node in module.report.in_torch}["aten.relu.default"] == (
        "a tensor has 9 dims, and TensorRT takes at most 8"
    )


def test_a_network_that_cannot_be_read_back() -> None:
    """A converter that makes bf16 weights without ctx.weights: known only when the whole network is read."""
    kept = torch.ones(8, dtype=torch.bfloat16)

    def raw_weights(ctx: Any, x: Any) -> Any:
        weights = ctx.trt.Weights(ctx.trt.DataType.BF16, kept.data_ptr(), 8)
        layer = ctx.net.add_constant((1, 1, 1, 8), weights)
        return ctx.elementwise(x, ctx.cast(layer.get_output(0), torch.float32), "PROD")

    converter(aten.erfinv.default)(raw_weights)
    module = compiled(lambda x: torch.erfinv(x.relu().tanh() * 0.5).exp())
    assert quarantined(module) == ["erfinv"]
    assert "weights" in module.report.quarantined[0].reason
    with pytest.raises(ConversionError, match="weights"):
        compiled(lambda x: torch.erfinv(x.relu().tanh() * 0.5).exp(), pass_through_build_failures=True)


@pytest.fixture
def rounds(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the segments that were converted."""
    return _told(monkeypatch, "conversion")


def test_a_converter_that_raises_for_many_shapes_is_found_in_one_round(rounds):
    @converter(aten.tan.default)
    def tan(ctx: Any, x: Any) -> Any:
        raise ValueError(f"not for {ctx.shape(x)}")

    def forward(x: Tensor) -> Tensor:
        total = x.sum()
        for size in range(1, 26):
            total = total + torch.tan(x.reshape(-1)[:size] * 0.5).sum()
        return total

    module = compiled(forward)
    assert len([q for q in module.report.quarantined if q.op == "aten.tan.default"]) == 25
    assert {q.reason.rpartition("not for ")[2] for q in module.report.quarantined} == {
        f"({size},)" for size in range(1, 26)
    }
    first = rounds.count("engine_0")
    assert first == 2, rounds


def test_what_fails_behind_a_failed_node_and_in_other_segments_is_found_with_it(rounds):
    @converter(aten.tan.default)
    def tan(ctx: Any, x: Any) -> Any:
        raise ValueError("no tan")

    @converter(aten.sinh.default)
    def sinh(ctx: Any, x: Any) -> Any:
        return ctx.elementwise(x, ctx.constant(torch.ones(3)), "SUM")  # refused when its shape is read

    @converter(aten.cosh.default)
    def cosh(ctx: Any, x: Any) -> Any:
        return x, x

    def forward(x: Tensor) -> Tensor:
        y = torch.sinh(torch.tan(x) * 2) + 1
        return torch.cosh(torch.special.erfcx(y) * 3) + 1

    module = compiled(forward, torch_executed_ops={"aten.special_erfcx"})
    assert sorted(q.op for q in module.report.quarantined) == [
        "aten.cosh.default", "aten.sinh.default", "aten.tan.default",
    ]  # fmt: skip
    assert rounds.count("engine_0") == 2, rounds


def test_the_errors_of_several_nodes_travel_between_processes():
    other = NodeConversionError("second", node="b", tensorrt=("said",))
    error = NodeConversionError("first", node="a", others=[other], advice="help")
    found = pickle.loads(pickle.dumps(error))
    assert type(found) is NodeConversionError
    assert (found.message, found.node, found.advice, str(found)) == ("first", "a", "help", str(error))
    assert [(e.message, e.node, e.tensorrt) for e in found.others] == [("second", "b", other.tensorrt)]


def test_the_next_candidate_is_tried_before_torch():
    @converter(aten.tan.default)
    def tan(ctx: Any, x: Any) -> Any:
        raise ValueError("not today")

    module = compiled(lambda x: torch.tan(x).relu())
    (item,) = module.report.quarantined
    assert (item.op, item.converter) == (
        "aten.tan.default",
        "test_the_next_candidate_is_tried_before_torch.<locals>.tan".rpartition(".")[2],
    )
    assert module.report.fully_converted
    (node,) = [node for node in module.report.nodes if node.op == "aten.tan.default"]
    assert node.pack.startswith("trtcore:aten")
    assert any("not today" in candidate.reason for candidate in node.candidates)


def test_a_fixed_dim_where_the_ops_varies_and_an_output_of_its_own_are_refused():
    def narrow(ctx: Any, x: Any) -> Any:
        return ctx.slice(x, [0, 0], [1, 4])

    def optimal(ctx: Any, x: Any) -> Any:
        return ctx.slice(x, [0, 0], [2, 4])

    def marks(ctx: Any, x: Any) -> Any:
        result = ctx.activation(x, "TANH")
        ctx.net.mark_output(result)
        return result

    class Silent(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no words")

    def silent(ctx: Any, x: Any) -> Any:
        raise Silent

    batch = trtcore.Input(min_shape=(1, 4), opt_shape=(2, 4), max_shape=(5, 4))
    for body, words in (
        (narrow, "which varies"),
        (optimal, "which varies"),
        (marks, "marked an output"),
        (silent, "Silent"),
    ):
        with trtcore.scoped_registry():
            converter(aten.special_bessel_j0.default, supports_dynamic_shapes=True)(body)
            model = model_of(lambda x: torch.special.bessel_j0(x).relu())
            module = trtcore.compile(model, [batch], min_block_size=1)
            (item,) = module.report.quarantined
            assert words in item.reason
            for size in (1, 2, 5):
                x = torch.rand(size, 4)
                torch.testing.assert_close(module(x), model(x))
