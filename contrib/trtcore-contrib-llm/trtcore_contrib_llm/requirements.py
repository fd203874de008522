"""What can be compiled for generation, and one sentence for what cannot."""

from __future__ import annotations

import importlib.util
from typing import Any

import torch

from trtcore.pack import InputError

#: What a layer of a model may do to the texts before it, by transformers' names.
LAYERS = frozenset({"full_attention", "sliding_attention", "chunked_attention"})
#: How a model may compute its attention.
ATTENTIONS = frozenset({"sdpa", "eager"})
DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def need_transformers() -> None:
    """Raises:
    ImportError: transformers is not installed.
    """
    if importlib.util.find_spec("transformers") is None:
        raise ImportError(
            "compiling language models for generation needs transformers 5 or newer: pip install transformers"
        )


def check_model(model: torch.nn.Module, max_length: int) -> None:
    """Whether a model can be compiled for generation.

    Raises:
        InputError: it cannot; says what can.
    """
    import transformers
    from transformers import PreTrainedModel

    name = type(model).__name__
    if not isinstance(model, PreTrainedModel) or not model.can_generate():
        raise InputError(
            "compile_for_generation takes a ...ForCausalLM or ...ForConditionalGeneration of transformers, and "
            f"{name} is none",
            advice="compile any other module with trtcore.compile(model, inputs)",
        )
    if getattr(transformers, name, None) is not type(model):
        raise InputError(
            f"{name} is no class of transformers itself, by whose name a saved folder finds its generation loop again",
            advice="use the class that transformers has for this architecture (trust_remote_code=False)",
        )
    config = model.config.get_text_config(decoder=True)
    _check_weights(model, name)
    kinds = set(getattr(config, "layer_types", None) or ())
    if kinds - LAYERS or getattr(model, "_is_stateful", False):
        found = ", ".join(sorted(kinds - LAYERS)) or "a state of its own"
        raise InputError(
            f"{name} keeps {found} from token to token; supported are caches of keys and values: "
            f"{', '.join(sorted(LAYERS))}",
            advice="compile the model's parts with trtcore.compile, and keep its state outside",
        )
    _check_attention(model, name)
    target = getattr(model.config, "max_target_positions", None)
    places = target or getattr(config, "max_position_embeddings", None)
    if places is not None and max_length > places and _has_learned_places(model):
        raise InputError(
            f"max_length is {max_length}, and {name} has embeddings for {places} positions only",
            advice=f"pass max_length={places} or less",
        )


def _check_weights(model: Any, name: str) -> None:
    scheme = getattr(getattr(model, "hf_quantizer", None), "quantization_config", None)
    if scheme is not None:
        method = getattr(scheme.quant_method, "value", scheme.quant_method)
        raise InputError(
            f"the weights of {name} are quantised by {method}; supported are weights in float32, float16 and bfloat16",
            advice="load the model without quantization_config, or call its dequantize() first",
        )
    odd = {weight.dtype for weight in model.parameters() if weight.dtype not in DTYPES}
    if odd:
        raise InputError(
            f"weights of {name} are in {', '.join(sorted(map(str, odd)))}; supported are float32, float16 and bfloat16",
            advice="load the model with dtype=torch.float16 or another of these",
        )
    places = {weight.device for weight in model.parameters()}
    if len(places) > 1:
        raise InputError(
            f"{name} is on several devices ({', '.join(sorted(map(str, places)))}); supported is one",
            advice="load it without device_map, and move it with .to(device)",
        )


def _check_attention(model: Any, name: str) -> None:
    attention = model.config._attn_implementation
    if attention not in ATTENTIONS:
        raise InputError(
            f"{name} computes its attention by {attention!r}; supported are {', '.join(sorted(ATTENTIONS))}",
            advice='load it with attn_implementation="sdpa"',
        )


def _has_learned_places(model: Any) -> bool:
    """Whether there is a table of position embeddings: rotary ones go on behind the last."""
    tables = [name for name, one in model.named_modules() if isinstance(one, torch.nn.Embedding)]
    return any("position" in name or name.endswith("wpe") for name in tables)
