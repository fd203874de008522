"""BERT with dynamic batch and length, ahead of time; then saved, and loaded as another process would.

With real weights: ``BertModel.from_pretrained("bert-base-uncased")``.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from transformers import BertConfig, BertModel

import trtcore


def main() -> None:
    torch.manual_seed(0)
    config = BertConfig(
        hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=128, vocab_size=500
    )
    model = BertModel(config).eval().requires_grad_(False)

    tokens = trtcore.Input(min_shape=(1, 4), opt_shape=(4, 32), max_shape=(8, 128), dtype=torch.int64)
    compiled = trtcore.compile(model, kwarg_inputs={"input_ids": tokens, "attention_mask": tokens})
    print(compiled.report.summary().splitlines()[0])

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "bert.pt2"
        trtcore.save(compiled, path)
        print(f"saved {path.stat().st_size / 2**20:.1f} MiB")
        loaded = trtcore.load(path)
        for batch, length in ((1, 4), (3, 77), (8, 128)):
            ids = torch.randint(0, 500, (batch, length))
            mask = torch.ones_like(ids)
            mask[-1, length // 2 :] = 0  # the last text is padded
            got = loaded(input_ids=ids, attention_mask=mask).last_hidden_state
            want = model(input_ids=ids, attention_mask=mask).last_hidden_state
            print(f"{batch} x {length}: largest difference from eager {(got - want).abs().max():.1e}")


if __name__ == "__main__":
    main()
