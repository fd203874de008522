"""Transforms, regions and attention that is written as functions: eager's numbers in one engine, by both entries."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch._higher_order_ops.associative_scan import associative_scan
from torch.nn.attention.flex_attention import create_block_mask, flex_attention
from torch.utils.checkpoint import checkpoint

import trtcore
from trtcore.errors import ExportError
from trtcore.jit.backend import reports

pytestmark = pytest.mark.usefixtures("trt_backend")

LINEAR = nn.Linear(8, 8)
WEIGHTS = torch.linspace(-1, 1, 5 * 64).view(5, 8, 8)
BIASES = torch.linspace(-1, 1, 4 * 16 * 16).view(4, 16, 16)
X = torch.linspace(-2, 2, 32).view(4, 8)
QKV = tuple(torch.linspace(-1, 1, 2 * 4 * 16 * 8).view(2, 4, 16, 8).roll(i, -1) * (i + 1) for i in range(3))


class Model(nn.Module):
    """A function as a model, with a weight of its own."""

    def __init__(self, function):
        super().__init__()
        self.linear = copy.deepcopy(LINEAR)
        self.function = function

    def forward(self, *args):
        return self.function(self.linear, *args)


def check(function, *args, tolerance=1e-4, entries=("compile", "torch.compile")):
    model = Model(function).eval().requires_grad_(False)
    expected = model(*args)
    found = {}
    if "compile" in entries:
        compiled = trtcore.compile(model, inputs=list(args), min_block_size=1)
        found["compile"] = compiled(*args), compiled.report
    if "torch.compile" in entries:
        torch._dynamo.reset()
        with torch.no_grad():
            result = torch.compile(model, backend="trtcore", options={"min_block_size": 1})(*args)
        (graph,) = reports()
        found["torch.compile"] = result, graph.report
        torch._dynamo.reset()
    for result, report in found.values():
        torch.testing.assert_close(result, expected, rtol=tolerance, atol=tolerance)
        assert not in_torch(report)
    return {name: report for name, (_, report) in found.items()}


def in_torch(report):
    return [node for node in report.nodes if not node.in_engine]


# --- transforms -----------------------------------------------------------------------------------------------


def vmap_of_a_layer(linear, x):
    return torch.vmap(linear)(x) + 1


def mask_of_two_vmaps(linear, x):
    index = torch.arange(x.shape[1])
    allowed = torch.vmap(torch.vmap(lambda q, k: (k <= q) & (k > q - 3), (None, 0)), (0, None))(index, index)
    return linear(x).unsqueeze(1).masked_fill(~allowed, 0.0).sum(-1)


def ensemble(linear, x):
    return torch.vmap(lambda w: torch.func.functional_call(linear, {"weight": w}, (x,)))(WEIGHTS)


def gradients_of_samples(linear, x):
    return torch.vmap(torch.func.grad(lambda one: linear(one).tanh().sum()))(x)


def forces(linear, x):
    gradient, energy = torch.func.grad_and_value(lambda one: linear(one).sin().sum())(x)
    return energy, -gradient


def directional(linear, x):
    return torch.func.jvp(lambda one: one.sin() * one, (x,), (torch.ones_like(x),))


@pytest.mark.parametrize(
    "function",
    [
        vmap_of_a_layer,
        mask_of_two_vmaps,
        ensemble,
        gradients_of_samples,
        forces,
        directional,
    ],
)
def test_transforms(function):
    check(function, X)


class Differentiated(nn.Module):
    """A function of a model with a buffer."""

    def __init__(self, function):
        super().__init__()
        self.linear = copy.deepcopy(LINEAR)
        self.register_buffer("table", torch.linspace(-1, 1, 64).view(8, 8))
        self.function = function

    def forward(self, x):
        return self.function(self, x)


def buffer_among_the_batches(model, x):
    return torch.vmap(lambda a, b: a @ b + model.linear(b), in_dims=(None, 0), out_dims=1)(model.table, x)


def largest_of_columns(model, x):
    return torch.vmap(lambda one: torch.topk(one, 2).values, in_dims=1, out_dims=-1)(x)


def derivatives_of_both(model, x):
    return torch.func.grad_and_value(lambda a, b: (a @ b).pow(2).sum(), argnums=(0, 1))(x, model.table)


def forces_by_autograd(model, x):
    with torch.enable_grad():
        at = x.detach().requires_grad_(True)
        energy = model.linear(at).tanh().sum()
        (gradient,) = torch.autograd.grad(energy, at)
    return gradient, energy.detach()


def forward_jacobians(model, x):
    return torch.vmap(torch.func.jacfwd(lambda one: (model.table @ one).tanh()))(x)


def hessians(model, x):
    return torch.vmap(torch.func.hessian(lambda one: (model.table @ one).tanh().sum()))(x)


@pytest.mark.parametrize(
    ("function", "dynamic"),
    [
        (buffer_among_the_batches, True),
        (largest_of_columns, True),
        (derivatives_of_both, True),
        (forces_by_autograd, True),
        (forward_jacobians, False),
        (hessians, False),
    ],
)
def test_transforms_that_a_trace_above_dispatch_loses(function, dynamic):
    """Other values than those of the trace: what is lost there becomes a constant."""
    model = Differentiated(function).eval()
    batch = trtcore.Input(min_shape=(2, 8), opt_shape=(4, 8), max_shape=(16, 8)) if dynamic else X
    compiled = trtcore.compile(model, inputs=[batch], min_block_size=1)
    assert compiled.report.fully_converted
    for size in (2, 7, 16) if dynamic else (4, 4):
        x = torch.randn(size, 8)
        torch.testing.assert_close(compiled(x), model(x), rtol=1e-4, atol=1e-4)


def test_what_a_model_differentiates_behind_a_graph_runs_in_torch():
    model = Differentiated(forces_by_autograd).eval()
    torch._dynamo.reset()
    with torch.no_grad(), pytest.warns(RuntimeWarning, match="differentiates what a graph computes"):
        result = torch.compile(model, backend="trtcore")(X)
    torch.testing.assert_close(result, model(X))


def test_an_associative_scan_beside_a_dynamic_batch():
    def largest_so_far(linear, x):
        return associative_scan(torch.maximum, linear(x), dim=1, reverse=True, combine_mode="generic")

    model = Model(largest_so_far).eval()
    batch = trtcore.Input(min_shape=(2, 8), opt_shape=(4, 8), max_shape=(16, 8))
    with pytest.raises(ExportError, match=r"trtcore\.dynamo\.trace\(model, inputs, strict=True\)"):
        trtcore.compile(model, inputs=[batch])
    program = trtcore.dynamo.trace(model, [batch], strict=True)
    compiled = trtcore.dynamo.compile(program, inputs=[batch], min_block_size=1)
    assert compiled.report.fully_converted
    for size in (2, 7, 16):
        x = torch.randn(size, 8)
        torch.testing.assert_close(compiled(x), model(x), rtol=1e-4, atol=1e-4)


def test_vmap_with_a_dynamic_batch():
    model = Model(lambda linear, x: torch.vmap(lambda one: linear(one).softmax(-1))(x)).eval()
    batch = trtcore.Input(min_shape=(2, 8), opt_shape=(4, 8), max_shape=(16, 8))
    compiled = trtcore.compile(model, inputs=[batch], min_block_size=1)
    for size in (2, 7, 16):
        x = torch.randn(size, 8)
        torch.testing.assert_close(compiled(x), model(x), rtol=1e-4, atol=1e-4)
    assert not in_torch(compiled.report)


class Inverse(nn.Module):
    def forward(self, x):
        return torch.vmap(lambda one: torch.linalg.inv(one @ one.mT + 1e-2))(x)


@pytest.mark.torch_since("2.13", "an inverse in a vmap is one op there, which goes into the engine")
def test_what_stays_in_torch_is_told_by_the_users_line():
    report = trtcore.explain(Inverse(), inputs=[torch.randn(4, 2, 4)], min_block_size=1)
    first = Inverse.forward.__code__.co_firstlineno + 1
    assert {node.source for node in in_torch(report)} == {f"{__file__}:{first}"}


@pytest.mark.torch_since("2.13", "torch.export stops at what torch.func.grad leaves in a graph")
def test_an_export_that_has_lost_what_is_differentiated_is_refused():
    model = Model(lambda linear, x: torch.func.grad(lambda one: one.sin().sum())(x))
    ep = torch.export.export(model, (X,))
    with pytest.raises(trtcore.errors.ExportError, match=r"torch.func.grad or its kin .*has made a constant"):
        trtcore.dynamo.compile(ep, inputs=[X])
    torch.testing.assert_close(trtcore.compile(model, inputs=[X], min_block_size=1)(X), X.cos())


# --- regions --------------------------------------------------------------------------------------------------


def autocast_off(linear, x):
    with torch.autocast("cuda", enabled=False):
        return linear(x).relu()


def autocast_on(linear, x):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        h = linear(x).relu()
        with torch.autocast("cpu", enabled=False):
            h = linear(h.float())
        return h.softmax(-1) @ h.mT, F.scaled_dot_product_attention(h[None], h[None], h[None])


def regions_in_regions(linear, x):
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.float16), torch.no_grad():
        x = linear(x)
    return x.float()


def checkpointed(linear, x):
    return checkpoint(lambda one: linear(one).relu(), x, use_reentrant=False) * 2


def nested_region(linear, x):
    layer = torch.compiler.nested_compile_region(lambda one: linear(one).relu())
    return layer(layer(x))


@pytest.mark.parametrize(
    "function", [autocast_off, autocast_on, regions_in_regions, checkpointed, nested_region]
)
def test_regions(function):
    check(function, X, tolerance=2e-2 if function in (autocast_on, regions_in_regions) else 1e-4)


def test_autocast_keeps_ops_whole():
    report = check(autocast_on, X, tolerance=2e-2, entries=("compile",))["compile"]
    ops = [node.op for node in report.nodes]
    assert sum("scaled_dot_product_attention" in op for op in ops) == 1
    assert sum("linear" in op for op in ops) == 2


# --- flex_attention -------------------------------------------------------------------------------------------


def slopes(linear, q, k, v):
    return flex_attention(q, k, v, score_mod=lambda score, b, h, i, j: score + (h + 1) * 0.1 * (j - i) - 1.0)


def biases(linear, q, k, v):
    return flex_attention(q, k, v, score_mod=lambda score, b, h, i, j: score + BIASES[h, i, j])


def window(linear, q, k, v):
    blocks = create_block_mask(lambda b, h, i, j: (i >= j) & (i - j < 5), None, None, 16, 16, device="cpu")
    return flex_attention(q, k, v, block_mask=blocks)


def nothing_allowed(linear, q, k, v):
    score = lambda score, b, h, i, j: torch.where(i >= j + 5, score, -float("inf"))  # noqa: E731
    return flex_attention(q, k, v, score_mod=score, scale=0.5)


@pytest.mark.parametrize("function", [slopes, biases, window, nothing_allowed])
def test_attention_with_a_mask(function):
    (report,) = check(function, *QKV, entries=("compile",)).values()
    assert sum("scaled_dot_product_attention" in node.op for node in report.nodes) == 1


def soft_cap(linear, q, k, v):
    return flex_attention(q, k, v, score_mod=lambda score, b, h, i, j: 20 * torch.tanh(score / 20))


def with_sums(linear, q, k, v):
    return flex_attention(q, k, v, score_mod=lambda score, b, h, i, j: score + i - j, return_lse=True)


@pytest.mark.parametrize("function", [soft_cap, with_sums])
def test_attention_that_is_more_than_a_mask(function):
    check(function, *QKV, entries=("compile",))


@pytest.mark.parametrize("function", [slopes])
def test_attention_under_torch_compile(function):
    check(function, *QKV, entries=("torch.compile",))


def test_half_precision_keeps_its_scores_in_float32():
    """A bias of many would lose its last bits in half precision: 1000 + 0.1 * (i - j)."""

    def function(linear, q, k, v):
        return flex_attention(q, k, v, score_mod=lambda score, b, h, i, j: score + 1000 + 0.1 * (i - j))

    check(function, *(t.half() for t in QKV), tolerance=5e-3, entries=("compile",))


def test_grouped_heads_and_documents():
    documents = torch.tensor([[0] * 5 + [1] * 11, [0] * 9 + [1] * 7])
    same = lambda b, h, i, j: documents[b, i] == documents[b, j]  # noqa: E731

    def function(linear, q, k, v):
        blocks = create_block_mask(same, 2, None, 16, 16, device="cpu")
        return linear(flex_attention(q, k, v, block_mask=blocks, enable_gqa=True))

    q, k, v = QKV
    check(function, q, k[:, :2].clone(), v[:, :2].clone(), entries=("compile",))
