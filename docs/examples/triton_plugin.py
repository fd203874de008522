"""A Triton kernel as torch op, TensorRT plugin and converter, from one declaration.

A backend with plugin layers keeps it in the engine; TensorRT for RTX has none, so there it runs in torch, and the
report says so. On a CPU the op computes its reference; ``TRITON_INTERPRET=1 python triton_plugin.py`` runs the kernel
itself, in Triton's interpreter, and proves its values instead of compiling it.

Needs Triton (``pip install "trtcore[triton]"``).
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

import trtcore
from trtcore_plugins import assert_plugin, triton_plugin


@triton.jit  # type: ignore[untyped-decorator]
def swiglu_kernel(gate_ptr, up_ptr, out_ptr, n, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    gate = tl.load(gate_ptr + at, mask=at < n).to(tl.float32)
    up = tl.load(up_ptr + at, mask=at < n).to(tl.float32)
    tl.store(out_ptr + at, gate * tl.sigmoid(gate) * up, mask=at < n)


class Feed(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gate, self.up = torch.nn.Linear(32, 64), torch.nn.Linear(32, 64)
        self.down = torch.nn.Linear(64, 32)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down(torch.ops.example.swiglu(self.gate(x), self.up(x)))  # type: ignore[no-any-return]


def main() -> None:
    torch.manual_seed(0)
    swiglu = triton_plugin(
        "example::swiglu",
        swiglu_kernel,
        schema="(Tensor gate, Tensor up) -> Tensor",
        shapes=lambda gate: gate.shape,
        grid=lambda gate: triton.cdiv(gate.numel(), 1024),
        arguments={"n": lambda gate: gate.numel(), "BLOCK": 1024},
        reference=lambda gate, up: torch.nn.functional.silu(gate) * up,
    )
    model, x = Feed().eval().requires_grad_(False), torch.randn(4, 32)
    compiled = trtcore.compile(model, inputs=[x], min_block_size=1)
    print(compiled.report.summary().splitlines()[0])
    for plugin in compiled.report.plugins:
        print(plugin)
    print(f"largest difference from eager {(compiled(x) - model(x)).abs().max():.1e}")

    given = (torch.randn(4, 64), torch.randn(4, 64))
    print(
        assert_plugin(swiglu, given, dynamic={"gate": [0], "up": [0]}, compute_capabilities=[(8, 0), (9, 0)])
    )


if __name__ == "__main__":
    with trtcore.scoped_registry():  # a script of your own needs no scope
        main()
