"""Checking a call of a compiled module against what it was compiled for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch.utils import _pytree as pytree

from trtcore.errors import ArtifactError, InputError
from trtcore.ir.exclusions import holds_everywhere
from trtcore.ir.expressions import evaluate, to_text
from trtcore.ir.guards import Guard
from trtcore.ir.inputs import describe, structure_text
from trtcore.ir.program import profile_ranges
from trtcore.ir.signature import Binding, same_value
from trtcore.ir.structures import spec_of, spec_state
from trtcore.ir.symbols import expression_of, solve_linear
from trtcore.ir.torch_private import FakeTensor
from trtcore.runtime.usual import accepts

if TYPE_CHECKING:
    from trtcore.ir.program import InputSpec, Program, SymbolRange


_MOST_ACCEPTED = 256  # combinations of shapes that are remembered


@dataclass(frozen=True)
class _LinearDim:
    """A dimension of size ``scale * symbol + offset``."""

    index: int
    symbol: str
    scale: int
    offset: int
    min: int
    max: int


@dataclass(frozen=True)
class _Tensor:
    """What is allowed for one tensor input."""

    name: str
    dtype: torch.dtype
    rank: int
    device_group: str
    fixed: tuple[tuple[int, int], ...]
    linear: tuple[_LinearDim, ...]
    derived: tuple[tuple[int, str], ...]
    stride: tuple[str, ...] | None = None
    """Expressions; None where any layout does."""
    storage_offset: str | None = None

    static: tuple[int, ...] | None = field(init=False, repr=False, compare=False)
    """Its shape, where no dimension may vary. Dynamo traces fields, and no cached properties."""

    def __post_init__(self) -> None:
        varies = self.linear or self.derived
        static = None if varies else tuple(size for _, size in sorted(self.fixed))
        object.__setattr__(self, "static", static)


@dataclass(frozen=True)
class _Number:
    """An int input that may vary."""

    name: str
    symbol: str
    min: int
    max: int


@dataclass(frozen=True)
class _Constant:
    """An input whose value was fixed at capture."""

    name: str
    value: Any


_Leaf = _Tensor | _Number | _Constant


ProfileSizes = tuple[tuple[str, int, int], ...]
"""(symbol, min, max) of every symbol in one optimisation profile."""


@dataclass(frozen=True)
class InputCheck:
    """Raises ``InputError`` for a call that does not fit. Callable as a forward pre-hook with kwargs.

    Checks the arguments' names and number, the structure, then per tensor dtype, rank and sizes, sizes that
    must agree between inputs, that one optimisation profile takes them together where there are several, that inputs
    which shared a device still do, and that constants are unchanged.
    While Dynamo traces (torch.compile, torch.export with strict=True), nothing is checked; with symbolic sizes
    (torch.export), sizes are not.

    Holds plain data only, so it pickles and copies.
    """

    binding: Binding
    specs: tuple[pytree.TreeSpec, ...]
    leaves: tuple[_Leaf, ...]
    guards: tuple[Guard, ...] = ()
    profiles: tuple[ProfileSizes, ...] = ()
    ordered: bool = True
    """Whether dicts must have their keys in the order of the capture."""
    _flat: bool = field(default=False, repr=False)
    _memo: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)
    """Shapes of calls that were right, and code that finds them."""

    _tensors_only: bool = field(init=False, repr=False, compare=False)
    """Whether dtypes, shapes, devices and layouts say everything about a call."""

    def __post_init__(self) -> None:
        plain = all(type(leaf) is _Tensor and leaf.stride is None for leaf in self.leaves)
        object.__setattr__(self, "_tensors_only", self._flat and plain)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "specs": tuple(map(spec_state, self.specs)), "_memo": {}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, specs=tuple(map(spec_of, state["specs"])))

    @classmethod
    def of_program(cls, program: Program) -> InputCheck:
        """The check for calls of a compiled `program`."""
        assert program.in_spec is not None
        args, kwargs = program.in_spec.child(0), program.in_spec.child(1)
        specs = (*args.children(), *kwargs.children())
        return cls(
            binding=Binding(program.parameters, program.arg_names, args.num_children, program.model_name),
            specs=tuple(specs),
            leaves=tuple(_leaf(spec, program.symbols) for spec in program.inputs),
            guards=_useful_guards(program),
            profiles=_profiles(program),
            ordered=program.dict_order_matters,
            _flat=all(spec.is_leaf() for spec in specs),
        )

    def __call__(self, module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if torch.compiler.is_dynamo_compiling():
            return
        values = self.check(args, kwargs)
        sharing = getattr(module, "_sharing", None)
        if sharing is not None:
            sharing.check(module, *self.named_leaves(values))
        kept = getattr(module, "_kept", None)
        if kept is not None:
            kept.check(module)

    def check(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Sequence[Any]:
        """Check a call.

        Returns:
            the values of the captured arguments, bound as the model binds them.

        Raises:
            InputError: the call does not fit.
        """
        values = self._check(args, kwargs)
        if values is args and self._tensors_only and not torch.compiler.is_compiling():
            self._remember(args)
        return values

    @property
    def usual(self) -> Callable[[Sequence[Any]], bool] | None:
        """Generated code that is True for positional arguments that are as a call was that `check` found right; None
        where dtypes, shapes, devices and layouts do not say everything about a call."""
        known: Callable[[Sequence[Any]], bool] | None = self._memo.get("usual")
        return known

    def given(self) -> list[tuple[torch.dtype, tuple[int, ...] | None]]:
        """dtype and shape (None where it varies) of each argument that `usual` takes."""
        return [(leaf.dtype, leaf.static) for leaf in self.leaves if isinstance(leaf, _Tensor)]

    def _remember(self, args: Sequence[Any]) -> None:
        memo, leaves = self._memo, [leaf for leaf in self.leaves if isinstance(leaf, _Tensor)]
        accepted = memo.setdefault("accepted", set())
        if len(accepted) < _MOST_ACCEPTED:
            accepted.add(tuple(arg.shape for arg, leaf in zip(args, leaves) if leaf.static is None))
        if "usual" not in memo:
            memo["usual"] = accepts(
                [(leaf.dtype, leaf.static, leaf.device_group) for leaf in leaves], accepted
            )

    def _check(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Sequence[Any]:
        values = self.binding.bind(args, kwargs)
        leaves = values if self._flat else self._flatten(values)
        sizes: _Sizes = {}
        devices: dict[str, tuple[torch.device, str]] = {}
        derived: list[tuple[_Tensor, int, str, int]] = []
        for allowed, leaf in zip(self.leaves, leaves):
            if type(allowed) is _Tensor:
                _check_tensor(allowed, leaf, sizes, devices, derived)
            elif type(allowed) is _Constant:
                check_constant(allowed, leaf)
            elif type(allowed) is _Number:
                _check_number(allowed, leaf, sizes)
        if self.profiles:
            self._check_profiles(leaves, sizes)
        values_of = {symbol: value for symbol, (value, *_) in sizes.items()}
        for allowed, leaf in zip(self.leaves, leaves):
            if type(allowed) is _Tensor and allowed.stride is not None:
                _check_layout(allowed, leaf, values_of)
        if derived:
            for tensor, index, text, size in derived:
                _check_derived(tensor, index, text, size, values_of)
        if self.guards:
            self._check_guards(leaves, values_of)
        return values

    def named_leaves(self, values: Sequence[Any]) -> tuple[Sequence[Any], Sequence[str]]:
        """The flat inputs of a call whose arguments `check` returned, and their names."""
        return values if self._flat else self._flatten(values), [leaf.name for leaf in self.leaves]

    def _flatten(self, values: Sequence[Any]) -> list[Any]:
        leaves: list[Any] = []
        for name, spec, value in zip(self.binding.names, self.specs, values):
            if not _flatten_into(value, spec, leaves, self.ordered):
                raise InputError(
                    f"input {name} has the structure {structure_text(pytree.tree_structure(value))}, "
                    f"but the model was compiled for {structure_text(spec)}"
                )
        return leaves

    def _check_profiles(self, leaves: Sequence[Any], sizes: _Sizes) -> None:
        """One profile must take all sizes together."""
        for profile in self.profiles:
            if all(name not in sizes or low <= sizes[name][0] <= high for name, low, high in profile):
                return
        dynamic = [
            (allowed, leaf)
            for allowed, leaf in zip(self.leaves, leaves)
            if not isinstance(allowed, _Constant)
        ]
        got = ", ".join(
            f"{allowed.name} {tuple(leaf.shape) if isinstance(leaf, torch.Tensor) else leaf}"
            for allowed, leaf in dynamic
        )
        lines = [
            f"profile {index}: " + ", ".join(_allowed_in(allowed, profile) for allowed, _ in dynamic)
            for index, profile in enumerate(self.profiles)
        ]
        raise InputError(
            "\n  ".join([f"no optimisation profile takes {got}; there are", *lines]),
            advice="compile with profiles=[...] that include it",
        )

    def _check_guards(self, leaves: Sequence[Any], sizes: Mapping[str, int]) -> None:
        for guard in self.guards:
            # While torch.export traces, sizes are symbols and have no value.
            if any(name not in sizes for name in guard.symbols) or guard.holds(sizes):
                continue
            shapes = {
                allowed.name: tuple(leaf.shape)
                for allowed, leaf in zip(self.leaves, leaves)
                if isinstance(allowed, _Tensor) and any(dim.symbol in guard.symbols for dim in allowed.linear)
            }
            got = ", ".join(f"{name} of shape {shape}" for name, shape in sorted(shapes.items()))
            raise InputError(
                f"the model was captured under the condition {guard.text}, which does not hold for {got}"
            )


def _profiles(program: Program) -> tuple[ProfileSizes, ...]:
    """The ranges of the symbols per optimisation profile; empty where there are not several."""
    several = profile_ranges(program.symbols)
    if len(several) < 2:
        return ()
    return tuple(tuple((name, r.min, r.max) for name, r in ranges.items()) for ranges in several)


def _allowed_in(allowed: _Tensor | _Number, profile: ProfileSizes) -> str:
    """The sizes that a profile takes for one input, for people."""
    ranges = {name: (low, high) for name, low, high in profile}

    def span(low: int, high: int) -> str:
        return str(low) if low == high else f"{low}..{high}"

    if isinstance(allowed, _Number):
        return f"{allowed.name} {span(*ranges.get(allowed.symbol, (allowed.min, allowed.max)))}"
    dims = {index: str(size) for index, size in allowed.fixed}
    dims |= dict(allowed.derived)
    for dim in allowed.linear:
        low, high = ranges[dim.symbol]
        dims[dim.index] = span(dim.scale * low + dim.offset, dim.scale * high + dim.offset)
    sizes = ", ".join(dims[index] for index in range(allowed.rank))
    return f"{allowed.name} ({sizes}{',' if allowed.rank == 1 else ''})"


def _leaf(spec: InputSpec, symbols: Mapping[str, SymbolRange]) -> _Leaf:
    if spec.kind == "constant":
        return _Constant(spec.name, spec.value)
    if spec.kind == "symint":
        solved = solve_linear(spec.value)
        if solved is None or solved[1:] != (1, 0):
            return _Number(spec.name, "", 0, torch.iinfo(torch.int64).max)
        known = symbols[solved[0]]
        return _Number(spec.name, known.name, known.min, known.max)
    assert spec.shape is not None
    assert spec.dtype is not None
    fixed, linear, derived = [], [], []
    for index, dim in enumerate(spec.shape):
        dim = expression_of(dim)
        solved = None if isinstance(dim, int) else solve_linear(dim)
        if isinstance(dim, int):
            fixed.append((index, dim))
        elif solved is not None:
            name, scale, offset = solved
            known = symbols[name]
            low, high = scale * known.min + offset, scale * known.max + offset
            linear.append(_LinearDim(index, name, scale, offset, low, high))
        else:
            derived.append((index, to_text(dim)))
    layout = None if spec.stride is None else tuple(map(to_text, spec.stride))
    start = None if spec.storage_offset is None else to_text(spec.storage_offset)
    return _Tensor(
        spec.name, spec.dtype, len(spec.shape), str(spec.device), tuple(fixed), tuple(linear), tuple(derived),
        layout, start,
    )  # fmt: skip


def _useful_guards(program: Program) -> tuple[Guard, ...]:
    """The guards that the checks of single sizes and of shared symbols do not already imply."""
    return tuple(guard for guard in program.guards if not holds_everywhere(guard, program.symbols))


def _check_tensor(
    allowed: _Tensor,
    leaf: Any,
    sizes: _Sizes,
    devices: dict[str, tuple[torch.device, str]],
    derived: list[tuple[_Tensor, int, str, int]],
) -> None:
    if not isinstance(leaf, torch.Tensor):
        raise InputError(f"input {allowed.name} must be a tensor of {allowed.dtype}, got {describe(leaf)}")
    if leaf.dtype is not allowed.dtype:
        raise InputError(
            f"input {allowed.name} must be {allowed.dtype}, got {leaf.dtype}",
            advice=f"convert it ({allowed.name}.to({allowed.dtype})) or compile for {leaf.dtype}",
        )
    if leaf.layout is not torch.strided:
        raise InputError(
            f"input {allowed.name} must be a dense tensor, got one of the layout {leaf.layout}",
            advice=f"convert it: {allowed.name}.to_dense()",
        )
    shape = leaf.shape
    if len(shape) != allowed.rank:
        raise InputError(
            f"input {allowed.name} must have {allowed.rank} dimensions, got {len(shape)} "
            f"(shape {tuple(shape)})"
        )
    device, other = devices.setdefault(allowed.device_group, (leaf.device, allowed.name))
    if device is not leaf.device and device != leaf.device:
        raise InputError(
            f"input {allowed.name} is on {leaf.device}, but input {other} is on {device}; they were on one "
            "device when the model was compiled"
        )
    if shape == allowed.static:
        return
    for index, size in allowed.fixed:
        found = shape[index]
        if type(found) is int and found != size:
            raise InputError(
                f"input {allowed.name} must have size {size} at dimension {index}, got {found} "
                f"(shape {tuple(shape)})",
                advice="compile with an Input whose min_shape and max_shape include it",
            )
    for dim in allowed.linear:
        found = shape[dim.index]
        if type(found) is int:
            _check_linear(allowed, dim, found, sizes)
    for index, text in allowed.derived:
        if type(shape[index]) is int:
            derived.append((allowed, index, text, shape[index]))


_Sizes = dict[str, tuple[int, str, "int | None"]]
"""Symbol -> its value in this call, and where that was seen: the input's name and the dimension.

Texts are made when an error is: torch 2.11's Dynamo cannot trace one with a size in it."""


def _place(name: str, index: int | None) -> str:
    return name if index is None else f"{name} dimension {index}"


def _check_linear(allowed: _Tensor, dim: _LinearDim, found: int, sizes: _Sizes) -> None:
    if not dim.min <= found <= dim.max:
        raise InputError(
            f"input {allowed.name} has size {found} at dimension {dim.index}, "
            f"allowed is {dim.min}..{dim.max}",
            advice="compile with an Input whose min_shape and max_shape include it",
        )
    value, rest = divmod(found - dim.offset, dim.scale)
    if rest:
        raise InputError(
            f"input {allowed.name} has size {found} at dimension {dim.index}, which must be "
            f"{dim.scale} * n{f' + {dim.offset}' if dim.offset else ''}"
        )
    known, other, index = sizes.setdefault(dim.symbol, (value, allowed.name, dim.index))
    if known != value:
        expected = dim.scale * known + dim.offset
        raise InputError(
            f"input {allowed.name} has size {found} at dimension {dim.index}, but "
            f"{_place(other, index)} makes it {expected}"
        )


def _check_derived(allowed: _Tensor, index: int, text: str, size: int, values: Mapping[str, int]) -> None:
    try:
        expected = evaluate(text, values)
    except Exception:
        return
    if expected != size:
        raise InputError(
            f"input {allowed.name} must have size {expected} at dimension {index} for these sizes of the "
            f"other inputs, got {size}"
        )


def _check_layout(allowed: _Tensor, leaf: torch.Tensor, values: Mapping[str, int]) -> None:
    """The strides, and the place in the storage, that the program was captured with: it reads memory by them."""
    assert allowed.stride is not None
    if type(leaf) not in (torch.Tensor, torch.nn.Parameter, FakeTensor) or leaf.device.type == "meta":
        return
    try:
        wanted = tuple(evaluate(step, values) for step in allowed.stride)
        offset = None if allowed.storage_offset is None else evaluate(allowed.storage_offset, values)
    except ArtifactError:  # of a size that no input shows
        return
    if any(isinstance(n, torch.SymInt) for n in (*leaf.shape, *leaf.stride(), leaf.storage_offset())):
        return  # of a trace
    same = all(n == 1 or a == b for n, a, b in zip(leaf.shape, leaf.stride(), wanted)) or not leaf.numel()
    if same and offset in (None, leaf.storage_offset()):
        return
    start = "" if offset is None else f" from place {offset} of its storage"
    got = "" if offset is None else f" from place {leaf.storage_offset()}"
    raise InputError(
        f"input {allowed.name} must have the strides {wanted}{start}, got {tuple(leaf.stride())}{got}: the model looks "
        "into the memory of what is computed from it (as_strided), asks for strides, or writes to what is a view or a "
        "copy by strides",
        advice="pass a tensor laid out like the one the model was captured with; "
        f"{allowed.name}.clone(memory_format=torch.contiguous_format) is, if that one was contiguous",
    )


def check_constant(allowed: _Constant, leaf: Any) -> None:
    """See that an input is the value that was captured.

    Raises:
        InputError: it is another.
    """
    if leaf is allowed.value or same_value(leaf, allowed.value):
        return
    raise InputError(
        f"input {allowed.name} was fixed to {allowed.value!r} when the model was compiled, got {describe(leaf)}",
        advice="compile the model again with this value",
    )


def _check_number(allowed: _Number, leaf: Any, sizes: _Sizes) -> None:
    if isinstance(leaf, torch.SymInt):
        return
    if type(leaf) is not int:
        raise InputError(f"input {allowed.name} must be an int, got {describe(leaf)}")
    if not allowed.min <= leaf <= allowed.max:
        raise InputError(f"input {allowed.name} is {leaf}, allowed is {allowed.min}..{allowed.max}")
    if allowed.symbol:
        known, other, index = sizes.setdefault(allowed.symbol, (leaf, allowed.name, None))
        if known != leaf:
            raise InputError(f"input {allowed.name} is {leaf}, but {_place(other, index)} makes it {known}")


def _flatten_into(value: Any, spec: pytree.TreeSpec, leaves: list[Any], ordered: bool) -> bool:
    """Append the leaves of `value` in the order of `spec`; False when the structure is another."""
    if spec.is_leaf():
        leaves.append(value)
        return not _is_container(value)
    if spec.type is dict:
        if type(value) is not dict or value.keys() != set(spec.context):
            return False
        if ordered and list(value) != spec.context:
            raise InputError(
                f"a dict has its keys in the order {list(value)}, but the model was compiled for {spec.context}",
                advice="give them in that order: a model that goes through a dict could compute something else",
            )
        return all(
            _flatten_into(value[key], child, leaves, ordered)
            for key, child in zip(spec.context, spec.children())
        )
    if spec.type in (tuple, list):
        if type(value) is not spec.type or len(value) != spec.num_children:
            return False
        return all(_flatten_into(item, child, leaves, ordered) for item, child in zip(value, spec.children()))
    flat, found = pytree.tree_flatten(value)
    leaves.extend(flat)
    return found == spec


def _is_container(value: Any) -> bool:
    return isinstance(value, (tuple, list, dict)) or (
        not isinstance(value, torch.Tensor) and type(value) in pytree.SUPPORTED_NODES
    )
