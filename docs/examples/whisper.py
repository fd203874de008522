"""Whisper: the encoder, and the decoder with a static cache, through transformers' own ``generate``.

With real weights: ``WhisperForConditionalGeneration.from_pretrained("openai/whisper-tiny")``.
"""

from __future__ import annotations

import torch
from transformers import WhisperConfig, WhisperForConditionalGeneration

import trtcore


def main() -> None:
    torch.manual_seed(0)
    config = WhisperConfig(
        d_model=64, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4, decoder_attention_heads=4,
        encoder_ffn_dim=128, decoder_ffn_dim=128, num_mel_bins=16, max_source_positions=50, max_target_positions=64,
        vocab_size=500, pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=3,
    )  # fmt: skip
    model = WhisperForConditionalGeneration(config).eval().requires_grad_(False)
    model.generation_config.update(suppress_tokens=None, begin_suppress_tokens=None, max_length=None)
    sound = torch.randn(1, 16, 100)  # log-mel features (batch, bins, frames)
    how = {"max_new_tokens": 12, "do_sample": False, "cache_implementation": "static", "eos_token_id": None}
    eager = model.generate(sound, **how)

    for part in (model.get_encoder(), model):
        part.forward = torch.compile(part.forward, backend="trtcore", options={"min_block_size": 1})
    tokens = model.generate(sound, **how)
    for entry in trtcore.dynamo.reports():
        print(entry.report.summary().splitlines()[0])
    print(f"tokens {tokens[0].tolist()}")
    print(f"the same tokens as eager: {torch.equal(tokens, eager)}")


if __name__ == "__main__":
    main()
