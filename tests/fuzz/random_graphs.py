"""Random chains of torch ops that stay finite, and whose results rounding cannot flip.

`generate` makes one from a `random.Random` (Hypothesis hands one over that it can shrink). A graph is data: its inputs and
its steps, each the name of an entry of `OPS` with the values it reads and its parameters; so a graph that went wrong is
kept as JSON, whatever becomes of the generator.

Two rules keep the comparison with eager sharp. Values stay finite and moderate: ops with poles get operands away from
them, and what grows is squashed. And ops with jumps (floor, comparisons, argmax, sort, casts to integers) only read
*exact* values: small integers, which every order of summation and every precision used here represents exactly.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional as F

FLOATS = (torch.float32, torch.float16, torch.bfloat16)
LARGEST = 4096
"""Elements a value may have."""
BOUND = 64.0
"""Magnitude beyond which a floating point value is squashed before it is used again."""
EXACT = 128
"""Magnitude up to which integers count as exact: bfloat16 has eight bits."""


@dataclass(frozen=True)
class Source:
    """An input: normal numbers, or integers from -4 to 4 in the given dtype."""

    shape: tuple[int, ...]
    dtype: str
    integral: bool

    def make(self, seed: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(seed)
        dtype = getattr(torch, self.dtype)
        if dtype is torch.bool:
            return torch.randint(0, 2, self.shape, generator=generator).bool()
        if self.integral:
            return torch.randint(-4, 5, self.shape, generator=generator).to(dtype)
        return torch.randn(self.shape, generator=generator).to(dtype)


@dataclass(frozen=True)
class Step:
    """``OPS[op]`` applied to earlier values; `parameters` are plain numbers and lists of them."""

    op: str
    reads: tuple[int, ...]
    parameters: tuple[Any, ...] = ()


@dataclass(frozen=True)
class RandomGraph:
    """Inputs, steps and which values are returned; callable like a model."""

    sources: tuple[Source, ...]
    steps: tuple[Step, ...]
    results: tuple[int, ...]

    def inputs(self) -> tuple[torch.Tensor, ...]:
        """The same tensors every time."""
        return tuple(source.make(position) for position, source in enumerate(self.sources))

    def __call__(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        values = list(tensors)
        for step in self.steps:
            values.append(OPS[step.op].run(*(values[i] for i in step.reads), *step.parameters))
        return tuple(values[i] for i in self.results)

    def wide(self) -> tuple[torch.Tensor, ...]:
        """The results in float64: what the graph means, without rounding."""
        values = [tensor.double() if tensor.is_floating_point() else tensor for tensor in self.inputs()]
        for step in self.steps:
            parameters: tuple[Any, ...] = step.parameters
            if step.op == "cast" and getattr(torch, parameters[0]).is_floating_point:
                parameters = ("float64",)
            values.append(OPS[step.op].run(*(values[i] for i in step.reads), *parameters))
        return tuple(values[i] for i in self.results)

    def to_json(self) -> str:
        return json.dumps(
            {
                "sources": [[list(s.shape), s.dtype, s.integral] for s in self.sources],
                "steps": [[s.op, list(s.reads), list(s.parameters)] for s in self.steps],
                "results": list(self.results),
            }
        )

    @classmethod
    def from_json(cls, text: str) -> RandomGraph:
        read = json.loads(text)
        return cls(
            tuple(Source(tuple(shape), dtype, integral) for shape, dtype, integral in read["sources"]),
            tuple(Step(op, tuple(reads), tuple(parameters)) for op, reads, parameters in read["steps"]),
            tuple(read["results"]),
        )


# ---- values while a graph is made ------------------------------------------------------------------------


@dataclass(frozen=True)
class Value:
    """A tensor of the graph in the making, and whether rounding can't have touched it."""

    tensor: torch.Tensor
    exact: bool

    @property
    def floating(self) -> bool:
        return self.tensor.is_floating_point()


Fits = Callable[[Value], bool]


@dataclass(frozen=True)
class Op:
    """An op: what it computes, which operands it takes, and how its parameters are drawn.

    Attributes:
        run: ``(*operands, *parameters) -> tensor``.
        fits: for each operand, whether a value will do.
        draw: ``(random, *operands) -> parameters``; None where these operands will not do.
        keeps: whether the result of exact operands is exact, as long as it is small.
    """

    run: Callable[..., torch.Tensor]
    fits: tuple[Fits, ...]
    draw: Callable[..., Sequence[Any] | None] = lambda rng, *operands: ()
    keeps: bool = False


def _any(value: Value) -> bool:
    return True


def _float(value: Value) -> bool:
    return value.floating


def _number(value: Value) -> bool:
    return value.tensor.dtype is not torch.bool


def _exact(value: Value) -> bool:
    return value.exact and value.tensor.dtype is not torch.bool


def _bool(value: Value) -> bool:
    return value.tensor.dtype is torch.bool


def _ranked(fits: Fits, low: int, high: int = 8) -> Fits:
    return lambda value: fits(value) and low <= value.tensor.dim() <= high


def _filled(fits: Fits) -> Fits:
    return lambda value: fits(value) and value.tensor.numel() > 0


# ---- parameters --------------------------------------------------------------------------------------------


def _dim(rng: random.Random, x: Value, *others: Value) -> Sequence[Any] | None:
    """A dim, from the front or from the end."""
    rank = x.tensor.dim()
    return (rng.randrange(-rank, rank),) if rank else None


def _filled_dim(rng: random.Random, x: Value, *others: Value) -> Sequence[Any] | None:
    """A dim that has elements."""
    rank = x.tensor.dim()
    chosen = [d for d in range(-rank, rank) if x.tensor.shape[d]]
    return (rng.choice(chosen),) if chosen else None


def _dims_and_keep(rng: random.Random, x: Value) -> Sequence[Any] | None:
    rank = x.tensor.dim()
    if not rank or not x.tensor.numel():
        return None
    dims = rng.sample(range(rank), rng.randint(1, rank))
    return [d - rank if rng.random() < 0.3 else d for d in dims], rng.random() < 0.5


def _dim_and_keep(rng: random.Random, x: Value) -> Sequence[Any] | None:
    dim = _filled_dim(rng, x)
    return None if dim is None else (*dim, rng.random() < 0.5)


def _permutation(rng: random.Random, x: Value) -> Sequence[Any]:
    return (rng.sample(range(x.tensor.dim()), x.tensor.dim()),)


def _new_shape(rng: random.Random, x: Value) -> Sequence[Any] | None:
    """A shape of as many elements, perhaps with a -1."""
    count = x.tensor.numel()
    if not count:
        return None
    sizes: list[int] = []
    rest = count
    while rest > 1 and len(sizes) < 3:
        divisors = [d for d in range(1, rest + 1) if rest % d == 0]
        sizes.append(rng.choice(divisors))
        rest //= sizes[-1]
    if rest > 1 or rng.random() < 0.2:
        sizes.append(rest)
    if sizes and rng.random() < 0.4:
        sizes[rng.randrange(len(sizes))] = -1
    return (sizes,)


def _slice(rng: random.Random, x: Value) -> Sequence[Any] | None:
    dim = _dim(rng, x)
    if dim is None:
        return None
    size = x.tensor.shape[dim[0]]
    return (
        dim[0],
        rng.randint(-size, size),
        rng.choice((rng.randint(-size, size), size, 2**63 - 1)),
        rng.randint(1, 3),
    )


def _index(rng: random.Random, x: Value) -> Sequence[Any] | None:
    dim = _filled_dim(rng, x)
    if dim is None:
        return None
    size = x.tensor.shape[dim[0]]
    return dim[0], rng.randrange(-size, size)


def _indices(rng: random.Random, x: Value) -> Sequence[Any] | None:
    dim = _filled_dim(rng, x)
    if dim is None:
        return None
    size = x.tensor.shape[dim[0]]
    return dim[0], [rng.randrange(size) for _ in range(rng.randint(1, 4))]


def _repeats(rng: random.Random, x: Value) -> Sequence[Any]:
    return ([rng.choice((1, 1, 2, 3)) for _ in range(x.tensor.dim() + rng.randint(0, 1))],)


def _expansion(rng: random.Random, x: Value) -> Sequence[Any]:
    sizes = [rng.choice((-1, 2, 3)) if size == 1 else rng.choice((-1, size)) for size in x.tensor.shape]
    return ([rng.randint(1, 2)] * rng.randint(0, 1) + sizes,)


def _shift(rng: random.Random, x: Value) -> Sequence[Any] | None:
    dim = _dim(rng, x)
    return None if dim is None else (rng.randint(-3, 3), dim[0])


def _padding(rng: random.Random, x: Value) -> Sequence[Any] | None:
    dims = min(x.tensor.dim(), 2)
    if not dims or not x.tensor.numel():
        return None
    return ([rng.randint(0, 2) for _ in range(2 * dims)], rng.choice((0, 1, -2)))


def _reflection(rng: random.Random, x: Value) -> Sequence[Any] | None:
    size = x.tensor.shape[-1]
    if size < 2 or 0 in x.tensor.shape:
        return None
    most = min(2, size - 1)
    return ([rng.randint(0, most), rng.randint(0, most)], rng.choice(("reflect", "replicate")))


def _same_but(axis_free: bool) -> Callable[..., Sequence[Any] | None]:
    def draw(rng: random.Random, x: Value, y: Value) -> Sequence[Any] | None:
        rank = x.tensor.dim()
        if rank != y.tensor.dim() or not rank:
            return None
        fitting = [
            d
            for d in range(rank)
            if all(
                a == b or (axis_free and i == d)
                for i, (a, b) in enumerate(zip(x.tensor.shape, y.tensor.shape))
            )
        ]
        return (rng.choice(fitting),) if fitting else None

    return draw


def _broadcastable(rng: random.Random, *operands: Value) -> Sequence[Any] | None:
    try:
        shape = torch.broadcast_shapes(*(value.tensor.shape for value in operands))
    except RuntimeError:
        return None
    return () if torch.Size(shape).numel() <= LARGEST else None


def _products(rng: random.Random, x: Value, y: Value) -> Sequence[Any] | None:
    if (
        x.tensor.dtype != y.tensor.dtype
        or x.tensor.shape[-1] != y.tensor.shape[-2 if y.tensor.dim() > 1 else -1]
    ):
        return None
    try:
        torch.broadcast_shapes(x.tensor.shape[:-2], y.tensor.shape[:-2])
    except RuntimeError:
        return None
    return ()


def _scalar(rng: random.Random, *operands: Value) -> Sequence[Any]:
    return (rng.choice((-2, -1, 0, 1, 2, 3, 0.5, -1.5)),)


def _whole(rng: random.Random, *operands: Value) -> Sequence[Any]:
    return (rng.choice((-3, -2, 1, 2, 3)),)


def _dtype(rng: random.Random, x: Value) -> Sequence[Any] | None:
    names = ["float32", "float16", "bfloat16"]
    if x.exact or x.tensor.dtype is torch.bool:
        names += ["int32", "int64", "bool"]
    return (rng.choice(names),)


def _count(rng: random.Random, x: Value) -> Sequence[Any] | None:
    dim = _filled_dim(rng, x)
    return None if dim is None else (rng.randint(1, x.tensor.shape[dim[0]]), dim[0], rng.random() < 0.5)


def _window(rng: random.Random, x: Value) -> Sequence[Any] | None:
    if x.tensor.numel() == 0 or min(x.tensor.shape[-2:]) < 3:
        return None
    return rng.randint(1, 3), rng.randint(1, 2), rng.random() < 0.5


def _weights(rng: random.Random, x: Value) -> Sequence[Any] | None:
    size = x.tensor.shape[-1]
    return (rng.randint(1, 6), rng.randrange(1000), rng.random() < 0.5) if size else None


def _kernels(rng: random.Random, x: Value) -> Sequence[Any] | None:
    channels = x.tensor.shape[1]
    if x.tensor.numel() == 0 or min(x.tensor.shape[2:]) < 3:
        return None
    return (channels if rng.random() < 0.3 else 1, rng.randint(1, 2), rng.randint(0, 1), rng.randint(1, 2) if min(x.tensor.shape[2:]) > 4 else 1, rng.randrange(1000))  # fmt: skip


# ---- what the ops compute ----------------------------------------------------------------------------------


def _constant(shape: Sequence[int], seed: int, like: torch.Tensor) -> torch.Tensor:
    """Weights without a random op, which would stay in the graph: sines of multiples of an odd angle."""
    count = torch.Size(shape).numel()
    angles = torch.arange(count, dtype=torch.float32) * 1.7 + seed
    return (torch.sin(angles) / 4).reshape(tuple(shape)).to(like.dtype)


def _linear(x: torch.Tensor, features: int, seed: int, with_bias: bool) -> torch.Tensor:
    bias = _constant((features,), seed + 1, x) if with_bias else None
    return F.linear(x, _constant((features, x.shape[-1]), seed, x), bias)


def _convolution(
    x: torch.Tensor, groups: int, stride: int, padding: int, dilation: int, seed: int
) -> torch.Tensor:
    dims = x.dim() - 2
    weight = _constant((2 * groups, x.shape[1] // groups, *[2] * dims), seed, x)
    run = F.conv1d if dims == 1 else F.conv2d
    return run(x, weight, _constant((2 * groups,), seed + 1, x), stride, padding, dilation, groups)


def _slice_run(x: torch.Tensor, dim: int, start: int, end: int, step: int) -> torch.Tensor:
    return torch.ops.aten.slice.Tensor(x, dim, start, end, step)


def _select_values(x: torch.Tensor, count: int, dim: int, largest: bool) -> torch.Tensor:
    return torch.topk(x, count, dim, largest).values


def _taken(x: torch.Tensor, picks: torch.Tensor, dim: int) -> torch.Tensor:
    """Elements of `x` along a dim, at indices that are computed."""
    size = x.shape[dim]
    flat = picks.flatten()[:3]
    return x.index_select(dim, torch.remainder(flat.long(), size))


_UNARY: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "relu": torch.relu,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "exp": lambda x: torch.exp(x.clamp(-4, 4)),
    "expm1": lambda x: torch.expm1(x.clamp(-4, 4)),
    "log1p": lambda x: torch.log1p(x.abs()),
    "log": lambda x: torch.log(x.abs() + 1),
    "sqrt": lambda x: torch.sqrt(x.abs() + 0.5),
    "rsqrt": lambda x: torch.rsqrt(x.abs() + 1),
    "reciprocal": lambda x: torch.reciprocal(x.abs() + 1),
    "sin": torch.sin,
    "cos": torch.cos,
    "atan": torch.atan,
    "asinh": torch.asinh,
    "erf": torch.erf,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "silu": F.silu,
    "mish": F.mish,
    "elu": F.elu,
    "selu": F.selu,
    "celu": lambda x: F.celu(x, 1.5),
    "softplus": F.softplus,
    "logsigmoid": F.logsigmoid,
    "softsign": F.softsign,
    "hardtanh": F.hardtanh,
    "hardswish": F.hardswish,
    "hardsigmoid": F.hardsigmoid,
    "leaky_relu": lambda x: F.leaky_relu(x, 0.2),
    "relu6": F.relu6,
}
_NUMBER_UNARY: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "neg": torch.neg,
    "abs": torch.abs,
    "square": lambda x: x * x,
    "clone": torch.clone,
}
_JUMPS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "floor": lambda x: torch.floor(x / 2),
    "ceil": lambda x: torch.ceil(x / 2),
    "round": lambda x: torch.round(x / 2),
    "trunc": lambda x: torch.trunc(x / 2),
    "sign": torch.sign,
    "logical_not": torch.logical_not,
    "nonzero_mask": lambda x: x != 0,
}
_BINARY: dict[str, Callable[..., torch.Tensor]] = {
    "add": torch.add,
    "sub": torch.sub,
    "mul": torch.mul,
    "maximum": torch.maximum,
    "minimum": torch.minimum,
}
_COMPARE: dict[str, Callable[..., torch.Tensor]] = {
    "eq": torch.eq,
    "ne": torch.ne,
    "lt": torch.lt,
    "le": torch.le,
    "gt": torch.gt,
    "ge": torch.ge,
}
_REDUCTIONS: dict[str, Callable[..., torch.Tensor]] = {
    "sum": lambda x, dims, keep: x.sum(dims, keepdim=keep),
    "amax": lambda x, dims, keep: x.amax(dims, keepdim=keep),
    "amin": lambda x, dims, keep: x.amin(dims, keepdim=keep),
}
_FLOAT_REDUCTIONS: dict[str, Callable[..., torch.Tensor]] = {
    "mean": lambda x, dims, keep: x.mean(dims, keepdim=keep),
    "var": lambda x, dims, keep: x.var(dims, correction=0, keepdim=keep),
    "logsumexp": lambda x, dims, keep: x.logsumexp(dims, keepdim=keep),
    "norm": lambda x, dims, keep: torch.linalg.vector_norm(x, 2, dims, keepdim=keep),
}
_ALONG: dict[str, Callable[..., torch.Tensor]] = {
    "softmax": torch.softmax,
    "log_softmax": torch.log_softmax,
    "cumsum": torch.cumsum,
    "glu_like": lambda x, dim: x * torch.sigmoid(x.flip(dim)),
}

OPS: dict[str, Op] = {
    **{name: Op(run, (_float,)) for name, run in _UNARY.items()},
    **{name: Op(run, (_number,), keeps=True) for name, run in _NUMBER_UNARY.items()},
    **{name: Op(run, (_exact,), keeps=True) for name, run in _JUMPS.items()},
    **{name: Op(run, (_number, _number), _broadcastable, keeps=True) for name, run in _BINARY.items()},
    **{name: Op(run, (_exact, _exact), _broadcastable, keeps=True) for name, run in _COMPARE.items()},
    **{name: Op(run, (_number,), _dims_and_keep, keeps=True) for name, run in _REDUCTIONS.items()},
    **{name: Op(run, (_float,), _dims_and_keep) for name, run in _FLOAT_REDUCTIONS.items()},
    **{name: Op(run, (_ranked(_float, 1),), _filled_dim) for name, run in _ALONG.items()},
    "div": Op(lambda x, y: x / (y.abs() + 1), (_number, _number), _broadcastable),
    "floor_divide": Op(lambda x, y: torch.div(x, y * y + 1, rounding_mode="floor"), (_exact, _exact), _broadcastable, keeps=True),
    "trunc_divide": Op(lambda x, y: torch.div(x, y * y + 1, rounding_mode="trunc"), (_exact, _exact), _broadcastable, keeps=True),
    "remainder": Op(lambda x, y: torch.remainder(x, y * y + 1), (_exact, _exact), _broadcastable, keeps=True),
    "fmod": Op(lambda x, y: torch.fmod(x, y * y + 1), (_exact, _exact), _broadcastable, keeps=True),
    "atan2": Op(lambda x, y: torch.atan2(x, y.abs() + 1), (_float, _float), _broadcastable),
    "pow": Op(lambda x, n: (x.abs() + 0.5) ** n, (_float,), lambda rng, x: (rng.choice((2, 3, 0.5, -1, 1.5)),)),
    "add_number": Op(lambda x, n: x + n, (_number,), _scalar),
    "mul_number": Op(lambda x, n: x * n, (_number,), _scalar),
    "rsub_number": Op(lambda x, n: n - x, (_number,), _scalar),
    "compare_number": Op(lambda x, n: x > n, (_exact,), _whole, keeps=True),
    "clamp": Op(lambda x, n: x.clamp(-abs(n), abs(n)), (_number,), _whole, keeps=True),
    "and": Op(torch.logical_and, (_bool, _bool), _broadcastable, keeps=True),
    "or": Op(torch.logical_or, (_bool, _bool), _broadcastable, keeps=True),
    "xor": Op(torch.bitwise_xor, (_bool, _bool), _broadcastable, keeps=True),
    "not": Op(torch.bitwise_not, (_bool,), keeps=True),
    "where": Op(torch.where, (_bool, _number, _number), _broadcastable, keeps=True),
    "masked_fill": Op(lambda x, mask: x.masked_fill(mask, 2), (_number, _bool), lambda rng, x, m: _into(x, m), keeps=True),
    "any": Op(lambda x, dim, keep: x.any(dim, keep), (_bool,), _dim_and_keep, keeps=True),
    "all": Op(lambda x, dim, keep: x.all(dim, keep), (_bool,), _dim_and_keep, keeps=True),
    "prod": Op(lambda x, dim, keep: torch.tanh(x).prod(dim, keep), (_float,), _dim_and_keep),
    "argmax": Op(lambda x, dim, keep: x.argmax(dim, keep), (_exact,), _dim_and_keep, keeps=True),
    "argmin": Op(lambda x, dim, keep: x.argmin(dim, keep), (_exact,), _dim_and_keep, keeps=True),
    "topk": Op(_select_values, (_exact,), _count, keeps=True),
    "sort": Op(lambda x, dim: torch.sort(x, dim).values, (_exact,), _filled_dim, keeps=True),
    "cast": Op(lambda x, name: x.to(getattr(torch, name)), (_any,), _dtype, keeps=True),
    "permute": Op(lambda x, order: x.permute(order), (_any,), _permutation, keeps=True),
    "reshape": Op(lambda x, shape: x.reshape(shape), (_any,), _new_shape, keeps=True),
    "flatten": Op(lambda x: x.flatten(), (_any,), keeps=True),
    "unsqueeze": Op(lambda x, dim: x.unsqueeze(dim), (_ranked(_any, 0, 5),), lambda rng, x: (rng.randint(-x.tensor.dim() - 1, x.tensor.dim()),), keeps=True),
    "squeeze": Op(lambda x: x.squeeze(), (_any,), keeps=True),
    "transpose": Op(lambda x, a, b: x.transpose(a, b), (_ranked(_any, 2),), lambda rng, x: (*_dim(rng, x), *_dim(rng, x)), keeps=True),
    "slice": Op(_slice_run, (_ranked(_any, 1),), _slice, keeps=True),
    "select": Op(lambda x, dim, i: x.select(dim, i), (_ranked(_any, 1),), _index, keeps=True),
    "index_select": Op(lambda x, dim, i: x.index_select(dim, torch.tensor(i)), (_ranked(_any, 1),), _indices, keeps=True),
    "take": Op(_taken, (_ranked(_filled(_any), 1), _ranked(_filled(_exact), 1)), _filled_dim, keeps=True),
    "flip": Op(lambda x, dim: x.flip(dim), (_ranked(_any, 1),), _dim, keeps=True),
    "roll": Op(lambda x, n, dim: x.roll(n, dim), (_ranked(_any, 1),), _shift, keeps=True),
    "repeat": Op(lambda x, times: x.repeat(times), (_ranked(_any, 0, 4),), _repeats, keeps=True),
    "expand": Op(lambda x, sizes: x.expand(sizes), (_ranked(_any, 0, 4),), _expansion, keeps=True),
    "cat": Op(lambda x, y, dim: torch.cat([x, y], dim), (_ranked(_any, 1), _ranked(_any, 1)), _same_but(axis_free=True), keeps=True),
    "stack": Op(lambda x, y, dim: torch.stack([x, y], dim), (_ranked(_any, 1, 5), _ranked(_any, 1, 5)), _same_but(axis_free=False), keeps=True),
    "chunk": Op(lambda x, dim: torch.chunk(x, 2, dim)[-1], (_ranked(_any, 1),), _filled_dim, keeps=True),
    "pad": Op(lambda x, pads, value: F.pad(x, pads, value=value), (_ranked(_number, 1),), _padding, keeps=True),
    "pad_mode": Op(lambda x, pads, mode: F.pad(x, pads, mode), (_ranked(_float, 2, 3),), _reflection, keeps=True),
    "tril": Op(lambda x, k: torch.tril(x, k), (_ranked(_number, 2),), lambda rng, x: (rng.randint(-2, 2),), keeps=True),
    "triu": Op(lambda x, k: torch.triu(x, k), (_ranked(_number, 2),), lambda rng, x: (rng.randint(-2, 2),), keeps=True),
    "matmul": Op(lambda x, y: x @ y, (_ranked(_float, 1, 4), _ranked(_float, 1, 4)), _products),
    "matmul_transposed": Op(lambda x: x @ x.transpose(-1, -2), (_ranked(_float, 2, 4),)),
    "linear": Op(_linear, (_ranked(_float, 1),), _weights),
    "layer_norm": Op(lambda x: F.layer_norm(x, x.shape[-1:]), (_ranked(_filled(_float), 1),)),
    "rms_norm": Op(lambda x: F.rms_norm(x, x.shape[-1:], eps=1e-2), (_ranked(_filled(_float), 1),)),
    "conv": Op(_convolution, (_ranked(_float, 3, 4),), _kernels),
    "max_pool": Op(lambda x, k, s, c: F.max_pool2d(x, k, s, ceil_mode=c), (_ranked(_float, 4, 4),), _window, keeps=True),
    "avg_pool": Op(lambda x, k, s, c: F.avg_pool2d(x, k, s, ceil_mode=c), (_ranked(_float, 4, 4),), _window),
    "attention": Op(lambda x: F.scaled_dot_product_attention(x, x, x), (_ranked(_filled(_float), 4, 4),)),
}  # fmt: skip


def _into(x: Value, mask: Value) -> Sequence[Any] | None:
    """() where the mask broadcasts to x."""
    try:
        same = torch.broadcast_shapes(x.tensor.shape, mask.tensor.shape) == x.tensor.shape
    except RuntimeError:
        return None
    return () if same else None


# ---- making a graph ----------------------------------------------------------------------------------------


def generate(rng: random.Random, longest: int = 12) -> RandomGraph:
    """A random graph of up to `longest` steps (casts and squashings come on top)."""
    floats = rng.choice(FLOATS)
    sources = [_source(rng, floats) for _ in range(rng.randint(1, 3))]
    values = [Value(source.make(i), source.integral) for i, source in enumerate(sources)]
    steps: list[Step] = []
    for _ in range(rng.randint(1, longest)):
        made = _step(rng, values)
        if made is None:
            continue
        step, value = made
        steps.append(step)
        values.append(value)
        tamed = _tamed(values)
        if tamed is not None:
            steps.append(tamed[0])
            values.append(tamed[1])
    read = {i for step in steps for i in step.reads}
    results = [i for i in range(len(sources), len(values)) if i not in read]
    if not steps:
        steps.append(Step("clone" if sources[0].dtype != "bool" else "not", (0,)))
        results = [len(sources)]
    return RandomGraph(tuple(sources), tuple(steps), tuple(results))


def _source(rng: random.Random, floats: torch.dtype) -> Source:
    rank = rng.choice((0, 1, 2, 2, 3, 3, 4, 4))
    sizes = (1, 2, 3, 4, 5, 6, 8) if rng.random() < 0.95 else (0, 1, 2)
    shape = tuple(rng.choice(sizes) for _ in range(rank))
    dtype = rng.choice((floats, floats, floats, torch.int64, torch.int32, torch.bool))
    integral = not dtype.is_floating_point or rng.random() < 0.4
    return Source(shape, str(dtype).removeprefix("torch."), integral)


_ATTEMPTS = 20


def _step(rng: random.Random, values: Sequence[Value]) -> tuple[Step, Value] | None:
    """A step that fits some values, newer ones being likelier; None when none was found soon."""
    names = tuple(OPS)
    for _ in range(_ATTEMPTS):
        name = rng.choice(names)
        op = OPS[name]
        reads = []
        for fits in op.fits:
            fitting = [i for i, value in enumerate(values) if fits(value)]
            if not fitting:
                break
            reads.append(rng.choice(fitting[-3:] if rng.random() < 0.7 else fitting))
        if len(reads) < len(op.fits):
            continue
        operands = [values[i] for i in reads]
        parameters = op.draw(rng, *operands)
        if parameters is None:
            continue
        made = _result(op, operands, parameters)
        if made is not None:
            return Step(name, tuple(reads), tuple(parameters)), made
    return None


def _result(op: Op, operands: Sequence[Value], parameters: Sequence[Any]) -> Value | None:
    """The value of a step; None where it is too large, not finite, or torch has no such kernel."""
    try:
        tensor = op.run(*(value.tensor for value in operands), *parameters)
    except (RuntimeError, NotImplementedError, IndexError, ValueError):
        return None
    if tensor.numel() > LARGEST or tensor.dim() > 6:
        return None
    wide = tensor.double()
    if not wide.isfinite().all() or (
        tensor.numel() and not tensor.is_floating_point() and wide.abs().max() > 2**20
    ):
        return None
    exact = op.keeps and all(value.exact for value in operands)
    if exact and tensor.numel():
        exact = bool((wide == wide.round()).all() and wide.abs().max() <= EXACT)
    return Value(tensor, exact)


def _tamed(values: Sequence[Value]) -> tuple[Step, Value] | None:
    """What brings the newest value back to a moderate size, where it needs that."""
    value = values[-1]
    if not value.floating or not value.tensor.numel() or float(value.tensor.abs().max()) <= BOUND:
        return None
    return Step("tanh", (len(values) - 1,)), Value(torch.tanh(value.tensor), False)
