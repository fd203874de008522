"""What a backend can really do: one minimal network per feature, built for the target.

That a method exists says little: TensorRT refuses many layers only at the build. A probe is the smallest
network that has the layer; the feature is there when TensorRT builds it. Tables, from feature name to
probe, are at the end.
"""

from __future__ import annotations

import difflib
import hashlib
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from trtcore.pack import Capability

if TYPE_CHECKING:
    from trtcore.pack import Backend, Target

_DTYPES: Mapping[str, str] = {
    "float32": "FLOAT",
    "float16": "HALF",
    "bfloat16": "BF16",
    "int32": "INT32",
    "int64": "INT64",
    "bool": "BOOL",
}
# What TensorRT says about a setting that it drops; TensorRT-RTX's hardware compatibility, its timing cache
# (a DeprecationWarning of the bindings), helper streams on a machine without a driver.
_IGNORED = re.compile(r"unsupported in|no-ops?\b|\bignored\b|disabled because", re.IGNORECASE)


class Net:
    """The network a probe builds, with short names for what every probe needs.

    Attributes:
        trt: the bindings.
        net: the network.
        dtype: the dtype under test, a `_DTYPES` key.
        config: the builder config, for probes of settings.
    """

    def __init__(self, backend: Backend, builder: Any, config: Any, dtype: str) -> None:
        self.trt = backend.trt
        self.builder = builder
        self.net = backend.create_network(builder)
        self.config = config
        self.dtype = dtype
        self.alive: list[Any] = []

    def type(self, name: str | None = None) -> Any:
        """The `trt.DataType` of a dtype name; None is the dtype under test."""
        return getattr(self.trt.DataType, _DTYPES.get(name or self.dtype, name or self.dtype))

    def input(self, *shape: int, dtype: str | None = None) -> Any:
        """A new network input."""
        return self.net.add_input(f"x{self.net.num_inputs}", self.type(dtype), shape)

    def weights(self, values: Any, dtype: str = "float32") -> Any:
        """`trt.Weights` of an array; the memory lives as long as the network."""
        array = np.array(values, dtype="float32" if dtype == "bfloat16" else dtype, order="C")
        self.alive.append(array)
        if dtype != "bfloat16":
            return self.trt.Weights(array)
        bits = (array.view(np.uint32) >> 16).astype(np.uint16)  # numpy has no bfloat16
        self.alive.append(bits)
        return self.trt.Weights(self.type(dtype), bits.ctypes.data, bits.size)

    def constant(self, values: Any, dtype: str = "float32") -> Any:
        """A constant tensor."""
        return self.net.add_constant(np.shape(values), self.weights(values, dtype)).get_output(0)

    def floats(self, *shape: int) -> Any:
        """A constant of ones of the dtype under test."""
        return self.constant(np.ones(shape), self.dtype)

    def out(self, *tensors: Any) -> None:
        """Mark network outputs."""
        for tensor in tensors:
            self.net.mark_output(tensor)


Probe = Callable[[Net], None]


def probe(backend: Backend, feature: str, target: Target) -> Capability:
    """Build the probe of a feature (20 ms or so) and say whether TensorRT took it, or its message."""
    trt = backend.trt
    method = _layer_method(feature)
    if method is not None and not hasattr(trt.INetworkDefinition, method):
        return Capability(False, f"{backend.name} {backend.version} has no INetworkDefinition.{method}")
    if feature not in PROBES:
        return Capability(True, "the API has it; trtcore has no probe for it")
    dtype, run = PROBES[feature]
    return _run(backend, target, dtype, run, is_layer=method is not None)


def _run(backend: Backend, target: Target, dtype: str, run: Probe, is_layer: bool) -> Capability:
    if target.device is not None:
        with torch.cuda.device(target.device):  # a builder belongs to the GPU that is current
            return _ask(backend, target, dtype, run, is_layer)
    return _ask(backend, target, dtype, run, is_layer)


def _ask(backend: Backend, target: Target, dtype: str, run: Probe, is_layer: bool) -> Capability:
    logger = backend.make_logger()
    builder = backend.make_builder(logger)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            config = builder.create_builder_config()
            backend.set_target(config, target, logger)
            net = Net(backend, builder, config, dtype)
            run(net)
            plan = builder.build_serialized_network(net.net, config)
        except _Missing as missing:
            return Capability(False, f"{backend.name} {backend.version} has no {missing}")
        except Exception as error:  # pybind raises TypeError, RuntimeError, AttributeError
            lines = logger.errors()
            return Capability(
                False, " | ".join(lines[:3]) or f"{type(error).__name__}: {error}".splitlines()[0]
            )
    said = [text for text in logger.since(0) if _IGNORED.search(text)]
    said += [str(w.message) for w in caught if _IGNORED.search(str(w.message))]
    errors = logger.errors()
    if plan is None:
        return Capability(False, " | ".join((errors or logger.since(0))[:3]) or "TensorRT built nothing")
    if not is_layer and (errors or said):
        return Capability(False, " | ".join([*errors, *said][:3]))
    return Capability(True)


class _Missing(Exception):
    """The bindings lack a name."""


def _member(owner: Any, name: str) -> Any:
    """A name of the bindings. Properties are asked of their class: TensorRT for RTX 1.7 may crash when it is asked for
    the value of one that it does not support (hardware_compatibility_level)."""
    if not hasattr(owner, name):
        raise _Missing(f"{getattr(owner, '__name__', type(owner).__name__)}.{name}")
    return getattr(owner, name)


def _layer_method(feature: str) -> str | None:
    kind, _, rest = feature.partition(":")
    return rest.split(":")[0] if kind == "layer" else None


def revision() -> str:
    """Changes with this file, so that kept answers of other probes are asked again."""
    return hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:16]


def check_feature(backend: Backend, feature: str) -> None:
    """Raise ValueError for a name that no probe and no network method of the backend has."""
    if feature in PROBES:
        return
    method = _layer_method(feature)
    plain = method is not None and feature == f"layer:{method}" and method.startswith("add_")
    if plain and hasattr(backend.trt.INetworkDefinition, str(method)):
        return  # newer than this file
    near = difflib.get_close_matches(feature, PROBES, n=5, cutoff=0.6)
    others = sorted(name for name in PROBES if name.count(":") < 2)
    raise ValueError(
        f"there is no feature {feature!r}; "
        + (f"nearest: {', '.join(near)}; " if near else "")
        + f"known, layers also with a dtype ('layer:add_unary:float16'): {', '.join(others)}"
    )


# -- probes of layers -------------------------------------------------------------------------------------


def _activation(p: Net) -> None:
    p.out(p.net.add_activation(p.input(2, 3), p.trt.ActivationType.RELU).get_output(0))


def _assertion(p: Net) -> None:
    x = p.input(2, 3)
    p.net.add_assertion(p.constant([True], "bool"), "holds")
    p.out(p.net.add_identity(x).get_output(0))


def _attention(p: Net) -> None:
    q, k, v = (p.input(1, 2, 8, 16) for _ in range(3))
    p.out(p.net.add_attention(q, k, v, p.trt.AttentionNormalizationOp.SOFTMAX, False).get_output(0))


def _attention_v2(p: Net, decomposable: bool = False) -> None:
    q, k, v = (p.input(1, 2, 8, 16) for _ in range(3))
    kinds = _member(p.trt, "CausalMaskKind")
    attention = p.net.add_attention_v2(q, k, v, p.trt.AttentionNormalizationOp.SOFTMAX, kinds.NONE)
    if decomposable:
        attention.decomposable = True
    p.out(attention.get_output(0))


def _attention_v2_decomposable(p: Net) -> None:
    _attention_v2(p, decomposable=True)


def _cast(p: Net) -> None:
    other = "float32" if p.dtype != "float32" else "float16"
    p.out(p.net.add_cast(p.input(2, 3, dtype=other), p.type()).get_output(0))


def _concatenation(p: Net) -> None:
    p.out(p.net.add_concatenation([p.input(2, 3), p.input(2, 3)]).get_output(0))


def _constant(p: Net) -> None:
    constant = p.constant(np.ones((2, 3)), p.dtype)
    p.out(p.net.add_concatenation([p.input(2, 3), constant]).get_output(0))


def _convolution(p: Net) -> None:
    conv = p.net.add_convolution_nd(p.input(1, 2, 8, 8), 4, (3, 3), p.trt.Weights())
    conv.set_input(1, p.floats(4, 2, 3, 3))
    p.out(conv.get_output(0))


def _deconvolution(p: Net, stride: int = 1, dilation: int = 1) -> None:
    deconv = p.net.add_deconvolution_nd(p.input(1, 2, 8, 8), 4, (3, 3), p.trt.Weights())
    deconv.set_input(1, p.floats(2, 4, 3, 3))
    deconv.stride_nd = (stride, stride)
    deconv.dilation_nd = (dilation, dilation)
    p.out(deconv.get_output(0))


def _deconvolution_strided(p: Net) -> None:
    _deconvolution(p, stride=2)


def _deconvolution_dilated(p: Net) -> None:
    _deconvolution(p, dilation=2)


def _deconvolution_strided_dilated(p: Net) -> None:
    _deconvolution(p, stride=2, dilation=2)


def _cumulative(p: Net) -> None:
    axis = p.constant(1, "int32")
    op = _member(p.trt, "CumulativeOperation").SUM
    p.out(p.net.add_cumulative(p.input(2, 3), axis, op, False, False).get_output(0))


def _quantize_to(name: str, scale_shape: tuple[int, ...] = ()) -> Probe:
    def run(p: Net) -> None:
        scale = p.constant(np.full(scale_shape, 0.5))
        quantized = p.net.add_quantize(p.input(32, 32), scale, p.type(name)).get_output(0)
        p.out(p.net.add_dequantize(quantized, scale, p.type("float32")).get_output(0))

    return run


def _int4_weights(p: Net) -> None:
    """Blocks of 32 along a row, and a product that reads them."""
    p.out(_times_weights(p, "INT4", 2, p.constant(np.ones((16, 2)))))


def _fp4_weights(p: Net) -> None:
    """nvfp4: blocks of 16, scales in fp8 that have a scale themselves."""
    scales = _raw_constant(p, "FP8", (16, 4), 1)
    p.out(
        _times_weights(
            p, "FP4", 2, p.net.add_dequantize(scales, p.constant(0.5), p.type("float32")).get_output(0)
        )
    )


def _mxfp8_weights(p: Net) -> None:
    p.out(_times_weights(p, "FP8", 1, _raw_constant(p, "E8M0", (16, 2), 1), (1, 32)))


def _fp8_block_weights(p: Net) -> None:
    """Blocks of two dims."""
    p.out(_times_weights(p, "FP8", 1, p.constant(np.ones((1, 2))), (16, 32)))


def _raw_constant(p: Net, name: str, shape: tuple[int, int], to_a_byte: int) -> Any:
    values = np.ones(shape[0] * shape[1] // to_a_byte, np.uint8)
    p.alive.append(values)
    dtype = _member(p.trt.DataType, name)
    weights = p.trt.Weights(dtype, values.ctypes.data, shape[0] * shape[1])
    return p.net.add_constant(shape, weights).get_output(0)


def _times_weights(
    p: Net, name: str, to_a_byte: int, scale: Any, block: tuple[int, int] | None = None
) -> Any:
    weights = _raw_constant(p, name, (16, 64), to_a_byte)
    dequantize = p.net.add_dequantize(weights, scale, p.type("float32"))
    if block is not None:
        dequantize.block_shape = p.trt.Dims(block)
    none, transposed = p.trt.MatrixOperation.NONE, p.trt.MatrixOperation.TRANSPOSE
    product = p.net.add_matrix_multiply(p.input(4, 64), none, dequantize.get_output(0), transposed)
    return product.get_output(0)


def _zero_point(p: Net) -> None:
    scale = p.constant(0.5)
    quantize = p.net.add_quantize(p.input(4, 8), scale, p.type("INT8"))
    quantize.set_input(2, p.constant(3, "int8"))
    dequantize = p.net.add_dequantize(quantize.get_output(0), scale, p.type("float32"))
    dequantize.set_input(2, p.constant(3, "int8"))
    p.out(dequantize.get_output(0))


def _dist_collective(p: Net) -> None:
    op = _member(p.trt, "CollectiveOperation").ALL_REDUCE
    layer = p.net.add_dist_collective(p.input(2, 3), op, p.trt.ReduceOperation.SUM, -1, [])
    p.out(layer.get_output(0))


def _dynamic_quantize(p: Net) -> None:
    """nvfp4: blocks of 16, scales in fp8 that have a scale themselves."""
    fp4, fp8 = _member(p.trt.DataType, "FP4"), _member(p.trt.DataType, "FP8")
    layer = p.net.add_dynamic_quantize(p.input(32, 64), 1, 16, fp4, fp8)
    layer.set_input(1, p.constant(1.0))
    scale = p.net.add_dequantize(layer.get_output(1), p.constant(1.0), p.type("float32")).get_output(0)
    p.out(p.net.add_dequantize(layer.get_output(0), scale, p.type("float32")).get_output(0))


def _dynamic_quantize_v2(p: Net) -> None:
    """mxfp8: blocks of 32, power-of-two scales."""
    fp8, e8m0 = _member(p.trt.DataType, "FP8"), _member(p.trt.DataType, "E8M0")
    layer = p.net.add_dynamic_quantize_v2(p.input(32, 64), p.trt.Dims([1, 32]), fp8, e8m0)
    back = p.net.add_dequantize(layer.get_output(0), layer.get_output(1), p.type("float32"))
    back.block_shape = p.trt.Dims([1, 32])
    p.out(back.get_output(0))


def _einsum(p: Net) -> None:
    p.out(p.net.add_einsum([p.input(2, 3), p.input(3, 4)], "ij,jk->ik").get_output(0))


def _elementwise(op: str) -> Probe:
    def run(p: Net) -> None:
        operation = getattr(p.trt.ElementWiseOperation, op)
        p.out(p.net.add_elementwise(p.input(2, 3), p.input(2, 3), operation).get_output(0))

    return run


def _fill(p: Net) -> None:
    layer = p.net.add_fill((4,), p.trt.FillOperation.LINSPACE, p.type())
    if p.dtype in ("float32", "float16", "bfloat16"):
        layer.alpha, layer.beta = 0.0, 1.0
    else:
        layer.set_input(1, p.constant(0, p.dtype))
        layer.set_input(2, p.constant([1], p.dtype))
    p.out(
        p.net.add_elementwise(p.input(4), layer.get_output(0), p.trt.ElementWiseOperation.SUM).get_output(0)
    )


def _gather(p: Net) -> None:
    p.out(p.net.add_gather(p.input(4, 3), p.input(2, dtype="int64"), 0).get_output(0))


def _gather_v2(p: Net) -> None:
    layer = p.net.add_gather_v2(p.input(4, 3), p.input(2, 3, dtype="int64"), p.trt.GatherMode.ELEMENT)
    p.out(layer.get_output(0))


def _grid_sample(p: Net) -> None:
    p.out(p.net.add_grid_sample(p.input(1, 1, 4, 4), p.input(1, 3, 3, 2)).get_output(0))


def _identity(p: Net) -> None:
    p.out(p.net.add_identity(p.input(2, 3)).get_output(0))


def _if_conditional(p: Net) -> None:
    x = p.input(2, 3)
    conditional = p.net.add_if_conditional()
    conditional.set_condition(p.net.add_input("condition", p.trt.DataType.BOOL, ()))
    inner = conditional.add_input(x).get_output(0)
    then = p.net.add_activation(inner, p.trt.ActivationType.RELU).get_output(0)
    otherwise = p.net.add_identity(inner).get_output(0)
    p.out(conditional.add_output(then, otherwise).get_output(0))


def _kv_cache_update(p: Net) -> None:
    mode = _member(p.trt, "KVCacheMode").LINEAR
    cache, update = p.input(1, 2, 16, 8), p.input(1, 2, 1, 8)
    p.out(p.net.add_kv_cache_update(cache, update, p.input(1, dtype="int32"), mode).get_output(0))


def _loop(p: Net) -> None:
    x = p.input(2, 3)
    loop = p.net.add_loop()
    loop.add_trip_limit(p.constant(3, "int32"), p.trt.TripLimit.COUNT)
    recurrence = loop.add_recurrence(x)
    body = p.net.add_elementwise(recurrence.get_output(0), x, p.trt.ElementWiseOperation.SUM).get_output(0)
    recurrence.set_input(1, body)
    p.out(loop.add_loop_output(recurrence.get_output(0), p.trt.LoopOutput.LAST_VALUE).get_output(0))


def _lrn(p: Net) -> None:
    p.out(p.net.add_lrn(p.input(1, 4, 4, 4), 3, 1e-4, 0.75, 1.0).get_output(0))


def _matrix_multiply(p: Net) -> None:
    none = p.trt.MatrixOperation.NONE
    p.out(p.net.add_matrix_multiply(p.input(2, 3), none, p.input(3, 4), none).get_output(0))


def _moe(p: Net) -> None:
    hidden, experts, scores = p.input(1, 4, 16), p.input(1, 4, 2, dtype="int32"), p.input(1, 4, 2)
    layer = p.net.add_moe(hidden, experts, scores)
    gate, up, down = p.floats(4, 16, 32), p.floats(4, 16, 32), p.floats(4, 32, 16)
    layer.set_gated_weights(gate, up, down, _member(p.trt, "MoEActType").SILU)
    p.out(layer.get_output(0))


def _nms(p: Net) -> None:
    layer = p.net.add_nms(p.input(1, 4, 4), p.input(1, 4, 2), p.constant(3, "int32"))
    p.out(layer.get_output(0))


def _non_zero(p: Net) -> None:
    p.out(p.net.add_non_zero(p.input(2, 3)).get_output(0))


def _normalization(p: Net) -> None:
    x, scale, bias = p.input(2, 4, 4, 4), p.floats(1, 4, 1, 1), p.floats(1, 4, 1, 1)
    p.out(p.net.add_normalization(x, scale, bias, 0b1100).get_output(0))


def _normalization_v2(p: Net) -> None:
    x, scale, bias = p.input(2, 4, 8), p.floats(1, 1, 8), p.floats(1, 1, 8)
    p.out(p.net.add_normalization_v2(x, scale, bias, 0b100).get_output(0))


def _one_hot(p: Net) -> None:
    values, depth = p.input(2), p.constant(4, "int32")
    p.out(p.net.add_one_hot(p.input(3, dtype="int32"), values, depth, -1).get_output(0))


def _padding(p: Net) -> None:
    p.out(p.net.add_padding_nd(p.input(1, 2, 4, 4), (1, 1), (1, 1)).get_output(0))


def _parametric_relu(p: Net) -> None:
    p.out(p.net.add_parametric_relu(p.input(1, 4, 4), p.floats(1, 4, 1)).get_output(0))


def _pooling(kind: str) -> Probe:
    def run(p: Net) -> None:
        p.out(
            p.net.add_pooling_nd(p.input(1, 2, 4, 4), getattr(p.trt.PoolingType, kind), (2, 2)).get_output(0)
        )

    return run


def _ragged_softmax(p: Net) -> None:
    p.out(p.net.add_ragged_softmax(p.input(2, 3, 4), p.input(2, 3, 1, dtype="int32")).get_output(0))


def _reduce(op: str) -> Probe:
    def run(p: Net) -> None:
        p.out(p.net.add_reduce(p.input(2, 3), getattr(p.trt.ReduceOperation, op), 2, True).get_output(0))

    return run


def _resize(p: Net) -> None:
    layer = p.net.add_resize(p.input(1, 1, 4, 4))
    layer.shape = (1, 1, 8, 8)
    p.out(layer.get_output(0))


def _reverse_sequence(p: Net) -> None:
    p.out(p.net.add_reverse_sequence(p.input(4, 2, 3), p.input(2, dtype="int32")).get_output(0))


def _rotary_embedding(p: Net) -> None:
    cos, sin = p.input(1, 8, 8), p.input(1, 8, 8)
    p.out(p.net.add_rotary_embedding(p.input(1, 2, 8, 16), cos, sin, False, 16).get_output(0))


def _scale(p: Net) -> None:
    one = p.weights(np.ones(1), p.dtype)
    p.out(p.net.add_scale(p.input(1, 2, 4, 4), p.trt.ScaleMode.UNIFORM, one, one, one).get_output(0))


def _scale_nd(p: Net) -> None:
    two = p.weights(np.ones(2), p.dtype)
    layer = p.net.add_scale_nd(p.input(1, 2, 4, 4), p.trt.ScaleMode.CHANNEL, two, two, two, 1)
    p.out(layer.get_output(0))


def _scatter(mode: str) -> Probe:
    def run(p: Net) -> None:
        indices = (2, 3) if mode == "ELEMENT" else (2, 1)
        args = p.input(4, 3), p.input(*indices, dtype="int64"), p.input(2, 3)
        p.out(p.net.add_scatter(*args, getattr(p.trt.ScatterMode, mode)).get_output(0))

    return run


def _select(p: Net) -> None:
    p.out(p.net.add_select(p.input(2, 3, dtype="bool"), p.input(2, 3), p.input(2, 3)).get_output(0))


def _shape(p: Net) -> None:
    p.out(p.net.add_shape(p.input(2, 3)).get_output(0))


def _shuffle(p: Net) -> None:
    layer = p.net.add_shuffle(p.input(2, 3))
    layer.reshape_dims = (3, 2)
    p.out(layer.get_output(0))


def _slice(p: Net) -> None:
    p.out(p.net.add_slice(p.input(4, 3), (1, 0), (2, 3), (1, 1)).get_output(0))


def _softmax(p: Net) -> None:
    p.out(p.net.add_softmax(p.input(2, 3)).get_output(0))


def _squeeze(p: Net) -> None:
    p.out(p.net.add_squeeze(p.input(2, 1, 3), p.constant([1], "int64")).get_output(0))


def _unsqueeze(p: Net) -> None:
    p.out(p.net.add_unsqueeze(p.input(2, 3), p.constant([1], "int64")).get_output(0))


def _topk(p: Net) -> None:
    layer = p.net.add_topk(p.input(2, 8), p.trt.TopKOperation.MAX, 3, 2)
    p.out(layer.get_output(0), layer.get_output(1))


def _unary(op: str) -> Probe:
    def run(p: Net) -> None:
        p.out(p.net.add_unary(p.input(2, 3), getattr(p.trt.UnaryOperation, op)).get_output(0))

    return run


# -- probes of settings: the smallest network with weights, under the setting ------------------------------


def _linear(p: Net) -> None:
    none = p.trt.MatrixOperation.NONE
    weight = p.constant(np.arange(64).reshape(8, 8))
    p.out(p.net.add_matrix_multiply(p.input(4, 8), none, weight, none).get_output(0))


def _flag(name: str, also: Sequence[str] = ()) -> Probe:
    def run(p: Net) -> None:
        for flag in (*also, name):
            p.config.set_flag(_member(p.trt.BuilderFlag, flag))
        _linear(p)

    return run


def _refit_individual(p: Net) -> None:
    p.config.set_flag(_member(p.trt.BuilderFlag, "REFIT_INDIVIDUAL"))
    none = p.trt.MatrixOperation.NONE
    weights = p.weights(np.arange(64).reshape(8, 8))
    constant = p.net.add_constant((8, 8), weights).get_output(0)
    p.net.set_weights_name(weights, "w")
    p.net.mark_weights_refittable("w")
    p.out(p.net.add_matrix_multiply(p.input(4, 8), none, constant, none).get_output(0))


def _attribute(attribute: str, enum: str, member: str) -> Probe:
    def run(p: Net) -> None:
        _member(type(p.config), attribute)
        setattr(p.config, attribute, _member(_member(p.trt, enum), member))
        _linear(p)

    return run


def _timing_cache(p: Net) -> None:
    cache = _member(p.config, "create_timing_cache")(b"")
    if not p.config.set_timing_cache(cache, False):
        raise RuntimeError("set_timing_cache returned False")
    _linear(p)


def _dla(p: Net) -> None:
    p.config.set_memory_pool_limit(p.trt.MemoryPoolType.DLA_MANAGED_SRAM, 1 << 20)
    if p.builder.num_DLA_cores == 0:
        raise RuntimeError("this machine has no DLA core")
    _linear(p)


def _aux_streams(p: Net) -> None:
    """Two branches, which could run on two streams."""
    _member(type(p.config), "max_aux_streams")
    p.config.max_aux_streams = 2
    x = p.input(64, 64)
    none = p.trt.MatrixOperation.NONE
    for factor in (1.0, 2.0):
        weight = p.constant(np.full((64, 64), factor))
        p.out(p.net.add_matrix_multiply(x, none, weight, none).get_output(0))


def _tiling(p: Net) -> None:
    levels = _member(p.trt, "TilingOptimizationLevel")
    _member(type(p.config), "tiling_optimization_level")
    p.config.tiling_optimization_level = levels.FAST
    p.config.l2_limit_for_tiling = 1 << 20
    _linear(p)


def _plugins(p: Net) -> None:
    """A plugin layer needs a plugin; that the method is there is what can be asked."""
    _member(p.trt.INetworkDefinition, "add_plugin_v3")
    _linear(p)


# -- tables -----------------------------------------------------------------------------------------------

# A layer's probe by its method; each also exists per dtype of `_DTYPES`, "layer:add_unary:float16".
_LAYERS: Mapping[str, Probe] = {
    "add_activation": _activation,
    "add_assertion": _assertion,
    "add_attention": _attention,
    "add_attention_v2": _attention_v2,
    "add_cast": _cast,
    "add_concatenation": _concatenation,
    "add_constant": _constant,
    "add_convolution_nd": _convolution,
    "add_cumulative": _cumulative,
    "add_deconvolution_nd": _deconvolution,
    "add_dequantize": _quantize_to("INT8"),
    "add_dist_collective": _dist_collective,
    "add_dynamic_quantize": _dynamic_quantize,
    "add_dynamic_quantize_v2": _dynamic_quantize_v2,
    "add_einsum": _einsum,
    "add_elementwise": _elementwise("SUM"),
    "add_fill": _fill,
    "add_gather": _gather,
    "add_gather_v2": _gather_v2,
    "add_grid_sample": _grid_sample,
    "add_identity": _identity,
    "add_if_conditional": _if_conditional,
    "add_kv_cache_update": _kv_cache_update,
    "add_loop": _loop,
    "add_lrn": _lrn,
    "add_matrix_multiply": _matrix_multiply,
    "add_moe": _moe,
    "add_nms": _nms,
    "add_non_zero": _non_zero,
    "add_normalization": _normalization,
    "add_normalization_v2": _normalization_v2,
    "add_one_hot": _one_hot,
    "add_padding_nd": _padding,
    "add_parametric_relu": _parametric_relu,
    "add_pooling_nd": _pooling("MAX"),
    "add_quantize": _quantize_to("INT8"),
    "add_ragged_softmax": _ragged_softmax,
    "add_reduce": _reduce("SUM"),
    "add_resize": _resize,
    "add_reverse_sequence": _reverse_sequence,
    "add_rotary_embedding": _rotary_embedding,
    "add_scale": _scale,
    "add_scale_nd": _scale_nd,
    "add_scatter": _scatter("ELEMENT"),
    "add_select": _select,
    "add_shape": _shape,
    "add_shuffle": _shuffle,
    "add_slice": _slice,
    "add_softmax": _softmax,
    "add_squeeze": _squeeze,
    "add_topk": _topk,
    "add_unary": _unary("ABS"),
    "add_unsqueeze": _unsqueeze,
    "add_plugin": _plugins,
    "add_plugin_v2": _plugins,
    "add_plugin_v3": _plugins,
}

# The plain name of a layer asks for float32, but of attention, which TensorRT-RTX has in lower precision.
_PLAIN_DTYPE: Mapping[str, str] = {"add_attention": "float16", "add_attention_v2": "float16"}

# Variants of a layer that TensorRT may take or refuse on their own.
_VARIANTS: Mapping[str, Probe] = {
    "add_attention_v2:decomposable": _attention_v2_decomposable,
    "add_dequantize:fp4": _fp4_weights,
    "add_dequantize:fp8_blocks": _fp8_block_weights,
    "add_dequantize:int4": _int4_weights,
    "add_dequantize:mxfp8": _mxfp8_weights,
    "add_deconvolution_nd:strided": _deconvolution_strided,
    "add_deconvolution_nd:dilated": _deconvolution_dilated,
    "add_deconvolution_nd:strided_dilated": _deconvolution_strided_dilated,
    "add_pooling_nd:average": _pooling("AVERAGE"),
    "add_quantize:int8": _quantize_to("INT8"),
    "add_quantize:fp8": _quantize_to("FP8"),
    "add_quantize:zero_point": _zero_point,
    "add_scatter:nd": _scatter("ND"),
}

_FLAGS: Mapping[str, Probe] = {
    name: _flag(name)
    for name in (
        "DEBUG", "DIRECT_IO", "DISABLE_COMPILATION_CACHE", "DISABLE_TIMING_CACHE", "GPU_FALLBACK",
        "DISTRIBUTIVE_INDEPENDENCE", "EDITABLE_TIMING_CACHE", "ERROR_ON_TIMING_CACHE_MISS",
        "MONITOR_MEMORY", "REFIT", "REFIT_IDENTICAL", "REQUIRE_USER_ALLOCATION", "SAFETY_SCOPE",
        "SPARSE_WEIGHTS", "STRICT_NANS", "STRIP_PLAN", "TF32", "VERSION_COMPATIBLE", "WEIGHT_STREAMING",
    )
} | {
    "EXCLUDE_LEAN_RUNTIME": _flag("EXCLUDE_LEAN_RUNTIME", also=["VERSION_COMPATIBLE"]),
    "REFIT_INDIVIDUAL": _refit_individual,
}  # fmt: skip

_SETTINGS: Mapping[str, Probe] = {
    "dla": _dla,
    "engine_capability:DLA_STANDALONE": _attribute("engine_capability", "EngineCapability", "DLA_STANDALONE"),
    "engine_capability:SAFETY": _attribute("engine_capability", "EngineCapability", "SAFETY"),
    "hardware_compatible": _attribute(
        "hardware_compatibility_level", "HardwareCompatibilityLevel", "AMPERE_PLUS"
    ),
    "max_aux_streams": _aux_streams,
    "network:plugins": _plugins,
    "platform:WINDOWS": _attribute("runtime_platform", "RuntimePlatform", "WINDOWS_AMD64"),
    "tiling": _tiling,
    "timing_cache": _timing_cache,
    "version_compatible": _flag("VERSION_COMPATIBLE"),
}

PROBES: Mapping[str, tuple[str, Probe]] = {
    **{f"layer:{name}": (_PLAIN_DTYPE.get(name, "float32"), run) for name, run in _LAYERS.items()},
    **{f"layer:{name}:{dtype}": (dtype, run) for name, run in _LAYERS.items() for dtype in _DTYPES},
    **{f"layer:{name}": ("float32", run) for name, run in _VARIANTS.items()},
    **{f"flag:{name}": ("float32", run) for name, run in _FLAGS.items()},
    **{name: ("float32", run) for name, run in _SETTINGS.items()},
}
"""Feature name -> (dtype under test, probe)."""
