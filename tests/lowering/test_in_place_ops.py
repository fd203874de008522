"""Every in-place op of ATen that torch has samples for: on a tensor whose views are written or read, and through a view."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch.export import Dim, export
from torch.testing._internal.common_methods_invocations import op_db

import trtcore
from trtcore.context import CompileContext
from trtcore.frontend.export import program_from_exported
from trtcore.ir.graphs import mutates
from trtcore.lowering.functionalize import functionalize
from trtcore.packs.loading import build_registry
from trtcore.settings import CompilationSettings

SHIPPED = CompileContext(CompilationSettings(), build_registry(CompilationSettings()))

COMMON = frozenset(
    [
        "__getitem__",
        "add",
        "clamp",
        "copysign",
        "cumsum",
        "div",
        "eq",
        "fill",
        "floor_divide",
        "index_copy",
        "index_fill",
        "index_put",
        "logical_not",
        "masked_fill",
        "mul",
        "pow",
        "relu",
        "scatter",
        "sigmoid",
        "sub",
        "tril",
        "where",
        "zero_",
    ]
)
OPS = {
    op.full_name: op for op in op_db
    if op.get_inplace() is not None and op.supports_dtype(torch.float32, "cpu")
}  # fmt: skip
SEED = 42
"""What draws numbers draws the same; torch's samples of some ops set this one themselves."""
SHAPE = frozenset({"resize_", "resize_as_", "squeeze", "unsqueeze", "t", "transpose", "swapaxes", "swapdims"})
"""These change how a tensor looks and not what is in it; `test_new_shapes` has them."""


def names() -> Iterator[Any]:
    for name in sorted(OPS):
        if name.split(".")[0] not in SHAPE:
            yield pytest.param(name, marks=() if name in COMMON else pytest.mark.slow)


def beside_a_written_view(x: torch.Tensor, write: Callable[[torch.Tensor], Any]) -> tuple[torch.Tensor, ...]:
    own = x.clone()
    start = own.view(-1)[:1]
    write(own)
    before = start.clone()
    start.zero_()
    return own, before, own.clone()


def through_a_view(x: torch.Tensor, write: Callable[[torch.Tensor], Any]) -> tuple[torch.Tensor, ...]:
    base = torch.stack([x, x])
    write(base[1])
    return base, base[1].clone()


class Writes(torch.nn.Module):
    def __init__(self, body: Callable[..., Any], write: Callable[[torch.Tensor], Any]) -> None:
        super().__init__()
        self.body, self.write = body, write

    def forward(self, x: torch.Tensor) -> Any:
        return self.body(x, self.write)


def sample(name: str) -> Any:
    """The first sample whose in-place form eager takes, on a tensor with elements."""
    op = OPS[name]
    torch.manual_seed(0)
    for one in op.sample_inputs("cpu", torch.float32, requires_grad=False):
        if not isinstance(one.input, torch.Tensor) or not one.input.numel():
            continue
        try:
            op.get_inplace()(one.input.clone(), *one.args, **one.kwargs)
        except (RuntimeError, TypeError):
            continue
        return one
    pytest.skip("no sample can be written in place")


@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
@pytest.mark.parametrize("body", [beside_a_written_view, through_a_view])
@pytest.mark.parametrize("name", names())
@torch.no_grad()
def test_as_eager(name: str, body: Callable[..., Any], dynamic: bool) -> None:
    given = sample(name)
    x = given.input.contiguous()
    if dynamic and (not x.dim() or x.shape[0] < 2):
        pytest.skip("no dim that can vary")
    in_place = OPS[name].get_inplace()
    module = Writes(body, lambda tensor: in_place(tensor, *given.args, **given.kwargs))
    torch.manual_seed(SEED)
    want = module(x.clone())
    shapes = {"x": {0: Dim.AUTO(min=2, max=64)}} if dynamic else None
    program = program_from_exported(export(module, (x.clone(),), dynamic_shapes=shapes, strict=False))
    lowered = functionalize(program.graph_module, SHIPPED)
    assert not any(map(mutates, lowered.graph.nodes))
    torch.manual_seed(SEED)
    got = lowered(x.clone())
    for mine, theirs in zip(got, want, strict=True):
        assert mine.dtype == theirs.dtype
        assert mine.shape == theirs.shape
        torch.testing.assert_close(mine, theirs, equal_nan=True)


@pytest.mark.parametrize(
    "change",
    [
        lambda y: y.resize_(2, 2),
        lambda y: y.t_(),
        lambda y: y.unsqueeze_(0),
        lambda y: y.transpose_(0, 1).add_(1),
        lambda y: y.unsqueeze_(0).squeeze_(0).t_().mul_(2),
        lambda y: y.t_().add_(y.detach().t_().sum(1)).unsqueeze_(-1),
        lambda y: y.squeeze_().unsqueeze_(-1).unsqueeze_(0).swapdims_(1, 2),
    ],
)
@torch.no_grad()
def test_new_shapes(change: Callable[[torch.Tensor], torch.Tensor]) -> None:
    """A tensor of the model's own may change its shape."""
    module = Writes(lambda x, write: (write(x + 1) * 2,), change)
    x = torch.randn(3, 4)
    program = program_from_exported(export(module, (x,), strict=False))
    lowered = functionalize(program.graph_module, SHIPPED)
    assert not any(map(mutates, lowered.graph.nodes))
    torch.testing.assert_close(lowered(x)[0], module(x)[0])


@torch.no_grad()
def test_two_names_of_a_tensor_whose_shape_changes_twice() -> None:
    def change(y: torch.Tensor) -> torch.Tensor:
        also = y
        y.t_().unsqueeze_(0)
        also.mul_(2).squeeze_(0)
        return y + also.sum(0)

    module = Writes(lambda x, write: (write(x + 1),), change)
    x = torch.randn(3, 4)
    compiled = trtcore.compile(module, inputs=[x], min_block_size=1)
    torch.testing.assert_close(compiled(x), module(x))


def test_what_fake_tensors_cannot_do_is_not_on_the_screen(capfd: pytest.CaptureFixture[str]) -> None:
    class Windows(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            padded = torch.nn.functional.pad(x, (0, -x.shape[1] % 4)).view(2, -1, 4)
            return padded.transpose(1, 2).reshape(2, -1)[:, : x.shape[1]]

    given = trtcore.Input(min_shape=(2, 8), opt_shape=(2, 12), max_shape=(2, 16))
    module = trtcore.compile(Windows(), inputs=[given], min_block_size=1)
    assert capfd.readouterr() == ("", "")
    for length in range(8, 17):
        x = torch.randn(2, length)
        torch.testing.assert_close(module(x), Windows()(x))
