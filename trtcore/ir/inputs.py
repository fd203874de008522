"""What a model is compiled for: tensors, ``Input`` descriptions with ranges, and plain values.

``inputs=`` of every entry point takes a tuple of the model's positional arguments; each may be a tensor, an
``Input``, a number, a bool, a string, None, or a tuple, list or dict (or any registered pytree) of these.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.utils import _pytree as pytree

from trtcore.errors import InputError

PLAIN_TYPES = (int, float, bool, str, type(None))
"""Types of inputs that are not tensors: torch.export makes constants of them."""

TreeSpec = pytree.TreeSpec


@dataclass(frozen=True)
class DimRange:
    """The sizes that one dimension may have: min <= opt <= max; equal ends mean a fixed size."""

    min: int
    opt: int
    max: int

    @property
    def dynamic(self) -> bool:
        """Whether the dimension may have more than one size."""
        return self.min != self.max

    def __str__(self) -> str:
        return f"{self.min}..{self.max} (opt {self.opt})" if self.dynamic else str(self.opt)


@dataclass(frozen=True)
class Input:
    """A tensor input described by its shape, or by the smallest, the usual and the largest shape.

    ``Input((1, 3, 224, 224))`` is static. ``Input(min_shape=(1, 128), opt_shape=(8, 128), max_shape=(32,
    128))`` has a dynamic dimension 0: the engine takes every size from 1 to 32 and is tuned for 8. A
    dimension whose min equals its max is static. opt may equal min or max.

    ``Input(profiles=[((1, 128), (1, 128), (1, 128)), ((8, 128), (32, 128), (64, 128))])`` has two optimisation
    profiles: the engine takes what fits one of them, and is tuned for each. Profile i of one input belongs to
    profile i of the others; an input without `profiles` has the same range in all of them.

    Args:
        shape: sizes of a static input; not together with the three below.
        min_shape, opt_shape, max_shape: sizes of a dynamic input, all three, of one rank. With `profiles` they
            are the smallest sizes, the first profile's opt and the largest sizes.
        profiles: several (min, opt, max) shapes, or single shapes for exactly that size; not together with the four
            above. One profile alone is the same as min_shape, opt_shape and max_shape, and leaves this None.
        dtype: of the tensor, or its name (``"float16"``); by default that of `example`, else ``torch.float32``.
        device: where the tensor will be; by default that of `example`, else wherever the model's weights are.
        name: what errors and reports call it; by default the name of the model's argument.
        format: ``torch.contiguous_format`` or ``torch.channels_last``: the memory format that the model is captured
            with; by default contiguous. Calls may pass any layout.
        example: a tensor to export with, when values or strides matter; its shape must be allowed.

    Raises:
        InputError: for shapes that are missing, contradict each other or are not non-negative ints, and for
            an example that does not fit.
    """

    shape: Sequence[int] | None = None
    min_shape: Sequence[int] | None = field(default=None, kw_only=True)
    opt_shape: Sequence[int] | None = field(default=None, kw_only=True)
    max_shape: Sequence[int] | None = field(default=None, kw_only=True)
    profiles: Sequence[Sequence[Any]] | None = field(default=None, kw_only=True)
    dtype: torch.dtype = field(default=None, kw_only=True)  # type: ignore[assignment]
    device: torch.device | str | None = field(default=None, kw_only=True)
    name: str | None = field(default=None, kw_only=True)
    format: torch.memory_format = field(default=torch.contiguous_format, kw_only=True)
    example: torch.Tensor | None = field(default=None, kw_only=True, compare=False, repr=False)

    def __post_init__(self) -> None:
        set_ = object.__setattr__
        example = self.example
        if example is not None and not isinstance(example, torch.Tensor):
            raise self._error(f"example must be a torch.Tensor, got {describe(example)}")
        if self.profiles is not None:
            self._set_profiles(self.profiles)
        self._set_shapes()
        dtype = (
            self.dtype
            if self.dtype is not None
            else (example.dtype if example is not None else torch.float32)
        )
        if isinstance(dtype, str):
            dtype = getattr(torch, dtype.removeprefix("torch."), dtype)
        if not isinstance(dtype, torch.dtype):
            raise self._error(f"dtype must be a torch.dtype such as torch.float16, got {dtype!r}")
        set_(self, "dtype", dtype)
        if self.device is not None:
            try:
                set_(self, "device", torch.device(self.device))
            except (RuntimeError, TypeError) as error:
                raise self._error(f"device {self.device!r} is not a torch device: {error}") from None
        if self.name is not None and not isinstance(self.name, str):
            raise self._error(f"name must be a string, got {describe(self.name)}")
        self._check_format()
        if example is not None:
            self._check_example(example)

    def _check_format(self) -> None:
        ranks = {torch.contiguous_format: None, torch.channels_last: 4, torch.channels_last_3d: 5}
        if not isinstance(self.format, torch.memory_format) or self.format not in ranks:
            raise self._error(f"format must be one of {', '.join(map(str, ranks))}, got {self.format!r}")
        rank = ranks[self.format]
        if rank is not None and len(self.dims) != rank:
            raise self._error(
                f"{self.format} is of tensors with {rank} dimensions, this has {len(self.dims)}"
            )

    def _set_profiles(self, given: Any) -> None:
        """Check every profile, and make the four shapes the span of them all."""
        if isinstance(given, (str, bytes)) or not isinstance(given, Sequence) or not given:
            raise self._error(f"profiles must be a list of (min, opt, max) shapes, got {describe(given)}")
        rows = tuple(self._profile(index, row) for index, row in enumerate(given))
        ranks = {len(shape) for row in rows for shape in row}
        if len(ranks) > 1:
            raise self._error(f"the shapes in profiles have different ranks: {sorted(ranks)}")
        for index, row in enumerate(rows):
            self._check_order(*row, where=f"profiles[{index}]: ")
        span = {
            "min_shape": tuple(map(min, *(row[0] for row in rows))) if len(rows) > 1 else rows[0][0],
            "opt_shape": rows[0][1],
            "max_shape": tuple(map(max, *(row[2] for row in rows))) if len(rows) > 1 else rows[0][2],
        }
        for key, sizes in span.items():
            # dataclasses.replace() passes everything; it agrees.
            if (value := getattr(self, key)) is not None and self._sizes(key, value) != sizes:
                raise self._error(
                    f"profiles and {key} were both given",
                    "profiles holds everything that min_shape, opt_shape and max_shape say",
                )
            object.__setattr__(self, key, sizes)
        object.__setattr__(self, "profiles", rows if len(rows) > 1 else None)

    def _profile(self, index: int, row: Any) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
        key = f"profiles[{index}]"
        if isinstance(row, Sequence) and all(isinstance(part, Sequence) for part in row) and row:
            if len(row) != 3:
                raise self._error(f"{key} must be (min, opt, max) shapes or one shape, got {describe(row)}")
            low, opt, high = (self._sizes(key, shape) for shape in row)
            return low, opt, high
        return (self._sizes(key, row),) * 3

    def _set_shapes(self) -> None:
        """Fill the four shapes from whichever way they were given."""
        given = {
            key: value
            for key in ("min_shape", "opt_shape", "max_shape")
            if (value := getattr(self, key)) is not None
        }
        if self.shape is not None and given:
            # dataclasses.replace() and the like pass all four; they agree on a static input.
            static = self._sizes("shape", self.shape)
            if any(self._sizes(key, value) != static for key, value in given.items()):
                raise self._error(
                    f"shape={tuple(self.shape)} and {', '.join(given)} were both given",
                    "shape alone makes a static input; min_shape, opt_shape and max_shape a dynamic one",
                )
        if self.shape is None and not given:
            if self.example is None:
                raise self._error(
                    "no shape was given",
                    "Input((1, 3, 224, 224)) or Input(min_shape=, opt_shape=, max_shape=)",
                )
            object.__setattr__(self, "shape", tuple(self.example.shape))
        if self.shape is not None:
            shapes = dict.fromkeys(("min_shape", "opt_shape", "max_shape"), self._sizes("shape", self.shape))
            object.__setattr__(self, "shape", shapes["opt_shape"])
        else:
            missing = [key for key in ("min_shape", "opt_shape", "max_shape") if key not in given]
            if missing:
                raise self._error(
                    f"{' and '.join(missing)} missing: a dynamic input needs all of min_shape, opt_shape, "
                    f"max_shape"
                )
            shapes = {key: self._sizes(key, value) for key, value in given.items()}
        for key, sizes in shapes.items():
            object.__setattr__(self, key, sizes)
        self._check_order(shapes["min_shape"], shapes["opt_shape"], shapes["max_shape"])
        if shapes["min_shape"] == shapes["max_shape"]:
            object.__setattr__(self, "shape", shapes["opt_shape"])

    def _check_order(
        self,
        min_shape: tuple[int, ...],
        opt_shape: tuple[int, ...],
        max_shape: tuple[int, ...],
        where: str = "",
    ) -> None:
        if not len(min_shape) == len(opt_shape) == len(max_shape):
            raise self._error(
                f"min_shape, opt_shape and max_shape have different ranks: "
                f"{len(min_shape)}, {len(opt_shape)} and {len(max_shape)}"
            )
        for dim, (low, opt, high) in enumerate(zip(min_shape, opt_shape, max_shape)):
            if not low <= opt <= high:
                raise self._error(
                    f"{where}dimension {dim} needs min <= opt <= max, got min {low}, opt {opt}, max {high}"
                )

    def _sizes(self, key: str, sizes: Any) -> tuple[int, ...]:
        if isinstance(sizes, (str, bytes)) or not isinstance(sizes, Sequence):
            raise self._error(f"{key} must be a tuple of ints, got {describe(sizes)}")
        result = []
        for dim, size in enumerate(sizes):
            try:
                number = operator.index(size) if not isinstance(size, bool) else None
            except TypeError:
                number = None
            if number is None:
                raise self._error(f"{key}[{dim}] must be an int, got {describe(size)}")
            if number < 0:
                raise self._error(
                    f"{key}[{dim}] is {number}, but sizes are not negative",
                    "a dynamic dimension is given by min_shape, opt_shape and max_shape",
                )
            result.append(number)
        return tuple(result)

    def _check_example(self, example: torch.Tensor) -> None:
        if example.dtype != self.dtype:
            raise self._error(f"example is {example.dtype}, but dtype is {self.dtype}")
        if self.device is None:
            object.__setattr__(self, "device", example.device)
        if example.dim() != len(self.dims):
            raise self._error(
                f"example has rank {example.dim()}, but the shape has {len(self.dims)} dimensions"
            )
        for dim, (size, allowed) in enumerate(zip(example.shape, self.dims)):
            if not allowed.min <= size <= allowed.max:
                raise self._error(f"example has size {size} at dimension {dim}, allowed is {allowed}")
        if not any(
            all(dim.min <= size <= dim.max for size, dim in zip(example.shape, dims))
            for dims in self.profile_dims
        ):
            raise self._error(f"example has shape {tuple(example.shape)}, which is in none of the profiles")

    def _error(self, message: str, advice: str | None = None) -> InputError:
        return InputError(f"Input{f' {self.name!r}' if self.name else ''}: {message}", advice=advice)

    @classmethod
    def from_tensor(cls, tensor: torch.Tensor, *, name: str | None = None) -> Input:
        """A static Input with the shape, dtype and device of `tensor`, which becomes the example."""
        if not isinstance(tensor, torch.Tensor):
            raise InputError(f"Input.from_tensor takes a torch.Tensor, got {describe(tensor)}")
        return cls(tuple(tensor.shape), dtype=tensor.dtype, device=tensor.device, name=name, example=tensor)

    @classmethod
    def from_tensors(cls, tensors: Sequence[torch.Tensor]) -> list[Input]:
        """A static Input for each of some tensors, as `from_tensor` makes them."""
        if not isinstance(tensors, (tuple, list)):
            raise InputError(
                f"Input.from_tensors takes a list of tensors, got {describe(tensors)}",
                advice="for one tensor there is Input.from_tensor(tensor)",
            )
        return [cls.from_tensor(tensor) for tensor in tensors]

    @property
    def dims(self) -> tuple[DimRange, ...]:
        """The range of every dimension, over all profiles; opt is that of the first."""
        assert self.min_shape is not None
        assert self.opt_shape is not None
        assert self.max_shape is not None
        return tuple(map(DimRange, self.min_shape, self.opt_shape, self.max_shape))

    @property
    def profile_dims(self) -> tuple[tuple[DimRange, ...], ...]:
        """The range of every dimension per profile; one for an Input without `profiles`."""
        if self.profiles is None:
            return (self.dims,)
        return tuple(tuple(map(DimRange, *row)) for row in self.profiles)

    @property
    def is_dynamic(self) -> bool:
        """Whether any dimension may have more than one size."""
        return self.min_shape != self.max_shape

    def example_tensor(
        self, shape: Sequence[int] | None = None, *, device: torch.device | str | None = None, seed: int = 0
    ) -> torch.Tensor:
        """A tensor of this description: `example` if it has the shape, else seeded random values.

        Floating point and complex values are standard normal; integers are 0 or 1, so that they are valid as
        token ids, indices and masks.

        Args:
            shape: sizes; by default those of `example`, else ``opt_shape``.
            device: used when this Input names none; by default the CPU.
            seed: of the random values, which are the same on every device.
        """
        if shape is None:
            shape = tuple(self.example.shape) if self.example is not None else self.opt_shape
        assert shape is not None
        if self.example is not None and tuple(self.example.shape) == tuple(shape):
            return self.example
        generator = torch.Generator().manual_seed(seed)
        if self.dtype.is_floating_point or self.dtype.is_complex:
            wide = torch.complex64 if self.dtype.is_complex else torch.float32
            values = torch.randn(tuple(shape), generator=generator, dtype=wide)
        else:
            values = torch.randint(0, 2, tuple(shape), generator=generator)
        made = values.to(device=self.device or device or "cpu", dtype=self.dtype)
        return made.contiguous(memory_format=self.format)

    def __str__(self) -> str:
        profiles = " or ".join(
            "(" + ", ".join(f"{d.min}..{d.opt}..{d.max}" if d.dynamic else str(d.opt) for d in dims) + ")"
            for dims in self.profile_dims
        )
        return f"Input({f'{self.name}: ' if self.name else ''}{profiles}, {self.dtype})"


def profile_count(leaves: Sequence[Any], names: Sequence[str]) -> int:
    """Number of optimisation profiles that the ``Input``s among `leaves` ask for together; 1 if none asks.

    Raises:
        InputError: two Inputs have different numbers of profiles.
    """
    first: tuple[str, int] | None = None
    for name, leaf in zip(names, leaves):
        if not isinstance(leaf, Input) or leaf.profiles is None:
            continue
        first = first or (name, len(leaf.profiles))
        if len(leaf.profiles) != first[1]:
            raise InputError(
                f"input {first[0]} has {first[1]} profiles, input {name} has {len(leaf.profiles)}",
                advice="profile i of one input belongs to profile i of the others: give all the same number; "
                "an Input without profiles has its one range in each of them",
            )
    return first[1] if first is not None else 1


def profile_dims_at(leaf: Input, index: int) -> tuple[DimRange, ...]:
    """The dims of an Input in profile `index`; an Input without several profiles is the same in all."""
    return leaf.profile_dims[index if leaf.profiles is not None else 0]


@dataclass(frozen=True)
class InputTree:
    """The inputs of a compile, flattened.

    Attributes:
        leaves: tensors, ``Input``s and plain values in pytree order of ``(args, kwargs)``.
        names: what errors call each leaf: ``input_ids``, ``x[0]['y']``.
        spec: pytree spec of ``(args, kwargs)``.
    """

    leaves: tuple[Any, ...]
    names: tuple[str, ...]
    spec: TreeSpec

    def unflatten(self, leaves: Sequence[Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """(args, kwargs) with other leaves in the same places."""
        args, kwargs = pytree.tree_unflatten(leaves, self.spec)
        return tuple(args), dict(kwargs)


def collect_inputs(
    inputs: Any = None,
    *,
    arg_inputs: Any = None,
    kwarg_inputs: Mapping[str, Any] | None = None,
    argument_names: Sequence[str] = (),
    allow_none: bool = False,
) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    """(args, kwargs) from the three ways to give inputs.

    Args:
        inputs: tuple or list of the positional arguments; a single tensor or Input is one positional
            argument; a dict whose keys are all names of the model's arguments is keyword arguments. Not with
            `arg_inputs`.
        arg_inputs: the same under another name.
        kwarg_inputs: mapping of the keyword arguments.
        argument_names: of the model's forward, to recognise a dict of keyword arguments.
        allow_none: return None, rather than raise, when nothing at all was given (an ExportedProgram needs
            none).

    Raises:
        InputError: both or none of `inputs` and `arg_inputs`; a container of another type.
    """
    if inputs is not None and arg_inputs is not None:
        raise InputError(
            "both inputs and arg_inputs were given",
            advice="they mean the same, the positional arguments: give one",
        )
    kwargs = _keyword_inputs(kwarg_inputs)
    positional = inputs if inputs is not None else arg_inputs
    if isinstance(positional, Mapping):
        if set(positional) and set(positional) <= set(argument_names):
            overlap = sorted(set(positional) & set(kwargs))
            if overlap:
                raise InputError(f"inputs and kwarg_inputs both give {', '.join(overlap)}")
            return (), {**positional, **kwargs}
        names = (
            f"the model takes {', '.join(argument_names)}"
            if argument_names
            else "the model's names are not known"
        )
        raise InputError(
            f"inputs is a dict with the keys {list(positional)}, which are not the model's arguments "
            f"({names})",
            advice="a dict gives keyword arguments by name; for one positional argument that is a dict, "
            "wrap it: inputs=({...},)",
        )
    if positional is None:
        if kwarg_inputs is not None:
            return (), kwargs
        if allow_none:
            return None
        raise InputError(
            "no inputs were given",
            advice="give inputs=(...) with example tensors or trtcore.Input(...) per argument",
        )
    if isinstance(positional, (torch.Tensor, Input)):
        positional = (positional,)
    if not isinstance(positional, (tuple, list)) or _is_namedtuple(positional):
        which = "inputs" if inputs is not None else "arg_inputs"
        raise InputError(
            f"{which} must be a tuple of the model's positional arguments, got {describe(positional)}",
            advice=f"wrap it: {which}=(value,)",
        )
    return tuple(positional), kwargs


def _keyword_inputs(kwarg_inputs: Mapping[str, Any] | None) -> dict[str, Any]:
    if kwarg_inputs is None:
        return {}
    if not isinstance(kwarg_inputs, Mapping):
        raise InputError(
            f"kwarg_inputs must be a dict of the model's keyword arguments, got {describe(kwarg_inputs)}"
        )
    wrong = [key for key in kwarg_inputs if not isinstance(key, str)]
    if wrong:
        raise InputError(f"the keys of kwarg_inputs must be argument names, got {wrong[0]!r}")
    return dict(kwarg_inputs)


def flatten_inputs(
    args: Sequence[Any], kwargs: Mapping[str, Any], argument_names: Sequence[str] = ()
) -> InputTree:
    """Flatten (args, kwargs) and check every leaf.

    Args:
        args, kwargs: as of a call of the model, with ``Input`` allowed in the place of any tensor.
        argument_names: of the model's positional arguments; ``*args`` and missing names become ``args[i]``.

    Raises:
        InputError: a leaf is not a tensor, an ``Input``, a number, bool, string or None.
    """
    paths, spec = pytree.tree_flatten_with_path((tuple(args), dict(kwargs)))
    leaves = tuple(leaf for _, leaf in paths)
    names = tuple(input_name(path, argument_names) for path, _ in paths)
    for name, leaf in zip(names, leaves):
        if not isinstance(leaf, (torch.Tensor, Input, *PLAIN_TYPES)):
            advice = (
                "tensors, trtcore.Input, int, float, bool, str, None, and tuples, lists, dicts of them work"
            )
            if type(leaf).__module__.partition(".")[0] == "numpy":
                advice = "give a tensor: torch.from_numpy(array)"
            raise InputError(
                f"input {name} is {describe(leaf)}, which can't be a model input here", advice=advice
            )
        if isinstance(leaf, torch.Tensor) and leaf.layout != torch.strided:
            raise InputError(
                f"input {name} must be a dense tensor, got one of the layout {leaf.layout}",
                advice=f"convert it: {name}.to_dense(), here and at the calls",
            )
    return InputTree(leaves, names, spec)


def refuse_bare_shapes(tree: InputTree) -> None:
    """See that no argument is a mere shape.

    Raises:
        InputError: an argument is a tuple of ints where no tensor is given at all: a tensor of this shape is meant.
    """
    if any(isinstance(leaf, (torch.Tensor, Input)) for leaf in tree.leaves):
        return
    args, kwargs = tree.unflatten(tree.leaves)
    for value in (*args, *kwargs.values()):
        if isinstance(value, (tuple, list)) and value and all(type(size) is int for size in value):
            raise InputError(
                f"an input is {describe(value)}, and none is a tensor",
                advice=f"for a tensor of this shape write trtcore.Input({tuple(value)})",
            )


def leaf_paths(spec: TreeSpec) -> list[tuple[Any, ...]]:
    """The pytree key path of every leaf of a spec of ``(args, kwargs)``."""
    tree = pytree.tree_unflatten([0] * spec.num_leaves, spec)
    return [tuple(path) for path, _ in pytree.tree_flatten_with_path(tree)[0]]


def input_name(path: Sequence[Any], argument_names: Sequence[str] = ()) -> str:
    """The name of a leaf of ``(args, kwargs)`` in the user's words, from its pytree key path."""
    top, *rest = path
    if not rest:
        return "args" if top.idx == 0 else "kwargs"
    first, *rest = rest
    if top.idx == 0:
        index = first.idx
        base = argument_names[index] if index < len(argument_names) else f"args[{index}]"
    else:
        base = str(first.key)
    return base + pytree.keystr(tuple(rest))


def describe_structure(spec: TreeSpec, argument_names: Sequence[str] = ()) -> str:
    """A pytree spec of ``(args, kwargs)`` as a call: ``(x, [*, *], flag=*)``, a ``*`` for every leaf."""
    args, kwargs = spec.children()
    parts = []
    for index, child in enumerate(args.children()):
        text = structure_text(child)
        named = text == "*" and index < len(argument_names)
        parts.append(argument_names[index] if named else text)
    parts += [f"{key}={structure_text(child)}" for key, child in zip(kwargs.context or [], kwargs.children())]
    return f"({', '.join(parts)})"


def structure_text(spec: TreeSpec) -> str:
    """A pytree spec as Python would write it, with a ``*`` for every leaf."""
    if spec.is_leaf():
        return "*"
    parts = [structure_text(child) for child in spec.children()]
    if spec.type is tuple:
        return f"({', '.join(parts)}{',' if len(parts) == 1 else ''})"
    if spec.type is list:
        return f"[{', '.join(parts)}]"
    if spec.type is dict:
        return "{" + ", ".join(f"{key!r}: {part}" for key, part in zip(spec.context, parts)) + "}"
    # pytree gives all named tuples one type, with the class as context.
    kind = spec.context if isinstance(spec.context, type) else spec.type
    return f"{getattr(kind, '__name__', kind)}({', '.join(parts)})"


def _is_namedtuple(value: Any) -> bool:
    return isinstance(value, tuple) and hasattr(value, "_fields")


def describe(value: Any) -> str:
    """A value for an error message: its type, and itself when that is short."""
    kind = type(value).__qualname__
    if isinstance(value, torch.Tensor):
        return f"a tensor of shape {tuple(value.shape)} and {value.dtype}"
    text = repr(value)
    return f"{kind} {text}" if len(text) <= 60 else kind
