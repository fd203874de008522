"""An op of your own, and its converter: without it the op splits the engine in two, with it there is one."""

from __future__ import annotations

from typing import Any

import torch

import trtcore
from trtcore.pack import ConversionContext, converter
from trtcore.testing import assert_converts


@torch.library.custom_op("example::soft_clip", mutates_args=())
def soft_clip(x: torch.Tensor, limit: float) -> torch.Tensor:
    """``limit * tanh(x / limit)``."""
    return limit * torch.tanh(x / limit)


@soft_clip.register_fake
def _(x: torch.Tensor, limit: float) -> torch.Tensor:
    return torch.empty_like(x)


class Model(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.before, self.after = torch.nn.Linear(16, 16), torch.nn.Linear(16, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.after(soft_clip(self.before(x), 3.0))  # type: ignore[no-any-return]


def main() -> None:
    torch.manual_seed(0)
    model, x = Model().eval().requires_grad_(False), torch.randn(2, 16)
    report = trtcore.explain(model, inputs=[x], min_block_size=1)
    print(f"without: {report.summary().splitlines()[0]}")
    for group in report.fallbacks():
        print(f"  {group.op}: {group.reason}")

    @converter("example::soft_clip", supports_dynamic_shapes=True)
    def convert(ctx: ConversionContext, x: Any, limit: float) -> Any:
        bounded = ctx.activation(ctx.elementwise(x, limit, "DIV"), "TANH")
        return ctx.elementwise(bounded, limit, "PROD")

    compiled = trtcore.compile(model, inputs=[x], min_block_size=1)
    print(f"with: {compiled.report.summary().splitlines()[0]}")
    print(f"largest difference from eager {(compiled(x) - model(x)).abs().max():.1e}")
    print(assert_converts(model, (x,), dynamic={0: {0: (1, 4, 8)}}))  # its test


if __name__ == "__main__":
    with trtcore.scoped_registry():  # a script of your own needs no scope
        main()
