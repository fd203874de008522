"""Pipelines of diffusers with tiny random models, made without the network."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

WORDS = 16  # tokens of a prompt
IMAGE = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))


#: The call of each pipeline: sizes, and further arguments.
CALLS: dict[str, tuple[dict[str, int], dict[str, Any]]] = {
    "stable_diffusion": ({"height": 32, "width": 32}, {}),
    "stable_diffusion_xl": ({"height": 32, "width": 32}, {}),
    "stable_diffusion_3": ({"height": 32, "width": 32}, {}),
    "flux": ({"height": 32, "width": 32}, {"max_sequence_length": 16}),
    "ltx": ({"height": 32, "width": 32, "num_frames": 9}, {"max_sequence_length": 16}),
    "wan": ({"height": 32, "width": 32, "num_frames": 9}, {"max_sequence_length": 16}),
    "cogvideox": ({"height": 16, "width": 16, "num_frames": 8}, {"max_sequence_length": 16}),
    "animate_diff": ({"height": 32, "width": 32, "num_frames": 4}, {}),
    "image_to_image": ({}, {"image": IMAGE}),
    "inpainting": (
        {"height": 32, "width": 32},
        {"image": IMAGE, "mask_image": IMAGE.mean(1, keepdim=True).round()},
    ),
    "controlnet": ({"height": 32, "width": 32}, {"image": IMAGE}),
}


@pytest.fixture(scope="session")
def calls() -> Any:
    """`CALLS`."""
    return CALLS


@pytest.fixture(scope="session")
def pipeline_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Any]:
    """A new pipeline by name, always with the same weights."""
    pytest.importorskip("diffusers")
    tokenizer = make_tokenizer(tmp_path_factory.mktemp("tokenizer"))
    return lambda name: make_pipeline(name, tokenizer)


def make_tokenizer(folder: Path) -> Any:
    """CLIP's, with a vocabulary of letters."""
    from transformers import CLIPTokenizer

    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    words = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    vocabulary, merges = folder / "vocab.json", folder / "merges.txt"
    vocabulary.write_text(json.dumps({word: index for index, word in enumerate(words)}))
    merges.write_text("#version: 0.2\n")
    return CLIPTokenizer(str(vocabulary), str(merges), model_max_length=WORDS)


def make_pipeline(name: str, tokenizer: Any) -> Any:
    """A pipeline by name."""
    torch.manual_seed(0)
    pipe = globals()[f"_{name}"](tokenizer)
    for model in pipe.components.values():
        if isinstance(model, torch.nn.Module):
            model.eval().requires_grad_(False)
    pipe.set_progress_bar_config(disable=True)
    return pipe


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


def _stable_diffusion_xl(tokenizer: Any) -> Any:
    from diffusers import StableDiffusionXLPipeline

    unet = _unet(
        cross_attention_dim=64, addition_embed_type="text_time", addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=80, use_linear_projection=True, transformer_layers_per_block=(1, 2),
        attention_head_dim=(2, 4),
    )  # fmt: skip
    second = _clip("CLIPTextModelWithProjection", hidden_act="gelu")
    return StableDiffusionXLPipeline(_vae(), _clip(), second, tokenizer, tokenizer, unet, _scheduler())


def _t5() -> Any:
    from transformers import T5Config, T5EncoderModel

    config = T5Config(
        vocab_size=54, d_model=32, d_kv=8, d_ff=37, num_layers=2, num_heads=4, feed_forward_proj="gated-gelu"
    )
    return T5EncoderModel(config)


def _stable_diffusion_3(tokenizer: Any) -> Any:
    from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline

    transformer = SD3Transformer2DModel(
        sample_size=32, patch_size=2, in_channels=4, num_layers=2, attention_head_dim=8, num_attention_heads=4,
        joint_attention_dim=32, caption_projection_dim=32, pooled_projection_dim=64, out_channels=4,
        pos_embed_max_size=32, dual_attention_layers=(0,), qk_norm="rms_norm",
    )  # fmt: skip
    clips = [_clip("CLIPTextModelWithProjection") for _ in range(2)]
    vae = _vae(use_quant_conv=False, use_post_quant_conv=False, shift_factor=0.1)
    return StableDiffusion3Pipeline(
        transformer, FlowMatchEulerDiscreteScheduler(), vae, clips[0], tokenizer, clips[1], tokenizer, _t5(), tokenizer
    )  # fmt: skip


def _flux(tokenizer: Any) -> Any:
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel

    transformer = FluxTransformer2DModel(
        patch_size=1, in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16,
        num_attention_heads=2, joint_attention_dim=32, pooled_projection_dim=32, axes_dims_rope=(4, 4, 8),
        guidance_embeds=True,
    )  # fmt: skip
    vae = _vae(use_quant_conv=False, use_post_quant_conv=False, shift_factor=0.1)
    scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    return FluxPipeline(scheduler, vae, _clip(), tokenizer, _t5(), tokenizer, transformer)


def _ltx(tokenizer: Any) -> Any:
    from diffusers import (
        AutoencoderKLLTXVideo,
        FlowMatchEulerDiscreteScheduler,
        LTXPipeline,
        LTXVideoTransformer3DModel,
    )

    transformer = LTXVideoTransformer3DModel(
        in_channels=8, out_channels=8, patch_size=1, patch_size_t=1, num_attention_heads=4, attention_head_dim=8,
        cross_attention_dim=32, num_layers=1, caption_channels=32,
    )  # fmt: skip
    vae = AutoencoderKLLTXVideo(
        latent_channels=8, block_out_channels=(8,) * 4, decoder_block_out_channels=(8,) * 4,
        layers_per_block=(1,) * 5, decoder_layers_per_block=(1,) * 5,
        spatio_temporal_scaling=(True, True, False, False), patch_size=1,
        decoder_spatio_temporal_scaling=(True, True, False, False),
    )  # fmt: skip
    return LTXPipeline(FlowMatchEulerDiscreteScheduler(), vae, _t5(), tokenizer, transformer)


def _wan(tokenizer: Any) -> Any:
    from diffusers import (
        AutoencoderKLWan,
        FlowMatchEulerDiscreteScheduler,
        WanPipeline,
        WanTransformer3DModel,
    )

    transformer = WanTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=12,
        text_dim=32,
        ffn_dim=32,
        num_layers=2,
        rope_max_seq_len=32,
    )
    vae = AutoencoderKLWan(
        base_dim=3, z_dim=16, dim_mult=[1] * 4, num_res_blocks=1, temperal_downsample=[False, True, True]
    )
    return WanPipeline(tokenizer, _t5(), vae, FlowMatchEulerDiscreteScheduler(), transformer)


def _cogvideox(tokenizer: Any) -> Any:
    from diffusers import AutoencoderKLCogVideoX, CogVideoXPipeline, CogVideoXTransformer3DModel

    transformer = CogVideoXTransformer3DModel(
        num_attention_heads=4, attention_head_dim=8, in_channels=4, out_channels=4, time_embed_dim=2,
        text_embed_dim=32, num_layers=1, sample_width=2, sample_height=2, sample_frames=9, max_text_seq_length=16,
    )  # fmt: skip
    vae = AutoencoderKLCogVideoX(
        down_block_types=("CogVideoXDownBlock3D",) * 4, up_block_types=("CogVideoXUpBlock3D",) * 4,
        block_out_channels=(8,) * 4, latent_channels=4, layers_per_block=1, norm_num_groups=2,
    )  # fmt: skip
    return CogVideoXPipeline(tokenizer, _t5(), vae, transformer, _scheduler())


def _animate_diff(tokenizer: Any) -> Any:
    from diffusers import AnimateDiffPipeline, MotionAdapter

    motion = MotionAdapter(
        block_out_channels=(32, 64), motion_layers_per_block=1, motion_norm_num_groups=2,
        motion_num_attention_heads=4,
    )  # fmt: skip
    return AnimateDiffPipeline(_vae(), _clip(), tokenizer, _unet(), motion, _scheduler())


def _as(kind: str, tokenizer: Any, **further: Any) -> Any:
    """The models of Stable Diffusion in another pipeline."""
    import diffusers

    parts = _stable_diffusion(tokenizer).components
    return getattr(diffusers, kind)(**parts, requires_safety_checker=False, **further)


def _image_to_image(tokenizer: Any) -> Any:
    return _as("StableDiffusionImg2ImgPipeline", tokenizer)


def _inpainting(tokenizer: Any) -> Any:
    return _as("StableDiffusionInpaintPipeline", tokenizer)


def _controlnet(tokenizer: Any) -> Any:
    from diffusers import ControlNetModel

    net = ControlNetModel(
        block_out_channels=(32, 64), layers_per_block=1, cross_attention_dim=32, norm_num_groups=8,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), conditioning_embedding_out_channels=(8, 16),
    )  # fmt: skip
    for one in net.controlnet_down_blocks.parameters():
        torch.nn.init.normal_(one, std=0.1)  # they begin as zeros, and would show nothing
    return _as("StableDiffusionControlNetPipeline", tokenizer, controlnet=net)
