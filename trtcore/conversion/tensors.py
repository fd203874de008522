"""What the tensors of a network under construction are; constants and casts.

`ITensor` and `Dim` are the types that converters are written with: they type-check where no TensorRT is installed.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, Union

import torch

from trtcore.conversion.weights import WeightStore
from trtcore.errors import ConversionError

if TYPE_CHECKING:
    from typing_extensions import TypeIs

    from trtcore.backend.base import Backend, Target
    from trtcore.context import CompileContext
    from trtcore.settings import CompilationSettings


class ITensor(Protocol):
    """A ``trt.ITensor`` of the bindings in use: what all versions of them have."""

    name: str

    @property
    def dtype(self) -> Any:
        """A ``trt.DataType``."""

    @property
    def shape(self) -> Any:
        """``trt.Dims``, -1 where a dim is known only at run time; `ConversionContext.shape` is the tuple."""

    @property
    def is_network_input(self) -> bool:
        """Whether it is an input of the network."""

    @property
    def is_shape_tensor(self) -> bool:
        """Whether it holds shapes, on the host."""


Dim: TypeAlias = Union[int, ITensor]  # noqa: UP007 (evaluated at run time)
"""An int, or an int64 ITensor of shape (1,)."""

Operand: TypeAlias = Union[ITensor, torch.Tensor]  # noqa: UP007 (evaluated at run time)
"""What a converter gets for a tensor argument: an ITensor, or a constant of the model."""


class NetworkTensors:
    """The network under construction, and what its tensors are.

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

    # ---- what a tensor is -------------------------------------------------------------------------

    def is_tensor(self, value: object) -> TypeIs[ITensor]:
        """True for a ``trt.ITensor``."""
        return isinstance(value, self.trt.ITensor)

    def dtype(self, value: Operand) -> torch.dtype:
        """The torch dtype of an ITensor or a constant."""
        return value.dtype if isinstance(value, torch.Tensor) else self.backend.torch_dtype(value.dtype)

    def shape(self, value: Operand) -> tuple[int, ...]:
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

    def rank(self, value: Operand) -> int:
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

    def packed_constant(self, packed: torch.Tensor, shape: Sequence[int], dtype: torch.dtype) -> ITensor:
        """A constant of 4-bit numbers, which torch has no tensors of: for dequantise layers.

        Args:
            packed: uint8, flat: two numbers a byte, the first one in the low half.
            shape: of the constant; the last dim's numbers lie together.
            dtype: ``torch.int4``, or ``torch.float4_e2m1fn_x2``.

        Raises:
            ConversionError: `packed` has not half a byte for each number.
        """
        count = math.prod(shape)
        if packed.dtype != torch.uint8 or packed.dim() != 1 or 2 * packed.numel() != count:
            raise ConversionError(
                f"{count} numbers of {dtype} are {count / 2:g} bytes in a flat uint8 tensor, not {packed.dtype} of "
                f"shape {tuple(packed.shape)}"
            )
        layer = self.net.add_constant(tuple(shape), self._store.packed(packed, dtype, count))
        made = self.output(layer)
        self._store.record(self.net.num_layers - 1, "weights", packed)
        return made

    def tensor(self, value: Operand | float | Sequence[Any], dtype: torch.dtype | None = None) -> ITensor:
        """An ITensor from an ITensor, a constant or a Python number; cast to `dtype` if given."""
        if not self.is_tensor(value):
            return self.constant(value, dtype)
        return value if dtype is None else self.cast(value, dtype)

    def output(self, layer: Any, index: int = 0) -> ITensor:
        """Output `index` of a layer; a ConversionError where TensorRT refused to make the layer (None)."""
        if layer is None:
            raise ConversionError("TensorRT refused the layer's parameters")
        made: ITensor = layer.get_output(index)
        return made

    # ---- dtypes -----------------------------------------------------------------------------------

    def cast(self, x: Operand, dtype: torch.dtype) -> ITensor:
        """`x` as `dtype` (no layer where it is that already; constants are cast on the host)."""
        if isinstance(x, torch.Tensor):
            return self.constant(x, dtype)
        wanted = self.backend.trt_dtype(dtype)
        if x.dtype == wanted:
            return x
        return self.output(self.net.add_cast(x, wanted))

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


def _at_rank(tensor: torch.Tensor, rank: int) -> torch.Tensor:
    """A view with ones prepended to the shape."""
    missing = rank - tensor.dim()
    return tensor if missing <= 0 else tensor.reshape([1] * missing + list(tensor.shape))
