"""A language model in two engines behind transformers' own ``generate``, saved as a folder and loaded again.

Needs ``trtcore-contrib-llm``. With real weights: ``Qwen3ForCausalLM.from_pretrained("Qwen/Qwen3-0.6B")``.
"""

from __future__ import annotations

import tempfile

import torch
from transformers import Qwen3Config, Qwen3ForCausalLM
from trtcore_contrib_llm import compile_for_generation, load_for_generation


def main() -> None:
    torch.manual_seed(0)
    config = Qwen3Config(
        hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        head_dim=16, vocab_size=500, bos_token_id=1, eos_token_id=None, pad_token_id=0,
    )  # fmt: skip
    model = Qwen3ForCausalLM(config).eval().requires_grad_(False)
    fast = compile_for_generation(model, max_batch=4, max_length=64)
    for name in ("prefill", "decode"):
        print(f"{name}: {getattr(fast, name).report.summary().splitlines()[0]}")

    prompts = torch.randint(2, 500, (2, 9))
    mask = torch.ones_like(prompts)
    mask[0, :4] = prompts[0, :4] = 0  # the first is shorter
    texts = {"inputs": prompts, "attention_mask": mask, "max_new_tokens": 20}
    for how in ({"do_sample": False}, {"num_beams": 2, "do_sample": False}):
        same = torch.equal(fast.generate(**texts, **how), model.generate(**texts, **how))
        print(f"{how}: the same tokens as eager: {same}")

    with tempfile.TemporaryDirectory() as folder:
        fast.save(folder)
        loaded = load_for_generation(folder)
        same = torch.equal(loaded.generate(**texts, do_sample=False), fast.generate(**texts, do_sample=False))
        print(f"loaded: the same tokens: {same}")


if __name__ == "__main__":
    main()
