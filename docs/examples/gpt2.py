"""GPT-2 without a cache: the prompt grows by a token in every step, inside one optimisation profile.

Llama's example has a cache. With real weights: ``GPT2LMHeadModel.from_pretrained("gpt2")``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from transformers import GPT2Config, GPT2LMHeadModel

import trtcore


def greedy(model: Callable[..., Any], tokens: torch.Tensor, count: int) -> torch.Tensor:
    for _ in range(count):
        logits = model(input_ids=tokens).logits
        tokens = torch.cat([tokens, logits[:, -1].argmax(-1, keepdim=True)], 1)
    return tokens


def main() -> None:
    torch.manual_seed(0)
    config = GPT2Config(
        n_embd=64,
        n_layer=2,
        n_head=4,
        n_positions=64,
        vocab_size=500,
        use_cache=False,
        bos_token_id=0,
        eos_token_id=0,
    )
    model = GPT2LMHeadModel(config).eval().requires_grad_(False)

    tokens = trtcore.Input(min_shape=(1, 1), opt_shape=(1, 16), max_shape=(1, 64), dtype=torch.int64)
    compiled = trtcore.compile(model, kwarg_inputs={"input_ids": tokens})
    print(compiled.report.summary().splitlines()[0])

    prompt = torch.randint(1, 500, (1, 5))
    ours, theirs = greedy(compiled, prompt, 12), greedy(model, prompt, 12)
    print(f"tokens {ours[0, 5:].tolist()}")
    print(f"the same tokens as eager: {torch.equal(ours, theirs)}")


if __name__ == "__main__":
    main()
