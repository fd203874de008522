"""What can be compiled of a pipeline, and why something cannot."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from torch import nn

from trtcore.errors import BackendUnavailableError, InputError

_LEFT_OUT = ("safety_checker",)
_SUPPORTED = (
    "supported are pipelines of diffusers (StableDiffusionPipeline, StableDiffusionXLPipeline, "
    "StableDiffusion3Pipeline, FluxPipeline, LTXPipeline and their kin), models in float32, float16 or bfloat16"
)


def check_pipeline(pipe: Any) -> None:
    """Refuse what is no pipeline of diffusers.

    Raises:
        BackendUnavailableError: diffusers is not installed.
        InputError: it is something else.
    """
    try:
        from diffusers import DiffusionPipeline
    except ImportError as error:
        raise BackendUnavailableError(
            f"compile_pipeline needs diffusers, which cannot be imported: {error}",
            advice='pip install "trtcore-contrib-diffusers[diffusers]"',
        ) from error
    if not isinstance(pipe, DiffusionPipeline):
        raise InputError(
            f"compile_pipeline takes a pipeline of diffusers, not {type(pipe).__name__}: {_SUPPORTED}",
            advice="a model alone is compiled by trtcore.compile",
        )


def chosen_models(pipe: Any, components: Collection[str] | None) -> dict[str, nn.Module]:
    """The components to compile, by name.

    Raises:
        InputError: a name is no component's; a model cannot be compiled, and why.
    """
    models = {name: one for name, one in pipe.components.items() if isinstance(one, nn.Module)}
    if components is None:
        found = {name: one for name, one in models.items() if name not in _LEFT_OUT}
    else:
        names = [components] if isinstance(components, str) else list(components)
        unknown = [name for name in names if name not in models]
        if unknown:
            raise InputError(
                f"{type(pipe).__name__} has no component {', '.join(unknown)}",
                advice=f"components= names some of {', '.join(sorted(models))}",
            )
        found = {name: models[name] for name in names}
    for name, model in found.items():
        what = _refusal(model)
        if what is not None:
            raise InputError(f"{name} {what[0]}", advice=what[1])
    return found


def can_be_copied(model: nn.Module) -> bool:
    """Whether a copy of the modules computes what they do, in memory of their own kind."""
    return not (_by_quantiser(model) or _by_engine(model) or _by_hooks(model))


def methods_of(model: nn.Module) -> list[str]:
    """The methods that run in engines: the halves of an autoencoder, or the call of any other model."""
    halves = [half for half in ("encode", "decode") if callable(getattr(model, half, None))]
    return [f"_{half}" if hasattr(model, f"_{half}") else half for half in halves] or ["forward"]


def _refusal(model: nn.Module) -> tuple[str, str] | None:
    """Why a model cannot be compiled, and what to do."""
    return _by_quantiser(model) or _by_engine(model) or _by_hooks(model) or _by_tiling(model)


def _by_quantiser(model: nn.Module) -> tuple[str, str] | None:
    quantiser = getattr(model, "hf_quantizer", None)
    config = getattr(quantiser, "quantization_config", None)
    scheme = getattr(config, "quant_method", None)
    if quantiser is None and not getattr(model, "is_quantized", False):
        return None
    scheme = getattr(scheme, "value", scheme) or "an unknown scheme"
    return (
        f"is quantised by {scheme}, which no engine takes: supported are models in float32, float16 or bfloat16",
        "load it without quantization_config, or leave it out of components=",
    )


def _by_engine(model: nn.Module) -> tuple[str, str] | None:
    from trtcore_contrib_diffusers.component import InEngines

    if not isinstance(model, InEngines):
        return None
    return (
        "runs in engines already",
        "compile the pipeline that was compiled before, with its models in torch",
    )


def _by_hooks(model: nn.Module) -> tuple[str, str] | None:
    """Caches and offloading of diffusers and accelerate are code around submodules, which a capture would lose."""
    for path, module in model.named_modules():
        registry = getattr(module, "_diffusers_hook", None)
        hooks = list(getattr(registry, "hooks", {}) or {})
        if hooks:
            return (
                f"has the hook {hooks[0]!r} of diffusers{f' at {path}' if path else ''}, which keeps state between "
                "steps: supported are models without caches, layer skipping and group offloading",
                "compile before such a hook is set, or disable it: model.disable_cache()",
            )
        if hasattr(module, "_hf_hook"):
            return (
                "is offloaded by accelerate: supported are models that are on one device",
                "pipe.remove_all_hooks(), and compile_pipeline(..., offload=True)",
            )
    return None


def _by_tiling(model: nn.Module) -> tuple[str, str] | None:
    if not getattr(model, "use_tiling", False):
        return None
    return (
        "works in tiles, each of another size: supported is the whole image in one engine",
        "model.disable_tiling() before the pipeline is compiled, or leave it out of components=",
    )
