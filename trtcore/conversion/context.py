"""ConversionContext: what a converter sees.

``ctx.net`` is the real ``INetworkDefinition``; the helpers below are short ways to add layers to it that
take care of what is the same in every converter: constants, promotion, broadcasting, and shapes that are
known only at run time.

Symbolic ints reach converters as int64 ITensors of shape (1,); ints known now are Python ints. Every
helper that takes dims takes lists that mix the two.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from trtcore.conversion.shapes import NetworkShapes
from trtcore.conversion.tensors import Dim, ITensor, Operand
from trtcore.conversion.weights import WeightStore
from trtcore.errors import ConversionError

if TYPE_CHECKING:
    from trtcore.context import CompileContext

__all__ = ["ConversionContext", "Dim", "ITensor", "Operand"]


class ConversionContext(NetworkShapes):
    """The network under construction, and helpers to add to it.

    Layers are here; sizes and shape tensors in `NetworkShapes` (``shapes.py``), constants, casts and dtypes in its base
    `NetworkTensors` (``tensors.py``).

    Attributes:
        net: the ``trt.INetworkDefinition``.
        trt: the bindings module in use; converters never import tensorrt themselves.
        backend, target, settings: of this compile.
        node: the fx node that is being converted.
        notes: what its converter had to say of it, see `note`.
    """

    def __init__(self, compile_context: CompileContext, net: Any, store: WeightStore) -> None:
        super().__init__(compile_context, net, store)
        self.notes: list[str] = []
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

    def note(self, text: str) -> None:
        """Have the report say something of this node: that it is computed in another way than its op says, and why.

        It is kept with the layers that the converter adds, in the engine; a converter that adds none leaves none.
        """
        if text not in self.notes:
            self.notes.append(text)

    # ---- operands -------------------------------------------------------------------------------

    def promote(
        self, *values: Operand | float, to: torch.dtype | None = None, rank: int = 0
    ) -> list[ITensor]:
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

    def unsqueeze_to(self, x: ITensor, rank: int) -> ITensor:
        """`x` with ones prepended to its shape until it has `rank` dims."""
        missing = rank - self.rank(x)
        return x if missing <= 0 else self.reshape(x, [1] * missing + self.dims_of(x))

    # ---- layers ---------------------------------------------------------------------------------

    def broadcast(self, *values: Operand) -> list[ITensor]:
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
            layer.reshape_dims = tuple(int(value) for value in dims if not self.is_tensor(value))
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

    def gather(self, x: ITensor, indices: ITensor, axis: int) -> ITensor:
        """``x`` at `indices` along `axis`; outside of [-n, n) TensorRT gives 0."""
        return self.output(self.net.add_gather(x, indices, self.axis(axis, self.rank(x))))

    def elementwise(
        self, a: Operand | float, b: Operand | float, operation: str, *, to: torch.dtype | None = None
    ) -> ITensor:
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

    def select(self, condition: ITensor, a: Operand | float, b: Operand | float) -> ITensor:
        """Where `condition` (bool) `a`, else `b`, after promotion of the two."""
        a, b = self.promote(a, b, rank=self.rank(condition))
        condition = self.unsqueeze_to(condition, self.rank(a))
        return self.output(self.net.add_select(condition, a, b))

    def softmax(self, x: ITensor, axis: int) -> ITensor:
        """Softmax along one axis (rank >= 2: TensorRT refuses less)."""
        layer = self.net.add_softmax(x)
        layer.axes = self.axes_mask([axis], self.rank(x))
        return self.output(layer)

    def matmul(self, a: Operand, b: Operand, transpose_a: bool = False, transpose_b: bool = False) -> ITensor:
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
