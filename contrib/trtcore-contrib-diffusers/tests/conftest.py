"""Pipelines of diffusers with tiny random models, made without the network."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

WORDS = 16  # tokens of a prompt


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """CLIP's, with a vocabulary of letters."""
    from transformers import CLIPTokenizer

    folder: Path = tmp_path_factory.mktemp("tokenizer")
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    words = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({word: index for index, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=WORDS)


@pytest.fixture(scope="session")
def pipeline_of(tokenizer: Any) -> Callable[[str], Any]:
    """A new pipeline by name, always with the same weights."""
    pytest.importorskip("diffusers")

    def made(name: str) -> Any:
        torch.manual_seed(0)
        pipe = globals()[f"_{name}"](tokenizer)
        for model in pipe.components.values():
            if isinstance(model, torch.nn.Module):
                model.eval().requires_grad_(False)
        pipe.set_progress_bar_config(disable=True)
        return pipe

    return made


def _clip(kind: str = "CLIPTextModel", **further: Any) -> Any:
    import transformers

    config = transformers.CLIPTextConfig(
        vocab_size=54, hidden_size=32, intermediate_size=37, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=WORDS, bos_token_id=52, eos_token_id=53, projection_dim=32, **further,
    )  # fmt: skip
    return getattr(transformers, kind)(config)


def _vae(**further: Any) -> Any:
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        block_out_channels=(16, 32), down_block_types=("DownEncoderBlock2D",) * 2, norm_num_groups=8,
        up_block_types=("UpDecoderBlock2D",) * 2, **{"latent_channels": 4, **further},
    )  # fmt: skip


def _unet(**further: Any) -> Any:
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=16, layers_per_block=1, block_out_channels=(32, 64), norm_num_groups=8,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"), **{"cross_attention_dim": 32, **further},
    )  # fmt: skip


def _scheduler() -> Any:
    from diffusers import DDIMScheduler

    return DDIMScheduler(clip_sample=False, steps_offset=1)


def _stable_diffusion(tokenizer: Any) -> Any:
    from diffusers import StableDiffusionPipeline

    return StableDiffusionPipeline(
        _vae(), _clip(), tokenizer, _unet(), _scheduler(), None, None, requires_safety_checker=False
    )
