"""A ResNet quantised to int8 with PT2E: calibrated in torch, computed in int8 by the engine's Q/DQ layers.

Needs torchao (``pip install "trtcore[quantize]"``).
"""

from __future__ import annotations

import torch
from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
from transformers import ResNetConfig, ResNetForImageClassification

import trtcore
from trtcore_converters.quantizer import TensorRTQuantizer


class Logits(torch.nn.Module):
    """The classifier with a plain tensor as its result."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.model(pixel_values=images).logits  # type: ignore[no-any-return]


def main() -> None:
    torch.manual_seed(0)
    config = ResNetConfig(embedding_size=16, hidden_sizes=[32, 64], depths=[2, 1], num_labels=10)
    model = Logits(ResNetForImageClassification(config).eval()).eval().requires_grad_(False)
    images = torch.randn(4, 3, 64, 64)

    exported = torch.export.export(model, (images,)).module()
    prepared = prepare_pt2e(exported, TensorRTQuantizer(excluded_modules=["model.classifier"]))
    for _ in range(4):  # calibration: images as the model will see them
        prepared(torch.randn(4, 3, 64, 64))
    quantised = convert_pt2e(prepared)

    compiled = trtcore.compile(quantised, inputs=[images])
    print(compiled.report.summary().splitlines()[0])
    layers = [layer.type for engine in trtcore.runtime.engine_info(compiled) for layer in engine.layers]
    print(f"{layers.count('QUANTIZE')} quantise and {layers.count('DEQUANTIZE')} dequantise layers")

    result, exact = compiled(images), model(images)
    print(
        f"largest difference from the quantised model in torch {(result - quantised(images)).abs().max():.1e}"
    )
    print(f"what quantisation costs: relative error {(result - exact).norm() / exact.norm():.1e}")


if __name__ == "__main__":
    main()
