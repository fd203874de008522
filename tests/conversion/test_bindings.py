"""What a converter may not do to the network and the graph: change what others rely on, or use tensors of another one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import trtcore
from trtcore.errors import ConversionError, PackError
from trtcore.pack import converter, scoped_registry

pytestmark = pytest.mark.usefixtures("trt_backend")
relu = torch.ops.aten.relu.default
NETWORKS: list[Any] = []
KEPT: list[Any] = []


def plain(ctx: Any, x: Any) -> Any:
    return ctx.net.add_activation(ctx.tensor(x), ctx.trt.ActivationType.RELU).get_output(0)


def renames(ctx: Any, x: Any) -> Any:
    x.name = "another"
    return plain(ctx, x)


def reshapes(ctx: Any, x: Any) -> Any:
    x.shape = (2, 4)
    return plain(ctx, x)


def of_another_network(ctx: Any, x: Any) -> Any:
    network = ctx.trt.Builder(ctx.trt.Logger()).create_network(0)
    NETWORKS.append(network)
    return network.add_input("a", ctx.trt.float32, (3, 4))


def keeps(ctx: Any, x: Any) -> Any:
    KEPT.append(plain(ctx, x))
    return KEPT[0]


class Model(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(x) * 2


def compiled(function: Any, given: Any) -> Any:
    with scoped_registry():
        converter(relu, supports_dynamic_shapes=True)(function)
        return trtcore.compile(Model(), inputs=[given], min_block_size=1)


@pytest.mark.parametrize(
    "given",
    [torch.ones(3, 4), trtcore.Input(min_shape=(1, 4), opt_shape=(3, 4), max_shape=(8, 4))],
    ids=["static", "dynamic"],
)
@pytest.mark.parametrize(
    ("function", "why"),
    [
        (renames, "changed the name or the shape of the network's input x"),
        (reshapes, "changed the name or the shape of the network's input x"),
        (of_another_network, "a tensor of another network"),
    ],
)
def test_it_goes_to_the_next_candidate(function: Any, why: str, given: Any) -> None:
    module = compiled(function, given)
    (record,) = module.report.quarantined
    assert why in record.reason
    x = torch.randn(3, 4)
    assert torch.equal(module(x), torch.relu(x) * 2)


def test_a_tensor_that_is_kept_from_an_earlier_compile() -> None:
    """TensorRT ends the process where it is used."""
    KEPT.clear()
    assert not compiled(keeps, torch.ones(3, 4)).report.quarantined
    (record,) = compiled(keeps, torch.ones(3, 4)).report.quarantined
    assert "a tensor of another network" in record.reason
    KEPT.clear()


# ---- what others rely on ------------------------------------------------------------------------------------

bessel = torch.ops.aten.special_bessel_j0.default


class Between(torch.nn.Module):
    """The op whose converter is at fault, between others; `z` is read behind it only."""

    def forward(self, x: torch.Tensor, y: torch.Tensor, z: torch.Tensor) -> Any:
        a = x + y
        b = torch.special.bessel_j0(a)
        return b.relu() * 2, a, b + z


def tanh(ctx: Any, x: Any) -> Any:
    """Another function than the op: a test sees from the numbers whose converter was used."""
    return ctx.activation(x, "TANH")


def with_damage(damage: Any) -> Any:
    def convert(ctx: Any, x: Any) -> Any:
        damage(ctx, ctx.node, x)
        return tanh(ctx, x)

    return convert


def erase_next(ctx: Any, node: Any, x: Any) -> None:
    after = node.next
    after.replace_all_uses_with(node)
    node.graph.erase_node(after)


def erase_own(ctx: Any, node: Any, x: Any) -> None:
    node.replace_all_uses_with(node.args[0])
    node.graph.erase_node(node)


def insert(ctx: Any, node: Any, x: Any) -> None:
    with node.graph.inserting_after(node):
        node.graph.call_function(torch.ops.aten.neg.default, (node,))


def remove_and_raise(ctx: Any, node: Any, x: Any) -> None:
    ctx.net.remove_tensor(ctx.net.get_input(2))
    raise ValueError("and then this")


def reads_another(ctx: Any, node: Any, x: Any) -> None:
    ctx.net.get_layer(0).set_input(0, ctx.unary(ctx.net.get_input(0), "NEG"))


def reads_itself(ctx: Any, node: Any, x: Any) -> None:
    ctx.net.get_layer(0).set_input(0, tanh(ctx, x))


def layer_of(ctx: Any, kind: str) -> Any:
    """The first layer of a kind, as its own class."""
    for index in range(ctx.net.num_layers):
        layer = ctx.net.get_layer(index)
        if ctx.trt.ILayer.type.fget(layer) == getattr(ctx.trt.LayerType, kind):
            layer.__class__ = {"ELEMENTWISE": ctx.trt.IElementWiseLayer, "CONSTANT": ctx.trt.IConstantLayer}[
                kind
            ]
            return layer
    raise AssertionError(kind)


def another_operation(ctx: Any, node: Any, x: Any) -> None:
    layer_of(ctx, "ELEMENTWISE").op = ctx.trt.ElementWiseOperation.PROD


META = "the meta['val'] of the graph's node special_bessel_j0"
DAMAGE: list[tuple[str, Any, str]] = [
    ("meta emptied", lambda ctx, node, x: node.meta.clear(), "the meta["),
    ("no meta", lambda ctx, node, x: setattr(node, "meta", None), "the meta of"),
    ("no val", lambda ctx, node, x: node.meta.update(val=None), META),
    ("val a text", lambda ctx, node, x: node.meta.update(val="text"), META),
    ("val of another shape", lambda ctx, node, x: node.meta.update(val=torch.ones(7, 7)), META),
    ("val a tuple", lambda ctx, node, x: node.meta.update(val=(node.meta["val"],)), META),
    ("stack", lambda ctx, node, x: node.meta.update(nn_module_stack=5), "the meta['nn_module_stack']"),
    ("meta of its argument", lambda ctx, node, x: node.args[0].meta.clear(), "graph's node add"),
    ("meta of all", lambda ctx, node, x: [n.meta.clear() for n in node.graph.nodes], "graph's node x"),
    ("val transposed in place", lambda ctx, node, x: node.meta["val"].t_(), 'the tensor in meta["val"]'),
    (
        "its argument's val unsqueezed",
        lambda ctx, node, x: node.args[0].meta["val"].unsqueeze_(0),
        'the tensor in meta["val"]',
    ),
    ("arguments", lambda ctx, node, x: setattr(node, "args", ()), "of the graph's node"),
    ("target", lambda ctx, node, x: setattr(node, "target", relu), "the target of"),
    ("name", lambda ctx, node, x: setattr(node, "name", "other"), "the name of"),
    ("users", lambda ctx, node, x: node.users.clear(), "the users of"),
    ("replaced", lambda ctx, node, x: node.replace_all_uses_with(node.args[0]), "of the graph's node"),
    ("erased", erase_own, "the nodes of the graph"),
    ("next erased", erase_next, "the nodes of the graph"),
    ("inserted", insert, "the nodes of the graph"),
    ("input removed", lambda ctx, node, x: ctx.net.remove_tensor(ctx.net.get_input(2)), "network's inputs"),
    ("input removed, then an error", remove_and_raise, "network's inputs"),
    (
        "a later input's name",
        lambda ctx, node, x: setattr(ctx.net.get_input(2), "name", "w"),
        "network's input z",
    ),
    ("a later input's shape", lambda ctx, node, x: setattr(ctx.net.get_input(2), "shape", (7, 7)), "input z"),
    (
        "an input's format",
        lambda ctx, node, x: setattr(ctx.net.get_input(2), "allowed_formats", 2),
        "input z",
    ),
    ("another layer's input", reads_another, "of another converter reads"),
    ("a circle", reads_itself, "of another converter reads"),
    ("another layer's operation", another_operation, "the op of the layer"),
    ("no network", lambda ctx, node, x: setattr(ctx, "net", None), "'NoneType' object has no attribute"),
    ("marked", lambda ctx, node, x: ctx.net.mark_output(x), "marked an output"),
    ("input added", lambda ctx, node, x: ctx.net.add_input("n", ctx.trt.float32, (2,)), "added an input"),
]


@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
@pytest.mark.parametrize(("damage", "why"), [c[1:] for c in DAMAGE], ids=[c[0] for c in DAMAGE])
def test_what_others_rely_on(damage: Any, why: str, dynamic: bool) -> None:
    given = [torch.randn(4, 8) for _ in range(3)]
    ranges = trtcore.Input(min_shape=(1, 8), opt_shape=(4, 8), max_shape=(6, 8))
    with scoped_registry():
        converter(bessel, name="damaging", supports_dynamic_shapes=True)(with_damage(damage))
        module = trtcore.compile(Between(), inputs=[ranges] * 3 if dynamic else given, min_block_size=1)
    (record,) = module.report.quarantined
    assert record.converter.endswith("damaging"), record
    assert "damaging" in record.reason
    assert why in record.reason
    for got, wanted in zip(module(*given), Between()(*given)):
        torch.testing.assert_close(got, wanted)


def test_the_error_names_the_converter_and_its_line() -> None:
    with scoped_registry():
        converter(bessel, name="damaging")(with_damage(erase_next))
        given = [torch.randn(4, 8) for _ in range(3)]
        with pytest.raises(ConversionError, match=r"damaging of aten\.special_bessel_j0") as raised:
            trtcore.compile(Between(), inputs=given, min_block_size=1, pass_through_build_failures=True)
    assert "torch_executed_ops" in str(raised.value.advice)
    assert "test_bindings.py" in str(raised.value.where)


def test_a_converter_that_keeps_something_of_its_own_in_meta() -> None:
    def notes(ctx: Any, x: Any) -> Any:
        ctx.node.meta["seen"] = True
        return tanh(ctx, x)

    given = [torch.randn(4, 8) for _ in range(3)]
    with scoped_registry():
        converter(bessel)(notes)
        module = trtcore.compile(Between(), inputs=given, min_block_size=1)
    assert not module.report.quarantined
    a = given[0] + given[1]
    torch.testing.assert_close(module(*given)[2], a.tanh() + given[2])


def test_an_input_that_becomes_a_shape_is_no_change() -> None:
    """TensorRT itself has other formats for it then."""

    class Sized(torch.nn.Module):
        def forward(self, x: torch.Tensor, n: torch.Tensor) -> torch.Tensor:
            size = n.item()
            torch._check(size >= 2)
            torch._check(size <= 16)
            return x[0] + torch.arange(size)[:, None] * 2

    x = torch.ones(1, 3)
    module = trtcore.compile(Sized(), inputs=[x, torch.tensor(5)], min_block_size=1)
    assert not module.report.quarantined
    assert "aten.arange.default" in {node.op for node in module.report.nodes}
    for size in (2, 5, 16):
        n = torch.tensor(size)
        torch.testing.assert_close(module(x, n), Sized()(x, n))


class Weighted(torch.nn.Module):
    """The op whose converter is at fault, behind layers with weights and parameters of their own."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = torch.nn.Conv2d(3, 4, 3)
        self.linear = torch.nn.Linear(6, 5)
        self.register_buffer("table", torch.randn(6))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv(x + self.table)
        y = torch.nn.functional.max_pool2d(y.softmax(1), 2, 1).transpose(1, 2).topk(2, dim=-1).values
        y = torch.nn.functional.leaky_relu(y, 0.3).sum(1, keepdim=True)[..., 1:]
        return torch.special.bessel_j0(y) * 2 + self.table.sum()


def _own_class(ctx: Any, layer: Any) -> Any:
    from trtcore.conversion.readback import LAYER_CLASSES

    layer.__class__ = getattr(ctx.trt, LAYER_CLASSES[ctx.trt.ILayer.type.fget(layer).name])
    return layer


def _set(kind: str, name: str, value: Any) -> Any:
    def damage(ctx: Any) -> None:
        layers = (_own_class(ctx, ctx.net.get_layer(index)) for index in range(ctx.net.num_layers))
        layer = next(layer for layer in layers if type(layer).__name__ == kind)
        setattr(layer, name, value(ctx, layer) if callable(value) else value)

    return damage


def _zeroed(kind: str, name: str) -> Any:
    def damage(ctx: Any) -> None:
        layers = (_own_class(ctx, ctx.net.get_layer(index)) for index in range(ctx.net.num_layers))
        getattr(next(layer for layer in layers if type(layer).__name__ == kind), name)[...] = 0

    return damage


PARAMETERS: list[tuple[Any, str]] = [
    (_set("IConvolutionLayer", "stride_nd", (1, 1)), ""),  # what it is already
    (_set("IConvolutionLayer", "dilation_nd", (2, 2)), "the dilation_nd of the layer"),
    (_set("IPoolingLayer", "type", lambda ctx, layer: ctx.trt.PoolingType.AVERAGE), "the type of the layer"),
    (_set("ISoftMaxLayer", "axes", 4), "the axes of the layer"),
    (_set("IReduceLayer", "op", lambda ctx, layer: ctx.trt.ReduceOperation.MAX), "the op of the layer"),
    (_set("IActivationLayer", "alpha", 0.5), "the alpha of the layer"),
    (_set("ISliceLayer", "start", (0, 0, 0, 0)), "the start of the layer"),
    (
        _set("IShuffleLayer", "first_transpose", lambda ctx, layer: (0, 3, 1, 2)),
        "the first_transpose of the layer",
    ),
    (_set("ITopKLayer", "op", lambda ctx, layer: ctx.trt.TopKOperation.MIN), "the op of the layer"),
    (_set("IConvolutionLayer", "bias", lambda ctx, layer: np.zeros(4, np.float32)), "the bias of the layer"),
]


@pytest.mark.parametrize(("damage", "why"), PARAMETERS)
def test_parameters_of_layers(damage: Any, why: str) -> None:
    """What a layer of another converter computes is not only what it reads."""
    reached = []

    def convert(ctx: Any, x: Any) -> Any:
        damage(ctx)
        reached.append(True)
        return ctx.unary(x, "NEG")

    model, x = Weighted().eval(), torch.randn(2, 3, 6, 6)
    with scoped_registry():
        converter(bessel, name="damaging")(convert)
        module = trtcore.compile(model, inputs=[x], min_block_size=1)
    assert reached
    if not why:
        assert not module.report.quarantined
        return
    (record,) = module.report.quarantined
    assert record.converter.endswith("damaging"), record
    assert why in record.reason
    torch.testing.assert_close(module(x), model(x))


@pytest.mark.parametrize(
    "damage",
    [
        _zeroed("IConvolutionLayer", "kernel"),  # numpy's view of the model's own memory
        lambda ctx: ctx.node.graph.owning_module.get_parameter("conv.weight").data.zero_(),
        lambda ctx: ctx.node.graph.owning_module.get_buffer("table").mul_(2),
    ],
)
def test_weights_of_the_model_that_a_converter_writes_to(damage: Any) -> None:
    """They cannot be given back: a compile goes no further, and says whose fault it is."""

    def convert(ctx: Any, x: Any) -> Any:
        with torch.no_grad():
            damage(ctx)
        return ctx.unary(x, "NEG")

    with scoped_registry():
        converter(bessel, name="damaging")(convert)
        with pytest.raises(PackError, match=r"process:damaging wrote into the model's weight") as raised:
            trtcore.compile(Weighted().eval(), inputs=[torch.randn(2, 3, 6, 6)], min_block_size=1)
    assert "load the model's weights anew" in str(raised.value)
