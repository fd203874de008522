"""The object that ``compile_for_generation`` gives: a model's own class, whose forward calls engines."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import torch
import transformers
from torch import Tensor
from transformers.modeling_outputs import CausalLMOutputWithPast

import trtcore
from trtcore.pack import InputError
from trtcore_contrib_llm.decoding import Decoder
from trtcore_contrib_llm.held_cache import HeldCache
from trtcore_contrib_llm.stepping import LayerShape, Step, cache_argument, has_attention_interface, shapes_of

FORMAT = 1
_FILE = "trtcore.json"
_SUPPORTED = "supported are greedy search, sampling and beams"


@dataclass(frozen=True)
class Sizes:
    """How many texts and tokens there may be; see ``compile_for_generation``."""

    max_batch: int
    max_length: int
    max_prompt: int
    opt_batch: int
    opt_prompt: int

    @classmethod
    def of(
        cls,
        max_batch: int,
        max_length: int,
        max_prompt: int | None = None,
        opt_batch: int | None = None,
        opt_prompt: int | None = None,
    ) -> Sizes:
        """With what was not given.

        Raises:
            InputError: sizes that cannot be.
        """
        most = max_length if max_prompt is None else max_prompt
        usual = max(2, most // 8) if opt_prompt is None else opt_prompt
        sizes = cls(max_batch, max_length, most, 1 if opt_batch is None else opt_batch, usual)
        for name, value in asdict(sizes).items():
            least = 1 if "batch" in name else 2
            if type(value) is not int or value < least:
                raise InputError(f"{name} is {value!r}; it must be an int, at least {least}")
        for name, value, most in (
            ("max_prompt", sizes.max_prompt, sizes.max_length),
            ("opt_prompt", sizes.opt_prompt, sizes.max_prompt),
            ("opt_batch", sizes.opt_batch, sizes.max_batch),
        ):
            if value > most:
                raise InputError(f"{name} is {value}, more than the {most} that there can be")
        return sizes


class Generator:
    """A causal language model whose layers are engines; it stands before the model's own class.

    Made by ``compile_for_generation`` and ``load_for_generation``: a model's own class, and so its
    own ``generate``.

    Attributes:
        prefill, decode: the compiled modules of prompts and of steps, with their reports.
        held: the cache, whose contents are the texts of the last call.
        sizes: how many texts and tokens there may be.
    """

    PARTS: ClassVar[tuple[str, str]] = ("prefill", "decode")
    base: ClassVar[type]
    prefill: torch.fx.GraphModule
    decode: torch.fx.GraphModule
    held: HeldCache
    sizes: Sizes
    _decoder: Decoder
    _facts: dict[str, Any]

    # -- making -------------------------------------------------------------------------------------------

    @staticmethod
    def compiled(model: Any, sizes: Sizes, settings: Mapping[str, Any]) -> Generator:
        """See ``compile_for_generation``; the model was checked."""
        from trtcore_contrib_llm.decoding import examples

        was_training = model.training
        model.eval()
        try:
            layers = model.config.get_text_config(decoder=True).num_hidden_layers
            first = torch.zeros(1, 1, dtype=torch.int64, device=model.device)
            try:
                shapes, dtype = shapes_of(model, layers, input_ids=first)
            except ValueError as error:
                raise InputError(
                    f"{type(model).__name__} does not keep one cache of keys and values for each layer: {error}",
                    advice="supported are decoders each of whose layers writes its keys and values once a call",
                ) from error
            reads_only = has_attention_interface(model, shapes, dtype)
            parts = [
                trtcore.compile(step, examples(sizes, shapes, dtype, model.device, length=length), **settings)
                for length, step in ((None, Step(model)), (1, Step(model, reads_only=reads_only)))
            ]
        finally:
            model.train(was_training)
        generator = made(Generator, type(model), model.config, model.generation_config)
        generator._hold(parts[0], parts[1], sizes, shapes, dtype, model.device, reads_only)
        return generator

    @staticmethod
    def loaded(folder: Path, device: torch.device | str | None) -> Generator:
        """See ``load_for_generation``."""
        generator, facts, parts, place = opened(Generator, folder, device)
        shapes = tuple(LayerShape(**one) for one in facts["layers"])
        generator._hold(
            parts[0],
            parts[1],
            Sizes(**facts["sizes"]),
            shapes,
            getattr(torch, facts["dtype"]),
            place,
            facts["reads_only"],
        )
        return generator

    def _hold(
        self,
        prefill: Any,
        decode: Any,
        sizes: Sizes,
        shapes: tuple[LayerShape, ...],
        dtype: torch.dtype,
        device: torch.device,
        reads_only: bool,
    ) -> None:
        self.sizes, self._shapes, self._reads_only = sizes, shapes, reads_only
        trtcore.runtime.share_weights(prefill, decode)
        held = HeldCache(shapes, dtype, device, sizes.max_batch, sizes.max_length)
        # Not by nn.Module's own way: neither is a part whose weights the skeleton has.
        for name, value in (("prefill", prefill), ("decode", decode), ("held", held)):
            object.__setattr__(self, name, value)
        self._facts = {
            "sizes": asdict(sizes),
            "layers": [asdict(one) for one in shapes],
            "reads_only": reads_only,
            "dtype": str(dtype).removeprefix("torch."),
        }
        self._arrange()

    def _arrange(self) -> None:
        object.__setattr__(self, "_decoder", Decoder(self.decode, self.held, self._reads_only))

    def _moved(self, device: Any) -> None:
        self.held.to(device)

    def save(self, folder: Any) -> None:
        """Write engines, configuration and generation configuration to a folder, for ``load_for_generation``.

        Raises:
            ArtifactError: something cannot be written.
        """
        place = Path(folder)
        place.mkdir(parents=True, exist_ok=True)
        facts = {
            "format": FORMAT,
            "class": self.base.__name__,
            "transformers": transformers.__version__,
            "attention": self.config._attn_implementation,  # type: ignore[attr-defined]
            **self._facts,
            "device": str(self.device),
        }
        self.config.save_pretrained(place)  # type: ignore[attr-defined]
        self.generation_config.save_pretrained(place)  # type: ignore[attr-defined]
        for name in self.PARTS:
            trtcore.save(getattr(self, name), place / f"{name}.pt2")
        (place / _FILE).write_text(json.dumps(facts, indent=2) + "\n")

    # -- as a model ---------------------------------------------------------------------------------------

    @property
    def device(self) -> torch.device:
        """Where it runs."""
        return self.held.mask.device

    @property
    def cuda_graphs(self) -> bool:
        """Whether steps are recorded, once for each number of texts, and replayed; by default on a GPU."""
        return self._decoder.graphs

    @cuda_graphs.setter
    def cuda_graphs(self, wanted: bool) -> None:
        if wanted and self.device.type != "cuda":
            raise InputError(f"CUDA graphs are of GPUs, and this model is on {self.device}")
        self._decoder.graphs = wanted

    def fuse(self) -> Generator:
        """Let steps run small ops as generated kernels from now on; on the reference runtime, see
        ``trtcore.runtime.enable_fusion``. Each number of texts is compiled anew, at its first step.
        """
        trtcore.runtime.enable_fusion(self.decode)
        self._arrange()  # what was recorded is of the kernels before
        return self

    @property
    def dtype(self) -> torch.dtype:
        """Of the cache."""
        return self.held.keys[0].dtype

    def to(self, device: torch.device | str) -> Generator:
        """Run on a device from now on; the cache goes along.

        Raises:
            InputError: anything but a device is given: an engine's dtypes are built in.
        """
        if isinstance(device, torch.dtype):
            raise InputError(
                f"a compiled model stays in {self.dtype}",
                advice="call .to(dtype) before compile_for_generation",
            )
        for name in self.PARTS:
            getattr(self, name).to(device)
        self._moved(device)
        self._arrange()
        return self

    def generate(self, inputs: Any = None, generation_config: Any = None, **kwargs: Any) -> Any:
        """transformers' ``generate``, on this model's own cache: greedy, sampling and beams.

        There may be `max_batch` texts, beams and returned sequences counted, of `max_length` tokens.

        Args:
            inputs, generation_config, kwargs: as transformers has them. A cache of an earlier call (``past_key_values``
                of its result) goes on where that one stopped.

        Raises:
            InputError: other kinds of generation, other caches, too many texts or tokens; before anything runs.
        """
        name = cache_name(self.base)
        refuse_ways(self, generation_config, kwargs)
        given = [kwargs.pop(key) for key in ("cache", "past_key_values") if kwargs.get(key) is not None]
        if given and given[0] is not self.held:
            raise InputError(
                f"a {type(given[0]).__name__} is not supported; supported is the model's own cache, `.held`",
                advice="call generate without a cache, or with the one that an earlier call has given back",
            )
        if not given:
            self.held.reset()
        self._check_sizes(inputs, generation_config, kwargs)
        kwargs[name] = self.held
        return super().generate(inputs, generation_config, **kwargs)  # type: ignore[misc]

    def _check_sizes(self, inputs: Any, config: Any, kwargs: Mapping[str, Any]) -> None:
        """Whether the cache has room for what is asked for; what the configuration leaves open shows as it comes."""
        tokens = kwargs.get("input_ids") if inputs is None else inputs
        if not isinstance(tokens, Tensor) or tokens.dim() != 2:
            raise InputError(
                "generate takes input_ids, a tensor (batch, length) of tokens",
                advice="embeddings and other inputs are not supported by compiled models",
            )

        def asked(name: str) -> Any:
            for place in (config, self.generation_config):  # type: ignore[attr-defined]
                value = kwargs.get(name)
                value = getattr(place, name, None) if value is None else value
                if value is not None:
                    return value
            return None

        rows = tokens.shape[0] * max(asked("num_beams") or 1, asked("num_return_sequences") or 1)
        if rows > self.sizes.max_batch:
            raise InputError(
                f"{rows} texts (beams and returned sequences counted) are more than max_batch={self.sizes.max_batch}",
                advice=f"compile for max_batch={rows}, or generate in parts",
            )
        new, most = asked("max_new_tokens"), asked("max_length")
        length = tokens.shape[1]
        total = length + new if new is not None else most
        if (total is not None and total > self.sizes.max_length) or length > self.sizes.max_length:
            raise InputError(
                f"{max(total or 0, length)} tokens are asked for, and the cache has room for max_length="
                f"{self.sizes.max_length}",
                advice=f"compile for max_length={max(total or 0, length)}, or ask for fewer tokens",
            )

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """One call, as the model's forward: tokens in, the logits behind the last one out; the cache goes on.

        Returns:
            transformers' output with ``logits`` (batch, 1, vocabulary), and the cache.

        Raises:
            InputError: inputs that engines cannot take, or more than there is room for.
        """
        given = self._given(args, kwargs)
        tokens = given.get("input_ids")
        if tokens is None:
            raise InputError("a compiled model takes input_ids, and no embeddings")
        name = cache_name(self.base)
        if given.get(name) is not None and given[name] is not self.held:
            raise InputError(f"a compiled model has a cache of its own; pass {name}=None")
        if given.get(name) is None:
            self.held.reset()
        logits = self._run(tokens, given.get("attention_mask"), given.get("position_ids"))
        return CausalLMOutputWithPast(logits=logits[:, None], **{name: self.held})

    def _given(self, args: Any, kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments of a call by the names of the model's own forward."""
        given = _signature(self.base).bind(self, *args, **kwargs).arguments
        given.update(given.pop("kwargs", {}))
        for name in ("labels", "output_attentions", "output_hidden_states", "output_router_logits"):
            if given.get(name) is not None and given[name] is not False:
                raise InputError(
                    f"{name} is not supported by a compiled model: its engines give logits",
                    advice=f"call it without {name}",
                )
        return dict(given)

    def _run(self, tokens: Tensor, mask: Tensor | None, positions: Tensor | None) -> Tensor:
        held, (rows, length) = self.held, tokens.shape
        end = held.length + length
        if rows > self.sizes.max_batch or end > self.sizes.max_length:
            raise InputError(
                f"{rows} texts of {end} tokens are more than max_batch={self.sizes.max_batch}, "
                f"max_length={self.sizes.max_length}",
                advice="compile for more, or begin new texts",
            )
        if mask is not None:
            if mask.dim() != 2 or mask.shape[0] != rows or mask.shape[1] not in (end, self.sizes.max_length):
                raise InputError(
                    f"attention_mask is of shape {tuple(mask.shape)}; supported is ({rows}, {end}), a number for each "
                    "token of each text"
                )
            held.mask[:rows, : mask.shape[1]].copy_(mask)
        if positions is None:
            positions = torch.arange(held.length, end, device=tokens.device)[None]
        positions = positions.expand(rows, length)
        logits = None
        for start in range(0, length, self.sizes.max_prompt):
            piece = slice(start, min(start + self.sizes.max_prompt, length))
            count = piece.stop - piece.start
            run = self._decoder if count == 1 else self._prompt
            logits = run(tokens[:, piece], positions[:, piece], held.length)
            held.length += count
        assert logits is not None
        return logits

    def _prompt(self, tokens: Tensor, positions: Tensor, start: int) -> Tensor:
        rows, held = len(tokens), self.held
        logits: Tensor = self.prefill(
            tokens.contiguous(),
            positions.contiguous(),
            held.mask[:rows],
            torch.tensor([start], device=tokens.device),
            [one[:rows] for one in held.keys],
            [one[:rows] for one in held.values],
        )
        return logits


def refuse_ways(model: Any, generation_config: Any, kwargs: Mapping[str, Any]) -> None:
    """Raises:
    InputError: a kind of generation that one cache on fixed memory cannot serve.
    """
    config = generation_config or model.generation_config
    for way in ("assistant_model", "prompt_lookup_num_tokens", "custom_generate", "cache_implementation"):
        if kwargs.get(way, getattr(config, way, None)) is not None:
            raise InputError(
                f"{way} is not supported by a compiled model, which has one cache of its own; {_SUPPORTED}",
                advice=f"call generate without {way}",
            )
    if kwargs.get("use_cache") is False:
        raise InputError(
            "a compiled model cannot be without its cache", advice="call generate without use_cache"
        )


def opened(
    way: type, folder: Path, device: torch.device | str | None
) -> tuple[Any, dict[str, Any], list[Any], Any]:
    """(a model of `way` without engines, the facts, both compiled modules, the device) of a folder."""
    facts = read_facts(folder)
    kind = getattr(transformers, facts["class"], None)
    if kind is None:
        raise trtcore.errors.ArtifactError(
            f"{folder} holds a {facts['class']}, which transformers {transformers.__version__} does not have",
            advice=f"install transformers {facts['transformers']}, by which it was written",
        )
    config = kind.config_class.from_pretrained(folder)
    config._attn_implementation = facts["attention"]
    generator = made(way, kind, config, transformers.GenerationConfig.from_pretrained(folder))
    place = torch.device(facts["device"] if device is None else device)
    if device is None and place.type == "cuda" and not torch.cuda.is_available():
        place = torch.device("cpu")
    parts = [trtcore.load(folder / f"{name}.pt2") for name in way.PARTS]  # type: ignore[attr-defined]
    if place != torch.device(facts["device"]):
        parts = [part.to(place) for part in parts]
    return generator, facts, parts, place


def made(way: type, kind: type, config: Any, generation_config: Any) -> Any:
    """A model of a class before which `way` stands, without weights."""
    known = _classes.get(kind)
    if known is None:
        body = {"base": kind, "__doc__": way.__doc__, "forward": _like(way, kind), "__module__": __name__}
        known = _classes[kind] = type(f"Compiled{kind.__name__}", (way, kind), body)
    with torch.device("meta"):
        made = known._from_config(config)
    made.generation_config = generation_config
    made.generation_config.cache_implementation = None
    return made.eval()


def _like(way: Any, kind: type) -> Any:
    """The generator's forward with the model's own signature, which generation code looks at."""

    def forward(self: Generator, *args: Any, **kwargs: Any) -> Any:
        return way.forward(self, *args, **kwargs)

    forward.__doc__ = way.forward.__doc__
    forward.__signature__ = _signature(kind)  # type: ignore[attr-defined]
    return forward


@cache
def _signature(kind: Any) -> inspect.Signature:
    return inspect.signature(kind.forward)


@cache
def cache_name(kind: Any) -> str:
    return str(cache_argument(kind))


_classes: dict[type, type] = {}


def read_facts(folder: Path) -> dict[str, Any]:
    try:
        facts = json.loads((folder / _FILE).read_text())
        version = facts["format"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise trtcore.errors.ArtifactError(
            f"{folder} holds no compiled language model: {_FILE} cannot be read ({error})",
            advice="give the folder that .save(folder) has written",
        ) from None
    if version != FORMAT:
        raise trtcore.errors.ArtifactError(
            f"{folder} has format {version}; this trtcore-contrib-llm reads format {FORMAT}",
            advice="compile the model again with this one",
        )
    return dict(facts)
