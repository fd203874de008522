"""A canary for everything that the package takes from torch's private parts."""

from __future__ import annotations

import importlib
import itertools
from types import ModuleType
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from trtcore_contrib_torch_tensorrt import torch_private as private


@pytest.fixture
def env() -> Any:
    return private.shape_env(itertools.count(7_000_000_000).__next__)


def test_symbols_have_the_numbers_that_are_asked_for(env: Any) -> None:
    symbol = private.new_symbol(env, 5, "a")
    assert symbol.name == "s7000000000"
    assert private.model_hint(env, symbol) == 5
    size = private.symint(env, symbol * 2 + 1)
    assert private.hint_of(size) == 11
    assert size.node.expr == symbol * 2 + 1
    assert private.symint(env, (symbol - symbol) + 3) == 3


def test_a_size_of_one_is_not_ruled_out_and_ranges_are_taken_over(env: Any) -> None:
    one, other = private.new_symbol(env, 5, "a"), private.new_symbol(env, 6, "b")
    assert env.bound_sympy(one).lower <= 1
    env.var_to_range[other] = type(env.var_to_range[other])(3, 9)
    private.same_size(env, one, env, other)
    assert (env.bound_sympy(one).lower, env.bound_sympy(one).upper) == (3, 9)


def test_a_trace_of_symbolic_sizes_writes_to_nothing(env: Any) -> None:
    mode = private.fake_mode(env)
    size = private.symint(env, private.new_symbol(env, 5, "a"))
    with mode:
        x = torch.empty([size, 3, 4, 4])
    with private.tracing(mode):
        made = private.traced(lambda v: F.pad(v, (1, 1, 1, 0), mode="circular") * torch.ones(1), [x])
    targets = [node.target for node in made.graph.nodes if node.op == "call_function"]
    assert not any(
        target._schema.is_mutable for target in targets if isinstance(target, torch._ops.OpOverload)
    )
    (result,) = [node for node in made.graph.nodes if node.target is torch.ops.aten.mul.Tensor]
    assert result.meta["val"].shape[0].node.expr == size.node.expr
    assert private.stand_in(mode, torch.ones(2)).fake_mode is mode


def test_ops_that_take_themselves_apart() -> None:
    assert private.is_composite(torch.ops.aten.reshape.default)
    assert not private.is_composite(torch.ops.aten.relu.default)


def test_tensor_meta() -> None:
    meta = private.tensor_meta(torch.ones(2, 3, dtype=torch.float16))
    assert (tuple(meta.shape), meta.dtype) == ((2, 3), torch.float16)


def test_the_registry_of_backends_takes_entries() -> None:
    importlib.import_module(private.BACKENDS_REGISTRY)
    fake = ModuleType("registry")
    fake._BACKENDS = {"there": 1}  # type: ignore[attr-defined]
    private.enter_backend(fake, "there", 2)
    private.enter_backend(fake, "new", 3)
    assert fake._BACKENDS == {"there": 1, "new": 3}
    from torch._dynamo.backends.registry import _BACKENDS

    assert all(entry is None or hasattr(entry, "load") for entry in _BACKENDS.values())
