"""ResNet under torch.compile, with a batch that varies: an engine for a range of sizes.

On a CPU torch's own convolution has a guard at a batch of 16, so a larger one is compiled for itself.
With real weights: ``ResNetForImageClassification.from_pretrained("microsoft/resnet-50")``.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import ResNetConfig, ResNetForImageClassification

import trtcore


def main() -> None:
    torch.manual_seed(0)
    config = ResNetConfig(embedding_size=16, hidden_sizes=[32, 64], depths=[2, 1], num_labels=10)
    model = ResNetForImageClassification(config).eval().requires_grad_(False)
    fast: Any = torch.compile(model, backend="trtcore", dynamic=True, options={"min_block_size": 1})
    for batch in (4, 2, 15, 32):
        images = torch.randn(batch, 3, 64, 64)
        difference = (fast(images).logits - model(images).logits).abs().max()
        print(f"batch {batch}: largest difference from eager {difference:.1e}")
    for entry in trtcore.dynamo.reports():
        print(f"{entry.reason}: {entry.report.summary().splitlines()[0]}")
        print(*(line.strip() for line in str(entry.report).splitlines() if "dynamic" in line))


if __name__ == "__main__":
    main()
