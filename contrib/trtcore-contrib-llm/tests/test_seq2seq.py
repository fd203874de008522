"""Encoder-decoders of transformers behind their own ``generate``, beside eager."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from trtcore_contrib_llm import compile_for_generation, load_for_generation

from trtcore.pack import InputError

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
transformers = pytest.importorskip("transformers")

WORDS, LENGTH = 97, 224
COMMON = {
    "vocab_size": WORDS, "d_model": 64, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": None,
    "decoder_start_token_id": 1, "tie_word_embeddings": False,
}  # fmt: skip
HALVES = {
    "encoder_ffn_dim": 96, "decoder_ffn_dim": 96, "encoder_layers": 2, "decoder_layers": 1,
    "encoder_attention_heads": 4, "decoder_attention_heads": 2,
}  # fmt: skip
MODELS: dict[str, dict[str, Any]] = {
    "T5": {"d_kv": 16, "d_ff": 96, "num_layers": 2, "num_decoder_layers": 1, "num_heads": 4},
    "Bart": {**HALVES, "max_position_embeddings": LENGTH, "forced_eos_token_id": None},
    "Whisper": {
        **HALVES, "max_source_positions": 20, "max_target_positions": LENGTH, "num_mel_bins": 8,
        "suppress_tokens": None, "begin_suppress_tokens": None,
    },
}  # fmt: skip


def made(kind: str) -> Any:
    torch.manual_seed(0)
    kind_of = getattr(transformers, f"{kind}ForConditionalGeneration")
    model = kind_of(kind_of.config_class(**COMMON, **MODELS[kind])).eval().requires_grad_(False)
    for name, weight in model.named_parameters():
        if weight.dim() >= 2:
            nn.init.normal_(weight, std=0.5 if "decoder" in name else 0.2)
    return model


def sources(kind: str, rows: int, length: int = 13) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    if kind == "Whisper":
        return {"input_features": torch.randn(rows, 8, 40)}
    tokens = torch.randint(2, WORDS, (rows, length))
    mask = torch.ones_like(tokens)
    if rows > 1:
        mask[0, 9:] = 0
    return {"input_ids": tokens * mask, "attention_mask": mask}


@pytest.mark.slow
@pytest.mark.parametrize("kind", MODELS)
def test_200_tokens_equal_eager(kind: str, tmp_path: Path) -> None:
    """Sources of different length, greedy and with beams, and loaded from a folder."""
    model = made(kind)
    generator = compile_for_generation(model, 4, LENGTH, runtime="reference")
    for part in (generator.encode, generator.decode):
        assert len(part.report.engines) == 1, part.report
        assert part.report.fully_converted, part.report
    for rows in (1, 2):
        given = {**sources(kind, rows), "do_sample": False, "repetition_penalty": 1.5}
        want = model.generate(**given, max_new_tokens=200)
        assert len(want.unique()) > 8
        torch.testing.assert_close(generator.generate(**given, max_new_tokens=200), want, rtol=0, atol=0)
        beams = {**given, "num_beams": 2, "max_new_tokens": 40}
        torch.testing.assert_close(generator.generate(**beams), model.generate(**beams), rtol=0, atol=0)
    generator.save(tmp_path / "model")
    loaded = load_for_generation(tmp_path / "model")
    torch.testing.assert_close(loaded.generate(**given, max_new_tokens=200), want, rtol=0, atol=0)
    with pytest.raises(
        InputError, match="224 tokens and the one before them are asked for, and the cache has room"
    ):
        loaded.generate(**given, max_new_tokens=LENGTH)
    with pytest.raises(InputError, match="6 texts of the decoder for 2 sources, and max_batch=4"):
        loaded.generate(**given, max_new_tokens=4, num_beams=3)
    with pytest.raises(InputError, match="encoder_outputs is not supported"):
        loaded.generate(**given, encoder_outputs=(torch.zeros(1),))
    if kind != "Whisper":
        longer = sources(kind, 1, LENGTH + 1)
        with pytest.raises(InputError, match="a source of 225 tokens is longer than max_source=224"):
            loaded.generate(**longer, max_new_tokens=4)


def test_sizes_of_sources() -> None:
    with pytest.raises(InputError, match="max_source is 1; it must be an int, at least 2"):
        compile_for_generation(made("T5"), 1, 16, max_source=1)
    with pytest.raises(InputError, match="max_source is for sources of tokens"):
        compile_for_generation(made("Whisper"), 1, 16, max_source=40)
    with pytest.raises(InputError, match="embeddings for 224 positions only"):
        compile_for_generation(made("Whisper"), 1, LENGTH + 1)
