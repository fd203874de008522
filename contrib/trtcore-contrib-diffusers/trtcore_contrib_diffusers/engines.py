"""The engines of one component: captures for each kind of call, compiled, and found again by calls."""

from __future__ import annotations

import ast
import copy
import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.export import ExportedProgram
from torch.utils import _pytree as pytree

import trtcore
from trtcore.errors import ExportError, InputError
from trtcore_contrib_diffusers.adapters import Weights, scaled, weights_of, without_adapters
from trtcore_contrib_diffusers.recording import Call, Calling, Recorded, Shape
from trtcore_contrib_diffusers.turns import Turns

_LARGEST_FACTOR = 64


class Called(nn.Module):
    """A method of a model as a module that can be captured.

    Args:
        model, method: the model, and the name of its method.
        folded: dims of leaves that come as two: (n, factor), so that their sizes are multiples of the factor.
    """

    def __init__(self, model: nn.Module, method: str, folded: Mapping[int, Sequence[int]]) -> None:
        super().__init__()
        self.model = model
        self.method = method
        self.folded = dict(folded)

    def forward(self, **arguments: Any) -> Any:
        leaves, spec = pytree.tree_flatten(arguments)
        for place, dims in self.folded.items():
            for dim in dims:  # each is at its own place when those before it are whole
                leaves[place] = leaves[place].flatten(dim, dim + 1)
        return getattr(self.model, self.method)(**pytree.tree_unflatten(leaves, spec))


_Row = tuple[tuple[Any, ...], tuple[Any, ...], tuple[Any, ...]]
"""The smallest, usual and largest shapes of all leaves."""


@dataclass(frozen=True)
class Form:
    """What a method is captured for.

    Attributes:
        kind: of the calls.
        profiles: the shapes of the leaves of their arguments, None for those that are no tensors.
        folded, factor: dims of leaves that the capture takes as (n, factor).
    """

    kind: Any
    profiles: tuple[_Row, ...]
    folded: Mapping[int, Sequence[int]] = field(default_factory=dict)
    factor: int = 1

    def arguments(self, leaves: Sequence[Any], device: torch.device) -> Any:
        """To capture and compile with: `Input`s, or the given leaves where one size is all there is."""
        found: list[Any] = []
        for place, (leaf, (first, *rest)) in enumerate(zip(leaves, self.kind[1])):
            if first is torch.Tensor:
                rows = [tuple(self._shape(place, shapes[place]) for shapes in row) for row in self.profiles]
                if leaf is None or len({shape for row in rows for shape in row}) > 1:
                    at = device if leaf is None else leaf.device
                    leaf = trtcore.Input(profiles=rows, dtype=rest[0], device=at)
            found.append(leaf)
        return pytree.tree_unflatten(found, self.kind[0])

    def _shape(self, place: int, shape: Shape) -> Shape:
        dims = self.folded.get(place, ())
        return tuple(
            part
            for dim, size in enumerate(shape)
            for part in ((size // self.factor, self.factor) if dim in dims else (size,))
        )


@dataclass
class Built:
    """What was compiled for one kind of call.

    Attributes:
        form: what for.
        program: the capture, whose weights a refit exchanges; None where the module is of a file.
    """

    module: Any
    form: Form
    program: ExportedProgram | None = None

    def refit(self, model: nn.Module, method: str, name: str, device: torch.device) -> None:
        """Take the weights that a model has now."""
        plain = without_adapters(model)
        if self.program is None:
            self.program = trace(plain, method, self.form, constants_of(self.form.kind), device)
        weights, state = weights_of(plain), self.program.state_dict
        for key in state:
            tensor = weights.get(key.removeprefix("model."))
            if tensor is None or tensor.shape != state[key].shape:
                raise InputError(
                    f"an adapter of {name} changes more than its weights: {key.removeprefix('model.')} is another one",
                    advice="load the adapter before the pipeline is compiled",
                )
            state[key] = tensor.to(state[key].dtype)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # said by the compile
            trtcore.dynamo.refit_module_weights(self.module, self.program, in_place=True)

    def __call__(self, call: Call) -> Any:
        leaves = list(call.leaves)
        for place, dims in self.form.folded.items():
            leaves[place] = fold(leaves[place], dims, self.form.factor)
        return self.module(**pytree.tree_unflatten(leaves, call.spec))


def trace(
    plain: nn.Module, method: str, form: Form, leaves: Sequence[Any], device: torch.device
) -> ExportedProgram:
    """Capture a method of a model without adapters."""
    return trtcore.dynamo.trace(
        Called(plain, method, form.folded), kwarg_inputs=form.arguments(leaves, device)
    )


def constants_of(kind: Any) -> list[Any]:
    """The leaves of a call of this kind; None for tensors."""
    return [None if first is torch.Tensor else literal(first, rest[0]) for first, *rest in kind[1]]


def literal(kind: type, text: str) -> Any:
    """A plain value from its `repr`."""
    return float(text) if kind is float else ast.literal_eval(text)


def fold(tensor: torch.Tensor, dims: Sequence[int], factor: int) -> torch.Tensor:
    """With each dim as (n, factor).

    Raises:
        InputError: a size is no multiple of the factor.
    """
    for dim in dims:
        if tensor.shape[dim] % factor:
            raise InputError(f"size {tensor.shape[dim]} at dimension {dim} is no multiple of {factor}")
    shape = [
        part
        for dim, size in enumerate(tensor.shape)
        for part in ((size // factor, factor) if dim in dims else (size,))
    ]
    return tensor.reshape(shape)


def in_dtype(model: Any, dtype: torch.dtype) -> nn.Module:
    """A model, or a copy of it in another dtype."""
    return model if model.dtype == dtype else copy.deepcopy(model).to(dtype)  # type: ignore[no-any-return]


def build(
    model: nn.Module, method: str, recorded: Recorded, progress: bool, settings: Mapping[str, Any]
) -> Built:
    """Capture and compile a method for the calls that were recorded.

    Sizes of images that vary are multiples of a factor, of the smallest with which the model can be captured: a UNet
    asks whether they can be halved often enough.

    Raises:
        ExportError and the errors of `trtcore.compile`.
    """
    plain = in_dtype(without_adapters(model), recorded.dtype)
    call, profiles = recorded.call, _profiles(recorded)
    images = _varying_images(call, profiles)
    device = next((one.device for one in call.leaves if isinstance(one, torch.Tensor)), torch.device("cpu"))
    factor = _first_factor(model)
    if _common_divisor(images, profiles) % factor:
        factor = 1
    first: ExportError | None = None
    while True:
        form = Form(call.kind, tuple(profiles), images if factor > 1 else {}, factor)
        try:
            program = trace(plain, method, form, call.leaves, device)
            break
        except ExportError as error:
            first = first or error
            factor *= 2
            if factor > _LARGEST_FACTOR or _common_divisor(images, profiles) % factor:
                raise first from None
    arguments = form.arguments(call.leaves, device)
    module = trtcore.dynamo.compile(program, kwarg_inputs=arguments, progress=progress, **settings)
    return Built(module, form, program)


def _profiles(recorded: Recorded) -> list[_Row]:
    """Different ones; of the calls within a profile the span."""
    rows: list[_Row] = []
    for calls in recorded.profiles.values():
        low, high = (
            tuple(
                None if shapes[0] is None else tuple(map(pick, *shapes)) if len(shapes) > 1 else shapes[0]
                for shapes in zip(*calls)
            )
            for pick in (min, max)
        )
        row = low, calls[0], high
        if row not in rows:
            rows.append(row)
    return rows


def _varying_images(call: Call, profiles: Sequence[_Row]) -> dict[int, list[int]]:
    """By leaf, the dims of images (behind batch and channels) that have several sizes."""
    found: dict[int, list[int]] = {}
    for place, leaf in enumerate(call.leaves):
        if isinstance(leaf, torch.Tensor) and leaf.dim() >= 4:
            shapes = [shapes[place] for row in profiles for shapes in row]
            dims = [dim for dim in range(2, leaf.dim()) if len({shape[dim] for shape in shapes}) > 1]
            if dims:
                found[place] = dims
    return found


def _common_divisor(images: Mapping[int, Sequence[int]], profiles: Sequence[_Row]) -> int:
    """Of all sizes of images that vary; 1 where none does."""
    rows = [shapes for row in profiles for shapes in row]
    sizes = [shapes[place][dim] for shapes in rows for place, dims in images.items() for dim in dims]
    return math.gcd(*sizes) if sizes else 1


def _first_factor(model: nn.Module) -> int:
    """What the model says that sizes of its images must be multiples of."""
    if isinstance(halvings := getattr(model, "num_upsamplers", None), int):
        return int(2**halvings)
    patch = getattr(getattr(model, "config", None), "patch_size", None)
    return patch if isinstance(patch, int) and patch & (patch - 1) == 0 else 1


class Engines:
    """A component's engines, and what they are for.

    Attributes:
        name: of the component.
        model: the component, computing in torch.
        device: where it computes.
        dtypes: those in which it was called when it was recorded; of each its engines are for some calls.
        methods: what was built for each kind of call, by method.
        turns: whose turn it is on the device; None where all components are there.
    """

    def __init__(self, name: str, pipeline: str, serves: str, model: nn.Module, device: torch.device) -> None:
        self.name, self.pipeline, self.serves = name, pipeline, serves
        self.model, self.device = model, device
        self.weights = Weights(model)
        self.methods: dict[str, dict[Any, Built]] = {}
        self.turns: Turns | None = None
        self.dtypes: set[torch.dtype] = set()
        self._originals: list[tuple[nn.Module, str, nn.Parameter]] = []
        self._seen = self.weights.look()
        self._calling: dict[str, Calling] = {}

    def add(self, calling: Calling, kinds: Mapping[Any, Built]) -> None:
        """Engines for a method."""
        self.methods[calling.method] = dict(kinds)
        self._calling[calling.method] = calling

    def run(self, method: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """A call of a method, in its engine.

        Raises:
            InputError: no engine takes such a call; says what the pipeline serves.
        """
        calling = self._calling[method]
        arguments = calling.arguments(args, kwargs)
        with scaled(self.model, arguments):
            self.follow_weights()
        return self._run(method, calling.call(arguments))

    def _run(self, method: str, call: Call) -> Any:
        built = self.methods[method].get(call.kind)
        if built is None:
            raise self._refusal(call, _difference(call, self.methods[method]))
        if self.turns is not None:
            self.turns.take(self)
        try:
            return built(call)
        except InputError as error:
            # The sizes of folded dims are none that a user knows.
            raise self._refusal(
                call, "" if built.form.folded else error.message.partition("\n")[0]
            ) from error

    def follow_weights(self) -> None:
        """Put the model's weights, as its adapters make them now, into the engines where they are others.

        Raises:
            RefitError: the engines take no other weights.
            InputError: an adapter changes more than the weights.
        """
        look = self.weights.look()
        if look == self._seen:
            return
        for method, kinds in self.methods.items():
            for built in kinds.values():
                built.refit(self.model, method, self.name, self.device)
        self._seen = look

    def take_turns(self, turns: Turns | None) -> None:
        """Be on the device only when it is this component's turn."""
        self.turns = turns
        if turns is not None:
            self.leave()

    def arrive(self) -> None:
        """Be on the device: what ops in torch need; engines come with their first call."""
        for built in self._all():
            built.module.to(self.device)

    def leave(self) -> None:
        """Free all memory on the device."""
        for built in self._all():
            built.module.to("cpu")
            trtcore.runtime.release(built.module)

    def _all(self) -> list[Built]:
        return [built for kinds in self.methods.values() for built in kinds.values()]

    def move(self, device: torch.device) -> None:
        """Compute on another device."""
        self.device = device
        if self.turns is None:
            self.arrive()

    def become(self, dtype: torch.dtype) -> None:
        """Have weights of another dtype in torch, as pipelines ask for the time of a call. Other models keep theirs."""
        for module, name, parameter in self._originals:
            setattr(module, name, parameter)
        self._originals = []
        if self.model.dtype == dtype:
            return
        for module in self.model.modules():
            for name, one in list(module.named_parameters(recurse=False)):
                if one.is_floating_point():
                    self._originals.append((module, name, one))
                    setattr(module, name, nn.Parameter(one.detach().to(dtype), one.requires_grad))

    def _refusal(self, call: Call, why: str) -> InputError:
        shapes = ", ".join(
            f"{name} {tuple(leaf.shape)}"
            for name, leaf in zip(call.names, call.leaves)
            if isinstance(leaf, torch.Tensor)
        )
        return InputError(
            f"the compiled {self.pipeline} serves {self.serves}; its {self.name} was called with {shapes}"
            + (f": {why}" if why else ""),
            advice="call the pipeline for sizes that it serves, or compile it for these: "
            "compile_pipeline(pipe, height=, width=, batch=), and arguments= for what else the calls give",
        )


def _difference(call: Call, kinds: Iterable[Any]) -> str:
    """What is in the call and not in the compiled kind that is nearest, and the other way round."""
    ours = _described(call.kind)
    compiled = [_described(kind) for kind in kinds]
    nearest = min(compiled, key=lambda theirs: len(set(ours) ^ set(theirs)))
    more = [told for told in ours if told not in nearest]
    less = [told for told in nearest if told not in ours]
    parts = [f"compiled {how} {', '.join(told)}" for how, told in (("without", more), ("with", less)) if told]
    return " and ".join(parts) or "compiled for arguments in another order"


def _described(kind: Any) -> list[str]:
    """The arguments of a kind of calls."""
    spec, leaves = kind
    names = Call(tuple(range(len(leaves))), spec, kind).names
    return [
        f"{name} of {str(rest[0]).removeprefix('torch.')} with {rest[1]} dims"
        if first is torch.Tensor
        else f"{name}={rest[0]}"
        for name, (first, *rest) in zip(names, leaves)
    ]
