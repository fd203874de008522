"""Writes to views that overlap themselves, and by ops of somebody else's that torch's ``auto_functionalized`` refuses."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import trtcore
from trtcore.errors import ArtifactError, ExportError, InputError
from trtcore.ir.graph_json import node_from_json
from trtcore.runtime.functional_write import functional_write

BATCH = trtcore.Input(min_shape=(3, 4), opt_shape=(3, 4), max_shape=(8, 4))
ROUTES = ["static", "dynamic", "torch.compile", "torch.compile dynamic"]


class Model(nn.Module):
    def __init__(self, body: Callable[[Model, Tensor], Any]) -> None:
        super().__init__()
        self.body = body
        self.register_buffer("b", torch.arange(4.0))
        self.register_buffer("c", torch.ones(4))

    def forward(self, x: Tensor) -> Any:
        return self.body(self, x)


def compiled(body: Callable[[Model, Tensor], Any], route: str) -> Callable[..., Any]:
    model = Model(body).eval()
    if route.startswith("torch.compile"):
        torch._dynamo.reset()
        dynamic = True if route.endswith("dynamic") else None
        return torch.compile(model, backend="trtcore", dynamic=dynamic, options={"min_block_size": 1})
    return trtcore.compile(model, inputs=[BATCH if route == "dynamic" else example(3)], min_block_size=1)


def example(batch: int) -> Tensor:
    return torch.arange(4.0 * batch).view(batch, 4) - 5


def compare(eager: Model, run: Callable[..., Any], batch: int) -> None:
    mine, theirs = example(batch), example(batch)
    torch.testing.assert_close(run(mine), eager(theirs))
    torch.testing.assert_close(mine, theirs)


def compare_calls(body: Callable[..., Any], route: str) -> None:
    """Two calls of one module, at two sizes where they may vary, against eager."""
    eager, run = Model(body).eval(), compiled(body, route)
    for batch in (3, 3) if "dynamic" not in route else (3, 5):
        compare(eager, run, batch)


# ---- views that overlap themselves ----------------------------------------------------------------------------


def windows(self: Model, x: Tensor) -> Any:
    y = x * 2
    y.unfold(0, 2, 1).add_(1)
    return y + 1


def windows_apart(self: Model, x: Tensor) -> Any:
    y = x * 2
    y.unfold(0, 2, 2).zero_()  # leaves the last row of three
    return y + 1


def window_of_windows(self: Model, x: Tensor) -> Any:
    y = x * 2
    y[:, 1:].unfold(1, 2, 1)[::2].mul_(3)
    return y + 1, y.t() * 2


def expanded(self: Model, x: Tensor) -> Any:
    y = x * 2
    y[:1].expand(3, 4).fill_(7.0)
    return y + 1


def row_of_expanded(self: Model, x: Tensor) -> Any:
    y = x * 2
    y[0].expand(4, 4).diagonal().mul_(-3)
    y.add_(1)
    return y + 1


def strided(self: Model, x: Tensor) -> Any:
    y = x * 2
    y.as_strided((3, 2), (1, 1), 1).cumsum_(0)
    return y + 1


def strided_apart(self: Model, x: Tensor) -> Any:
    y = x * 2
    y.as_strided((2, 2), (4, 2)).mul_(5)
    return y + 1


def part_of_strided(self: Model, x: Tensor) -> Any:
    y = x * 2
    v = y[::2].as_strided((2, 2), (2, 1))
    v.view_as(v)[1].mul_(3)
    self.b.as_strided((2, 2), (2, 1))[0].add_(1)
    return y + 1, v, self.b


def buffer(self: Model, x: Tensor) -> Any:
    self.b.expand(2, 4).mT.diagonal().clamp_min_(2)
    self.b.unfold(0, 2, 1)[1].add_(1)
    return x + self.b


def own_input(self: Model, x: Tensor) -> Any:
    x.unfold(0, 2, 1).mul_(2)
    return x + 1


OVERLAPPING = [
    windows, windows_apart, window_of_windows, expanded, row_of_expanded, strided, strided_apart, part_of_strided,
    buffer, own_input,
]  # fmt: skip


@pytest.mark.parametrize(
    ("body", "route"),
    [(body, "static") for body in OVERLAPPING]
    + [(body, "torch.compile") for body in (windows_apart, expanded, part_of_strided, buffer)]
    + [(body, "dynamic") for body in (windows, row_of_expanded)]
    + [(body, "torch.compile dynamic") for body in (window_of_windows, own_input)]
    + [
        pytest.param(body, route, marks=pytest.mark.slow)
        for body in OVERLAPPING
        for route in ROUTES[1:]
    ],
    ids=lambda value: getattr(value, "__name__", value),
)  # fmt: skip
@torch.no_grad()
def test_as_eager(body: Callable[..., Any], route: str) -> None:
    compare_calls(body, route)


@torch.no_grad()
def test_what_eager_refuses_is_refused() -> None:
    def body(self: Model, x: Tensor) -> Tensor:
        y = x * 2
        y[:1].expand(3, 4).add_(1)
        return y

    with pytest.raises(RuntimeError, match="more than one element of the written-to tensor"):
        Model(body)(example(3))
    with pytest.raises(RuntimeError, match="more than one element of the written-to tensor"):
        compiled(body, "static")(example(3))


@pytest.mark.filterwarnings("ignore:.*elements of which share memory:RuntimeWarning")
@torch.no_grad()
def test_an_expanded_tensor_behind_a_graph_break() -> None:
    def body(self: Model, x: Tensor) -> Tensor:
        rows = self.b.expand(2, 4)
        torch._dynamo.graph_break()
        rows.mT.diagonal().clamp_min_(2)
        return x + self.b

    eager, run = Model(body).eval(), compiled(body, "torch.compile")
    compare(eager, run, 3)


def test_memory_beyond_a_tensor_is_refused() -> None:
    class Beyond(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            x.as_strided((3, 3), (2, 2)).add_(1)
            return x * 2

    with pytest.raises(ExportError, match="memory of x that is no part of that tensor") as told:
        trtcore.compile(Beyond(), inputs=[torch.zeros(4, 4)[0]], min_block_size=1)
    assert "test_memory_writes.py" in str(told.value)


def every_second(x: Tensor) -> Any:
    x.as_strided((2,), (4,)).mul_(2)  # elements of x, and of none beside it
    return x + 1


def between(x: Tensor) -> Any:
    x.as_strided((4,), (1,)).mul_(2)
    return x + 1


def behind(x: Tensor) -> Any:
    v = x.as_strided((2, 4), (4, 1))
    x.add_(1)
    return v * 2


def from_the_start(x: Tensor) -> Any:
    x.as_strided((2, 2), (2, 1), 1).mul_(2)
    return x + 1


def from_the_start_read(x: Tensor) -> Any:
    return x.as_strided((2, 2), (2, 1), 1) * 2


LOOKS = [every_second, between, behind, from_the_start, from_the_start_read]


def parts_of(memory: Tensor) -> list[Tensor]:
    return [memory[:4], memory[4:8], memory[1:9:2]]


@pytest.mark.filterwarnings("ignore:.*such calls run in torch:RuntimeWarning")
@pytest.mark.parametrize("function", LOOKS)
@torch.no_grad()
def test_looks_beside_a_tensor(function: Callable[[Tensor], Any]) -> None:
    """Memory between the elements of an input, behind them and before them is as in eager, too."""
    torch._dynamo.reset()
    fast = torch.compile(function, backend="trtcore", options={"min_block_size": 1})
    for place in (2, 0, 1, 2):
        mine, theirs = torch.arange(16.0), torch.arange(16.0)
        found, expected = fast(parts_of(mine)[place]), function(parts_of(theirs)[place])
        torch.testing.assert_close(found, expected)
        torch.testing.assert_close(mine, theirs)


class Looking(nn.Module):
    def __init__(self, function: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Any:
        return self.function(x)


@pytest.mark.parametrize(
    ("function", "place"), [(between, 2), (behind, 0), (behind, 2), (from_the_start, 1), (every_second, 0)]
)
def test_looks_beside_a_tensor_are_refused_ahead_of_time(
    function: Callable[[Tensor], Any], place: int
) -> None:
    with pytest.raises(ExportError, match="memory of x that is no part of that tensor") as told:
        trtcore.compile(Looking(function), inputs=[parts_of(torch.zeros(16))[place]], min_block_size=1)
    assert "x.clone()" in str(told.value)


@torch.no_grad()
def test_a_look_at_elements_of_a_tensor_with_gaps() -> None:
    mine, theirs = torch.arange(16.0), torch.arange(16.0)
    module = trtcore.compile(Looking(every_second), inputs=[parts_of(mine)[2]], min_block_size=1)
    torch.testing.assert_close(module(parts_of(mine)[2]), every_second(parts_of(theirs)[2]))
    torch.testing.assert_close(mine, theirs)


# ---- ops of somebody else's ------------------------------------------------------------------------------------


def _add(mode: Tensor, x: Tensor) -> None:
    mode.add_(x)


def _scale(x: Tensor, *, _mutable_op: float = 2.0, ctx: bool = False) -> None:
    x.mul_(_mutable_op + ctx)


def _both(a: Tensor, b: Tensor | None, dispatch_key: int) -> None:
    a.add_(dispatch_key)
    if b is not None:
        b.add_(a.sum())


def _each(ts: list[Tensor], k: float) -> None:
    for one in ts:
        one.add_(k)


def _made(a: Tensor, x: Tensor) -> list[Tensor]:
    a.add_(x)
    return [a * 3, x + 1]


for _function, _written in ((_add, "mode"), (_scale, "x"), (_both, ("a", "b")), (_each, "ts"), (_made, "a")):
    _op = torch.library.custom_op(f"memory_writes::{_function.__name__[1:]}", _function, mutates_args=tuple([_written] if isinstance(_written, str) else _written))  # fmt: skip
    if _function is _made:
        _op.register_fake(lambda a, x: [torch.empty_like(a), torch.empty_like(x)])

_library = torch.library.Library("memory_writes", "FRAGMENT")
_library.define("mixed(Tensor(a!) self, Tensor(b!) other, Tensor x) -> (Tensor(a!), Tensor, Tensor(b!))")
_library.impl("mixed", lambda a, b, x: (a.add_(x), x + 5, b.mul_(2)), "CompositeExplicitAutograd")
torch.library.register_fake("memory_writes::mixed", lambda a, b, x: (a, torch.empty_like(x), b), lib=_library)
ops = torch.ops.memory_writes


def named_mode(self: Model, x: Tensor) -> Any:
    y = x * 2
    ops.add(y[1:], x[1:])
    return y + 1


def keyword_only(self: Model, x: Tensor) -> Any:
    y = x * 2
    ops.scale(y.t(), _mutable_op=3.0, ctx=True)
    return y + 1


def optional(self: Model, x: Tensor) -> Any:
    y, z = x * 2, x + 1
    ops.both(y, None, 2)
    ops.both(y, z, x.shape[0])
    return y + z


def shared(self: Model, x: Tensor) -> Any:
    y = x * 2
    ops.both(y, y[1:], 2)
    ops.each([y[0], y[:, 1], y[0]], 1.5)
    return y + 1


def returned(self: Model, x: Tensor) -> Any:
    y, z = x * 2, x + 1
    more, other = ops.made(y, z)
    first, new, second = ops.mixed(y, z, x)
    first.add_(1)
    return more + other * y, new * z, second


def state(self: Model, x: Tensor) -> Any:
    ops.add(self.b, x[0])
    ops.both(self.c[:2], self.c[2:], 1)
    ops.add(x[:, 1], x[:, 0] * 2)
    return self.b + self.c + x


def several(self: Model, x: Tensor) -> Any:
    y = x * 2
    ops.scale(y)
    y = y + 1
    ops.add(y.unfold(0, 2, 1)[0], y[:1].t() * 2)
    return y.mul_(2)


FOREIGN = [named_mode, keyword_only, optional, shared, returned, state, several]


@pytest.mark.parametrize(
    ("body", "route"),
    [(body, "static") for body in FOREIGN]
    + [(named_mode, "torch.compile"), (state, "torch.compile"), (optional, "torch.compile dynamic")]
    + [pytest.param(body, route, marks=pytest.mark.slow) for body in FOREIGN for route in ROUTES[1:]],
    ids=lambda value: getattr(value, "__name__", value),
)  # fmt: skip
@torch.no_grad()
def test_foreign_ops_as_eager(body: Callable[..., Any], route: str) -> None:
    compare_calls(body, route)


@pytest.mark.parametrize("body", [state, windows_apart])
@torch.no_grad()
def test_saved_pickled_copied(body: Callable[..., Any], tmp_path: Path) -> None:
    run: Any = compiled(body, "dynamic")
    trtcore.save(run, tmp_path / "m.pt2")
    for one in (trtcore.load(tmp_path / "m.pt2"), pickle.loads(pickle.dumps(run)), copy.deepcopy(run)):
        compare(Model(body), one, 5)
    again = torch.export.export(run, (example(4),), strict=False).module()
    compare(Model(body), again, 4)
    torch._dynamo.reset()
    # A module that writes to its inputs looks at their memory beside the graph, in every call.
    run = compiled(body, "static")
    compare(Model(body), torch.compile(run, backend="eager", fullgraph=body is not state), 3)


def test_a_file_may_call_what_it_may_call_itself() -> None:
    def node(op: str, values: Any, views: Any = ()) -> Any:
        call = json.dumps(["tuple", ["tuple", *values], ["tuple", ["tuple", 1]], ["tuple", *views]])
        args = ["tuple", op, call, ["list"], ["list"], ["list"]]
        return [
            "call_function",
            "n",
            ["op", "trtcore.functional_write.default"],
            args,
            ["dict"],
            None,
            None,
            [],
        ]

    node_from_json(node("aten.zero_.default", [["node", "v0"]]))
    for op, values, text in [
        ("aten.from_file.default", ["path", True, 1], "it may not be run"),
        ("aten.resize_.default", [["node", "v0"], ["list", 1]], "it may not be run"),
        ("memory_writes.add.default", ["/etc/passwd", 1], "given the text"),
        ("nothing.of_that_name.default", [], "no torch op of that name"),
    ]:
        with pytest.raises(ArtifactError, match=text):
            node_from_json(node(op, values))
    absent = next(name for name in ("map", "map_impl", "none") if not hasattr(torch.ops.higher_order, name))
    if absent != "none":
        with pytest.raises(ArtifactError, match=f"higher-order op {absent}, which torch"):
            node_from_json(
                ["call_function", "n", ["higher_order", absent], ["tuple"], ["dict"], None, None, []]
            )
    bad = node("aten.zero_.default", [])
    for call in ("[", "[" * 100_000, "3", '["tuple"]', None):
        bad[3][2] = call
        with pytest.raises(ArtifactError, match="the call"):
            node_from_json(bad)


def test_an_op_that_nothing_has_registered() -> None:
    with pytest.raises(InputError, match="no torch op of that name is registered"):
        functional_write("nothing.like_it.default", "", [], [], [])


def beyond_a_short_one(x: Tensor) -> Any:
    x[0].as_strided((2, 2), (2, 1)).zero_()
    return x + 1


def part_of_a_split_buffer(self: Model, x: Tensor) -> Any:
    return self.b.split(1)[0].as_strided((2, 2), (2, 1)) + x[0, 0], x.split(1)[1].as_strided(
        (2, 2), (2, 1)
    ) * 2


@torch.no_grad()
def test_a_size_for_which_a_write_lies_behind_an_input() -> None:
    rows = trtcore.Input(min_shape=(2,), opt_shape=(4,), max_shape=(8,))
    module = trtcore.compile(Looking(beyond_a_short_one), inputs=[rows], min_block_size=1)
    for size in (4, 6):
        torch.testing.assert_close(
            module(torch.arange(float(size))), beyond_a_short_one(torch.arange(float(size)))
        )
    with pytest.raises(InputError, match=r"has 3: of sizes \[3\]"):
        module(torch.arange(8.0)[:3])


@torch.no_grad()
def test_a_look_at_the_memory_of_which_a_part_was_taken() -> None:
    """By the tensor that has it, and not by what ``split`` gives."""
    eager = Model(part_of_a_split_buffer).eval()
    found = compiled(part_of_a_split_buffer, "static")(example(3))
    torch.testing.assert_close(found, eager(example(3)))
