"""A ViT that NVIDIA ModelOpt quantised to FP8: calibrated by ModelOpt, compiled as it is.

Needs ModelOpt and its pack (``pip install nvidia-modelopt trtcore-contrib-modelopt``).
"""

from __future__ import annotations

import copy

import modelopt.torch.quantization as mtq
import torch
from transformers import ViTConfig, ViTForImageClassification

import trtcore


class Logits(torch.nn.Module):
    """The classifier with a plain tensor as its result."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.model(pixel_values=images).logits  # type: ignore[no-any-return]


@torch.no_grad()
def main() -> None:
    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=128,
        image_size=32,
        patch_size=8,
    )
    model = Logits(ViTForImageClassification(config)).eval()  # ViTForImageClassification.from_pretrained(...)
    images = torch.randn(4, 3, 32, 32)

    def calibrate(model: torch.nn.Module) -> None:
        for _ in range(4):  # images as the model will see them
            model(torch.randn(4, 3, 32, 32))

    quantised = mtq.quantize(copy.deepcopy(model), mtq.FP8_DEFAULT_CFG, calibrate).eval()
    compiled = trtcore.compile(quantised, inputs=[images])
    print(compiled.report.summary().splitlines()[0])
    for group in compiled.report.precisions():
        print(group)

    result, exact = compiled(images), model(images)
    print(
        f"largest difference from the quantised model in torch {(result - quantised(images)).abs().max():.1e}"
    )
    print(f"what quantisation costs: relative error {(result - exact).norm() / exact.norm():.1e}")


if __name__ == "__main__":
    main()
