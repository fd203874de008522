"""LoRA adapters with PEFT on a model that runs in engines: put in, and exchanged.

`trtcore.MutableModule` is the model under another class, so PEFT works on it as on any module. A new adapter of the
same shape is a refit; nothing is built. Needs PEFT (``pip install "trtcore[lora]"``).
"""

from __future__ import annotations

import peft
import torch
from transformers import BertConfig, BertForSequenceClassification

import trtcore


def main() -> None:
    torch.manual_seed(0)
    config = BertConfig(
        hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=128, vocab_size=500
    )
    model = BertForSequenceClassification(config).eval().requires_grad_(False)
    tokens = torch.randint(0, 500, (2, 16))
    fast = trtcore.MutableModule(model, min_block_size=1, immutable_weights=False, runtime="reference")

    def show(what: str) -> None:
        with torch.no_grad():
            difference = (fast(tokens).logits - model.forward(tokens).logits).abs().max()
        report = fast.report
        stages = {stage.name for stage in report.stages}
        how = "refitted" if report.kind == "refit" else "built" if "build" in stages else "taken over"
        print(f"{what}: {how}, largest difference from eager {difference:.1e}")

    show("the model")
    lora = peft.LoraConfig(r=4, target_modules=["query", "value"], init_lora_weights=False)
    peft.inject_adapter_in_model(lora, fast)
    show("with an adapter")
    with torch.no_grad():  # what loading another adapter of the same shape does
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.normal_(0, 0.1)
    show("with another adapter")


if __name__ == "__main__":
    main()
