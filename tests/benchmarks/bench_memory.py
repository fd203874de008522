"""Peak memory of a compile with 1 GiB of weights, against the weights and the plan.

``python tests/benchmarks/bench_memory.py``. Each measurement is a process of its own; the base is a process that
has the model and the same libraries loaded and has compiled a small model.
"""

from __future__ import annotations

import resource
import subprocess
import sys

import torch

import trtcore

MIB = 1 << 20


class Layers(torch.nn.Module):
    """Linear layers of 64 MiB each."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.layers = torch.nn.ModuleList(torch.nn.Linear(4096, 4096, bias=False) for _ in range(count))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = torch.relu(layer(x))
        return x


def peak() -> int:
    """Largest resident set of this process so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def resident() -> int:
    """Resident set of this process now, in bytes."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmRSS"))


def child(count: int) -> None:
    x = torch.ones(1, 4096)
    with torch.no_grad():
        trtcore.compile(torch.nn.Linear(8, 8).eval(), [torch.ones(1, 8)], min_block_size=1)
        base = resident()
        model = Layers(count).eval()
        weights = sum(p.numel() * p.element_size() for p in model.parameters())
        compiled = trtcore.compile(model, [x], min_block_size=1)
    print(base, weights, compiled.report.engine_bytes, peak())


def main() -> None:
    if len(sys.argv) > 1:
        child(int(sys.argv[1]))
        return
    print("| weights | plan | peak over base | weights + 1.3 plans | peak minus weights, in plans |")
    print("|---|---|---|---|---|")
    for count in (4, 16):
        out = subprocess.run(
            [sys.executable, __file__, str(count)], check=True, capture_output=True, text=True
        ).stdout
        base, weights, plan, most = map(int, out.split()[-4:])
        over = most - base
        print(f"| {weights / MIB:.0f} MiB | {plan / MIB:.0f} MiB | {over / MIB:.0f} MiB "
              f"| {(weights + 1.3 * plan) / MIB:.0f} MiB | {(over - weights) / plan:.2f} |")  # fmt: skip


if __name__ == "__main__":
    main()
