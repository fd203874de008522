"""An encoder-decoder of transformers as two engines: one for sources, one for steps of the decoder."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutput, Seq2SeqLMOutput

import trtcore
from trtcore import Input
from trtcore.pack import InputError
from trtcore_contrib_llm.decoding import Decoder, examples
from trtcore_contrib_llm.encoding import Decode, Encode, shapes_of
from trtcore_contrib_llm.generator import Generator, Sizes, cache_name, made, opened, refuse_ways
from trtcore_contrib_llm.held_cache import HeldCache
from trtcore_contrib_llm.stepping import LayerShape


class EncoderDecoder(Generator):
    """An encoder-decoder whose parts are engines: a model's own class, and so its own ``generate``.

    Attributes:
        encode, decode: the compiled modules of sources and of steps, with their reports.
        held: the decoder's cache of its own tokens.
        source: keys and values of the sources, as the decoder's layers see them, and their mask.
    """

    PARTS = ("encode", "decode")
    encode: torch.fx.GraphModule
    source: HeldCache
    _fresh: int | None  # texts that were encoded for the next decoder tokens

    @staticmethod
    def compiled(
        model: Any, sizes: Sizes, settings: Mapping[str, Any], max_source: int | None = None
    ) -> EncoderDecoder:
        """See ``compile_for_generation``; the model was checked."""
        was_training = model.training
        model.eval()
        try:
            source, most = _source_of(model, sizes, max_source)
            mask = None if source.is_floating_point() else torch.ones_like(source)
            try:
                own, cross, dtype = shapes_of(model, source, mask)
            except (ValueError, TypeError, AttributeError) as error:
                raise InputError(
                    f"{type(model).__name__} does not keep keys and values of its tokens and of its source: {error}",
                    advice="supported are encoder-decoders like T5, BART and Whisper",
                ) from error
            batch = (1, sizes.opt_batch, sizes.max_batch if sizes.max_batch != 2 else 3)
            length = (2, max(2, most // 8), max(most, 4))

            def ranged(dtype: torch.dtype, *dims: Any) -> Input:
                spans = [dim if isinstance(dim, tuple) else (dim,) * 3 for dim in dims]
                least, usual, largest = zip(*spans)
                return Input(
                    min_shape=least, opt_shape=usual, max_shape=largest, dtype=dtype, device=model.device
                )

            sources = (
                [ranged(source.dtype, batch, *source.shape[1:])]
                if mask is None
                else [ranged(torch.int64, batch, length)] * 2
            )
            steps = examples(sizes, own, dtype, model.device, 1)
            steps += [
                [ranged(dtype, batch, one.heads, most, one.keys) for one in cross],
                [ranged(dtype, batch, one.heads, most, one.values) for one in cross],
            ]
            if mask is not None:
                steps.append(ranged(torch.int64, batch, most))
            parts = [
                trtcore.compile(part, inputs, **settings)
                for part, inputs in ((Encode(model), sources), (Decode(model), steps))
            ]
        finally:
            model.train(was_training)
        generator = made(EncoderDecoder, type(model), model.config, model.generation_config)
        facts = {
            "sizes": asdict(sizes),
            "layers": [asdict(one) for one in own],
            "source_layers": [asdict(one) for one in cross],
            "source_length": most,
            "masked": mask is not None,
            "dtype": str(dtype).removeprefix("torch."),
        }
        generator._begin(parts[0], parts[1], facts, model.device)
        return generator

    def _begin(self, encode: Any, decode: Any, facts: Mapping[str, Any], device: torch.device) -> None:
        self.sizes, self._facts, self._fresh = Sizes(**facts["sizes"]), dict(facts), None
        trtcore.runtime.share_weights(encode, decode)
        dtype, rows = getattr(torch, facts["dtype"]), self.sizes.max_batch
        own, cross = (tuple(LayerShape(**one) for one in facts[name]) for name in ("layers", "source_layers"))
        held = HeldCache(own, dtype, device, rows, self.sizes.max_length)
        source = HeldCache(cross, dtype, device, rows, facts["source_length"])
        for name, value in (("encode", encode), ("decode", decode), ("held", held), ("source", source)):
            object.__setattr__(self, name, value)
        self._arrange()

    def _arrange(self) -> None:
        object.__setattr__(
            self, "_decoder", Decoder(self.decode, self.held, writes=False, more=self._source_arguments)
        )

    def _source_arguments(self, rows: int) -> list[Any]:
        source = self.source
        found: list[Any] = [[one[:rows] for one in source.keys], [one[:rows] for one in source.values]]
        return [*found, source.mask[:rows]] if self._facts["masked"] else found

    def _moved(self, device: Any) -> None:
        self.held.to(device)
        self.source.to(device)

    @staticmethod
    def loaded(folder: Path, device: torch.device | str | None) -> EncoderDecoder:
        """See ``load_for_generation``."""
        generator, facts, parts, place = opened(EncoderDecoder, folder, device)
        generator._begin(parts[0], parts[1], facts, place)
        return generator

    def get_encoder(self, *args: Any, **kwargs: Any) -> Any:
        """What generation code calls for the states of a source: the engine, with the encoder's own signature."""
        return _Encoder(self, super(Generator, self).get_encoder(*args, **kwargs))  # type: ignore[misc]

    def _encoded(self, *args: Any, **kwargs: Any) -> BaseModelOutput:
        """Run the encoder's engine, and keep what the decoder's layers make of its states."""
        given = {**dict(zip(("source", "attention_mask"), args)), **kwargs}
        found = next(
            (given[n] for n in ("source", "input_ids", "input_features") if given.get(n) is not None), None
        )
        if found is None:
            raise InputError("a compiled encoder takes tokens or features, and no embeddings")
        rows, held = len(found), self.source
        if rows > self.sizes.max_batch:
            raise InputError(
                f"{rows} sources are more than max_batch={self.sizes.max_batch}",
                advice=f"compile for max_batch={rows}",
            )
        arguments = [found]
        if self._facts["masked"]:
            mask = given.get("attention_mask")
            mask = torch.ones_like(found) if mask is None else mask.to(torch.int64)
            if found.shape[1] > self._facts["source_length"]:
                raise InputError(
                    f"a source of {found.shape[1]} tokens is longer than max_source={self._facts['source_length']}",
                    advice=f"compile for max_source={found.shape[1]}, or cut the source",
                )
            if found.shape[1] == 1:  # the engine begins with two tokens: one of padding
                found, mask = (torch.nn.functional.pad(one, (0, 1)) for one in (found, mask))
            arguments = [found, mask]
            held.mask.zero_()
            held.mask[:rows, : mask.shape[1]] = mask
        states, keys, values = self.encode(*arguments)
        for whole, new in ((held.keys, keys), (held.values, values)):
            for one, part in zip(whole, new):
                one[:rows, :, : part.shape[2]] = part
        self._fresh = rows
        return BaseModelOutput(last_hidden_state=states)

    def generate(self, inputs: Any = None, generation_config: Any = None, **kwargs: Any) -> Any:
        """transformers' ``generate`` of the model's class, on this model's own caches: greedy, sampling and beams.

        Raises:
            InputError: other kinds of generation, other caches, too many texts or tokens.
        """
        refuse_ways(self, generation_config, kwargs)
        for name in ("cache", "past_key_values", "encoder_outputs"):
            if kwargs.get(name) is not None:
                raise InputError(
                    f"{name} is not supported by a compiled encoder-decoder, which has its own",
                    advice=f"call generate without {name}",
                )
        config = generation_config or self.generation_config  # type: ignore[attr-defined]
        new = kwargs.get("max_new_tokens", getattr(config, "max_new_tokens", None))
        if new is not None and new >= self.sizes.max_length:
            raise InputError(
                f"{new} tokens and the one before them are asked for, and the cache has room for max_length="
                f"{self.sizes.max_length}",
                advice=f"compile for max_length={new + 1}, or ask for fewer tokens",
            )
        self.held.reset()
        self._fresh = None
        kwargs[cache_name(self.base)] = self.held
        base: Any = super(Generator, self)
        sources = () if inputs is None else (inputs,)
        return base.generate(*sources, generation_config=generation_config, **kwargs)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """One call: a source, or what the encoder made of it, and the decoder's tokens in; logits behind the last out.

        Returns:
            transformers' output with ``logits`` (batch, 1, vocabulary), and the cache.

        Raises:
            InputError: inputs that engines cannot take, or more than there is room for.
        """
        given = self._given(args, kwargs)
        name = cache_name(self.base)
        tokens = given.get("decoder_input_ids")
        if tokens is None:
            raise InputError("a compiled encoder-decoder takes decoder_input_ids")
        if given.get(name) is None:
            self.held.reset()
        if given.get("encoder_outputs") is None:
            self._encoded(**{n: given.get(n) for n in ("input_ids", "input_features", "attention_mask")})
        rows = len(tokens)
        if self.held.length == 0:
            self._expand(rows)
        padding = given.get("decoder_attention_mask")
        if padding is not None and padding.dim() == 2:
            self.held.mask[:rows, : padding.shape[1]] = padding
        positions = given.get("decoder_position_ids")
        if positions is None:
            positions = torch.arange(
                self.held.length, self.held.length + tokens.shape[1], device=tokens.device
            )[None]
        positions = positions.expand(rows, tokens.shape[1])
        if self.held.length + tokens.shape[1] > self.sizes.max_length:
            raise InputError(
                f"{self.held.length + tokens.shape[1]} tokens are more than max_length={self.sizes.max_length}",
                advice="compile for more, or begin new texts",
            )
        logits: Tensor | None = None
        for place in range(tokens.shape[1]):
            logits = self._decoder(
                tokens[:, place : place + 1], positions[:, place : place + 1], self.held.length
            )
            self.held.length += 1
        assert logits is not None
        return Seq2SeqLMOutput(logits=logits[:, None], encoder_last_hidden_state=None, **{name: self.held})

    def _expand(self, rows: int) -> None:
        """Beams and returned sequences: as many rows of each source."""
        fresh = self._fresh
        if fresh is None or rows % fresh or rows > self.sizes.max_batch:
            raise InputError(
                f"{rows} texts of the decoder for {fresh or 'no'} sources, and max_batch={self.sizes.max_batch}",
                advice="give a source first; compile for a larger max_batch where beams need it",
            )
        if rows != fresh:
            for whole in (*self.source.keys, *self.source.values, self.source.mask):
                whole[:rows] = whole[:fresh].repeat_interleave(rows // fresh, 0)
            self._fresh = rows


class _Encoder:
    """The encoder's engine, called and looked at as the model's encoder."""

    def __init__(self, owner: EncoderDecoder, own: Any) -> None:
        self.main_input_name = getattr(own, "main_input_name", owner.main_input_name)  # type: ignore[attr-defined]

        def forward(*args: Any, **kwargs: Any) -> BaseModelOutput:
            return owner._encoded(*args, **kwargs)

        forward.__signature__ = inspect.signature(own.forward)  # type: ignore[attr-defined]
        self.forward = forward

    def __call__(self, *args: Any, **kwargs: Any) -> BaseModelOutput:
        return self.forward(*args, **kwargs)


def _source_of(model: Any, sizes: Sizes, max_source: int | None) -> tuple[Tensor, int]:
    """An example of a source, and the most tokens of one."""
    if model.main_input_name == "input_ids":
        most = sizes.max_length if max_source is None else max_source
        if type(most) is not int or most < 2:
            raise InputError(f"max_source is {most!r}; it must be an int, at least 2")
        return torch.ones(1, 4, dtype=torch.int64, device=model.device), most
    config = model.config
    if model.main_input_name != "input_features" or not hasattr(config, "max_source_positions"):
        raise InputError(
            f"{type(model).__name__} takes {model.main_input_name}; supported are input_ids and Whisper's features"
        )
    if max_source is not None:
        raise InputError(
            "max_source is for sources of tokens", advice="call without it: features have one length"
        )
    stride = model.model.encoder.conv1.stride[0] * model.model.encoder.conv2.stride[0]
    shape = (1, config.num_mel_bins, config.max_source_positions * stride)
    return torch.zeros(shape, dtype=model.dtype, device=model.device), config.max_source_positions
