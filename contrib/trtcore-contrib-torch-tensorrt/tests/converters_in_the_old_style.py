"""Ten converters as a Torch-TensorRT project writes them; only the imports name trtcore."""

import numpy as np
import torch
from trtcore_contrib_torch_tensorrt import (
    ConversionContext,
    ConverterPriority,
    SourceIR,
    TRTTensor,
    dynamo_tensorrt_converter,
    has_static_shapes_in_args,
    impl,
    trt,
)
from trtcore_contrib_torch_tensorrt.converter_utils import (
    args_bounds_check,
    broadcast_to_same_shape,
    cast_trt_tensor,
    enforce_tensor_types,
    get_axes_for_reduce_op,
    get_positive_dim,
    get_trt_tensor,
    set_layer_name,
)

aten = torch.ops.aten


# 1: a layer of the network itself, named by hand, and an enum of the bindings
@dynamo_tensorrt_converter(aten.relu.default, priority=ConverterPriority.HIGH, supports_dynamic_shapes=True)
def relu(ctx: ConversionContext, target, args, kwargs, name):
    layer = ctx.net.add_activation(args[0], trt.ActivationType.RELU)
    set_layer_name(layer, target, name, SourceIR.ATEN)
    return layer.get_output(0)


# 2: optional arguments by position
@dynamo_tensorrt_converter(
    aten.leaky_relu.default, priority=ConverterPriority.HIGH, supports_dynamic_shapes=True
)
def leaky_relu(ctx, target, args, kwargs, name):
    slope = args_bounds_check(args, 1, 0.01)
    return impl.activation.convert_activation(
        ctx, target, SourceIR.ATEN, name, trt.ActivationType.LEAKY_RELU, args[0], alpha=slope
    )


# 3: a keyword argument, and composed arithmetic
def only_tanh(node, settings):
    assert settings.min_block_size >= 1
    return node.kwargs.get("approximate", "none") == "tanh"


@dynamo_tensorrt_converter(
    aten.gelu.default,
    capability_validator=only_tanh,
    priority=ConverterPriority.HIGH,
    supports_dynamic_shapes=True,
)
def gelu(ctx, target, args, kwargs, name):
    assert kwargs == {"approximate": "tanh"}
    x, ir = args[0], SourceIR.ATEN
    cube = impl.elementwise.pow(ctx, target, ir, f"{name}_cube", x, 3.0)
    small = impl.elementwise.mul(ctx, target, ir, f"{name}_small", cube, 0.044715)
    inner = impl.elementwise.add(ctx, target, ir, f"{name}_inner", x, small)
    scaled = impl.elementwise.mul(ctx, target, ir, f"{name}_scaled", inner, float(np.sqrt(2 / np.pi)))
    tanh = impl.activation.convert_activation(
        ctx, target, ir, f"{name}_tanh", trt.ActivationType.TANH, scaled
    )
    half = impl.elementwise.mul(ctx, target, ir, f"{name}_half", x, 0.5)
    return impl.elementwise.mul(
        ctx, target, ir, name, half, impl.elementwise.add(ctx, target, ir, name, tanh, 1.0)
    )


# 4: weights as constants, a matrix product, a broadcast bias
@dynamo_tensorrt_converter(aten.linear.default, priority=ConverterPriority.HIGH, supports_dynamic_shapes=True)
def linear(ctx, target, args, kwargs, name):
    weight = get_trt_tensor(ctx, args[1], f"{name}_weight")
    product = impl.matmul.matrix_multiply(
        ctx,
        target,
        SourceIR.ATEN,
        f"{name}_matmul",
        args[0],
        weight,
        other_matrix_op=trt.MatrixOperation.TRANSPOSE,
    )
    bias = args_bounds_check(args, 2)
    return product if bias is None else impl.elementwise.add(ctx, target, SourceIR.ATEN, name, product, bias)


# 5: a reduction with a mask of axes
@dynamo_tensorrt_converter(aten.amax.default, priority=ConverterPriority.HIGH, supports_dynamic_shapes=True)
def amax(ctx, target, args, kwargs, name):
    x = args[0]
    dims = args_bounds_check(args, 1, [])
    axes = get_axes_for_reduce_op(get_positive_dim(dims or range(len(x.shape)), len(x.shape)))
    layer = ctx.net.add_reduce(x, trt.ReduceOperation.MAX, axes, args_bounds_check(args, 2, False))
    set_layer_name(layer, target, name)
    return layer.get_output(0)


# 6: several ops in one function, a validator on positions
@dynamo_tensorrt_converter(aten.mean.dim, priority=ConverterPriority.HIGH, supports_dynamic_shapes=True)
@dynamo_tensorrt_converter(
    aten.sum.dim_IntList,
    capability_validator=has_static_shapes_in_args([0]),
    priority=ConverterPriority.HIGH,
)
def mean_or_sum(ctx, target, args, kwargs, name):
    reduce = impl.reduce.mean if target is aten.mean.dim else impl.reduce.sum
    return reduce(
        ctx,
        target,
        SourceIR.ATEN,
        name,
        args[0],
        args_bounds_check(args, 1),
        args_bounds_check(args, 2, False),
    )


# 7: types enforced by a decorator
@dynamo_tensorrt_converter(aten.where.self, priority=ConverterPriority.HIGH, supports_dynamic_shapes=True)
@enforce_tensor_types({0: (TRTTensor,), 1: (TRTTensor,), 2: (TRTTensor,)})
def where(ctx, target, args, kwargs, name):
    assert all(isinstance(value, TRTTensor) for value in args)
    a, b = broadcast_to_same_shape(ctx, target, SourceIR.ATEN, name, args[1], args[2])
    return impl.condition.where(ctx, target, SourceIR.ATEN, name, a, b, args[0])


# 8: shapes known at run time
@dynamo_tensorrt_converter(
    aten.flatten.using_ints, priority=ConverterPriority.HIGH, supports_dynamic_shapes=True
)
def flatten(ctx, target, args, kwargs, name):
    x = args[0]
    rank = len(x.shape)
    start = get_positive_dim(args_bounds_check(args, 1, 0), rank)
    end = get_positive_dim(args_bounds_check(args, 2, -1), rank)
    sizes = [impl.shape.shape(ctx, target, SourceIR.ATEN, f"{name}_{i}", x, i) for i in range(rank)]
    return impl.shuffle.reshape(ctx, target, SourceIR.ATEN, name, x, [*sizes[:start], -1, *sizes[end + 1 :]])


# 9: slices and concatenation
@dynamo_tensorrt_converter(aten.roll.default, priority=ConverterPriority.HIGH, supports_dynamic_shapes=True)
def roll(ctx, target, args, kwargs, name):
    (shift,), (dim,) = args[1], args[2]
    x, ir = args[0], SourceIR.ATEN
    tail = impl.slice.slice_op(ctx, target, ir, f"{name}_tail", x, dim, -shift, None, 1)
    head = impl.slice.slice_op(ctx, target, ir, f"{name}_head", x, dim, 0, -shift, 1)
    return impl.cat.cat(ctx, target, ir, name, [tail, head], dim)


# 10: a packet, casts, unary layers
@dynamo_tensorrt_converter(aten.logcumsumexp.default, enabled=False)
@dynamo_tensorrt_converter(torch.ops.old_style.softness.default, supports_dynamic_shapes=True)
def softness(ctx, target, args, kwargs, name):
    wide = cast_trt_tensor(ctx, args[0], trt.float32, name)
    turned = impl.permutation.permute(ctx, target, SourceIR.ATEN, f"{name}_t", wide, (1, 0))
    root = impl.unary.sqrt(ctx, target, SourceIR.ATEN, f"{name}_sqrt", turned)
    minus = impl.unary.convert_unary(ctx, target, SourceIR.ATEN, f"{name}_neg", trt.UnaryOperation.NEG, root)
    return cast_trt_tensor(ctx, impl.unary.exp(ctx, target, SourceIR.ATEN, name, minus), torch.float16, name)
