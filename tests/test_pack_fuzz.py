"""Packs that return nonsense or raise, at every hook and inside everything they gave: a compile goes on and is right."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

import trtcore
from trtcore.errors import ConversionError, PackError, TrtcoreError
from trtcore.pack import Converter, LoweringPass, Pattern, Reject, hookimpl, scoped_registry
from trtcore.packs import loading as packs
from trtcore.packs.listing import names_given
from trtcore.packs.loading import PackWarning, register_pack

aten = torch.ops.aten
pytestmark = pytest.mark.usefixtures("trt_backend")

FAILURES: tuple[Any, ...] = (
    ValueError("no"), KeyError(3), RuntimeError(), SystemExit(3), AssertionError(), RecursionError("deep"),
    PackError("pack says no"), ConversionError("not so"), StopIteration(), pytest.skip.Exception("skipped"),
)  # fmt: skip
NONSENSE: tuple[Any, ...] = (
    None,
    0,
    "text",
    [],
    {},
    object(),
    float("nan"),
    torch.zeros(2),
    (1, 2),
    NotImplemented,
    type,
)


def doing(what: Any) -> Callable[..., Any]:
    """A function that raises `what`, or returns it."""

    def body(*args: Any, **kwargs: Any) -> Any:
        if isinstance(what, BaseException):
            raise what
        return what

    return body


anything = st.sampled_from(FAILURES + NONSENSE)
bodies = anything.map(doing)


def _wrecks(graph_module: Any, ctx: Any) -> None:
    for node in list(graph_module.graph.nodes):
        if node.op == "call_function":
            node.args = ()
    raise ValueError("in the middle")


def _empties(graph_module: Any, ctx: Any) -> None:
    graph_module.graph.output_node().args = ((),)


def _forgets(graph_module: Any, ctx: Any) -> None:
    for node in graph_module.graph.nodes:
        node.meta.clear()


def _retypes(graph_module: Any, ctx: Any) -> None:
    output = graph_module.graph.output_node()
    (source,) = output.args[0]
    with graph_module.graph.inserting_before(output):
        cast = graph_module.graph.call_function(aten.to.dtype, (source, torch.float16))
    cast.meta["val"] = source.meta["val"].half()
    output.args = ((cast,),)


def _meddles(node: Any, ctx: Any) -> bool:
    node.args = ()
    node.graph.call_function(aten.relu.default, ())
    return True


OPS = (
    aten.relu.default,
    aten.linear.default,
    aten.add.Tensor,
    aten.sigmoid.default,
    "nolibrary::op",
    "aten::mul",
)
NAMES = ("a", "b", "decompose", "functionalize", "remove_noops")

converters = st.lists(
    st.builds(
        Converter,
        target=st.sampled_from(OPS),
        implementation=bodies,
        priority=st.sampled_from([-100, 0, 100]),
        capability_validator=st.none()
        | bodies
        | st.just(_meddles)
        | st.just(doing(True))
        | st.just(doing(Reject(""))),
        supports_dynamic_shapes=st.booleans(),
        name=st.sampled_from(["one", "two"]),
    ),
    max_size=4,
)
patterns = st.lists(
    st.builds(
        lambda body, function: Converter(Pattern(function, (torch.empty(2, 4),)), body, name="p"),
        bodies,
        st.sampled_from(
            [lambda x: torch.relu(torch.sigmoid(x)), lambda x: x, lambda x: x.nothing(), lambda x: 3]
        ),
    ),
    max_size=2,
)
lowering_passes = st.lists(
    st.builds(
        LoweringPass,
        name=st.sampled_from(NAMES[:2]),
        run=bodies | st.sampled_from([_wrecks, _empties, _forgets, _retypes]),
        before=st.lists(st.sampled_from(NAMES), max_size=2).map(tuple),
        after=st.lists(st.sampled_from(NAMES), max_size=2).map(tuple),
    ),
    max_size=2,
    unique_by=lambda one: one.name,
)
decompositions = st.dictionaries(
    st.sampled_from([aten.erfinv.default, aten.relu.default, "nolibrary::op"]), bodies
)


class Model(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.erfinv(torch.relu(torch.sigmoid(self.linear(x))) * 0.5) + 1


def a_pack(**hooks: Callable[[], Any]) -> Any:
    def method(give: Callable[[], Any]) -> Any:
        return lambda self: give()

    made = {name: hookimpl(specname=name)(method(give)) for name, give in hooks.items() if name != "observe"}
    if "observe" in hooks:
        made["observe"] = hookimpl(specname="observe")(lambda self, event: hooks["observe"]())
    return type("Fuzzed", (), made)()


torch.manual_seed(0)
MODEL, X = Model().eval(), torch.randn(2, 4)
EXPORTED = torch.export.export(MODEL, (X,))
EXPECTED = MODEL(X).detach()


def check() -> Any:
    """The exported model, compiled with what is registered, gives eager's numbers."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        compiled = trtcore.dynamo.compile(EXPORTED, min_block_size=1, runtime="reference")
    torch.testing.assert_close(compiled(X), EXPECTED)
    return compiled.report


few = settings(
    max_examples=12,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)


@few
@given(converters=converters, patterns=patterns, passes=lowering_passes, table=decompositions, observe=bodies)
def test_what_packs_give_may_fail_anywhere(
    converters: Any, patterns: Any, passes: Any, table: Any, observe: Any
) -> None:
    with scoped_registry():
        pack = a_pack(
            converters=lambda: [*patterns, *converters],
            lowering_passes=lambda: passes,
            decompositions=lambda: table,
            observe=observe,
        )
        register_pack(pack, name="fuzzed")
        check()


HOOKS = ("converters", "decompositions", "lowering_passes", "kernel_plugins", "backends", "partitioners")


@settings(few, max_examples=60)
@given(hook=st.sampled_from(HOOKS), give=bodies)
def test_a_hook_that_fails_is_the_packs_own_failure(hook: str, give: Any) -> None:
    """Either what it returned is nothing, or loading is refused with a PackError and nothing of it acts."""
    with scoped_registry():
        try:
            register_pack(a_pack(**{hook: give}), name="fuzzed")
        except PackError:
            return
        (pack,) = (pack for pack in packs.load_packs() if pack.info.name == "fuzzed")
        assert not any(names_given(pack).values())


@pytest.mark.parametrize("run", [_wrecks, _empties, _forgets, _retypes, doing(3), doing(SystemExit(1))])
def test_a_pass_that_fails_is_undone_and_named_and_strict_mode_raises(run: Any, monkeypatch: Any) -> None:
    packs.forget_packs()
    with scoped_registry():
        register_pack(a_pack(lowering_passes=lambda: [LoweringPass("bad", run)]), name="fuzzed")
        report = check()
        assert "aten.linear.default" in [node.op for node in report.converted]
        packs.forget_packs()
        with pytest.warns(
            PackWarning, match=r"lowering pass 'bad' of in-process:fuzzed 0 .*goes on without it"
        ):
            trtcore.dynamo.explain(EXPORTED)
        monkeypatch.setenv("TRTCORE_STRICT_PACKS", "1")
        with pytest.raises(TrtcoreError, match="'bad'"):
            trtcore.dynamo.explain(EXPORTED)


def test_a_decomposition_that_returns_something_else_is_not_used() -> None:
    with scoped_registry():
        table = {aten.erfinv.default: lambda x: x.half()}
        register_pack(a_pack(decompositions=lambda: table), name="fuzzed")
        (left,) = check().in_torch
        assert "it returns torch.float16[2, 4], and the op torch.float32[2, 4]" in left.reason
