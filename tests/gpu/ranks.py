"""A tensor parallel decoder with a cache that is divided among the ranks: right, saved per rank, loaded again, and timed.

    torchrun --nproc-per-node 2 tests/gpu/ranks.py check FOLDER      # numbers and 200 tokens; saves FOLDER/rankN.pt2
    torchrun --nproc-per-node 2 tests/gpu/ranks.py again FOLDER      # loads these and decodes once more
    torchrun --nproc-per-node 2 tests/gpu/ranks.py figures           # a 1B-shape model in bfloat16 beside eager

A rank has a GPU (NCCL), or none is there, and all share the CPU (gloo). Any number of ranks that divides the heads.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

import trtcore

F = nn.functional
TOKENS = 200
OPTIONS: dict[str, Any] = {"runtime": "reference", "min_block_size": 1, "use_distributed_mode_trace": True}


@dataclass(frozen=True)
class Shape:
    """The sizes of a decoder."""

    width: int
    layers: int
    heads: int
    hidden: int
    vocabulary: int
    capacity: int
    batch: int


SMALL = Shape(width=32, layers=2, heads=4, hidden=64, vocabulary=97, capacity=TOKENS + 8, batch=2)
LARGE = Shape(width=2048, layers=16, heads=32, hidden=8192, vocabulary=32000, capacity=512, batch=1)


class Layer(nn.Module):
    """Attention over a cache of this rank's heads, and a gated feed-forward part."""

    def __init__(self, shape: Shape, ranks: int) -> None:
        super().__init__()
        width = shape.width
        self.head = width // shape.heads
        self.norm, self.norm2 = nn.RMSNorm(width), nn.RMSNorm(width)
        self.q, self.k, self.v, self.o = (nn.Linear(width, width, bias=False) for _ in range(4))
        self.gate, self.up = (nn.Linear(width, shape.hidden, bias=False) for _ in range(2))
        self.down = nn.Linear(shape.hidden, width, bias=False)
        cache = torch.zeros(shape.batch, shape.heads // ranks, shape.capacity, self.head)
        self.register_buffer("keys", cache)
        self.register_buffer("values", cache.clone())

    def forward(self, x: torch.Tensor, position: torch.Tensor) -> torch.Tensor:
        batch = x.shape[0]
        h = self.norm(x)
        q, k, v = (part(h).view(batch, 1, -1, self.head).transpose(1, 2) for part in (self.q, self.k, self.v))
        self.keys.index_copy_(2, position, k)
        self.values.index_copy_(2, position, v)
        seen = (torch.arange(self.keys.shape[2], device=x.device) <= position)[None, None, None]
        y = F.scaled_dot_product_attention(q, self.keys, self.values, attn_mask=seen)
        x = x + self.o(y.transpose(1, 2).reshape(batch, 1, -1))
        h = self.norm2(x)
        return x + self.down(F.silu(self.gate(h)) * self.up(h))


class Decoder(nn.Module):
    """One step: tokens (batch, 1) and their position (1,) to logits (batch, vocabulary)."""

    def __init__(self, shape: Shape, ranks: int) -> None:
        super().__init__()
        self.table = nn.Embedding(shape.vocabulary, shape.width)
        self.layers = nn.ModuleList(Layer(shape, ranks) for _ in range(shape.layers))
        self.norm, self.logits = nn.RMSNorm(shape.width), nn.Linear(shape.width, shape.vocabulary, bias=False)

    def forward(self, tokens: torch.Tensor, position: torch.Tensor) -> torch.Tensor:
        x = self.table(tokens)
        for layer in self.layers:
            x = layer(x, position)
        return self.logits(self.norm(x))[:, 0]


def plan(model: Decoder) -> dict[str, Any]:
    parts: dict[str, Any] = {}
    for index in range(len(model.layers)):
        parts |= {f"layers.{index}.{name}": ColwiseParallel() for name in ("q", "k", "v", "gate", "up")}
        parts |= {f"layers.{index}.{name}": RowwiseParallel() for name in ("o", "down")}
    return parts


@dataclass(frozen=True)
class Place:
    """Where this process is."""

    rank: int
    world: int
    device: torch.device


def start() -> Place:
    """Join the other ranks that torchrun started."""
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        dist.init_process_group("nccl", device_id=device)
    else:
        device = torch.device("cpu")
        dist.init_process_group("gloo")
    return Place(rank, world, device)


def decoder(shape: Shape, ranks: int, place: Place, dtype: torch.dtype) -> Decoder:
    """The same weights in every process."""
    torch.manual_seed(0)
    with torch.device(place.device if dtype is torch.bfloat16 else "cpu"):
        made = Decoder(shape, ranks)
    return made.to(place.device, dtype).eval()


def parallel(shape: Shape, place: Place, dtype: torch.dtype) -> Decoder:
    model = decoder(shape, place.world, place, dtype)
    mesh = init_device_mesh(place.device.type, (place.world,))
    parallelize_module(model, mesh, plan(model))
    return model


def forget(model: nn.Module) -> None:
    for name, buffer in model.named_buffers():
        if name.endswith(("keys", "values")):
            buffer.zero_()


def decode(
    model: Callable[..., torch.Tensor], place: Place, count: int, batch: int
) -> tuple[list[Any], torch.Tensor]:
    """Greedy tokens, and the logits of the last step."""
    tokens, found = torch.arange(1, batch + 1, device=place.device)[:, None], []
    for step in range(count):
        logits = model(tokens, torch.tensor([step], device=place.device))
        tokens = logits.argmax(-1, keepdim=True)
        found.append(tokens)
    return torch.cat(found, 1).tolist(), logits


def compiled(model: Decoder, place: Place, batch: int) -> Any:
    example = torch.ones(batch, 1, dtype=torch.int64, device=place.device)
    return trtcore.compile(model, inputs=[example, torch.tensor([0], device=place.device)], **OPTIONS)


@torch.no_grad()
def check(place: Place, folder: str) -> None:
    """float32 token by token as one process; bfloat16 as near to float32 as eager on the same ranks."""
    single = decoder(SMALL, 1, place, torch.float32)
    want, logits = decode(single, place, TOKENS, SMALL.batch)
    model = parallel(SMALL, place, torch.float32)
    ahead = compiled(model, place, SMALL.batch)
    forget(ahead)
    got, last = decode(ahead, place, TOKENS, SMALL.batch)
    assert got == want
    torch.testing.assert_close(last, logits, rtol=1e-5, atol=1e-5)
    forget(ahead)
    trtcore.save(ahead, f"{folder}/rank{place.rank}.pt2")

    forget(model)
    just_in_time = torch.compile(
        model, backend="trtcore", options={"runtime": "reference", "min_block_size": 1}, dynamic=False
    )
    got, last = decode(just_in_time, place, 24, SMALL.batch)
    assert got == [row[:24] for row in want]

    half = parallel(SMALL, place, torch.bfloat16)
    one = torch.ones(SMALL.batch, 1, dtype=torch.int64, device=place.device)
    at = torch.tensor([0], device=place.device)
    exact = decoder(SMALL, 1, place, torch.bfloat16).float()(
        one, at
    )  # the rounded weights, float32 arithmetic
    eager = half(one, at)
    forget(half)
    ours = compiled(half, place, SMALL.batch)
    forget(ours)
    error, allowed = ((value.float() - exact).norm() for value in (ours(one, at), eager))
    assert error <= 1.25 * allowed + 1e-6, (float(error), float(allowed))
    if not place.rank:
        kinds = [segment.kind for segment in ahead.report.segments]
        print(f"{place.world} ranks on {place.device.type}: {TOKENS} tokens as in one process; "
              f"{kinds.count('tensorrt')} engines a rank; bfloat16 error {error:.2e}, eager's {allowed:.2e}")  # fmt: skip


@torch.no_grad()
def again(place: Place, folder: str) -> None:
    """What `check` saved, in new processes."""
    want, _ = decode(decoder(SMALL, 1, place, torch.float32), place, TOKENS, SMALL.batch)
    loaded = trtcore.load(f"{folder}/rank{place.rank}.pt2").to(place.device)
    assert decode(loaded, place, TOKENS, SMALL.batch)[0] == want
    if not place.rank:
        print(f"{place.world} ranks: loaded, {TOKENS} tokens as in one process")


@torch.no_grad()
def figures(place: Place) -> None:
    """Milliseconds a step, memory a rank, and the share of collectives, beside eager."""
    dtype = torch.bfloat16 if place.device.type == "cuda" else torch.float32
    base = LARGE if place.device.type == "cuda" else SMALL
    for batch in (1, 8, 32):
        shape = Shape(**{**vars(base), "batch": batch})
        model = parallel(shape, place, dtype)
        made = compiled(model, place, batch)
        eager, ours = (_milliseconds(one, place, batch) for one in (model, made))
        peak = torch.cuda.max_memory_allocated() / 2**30 if place.device.type == "cuda" else float("nan")
        reduce = _reduce_milliseconds(shape, place, dtype)
        if not place.rank:
            print(
                f"| {place.world} | {batch} | {eager:.3f} | {ours:.3f} | {reduce:.3f} | {peak:.1f} |",
                flush=True,
            )
        del model, made


def _milliseconds(model: Any, place: Place, batch: int, steps: int = 30) -> float:
    tokens = torch.ones(batch, 1, dtype=torch.int64, device=place.device)
    times = []
    for step in range(steps):
        position = torch.tensor([step], device=place.device)
        dist.barrier()
        began = time.perf_counter()
        model(tokens, position)
        if place.device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - began)
    return sorted(times)[steps // 2] * 1e3


def _reduce_milliseconds(shape: Shape, place: Place, dtype: torch.dtype) -> float:
    """What the all-reduces of one step take, one behind the other."""
    value = torch.zeros(shape.batch, 1, shape.width, dtype=dtype, device=place.device)
    times = []
    for _ in range(10):
        dist.barrier()
        began = time.perf_counter()
        for _ in range(2 * shape.layers):
            dist.all_reduce(value)
        if place.device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - began)
    return sorted(times)[5] * 1e3


def main() -> None:
    place = start()
    if place.device.type == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = False
    if sys.argv[1] == "check":
        check(place, sys.argv[2])
    elif sys.argv[1] == "again":
        again(place, sys.argv[2])
    else:
        if not place.rank:
            print(
                "| ranks | batch | eager ms | trtcore ms | its all-reduces alone ms | peak GiB a rank |\n|"
                + "---|" * 6
            )
        figures(place)
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
