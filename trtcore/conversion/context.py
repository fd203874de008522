"""ConversionContext: what a converter sees.

``ctx.net`` is the real ``INetworkDefinition``; the helpers below are short ways to add layers to it that
take care of what is the same in every converter: constants, promotion, broadcasting, and shapes that are
known only at run time.

Symbolic ints reach converters as int64 ITensors of shape (1,); ints known now are Python ints. Every
helper that takes dims takes lists that mix the two.
"""

from __future__ import annotations

import difflib
import importlib
import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import torch

from trtcore.conversion.weights import WeightStore
from trtcore.errors import ConversionError

if TYPE_CHECKING:
    import sympy

    from trtcore.backend.base import Backend, Target
    from trtcore.context import CompileContext
    from trtcore.settings import CompilationSettings

ITensor: TypeAlias = Any
"""A ``trt.ITensor`` of the bindings in use."""

Dim: TypeAlias = Any
"""An int, or an int64 ITensor of shape (1,)."""


class ConversionContext:
    """The network under construction, and helpers to add to it.

    Attributes:
        net: the ``trt.INetworkDefinition``.
        trt: the bindings module in use; converters never import tensorrt themselves.
        backend, target, settings: of this compile.
        node: the fx node that is being converted.
    """

    def __init__(self, compile_context: CompileContext, net: Any, store: WeightStore) -> None:
        assert compile_context.backend is not None
        assert compile_context.target is not None
        self.compile_context = compile_context
        self.backend: Backend = compile_context.backend
        self.target: Target = compile_context.target
        self.settings: CompilationSettings = compile_context.settings
        self.trt: Any = self.backend.trt
        self.net = net
        self.node: torch.fx.Node
        self._store = store
        self._constants: dict[tuple[Any, ...], ITensor] = {}
        self._shapes: dict[ITensor, tuple[int, ...]] = {}
        self._traced: dict[ITensor, tuple[sympy.Expr | int, ...]] = {}
        self._shape_tensors: dict[ITensor, ITensor] = {}
        self._shape_vectors: dict[tuple[Dim, ...], ITensor] = {}
        self._dims: dict[tuple[ITensor, int], Dim] = {}
        self._symbols: dict[str, Dim | Callable[[], Dim]] = {}
        self._expressions: dict[Any, Dim] = {}
        self._inliner: Callable[[torch.fx.GraphModule, Sequence[Any]], Any] | None = None  # the interpreter's

    def inline(self, graph_module: torch.fx.GraphModule, *inputs: ITensor) -> Any:
        """Convert the subgraph that a higher-order op is given, node by node, into this network.

        Args:
            graph_module: of ATen ops, with FakeTensors in its nodes' ``meta["val"]``, as torch.export makes it.
            inputs: one per placeholder.

        Returns:
            what the subgraph returns, of ITensors.

        Raises:
            ConversionError: a node of it has no converter, or its converter fails.
        """
        if self._inliner is None:
            raise ConversionError("there is no graph being converted")
        return self._inliner(graph_module, inputs)

    # ---- what a tensor is -------------------------------------------------------------------------

    def is_tensor(self, value: object) -> bool:
        """True for a ``trt.ITensor``."""
        return isinstance(value, self.trt.ITensor)

    def dtype(self, value: ITensor | torch.Tensor) -> torch.dtype:
        """The torch dtype of an ITensor or a constant."""
        return value.dtype if isinstance(value, torch.Tensor) else self.backend.torch_dtype(value.dtype)

    def shape(self, value: ITensor | torch.Tensor) -> tuple[int, ...]:
        """The dims of an ITensor, -1 where they are known only at run time; or the shape of a constant.

        Raises RuntimeError where TensorRT refuses the layers behind the tensor; the interpreter turns that
        into a ConversionError with TensorRT's lines.
        """
        if isinstance(value, torch.Tensor):
            return tuple(value.shape)
        dims = self._shapes.get(value)
        if dims is None:
            dims = self._shapes[value] = tuple(value.shape)
        return dims

    def know(self, x: ITensor, dims: Sequence[sympy.Expr | int]) -> None:
        """Remember the traced dims of an op's output (called by the interpreter).

        :meth:`dim` then computes the dim from the segment's inputs, once per network, and not from `x`.
        The inputs themselves are where symbols come from, also where an op hands one on.
        """
        if x.is_network_input:
            return
        if self._traced.setdefault(x, tuple(dims)) and -1 in (own := self.shape(x)):
            self._shapes[x] = tuple(t if isinstance(t, int) else have for t, have in zip(dims, own))

    def rank(self, value: ITensor | torch.Tensor) -> int:
        """Number of dims."""
        return len(self.shape(value))

    def axis(self, dim: int, rank: int) -> int:
        """A dim counted from the start, from one that may count from the end. A 0-d tensor has one, as in torch."""
        return dim % max(rank, 1)

    # ---- constants --------------------------------------------------------------------------------

    def weights(self, tensor: torch.Tensor) -> Any:
        """``trt.Weights`` of a constant; the only maker of them.

        Holds the storage until the build has ended, shares tied weights, and records them for the snapshot.
        """
        return self._store.weights(tensor)

    def constant(
        self,
        value: torch.Tensor | float | bool | Sequence[Any],
        dtype: torch.dtype | None = None,
        *,
        rank: int = 0,
    ) -> ITensor:
        """A constant layer. The same constant is added once per network.

        Args:
            value: a tensor, a Python number (0-d result), or a list of numbers (1-d result).
            dtype: of the result; default: the value's own (ints int64, floats float32, bools bool).
            rank: ones are prepended to the shape until it has so many dims.
        """
        if not isinstance(value, torch.Tensor):
            key: tuple[Any, ...] = ("py", repr(value), dtype, rank)
            if key in self._constants:
                return self._constants[key]
            tensor = torch.tensor(value) if dtype is None else torch.tensor(value, dtype=dtype)
            if dtype is None and tensor.dtype == torch.float64:
                tensor = tensor.float()
            tensor = _at_rank(tensor, rank)
        else:
            tensor = _at_rank(value.detach(), rank)
            if dtype is not None and tensor.dtype != dtype:
                key = (*WeightStore.key(tensor), dtype)
                if key in self._constants:
                    return self._constants[key]
                self._store.hold(tensor)  # keeps the address in the key from being reused
                tensor = tensor.to(dtype)
            else:
                key = WeightStore.key(tensor)
                if key in self._constants:
                    return self._constants[key]
        layer = self.net.add_constant(tuple(tensor.shape), self.weights(tensor))
        made = self._constants[key] = self.output(layer)
        self._store.record(self.net.num_layers - 1, "weights", tensor)
        return made

    def tensor(self, value: Any, dtype: torch.dtype | None = None) -> ITensor:
        """An ITensor from an ITensor, a constant or a Python number; cast to `dtype` if given."""
        if not self.is_tensor(value):
            return self.constant(value, dtype)
        return value if dtype is None else self.cast(value, dtype)

    def output(self, layer: Any, index: int = 0) -> ITensor:
        """Output `index` of a layer; a ConversionError where TensorRT refused to make the layer (None)."""
        if layer is None:
            raise ConversionError("TensorRT refused the layer's parameters")
        return layer.get_output(index)

    # ---- dtypes -----------------------------------------------------------------------------------

    def cast(self, x: ITensor | torch.Tensor, dtype: torch.dtype) -> ITensor:
        """`x` as `dtype` (no layer where it is that already; constants are cast on the host)."""
        if isinstance(x, torch.Tensor):
            return self.constant(x, dtype)
        wanted = self.backend.trt_dtype(dtype)
        if x.dtype == wanted:
            return x
        return self.output(self.net.add_cast(x, wanted))

    def promote(self, *values: Any, to: torch.dtype | None = None, rank: int = 0) -> list[ITensor]:
        """All values as ITensors of one dtype and one rank, by torch's promotion rules, or of dtype `to`.

        Python numbers and 0-d tensors take part as torch lets them: they do not raise the dtype within a category.

        Args:
            rank: the least number of dims of the results.
        """
        dtype = to if to is not None else self.result_type(*values)
        has_dims = [v for v in values if isinstance(v, torch.Tensor) or self.is_tensor(v)]
        rank = max([rank, *(self.rank(value) for value in has_dims)])
        return [
            self.unsqueeze_to(self.cast(value, dtype), rank)
            if self.is_tensor(value)
            else self.constant(value, dtype, rank=rank)
            for value in values
        ]

    def result_type(self, *values: Any) -> torch.dtype:
        """The dtype torch would compute in. A symbolic int counts as a Python int."""
        stand_ins: list[Any] = []
        for value in values:
            if isinstance(value, torch.Tensor):
                stand_ins.append(torch.empty([1] * value.dim(), dtype=value.dtype, device="meta"))
            elif self.is_tensor(value):
                stand_ins.append(torch.empty([1] * self.rank(value), dtype=self.dtype(value), device="meta"))
            else:
                stand_ins.append(value)
        if len(stand_ins) == 1:
            stand_ins *= 2
        dtype = torch.result_type(stand_ins[0], stand_ins[1])
        for extra in stand_ins[2:]:
            tensors = [v for v in stand_ins if isinstance(v, torch.Tensor)]
            dtype = torch.promote_types(dtype, torch.result_type(tensors[0], extra) if tensors else dtype)
        return dtype

    # ---- shapes known at run time -----------------------------------------------------------------

    def shape_of(self, x: ITensor) -> ITensor:
        """The shape of `x` as an int64 ITensor of shape (rank,)."""
        found = self._shape_tensors.get(x)
        if found is None:
            dims = self.shape(x)
            if -1 not in dims:
                return (
                    self.constant(list(dims), torch.int64)
                    if dims
                    else self.constant(torch.empty(0, dtype=torch.int64))
                )
            found = self._shape_tensors[x] = self.cast(self.output(self.net.add_shape(x)), torch.int64)
        return found

    def dim(self, x: ITensor | torch.Tensor, index: int) -> Dim:
        """Dim `index` of `x`: an int if known now, else an int64 ITensor of shape (1,)."""
        dims = self.shape(x)
        index = self.axis(index, len(dims))
        if dims[index] != -1:
            return dims[index]
        if x in self._traced:
            try:
                return self.symbolic(self._traced[x][index])
            except ConversionError:  # the size depends on data: ask the tensor
                pass
        key = (x, index)
        if key not in self._dims:
            layer = self.net.add_slice(self.shape_of(x), (index,), (1,), (1,))
            self._dims[key] = self.output(layer)
        return self._dims[key]

    def dims_of(self, x: ITensor | torch.Tensor) -> list[Dim]:
        """All dims of `x`, as :meth:`dim` gives them."""
        return [self.dim(x, index) for index in range(self.rank(x))]

    def dims(self, values: Sequence[Dim]) -> tuple[int, ...] | ITensor:
        """A tuple of ints where all are known now, else one int64 ITensor of shape (len,)."""
        if all(not self.is_tensor(value) for value in values):
            return tuple(int(value) for value in values)
        return self.shape_tensor(values)

    def shape_tensor(self, values: Sequence[Dim]) -> ITensor:
        """One int64 ITensor of shape (len,) from ints and symbolic ints."""
        if not values:
            return self.constant(torch.empty(0, dtype=torch.int64))
        key = tuple(values)
        if key in self._shape_vectors:
            return self._shape_vectors[key]
        parts: list[ITensor] = []
        run: list[int] = []
        for value in [*values, None]:
            if value is not None and not self.is_tensor(value):
                run.append(int(value))
                continue
            if run:
                parts.append(self.constant(run, torch.int64))
                run = []
            if value is not None:
                parts.append(self.cast(value, torch.int64))
        made = self._shape_vectors[key] = parts[0] if len(parts) == 1 else self.concat(parts, 0)
        return made

    def scalar(self, value: Dim, dtype: torch.dtype | None = None) -> ITensor:
        """A 0-d ITensor from a number or a symbolic int."""
        if not self.is_tensor(value):
            return self.constant(value, dtype)
        if self.rank(value):
            layer = self.net.add_shuffle(value)
            layer.reshape_dims = ()
            value = self.output(layer)
        return value if dtype is None else self.cast(value, dtype)

    def dim_op(self, a: Dim, b: Dim, operation: str) -> Dim:
        """Integer arithmetic on dims: SUM, SUB, PROD, FLOOR_DIV, DIV, MAX, MIN. Ints are folded."""
        if not self.is_tensor(a) and not self.is_tensor(b):
            return _FOLD[operation](a, b)
        a, b = (v if self.is_tensor(v) else self.constant([v], torch.int64) for v in (a, b))
        return self.output(self.net.add_elementwise(a, b, self._member("ElementWiseOperation", operation)))

    def dim_product(self, values: Sequence[Dim]) -> Dim:
        """The product of dims; 1 for none."""
        known = math.prod(value for value in values if not self.is_tensor(value))
        result: Dim = known
        for value in values:
            if self.is_tensor(value):
                result = (
                    value
                    if not self.is_tensor(result) and result == 1
                    else self.dim_op(result, value, "PROD")
                )
        return result

    # ---- layers -----------------------------------------------------------------------------------

    def unsqueeze_to(self, x: ITensor, rank: int) -> ITensor:
        """`x` with ones prepended to its shape until it has `rank` dims."""
        missing = rank - self.rank(x)
        return x if missing <= 0 else self.reshape(x, [1] * missing + self.dims_of(x))

    def broadcast(self, *values: ITensor | torch.Tensor) -> list[ITensor]:
        """Tensors and constants at one rank: ones prepended. TensorRT stretches the ones itself."""
        rank = max(self.rank(value) for value in values)
        return [self.unsqueeze_to(self.tensor(value), rank) for value in values]

    def reshape(self, x: ITensor, dims: Sequence[Dim]) -> ITensor:
        """`x` in another shape; at most one dim may be -1 (the rest). A 0 means an empty dim."""
        dims = list(dims)
        if tuple(dims) == self.shape(x) and -1 not in self.shape(x):
            return x
        unknown = [i for i, value in enumerate(dims) if self.is_tensor(value)]
        layer = self.net.add_shuffle(x)
        layer.zero_is_placeholder = False
        if len(unknown) == 1 and -1 not in dims and 0 not in dims:
            dims[unknown[0]] = -1  # the one unknown dim is what remains: no shape arithmetic at run time
            unknown = []
        if unknown:
            layer.set_input(1, self.shape_tensor(dims))
        else:
            layer.reshape_dims = tuple(int(value) for value in dims)
        return self.output(layer)

    def permute(self, x: ITensor, order: Sequence[int]) -> ITensor:
        """`x` with its dims in another order."""
        order = [self.axis(dim, len(order)) for dim in order]
        if order == list(range(len(order))):
            return x
        layer = self.net.add_shuffle(x)
        layer.first_transpose = tuple(order)
        return self.output(layer)

    def expand(self, x: ITensor, dims: Sequence[Dim]) -> ITensor:
        """`x` broadcast to `dims` (as torch's expand: -1 keeps a dim; new dims come first)."""
        x = self.unsqueeze_to(x, len(dims))
        own = self.shape(x)
        if all((not self.is_tensor(want)) and want in (-1, have) for want, have in zip(dims, own)):
            return x
        sizes = [
            self.dim(x, i) if not self.is_tensor(want) and want == -1 else want for i, want in enumerate(dims)
        ]
        # Stride 0 repeats a dim of one; where the dim is not known now, min(dim - 1, 1) is 0 or 1.
        strides = [
            (0 if have == 1 else 1)
            if have != -1
            else self.dim_op(self.dim_op(self.dim(x, i), 1, "SUB"), 1, "MIN")
            for i, have in enumerate(own)
        ]
        return self.slice(x, [0] * len(own), sizes, strides)

    def slice(
        self, x: ITensor, start: Sequence[Dim], size: Sequence[Dim], stride: Sequence[Dim] | None = None
    ) -> ITensor:
        """Elements ``start + i * stride`` for i < size, per dim."""
        stride = [1] * len(start) if stride is None else list(stride)
        starts, sizes, strides = self.dims(start), self.dims(size), self.dims(stride)
        zeros = (0,) * len(stride)
        layer = self.net.add_slice(
            x,
            zeros if self.is_tensor(starts) else starts,
            zeros if self.is_tensor(sizes) else sizes,
            zeros if self.is_tensor(strides) else strides,
        )
        for index, value in ((1, starts), (2, sizes), (3, strides)):
            if self.is_tensor(value):
                layer.set_input(index, value)
        return self.output(layer)

    def concat(self, values: Sequence[ITensor], axis: int) -> ITensor:
        """The tensors one after the other along `axis`."""
        if len(values) == 1:
            return values[0]
        layer = self.net.add_concatenation(list(values))
        layer.axis = self.axis(axis, self.rank(values[0]))
        return self.output(layer)

    def gather(self, x: ITensor, indices: ITensor, axis: int) -> ITensor:
        """``x`` at `indices` along `axis`; outside of [-n, n) TensorRT gives 0."""
        return self.output(self.net.add_gather(x, indices, self.axis(axis, self.rank(x))))

    def _member(self, enum: str, name: str) -> Any:
        """A member of one of TensorRT's enums.

        Raises:
            ConversionError: it has none of that name; the text has the nearest ones.
        """
        members = getattr(self.trt, enum).__members__
        if name not in members:
            near = difflib.get_close_matches(str(name).upper(), members, n=3, cutoff=0.5)
            raise ConversionError(
                f"TensorRT's {enum} has no {name!r}; it has {', '.join(near or members)}"
                + (" and others" if near else "")
            )
        return members[name]

    def elementwise(self, a: Any, b: Any, operation: str, *, to: torch.dtype | None = None) -> ITensor:
        """A binary operation by its ElementWiseOperation name, after promotion (or on dtype `to`)."""
        a, b = self.promote(a, b, to=to)
        return self.output(self.net.add_elementwise(a, b, self._member("ElementWiseOperation", operation)))

    def unary(self, x: ITensor, operation: str) -> ITensor:
        """A unary operation by its UnaryOperation name."""
        return self.output(self.net.add_unary(x, self._member("UnaryOperation", operation)))

    def activation(
        self, x: ITensor, kind: str, alpha: float | None = None, beta: float | None = None
    ) -> ITensor:
        """An activation by its ActivationType name."""
        layer = self.net.add_activation(x, self._member("ActivationType", kind))
        if layer is not None:
            if alpha is not None:
                layer.alpha = float(alpha)
            if beta is not None:
                layer.beta = float(beta)
        return self.output(layer)

    def reduce(self, x: ITensor, operation: str, axes: Sequence[int], keepdim: bool = False) -> ITensor:
        """A reduction by its ReduceOperation name; no axes means all of them."""
        rank = self.rank(x)
        axes = list(axes) or list(range(rank))
        mask = self.axes_mask(axes, rank)
        return self.output(self.net.add_reduce(x, self._member("ReduceOperation", operation), mask, keepdim))

    def axes_mask(self, axes: Sequence[int], rank: int) -> int:
        """The bit mask TensorRT takes for a set of axes."""
        mask = 0
        for axis in axes:
            mask |= 1 << self.axis(axis, rank)
        return mask

    def select(self, condition: ITensor, a: Any, b: Any) -> ITensor:
        """Where `condition` (bool) `a`, else `b`, after promotion of the two."""
        a, b = self.promote(a, b, rank=self.rank(condition))
        condition = self.unsqueeze_to(condition, self.rank(a))
        return self.output(self.net.add_select(condition, a, b))

    def softmax(self, x: ITensor, axis: int) -> ITensor:
        """Softmax along one axis (rank >= 2: TensorRT refuses less)."""
        layer = self.net.add_softmax(x)
        layer.axes = self.axes_mask([axis], self.rank(x))
        return self.output(layer)

    def matmul(self, a: Any, b: Any, transpose_a: bool = False, transpose_b: bool = False) -> ITensor:
        """Matrix product of the last two dims; batch dims broadcast. Both operands have rank >= 2."""
        a, b = self.broadcast(self.tensor(a), self.tensor(b))
        op = self.trt.MatrixOperation
        return self.output(
            self.net.add_matrix_multiply(
                a, op.TRANSPOSE if transpose_a else op.NONE, b, op.TRANSPOSE if transpose_b else op.NONE
            )
        )

    def plugin(
        self,
        name: str,
        inputs: Sequence[ITensor],
        attributes: Mapping[str, Any] | None = None,
        *,
        ahead_of_time: bool = False,
    ) -> Any:
        """The layer of a plugin that is registered with ``tensorrt.plugin``.

        Args:
            name: ``"namespace::name"``, as it was registered.
            inputs: its tensors, in order.
            attributes: its attributes by name, in the order in which they were registered.
            ahead_of_time: use its ``aot_impl``, not its Python ``impl``.

        Raises:
            ConversionError: the backend has no plugin layers, there is no such plugin, or TensorRT refuses it.
        """
        if not self.backend.has_plugins:
            raise ConversionError(f"{self.backend.name} has no plugin layers, and {name} is one")
        plugins = importlib.import_module(f"{self.trt.__name__}.plugin").op
        namespace, _, opname = name.partition("::")
        make = getattr(getattr(plugins, namespace, None), opname, None)
        if make is None:
            raise ConversionError(f"no plugin {name} is registered with tensorrt.plugin")
        created = make(*inputs, **(attributes or {}))
        layer = self.net.add_plugin(created, aot=True) if ahead_of_time else self.net.add_plugin(created)
        if layer is None:
            raise ConversionError(f"TensorRT refused the plugin {name}")
        return layer

    # ---- symbolic ints ----------------------------------------------------------------------------

    def bind_symbol(self, name: str, make: Callable[[], Dim]) -> None:
        """Say how to get a symbol of the traced shapes in this network (called by the interpreter).

        `make` is called when the symbol is first used, so that unused ones add no layers.
        """
        self._symbols.setdefault(name, make)

    def symbol(self, name: str) -> Dim:
        """A symbol as an int64 ITensor of shape (1,). Raises ConversionError where nothing binds it."""
        if name not in self._symbols:
            raise ConversionError(f"the size {name} depends on data: it is no shape of this segment's inputs")
        value = self._symbols[name]
        if callable(value):
            value = self._symbols[name] = value()
        return value

    def symbolic(self, expression: sympy.Expr | int) -> Dim:
        """A shape expression as an int or an int64 ITensor of shape (1,)."""
        from trtcore.conversion.shape_tensors import build_expression

        return build_expression(self, expression, self._expressions)


def _at_rank(tensor: torch.Tensor, rank: int) -> torch.Tensor:
    """A view with ones prepended to the shape."""
    missing = rank - tensor.dim()
    return tensor if missing <= 0 else tensor.reshape([1] * missing + list(tensor.shape))


_FOLD: dict[str, Any] = {
    "SUM": lambda a, b: a + b,
    "SUB": lambda a, b: a - b,
    "PROD": lambda a, b: a * b,
    "FLOOR_DIV": lambda a, b: a // b,
    "DIV": lambda a, b: int(a / b),
    "MAX": max,
    "MIN": min,
}
