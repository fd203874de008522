"""Peak memory of a compile with 1 GiB of weights, against the weights and the plan; of `save` and of `load`.

``python tests/benchmarks/bench_memory.py``. Each measurement is a process of its own; the base is a process that
has the same libraries loaded and has compiled (saved, loaded and called) a small model.
"""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import tempfile

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
    """Largest resident set of this process so far, in bytes. Pages of mapped files count while they are resident."""
    return _status("VmHWM")


def resident() -> int:
    """Resident set of this process now, in bytes."""
    return _status("VmRSS")


def _status(name: str) -> int:
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith(name))


def compile_model(count: int) -> list[float]:
    """[weights, plan, peak over the base] in bytes."""
    x = torch.ones(1, 4096)
    with torch.no_grad():
        trtcore.compile(torch.nn.Linear(8, 8).eval(), [torch.ones(1, 8)], min_block_size=1)
        base = resident()
        model = Layers(count).eval()
        weights = sum(p.numel() * p.element_size() for p in model.parameters())
        compiled = trtcore.compile(model, [x], min_block_size=1)
    return [weights, compiled.report.engine_bytes, peak() - base]


def save_model(count: int, path: str) -> list[float]:
    """[weights, size of the file, peak of `save` over the base] in bytes."""
    with torch.no_grad():
        small = trtcore.compile(torch.nn.Linear(8, 8).eval(), [torch.ones(1, 8)], min_block_size=1)
        trtcore.save(small, path)
        base = resident()
        model = Layers(count).eval()
        weights = sum(p.numel() * p.element_size() for p in model.parameters())
        compiled = trtcore.compile(model, [torch.ones(1, 4096)], min_block_size=1)
        del model
        gc.collect()
        _forget_peak()
        trtcore.save(compiled, path)
    return [weights, os.path.getsize(path), peak() - base]


def load_model(_: int, path: str) -> list[float]:
    """[-, size of the file, peak of `load` and a call] in bytes."""
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        small = trtcore.compile(torch.nn.Linear(8, 8).eval(), [torch.ones(1, 8)], min_block_size=1)
        trtcore.save(small, f"{folder}/small.pt2")
        trtcore.load(f"{folder}/small.pt2")(torch.ones(1, 8))
        base = resident()
        _forget_peak()
        module = trtcore.load(path)
        loaded = peak() - base
        module(torch.ones(1, 4096))
    return [loaded, os.path.getsize(path), peak() - base]


def _forget_peak() -> None:
    """The kernel's high-water mark of this process starts again at what is resident now."""
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")


CHILDREN = {"compile": compile_model, "save": save_model, "load": load_model}


def measured(what: str, *arguments: object) -> list[float]:
    """What a child measures."""
    command = [sys.executable, __file__, what, *map(str, arguments)]
    out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return [float(word) for word in out.splitlines()[-1].split()]


def main() -> None:
    if len(sys.argv) > 1:
        what, count, *rest = sys.argv[1:]
        print(*CHILDREN[what](int(count), *rest))
        return
    print("| weights | plan | peak over base | weights + 1.3 plans | peak minus weights, in plans |")
    print("|---|---|---|---|---|")
    for count in (4, 16):
        weights, plan, over = measured("compile", count)
        print(f"| {weights / MIB:.0f} MiB | {plan / MIB:.0f} MiB | {over / MIB:.0f} MiB "
              f"| {(weights + 1.3 * plan) / MIB:.0f} MiB | {(over - weights) / plan:.2f} |")  # fmt: skip
    print()
    print(
        "| weights | file | peak of `save`, in weights | of `load` | of `load` and a call in the reference runtime |"
    )
    print("|---|---|---|---|---|")
    for count in (4, 16):
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "model.pt2")
            weights, size, saving = measured("save", count, path)
            loading, _, calling = measured("load", count, path)
        print(f"| {weights / MIB:.0f} MiB | {size / MIB:.0f} MiB | {saving / weights:.2f} "
              f"| {loading / weights:.2f} | {calling / weights:.2f} |")  # fmt: skip


if __name__ == "__main__":
    main()
