"""Which converter takes a node, in which order, and the reasons the others get."""

from __future__ import annotations

import itertools
import operator
import threading
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import attrs
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from packaging.version import Version
from torch import fx
from torch._subclasses import FakeTensorMode

import trtcore
from trtcore.context import CompileContext
from trtcore.errors import ConversionError, PackError, SettingsError
from trtcore.ir.ops import target_name
from trtcore.ir.schema import node_arguments
from trtcore.packs.declare import PROCESS, converter, converters_in, scoped_registry
from trtcore.packs.hookspecs import hookimpl
from trtcore.packs.loading import LoadedPack, PackWarning, forget_packs, register_pack
from trtcore.packs.model import (
    Converter,
    LoweringPass,
    NodeContext,
    PackInfo,
    Priority,
    Refusal,
    Reject,
    Requires,
    Scope,
)
from trtcore.packs.registry import ConverterRegistry
from trtcore.packs.selection import Verdict
from trtcore.settings import CompilationSettings

aten = torch.ops.aten
RELU = aten.relu.default


class FakeBackend:
    """What `select` and `Requires` ask of a backend, with a count of the questions."""

    name = "fake"
    version = Version("10.4.1")
    has_plugins = False

    def __init__(self) -> None:
        self.asked: list[str] = []

    def supports_dtype(self, dtype: torch.dtype) -> bool:
        return dtype in (torch.float32, torch.float16, torch.int64, torch.bool)

    def can(self, feature: str, target: Any) -> Any:
        self.asked.append(feature)
        if feature == "layer:nonsense":
            raise KeyError(feature)
        return SimpleNamespace(ok=feature != "layer:add_nms", message="has no runners")


def context(
    registry: ConverterRegistry, *, backend: Any = "fake", reason: str = "", **options: Any
) -> CompileContext:
    backend = FakeBackend() if backend == "fake" else backend
    return CompileContext(CompilationSettings(**options), registry, backend=backend, no_backend_reason=reason)


def body(ctx: Any, *args: Any) -> None:
    """An implementation that nothing here calls."""


def pack(identity: str, *converters: Converter, **contributions: Any) -> LoadedPack:
    """A loaded pack ``distribution:name``; converters get its name and their order, as the loader does it."""
    distribution, _, name = identity.partition(":")
    scope = Scope.BUILT_IN if distribution == "trtcore" else Scope.THIRD_PARTY
    info = PackInfo(distribution, "1.0", name, scope)
    owned = tuple(attrs.evolve(c, pack=info, scope=scope, order=i) for i, c in enumerate(converters))
    return LoadedPack(info, converters=owned, **contributions)


def named(name: str, target: Any = RELU, **options: Any) -> Converter:
    return Converter(target, body, name=name, **options)


def relu_node(dtype: torch.dtype = torch.float32, **meta: Any) -> fx.Node:
    return call(RELU, torch.empty(2, 3, dtype=dtype), **meta)


def call(target: Any, value: torch.Tensor, *args: Any, **meta: Any) -> fx.Node:
    """A node ``target(x, *args)`` with FakeTensor metadata."""
    graph = fx.Graph()
    with FakeTensorMode() as mode:
        fake = mode.from_tensor(value)
    x = graph.placeholder("x")
    x.meta["val"] = fake
    node = graph.call_function(target, (x, *args))
    node.meta.update({"val": fake, **meta})
    graph.output(node)
    return node


def dynamic_nodes() -> list[fx.Node]:
    """The call_function nodes of relu(x) + 1 with a dynamic batch of 2 to 16."""

    class Model(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.relu() + 1

    batch = torch.export.Dim("batch", min=2, max=16)
    program = torch.export.export(Model(), (torch.zeros(4, 3),), dynamic_shapes={"x": {0: batch}})
    return [node for node in program.graph.nodes if node.op == "call_function"]


def chosen(registry: ConverterRegistry, node: fx.Node | None = None, **options: Any) -> str | None:
    selection = registry.select(node or relu_node(), context(registry, **options))
    return str(selection.chosen) if selection.chosen else None


def only_reason(one: Converter, node: fx.Node | None = None, **options: Any) -> str:
    """The reason for which the only converter loses."""
    registry = ConverterRegistry.build([pack("acme:p", one)])
    selection = registry.select(node or relu_node(), context(registry, **options))
    assert selection.chosen is None
    assert [c.verdict.outcome for c in selection.candidates] == ["rejected"]
    assert selection.candidates[0].verdict is selection.verdict
    assert selection.candidates[0].reason == selection.reason
    return selection.reason


# The order ----------------------------------------------------------------------------------------------


def test_the_order_from_call_site_to_definition_order() -> None:
    def at_call_site(ctx: Any, x: Any) -> None: ...

    registry = ConverterRegistry.build(
        [
            pack("trtcore:aten", named("builtin_high", priority=Priority.HIGH), named("builtin")),
            pack("zeta:z", named("z_first"), named("z_second")),
            pack("beta:b", named("b"), named("b_fallback", priority=Priority.FALLBACK)),
            pack("pinned:p", named("pinned_low", priority=-1000)),
        ],
        process=[named("mine")],
        call_site={RELU: at_call_site},
        pins={"aten.relu.default": "p"},
    )
    names = [c.name.rpartition(".")[2] for c in registry.candidates(RELU)]
    assert names == [
        "at_call_site",
        "pinned_low",
        "builtin_high",
        "mine",
        "b",
        "z_first",
        "z_second",
        "builtin",
        "b_fallback",
    ]


def test_shadowed_candidates_say_what_goes_before_them() -> None:
    registry = ConverterRegistry.build(
        [
            pack("trtcore:aten", named("builtin")),
            pack("beta:b", named("b"), named("b2")),
            pack("zeta:z", named("z"), named("high", priority=7)),
        ],
        process=[named("mine")],
    )
    selection = registry.select(relu_node(), context(registry))
    assert selection.target == "aten.relu.default"
    assert selection.reason == ""
    assert [(str(c.converter), c.verdict, c.reason) for c in selection.candidates] == [
        ("zeta:z:high", "chosen", ""),
        ("process:mine", "shadowed", "zeta:z:high goes first: priority 7 over 0"),
        ("beta:b:b", "shadowed", "zeta:z:high goes first: priority 7 over 0"),
        ("beta:b:b2", "shadowed", "zeta:z:high goes first: priority 7 over 0"),
        ("zeta:z:z", "shadowed", "zeta:z:high goes first: priority 7 over 0"),
        ("trtcore:aten:builtin", "shadowed", "zeta:z:high goes first: priority 7 over 0"),
    ]


@pytest.mark.parametrize(
    ("packs", "pins", "why"),
    [
        (
            [pack("a:a", named("x")), pack("b:b", named("y"))],
            {},
            "same priority; by name of the distribution",
        ),
        ([pack("a:a", named("x"), named("y"))], {}, "defined earlier"),
        (
            [pack("a:a", named("x")), pack("trtcore:t", named("y"))],
            {},
            "third-party pack before built-in pack",
        ),
        (
            [pack("a:a", named("y")), pack("b:b", named("x"))],
            {"aten.relu.default": "b"},
            "pinned in settings",
        ),
    ],
)
def test_why_one_goes_before_another(packs: list[LoadedPack], pins: dict[str, str], why: str) -> None:
    registry = ConverterRegistry.build(packs, pins=pins)
    first, second = registry.select(relu_node(), context(registry)).candidates
    assert (first.converter.name, second.converter.name) == ("x", "y")
    assert second.reason.endswith(f"goes first: {why}")


_identities = st.builds(
    "{}:{}".format, st.sampled_from(["trtcore", "acme", "beta", "zeta"]), st.sampled_from(["a", "b", "c"])
)


@settings(max_examples=60, deadline=None)
@given(
    st.dictionaries(
        _identities, st.lists(st.sampled_from([-100, 0, 0, 5, 100]), min_size=1, max_size=4), min_size=1
    ),
    st.lists(st.sampled_from([-100, 0, 5]), max_size=3),
    st.randoms(use_true_random=False),
)
def test_the_order_is_total_and_not_of_discovery(
    priorities: dict[str, list[int]], mine: list[int], random: Any
) -> None:
    packs = [
        pack(identity, *(named(f"c{i}", priority=p) for i, p in enumerate(values)))
        for identity, values in priorities.items()
    ]
    process = [named(f"m{i}", priority=p) for i, p in enumerate(mine)]
    shuffled = random.sample(packs, len(packs))
    orders = [
        [str(c) for c in ConverterRegistry.build(some, process=process).candidates(RELU)]
        for some in (packs, shuffled)
    ]
    assert orders[0] == orders[1]
    assert len(set(orders[0])) == len(orders[0]) == sum(map(len, priorities.values())) + len(mine)
    # The same order, written down independently of the registry's key.
    found = ConverterRegistry.build(packs, process=process).candidates(RELU)
    for first, second in itertools.pairwise(found):
        assert first.priority >= second.priority
        if first.priority == second.priority:
            assert first.scope <= second.scope
            if first.scope == second.scope and first.pack and second.pack:
                assert (first.source, first.order) < (second.source, second.order)


# Pins, ties, call-site ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pin", "winner"),
    [
        ("zp", "zeta:zp:c1"),
        ("zeta:zp", "zeta:zp:c1"),
        ("zp:c2", "zeta:zp:c2"),
        ("zeta:zp:c2", "zeta:zp:c2"),
        ("same", "acme:same:a"),
        ("beta:same", "beta:same:b"),
        ("process", "process:mine"),
        ("process:mine", "process:mine"),
    ],
)
@pytest.mark.parametrize("op", ["aten.relu.default", "aten.relu"])
def test_a_pin_names_pack_distribution_or_converter(op: str, pin: str, winner: str) -> None:
    packs = [
        pack("trtcore:aten", named("builtin", priority=50)),
        pack("acme:same", named("a")),
        pack("beta:same", named("b")),
        pack("zeta:zp", named("c1"), named("c2")),
    ]
    registry = ConverterRegistry.build(packs, process=[named("mine", priority=-5)], pins={op: pin})
    assert chosen(registry) == winner


def test_the_pin_of_an_overload_beats_the_pin_of_the_op() -> None:
    packs = [pack("acme:a", named("a")), pack("beta:b", named("b"))]
    pins = {"aten.relu.default": "b", "aten.relu": "a"}
    assert chosen(ConverterRegistry.build(packs, pins=pins)) == "beta:b:b"
    assert chosen(ConverterRegistry.build(packs, pins=dict(reversed(pins.items())))) == "beta:b:b"


@pytest.mark.parametrize(
    ("op", "pin", "said"),
    [
        ("aten.relu.default", "nobody", "its converters are acme:a:a, trtcore:aten:builtin"),
        ("aten.relu.default", "acme", "its converters are acme:a:a"),
        ("aten.gelu.default", "a", "no pack in use converts aten.gelu.default"),
    ],
)
def test_a_pin_that_names_nothing_lists_what_there_is(op: str, pin: str, said: str) -> None:
    packs = [pack("trtcore:aten", named("builtin")), pack("acme:a", named("a"))]
    with pytest.raises(SettingsError, match=said) as caught:
        ConverterRegistry.build(packs, pins={op: pin})
    assert repr(pin) in str(caught.value)


def test_a_pinned_converter_that_says_no_leaves_the_node_to_the_next() -> None:
    picky = named("picky", capability_validator=lambda node, ctx: Reject("only on Sundays"))
    registry = ConverterRegistry.build(
        [pack("a:a", picky), pack("b:b", named("b"))], pins={"aten.relu.default": "a"}
    )
    selection = registry.select(relu_node(), context(registry))
    assert str(selection.chosen) == "b:b:b"
    assert [(c.verdict, c.reason) for c in selection.candidates] == [
        ("validator", "only on Sundays"),
        ("chosen", ""),
    ]


def test_ties_of_third_party_packs_are_reported() -> None:
    packs = [
        pack("zeta:z", named("z")),
        pack("acme:a", named("a"), named("a2"), named("low", priority=-1)),
        pack("trtcore:aten", named("builtin"), named("low", priority=-1)),
    ]
    (tie,) = ConverterRegistry.build(packs).ties
    assert (tie.kind, tie.subject, tie.packs) == ("converter", "aten.relu.default", ("acme:a", "zeta:z"))
    assert "aten.relu.default: acme:a goes before zeta:z only by its name" in str(tie)
    assert ConverterRegistry.build(packs, pins={"aten.relu.default": "z"}).ties == ()
    assert ConverterRegistry.build(packs, call_site={RELU: body}).ties == ()
    assert ConverterRegistry.build(packs[1:]).ties == ()


def test_two_distributions_with_one_pack_name_both_load_and_are_reported() -> None:
    packs = [pack("acme:fast", named("a")), pack("beta:fast", named("b", aten.neg.default))]
    registry = ConverterRegistry.build(packs)
    assert len(registry.targets) == 2
    (tie,) = registry.ties
    assert (tie.kind, tie.subject, tie.packs) == ("pack name", "fast", ("acme:fast", "beta:fast"))
    assert "several distributions have a pack named 'fast': acme:fast, beta:fast" in str(tie)


def test_call_site_functions_keep_what_they_were_decorated_with() -> None:
    with scoped_registry():

        @converter([RELU, aten.neg.default], supports_dynamic_shapes=True, priority=-7)
        def mine(ctx: Any, x: Any) -> None: ...

        (found,) = ConverterRegistry.build(call_site={RELU: mine}).candidates(RELU)
        assert (found.scope, found.supports_dynamic_shapes, found.source) == (
            Scope.CALL_SITE,
            True,
            "call site",
        )
    (plain,) = ConverterRegistry.build(call_site={RELU: body}).candidates(RELU)
    assert (plain.implementation, plain.supports_dynamic_shapes) == (body, False)
    (ready,) = ConverterRegistry.build(
        call_site={RELU: named("r", requires_output_allocator=True)}
    ).candidates(RELU)
    assert (ready.name, ready.requires_output_allocator, ready.scope) == ("r", True, Scope.CALL_SITE)


@pytest.mark.parametrize(("target", "given"), [(RELU, 3), ("no op", body), (aten.add, body)])
def test_a_call_site_converter_that_is_none(target: Any, given: Any) -> None:
    with pytest.raises(SettingsError, match=r"settings\.converters"):
        ConverterRegistry.build(call_site={target: given})


# Other contributions ------------------------------------------------------------------------------------


def test_other_contributions_merge_in_pack_order_and_tie() -> None:
    def ours(x: Any) -> Any:
        return x

    def theirs(x: Any) -> Any:
        return x

    one, two = (LoweringPass("fuse", lambda module, ctx: None) for _ in range(2))
    backend = FakeBackend()
    packs = [
        pack("trtcore:aten", decompositions={RELU: ours, aten.neg.default: ours}, backends=(backend,)),
        pack("zeta:z", decompositions={RELU: theirs}, lowering_passes=(one,), partitioners={"p": ours}),
        pack(
            "acme:a",
            lowering_passes=(two,),
            partitioners={"p": theirs},
            kernel_plugins=(SimpleNamespace(name="a::b"),),
        ),
    ]
    registry = ConverterRegistry.build(packs)
    assert registry.decompositions == {RELU: theirs, aten.neg.default: ours}
    assert registry.lowering_passes == (two,)
    assert registry.partitioners == {"p": theirs}
    assert registry.backends == (backend,)
    assert [plugin.name for plugin in registry.kernel_plugins] == ["a::b"]
    assert [(t.kind, t.subject, t.packs) for t in registry.ties] == [
        ("lowering pass", "fuse", ("acme:a", "zeta:z")),
        ("partitioner", "p", ("acme:a", "zeta:z")),
    ]


def test_a_registry_cannot_be_changed() -> None:
    registry = ConverterRegistry.build([pack("acme:a", named("a"), decompositions={RELU: body})])
    with pytest.raises(AttributeError, match="immutable"):
        registry.packs = ()
    with pytest.raises(TypeError):
        registry.decompositions[RELU] = body  # type: ignore[index]


# Rules that hold for every converter --------------------------------------------------------------------


def test_no_converter() -> None:
    registry = ConverterRegistry.build([pack("acme:a", named("a", aten.gelu.out))])
    selection = registry.select(relu_node(), context(registry))
    assert (selection.chosen, selection.candidates) == (None, ())
    assert selection.reason == "no converter for aten.relu.default in any pack"
    gelu = registry.select(call(aten.gelu.default, torch.empty(2)), context(registry))
    assert gelu.reason == "no converter for aten.gelu.default in any pack (there is one for aten.gelu.out)"
    getitem = registry.select(call(operator.getitem, torch.empty(2), 0), context(registry))
    assert getitem.reason == "no converter for operator.getitem in any pack"
    placeholder = next(iter(relu_node().graph.nodes))
    assert registry.select(placeholder, context(registry)).reason == "placeholder nodes have no converters"


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex64])
def test_a_dtype_the_backend_cannot_represent(dtype: torch.dtype) -> None:
    name = str(dtype).removeprefix("torch.")
    assert only_reason(named("a"), relu_node(dtype)) == f"a {name} tensor, which fake cannot represent"


def test_a_dtype_counts_on_inputs_and_inside_tuples() -> None:
    node = call(RELU, torch.empty(2, dtype=torch.float64))
    node.meta["val"] = torch.empty(2)
    assert "float64" in only_reason(named("a"), node)
    node = relu_node(val=(torch.empty(2), [torch.empty(2, dtype=torch.float64)]))
    assert "float64" in only_reason(named("a"), node)


def test_a_sparse_tensor() -> None:
    node = relu_node(val=torch.eye(2).to_sparse())
    assert only_reason(named("a"), node) == "a sparse_coo tensor, which no backend can represent"


def test_nodes_without_metadata_are_no_reason() -> None:
    node = relu_node()
    for one in node.graph.nodes:
        one.meta.clear()
    assert chosen(ConverterRegistry.build([pack("acme:a", named("a"))]), node) == "acme:a:a"


def test_without_a_backend_every_node_says_so() -> None:
    reason = "tensorrt is not installed"
    assert only_reason(named("a"), backend=None, reason=reason) == reason


@pytest.mark.parametrize("names", [{"aten.relu"}, {"aten.relu.default"}, {RELU}])
def test_ops_forced_to_torch(names: set[Any]) -> None:
    reason = only_reason(named("a"), torch_executed_ops=names)
    assert reason == "forced to torch by settings.torch_executed_ops"
    registry = ConverterRegistry.build([pack("acme:a", named("a"), named("n", aten.neg.default))])
    neg = call(aten.neg.default, torch.empty(2))
    assert chosen(registry, neg, torch_executed_ops=names) == "acme:a:n"


class Attention(torch.nn.Module):
    """A class that module stacks name."""


class SelfAttention(Attention):
    """Its subclass."""


STACK = {
    "L__self__": ("", "somewhere.Model"),
    "L__self___layer_1": ("layer.1", f"{__name__}.SelfAttention"),
    "L__self___layer_1_out": ("layer.1.out", "torch.nn.modules.linear.Linear"),
}


@pytest.mark.parametrize(
    ("wanted", "forced"),
    [
        ("layer", True),
        ("layer.1", True),
        ("layer.1.out", True),
        ("layer.1.ou", False),
        ("layer.2", False),
        ("lay", False),
        (Attention, True),
        (SelfAttention, True),
        (torch.nn.Linear, True),
        (torch.nn.Conv2d, False),
        ("torch.nn.modules.linear.Linear", True),
        ("Linear", True),
        ("near", False),
    ],
)
def test_modules_forced_to_torch_by_path_or_class(wanted: Any, forced: bool) -> None:
    registry = ConverterRegistry.build([pack("acme:a", named("a"))])
    node = relu_node(nn_module_stack=STACK)
    selection = registry.select(node, context(registry, torch_executed_modules=[wanted]))
    assert (selection.chosen is None) is forced
    if forced:
        assert selection.reason.startswith("forced to torch by settings.torch_executed_modules (")


@pytest.mark.parametrize(
    "path", ["L['self'].layer[1]", "L['self']._modules['layer']._modules['1']", "layer.1"]
)
def test_dynamos_module_paths(path: str) -> None:
    registry = ConverterRegistry.build([pack("acme:a", named("a"))])
    node = relu_node(nn_module_stack={"key": (path, torch.nn.Linear)})
    for wanted in ("layer.1", torch.nn.Linear):
        assert registry.select(node, context(registry, torch_executed_modules=[wanted])).chosen is None


def test_dynamic_shapes() -> None:
    static_only, both = named("static"), named("both", supports_dynamic_shapes=True)
    registry = ConverterRegistry.build([pack("acme:a", static_only, both)])
    node = dynamic_nodes()[0]
    selection = registry.select(node, context(registry))
    assert str(selection.chosen) == "acme:a:both"
    assert "does not say supports_dynamic_shapes=True" in selection.candidates[0].reason
    assert chosen(registry, node, assume_dynamic_shape_support=True) == "acme:a:static"
    assert chosen(registry) == "acme:a:static"


# Requirements -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("requires", "reason"),
    [
        (Requires(plugins=True), "needs plugin layers, which fake does not have"),
        (Requires(version=">=11"), "needs fake >=11, and this is 10.4.1"),
        (Requires(version={"fake": "<10"}), "needs fake <10, and this is 10.4.1"),
        (Requires(dtypes=frozenset({torch.float64})), "needs torch.float64, which fake does not have"),
        (
            Requires(layers=frozenset({"add_nms"})),
            "needs layer:add_nms, which fake does not do for this target: has no runners",
        ),
        (
            Requires(layers=frozenset({"nonsense"})),
            "its requirements could not be checked: KeyError('layer:nonsense')",
        ),
    ],
)
def test_requirements_that_do_not_hold(requires: Requires, reason: str) -> None:
    assert only_reason(named("a", requires=requires)) == reason


def test_requirements_that_hold_are_asked_once_per_registry() -> None:
    requires = Requires({"add_topk"}, version=">=10.3,<11", dtypes={torch.float16}, features=("flag:X",))  # type: ignore[arg-type]
    registry = ConverterRegistry.build([pack("a:a", named("a", requires=requires))])
    backend = FakeBackend()
    for _ in range(3):
        assert chosen(registry, backend=backend) == "a:a:a"
    assert backend.asked == ["layer:add_topk", "flag:X"]
    assert chosen(
        ConverterRegistry.build([pack("a:a", named("b", requires=Requires(version={"other": "<1"})))])
    )


@pytest.mark.parametrize(
    "fields",
    [{"layers": "add_topk"}, {"layers": {3}}, {"dtypes": {"float32"}}, {"version": "ten"}, {"features": 3}],
)
def test_requirements_that_make_no_sense(fields: dict[str, Any]) -> None:
    with pytest.raises(PackError, match=f"Requires.{next(iter(fields))}="):
        Requires(**fields)


# Validators ---------------------------------------------------------------------------------------------


def _raises(node: fx.Node, ctx: Any) -> bool:
    raise KeyError("oops")


@pytest.mark.parametrize(
    ("validator", "reason"),
    [
        (lambda node, ctx: False, "capability validator of acme:p said no"),
        (lambda node, ctx: Reject("3-D only"), "3-D only"),
        (lambda node, ctx: Reject(""), "capability validator of acme:p said no, without a reason"),
        (_raises, "capability validator of acme:p raised KeyError('oops')"),
        (lambda: True, "capability validator of acme:p raised TypeError"),
        (lambda node, ctx: None, "capability validator of acme:p returned None"),
        (lambda node, ctx: 1, "capability validator of acme:p returned 1"),
        (lambda node, ctx: "yes", "capability validator of acme:p returned 'yes'"),
        (lambda node, ctx: Reject, "capability validator of acme:p returned <class"),
    ],
)
def test_validators_that_do_not_say_yes(validator: Any, reason: str) -> None:
    assert only_reason(named("a", capability_validator=validator)).startswith(reason)


def test_a_validator_gets_the_node_and_the_context() -> None:
    seen = []
    one = named("a", capability_validator=lambda node, ctx: seen.append((node, ctx)) or True)
    registry = ConverterRegistry.build([pack("a:a", one)])
    node, ctx = relu_node(), context(registry)
    assert registry.select(node, ctx).chosen is not None
    ((asked, given),) = seen
    assert asked is node
    assert isinstance(given, NodeContext)
    assert (given.settings, given.backend, given.target) == (ctx.settings, ctx.backend, ctx.target)
    assert given is ctx.for_validators  # made once per compile


def test_several_rejections_name_their_converters() -> None:
    no = lambda node, ctx: Reject("never")  # noqa: E731
    registry = ConverterRegistry.build(
        [pack("a:a", named("x", capability_validator=no), named("y", requires=Requires(plugins=True)))]
    )
    reason = registry.select(relu_node(), context(registry)).reason
    assert reason == "a:a:x: never; a:a:y: needs plugin layers, which fake does not have"


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("how", ["args", "insert", "kwargs", "target"])
def test_what_a_validator_changes_is_undone_and_its_pack_named(
    how: str, strict: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def meddles(node: fx.Node, ctx: Any) -> bool:
        if how == "args":
            node.args = (node.args[0],)
        elif how == "kwargs":
            node.kwargs = {"inplace": True}
        elif how == "target":
            node.target = aten.neg.default
        else:
            node.graph.call_function(RELU, node.args)
        return True

    registry = ConverterRegistry.build([pack("acme:p", named("a", capability_validator=meddles))])
    monkeypatch.setenv("TRTCORE_STRICT_PACKS", "1" if strict else "")
    node = relu_node()
    before = (node.target, node.args, node.kwargs, len(node.graph.nodes))
    if strict:
        with pytest.raises(PackError, match="changed the graph") as caught:
            registry.select(node, context(registry))
        assert caught.value.pack == "acme:p 1.0"
    else:
        forget_packs()
        with pytest.warns(PackWarning, match=r"converter a of acme:p 1\.0 changed the graph"):
            selection = registry.select(node, context(registry))
        assert selection.chosen is None
        assert "changed the graph" in selection.reason
    assert (node.target, node.args, node.kwargs, len(node.graph.nodes)) == before


@pytest.mark.parametrize("torch_has_it", [True, False], ids=["2.12 and later", "2.11"])
def test_a_validator_that_branches_on_a_symbolic_size_loses_and_specialises_nothing(
    torch_has_it: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torch.fx.experimental.symbolic_shapes import ShapeEnv

    if not torch_has_it:
        monkeypatch.delattr(ShapeEnv, "error_on_new_guards", raising=False)
    elif not hasattr(ShapeEnv, "error_on_new_guards"):
        pytest.skip(f"torch {torch.__version__} has no ShapeEnv.error_on_new_guards")
    relu, add = dynamic_nodes()
    batch = relu.meta["val"].shape[0]

    def branches(node: fx.Node, ctx: Any) -> bool:
        return bool(node.meta["val"].shape[0] == 4)

    def within_range(node: fx.Node, ctx: Any) -> bool:
        return bool(node.meta["val"].shape[0] <= 16)

    registry = ConverterRegistry.build(
        [
            pack(
                "acme:p",
                named("branches", supports_dynamic_shapes=True, capability_validator=branches),
                named("asks", supports_dynamic_shapes=True, capability_validator=within_range),
            )
        ]
    )
    selection = registry.select(relu, context(registry))
    assert "acme:p branched on a symbolic size" in selection.candidates[0].reason
    assert str(selection.chosen) == "acme:p:asks"
    for node in (relu, add):
        assert isinstance(node.meta["val"].shape[0].node.expr, type(batch.node.expr))
        assert not node.meta["val"].shape[0].node.expr.is_number


# Declaring ----------------------------------------------------------------------------------------------


def test_the_decorator_leaves_the_function_and_keeps_the_options() -> None:
    def validator(node: fx.Node, ctx: Any) -> bool:
        return True

    def function(ctx: Any, x: Any) -> None: ...

    with scoped_registry():
        declare = converter(
            [RELU, aten.neg.default],
            priority=3,
            capability_validator=validator,
            requires_output_allocator=True,
            requires=Requires(plugins=True),
            name="mine",
        )
        assert declare(function) is function
        relu, neg = converters_in(function)
        assert (relu.target, neg.target) == (RELU, aten.neg.default)
        assert (relu.priority, relu.capability_validator, relu.requires.plugins, relu.name) == (
            3,
            validator,
            True,
            "mine",
        )
        assert relu.requires_output_allocator
        assert not relu.supports_dynamic_shapes


@pytest.mark.parametrize(
    ("target", "options", "said"),
    [
        (aten.add, {}, "family of ops"),
        ("gelu", {}, "no name of an op"),
        ([], {}, "empty list"),
        (RELU, {"priority": "high"}, "priority='high' is not an int"),
        (RELU, {"priority": True}, "priority=True is not an int"),
        (RELU, {"capability_validator": 3}, "capability_validator=3 is not callable"),
        (RELU, {"requires": {"plugins": True}}, "is not a Requires"),
        (RELU, {"supports_dynamic_shapes": 1}, "is not a bool"),
    ],
)
def test_declarations_that_make_no_sense(target: Any, options: dict[str, Any], said: str) -> None:
    with scoped_registry(), pytest.raises(PackError, match=said):
        converter(target, **options)(body)


def test_a_family_of_ops_is_answered_with_its_overloads() -> None:
    with pytest.raises(PackError) as caught:
        converter(aten.add)
    assert "aten.add.Tensor, aten.add.Scalar" in str(caught.value)


def test_scopes_take_back_what_was_declared_in_them() -> None:
    before = PROCESS.converters()
    with scoped_registry():

        @converter(RELU)
        def outer(ctx: Any, x: Any) -> None: ...

        with scoped_registry():

            @converter(RELU)
            def inner(ctx: Any, x: Any) -> None: ...

            assert [c.implementation for c in PROCESS.converters()[len(before) :]] == [outer, inner]
        assert [c.implementation for c in PROCESS.converters()[len(before) :]] == [outer]
    assert PROCESS.converters() == before


def test_a_scope_is_seen_by_other_threads_and_leaves_their_declarations_alone() -> None:
    before = len(PROCESS.converters())
    seen: list[int] = []
    with scoped_registry():
        converter(RELU)(lambda ctx, x: None)

        def elsewhere() -> None:
            with scoped_registry():
                converter(RELU)(lambda ctx, x: None)
                seen.append(len(PROCESS.converters()) - before)

        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
        assert len(PROCESS.converters()) - before == 1
    assert seen == [2]
    assert len(PROCESS.converters()) == before


def test_a_notebook_cell_run_twice_replaces_its_converter_and_keeps_its_place() -> None:
    cell = """
from trtcore.pack import converter
import torch
@converter(torch.ops.aten.relu.default)
def redefined(ctx, x):
    return {}
"""
    namespace = {"__name__": "a_notebook"}
    with scoped_registry():
        before = len(PROCESS.converters())
        exec(cell.format(1), namespace)
        converter(RELU)(lambda ctx, x: None)
        exec(cell.format(2), namespace)
        found = PROCESS.converters()[before:]
        assert len(found) == 2
        assert found[0].implementation(None, None) == 2


def test_converters_in_a_source_without_any() -> None:
    with pytest.raises(PackError, match="'operator' declares no converter"):
        converters_in(operator)


def test_target_names() -> None:
    assert target_name(aten.add.Tensor) == "aten.add.Tensor"
    assert target_name(operator.getitem) == "operator.getitem"
    assert target_name(torch.ops.higher_order.cond) == "cond"
    assert target_name(torch.sym_max).endswith("sym_max")


# Arguments by name --------------------------------------------------------------------------------------


def test_arguments_are_named_defaulted_and_repeated_to_length() -> None:
    graph = fx.Graph()
    x = graph.placeholder("x")
    pool = graph.call_function(aten.avg_pool2d.default, (x, 3), {"ceil_mode": True})
    assert node_arguments(pool) == {
        "self": x,
        "kernel_size": [3, 3],
        "stride": [],
        "padding": [0, 0],
        "ceil_mode": True,
        "count_include_pad": True,
        "divisor_override": None,
    }
    assert node_arguments(graph.call_function(aten.sum.dim_IntList, (x, None)))["dim"] is None
    assert node_arguments(graph.call_function(aten.sum.dim_IntList, (x, 1)))["dim"] == [1]
    assert node_arguments(graph.call_function(operator.getitem, (x, 1))) == {"a": x, "b": 1}
    assert node_arguments(graph.call_function(max, (x, 1))) == {"0": x, "1": 1}


def test_every_defaulted_argument_list_is_a_new_one() -> None:
    graph = fx.Graph()
    x = graph.placeholder("x")
    pool = graph.call_function(aten.avg_pool2d.default, (x, [2, 2]))
    node_arguments(pool)["padding"].append(7)
    assert node_arguments(pool)["padding"] == [0, 0]


@pytest.mark.parametrize(
    ("args", "kwargs", "said"),
    [
        ((1, 2, 3), {}, "takes 1 positional arguments, and gets 3"),
        ((), {}, "lacks its argument 'self'"),
        ((1,), {"self": 1}, "gets its argument 'self' twice"),
        ((1,), {"inplace": 1}, "has no parameter inplace; it has self"),
    ],
)
def test_arguments_that_do_not_fit(args: tuple[Any, ...], kwargs: dict[str, Any], said: str) -> None:
    node = fx.Graph().call_function(RELU, args, kwargs)
    with pytest.raises(ConversionError, match=said):
        node_arguments(node)


# Verdicts -----------------------------------------------------------------------------------------------


def _nothing(node: Any, ctx: Any) -> Any:
    return None


@pytest.mark.parametrize(
    ("one", "node", "options", "verdict"),
    [
        (named("a"), None, {"torch_executed_ops": {"aten.relu"}}, "forced_to_torch"),
        (named("a"), None, {"backend": None}, "no_backend"),
        (named("a"), relu_node(torch.float64), {}, "dtype"),
        (named("a"), call(RELU, torch.eye(3).to_sparse()), {}, "layout"),
        (named("a"), dynamic_nodes()[0], {}, "dynamic_shapes"),
        (named("a", requires=Requires(plugins=True)), None, {}, "requirement"),
        (named("a", capability_validator=lambda node, ctx: Reject("no")), None, {}, "validator"),
        (named("a", capability_validator=_nothing), None, {}, "validator_failed"),
        (named("a"), call(aten.neg.default, torch.empty(2)), {}, "no_converter"),
        (named("a"), None, {}, "chosen"),
    ],
)
def test_every_cause_has_its_verdict(one: Converter, node: Any, options: Any, verdict: str) -> None:
    registry = ConverterRegistry.build([pack("acme:p", one)])
    selection = registry.select(node or relu_node(), context(registry, **options))
    assert selection.verdict is Verdict(verdict)
    assert [c.verdict for c in selection.candidates] == [verdict] * (verdict != "no_converter")
    assert (selection.reason == "") == (verdict == "chosen")


def test_candidates_that_lose_for_different_reasons_make_a_rejection() -> None:
    no = named("no", capability_validator=lambda node, ctx: Reject("no"))
    registry = ConverterRegistry.build([pack("acme:p", no, named("x", requires=Requires(plugins=True)))])
    selection = registry.select(relu_node(), context(registry))
    assert selection.verdict is Verdict.REJECTED
    assert [c.verdict for c in selection.candidates] == [Verdict.VALIDATOR, Verdict.REQUIREMENT]


def test_a_verdict_prints_as_its_value() -> None:
    assert f"{Verdict.FORCED_TO_TORCH}" == str(Verdict.FORCED_TO_TORCH) == "forced_to_torch"
    assert [one.outcome for one in (Verdict.CHOSEN, Verdict.SHADOWED, Verdict.DTYPE)] == [
        "chosen",
        "shadowed",
        "rejected",
    ]


@pytest.mark.usefixtures("trt_backend")
def test_words_of_a_validator_are_not_the_users_wish() -> None:
    """A pack may write what it likes in a reason: the op is decomposed as after any other no."""
    no = named("no", RELU, capability_validator=lambda node, ctx: Reject("forced to torch: not on Sundays"))

    class Pack:
        @hookimpl
        def decompositions(self) -> dict[Any, Any]:
            return {aten.special_bessel_j0.default: lambda x: torch.sigmoid(x) + x}

        @hookimpl
        def converters(self) -> list[Converter]:
            return [attrs.evolve(no, target=aten.special_bessel_j0.default)]

    class Model(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.special.bessel_j0(x)

    def ops(**options: Any) -> list[str]:
        with scoped_registry():
            register_pack(Pack(), name="sundays")
            inputs = [torch.ones(2, 3)]
            report = trtcore.explain(Model(), inputs=inputs, min_block_size=1, **options)
        return [node.op for node in report.nodes]

    assert ops() == ["aten.sigmoid.default", "aten.add.Tensor"]
    assert ops(torch_executed_ops={"aten.special_bessel_j0"}) == ["aten.special_bessel_j0.default"]


# The latest definition of a process ------------------------------------------------------------------------


def test_in_a_process_the_latest_definition_goes_first_and_says_so() -> None:
    with scoped_registry():

        @converter(RELU)
        def first(ctx: Any, x: Any) -> None: ...

        @converter(RELU)
        def second(ctx: Any, x: Any) -> None: ...

        registry = ConverterRegistry.build(process=PROCESS.converters())
    selection = registry.select(relu_node(), context(registry))
    assert [(c.converter.name, str(c.verdict), c.reason) for c in selection.candidates] == [
        ("second", "chosen", ""),
        ("first", "shadowed", "process:second goes first: defined later in this process"),
    ]
    assert registry.places(RELU)[1] == "process:second goes first: defined later in this process"


@pytest.mark.usefixtures("trt_backend")
def test_a_script_that_defines_a_converter_again_under_another_name() -> None:
    bessel = torch.ops.aten.special_bessel_j0.default

    class Model(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.special.bessel_j0(x) + 1

    x = torch.randn(2, 3)
    with scoped_registry():

        @converter(bessel)
        def draft(ctx: Any, x: Any) -> Any:
            return ctx.activation(x, "RELU")

        assert torch.equal(trtcore.compile(Model(), inputs=[x], min_block_size=1)(x), x.relu() + 1)

        @converter(bessel)
        def better(ctx: Any, x: Any) -> Any:
            return ctx.activation(x, "TANH")

        module = trtcore.compile(Model(), inputs=[x], min_block_size=1)
    torch.testing.assert_close(module(x), x.tanh() + 1)
    (node,) = [node for node in module.report.nodes if node.op == "aten.special_bessel_j0.default"]
    assert [(one.converter, one.reason) for one in node.candidates] == [
        ("better", ""),
        ("draft", "process:better goes first: defined later in this process"),
    ]


def test_priority_still_goes_before_the_latest_definition() -> None:
    process = [named("strong", priority=1), named("late")]
    assert chosen(ConverterRegistry.build(process=process)) == "process:strong"


# Refusals and names that are nearly right -------------------------------------------------------------------


def refusing(identity: str, target: Any, reason: str) -> LoadedPack:
    loaded = pack(identity)
    return replace(loaded, refusals=(Refusal(target, reason, loaded.info),))


def test_a_refusal_is_the_reason_and_names_its_pack() -> None:
    registry = ConverterRegistry.build([refusing("trtcore:aten", RELU, "it cannot be"), pack("a:a")])
    selection = registry.select(relu_node(), context(registry))
    assert selection.reason == "it cannot be (refused by trtcore:aten)"
    assert (selection.verdict, selection.candidates) == (Verdict.REFUSED, ())
    forced = registry.select(relu_node(), context(registry, torch_executed_ops={"aten.relu"}))
    assert forced.verdict is Verdict.FORCED_TO_TORCH


def test_a_converter_for_a_refused_op_is_asked() -> None:
    refused = refusing("trtcore:aten", RELU, "it cannot be")
    assert chosen(ConverterRegistry.build([refused, pack("a:a", named("mine"))])) == "a:a:mine"
    picky = named("picky", capability_validator=lambda node, ctx: Reject("only on Sundays"))
    registry = ConverterRegistry.build([refused, pack("a:a", picky)])
    selection = registry.select(relu_node(), context(registry))
    assert selection.reason == "a:a:picky: only on Sundays; it cannot be (refused by trtcore:aten)"


def test_a_refusal_of_an_op_that_is_not_there_waits() -> None:
    registry = ConverterRegistry.build([refusing("a:a", "nolibrary::op", "never")])
    assert registry.refusals == ()


@pytest.mark.parametrize(("target", "reason"), [(RELU, ""), (RELU, "  "), (RELU, 3), (3, "why")])
def test_a_refusal_without_op_or_reason(target: Any, reason: Any) -> None:
    with pytest.raises(PackError):
        Refusal(target, reason)


@pytest.mark.parametrize("written", ["aten::cumsumm", "aten::cunsum", "aten.cumsumm.default"])
def test_a_misspelled_op_is_hinted_at(written: str) -> None:
    registry = ConverterRegistry.build([pack("acme:ops", named("scan", written))])
    node = call(aten.cumsum.default, torch.empty(2), 0)
    reason = registry.select(node, context(registry)).reason
    op = written.replace("aten.", "aten::")
    assert (
        f"acme:ops:scan waits: nothing in this process has registered the op {op}; is its name mis" in reason
    )
    far = registry.select(call(aten.neg.default, torch.empty(2)), context(registry)).reason
    assert far == "no converter for aten.neg.default in any pack"


# NodeContext -------------------------------------------------------------------------------------------------


def test_a_validator_of_the_wider_context_goes_on_working_and_is_told() -> None:
    def wide(node: fx.Node, ctx: Any) -> bool:
        return bool(ctx.registry.candidates(node.target))

    registry = ConverterRegistry.build([pack("a:a", named("wide", capability_validator=wide))])
    ctx = context(registry)
    with pytest.warns(DeprecationWarning, match=r"ctx.registry in a capability validator is deprecated"):
        assert registry.select(relu_node(), ctx).chosen is not None


def test_a_node_context_is_narrow_and_frozen() -> None:
    ctx = context(ConverterRegistry.build([])).for_validators
    with pytest.raises(AttributeError, match="has settings, backend and target, and no 'nodes'"):
        _ = ctx.nodes
    with pytest.raises(AttributeError):
        ctx.backend = None  # type: ignore[misc]


def test_requirements_take_what_a_set_can_be_made_of() -> None:
    assert Requires(layers=["add_nms"], features=iter(["x"])).layers == {"add_nms"}
    assert Requires(layers={"a"}) == Requires(layers=("a",))
    assert hash(Requires(layers={"a"})) == hash(Requires(layers=("a",)))


# Exceptions that cannot be shown -----------------------------------------------------------------------------


class Mute(RuntimeError):
    """Neither its str nor its repr can be made."""

    def __str__(self) -> str:
        raise ValueError("no words")

    __repr__ = __str__


def _mute(*_: Any) -> Any:
    raise Mute


def test_a_validator_whose_exception_cannot_be_shown() -> None:
    reason = only_reason(named("a", capability_validator=_mute))
    assert reason == "capability validator of acme:p raised <Mute, whose text cannot be made>"


def test_a_reason_and_an_answer_that_cannot_be_shown() -> None:
    for answer in (Reject(Mute()), Mute()):  # type: ignore[arg-type]
        reason = only_reason(named("a", capability_validator=lambda node, ctx, answer=answer: answer))
        assert "<Mute, whose text cannot be made>" in reason
