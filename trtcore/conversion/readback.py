"""Read a TensorRT network back into a `NetworkSnapshot`.

`take_snapshot` turns any `INetworkDefinition` into plain data.

How a layer is read: `network.get_layer(i)` gives an `ILayer`; assigning `layer.__class__` to the class of
exactly its type makes the attributes visible (the class of another type is a segfault), so the table
`_LAYERS` maps each `LayerType` name to its class and to one reader per attribute.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import torch

from trtcore.artifact.snapshot import (
    ATTENTION_OPERANDS,
    TORCH_DTYPES,
    LayerSnapshot,
    NetworkSnapshot,
    TensorInfo,
)
from trtcore.errors import ConversionError

#: (layer index, role) -> the tensor behind that layer's weights, or None where it was not recorded.
WeightsOf = Callable[[int, str], "torch.Tensor | None"]


def take_snapshot(trt: Any, network: Any, weights_of: WeightsOf | None = None) -> NetworkSnapshot:
    """Read `network` back.

    Args:
        trt: the bindings module that `network` belongs to.
        network: an `INetworkDefinition`, at any stage of construction.
        weights_of: gives the tensor behind a layer's weights; it is kept by reference. Where it is None or
            gives None, the numpy view that the bindings offer is copied instead.

    Raises:
        ConversionError: a layer type we cannot read, or weights with no data access (bf16, fp8, int4, fp4
            that `weights_of` does not know); the message names the layer.
    """
    return _Reader(trt, network, weights_of).read()


class LayerReader:
    """Reads layers one by one while a network is under construction."""

    def __init__(self, trt: Any, network: Any, weights_of: WeightsOf) -> None:
        self._reader = _Reader(trt, network, weights_of)

    def read(self, index: int) -> LayerSnapshot | None:
        """What layer `index` is now; None for one that cannot be read (its own conversion says why)."""
        try:
            return self._reader.read_layer(index)
        except ConversionError:
            return None

    def addresses(self, layer: LayerSnapshot) -> dict[str, Any]:
        """By role, where the layer's weights are now: not those of the tensors that it was given once."""
        raw = self._reader.network.get_layer(layer.index)
        raw.__class__ = getattr(self._reader.trt, LAYER_CLASSES[layer.type])
        return {
            role: _address(getattr(raw, attribute))
            for role, attribute in _WEIGHTS.get(layer.type, {}).items()
        }


def _dims(value: Any) -> tuple[int, ...] | None:
    """Dims as a tuple; None when they are unset (TensorRT shows them with a negative rank)."""
    if value is None:
        return None
    try:
        return tuple(value)
    except ValueError:
        return None


def _axes(value: Any) -> tuple[int, ...]:
    return tuple(i for i in range(32) if int(value) >> i & 1)


_names: dict[tuple[type, int], str] = {}


def _enum(value: Any) -> str:
    """The name of an enum value; `.name` is slow in the bindings (tens of microseconds), hence the memory."""
    key = (type(value), int(value))
    name = _names.get(key)
    if name is None:
        name = _names[key] = str(value.name)
    return name


def _dtype(value: Any) -> torch.dtype:
    return TORCH_DTYPES[_enum(value)]


def _floats(value: Any) -> tuple[float, ...] | None:
    return tuple(float(v) for v in value) if value is not None and len(value) else None


def _permutation(value: Any) -> tuple[int, ...]:
    """A permutation comes back padded to 8 entries; the reader of SHUFFLE cuts it to the rank."""
    return tuple(int(v) for v in value)


def _number(value: Any) -> float | int:
    return value if isinstance(value, int) else float(value)


_Readers = Mapping[str, Callable[[Any], Any]]

_WINDOW: _Readers = {
    "stride_nd": _dims,
    "pre_padding": _dims,
    "post_padding": _dims,
    "padding_mode": _enum,
}
_CONVOLUTION: _Readers = {
    **_WINDOW,
    "kernel_size_nd": _dims,
    "dilation_nd": _dims,
    "num_groups": int,
    "num_output_maps": int,
}
_QUANTIZE: _Readers = {"axis": int, "to_type": _dtype}

#: LayerType name -> (class name in the bindings, attribute readers).
_LAYERS: Mapping[str, tuple[str, _Readers]] = MappingProxyType(
    {
        "ACTIVATION": ("IActivationLayer", {"type": _enum, "alpha": float, "beta": float}),
        "ASSERTION": ("IAssertionLayer", {"message": str}),
        "ATTENTION_INPUT": ("IAttentionInputLayer", {}),
        "ATTENTION_OUTPUT": ("IAttentionOutputLayer", {}),
        "CAST": ("ICastLayer", {"to_type": _dtype}),
        "CONCATENATION": ("IConcatenationLayer", {"axis": int}),
        "CONDITION": ("IConditionLayer", {}),
        "CONDITIONAL_INPUT": ("IIfConditionalInputLayer", {}),
        "CONDITIONAL_OUTPUT": ("IIfConditionalOutputLayer", {}),
        "CONSTANT": ("IConstantLayer", {"shape": _dims}),
        "CONVOLUTION": ("IConvolutionLayer", _CONVOLUTION),
        "CUMULATIVE": ("ICumulativeLayer", {"op": _enum, "exclusive": bool, "reverse": bool}),
        "DECONVOLUTION": ("IDeconvolutionLayer", _CONVOLUTION),
        "DEQUANTIZE": ("IDequantizeLayer", _QUANTIZE),
        "DYNAMIC_QUANTIZE": (
            "IDynamicQuantizeLayer",
            {"axis": int, "block_size": int, "to_type": _dtype, "scale_type": _dtype},
        ),
        "EINSUM": ("IEinsumLayer", {"equation": str}),
        "ELEMENTWISE": ("IElementWiseLayer", {"op": _enum}),
        "FILL": (
            "IFillLayer",
            {"operation": _enum, "shape": _dims, "to_type": _dtype, "alpha": _number, "beta": _number},
        ),
        "GATHER": ("IGatherLayer", {"mode": _enum, "axis": int, "num_elementwise_dims": int}),
        "GRID_SAMPLE": (
            "IGridSampleLayer",
            {"interpolation_mode": _enum, "sample_mode": _enum, "align_corners": bool},
        ),
        "IDENTITY": ("IIdentityLayer", {}),
        "ITERATOR": ("IIteratorLayer", {"axis": int, "reverse": bool}),
        "KV_CACHE_UPDATE": ("IKVCacheUpdateLayer", {"cache_mode": _enum}),
        "LOOP_OUTPUT": ("ILoopOutputLayer", {"kind": _enum, "axis": int}),
        "LRN": ("ILRNLayer", {"window_size": int, "alpha": float, "beta": float, "k": float}),
        "MATRIX_MULTIPLY": ("IMatrixMultiplyLayer", {"op0": _enum, "op1": _enum}),
        "MOE": ("IMoELayer", {"activation_type": _enum, "quantization_to_type": _enum}),
        "NMS": ("INMSLayer", {"bounding_box_format": _enum, "topk_box_limit": int}),
        "NON_ZERO": ("INonZeroLayer", {}),
        "NORMALIZATION": (
            "INormalizationLayer",
            {"epsilon": float, "axes": _axes, "num_groups": int},
        ),
        "ONE_HOT": ("IOneHotLayer", {"axis": int}),
        "PADDING": ("IPaddingLayer", {"pre_padding_nd": _dims, "post_padding_nd": _dims}),
        "PARAMETRIC_RELU": ("IParametricReLULayer", {}),
        "POOLING": (
            "IPoolingLayer",
            {
                **_WINDOW,
                "type": _enum,
                "window_size_nd": _dims,
                "blend_factor": float,
                "average_count_excludes_padding": bool,
            },
        ),
        "QUANTIZE": ("IQuantizeLayer", _QUANTIZE),
        "RAGGED_SOFTMAX": ("IRaggedSoftMaxLayer", {}),
        "RECURRENCE": ("IRecurrenceLayer", {}),
        "REDUCE": ("IReduceLayer", {"op": _enum, "axes": _axes, "keep_dims": bool}),
        "RESIZE": (
            "IResizeLayer",
            {
                "resize_mode": _enum,
                "coordinate_transformation": _enum,
                "selector_for_single_pixel": _enum,
                "nearest_rounding": _enum,
                "exclude_outside": bool,
                "cubic_coeff": float,
            },
        ),
        "REVERSE_SEQUENCE": ("IReverseSequenceLayer", {"batch_axis": int, "sequence_axis": int}),
        "ROTARY_EMBEDDING": ("IRotaryEmbeddingLayer", {"interleaved": bool, "rotary_embedding_dim": int}),
        "SCALE": ("IScaleLayer", {"mode": _enum, "channel_axis": int}),
        "SCATTER": ("IScatterLayer", {"mode": _enum, "axis": int}),
        "SELECT": ("ISelectLayer", {}),
        "SHAPE": ("IShapeLayer", {}),
        "SHUFFLE": (
            "IShuffleLayer",
            {
                "first_transpose": _permutation,
                "reshape_dims": _dims,
                "second_transpose": _permutation,
                "zero_is_placeholder": bool,
            },
        ),
        "SLICE": ("ISliceLayer", {"start": _dims, "shape": _dims, "stride": _dims, "mode": _enum}),
        "SOFTMAX": ("ISoftMaxLayer", {"axes": _axes}),
        "SQUEEZE": ("ISqueezeLayer", {}),
        "TOPK": ("ITopKLayer", {"op": _enum, "k": int, "axes": _axes}),
        "TRIP_LIMIT": ("ITripLimitLayer", {"kind": _enum}),
        "UNARY": ("IUnaryLayer", {"op": _enum}),
        "UNSQUEEZE": ("IUnsqueezeLayer", {}),
    }
)

#: LayerType name (all of `LAYER_TYPES`) -> the name of its class in the bindings.
LAYER_CLASSES: Mapping[str, str] = MappingProxyType({kind: entry[0] for kind, entry in _LAYERS.items()})

#: LayerType name -> roles of its own weights, with the attribute that shows them.
_WEIGHTS: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        "CONSTANT": {"weights": "weights"},
        "CONVOLUTION": {"kernel": "kernel", "bias": "bias"},
        "DECONVOLUTION": {"kernel": "kernel", "bias": "bias"},
        "SCALE": {"shift": "shift", "scale": "scale", "power": "power"},
    }
)

_ATTENTION: _Readers = {
    "norm_op": _enum,
    "decomposable": bool,
    "causal_kind": _enum,
    "causal": bool,
    "query_form": _enum,
    "key_value_form": _enum,
}

#: Attributes that bindings of some version do not have.
_OPTIONAL: Mapping[str, _Readers] = MappingProxyType(
    {
        "DYNAMIC_QUANTIZE": {"block_shape": _dims},
        "QUANTIZE": {"block_shape": _dims},
        "DEQUANTIZE": {"block_shape": _dims},
        "SLICE": {"axes": _dims},
        "FILL": {"is_alpha_beta_int64": bool},
        "NORMALIZATION": {"is_v2": bool},
        "KV_CACHE_UPDATE": {"update_form": _enum},
    }
)


#: Attributes that a set input replaces; their getters then log a warning, so they are not read.
_GIVEN_BY_INPUT: Mapping[str, Mapping[str, int]] = MappingProxyType(
    {
        "SHUFFLE": {"reshape_dims": 1},
        "SLICE": {"start": 1, "shape": 2, "stride": 3},
        "FILL": {"shape": 0, "alpha": 1, "beta": 2},
        "TOPK": {"k": 1},
    }
)


class _Reader:
    def __init__(self, trt: Any, network: Any, weights_of: WeightsOf | None) -> None:
        self.trt = trt
        self.network = network
        self.weights_of = weights_of
        self.type_of = trt.ILayer.type.fget  # `.type` of a subclass may be something else (ActivationType)
        self.ids: dict[Any, int] = {}
        self.tensors: list[TensorInfo] = []
        self.regions: dict[Any, int] = {}

    def read(self) -> NetworkSnapshot:
        network = self.network
        inputs = tuple(self._tensor(network.get_input(i)) for i in range(network.num_inputs))
        layers = tuple(self.read_layer(i) for i in range(network.num_layers))
        outputs = tuple(self._tensor(network.get_output(i)) for i in range(network.num_outputs))
        return NetworkSnapshot(layers, tuple(self.tensors), inputs, outputs, network.name)

    def _tensor(self, tensor: Any) -> int:
        found = self.ids.get(tensor)
        if found is None:
            found = self.ids[tensor] = len(self.tensors)
            try:
                shape = _dims(tensor.shape) or ()
            except RuntimeError as error:
                message = f"TensorRT finds no shape for tensor {tensor.name!r}: {error}"
                raise ConversionError(message) from error
            self.tensors.append(TensorInfo(tensor.name, _dtype(tensor.dtype), shape))
        return found

    def read_layer(self, index: int) -> LayerSnapshot:
        layer = self.network.get_layer(index)
        kind = _enum(self.type_of(layer))
        if kind not in _LAYERS:
            raise ConversionError(
                f"layer {layer.name!r} is of type {kind}, which trtcore cannot read back",
                advice="build without a reference snapshot, or keep this op in torch with torch_executed_ops",
            )
        name, metadata = layer.name, layer.metadata
        inputs = tuple(
            None if tensor is None else self._tensor(tensor)
            for tensor in (layer.get_input(i) for i in range(layer.num_inputs))
        )
        outputs = tuple(self._tensor(layer.get_output(i)) for i in range(layer.num_outputs))
        class_name, readers = _LAYERS[kind]
        layer.__class__ = getattr(self.trt, class_name)
        given = _GIVEN_BY_INPUT.get(kind, {})
        attributes = {
            key: None if key in given and _is_set(inputs, given[key]) else reader(getattr(layer, key))
            for key, reader in readers.items()
        }
        for key, reader in _OPTIONAL.get(kind, {}).items():
            attributes[key] = _read_optional(layer, key, reader)
        self._adjust(kind, layer, attributes, inputs)
        if kind == "ATTENTION_OUTPUT":
            inputs = self._operands(layer.attention)
        constants = self._constants(kind, layer, index, name, attributes)
        return LayerSnapshot(
            index,
            name,
            kind,
            MappingProxyType(attributes),
            inputs,
            outputs,
            MappingProxyType(constants),
            metadata,
        )

    def _adjust(
        self, kind: str, layer: Any, attributes: dict[str, Any], inputs: tuple[int | None, ...]
    ) -> None:
        """What one getter alone does not say."""
        if kind == "SHUFFLE":
            rank = len(self.tensors[_first(inputs)].shape)
            attributes["first_transpose"] = attributes["first_transpose"][:rank]
            dims = attributes["reshape_dims"]
            if _is_set(inputs, 1):
                rank = self.tensors[_first(inputs[1:])].shape[0]
            elif dims is not None:
                rank = len(dims)
            attributes["second_transpose"] = attributes["second_transpose"][:rank]
        elif kind == "RESIZE":
            # either a shape or scales; the getter of what is not set logs a line
            dynamic = _is_set(inputs, 1)
            attributes["shape"] = shape = None if dynamic else _dims(layer.shape)
            attributes["scales"] = None if dynamic or shape else _floats(layer.scales)
        elif kind in ("ATTENTION_INPUT", "ATTENTION_OUTPUT"):
            attention = layer.attention
            attributes["attention"] = self._region(attention)
            if kind == "ATTENTION_OUTPUT":
                # not normalization_quantize_to_type: it logs an error unless set, which its scale tells
                attributes |= {k: _read_optional(attention, k, reader) for k, reader in _ATTENTION.items()}
        elif kind in ("RECURRENCE", "ITERATOR", "TRIP_LIMIT", "LOOP_OUTPUT"):
            attributes["loop"] = self._region(layer.loop)
        elif kind in ("CONDITION", "CONDITIONAL_INPUT", "CONDITIONAL_OUTPUT"):
            attributes["conditional"] = self._region(layer.conditional)

    def _operands(self, attention: Any) -> tuple[int | None, ...]:
        found = [attention.get_input(i) for i in range(3)]
        found += [getattr(attention, role, None) for role in ATTENTION_OPERANDS[3:]]
        return tuple(None if tensor is None else self._tensor(tensor) for tensor in found)

    def _region(self, owner: Any) -> int:
        """A number for a loop, conditional or attention, the same for all its boundary layers."""
        return self.regions.setdefault(owner, len(self.regions))

    def _constants(
        self, kind: str, layer: Any, index: int, name: str, attributes: Mapping[str, Any]
    ) -> dict[str, torch.Tensor]:
        found = {}
        for role, attribute in _WEIGHTS.get(kind, {}).items():
            tensor = self.weights_of(index, role) if self.weights_of is not None else None
            if tensor is None:
                tensor = _copy_view(getattr(layer, attribute), f"{role} of layer {name!r}")
            if kind == "CONSTANT":
                tensor = self._shaped(tensor, attributes["shape"], layer, name)
            if tensor is not None and (tensor.numel() or kind == "CONSTANT"):
                found[role] = tensor.detach()
        return found

    def _shaped(
        self, tensor: torch.Tensor | None, shape: tuple[int, ...], layer: Any, name: str
    ) -> torch.Tensor:
        """A constant in the layer's shape. Packed 4-bit constants (two values a byte) stay flat."""
        if tensor is None:
            return torch.empty(shape, dtype=_dtype(layer.get_output(0).dtype))
        if tensor.numel() == math.prod(shape):
            return tensor.detach().reshape(shape)
        if _dtype(layer.get_output(0).dtype) in (TORCH_DTYPES["INT4"], TORCH_DTYPES["FP4"]):
            return tensor
        raise ConversionError(f"constant {name!r} has {tensor.numel()} values for shape {shape}")


def _address(weights: Any) -> Any:
    """Of the first number, where the bindings say it, and how many there are."""
    interface = getattr(weights, "__array_interface__", None)
    return (interface["data"][0] if interface else None, 0 if weights is None else weights.size)


def _is_set(inputs: tuple[int | None, ...], index: int) -> bool:
    return index < len(inputs) and inputs[index] is not None


def _first(inputs: tuple[int | None, ...]) -> int:
    found = inputs[0]
    assert found is not None
    return found


def _read_optional(owner: Any, key: str, reader: Callable[[Any], Any]) -> Any:
    """An attribute that may be missing or unset: `block_shape` raises unless it was set."""
    try:
        value = getattr(owner, key)
    except (AttributeError, ValueError, RuntimeError):
        return None
    return None if value is None else reader(value)


def _copy_view(weights: Any, what: str) -> torch.Tensor | None:
    """Copy weights that the bindings show as a numpy array; None for empty weights."""
    import numpy as np

    if isinstance(weights, np.ndarray):
        return torch.from_numpy(np.array(weights, order="C")) if weights.size else None
    if weights is None or weights.size == 0:
        return None
    raise ConversionError(
        f"cannot read back the {what}: TensorRT shows no data for weights of type {weights.dtype}",
        advice="make the weights with ctx.weights(tensor), which records the tensor for the snapshot",
    )
