"""Layers from an expression in torch: what a helper does is said once, in torch, and trtcore's own converters make it.

``by_torch(ctx, lambda x: torch.roll(x, 2, 1), x)`` traces the expression on FakeTensors that have the ITensors' dtypes
and shapes, and converts every op of the trace with the converter that trtcore ships for it, never with one of the
user's, which may be the caller. Sizes that vary are symbols: those of the model where they are the model's, others
bound to the network's tensors. An op without a shipped converter is decomposed, as in a model.
"""

from __future__ import annotations

import itertools
import operator
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils import _pytree as pytree

from trtcore.pack import ConversionError, node_arguments, parameters_of
from trtcore_contrib_torch_tensorrt import torch_private

if TYPE_CHECKING:
    import sympy
    from torch.fx import GraphModule, Node

__all__ = ["Size", "by_torch", "sizes", "world_of"]

_FIRST_ID = 10**9
"""Numbers of our own symbols begin here: far from any of a model's, so that names do not meet."""

_HINT = 8
"""What a size of which nothing is known is taken to be while an expression is traced; see `_refuse_decisions`."""

_DEPTH = 16
_NOT_ASKED = "a helper asks trtcore's own"


@dataclass(frozen=True)
class Size:
    """An argument of an expression that is a number there: an int, or an ITensor with one element."""

    value: Any


def sizes(values: Any) -> Any:
    """Every number of a list (or the number alone) as a `Size`."""
    if isinstance(values, (list, tuple)):
        return [sizes(value) for value in values]
    return values if values is None else Size(values)


def by_torch(ctx: Any, function: Callable[..., Any], *args: Any) -> Any:
    """What `function`, written in torch, makes of its arguments, as ITensors.

    Args:
        ctx: the converter's context.
        function: called with FakeTensors for tensors and ints or SymInts for `Size`s, everything else as it is.
        args: ITensors, constants (torch or NumPy), `Size`s, plain values; nested lists of them.

    Returns:
        an ITensor, or a list of them where it returns several.

    Raises:
        ConversionError: an op of it has no converter here, or it depends on a size that varies in a way that one engine
            cannot have.
    """
    core = getattr(ctx, "_ctx", ctx)
    return world_of(core).run(core, function, args)


_WORLDS: weakref.WeakKeyDictionary[Any, _World] = weakref.WeakKeyDictionary()


def world_of(core: Any) -> _World:
    """That of a network: one for all converters that add to it."""
    found = _WORLDS.get(core)
    if found is None:
        found = _WORLDS[core] = _World()
    return found


class _World:
    """FakeTensors in the place of one network's tensors."""

    def __init__(self) -> None:
        self._ids = itertools.count(_FIRST_ID)
        self._wanted: int | None = None
        self._count = 0
        self._values: dict[Any, torch.Tensor] = {}  # ITensor -> FakeTensor
        self._sizes: dict[Any, Any] = {}  # ITensor of one size -> SymInt
        self._symbols: dict[str, sympy.Symbol] = {}  # name in the model -> symbol here
        self._pending: tuple[Node, Mapping[str, Any]] | None = None
        self.settings: Any = None  # of the compile, by their old names
        self.weight_refit_map: dict[str, Any] = {}
        self.held: list[torch.Tensor] = []

    @cached_property
    def shape_env(self) -> Any:
        """Where the symbols are."""
        return torch_private.shape_env(self._number)

    @cached_property
    def mode(self) -> Any:
        """Where the FakeTensors are."""
        return torch_private.fake_mode(self.shape_env)

    def _number(self) -> int:
        return next(self._ids) if self._wanted is None else self._wanted

    # ---- what is known of the model -----------------------------------------------------------------------

    def begin(self, node: Node, arguments: Mapping[str, Any]) -> None:
        """A node's converter is about to run. What the model says of its arguments is looked at when it is needed."""
        self._pending = (node, arguments)

    def _look(self, core: Any) -> None:
        """Take over what the model says of a node's arguments: the shapes of its tensors, the sizes that vary."""
        if self._pending is None:
            return
        node, arguments = self._pending
        self._pending = None
        given = node_arguments(node)
        for name, value in arguments.items():
            self._learn(core, given.get(name), value)

    def _learn(self, core: Any, source: Any, value: Any) -> None:
        if isinstance(source, (list, tuple)) and isinstance(value, (list, tuple)):
            for one, other in zip(source, value):
                self._learn(core, one, other)
            return
        traced = source.meta.get("val") if isinstance(source, torch.fx.Node) else None
        if not core.is_tensor(value) or value in self._values or value in self._sizes:
            return
        if isinstance(traced, torch.SymInt):
            size = self._size_of_model(traced)
            if size is not None:
                self._sizes[value] = size
        elif isinstance(traced, torch.Tensor) and traced.dtype == core.dtype(value):
            dims = [self._size_of_model(dim) for dim in traced.shape]
            if None not in dims:
                self._values[value] = self._fake(dims, traced.dtype)

    def _size_of_model(self, size: Any) -> Any:
        """A size of the model's trace, over symbols of the same names here; None where it depends on data."""
        if not isinstance(size, torch.SymInt):
            return int(size)
        expression, theirs = size.node.expr, size.node.shape_env
        known = {symbol: self._symbol_of_model(symbol, theirs) for symbol in expression.free_symbols}
        if None in known.values():
            return None
        return self._symint(expression.xreplace(known))

    def _symbol_of_model(self, symbol: sympy.Symbol, theirs: Any) -> sympy.Symbol | None:
        name = symbol.name
        if name in self._symbols:
            return self._symbols[name]
        hint = torch_private.model_hint(theirs, symbol)
        if hint is None or name[:1] != "s" or not name[1:].isdigit():
            return None
        self._wanted = int(name[1:])
        try:
            made = self._new_symbol(hint)
        finally:
            self._wanted = None
        assert made.name == name, f"torch named a symbol {made.name}, not {name}"
        torch_private.same_size(self.shape_env, made, theirs, symbol)
        self._symbols[name] = made
        return made

    def _new_symbol(self, hint: int) -> sympy.Symbol:
        self._count += 1
        return torch_private.new_symbol(self.shape_env, hint, f"size {self._count}")

    def _symint(self, expression: Any) -> Any:
        return torch_private.symint(self.shape_env, expression)

    # ---- the network's tensors as FakeTensors -------------------------------------------------------------

    def _fake(self, dims: Sequence[Any], dtype: torch.dtype) -> torch.Tensor:
        with self.mode:
            return torch.empty(list(dims), dtype=dtype)

    def size(self, core: Any, value: Any, hint: int = _HINT) -> Any:
        """A number as an int or a SymInt; an ITensor's symbol is bound to it."""
        if not core.is_tensor(value):
            return int(value)
        found = self._sizes.get(value)
        if found is None:
            symbol = self._new_symbol(hint)
            network = weakref.ref(core)  # which keeps this function: no circle
            core.bind_symbol(symbol.name, lambda: self._dim(network(), value))
            found = self._sizes[value] = self._symint(symbol)
        return found

    @staticmethod
    def _dim(core: Any, value: Any) -> Any:
        """An ITensor of one element as trtcore has sizes: int64, of shape (1,)."""
        return core.cast(value if core.shape(value) == (1,) else core.reshape(value, [1]), torch.int64)

    def stand_in(self, core: Any, value: Any) -> torch.Tensor:
        """The FakeTensor of an ITensor or of a constant."""
        if isinstance(value, torch.Tensor):
            return torch_private.stand_in(self.mode, value)
        found = self._values.get(value)
        if found is None:
            shape = core.shape(value)
            hints = self._hints(shape)
            dims = [
                self._dim_of(core, value, i, hints[i]) if dim == -1 else dim for i, dim in enumerate(shape)
            ]
            found = self._values[value] = self._fake(dims, core.dtype(value))
        return found

    def _dim_of(self, core: Any, value: Any, axis: int, hint: int) -> Any:
        """A size that a tensor has at run time: its own symbol, where it is none that is known."""
        return self.size(core, core.dim(value, axis), hint)

    def _hints(self, shape: Sequence[int]) -> list[int]:
        """What sizes that vary are taken to be: as those of the latest tensor of such a shape, so that a tensor
        made by a layer of the caller's own meets the tensor that it was made from.
        """
        for known in reversed(list(self._values.values())):
            if known.dim() == len(shape) and all(
                (have == -1) == isinstance(size, torch.SymInt) and (have == -1 or have == size)
                for have, size in zip(shape, known.shape)
            ):
                return [torch_private.hint_of(size) for size in known.shape]
        return [_HINT] * len(shape)

    # ---- tracing and converting ---------------------------------------------------------------------------

    def run(self, core: Any, function: Callable[..., Any], args: Any) -> Any:
        """See `by_torch`."""
        self._look(core)
        leaves, spec = pytree.tree_flatten(list(args), is_leaf=lambda one: isinstance(one, Size))
        actual = [_plain(leaf) for leaf in leaves]
        traced_at = [i for i, leaf in enumerate(actual) if _is_traced(core, leaf)]
        stand_ins = [
            self.size(core, actual[i].value)
            if isinstance(actual[i], Size)
            else self.stand_in(core, actual[i])
            for i in traced_at
        ]

        def call(*values: Any) -> Any:
            given = [leaf.value if isinstance(leaf, Size) else leaf for leaf in actual]
            for place, value in zip(traced_at, values):
                given[place] = value
            return function(*pytree.tree_unflatten(given, spec))

        values = [actual[i].value if isinstance(actual[i], Size) else actual[i] for i in traced_at]
        return self._converted(core, self._trace(call, stand_ins), values, 0)

    def _trace(self, function: Callable[..., Any], stand_ins: Sequence[Any]) -> GraphModule:
        before = len(self.shape_env.guards)
        with torch_private.tracing(self.mode):
            try:
                traced = torch_private.traced(function, _apart(stand_ins))
            except ConversionError:
                raise
            except Exception as error:
                first = next(iter(str(error).splitlines()), "")
                raise ConversionError(
                    f"torch does not take these arguments: {type(error).__name__}: {first}"
                ) from error
        _refuse_decisions([guard.expr for guard in self.shape_env.guards[before:]])
        return traced

    def _converted(self, core: Any, traced: GraphModule, inputs: Sequence[Any], depth: int) -> Any:
        env: dict[Node, Any] = {}
        given = iter(inputs)
        outer = core.node
        try:
            for node in traced.graph.nodes:
                if node.op == "placeholder":
                    env[node] = next(given)
                elif node.op == "get_attr":
                    env[node] = operator.attrgetter(str(node.target))(traced)
                elif node.op == "output":
                    return self._results(core, node.args[0], env)
                elif node.target is operator.getitem:
                    env[node] = env[node.args[0]][node.args[1]]
                elif _is_number(node.meta.get("val")):
                    continue  # made from its expression, where somebody takes it
                else:
                    env[node] = self._node(core, node, env, depth)
        finally:
            core.node = outer
        raise AssertionError("a trace without an output")

    def _value(self, core: Any, item: Any, env: Mapping[Node, Any]) -> Any:
        if isinstance(item, torch.fx.Node):
            traced = item.meta.get("val")
            if isinstance(traced, torch.SymInt):
                return core.symbolic(traced.node.expr)
            return traced if _is_number(traced) else env[item]
        if isinstance(item, torch.SymInt):
            return core.symbolic(item.node.expr)
        if isinstance(item, (list, tuple)):
            return [self._value(core, part, env) for part in item]
        return item

    def _node(self, core: Any, node: Node, env: Mapping[Node, Any], depth: int) -> Any:
        compile_context = core.compile_context
        registry = compile_context.registry
        others = {
            str(one): _NOT_ASKED for one in registry.candidates(node.target) if one.scope.name != "BUILT_IN"
        }
        selection = registry.select(node, compile_context, others)
        if selection.chosen is None:
            own = [one.reason for one in selection.candidates if one.reason != _NOT_ASKED]
            return self._decomposed(core, node, env, depth, "; ".join(own) or selection.reason)
        arguments = {name: self._value(core, value, env) for name, value in node_arguments(node).items()}
        core.node = node
        result = _called(selection.chosen, core, arguments, node.target)
        return self._known(core, result, node.meta.get("val"))

    def _known(self, core: Any, result: Any, traced: Any) -> Any:
        """A result, and what its trace says of its shape."""
        if isinstance(traced, (list, tuple)):
            return [
                None if one is None else self._known(core, one, other) for one, other in zip(result, traced)
            ]
        if isinstance(result, torch.Tensor):
            result = core.constant(result)
        if core.is_tensor(result) and isinstance(traced, torch.Tensor) and core.dtype(result) == traced.dtype:
            dims = [dim.node.expr if isinstance(dim, torch.SymInt) else int(dim) for dim in traced.shape]
            core.know(result, dims)
            self._values.setdefault(result, traced)
        return result

    def _decomposed(self, core: Any, node: Node, env: Mapping[Node, Any], depth: int, reason: str) -> Any:
        target: Any = node.target
        function = core.compile_context.registry.decompositions.get(target)
        if function is None and torch_private.is_composite(target):
            function = target.decompose
        if function is None or depth >= _DEPTH:
            raise ConversionError(f"{target}: {reason}")
        leaves = list(dict.fromkeys(node.all_input_nodes))

        def call(*values: Any) -> Any:
            given = dict(zip(leaves, values))
            args, kwargs = torch.fx.map_arg((node.args, dict(node.kwargs)), given.__getitem__)
            return function(*_mutable(args), **_mutable(kwargs))

        stand_ins = [leaf.meta["val"] for leaf in leaves]
        traced = self._trace(call, stand_ins)
        return self._converted(core, traced, [self._value(core, leaf, env) for leaf in leaves], depth + 1)

    def _results(self, core: Any, value: Any, env: Mapping[Node, Any]) -> Any:
        if isinstance(value, (list, tuple)):
            return [self._results(core, one, env) for one in value]
        found = self._value(core, value, env)
        return core.constant(found) if isinstance(found, torch.Tensor) else found


def _plain(leaf: Any) -> Any:
    """Constants as torch has them, numbers out of their boxes."""
    if isinstance(leaf, (np.ndarray, np.generic)):
        return torch.from_numpy(np.array(leaf))
    if isinstance(leaf, Size) and isinstance(leaf.value, (np.generic, torch.Tensor, np.ndarray)):
        return Size(int(leaf.value))
    return leaf


def _is_traced(core: Any, leaf: Any) -> bool:
    if isinstance(leaf, Size):
        return bool(core.is_tensor(leaf.value))
    return isinstance(leaf, torch.Tensor) or core.is_tensor(leaf)


def _is_number(value: Any) -> bool:
    return isinstance(value, (torch.SymInt, torch.SymFloat, torch.SymBool, int, float, bool))


def _mutable(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return (list if isinstance(value, list) else tuple)(map(_mutable, value))
    return {name: _mutable(item) for name, item in value.items()} if isinstance(value, dict) else value


def _apart(values: Sequence[Any]) -> list[Any]:
    """The values, with no tensor twice: what is given twice would be traced as one argument."""
    seen: set[int] = set()
    found = []
    for value in values:
        if isinstance(value, torch.Tensor) and id(value) in seen:
            value = torch.empty_like(value)
        seen.add(id(value))
        found.append(value)
    return found


def _called(converter: Any, core: Any, arguments: Mapping[str, Any], target: Any) -> Any:
    """A converter, called as its op is."""
    parameters = parameters_of(target) or ()
    by_name = {parameter.name for parameter in parameters if parameter.keyword_only}
    positional = [value for name, value in arguments.items() if name not in by_name]
    keywords = {name: value for name, value in arguments.items() if name in by_name}
    return converter.implementation(core, *positional, **keywords)


def _refuse_decisions(guards: Sequence[Any]) -> None:
    """What a trace decided on sizes that vary must hold for all of them.

    That two sizes agree is what ops ask of their arguments, and an engine refuses a call in which they do not. That a
    size is not 0 or 1 changes no layer. Anything else is a decision for the sizes of today.
    """
    for guard in guards:
        both = getattr(guard, "args", ())
        numbers = [int(one) for one in both if getattr(one, "is_Integer", False)]
        equal = type(guard).__name__ == "Equality"
        if (equal and not numbers) or (not equal and numbers and set(numbers) <= {-1, 0, 1, 2}):
            continue
        raise ConversionError(
            f"it decides on a size that varies from call to call ({guard})",
            advice="give the input that dim one size, or leave the op to torch with torch_executed_ops",
        )
