"""A converter file with every family of helpers: loaded by changed imports, chosen, right, on real networks."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F

from trtcore.pack import scoped_registry
from trtcore.testing import assert_converts, assert_refuses

ops = torch.ops


@pytest.fixture(scope="module")
def file() -> Iterator[ModuleType]:
    """The converters, declared for this module's tests."""
    sys.path.insert(0, str(Path(__file__).parent))
    try:
        importlib.import_module("ops_of_every_family")
        with scoped_registry():
            yield importlib.import_module("converters_of_every_family")
    finally:
        sys.path.remove(str(Path(__file__).parent))
        sys.modules.pop("converters_of_every_family", None)


class Case(NamedTuple):
    """A model of one op.

    Attributes:
        op: the op whose converter is asked about.
        model: what is compiled.
        inputs: its inputs; the first dim of those in `dynamic` varies from 2 to twice as large, where it may.
        dynamic: numbers of inputs.
    """

    op: str
    model: Callable[..., Any]
    inputs: tuple[torch.Tensor, ...]
    dynamic: tuple[int, ...] = (0,)


def x(*shape: int) -> torch.Tensor:
    return torch.randn(*(shape or (4, 6)), generator=torch.Generator().manual_seed(sum(shape)))


def n(high: int, *shape: int) -> torch.Tensor:
    return torch.randint(0, high, shape, generator=torch.Generator().manual_seed(high))


def seeded(module: type[torch.nn.Module], *args: Any, **kwargs: Any) -> torch.nn.Module:
    torch.manual_seed(0)
    return module(*args, **kwargs).eval()


IMAGE, SERIES, MATRIX, THREE, FOUR = x(2, 4, 8, 8), x(2, 4, 8), x(6, 3), x(3), x(4)
PLACES = torch.stack([torch.randperm(6)[:2] for _ in range(4)])
AMAX = torch.tensor(2.5)
CASES: dict[str, Case] = {
    # activation
    **{
        f"activation {name}": Case(f"aten.{op}.default", function, (x(),))
        for name, op, function in (
            ("relu", "relu", torch.relu),
            ("leaky_relu", "leaky_relu", lambda v: F.leaky_relu(v, 0.2)),
            ("elu", "elu", lambda v: F.elu(v, 0.7)),
            ("softplus", "softplus", lambda v: F.softplus(v, 2)),
            ("gelu", "gelu", F.gelu),
            ("gelu tanh", "gelu", lambda v: F.gelu(v, approximate="tanh")),
            ("hard_sigmoid", "hardsigmoid", F.hardsigmoid),
            ("hard_swish", "hardswish", F.hardswish),
        )
    },
    # elementwise
    "add": Case("aten.add.Tensor", lambda a, b: torch.add(a, b, alpha=2), (x(), x(1, 6))),
    "sub": Case("aten.sub.Tensor", lambda a: a - 3, (n(9, 4, 6),)),
    "div": Case("aten.div.Tensor", lambda a, b: a / b, (x(), x(6) + 3)),
    "div trunc": Case("aten.div.Tensor_mode", lambda a: torch.div(a, 0.7, rounding_mode="trunc"), (x(),)),
    "div of ints": Case("aten.div.Tensor", lambda a: a / 4, (n(9, 4, 6),)),
    "pow": Case("aten.pow.Tensor_Scalar", lambda a: a**2, (x(),)),
    "fmod": Case("aten.fmod.Scalar", lambda a: torch.fmod(a, 0.7), (x(),)),
    "remainder": Case(
        "aten.remainder.Tensor", lambda a, b: torch.remainder(a, b), (n(9, 4, 6) - 4, n(3, 6) + 1)
    ),
    "bitwise": Case("aten.bitwise_and.Tensor", lambda a, b: torch.bitwise_and(a > 0, b > 0), (x(), x(6))),
    "comparison": Case("aten.ge.Scalar", lambda a: a >= 0, (x(),)),
    "clamp": Case("aten.clamp.default", lambda a: a.clamp(-0.5, 0.5), (x(),)),
    "clamp by a tensor": Case("aten.clamp.Tensor", lambda a, b: torch.clamp(a, b), (x(), x(1, 6))),
    "cross": Case("aten.linalg_cross.default", torch.linalg.cross, (x(4, 3), x(4, 3)), (0, 1)),
    "atan2": Case("aten.atan2.default", torch.atan2, (x(), x(1, 6))),
    # unary
    "unary": Case("aten.sin.default", torch.sin, (x(),)),
    "unary of ints": Case("aten.sqrt.default", torch.sqrt, (n(9, 4, 6),)),
    "log1p": Case("aten.log1p.default", lambda a: torch.log1p(a.abs()), (x(),)),
    "trunc": Case("aten.trunc.default", torch.trunc, (x(),)),
    # products
    "addmm": Case("aten.addmm.default", lambda a, b: torch.addmm(b, a, MATRIX, beta=0.5), (x(), x(3))),
    "linear": Case("aten.linear.default", seeded(torch.nn.Linear, 6, 3), (x(),)),
    "matmul": Case("aten.matmul.default", lambda a, b: a @ b, (x(4, 3, 6), x(6, 2))),
    "attention": Case(
        "aten.scaled_dot_product_attention.default",
        lambda q, k: F.scaled_dot_product_attention(q, k, k, is_causal=True),
        (x(2, 2, 5, 8), x(2, 2, 5, 8)),
        (0, 1),
    ),
    # making tensors
    "arange": Case(
        "aten.arange.start_step", lambda a: a + ops.aten.arange.start_step(0, a.shape[0], 1)[:, None], (x(),)
    ),
    "cast": Case(
        "aten._to_copy.default", lambda a: ops.aten._to_copy.default(a, dtype=torch.float16), (x(),)
    ),
    "cat": Case("aten.cat.default", lambda a, b: torch.cat([a, b], 1), (x(), n(9, 4, 2)), (0, 1)),
    "condition": Case("aten.where.self", lambda a, b: torch.where(a > 0, a, b), (x(), x(6))),
    "full": Case("aten.full.default", lambda a: a + torch.full((a.shape[0], 1), 2.0), (x(),)),
    # images
    "conv": Case("aten.conv2d.default", seeded(torch.nn.Conv2d, 4, 6, 3, padding=1, stride=2), (IMAGE,)),
    "conv1d": Case("aten.conv1d.default", seeded(torch.nn.Conv1d, 4, 6, 3, groups=2), (SERIES,)),
    "deconv": Case(
        "aten.conv_transpose2d.input",
        seeded(torch.nn.ConvTranspose2d, 4, 6, 3, stride=2, output_padding=1),
        (IMAGE,),
    ),
    "avg_pool": Case("aten.avg_pool2d.default", lambda a: F.avg_pool2d(a, 3, 2, 1), (IMAGE,)),
    "avg_pool1d": Case("aten.avg_pool1d.default", lambda a: F.avg_pool1d(a, 2), (SERIES,)),
    "max_pool": Case("aten.max_pool2d.default", lambda a: F.max_pool2d(a, 2, ceil_mode=True), (IMAGE,)),
    "adaptive_avg_pool": Case(
        "aten.adaptive_avg_pool2d.default", lambda a: F.adaptive_avg_pool2d(a, (2, 1)), (IMAGE,)
    ),
    "pad": Case("aten.pad.default", lambda a: F.pad(a, (1, 2, 0, 1), value=0.5), (IMAGE,)),
    "pad reflect": Case("aten.pad.default", lambda a: F.pad(a, (1, 2, 0, 1), mode="reflect"), (IMAGE,)),
    "pad circular": Case("aten.pad.default", lambda a: F.pad(a, (1, 2, 0, 1), mode="circular"), (IMAGE,)),
    "upsample": Case(
        "aten.upsample_bilinear2d.vec", lambda a: F.interpolate(a, scale_factor=2, mode="bilinear"), (IMAGE,)
    ),
    "upsample nearest": Case(
        "aten.upsample_nearest2d.vec", lambda a: F.interpolate(a, size=(5, 12)), (IMAGE,)
    ),
    "grid": Case(
        "aten.grid_sampler.default",
        lambda a, g: F.grid_sample(a, g, align_corners=False),
        (IMAGE, x(2, 3, 3, 2).tanh()),
        (),
    ),
    # places
    "embedding": Case("aten.embedding.default", seeded(torch.nn.Embedding, 10, 3), (n(10, 4, 5),)),
    "embedding_bag": Case(
        "aten.embedding_bag.padding_idx", seeded(torch.nn.EmbeddingBag, 10, 3), (n(10, 4, 5),), ()
    ),
    "select": Case("aten.select.int", lambda a: a[:, 2], (x(),)),
    "gather": Case("aten.gather.default", lambda a, i: torch.gather(a, 1, i), (x(), n(6, 4, 2)), ()),
    "scatter": Case("aten.scatter.value", lambda a, i: torch.scatter(a, 1, i, 0.5), (x(), n(6, 4, 2)), ()),
    "index": Case("aten.index.Tensor", lambda a, i: a[i], (x(), n(4, 3)), (1,)),
    "index_select": Case(
        "aten.index_select.default", lambda a, i: torch.index_select(a, 1, i), (x(), n(6, 3)), (0,)
    ),
    "index_put": Case(
        "aten.index_put.default",
        lambda a, i: torch.index_put(a, [i, i], THREE),
        (x(), torch.tensor([0, 2, 3])),
        (),
    ),
    "slice": Case("aten.slice.Tensor", lambda a: a[:, 1:-1:2], (x(),)),
    "cumsum": Case("aten.cumsum.default", lambda a: torch.cumsum(a, 1), (x(),)),
    "tile": Case("aten.tile.default", lambda a: torch.tile(a, (2, 1, 3)), (x(),)),
    "flip": Case("aten.flip.default", lambda a: torch.flip(a, (1,)), (x(),)),
    "diagonal": Case("aten.diagonal.default", lambda a: torch.diagonal(a, 1), (x(),), ()),
    "as_strided": Case(
        "aten.as_strided.default", lambda a: torch.as_strided(a, (2, 3), (6, 2), 1), (x(),), ()
    ),
    "expand": Case("aten.expand.default", lambda a: a[:, None].expand(-1, 3, -1), (x(),)),
    "split": Case("aten.split.Tensor", lambda a: torch.split(a, 2, 1), (x(),)),
    # shapes
    "reshape": Case("aten.reshape.default", lambda a: a.reshape(a.shape[0], 2, -1), (x(),)),
    "flatten": Case("aten.flatten.using_ints", lambda a: a.flatten(1), (x(4, 2, 3),)),
    "pixel_shuffle": Case("aten.pixel_shuffle.default", lambda a: F.pixel_shuffle(a, 2), (IMAGE,)),
    "permute": Case("aten.permute.default", lambda a: a.permute(1, 0), (x(),)),
    "roll": Case("aten.roll.default", lambda a: torch.roll(a, (1, 2), (0, 1)), (x(),)),
    "squeeze": Case("aten.squeeze.dim", lambda a: a.squeeze(1), (x(4, 1, 3),)),
    "unsqueeze": Case("aten.unsqueeze.default", lambda a: a.unsqueeze(-1), (x(),)),
    # normalization
    "batch_norm": Case("aten.batch_norm.default", seeded(torch.nn.BatchNorm2d, 4), (IMAGE,)),
    "layer_norm": Case("aten.layer_norm.default", seeded(torch.nn.LayerNorm, 6), (x(),)),
    "layer_norm alone": Case("aten.layer_norm.default", lambda a: F.layer_norm(a, (6,)), (x(),)),
    "group_norm": Case("aten.group_norm.default", seeded(torch.nn.GroupNorm, 2, 4), (IMAGE,)),
    "softmax": Case("aten.softmax.int", lambda a: torch.softmax(a, 1), (x(),)),
    "cdist": Case("aten._cdist_forward.default", lambda a, b: torch.cdist(a, b, 1.0), (x(4, 6), x(3, 6))),
    # reduce, topk
    "sum": Case("aten.sum.dim_IntList", lambda a: a.sum((0, 1)), (x(),)),
    "sum of bools": Case("aten.sum.default", lambda a: (a > 0).sum(), (x(),)),
    "prod": Case("aten.prod.dim_int", lambda a: a.prod(1), (x(),)),
    "mean": Case("aten.mean.default", lambda a: a.mean(), (x(),)),
    "amax": Case("aten.amax.default", lambda a: a.amax(1, True), (x(),)),
    "max": Case("aten.max.dim", lambda a: torch.max(a, 1), (x(),)),
    "any": Case("aten.any.dim", lambda a: (a > 1).any(1), (x(),)),
    "argmax": Case("aten.argmax.default", lambda a: torch.argmax(a, 1), (x(),)),
    "topk": Case("aten.topk.default", lambda a: torch.topk(a, 3), (x(),)),
    "sort": Case("aten.sort.default", lambda a: torch.sort(a, 1, descending=True), (x(),)),
    "prelu": Case("aten.prelu.default", seeded(torch.nn.PReLU, 4), (IMAGE,)),
    # ops as decomposed graphs have them
    "add of bools": Case("aten.add.Tensor", lambda a, b: (a > 0) + (b > 0), (x(), x(6))),
    "mm": Case("aten.mm.default", ops.aten.mm.default, (x(), x(6, 2))),
    "bmm": Case("aten.bmm.default", ops.aten.bmm.default, (x(2, 3, 4), x(2, 4, 5)), (0, 1)),
    "mv": Case("aten.mv.default", torch.mv, (x(), x(6))),
    "dot": Case("aten.dot.default", torch.dot, (x(6), x(6)), ()),
    "pow of a number": Case("aten.pow.Scalar", lambda a: 2.0**a, (x(),)),
    "clip": Case("aten.clip.default", lambda a: torch.clip(a, None, 0.3), (x(),)),
    "prims.div": Case("prims.div.default", ops.prims.div.default, (x(), x() + 5), (0, 1)),
    "prims.sum": Case("prims.sum.default", lambda a: ops.prims.sum.default(a, [1]), (x(),)),
    "prims.broadcast_in_dim": Case(
        "prims.broadcast_in_dim.default",
        lambda a: ops.prims.broadcast_in_dim.default(a, [2, 4, 6], [1, 2]),
        (x(),),
        (),
    ),
    "copy": Case("aten.copy.default", lambda a, b: ops.aten.copy.default(a, b), (x(), x() * 2), (0, 1)),
    "convolution": Case(
        "aten.convolution.default",
        lambda a, w: ops.aten.convolution.default(a, w, None, [2, 2], [1, 1], [1, 1], False, [0, 0], 1),
        (IMAGE, x(6, 4, 3, 3)),
    ),
    "convolution transposed": Case(
        "aten.convolution.default",
        lambda a, w: ops.aten.convolution.default(a, w, None, [2], [1], [1], True, [0], 1),
        (SERIES, x(4, 6, 3)),
    ),
    "avg_pool3d": Case("aten.avg_pool3d.default", lambda a: F.avg_pool3d(a, 2), (x(2, 2, 4, 4, 4),)),
    "max_pool3d": Case("aten.max_pool3d.default", lambda a: F.max_pool3d(a, 2), (x(2, 2, 4, 4, 4),)),
    "max_pool1d": Case("aten.max_pool1d.default", lambda a: F.max_pool1d(a, 3, 2, 1), (SERIES,)),
    "adaptive_avg_pool1d": Case(
        "aten.adaptive_avg_pool1d.default", lambda a: F.adaptive_avg_pool1d(a, 3), (SERIES,)
    ),
    "_adaptive_avg_pool2d": Case(
        "aten._adaptive_avg_pool2d.default",
        lambda a: ops.aten._adaptive_avg_pool2d.default(a, [1, 1]),
        (IMAGE,),
    ),
    "adaptive_avg_pool3d": Case(
        "aten.adaptive_avg_pool3d.default", lambda a: F.adaptive_avg_pool3d(a, (2, 2, 2)), (x(2, 2, 4, 4, 4),)
    ),
    "constant_pad_nd": Case(
        "aten.constant_pad_nd.default",
        lambda a: ops.aten.constant_pad_nd.default(a, [1, 2, 0, -1], 3.0),
        (IMAGE,),
    ),
    "reflection_pad2d": Case(
        "aten.reflection_pad2d.default",
        lambda a: ops.aten.reflection_pad2d.default(a, [1, 2, 3, 0]),
        (IMAGE,),
    ),
    "replication_pad2d": Case(
        "aten.replication_pad2d.default",
        lambda a: ops.aten.replication_pad2d.default(a, [1, 2, 3, 0]),
        (IMAGE,),
    ),
    "_pad_circular": Case(
        "aten._pad_circular.default", lambda a: ops.aten._pad_circular.default(a, [1, 2]), (SERIES,)
    ),
    **{
        f"upsample {name}": Case(f"aten.{name}.default", function, (image,))
        for name, image, function in (
            ("upsample_nearest1d", SERIES, lambda a: ops.aten.upsample_nearest1d.default(a, [13])),
            (
                "upsample_nearest2d",
                IMAGE,
                lambda a: ops.aten.upsample_nearest2d.default(a, [16, 20], 2.0, 2.5),
            ),
            (
                "upsample_nearest3d",
                x(2, 2, 3, 3, 3),
                lambda a: ops.aten.upsample_nearest3d.default(a, [6, 6, 5]),
            ),
            ("upsample_linear1d", SERIES, lambda a: ops.aten.upsample_linear1d.default(a, [20], True)),
            ("upsample_bilinear2d", IMAGE, lambda a: ops.aten.upsample_bilinear2d.default(a, [16, 5], False)),
            (
                "upsample_trilinear3d",
                x(2, 2, 3, 3, 3),
                lambda a: ops.aten.upsample_trilinear3d.default(a, [6, 6, 5], False),
            ),
            ("upsample_bicubic2d", IMAGE, lambda a: ops.aten.upsample_bicubic2d.default(a, [16, 12], True)),
        )
    },
    "grid_sampler_2d": Case(
        "aten.grid_sampler_2d.default",
        lambda a, g: ops.aten.grid_sampler_2d.default(a, g, 1, 1, True),
        (IMAGE, x(2, 3, 3, 2).tanh()),
        (),
    ),
    "_embedding_bag": Case(
        "aten._embedding_bag.default",
        lambda w, i, o: ops.aten._embedding_bag.default(w, i, o, False, 1)[0],
        (x(10, 3), n(10, 6), torch.tensor([0, 2, 5])),
        (),
    ),
    "split sizes": Case("aten.split_with_sizes.default", lambda a: torch.split(a, [1, 5], 1), (x(),)),
    "squeeze.dims": Case("aten.squeeze.dims", lambda a: torch.squeeze(a, (1, 3)), (x(4, 1, 3, 1),)),
    "scalar_tensor": Case(
        "aten.scalar_tensor.default", lambda a: a + torch.scalar_tensor(a.shape[0]), (x(),)
    ),
    "native_batch_norm": Case(
        "aten._native_batch_norm_legit_no_training.default",
        lambda a: ops.aten._native_batch_norm_legit_no_training.default(
            a, FOUR, FOUR, FOUR, FOUR.abs(), 0.1, 1e-5
        )[0],
        (IMAGE,),
    ),
    "native_layer_norm": Case(
        "aten.native_layer_norm.default",
        lambda a: ops.aten.native_layer_norm.default(a, [8], None, None, 1e-5)[0],
        (IMAGE,),
    ),
    "native_group_norm": Case(
        "aten.native_group_norm.default",
        lambda a: ops.aten.native_group_norm.default(a, FOUR, FOUR, 2, 4, 64, 2, 1e-5)[0],
        (IMAGE,),
        (),
    ),
    "native_dropout": Case(
        "aten.native_dropout.default", lambda a: ops.aten.native_dropout.default(a, 0.5, False)[0], (x(),)
    ),
    "_softmax": Case("aten._softmax.default", lambda a: ops.aten._softmax.default(a, 1, False), (x(),)),
    "softmax of one dim": Case("aten.softmax.int", lambda a: torch.softmax(a, 0), (x(6),), ()),
    "pdist": Case(
        "aten._pdist_forward.default", lambda a: ops.aten._pdist_forward.default(a, 2.0), (x(),), ()
    ),
    "min": Case("aten.min.default", lambda a: a.min(), (x(),)),
    "max keeps dims": Case("aten.max.dim", lambda a: torch.max(a, 0, True)[1], (x(),)),
    "any of all": Case("aten.any.default", lambda a: (a > 1).any(), (x(),)),
    "any of dims": Case("aten.any.dims", lambda a: (a > 1).any((0, 1)), (x(),)),
    "argmin of all": Case("aten.argmin.default", lambda a: torch.argmin(a), (x(),)),
    "topk least": Case("aten.topk.default", lambda a: torch.topk(a, 2, 0, largest=False), (x(),)),
    "index of two": Case("aten.index.Tensor", lambda a, i: a[:, i, i], (x(4, 5, 6), n(5, 3)), (0,)),
    "index_put accumulated": Case(
        "aten.index_put.default",
        lambda a, i: torch.index_put(a, [i, i], THREE, accumulate=True),
        (x(), torch.tensor([0, 2, 2])),
        (),
    ),
    "scatter of a tensor": Case(
        "aten.scatter.src", lambda a, i: torch.scatter(a, 1, i, a * 2), (x(), PLACES), ()
    ),
    "where of ints": Case("aten.where.self", lambda a, b: torch.where(a > 3, a, b), (n(9, 4, 6), x(6))),
    "slice of a size": Case("aten.slice.Tensor", lambda a: a[: a.shape[0] // 2], (x(),)),
    "expand to a size": Case("aten.expand.default", lambda a, b: b.expand(a.shape[0], -1), (x(), x(1, 6))),
    "reshape to a size": Case("aten.reshape.default", lambda a: a.reshape(-1, a.shape[0] * 2), (x(),)),
    "tile by numbers": Case("aten.tile.default", lambda a: torch.tile(a, (2,)), (x(),)),
    # what is cast
    "int32 of (1,) for int64 of ()": Case(
        "every_family.count.default", lambda a: ops.every_family.count(a), (x(),)
    ),
    "float32 for int32": Case(
        "every_family.halves.default", lambda a: ops.every_family.halves(a), (n(9, 4, 6).int(),)
    ),
    "an array for a tensor": Case(
        "every_family.table.default", lambda a: ops.every_family.table(a) + a, (x(2, 3),), ()
    ),
}

#: What is a constant where no size varies.
FOLDED = ("arange", "full", "scalar_tensor")
#: One per kind, which run by default; the others are `slow`.
QUICK = {
    "add",
    "cast",
    "conv",
    "pool",
    "embedding",
    "topk",
    "int32 of (1,) for int64 of ()",
    "float32 for int32",
}
QUICK |= {"an array for a tensor", "layer_norm", "roll", "reshape"}


def _converted(case: Case, varying: bool) -> None:
    dynamic = {
        place: {0: (2, case.inputs[place].shape[0], 2 * case.inputs[place].shape[0])}
        for place in case.dynamic
    }
    proof = assert_converts(
        case.model, case.inputs, dynamic=dynamic if varying else None, rtol=1e-4, atol=1e-4
    )
    nodes = [node for node in proof.report.converted if node.op == case.op]
    assert nodes, [node.op for node in proof.report.converted]
    assert {(node.candidates[0].pack, str(node.candidates[0].verdict)) for node in nodes} == {
        ("process", "chosen")
    }


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow) for name in CASES]
)
def test_every_family_converts(file: ModuleType, name: str) -> None:
    _converted(CASES[name], bool(CASES[name].dynamic))


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [name for name, case in CASES.items() if case.dynamic and name not in FOLDED]
)
def test_every_family_converts_with_static_shapes(file: ModuleType, name: str) -> None:
    _converted(CASES[name], False)


def test_quantize_builds(file: ModuleType) -> None:
    proof = assert_converts(
        lambda a: ops.every_family.fake_quantize(a, AMAX, 8, 0), (x(),), rtol=1e-2, atol=2e-2
    )
    assert proof.report.converted[0].candidates[0].pack == "process"


def test_quantize_in_blocks_builds(file: ModuleType) -> None:
    proof = assert_converts(
        lambda a: ops.every_family.fake_quantize(a, AMAX, 4, 2), (x(4, 32),), rtol=0.25, atol=0.3
    )
    assert proof.report.converted[0].candidates[0].pack == "process"


def test_collectives_are_refused_with_advice(file: ModuleType) -> None:
    assert_refuses(lambda a: ops.every_family.gather_from_all(a), (x(),), "an engine has no collectives here")
    assert_refuses(
        lambda a: ops.every_family.gather_natively(a), (x(),), "its layers would talk to other processes"
    )


def test_what_is_not_for_this_tensorrt_says_so(file: ModuleType) -> None:
    assert_refuses(
        lambda a: ops.every_family.new_layer(a), (x(),), "cannot be used where tensorrt_rtx is there"
    )
