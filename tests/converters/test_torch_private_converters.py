"""A canary for what the converters' pack takes from torch's private parts: each says what a new torch has changed."""

from __future__ import annotations

import importlib

import torch
from torch.export import Dim
from torch.fx import symbolic_trace
from torch.fx.experimental.symbolic_shapes import ShapeEnv

from trtcore_converters import torch_private as private
from trtcore_converters.passes._graph import same_sizes

CHANGED = f"torch {torch.__version__} has changed"


def test_sym_sqrt():
    assert private.sym_sqrt(4) == 2.0, f"{CHANGED} torch._sym_sqrt"


def test_quantized_ops():
    private.register_quantized_ops()
    assert torch.ops.quantized_decomposed.quantize_per_tensor.default, (
        f"{CHANGED} where its quantised ops are"
    )


def test_decomposition_tables():
    every, core = private.decomposition_tables()
    for table in (every, core):
        assert callable(table[torch.ops.aten.addcmul.default]), f"{CHANGED} its tables of decompositions"
    assert torch.ops.aten.native_layer_norm.default in every
    importlib.import_module("torch._refs")  # which adds std_mean.dim
    every, _ = private.decomposition_tables()
    composite = torch.ops.aten.std_mean.dim
    assert every[composite] is composite, f"{CHANGED} where composite ops are decomposed"


def test_prims():
    named = private.prims()
    assert {"convert_element_type", "collapse", "sum", "amax", "var"} <= set(named), f"{CHANGED} its prims"
    said = vars(named["sin"])["impl_aten"](torch.zeros(2))
    assert torch.equal(said, torch.zeros(2)), f"{CHANGED} how a prim says what it is in ATen"


def test_interval():
    class Rows(torch.nn.Module):
        def forward(self, x):
            return x[1:]

    ep = torch.export.export(Rows(), (torch.ones(4),), dynamic_shapes=({0: Dim.DYNAMIC(min=3, max=8)},))
    (result,) = ep.graph.find_nodes(op="output")[0].args[0]
    size = result.meta["val"].shape[0]
    guards = list(size.node.shape_env.guards)
    found = private.interval(size)
    assert (int(found.lower), int(found.upper)) == (2, 7), f"{CHANGED} ShapeEnv.bound_sympy"
    assert size.node.shape_env.guards == guards


def test_extremes():
    size = ShapeEnv().create_unbacked_symint()
    for function, kind in zip((torch.sym_min, torch.sym_max), private.extremes()):
        made = function(size, 2 * size + 1)
        assert made.node.expr.has(kind), f"{CHANGED} what torch.{function.__name__} makes of sizes"


def test_sizes_that_are_the_least_of_several():
    """As the shapes of `istft` are since torch 2.14."""
    sizes = ShapeEnv()
    n, m = sizes.create_unbacked_symint(), sizes.create_unbacked_symint()
    least, greatest = torch.sym_min, torch.sym_max
    assert same_sizes([least(4 * n + 8, 4 * n + 16) - 8], [4 * n])
    assert same_sizes([greatest(greatest(n, n - 3), n + 1)], [n + 1])
    assert same_sizes([least(greatest(n, n + 2), n + 1)], [n + 1])
    assert not same_sizes([least(4 * n + 8, 4 * n + 16)], [4 * n + 16])
    assert not same_sizes([greatest(n, m)], [n])
    assert same_sizes([greatest(greatest(n, m), m - 1)], [greatest(m, n)])


def test_ranks_are_exact():
    found = float(torch.arange(6.0).quantile(0.6, interpolation="higher"))  # 0.6 in float32 is a little more
    assert found == (4 if private.ranks_are_exact() else 3), f"{CHANGED} how it rounds the ranks of quantiles"


def test_shares_storage():
    x = torch.ones(4)
    assert private.shares_storage(x, x[1:]), f"{CHANGED} how storages are told apart"
    assert not private.shares_storage(x, x.clone())


def test_is_erased():
    graph = symbolic_trace(lambda x: x + 1).graph
    result = next(iter(graph.find_nodes(op="output")))
    assert not private.is_erased(result)
    graph.erase_node(result)
    assert private.is_erased(result), f"{CHANGED} how fx marks erased nodes"
