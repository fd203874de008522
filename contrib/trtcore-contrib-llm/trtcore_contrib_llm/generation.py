"""A causal language model of transformers as two engines, for prompts and for steps, behind its own ``generate``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from trtcore.pack import InputError

if TYPE_CHECKING:
    import os

    from trtcore_contrib_llm.generator import Generator


def compile_for_generation(
    model: torch.nn.Module,
    max_batch: int,
    max_length: int,
    *,
    max_prompt: int | None = None,
    opt_batch: int | None = None,
    opt_prompt: int | None = None,
    max_source: int | None = None,
    **settings: Any,
) -> Generator:
    """Compile a causal language model or an encoder-decoder of transformers for its own ``generate``.

    Two engines are built, with any number of texts up to `max_batch`: one for prompts of any length (of an
    encoder-decoder: for its sources), one for steps of a token. They work on one cache of keys and values, made
    here, and hold the weights once on the reference runtime.

    Args:
        model: a ``...ForCausalLM`` or ``...ForConditionalGeneration`` (T5, BART, Whisper) of transformers, where it is
            to run; compiled as in ``eval()``.
        max_batch: most texts, beams and returned sequences counted.
        max_length: most tokens of a text, its prompt among them; the cache has room for them all.
        max_prompt: most tokens of a call of the prompts' engine, at least 2; longer prompts come in pieces. By default
            `max_length`.
        opt_batch, opt_prompt: what the engines are tuned for; by default 1 text, and an eighth of `max_prompt`.
        max_source: most tokens of an encoder's source, by default `max_length`; for encoder-decoders.
        settings: of ``trtcore.compile``, for both engines.

    Returns:
        the model's class with engines in the place of its layers: ``generate(...)``, called as the model is,
        ``save(folder)``.

    Raises:
        InputError: a model, a cache, weights or sizes that are not supported; says what is.
        ImportError: transformers is not installed.
    """
    from trtcore_contrib_llm.requirements import check_model, need_transformers

    need_transformers()
    from trtcore_contrib_llm.generator import Generator, Sizes

    sizes = Sizes.of(max_batch, max_length, max_prompt, opt_batch, opt_prompt)
    check_model(model, sizes.max_length)
    if model.config.is_encoder_decoder:  # type: ignore[union-attr]
        from trtcore_contrib_llm.seq2seq import EncoderDecoder

        return EncoderDecoder.compiled(model, sizes, settings, max_source)
    if max_source is not None:
        raise InputError("max_source is for encoder-decoders", advice="call without it")
    return Generator.compiled(model, sizes, settings)


def load_for_generation(
    folder: str | os.PathLike[str], device: torch.device | str | None = None
) -> Generator:
    """What ``save(folder)`` of a compiled language model has written; nothing is traced or built.

    Args:
        folder: the folder.
        device: where it is to run; by default where it was compiled for, if that is here, else the CPU.

    Raises:
        ArtifactError: the folder is not of a compiled language model, or of another version of the pack.
        ImportError: transformers is not installed.
    """
    from trtcore_contrib_llm.requirements import need_transformers

    need_transformers()
    from trtcore_contrib_llm.generator import Generator, read_facts

    if "source_layers" in read_facts(Path(folder)):
        from trtcore_contrib_llm.seq2seq import EncoderDecoder

        return EncoderDecoder.loaded(Path(folder), device)
    return Generator.loaded(Path(folder), device)
