"""A canary for what the kernels' pack takes from torch's private parts: each says what a new torch has changed."""

from __future__ import annotations

import pytest
import sympy
import torch
from torch.fx.experimental.symbolic_shapes import ShapeEnv

from trtcore_plugins import torch_private as private

CHANGED = f"torch {torch.__version__} has changed"


def test_parse_schema():
    schema = private.parse_schema("ns::op(Tensor x, float alpha=1.0) -> Tensor")
    assert [argument.name for argument in schema.arguments] == ["x", "alpha"], f"{CHANGED} its schema parser"
    with pytest.raises(RuntimeError):
        private.parse_schema("ns::op(Tensor")


def test_symbolic_sizes():
    environment = ShapeEnv(specialize_zero_one=False, duck_shape=False)
    symbol, size = private.symbolic_size(environment, "x.0", 6)
    with private.fake_tensors(environment), private.python_dispatcher():
        x = torch.empty((size, 3))
        halved = x.unflatten(0, (2, -1)).shape[1]
    assert halved.node.expr.free_symbols == {symbol}, f"{CHANGED} how a ShapeEnv makes sizes"
    assert int(halved) == 3


def test_upper_bound():
    environment = ShapeEnv(specialize_zero_one=False, duck_shape=False)
    _, size = private.symbolic_size(environment, "x.0", 6)
    assert private.upper_bound(size) is None
    environment.constrain_symbol_range(size.node.expr, 0, 9) if hasattr(
        environment, "constrain_symbol_range"
    ) else (torch._check(size <= 9))
    assert private.upper_bound(size * 2) == 18, f"{CHANGED} ShapeEnv.bound_sympy"


def test_floor_divide():
    n = sympy.Symbol("n", integer=True, positive=True)
    assert private.floor_divide(n, 2).subs(n, 5) == 2, f"{CHANGED} FloorDiv"


def test_decompositions():
    assert callable(private.decompositions()[torch.ops.aten.addcmul.default]), f"{CHANGED} its decompositions"


def test_shares_storage():
    x = torch.ones(4)
    assert private.shares_storage(x, x[1:]), f"{CHANGED} how storages are told apart"
    assert not private.shares_storage(x, x.clone())
