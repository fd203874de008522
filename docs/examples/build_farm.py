"""Several engines built at once, by two worker processes; Dask and Ray clusters by another address.

python build_farm.py dask://scheduler:8786
"""

from __future__ import annotations

import sys

import torch

import trtcore


class Blocks(torch.nn.Module):
    """Three engines: what is between them has no converter."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.nn.ModuleList(torch.nn.Linear(32, 32) for _ in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = torch.special.bessel_j0(layer(x).relu())
        return x


def main(address: str = "processes:2") -> None:
    torch.manual_seed(0)
    model, x = Blocks().eval().requires_grad_(False), torch.randn(4, 32)
    with trtcore.executors.connect(address) as executor:
        compiled = trtcore.compile(model, inputs=[x], min_block_size=1, build_executor=executor)
    print(f"{address}: {compiled.report.summary().splitlines()[0]}")
    print(f"largest difference from eager {(compiled(x) - model(x)).abs().max():.1e}")


if __name__ == "__main__":
    main(*sys.argv[1:])
