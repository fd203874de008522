"""What a pipeline calls its components with: recorded in real runs of one step."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from trtcore.errors import InputError, TrtcoreError
from trtcore_contrib_diffusers.adapters import without_scale
from trtcore_contrib_diffusers.sizes import Sizes

PLAIN = (bool, int, float, str, type(None))

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Call:
    """The arguments of a call of one method, by name; without those that are their defaults.

    Attributes:
        leaves, spec: the arguments, flattened.
        kind: what a capture is made for: everything but the sizes and values of tensors.
    """

    leaves: tuple[Any, ...]
    spec: pytree.TreeSpec
    kind: Any

    @property
    def shapes(self) -> tuple[Shape | None, ...]:
        """Of the tensors; None for other leaves."""
        return tuple(tuple(one.shape) if isinstance(one, torch.Tensor) else None for one in self.leaves)

    @property
    def names(self) -> list[str]:
        """Of the leaves."""
        arguments = pytree.tree_unflatten(self.leaves, self.spec)
        return [_path(path) for path, _ in pytree.tree_flatten_with_path(arguments)[0]]


def _path(keys: Sequence[Any]) -> str:
    first, *rest = (getattr(key, "key", getattr(key, "idx", key)) for key in keys)
    return str(first) + "".join(f"[{key!r}]" for key in rest)


class Calling:
    """How one method of a model is called: its signature, and what is done to its arguments first.

    Args:
        model, method: the model, and the name of its method.
    """

    def __init__(self, model: nn.Module, method: str) -> None:
        self.method = method
        self._signature = inspect.signature(getattr(model, method))
        # diffusers' Timesteps makes float32 of any steps: so engines serve schedulers of both kinds.
        kinds = {type(module).__name__ for module in model.modules()}
        self._float_steps = method == "forward" and "Timesteps" in kinds

    def call(self, arguments: Mapping[str, Any]) -> Call:
        """The call as an engine takes it, which knows nothing of adapters and their scale."""
        leaves, spec = pytree.tree_flatten(without_scale(arguments))
        return Call(tuple(leaves), spec, (spec, tuple(map(_kind, leaves))))

    def arguments(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """By name, without those that are their defaults.

        Raises:
            TypeError: arguments that the method does not take.
        """
        found: dict[str, Any] = {}
        for name, value in self._signature.bind(*args, **kwargs).arguments.items():
            parameter = self._signature.parameters[name]
            if parameter.kind is parameter.VAR_KEYWORD:
                found.update(value)
            elif parameter.kind is parameter.VAR_POSITIONAL:
                raise InputError(f"{self.method} was called with further positional arguments {value!r}")
            elif type(value) not in PLAIN or (type(value), value) != (
                type(parameter.default),
                parameter.default,
            ):
                found[name] = value
        steps = found.get("timestep")
        if self._float_steps and isinstance(steps, torch.Tensor) and not steps.is_floating_point():
            found["timestep"] = steps.float()
        return found


def _kind(leaf: Any) -> Any:
    if isinstance(leaf, torch.Tensor):
        return torch.Tensor, leaf.dtype, leaf.dim()
    return type(leaf), repr(leaf)  # 1.0 is not 1, nor 0.0 -0.0: torch.export makes constants of them


@dataclass
class Recorded:
    """The calls of one kind, of one method.

    Attributes:
        call: the first of them, in a run of the usual sizes.
        dtype: of the model at that time; some pipelines have their VAE in float32 for the time of a call.
        profiles: for each optimisation profile that has such calls, the shapes of each of them, of usual sizes first.
    """

    call: Call
    dtype: torch.dtype
    profiles: dict[int, list[tuple[Shape | None, ...]]] = field(default_factory=dict)


class Recorder:
    """The calls of some methods, by (component, method) and kind."""

    def __init__(self, methods: Mapping[tuple[str, str], tuple[nn.Module, Calling]]) -> None:
        self.found: dict[tuple[str, str], dict[Any, Recorded]] = {place: {} for place in methods}
        self._methods = methods
        self._profile = 0

    @contextmanager
    def profile(self, index: int) -> Iterator[None]:
        """Record what is called, for this optimisation profile."""
        self._profile = index
        with ExitStack() as stack:
            for place, (model, calling) in self._methods.items():
                stack.enter_context(self._watched(place, model, calling))
            yield

    @contextmanager
    def _watched(self, place: tuple[str, str], model: nn.Module, calling: Calling) -> Iterator[None]:
        original = getattr(model, calling.method)

        def recording(*args: Any, **kwargs: Any) -> Any:
            self._note(place, calling.call(calling.arguments(args, kwargs)))
            return original(*args, **kwargs)

        model.__dict__[calling.method] = recording
        try:
            yield
        finally:
            del model.__dict__[calling.method]

    def _note(self, place: tuple[str, str], call: Call) -> None:
        for leaf, name in zip(call.leaves, call.names):
            if not isinstance(leaf, (torch.Tensor, *PLAIN)):
                raise InputError(
                    f"the pipeline gives {place[0]} an argument {name} of the type {type(leaf).__name__}, for which "
                    "nothing can be compiled: supported are tensors, numbers, strings and None, in lists and dicts",
                    advice=f"leave {place[0]} out of components=, or call the pipeline without that argument",
                )
        model: Any = self._methods[place][0]
        recorded = self.found[place].setdefault(call.kind, Recorded(call, model.dtype))
        recorded.profiles.setdefault(self._profile, []).append(call.shapes)


Arguments = Mapping[str, Any] | Callable[[int], Mapping[str, Any]]


def record(pipe: Any, sizes: Sizes, arguments: Sequence[Arguments], recorder: Recorder) -> None:
    """Run a pipeline for one step at the smallest, usual and largest sizes of each profile.

    Args:
        pipe: the pipeline, whose components the recorder watches.
        arguments: further arguments of the calls, or functions of the batch that give them; a run for each.
    """
    for index in range(len(sizes.profiles)):
        for corner in sizes.corners(index):
            for further in arguments:
                call = _call_arguments(pipe, dict(corner), further)
                with recorder.profile(index), torch.random.fork_rng(devices=[]), torch.no_grad():
                    _run(pipe, call)


def _run(pipe: Any, call: dict[str, Any]) -> None:
    try:
        pipe(**call)
    except (TypeError, ValueError, AttributeError) as error:  # what pipelines say of arguments
        if isinstance(error, TrtcoreError):
            raise
        raise InputError(
            f"{type(pipe).__name__} cannot be run with {', '.join(sorted(call))}: {error}",
            advice="a run for one step shows what is to be compiled; give what its call needs in arguments=",
        ) from error


def _call_arguments(pipe: Any, corner: dict[str, int], further: Arguments) -> dict[str, Any]:
    batch = corner.pop("batch")
    given = dict(further(batch) if callable(further) else further)
    known = inspect.signature(type(pipe).__call__).parameters
    found: dict[str, Any] = {**corner, "generator": torch.Generator().manual_seed(0), "output_type": "pt"}
    # Image to image does only a share of the steps: of one, often none.
    found["num_inference_steps"] = 2 if "strength" in known else 1
    if not {"prompt", "prompt_embeds"} & given.keys():
        found["prompt"] = ["a photo"] * batch
    if "prompt" not in known:
        found["batch_size"] = batch
    unknown = sorted((corner.keys() | given.keys()) - known.keys())
    if unknown:
        raise InputError(
            f"{type(pipe).__name__} has no argument {', '.join(unknown)}",
            advice=f"its arguments are {', '.join(name for name in known if name != 'self')}",
        )
    return {**{name: value for name, value in found.items() if name in known}, **given}
