"""Llama with a static key-value cache, through transformers' own ``generate``.

The graphs of prompt and step are an engine each; what they write into the cache is written back.
With real weights: ``LlamaForCausalLM.from_pretrained("meta-llama/Llama-3.2-1B", dtype=torch.float16)``.
"""

from __future__ import annotations

import torch
from transformers import LlamaConfig, LlamaForCausalLM

import trtcore


def main() -> None:
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        vocab_size=500, bos_token_id=1, eos_token_id=None, pad_token_id=0,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval().requires_grad_(False)
    prompt = torch.randint(2, 500, (1, 8))
    how = {"max_new_tokens": 16, "do_sample": False, "cache_implementation": "static"}
    eager = model.generate(prompt, **how)

    model.forward = torch.compile(model.forward, backend="trtcore", options={"min_block_size": 1})
    tokens = model.generate(prompt, **how)
    for entry in trtcore.dynamo.reports():
        print(entry.report.summary().splitlines()[0])
    print(f"tokens {tokens[0, 8:].tolist()}")
    print(f"the same tokens as eager: {torch.equal(tokens, eager)}")


if __name__ == "__main__":
    main()
