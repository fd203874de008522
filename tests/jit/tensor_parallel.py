"""A tensor parallel block on the CPU, and what a rank checks; run by test_distributed.py, in a process per rank."""

from __future__ import annotations

import os
import sys
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

import trtcore
from trtcore.jit.backend import reports

F = nn.functional
OPTIONS: dict[str, Any] = {"runtime": "reference", "min_block_size": 1}


class Block(nn.Module):
    """Attention of four heads and a feed-forward part, both divided among the ranks."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.norm2 = nn.LayerNorm(16), nn.LayerNorm(16)
        self.q, self.k, self.v, self.o = (nn.Linear(16, 16) for _ in range(4))
        self.up, self.down = nn.Linear(16, 32), nn.Linear(32, 16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, length, _ = x.shape
        h = self.norm(x)
        q, k, v = (part(h).view(batch, length, -1, 4).transpose(1, 2) for part in (self.q, self.k, self.v))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.o(y.transpose(1, 2).reshape(batch, length, -1))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


PLAN = {
    **{name: ColwiseParallel() for name in ("q", "k", "v", "up")},
    "o": RowwiseParallel(),
    "down": RowwiseParallel(),
}


def collectives(module: Any) -> list[str]:
    """The names of the collectives in a hybrid graph."""
    return [
        node.target._schema.name.partition("::")[2]
        for node in module.graph.nodes
        if isinstance(node.target, torch._ops.OpOverload) and node.target.namespace == "_c10d_functional"
    ]


@torch.no_grad()
def check(rank: int, world: int, folder: str) -> None:
    """Both ways of compiling give what one process gives, from this rank's part of the weights."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=world)
    torch.manual_seed(0)
    model, x = Block().eval(), torch.randn(2, 5, 16)
    want = model(x)
    parallelize_module(model, init_device_mesh("cpu", (world,)), PLAN)

    ahead = trtcore.compile(model, inputs=[x], use_distributed_mode_trace=True, **OPTIONS)
    same(ahead(x), want)
    same(ahead(x=x), want)
    assert collectives(ahead).count("all_reduce") == (2 if world > 1 else 0)
    weights = sum(
        engine.weight_bytes for info in trtcore.runtime.engine_info(ahead) for engine in info.layers
    )
    assert weights > 0
    if world > 1:
        whole = 4 * sum(p.numel() for p in Block().parameters())
        assert weights < whole, "a rank's engines have its part of the weights"
    path = f"{folder}/rank{rank}.pt2"
    trtcore.save(ahead, path)
    same(trtcore.load(path)(x), want)

    varying = trtcore.Input(min_shape=(1, 1, 16), opt_shape=(2, 5, 16), max_shape=(4, 9, 16))
    dynamic = trtcore.compile(model, inputs=[varying], use_distributed_mode_trace=True, **OPTIONS)
    torch.manual_seed(1)
    plain = Block().eval()
    torch.manual_seed(0)
    plain.load_state_dict(Block().state_dict())
    for shape in ((1, 1, 16), (2, 5, 16), (4, 9, 16), (3, 2, 16)):
        y = torch.randn(*shape)
        same(dynamic(y), plain(y))
    assert collectives(dynamic).count("all_reduce") == (2 if world > 1 else 0)

    just_in_time = torch.compile(model, backend="trtcore", options=OPTIONS)
    same(just_in_time(x), want)
    names = [segment.kind for segment in reports()[-1].report.segments]
    assert names.count("tensorrt") >= (3 if world > 1 else 1)
    with torch.no_grad():
        model.norm.weight.mul_(2.0)
    same(just_in_time(x), model(x))
    dist.destroy_process_group()


def same(got: torch.Tensor, want: torch.Tensor) -> None:
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    check(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
    print("right")
