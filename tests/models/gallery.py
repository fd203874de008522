"""Many architectures from transformers, tiny and with random weights: what of each TensorRT takes.

    python tests/models/gallery.py [--write] [name ...]

compiles each one static and with a dynamic batch in float32, compares it with eager and prints a row a form;
`--write` updates ``docs/models/gallery.json`` and the table in ``docs/models.md``.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"

import torch
import zoo

import trtcore

DOCS = Path(__file__).resolve().parents[2] / "docs"
RECORD = DOCS / "models" / "gallery.json"
PAGE = DOCS / "models.md"
BEGIN, END = "<!-- gallery: begin -->", "<!-- gallery: end -->"

FORMS = ("static", "dynamic")
BATCH = (1, 2, 4)
"""min, opt and max batch of the dynamic form."""


@dataclass(frozen=True)
class Entry:
    """One architecture.

    Attributes:
        kind: encoder, decoder, encoder-decoder, vision, audio, multimodal, mixture of experts, state space, ...
        model: the class in transformers, whose config class is the one that the class names; or ``diffusers:CLASS`` or
            ``plain:CLASS`` (tests/models/plain.py), which take the arguments themselves.
        config: the tiny config's arguments.
        feed: keyword inputs for a batch size.
    """

    name: str
    kind: str
    model: str
    config: Mapping[str, Any]
    feed: Callable[[int], dict[str, torch.Tensor]]


@dataclass(frozen=True)
class Row:
    """What became of one form of an architecture.

    Attributes:
        segments, engines: how many the compiled model has.
        converted, ops: how many of the ops are in engines, and how many there are.
        error: the largest ``|got - want| / |want|`` over outputs and batch sizes.
        left: op -> reason, for the ops in torch.
        failed: the error that kept it from compiling or running; "" when there was none.
    """

    name: str
    kind: str
    form: str
    segments: int = 0
    engines: int = 0
    converted: int = 0
    ops: int = 0
    error: float = 0.0
    left: Mapping[str, str] = field(default_factory=dict)
    failed: str = ""

    @property
    def share(self) -> float:
        """The share of ops in engines."""
        return self.converted / self.ops if self.ops else 0.0

    @property
    def whole(self) -> bool:
        """One engine, and no op in torch."""
        return not self.failed and self.engines == 1 and self.converted == self.ops


# ---- inputs ------------------------------------------------------------------------------------------------

VOCABULARY = 120
LENGTH = 12


def _generator(batch: int) -> torch.Generator:
    return torch.Generator().manual_seed(batch)


def _ids(batch: int, length: int = LENGTH) -> torch.Tensor:
    return torch.randint(3, VOCABULARY, (batch, length), generator=_generator(batch))


def _mask(batch: int, length: int = LENGTH) -> torch.Tensor:
    """The last text is padded."""
    mask = torch.ones(batch, length, dtype=torch.int64)
    mask[-1, length - 4 :] = 0
    return mask


def text(batch: int) -> dict[str, torch.Tensor]:
    return {"input_ids": _ids(batch), "attention_mask": _mask(batch)}


def ids_alone(batch: int) -> dict[str, torch.Tensor]:
    return {"input_ids": _ids(batch)}


def text_to_text(batch: int) -> dict[str, torch.Tensor]:
    return {**text(batch), "decoder_input_ids": _ids(batch + 10)[:batch, :7]}


def images(size: int, channels: int = 3) -> Callable[[int], dict[str, torch.Tensor]]:
    def feed(batch: int) -> dict[str, torch.Tensor]:
        return {"pixel_values": torch.randn(batch, channels, size, size, generator=_generator(batch))}

    return feed


def sound(batch: int) -> dict[str, torch.Tensor]:
    return {"input_values": torch.randn(batch, 1600, generator=_generator(batch))}


def features(*shape: int, name: str = "input_features") -> Callable[[int], dict[str, torch.Tensor]]:
    def feed(batch: int) -> dict[str, torch.Tensor]:
        return {name: torch.randn(batch, *shape, generator=_generator(batch))}

    return feed


def feeds(
    **shapes: tuple[int, ...] | tuple[tuple[int, ...], int],
) -> Callable[[int], dict[str, torch.Tensor]]:
    """Random numbers of a shape by name, the batch first; ``(shape, N)`` for integers below N, ``((), N)`` one a row."""

    def feed(batch: int) -> dict[str, torch.Tensor]:
        made: dict[str, torch.Tensor] = {}
        for offset, (name, shape) in enumerate(shapes.items()):
            generator = _generator(batch + 100 * offset)
            if shape and isinstance(shape[0], tuple):
                made[name] = torch.randint(0, shape[1], (batch, *shape[0]), generator=generator)
            else:
                made[name] = torch.randn(batch, *shape, generator=generator)
        return made

    return feed


def video(frames: int, size: int) -> Callable[[int], dict[str, torch.Tensor]]:
    return feeds(pixel_values=(frames, 3, size, size))


def graph(batch: int) -> dict[str, torch.Tensor]:
    """Graphs of nine nodes and twenty edges."""
    generator = _generator(batch)
    return {
        "x": torch.randn(batch, 9, 8, generator=generator),
        "edges": torch.randint(0, 9, (batch, 2, 20), generator=generator),
    }


def adjacency(batch: int) -> dict[str, torch.Tensor]:
    chosen = torch.randint(0, 2, (batch, 9, 9), generator=_generator(batch))
    return {"x": graph(batch)["x"], "adjacency": chosen | torch.eye(9, dtype=torch.int64)}


def points(batch: int) -> dict[str, torch.Tensor]:
    """An image and two points in it."""
    place = torch.rand(batch, 1, 2, 2, generator=_generator(batch)) * 32
    return {**images(32)(batch), "input_points": place}


def video_latents(batch: int) -> dict[str, Any]:
    """Latents of two frames of 4 x 4 with their text."""
    given = feeds(hidden_states=(32, 8), encoder_hidden_states=(7, 16), timestep=((), 1000))(batch)
    mask = torch.ones(batch, 7, dtype=torch.int64)
    return {**given, "encoder_attention_mask": mask, "num_frames": 2, "height": 4, "width": 4}


def series(batch: int) -> dict[str, torch.Tensor]:
    """The past of a series with its time features, all of it observed."""
    given = feeds(past_values=(20,), past_time_features=(20, 2), future_time_features=(4, 2))(batch)
    return {
        **given,
        "past_observed_mask": torch.ones(batch, 20),
        "future_values": torch.randn(batch, 4, generator=_generator(batch)),
    }


def speech_to_text(batch: int) -> dict[str, torch.Tensor]:
    return {**features(16, 100)(batch), "decoder_input_ids": _ids(batch)[:, :7]}


def text_and_images(size: int) -> Callable[[int], dict[str, torch.Tensor]]:
    def feed(batch: int) -> dict[str, torch.Tensor]:
        return {**text(batch), **images(size)(batch)}

    return feed


# ---- the list ----------------------------------------------------------------------------------------------

_BERT = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 64,
}
_LLAMA = {
    **_BERT,
    "num_key_value_heads": 2,
    "use_cache": False,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_HEADS = {**_LLAMA, "head_dim": 8}
_EXPERTS = {
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "output_router_logits": False,
}
_BART = {
    "vocab_size": VOCABULARY,
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "max_position_embeddings": 64,
    "use_cache": False,
    "pad_token_id": 1,
    "bos_token_id": 0,
    "eos_token_id": 2,
    "decoder_start_token_id": 2,
    "forced_eos_token_id": None,
}
_VIT = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "image_size": 32,
    "patch_size": 8,
}
_SWIN = {
    "image_size": 32,
    "patch_size": 4,
    "embed_dim": 16,
    "depths": [2, 2],
    "num_heads": [2, 4],
    "window_size": 4,
}
_WAV = {
    **{k: v for k, v in _BERT.items() if k != "max_position_embeddings"},
    "conv_dim": [16, 16],
    "conv_stride": [5, 4],
    "conv_kernel": [10, 4],
    "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
}
_TEXT_TOWER = {**_BERT, "bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1}
_TOWERS = {"text_config": _TEXT_TOWER, "vision_config": _VIT, "projection_dim": 24}

_ENTRIES = (
    # encoders
    ("bert", "encoder", "BertModel", _BERT, text),
    ("roberta", "encoder", "RobertaModel", _BERT, text),
    ("distilbert", "encoder", "DistilBertModel", {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64, "vocab_size": VOCABULARY}, text),
    ("albert", "encoder", "AlbertModel", {**_BERT, "embedding_size": 16}, text),
    ("electra", "encoder", "ElectraModel", {**_BERT, "embedding_size": 16}, text),
    ("mpnet", "encoder", "MPNetModel", _BERT, text),
    ("deberta-v2", "encoder", "DebertaV2Model", {**_BERT, "relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_buckets": 8, "norm_rel_ebd": "layer_norm", "share_att_key": True}, text),
    ("modernbert", "encoder", "ModernBertModel", {**_BERT, "pad_token_id": 0, "local_attention": 8, "global_attn_every_n_layers": 2, "bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1, "sep_token_id": 2}, text),
    ("convbert", "encoder", "ConvBertModel", {**_BERT, "embedding_size": 32, "conv_kernel_size": 3}, text),
    ("squeezebert", "encoder", "SqueezeBertModel", {**_BERT, "embedding_size": 32}, text),
    ("megatron-bert", "encoder", "MegatronBertModel", _BERT, text),
    ("fnet", "encoder", "FNetModel", {**_BERT, "use_tpu_fourier_optimizations": False}, ids_alone),
    # decoders
    ("gpt2", "decoder", "GPT2LMHeadModel", {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "vocab_size": VOCABULARY, "use_cache": False, "bos_token_id": 0, "eos_token_id": 0}, text),
    ("gpt-neo", "decoder", "GPTNeoForCausalLM", {"hidden_size": 32, "num_layers": 2, "num_heads": 4, "attention_types": [[["global", "local"], 1]], "window_size": 8, "vocab_size": VOCABULARY, "max_position_embeddings": 64, "use_cache": False}, text),
    ("gpt-neox", "decoder", "GPTNeoXForCausalLM", {**_BERT, "use_cache": False}, text),
    ("gptj", "decoder", "GPTJForCausalLM", {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "rotary_dim": 4, "vocab_size": VOCABULARY, "use_cache": False}, text),
    ("opt", "decoder", "OPTForCausalLM", {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "ffn_dim": 64, "vocab_size": VOCABULARY, "max_position_embeddings": 64, "word_embed_proj_dim": 32, "use_cache": False}, text),
    ("bloom", "decoder", "BloomForCausalLM", {"hidden_size": 32, "n_layer": 2, "n_head": 4, "vocab_size": VOCABULARY, "use_cache": False}, text),
    ("falcon", "decoder", "FalconForCausalLM", {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": VOCABULARY, "use_cache": False, "bos_token_id": 1, "eos_token_id": 2}, text),
    ("llama", "decoder", "LlamaForCausalLM", _LLAMA, text),
    ("mistral", "decoder", "MistralForCausalLM", {**_LLAMA, "sliding_window": 8}, text),
    ("qwen2", "decoder", "Qwen2ForCausalLM", _LLAMA, text),
    ("qwen3", "decoder", "Qwen3ForCausalLM", _HEADS, text),
    ("gemma", "decoder", "GemmaForCausalLM", _HEADS, text),
    ("gemma2", "decoder", "Gemma2ForCausalLM", {**_HEADS, "sliding_window": 8}, text),
    ("gemma3", "decoder", "Gemma3ForCausalLM", {**_HEADS, "sliding_window": 8}, text),
    ("phi", "decoder", "PhiForCausalLM", _LLAMA, text),
    ("phi3", "decoder", "Phi3ForCausalLM", _LLAMA, text),
    ("stablelm", "decoder", "StableLmForCausalLM", _LLAMA, text),
    ("starcoder2", "decoder", "Starcoder2ForCausalLM", _LLAMA, text),
    ("olmo2", "decoder", "Olmo2ForCausalLM", _LLAMA, text),
    ("granite", "decoder", "GraniteForCausalLM", _LLAMA, text),
    ("cohere", "decoder", "CohereForCausalLM", _LLAMA, text),
    ("smollm3", "decoder", "SmolLM3ForCausalLM", _LLAMA, text),
    # encoder-decoders
    ("t5", "encoder-decoder", "T5ForConditionalGeneration", {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4, "vocab_size": VOCABULARY, "use_cache": False, "decoder_start_token_id": 0}, text_to_text),
    ("mt5", "encoder-decoder", "MT5ForConditionalGeneration", {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4, "vocab_size": VOCABULARY, "use_cache": False, "decoder_start_token_id": 0}, text_to_text),
    ("m2m100", "encoder-decoder", "M2M100ForConditionalGeneration", _BART, text_to_text),
    ("bart", "encoder-decoder", "BartForConditionalGeneration", _BART, text_to_text),
    ("marian", "encoder-decoder", "MarianMTModel", {**_BART, "decoder_vocab_size": VOCABULARY}, text_to_text),
    ("pegasus", "encoder-decoder", "PegasusForConditionalGeneration", _BART, text_to_text),
    # vision
    ("vit", "vision", "ViTModel", _VIT, images(32)),
    ("deit", "vision", "DeiTModel", _VIT, images(32)),
    ("beit", "vision", "BeitModel", {**_VIT, "use_relative_position_bias": True}, images(32)),
    ("dinov2", "vision", "Dinov2Model", {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "mlp_ratio": 2, "image_size": 32, "patch_size": 8}, images(32)),
    ("swin", "vision", "SwinModel", _SWIN, images(32)),
    ("swinv2", "vision", "Swinv2Model", _SWIN, images(32)),
    ("convnext", "vision", "ConvNextModel", {"hidden_sizes": [16, 32], "depths": [2, 1], "num_stages": 2}, images(32)),
    ("convnextv2", "vision", "ConvNextV2Model", {"hidden_sizes": [16, 32], "depths": [2, 1], "num_stages": 2}, images(32)),
    ("resnet", "vision", "ResNetModel", {"embedding_size": 16, "hidden_sizes": [16, 32], "depths": [2, 1]}, images(32)),
    ("regnet", "vision", "RegNetModel", {"embedding_size": 16, "hidden_sizes": [16, 32], "depths": [2, 1], "groups_width": 8}, images(32)),
    ("mobilenet-v2", "vision", "MobileNetV2Model", {"depth_multiplier": 0.25, "image_size": 32}, images(32)),
    ("efficientnet", "vision", "EfficientNetModel", {"width_coefficient": 0.25, "depth_coefficient": 0.2, "image_size": 32, "hidden_dim": 320}, images(32)),
    ("mobilevit", "vision", "MobileViTModel", {"hidden_sizes": [16, 24, 32], "neck_hidden_sizes": [8, 8, 16, 16, 24, 24, 32], "image_size": 64, "num_attention_heads": 4}, images(64)),
    ("segformer", "vision", "SegformerForSemanticSegmentation", {"num_encoder_blocks": 2, "depths": [1, 1], "sr_ratios": [2, 1], "hidden_sizes": [16, 32], "patch_sizes": [7, 3], "strides": [4, 2], "num_attention_heads": [1, 2], "mlp_ratios": [2, 2], "decoder_hidden_size": 16}, images(64)),
    ("poolformer", "vision", "PoolFormerModel", {"num_encoder_blocks": 2, "depths": [1, 1], "hidden_sizes": [16, 32], "patch_sizes": [7, 3], "strides": [4, 2], "padding": [2, 1], "mlp_ratio": 2.0}, images(32)),
    ("pvt", "vision", "PvtModel", {"image_size": 32, "num_encoder_blocks": 2, "depths": [1, 1], "sequence_reduction_ratios": [2, 1], "hidden_sizes": [16, 32], "patch_sizes": [4, 2], "strides": [4, 2], "num_attention_heads": [1, 2], "mlp_ratios": [2, 2]}, images(32)),
    ("levit", "vision", "LevitModel", {"image_size": 64, "hidden_sizes": [16, 32, 48], "num_attention_heads": [1, 2, 3], "depths": [1, 1, 1], "key_dim": [8, 8, 8]}, images(64)),
    ("dpt", "vision", "DPTForDepthEstimation", {**_VIT, "num_hidden_layers": 4, "is_hybrid": False, "backbone_out_indices": [0, 1, 2, 3], "neck_hidden_sizes": [8, 8, 16, 16], "fusion_hidden_size": 16}, images(32)),
    # audio
    ("whisper", "audio", "WhisperForConditionalGeneration", {"d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4, "decoder_attention_heads": 4, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "max_source_positions": 50, "max_target_positions": 32, "num_mel_bins": 16, "vocab_size": VOCABULARY, "use_cache": False, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1, "suppress_tokens": None, "begin_suppress_tokens": None}, speech_to_text),
    ("wav2vec2", "audio", "Wav2Vec2Model", _WAV, sound),
    ("hubert", "audio", "HubertModel", _WAV, sound),
    ("wavlm", "audio", "WavLMModel", _WAV, sound),
    ("sew", "audio", "SEWModel", _WAV, sound),
    ("ast", "audio", "ASTModel", {**{k: v for k, v in _VIT.items() if k != "image_size"}, "max_length": 64, "num_mel_bins": 16, "frequency_stride": 8, "time_stride": 8}, features(64, 16, name="input_values")),
    # multimodal
    ("clip", "multimodal", "CLIPModel", _TOWERS, text_and_images(32)),
    ("siglip", "multimodal", "SiglipModel", {"text_config": _TEXT_TOWER, "vision_config": _VIT}, text_and_images(32)),
    ("clipseg", "multimodal", "CLIPSegModel", _TOWERS, text_and_images(32)),
    ("chinese-clip", "multimodal", "ChineseCLIPModel", _TOWERS, text_and_images(32)),
    ("altclip", "multimodal", "AltCLIPModel", {**_TOWERS, "text_config": {**_TEXT_TOWER, "project_dim": 24}}, text_and_images(32)),
    ("git", "multimodal", "GitForCausalLM", {**_TEXT_TOWER, "vision_config": _VIT, "use_cache": False}, text_and_images(32)),
    ("blip", "multimodal", "BlipForImageTextRetrieval", {"text_config": {**_TEXT_TOWER, "encoder_hidden_size": 32}, "vision_config": _VIT, "image_text_hidden_size": 24}, text_and_images(32)),
    # mixtures of experts
    ("mixtral", "mixture of experts", "MixtralForCausalLM", {**_LLAMA, "num_local_experts": 4, "num_experts_per_tok": 2}, text),
    ("qwen2-moe", "mixture of experts", "Qwen2MoeForCausalLM", {**_LLAMA, **_EXPERTS, "shared_expert_intermediate_size": 32}, text),
    ("qwen3-moe", "mixture of experts", "Qwen3MoeForCausalLM", {**_HEADS, **_EXPERTS}, text),
    ("olmoe", "mixture of experts", "OlmoeForCausalLM", {**_LLAMA, "num_experts": 4, "num_experts_per_tok": 2}, text),
    ("granite-moe", "mixture of experts", "GraniteMoeForCausalLM", {**_LLAMA, "num_local_experts": 4, "num_experts_per_tok": 2}, text),
    # state-space and recurrent models
    ("mamba", "state space", "MambaForCausalLM", {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 8, "vocab_size": VOCABULARY, "use_cache": False}, ids_alone),
    ("mamba2", "state space", "Mamba2ForCausalLM", {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 8, "head_dim": 8, "num_heads": 8, "n_groups": 1, "chunk_size": 8, "vocab_size": VOCABULARY, "use_cache": False}, ids_alone),
    ("falcon-mamba", "state space", "FalconMambaForCausalLM", {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 8, "vocab_size": VOCABULARY, "use_cache": False}, ids_alone),
    ("rwkv", "state space", "RwkvForCausalLM", {"hidden_size": 32, "num_hidden_layers": 2, "attention_hidden_size": 32, "vocab_size": VOCABULARY, "context_length": 32, "use_cache": False}, ids_alone),
    # speech and sound
    ("data2vec-audio", "audio", "Data2VecAudioModel", {**_WAV, "num_conv_pos_embeddings": 2, "conv_pos_kernel_size": 5}, sound),
    ("wav2vec2-conformer", "audio", "Wav2Vec2ConformerModel", {**_WAV, "conv_depthwise_kernel_size": 7}, sound),
    ("speech2text", "audio", "Speech2TextForConditionalGeneration", {**_BART, "max_source_positions": 100, "max_target_positions": 64, "input_feat_per_channel": 16, "num_conv_layers": 1, "conv_kernel_sizes": [3], "conv_channels": 32}, feeds(input_features=(40, 16), decoder_input_ids=((7,), VOCABULARY))),
    ("moonshine", "audio", "MoonshineForConditionalGeneration", {"hidden_size": 32, "intermediate_size": 64, "encoder_num_hidden_layers": 2, "decoder_num_hidden_layers": 2, "encoder_num_attention_heads": 4, "decoder_num_attention_heads": 4, "vocab_size": VOCABULARY, "use_cache": False}, feeds(input_values=(4000,), decoder_input_ids=((7,), VOCABULARY))),
    ("clap-audio", "audio", "ClapAudioModel", {"image_size": 60, "spec_size": 64, "num_mel_bins": 16, "window_size": 4, "patch_size": 4, "patch_stride": [4, 4], "hidden_size": 16, "patch_embeds_hidden_size": 16, "depths": [2, 2], "num_attention_heads": [2, 2], "num_hidden_layers": 2, "enable_fusion": False}, feeds(input_features=(1, 256, 16))),
    ("crnn-ctc", "audio", "plain:SpeechCrnn", {}, feeds(spectrogram=(16, 30))),
    # video
    ("videomae", "video", "VideoMAEModel", {**_VIT, "num_frames": 4, "tubelet_size": 2}, video(4, 32)),
    ("timesformer", "video", "TimesformerModel", {**_VIT, "num_frames": 4}, video(4, 32)),
    ("vivit", "video", "VivitModel", {**_VIT, "num_frames": 4, "tubelet_size": [2, 8, 8]}, video(4, 32)),
    # segmentation, detection, depth
    ("sam", "segmentation", "SamModel", {"vision_config": {**_VIT, "output_channels": 16, "num_global_attn_indexes": [1], "global_attn_indexes": [1], "window_size": 2, "mlp_dim": 64, "num_pos_feats": 8}, "prompt_encoder_config": {"hidden_size": 16, "image_size": 32, "patch_size": 8, "mask_input_channels": 8, "input_image_size": 32}, "mask_decoder_config": {"hidden_size": 16, "mlp_dim": 32, "num_attention_heads": 4, "iou_head_hidden_dim": 16, "num_hidden_layers": 2}}, points),
    ("upernet", "segmentation", "UperNetForSemanticSegmentation", {"backbone_config": {"model_type": "convnext", "hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1], "out_features": ["stage1", "stage2", "stage3", "stage4"]}, "hidden_size": 16, "auxiliary_in_channels": 24, "auxiliary_channels": 16, "num_labels": 5}, images(64)),
    ("yolos", "detection", "YolosForObjectDetection", {**_VIT, "image_size": [32, 32], "num_detection_tokens": 5, "num_labels": 4}, images(32)),
    ("nms-detector", "detection", "plain:AnchorDetector", {}, feeds(image=(3, 32, 32))),
    ("depth-anything", "depth", "DepthAnythingForDepthEstimation", {"backbone_config": {"model_type": "dinov2", "hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4, "image_size": 32, "patch_size": 8, "out_features": ["stage1", "stage2", "stage3", "stage4"], "reshape_hidden_states": False, "apply_layernorm": True}, "patch_size": 8, "reassemble_hidden_size": 32, "neck_hidden_sizes": [8, 8, 16, 16], "fusion_hidden_size": 16, "head_hidden_size": 8}, images(32)),
    ("glpn", "depth", "GLPNForDepthEstimation", {"num_encoder_blocks": 4, "depths": [1, 1, 1, 1], "sr_ratios": [4, 2, 1, 1], "hidden_sizes": [8, 16, 24, 32], "patch_sizes": [7, 3, 3, 3], "strides": [4, 2, 2, 2], "num_attention_heads": [1, 2, 2, 4], "mlp_ratios": [2, 2, 2, 2], "decoder_hidden_size": 16}, images(64)),
    ("hiera", "vision", "HieraModel", {"embed_dim": 8, "image_size": [64, 64], "patch_size": [7, 7], "patch_stride": [4, 4], "patch_padding": [3, 3], "depths": [1, 1], "num_heads": [1, 2], "mlp_ratio": 2.0, "query_stride": [2, 2], "num_query_pool": 1, "masked_unit_size": [4, 4]}, images(64)),
    ("focalnet", "vision", "FocalNetModel", {"image_size": 32, "patch_size": 4, "embed_dim": 16, "hidden_sizes": [16, 32], "depths": [1, 1], "focal_levels": [2, 2], "focal_windows": [3, 3]}, images(32)),
    ("pvt-v2", "vision", "PvtV2Model", {"image_size": 32, "num_encoder_blocks": 2, "depths": [1, 1], "sr_ratios": [2, 1], "hidden_sizes": [16, 32], "patch_sizes": [7, 3], "strides": [4, 2], "num_attention_heads": [1, 2], "mlp_ratios": [2, 2]}, images(32)),
    # time series, recommenders, graphs
    ("patchtst", "time series", "PatchTSTForPrediction", {"num_input_channels": 2, "context_length": 32, "patch_length": 8, "patch_stride": 8, "prediction_length": 4, "d_model": 16, "num_attention_heads": 2, "num_hidden_layers": 2, "ffn_dim": 32}, feeds(past_values=(32, 2))),
    ("patchtsmixer", "time series", "PatchTSMixerForPrediction", {"num_input_channels": 2, "context_length": 32, "patch_length": 8, "patch_stride": 8, "prediction_length": 4, "d_model": 16, "num_layers": 2}, feeds(past_values=(32, 2))),
    ("time-series-transformer", "time series", "TimeSeriesTransformerModel", {"prediction_length": 4, "context_length": 13, "lags_sequence": [1, 2, 3, 7], "num_time_features": 2, "d_model": 16, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "use_cache": False}, series),
    ("n-beats", "time series", "plain:NBeats", {}, feeds(x=(24,))),
    ("dlrm", "recommender", "plain:Dlrm", {}, feeds(dense=(13,), ids=((6, 3), 100))),
    ("two-tower", "recommender", "plain:TwoTower", {}, feeds(history=((10,), 100), item=((), 100))),
    ("gcn", "graph", "plain:Gcn", {}, graph),
    ("gat", "graph", "plain:Gat", {}, adjacency),
    # more state spaces, mixtures and texts
    ("selective-scan", "state space", "plain:SelectiveScan", {}, feeds(x=(12, 8))),
    ("recurrent-gemma", "state space", "RecurrentGemmaForCausalLM", {**_LLAMA, "num_hidden_layers": 3, "lru_width": 32, "attention_window_size": 8, "block_types": ["recurrent", "recurrent", "attention"], "conv1d_width": 4}, text),
    ("lfm2", "state space", "Lfm2ForCausalLM", {**_LLAMA, "layer_types": ["conv", "full_attention"], "conv_L_cache": 3}, text),
    ("gpt-oss", "mixture of experts", "GptOssForCausalLM", {**_HEADS, "num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 8}, text),
    ("deepseek-v3", "mixture of experts", "DeepseekV3ForCausalLM", {**_LLAMA, "num_key_value_heads": 4, "q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8, "n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 1, "topk_group": 1, "moe_intermediate_size": 32, "first_k_dense_replace": 1}, text),
    ("roformer", "encoder", "RoFormerModel", _BERT, text),
    ("xlnet", "encoder", "XLNetModel", {"d_model": 32, "n_layer": 2, "n_head": 4, "d_inner": 64, "vocab_size": VOCABULARY}, text),
    ("layoutlm", "multimodal", "LayoutLMModel", _BERT, text),
    ("pegasus-x", "encoder-decoder", "PegasusXForConditionalGeneration", {**_BART, "num_global_tokens": 4, "block_size": 4}, text_to_text),
    # diffusion
    ("unet-sd", "diffusion", "diffusers:UNet2DConditionModel", {"sample_size": 16, "block_out_channels": (16, 32), "layers_per_block": 1, "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"), "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"), "cross_attention_dim": 16, "norm_num_groups": 4, "attention_head_dim": 4}, feeds(sample=(4, 16, 16), timestep=((), 1000), encoder_hidden_states=(7, 16))),
    ("vae", "diffusion", "diffusers:AutoencoderKL", {"block_out_channels": (8, 16), "down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2, "latent_channels": 4, "norm_num_groups": 4}, feeds(sample=(3, 32, 32))),
    ("dit", "diffusion", "diffusers:PixArtTransformer2DModel", {"num_attention_heads": 2, "attention_head_dim": 8, "in_channels": 4, "out_channels": 8, "num_layers": 2, "cross_attention_dim": 16, "sample_size": 8, "patch_size": 2, "caption_channels": 16, "use_additional_conditions": False}, feeds(hidden_states=(4, 8, 8), encoder_hidden_states=(7, 16), timestep=((), 1000))),
    ("mmdit-sd3", "diffusion", "diffusers:SD3Transformer2DModel", {"sample_size": 8, "patch_size": 1, "in_channels": 4, "num_layers": 2, "attention_head_dim": 8, "num_attention_heads": 4, "joint_attention_dim": 32, "caption_projection_dim": 32, "pooled_projection_dim": 64, "out_channels": 4, "pos_embed_max_size": 96}, feeds(hidden_states=(4, 8, 8), encoder_hidden_states=(7, 32), pooled_projections=(64,), timestep=((), 1000))),
    ("video-dit", "diffusion", "diffusers:LTXVideoTransformer3DModel", {"in_channels": 8, "out_channels": 8, "num_attention_heads": 2, "attention_head_dim": 16, "cross_attention_dim": 32, "num_layers": 2, "caption_channels": 16}, video_latents),
)  # fmt: skip

GALLERY: Mapping[str, Entry] = {entry[0]: Entry(*entry) for entry in _ENTRIES}


# ---- compiling and comparing -------------------------------------------------------------------------------


def build(entry: Entry) -> torch.nn.Module:
    """The float32 model in eval mode, with weights as after training."""
    import transformers

    library, _, name = entry.model.rpartition(":")
    kind = getattr(importlib.import_module(library or "transformers"), name)
    torch.manual_seed(0)
    if library:
        return zoo.prepare(kind(**entry.config))
    config: transformers.PreTrainedConfig = kind.config_class(**entry.config)
    return zoo.prepare(kind(config))


@torch.no_grad()
def run(entry: Entry, model: torch.nn.Module, form: str) -> Row:
    """Compile one form of a model and compare it with eager."""
    try:
        compiled = trtcore.compile(model, kwarg_inputs=_inputs(entry, form), min_block_size=1)
        error = max(
            _difference(model(**entry.feed(batch)), compiled(**entry.feed(batch)))
            for batch in (BATCH if form == "dynamic" else BATCH[1:2])
        )
    except Exception as problem:
        lines = [line for line in str(problem).splitlines() if line.strip()] or [""]
        return Row(entry.name, entry.kind, form, failed=f"{type(problem).__name__}: {lines[0][:200]}")
    report = compiled.report
    left = {node.op: node.reason for node in report.in_torch}
    return Row(
        entry.name,
        entry.kind,
        form,
        segments=len(report.segments),
        engines=len(report.engines),
        converted=len(report.converted),
        ops=len(report.converted) + len(report.in_torch),
        error=float(f"{error:.2e}"),
        left={op: reason[:200] for op, reason in sorted(left.items())},
    )


def _inputs(entry: Entry, form: str) -> dict[str, Any]:
    example = entry.feed(BATCH[1])
    if form == "static":
        return example
    return {
        name: trtcore.Input(
            min_shape=(BATCH[0], *value.shape[1:]),
            opt_shape=(BATCH[1], *value.shape[1:]),
            max_shape=(BATCH[2], *value.shape[1:]),
            dtype=value.dtype,
            example=value,
        )
        if isinstance(value, torch.Tensor)
        else value
        for name, value in example.items()
    }


def _difference(want: Any, got: Any) -> float:
    """The largest relative difference over the floating point outputs; infinite where one is not finite."""
    from torch.utils import _pytree as pytree

    expected, found = (
        [leaf for leaf in pytree.tree_leaves(tree) if isinstance(leaf, torch.Tensor)] for tree in (want, got)
    )
    assert len(expected) == len(found) > 0, (len(expected), len(found))
    return max(_relative(a, b) for a, b in zip(expected, found))


def _relative(want: torch.Tensor, got: torch.Tensor) -> float:
    assert (want.shape, want.dtype) == (got.shape, got.dtype)
    if not want.is_floating_point():
        return 0.0 if torch.equal(want, got) else float("inf")
    if want.numel() == 0 or torch.equal(want, got):
        return 0.0
    error = float((want.double() - got.double()).norm() / want.double().norm())
    return error if error == error else float("inf")


# ---- the record and the page -------------------------------------------------------------------------------


def record() -> dict[tuple[str, str], Row]:
    """The rows checked in, by (name, form)."""
    if not RECORD.exists():
        return {}
    rows = [Row(**row) for row in json.loads(RECORD.read_text())["rows"]]
    return {(row.name, row.form): row for row in rows}


def write(rows: Iterable[Row]) -> None:
    """Put rows into the record, and the record into the page."""
    merged = {**record(), **{(row.name, row.form): row for row in rows}}
    ordered = [merged[name, form] for name in GALLERY for form in FORMS if (name, form) in merged]
    RECORD.parent.mkdir(exist_ok=True)
    RECORD.write_text(json.dumps({"rows": [asdict(row) for row in ordered]}, indent=1) + "\n")
    zoo.put_between(PAGE, BEGIN, table(ordered), END)


def table(rows: Iterable[Row]) -> str:
    """The page's text: a summary, a row a form, and what was left in torch."""
    rows = list(rows)
    lines = [summary(rows), ""]
    lines += [
        "| model | kind | shapes | engines | ops in engines | of | error |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        cells = (
            f"{row.engines} | {row.converted} | {row.ops} | {row.error:.1e}"
            if not row.failed
            else f"failed: {row.failed} | | |"
        )
        lines.append(f"| {row.name} | {row.kind} | {row.form} | {cells} |")
    reasons = Counter((op, reason) for row in rows for op, reason in row.left.items())
    where: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        for item in row.left.items():
            where.setdefault(item, []).append(f"{row.name} ({row.form})")
    if reasons:
        lines += ["", "What stays in torch, and why:", "", "| op | reason | in |", "|---|---|---|"]
        lines += [
            f"| {op} | {_cell(reason)} | {', '.join(where[op, reason])} |" for op, reason in sorted(reasons)
        ]
    return "\n".join(lines)


def _cell(reason: str) -> str:
    return " ".join(reason.replace("|", "\\|").split())


def summary(rows: Iterable[Row]) -> str:
    """How many architectures are in one engine, and the median share, by form."""
    parts = []
    for form in FORMS:
        chosen = [row for row in rows if row.form == form]
        if chosen:
            whole = sum(row.whole for row in chosen)
            median = statistics.median(row.share for row in chosen)
            parts.append(
                f"{form}: {whole} of {len(chosen)} in one engine, median share of converted ops {median:.3f}"
            )
    return "; ".join(parts) + "."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="architectures (default: all)")
    parser.add_argument("--form", choices=FORMS, action="append")
    parser.add_argument("--write", action="store_true", help="update the record and the page")
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for name in given.names or GALLERY:
        model = None
        for form in given.form or FORMS:
            began = time.perf_counter()
            try:
                model = model or build(GALLERY[name])
                row = run(GALLERY[name], model, form)
            except Exception as problem:
                row = Row(name, GALLERY[name].kind, form, failed=f"{type(problem).__name__}: {problem}"[:300])
            rows.append(row)
            print(
                f"{row.name:14} {row.form:8} {'whole' if row.whole else 'PARTS'} engines {row.engines} "
                f"{row.converted}/{row.ops} error {row.error:.1e} {row.failed} ({time.perf_counter() - began:.1f} s)",
                *(f"\n    {op}: {reason}" for op, reason in row.left.items()),
                flush=True,
            )
    print(summary(rows))
    if given.write:
        write(rows)


if __name__ == "__main__":
    main()
