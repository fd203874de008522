"""Converters as a Torch-TensorRT project writes them, one or more per family of helpers; only the imports name
trtcore."""

import operator
from typing import Any, Dict, Optional, Sequence, Tuple, Union  # noqa: UP035 (as such files write)

import numpy as np
import torch
from torch.fx.node import Argument, Node, Target
from trtcore_contrib_torch_tensorrt import trt
from trtcore_contrib_torch_tensorrt._features import needs_not_tensorrt_rtx
from trtcore_contrib_torch_tensorrt._utils import is_tensorrt_version_supported
from trtcore_contrib_torch_tensorrt.dynamo._settings import CompilationSettings
from trtcore_contrib_torch_tensorrt.dynamo._SourceIR import SourceIR
from trtcore_contrib_torch_tensorrt.dynamo.conversion import impl
from trtcore_contrib_torch_tensorrt.dynamo.conversion._ConversionContext import ConversionContext
from trtcore_contrib_torch_tensorrt.dynamo.conversion._ConverterRegistry import (
    ConverterPriority,
    dynamo_tensorrt_converter,
    has_static_shapes_in_args,
)
from trtcore_contrib_torch_tensorrt.dynamo.conversion.converter_utils import (
    args_bounds_check,
    enforce_tensor_types,
    get_positive_dim,
    is_only_operator_on_placeholder,
)
from trtcore_contrib_torch_tensorrt.dynamo.conversion.impl.elementwise.base import convert_binary_elementwise
from trtcore_contrib_torch_tensorrt.dynamo.lowering.passes.fuse_distributed_ops import (
    tensorrt_fused_nccl_all_gather_op,
)
from trtcore_contrib_torch_tensorrt.dynamo.types import TRTTensor
from trtcore_contrib_torch_tensorrt.dynamo.utils import DYNAMIC_DIM

aten = torch.ops.aten
ATEN = SourceIR.ATEN
Result = Union[TRTTensor, Sequence[TRTTensor]]  # noqa: UP007


def converter(key: Target, validator: Any = None, dynamic: bool = True) -> Any:
    return dynamo_tensorrt_converter(
        key,
        capability_validator=validator,
        priority=ConverterPriority.HIGH,
        supports_dynamic_shapes=dynamic,
    )


tensor_first = enforce_tensor_types({0: (TRTTensor,)})
two_tensors = enforce_tensor_types({0: (TRTTensor,), 1: (TRTTensor,)})


def one_user(node: Node, settings: Optional[CompilationSettings] = None) -> bool:  # noqa: UP045
    users = list(node.users)
    return len(users) == 1 and users[0].target is operator.getitem and users[0].args[1] == 0


# Families whose ops have one tensor, or two, and a helper of the same kind ------------------------------------

UNARY = {
    aten.exp.default: "exp", aten.expm1.default: "expm1", aten.log.default: "log", aten.log2.default: "log2",
    aten.log10.default: "log10", aten.log1p.default: "log1p", aten.sqrt.default: "sqrt",
    aten.reciprocal.default: "recip", aten.abs.default: "abs", aten.sin.default: "sin", aten.cos.default: "cos",
    aten.tan.default: "tan", aten.sinh.default: "sinh", aten.cosh.default: "cosh", aten.asin.default: "asin",
    aten.acos.default: "acos", aten.atan.default: "atan", aten.asinh.default: "asinh", aten.acosh.default: "acosh",
    aten.atanh.default: "atanh", aten.ceil.default: "ceil", aten.floor.default: "floor",
    aten.logical_not.default: "logical_not", aten.bitwise_not.default: "bitwise_not", aten.sign.default: "sign",
    aten.round.default: "round", aten.isinf.default: "isinf", aten.isnan.default: "isnan", aten.neg.default: "neg",
    aten.erf.default: "erf", aten.trunc.default: "trunc",
}  # fmt: skip
BINARY = {
    aten.maximum.default: "max", aten.minimum.default: "min", aten.pow.Tensor_Tensor: "pow", aten.pow.Scalar: "pow",
    aten.pow.Tensor_Scalar: "pow", aten.mul.Tensor: "mul", aten.mul.Scalar: "mul",
    aten.floor_divide.default: "floor_divide", aten.logical_and.default: "logical_and",
    aten.logical_or.default: "logical_or", aten.logical_xor.default: "logical_xor",
    aten.bitwise_and.Tensor: "bitwise_and", aten.bitwise_or.Tensor: "bitwise_or",
    aten.bitwise_xor.Tensor: "bitwise_xor", aten.bitwise_and.Scalar: "bitwise_and", aten.eq.Tensor: "eq",
    aten.eq.Scalar: "eq", aten.ne.Tensor: "ne", aten.ne.Scalar: "ne", aten.gt.Tensor: "gt", aten.gt.Scalar: "gt",
    aten.ge.Tensor: "ge", aten.ge.Scalar: "ge", aten.lt.Tensor: "lt", aten.lt.Scalar: "lt", aten.le.Tensor: "le",
    aten.le.Scalar: "le", aten.fmod.Tensor: "fmod", aten.fmod.Scalar: "fmod", aten.remainder.Tensor: "remainder",
    aten.remainder.Scalar: "remainder", aten.atan2.default: "atan2", aten.bitwise_or.Scalar: "bitwise_or",
    aten.bitwise_xor.Scalar: "bitwise_xor", aten.bitwise_and.Scalar_Tensor: "bitwise_and",
    torch.ops.prims.div.default: "div", operator.mul: "mul", operator.floordiv: "floor_divide",
    operator.mod: "remainder",
}  # fmt: skip
ACTIVATIONS = {
    aten.relu.default: "relu", aten.sigmoid.default: "sigmoid", aten.tanh.default: "tanh",
    aten.leaky_relu.default: "leaky_relu", aten.elu.default: "elu", aten.softplus.default: "softplus",
    aten.selu.default: "selu", aten.hardswish.default: "hard_swish", aten.hardshrink.default: "hardshrink",
    aten.softshrink.default: "softshrink",
}  # fmt: skip


def _by_name(module: Any, helper: str, count: Optional[int] = None) -> Any:  # noqa: UP045
    def convert(
        ctx: ConversionContext,
        target: Target,
        args: Tuple[Argument, ...],  # noqa: UP006
        kwargs: Dict[str, Argument],  # noqa: UP006
        name: str,
    ) -> Result:
        return getattr(module, helper)(ctx, target, ATEN, name, *args[:count])

    convert.__name__ = convert.__qualname__ = f"{module.__name__.rpartition('.')[2]}_{helper}"
    return convert


for op, helper in UNARY.items():
    converter(op)(_by_name(impl.unary, helper))
for op, helper in BINARY.items():
    converter(op)(_by_name(impl.elementwise, helper))
for op, helper in ACTIVATIONS.items():
    converter(op)(_by_name(impl.activation, helper, 2))


# activation, elementwise, unary ------------------------------------------------------------------------------


@converter(aten.hardsigmoid.default)
def hard_sigmoid(ctx, target, args, kwargs, name):
    return impl.activation.hard_sigmoid(
        ctx,
        target,
        ATEN,
        name,
        args[0],
        alpha=args_bounds_check(args, 1, 1 / 6),
        beta=args_bounds_check(args, 2, 0.5),
    )


@converter(aten.gelu.default)
def gelu(ctx, target, args, kwargs, name):
    return impl.activation.gelu(ctx, target, ATEN, name, args[0], kwargs.get("approximate", "none"))


@converter(aten.add.Tensor)
@converter(aten.sub.Tensor)
def add_or_sub(ctx, target, args, kwargs, name):
    other, alpha = args[1], kwargs.get("alpha", 1)
    if alpha != 1:
        other = impl.elementwise.mul(ctx, target, ATEN, f"{name}_alpha", other, alpha)
    kind = trt.ElementWiseOperation.SUM if target is aten.add.Tensor else trt.ElementWiseOperation.SUB
    return convert_binary_elementwise(ctx, target, ATEN, name, kind, args[0], other)


@converter(aten.div.Tensor)
@converter(aten.div.Tensor_mode)
@converter(aten.div.Scalar)
def div(ctx, target, args, kwargs, name):
    rounding = kwargs.get("rounding_mode")
    kind = {None: "div", "floor": "floor_divide", "trunc": "trunc_div"}[rounding]
    return getattr(impl.elementwise, kind)(ctx, target, ATEN, name, args[0], args[1])


@converter(aten.clamp.default)
@converter(aten.clamp.Tensor)
@converter(aten.clip.default)
@converter(aten.clip.Tensor)
def clamp(ctx, target, args, kwargs, name):
    return impl.elementwise.clamp(
        ctx,
        target,
        ATEN,
        name,
        input_val=args[0],
        min_val=args_bounds_check(args, 1),
        max_val=args_bounds_check(args, 2),
    )


@converter(aten.rsqrt.default)
def rsqrt(ctx, target, args, kwargs, name):
    return impl.elementwise.rsqrt(ctx, target, ATEN, name, args[0])


@converter(aten.native_dropout.default, one_user)
def native_dropout(ctx, target, args, kwargs, name):
    return impl.unary.native_dropout(
        ctx, target, ATEN, name, args[0], args[1], args_bounds_check(args, 2, None)
    )


@converter(aten.scalar_tensor.default)
def scalar_tensor(ctx, target, args, kwargs, name):
    return impl.unary.scalar_tensor(ctx, target, ATEN, name, args[0], dtype=kwargs.get("dtype"))


# addmm, linear, matmul, attention ------------------------------------------------------------------------------


@converter(aten.addmm.default)
@enforce_tensor_types(
    {0: (TRTTensor,), 1: (np.ndarray, torch.Tensor, TRTTensor), 2: (np.ndarray, torch.Tensor, TRTTensor)}
)
def addmm(ctx, target, args, kwargs, name):
    return impl.addmm.addmm(
        ctx,
        target,
        ATEN,
        name,
        args[0],
        args[1],
        args[2],
        beta=kwargs.get("beta", 1),
        alpha=kwargs.get("alpha", 1),
    )


@converter(aten.linear.default)
def linear(ctx, target, args, kwargs, name):
    return impl.linear.linear(
        ctx, target, ATEN, name, input=args[0], weight=args[1], bias=args_bounds_check(args, 2, None)
    )


@converter(aten.matmul)
@converter(aten.mm.default)
@converter(aten.bmm.default)
@converter(aten.mv.default)
@converter(aten.dot.default)
def matmul(ctx, target, args, kwargs, name):
    return impl.matmul.matrix_multiply(ctx, target, ATEN, name, args[0], args[1])


@converter(aten.scaled_dot_product_attention.default)
def attention(ctx, target, args, kwargs, name):
    return impl.attention.scaled_dot_product_attention(
        ctx,
        target,
        ATEN,
        name,
        args[0],
        args[1],
        args[2],
        args_bounds_check(args, 3, None),
        args_bounds_check(args, 4, 0.0),
        args_bounds_check(args, 5, False),
        kwargs.get("scale"),
    )


# arange, cast, cat, condition, full --------------------------------------------------------------------------


@converter(aten.arange.start_step)
def arange(ctx, target, args, kwargs, name):
    return impl.arange.arange(
        ctx, target, ATEN, name, start=args[0], end=args[1], step=args_bounds_check(args, 2, 1)
    )


@converter(aten.clone.default, lambda node: not is_only_operator_on_placeholder(node))
@converter(aten._to_copy.default, lambda node, settings: "dtype" in node.kwargs)
def to_copy(ctx, target, args, kwargs, name):
    return impl.cast.to_copy(
        ctx, target, ATEN, name, args[0], kwargs.get("dtype", args[0].dtype), force_layer=True
    )


@converter(aten.copy.default)
@enforce_tensor_types({1: (TRTTensor,)})
def copy(ctx, target, args, kwargs, name):
    return impl.cast.to_copy(ctx, target, ATEN, name, args[1], args[1].dtype, force_layer=True)


@converter(aten.cat.default)
def cat(ctx, target, args, kwargs, name):
    return impl.cat.cat(ctx, target, ATEN, name, input=args[0], dim=args_bounds_check(args, 1, 0))


@converter(aten.where.self)
def where(ctx, target, args, kwargs, name):
    return impl.condition.where(ctx, target, ATEN, name, args[1], args[2], args[0])


@converter(aten.full.default)
def full(ctx, target, args, kwargs, name):
    return impl.full.full(
        ctx, target, ATEN, name, shape=args[0], fill_value=args[1], dtype=kwargs.get("dtype", None)
    )


# conv, deconv, pool, pad, upsample, grid ---------------------------------------------------------------------


@converter(aten.convolution.default)
@enforce_tensor_types(
    {0: (TRTTensor,), 1: (np.ndarray, torch.Tensor, TRTTensor), 2: (np.ndarray, torch.Tensor, TRTTensor)}
)
def convolution(ctx, target, args, kwargs, name):
    family, one = (impl.deconv.deconvNd, "is_deconv1d") if args[6] else (impl.conv.convNd, "is_conv1d")
    return family(
        ctx,
        target,
        source_ir=ATEN,
        name=name,
        input=args[0],
        weight=args[1],
        bias=args_bounds_check(args, 2, None),
        stride=args[3],
        padding=args[4],
        dilation=args[5],
        groups=args[8],
        **{one: len(args[3]) == 1},
        **({"output_padding": args[7]} if args[6] else {}),
    )


def _conv_by_op(ctx, target, args, kwargs, name):
    return impl.conv.convNd(
        ctx,
        target,
        source_ir=ATEN,
        name=name,
        is_conv1d=target is aten.conv1d.default,
        input=args[0],
        weight=args[1],
        bias=args_bounds_check(args, 2, None),
        stride=args_bounds_check(args, 3, 1),
        padding=args_bounds_check(args, 4, 0),
        dilation=args_bounds_check(args, 5, 1),
        groups=args_bounds_check(args, 6, 1),
    )


def _deconv_by_op(ctx, target, args, kwargs, name):
    return impl.deconv.deconvNd(
        ctx,
        target,
        source_ir=ATEN,
        name=name,
        is_deconv1d=target is aten.conv_transpose1d.default,
        input=args[0],
        weight=args[1],
        bias=args_bounds_check(args, 2, None),
        stride=args_bounds_check(args, 3, 1),
        padding=args_bounds_check(args, 4, 0),
        output_padding=args_bounds_check(args, 5, 0),
        groups=args_bounds_check(args, 6, 1),
        dilation=args_bounds_check(args, 7, 1),
    )


for op in (aten.conv1d.default, aten.conv2d.default, aten.conv3d.default):
    converter(op)(_conv_by_op)
for op in (aten.conv_transpose1d.default, aten.conv_transpose2d.input, aten.conv_transpose3d.input):
    converter(op)(_deconv_by_op)


@converter(aten.avg_pool1d.default)
@converter(aten.avg_pool2d.default, lambda node: args_bounds_check(node.args, 6) is None)
@converter(aten.avg_pool3d.default)
def avg_pool(ctx, target, args, kwargs, name):
    return impl.pool.avg_poolNd(
        ctx,
        target,
        source_ir=ATEN,
        name=name,
        input=args[0],
        kernel_size=args[1],
        stride=args_bounds_check(args, 2, replacement=[]),
        padding=args_bounds_check(args, 3, replacement=0),
        ceil_mode=args_bounds_check(args, 4, replacement=False),
        count_include_pad=args_bounds_check(args, 5, replacement=True),
        divisor_override=args_bounds_check(args, 6, replacement=None),
    )


@converter(aten.max_pool1d.default)
@converter(aten.max_pool2d.default)
@converter(aten.max_pool3d.default)
def max_pool(ctx, target, args, kwargs, name):
    return impl.pool.max_poolNd(
        ctx,
        target,
        source_ir=ATEN,
        name=name,
        input=args[0],
        kernel_size=args[1],
        stride=args_bounds_check(args, 2, replacement=[]),
        padding=args_bounds_check(args, 3, replacement=0),
        dilation=args_bounds_check(args, 4, replacement=1),
        ceil_mode=args_bounds_check(args, 5, replacement=False),
    )


@converter(aten.adaptive_avg_pool1d.default)
@tensor_first
def adaptive_avg_pool1d(ctx, target, args, kwargs, name):
    return impl.pool.adaptive_avg_pool1d(
        ctx, target, source_ir=ATEN, name=name, input=args[0], output_size=args[1]
    )


@converter(aten.adaptive_avg_pool2d.default)
@converter(aten._adaptive_avg_pool2d.default)
@converter(aten.adaptive_avg_pool3d.default)
@converter(aten._adaptive_avg_pool3d.default)
@tensor_first
def adaptive_avg_pool(ctx, target, args, kwargs, name):
    return impl.pool.adaptive_avg_poolNd(
        ctx, target, source_ir=ATEN, name=name, input=args[0], output_size=args[1]
    )


@converter(aten.constant_pad_nd.default)
@tensor_first
def constant_pad(ctx, target, args, kwargs, name):
    return impl.pad.constant_padNd(ctx, target, ATEN, name, args[0], args[1], args_bounds_check(args, 2, 0))


@converter(aten.reflection_pad1d.default)
@converter(aten.reflection_pad2d.default)
@converter(aten.reflection_pad3d.default)
@tensor_first
def reflection_pad(ctx, target, args, kwargs, name):
    return impl.pad.reflection_padNd(ctx, target, ATEN, name, args[0], args[1])


@converter(aten.replication_pad1d.default)
@converter(aten.replication_pad2d.default)
@converter(aten.replication_pad3d.default)
@tensor_first
def replication_pad(ctx, target, args, kwargs, name):
    return impl.pad.replication_padNd(ctx, target, ATEN, name, args[0], args[1])


@converter(aten._pad_circular.default)
@tensor_first
def circular_pad(ctx, target, args, kwargs, name):
    return impl.pad.circular_padNd(ctx, target, ATEN, name, args[0], args[1])


@converter(aten.pad.default)
@tensor_first
def pad(ctx, target, args, kwargs, name):
    mode = args_bounds_check(args, 2, "constant")
    if mode == "circular":
        return impl.pad.circular_padNd(ctx, target, ATEN, name, args[0], args[1])
    return impl.pad.pad(
        ctx, target, ATEN, name, args[0], pad=args[1], mode=mode, value=args_bounds_check(args, 3, None)
    )


def _upsample(mode: str, scales: int, corners: Optional[int] = None) -> Any:  # noqa: UP045
    def convert(ctx, target, args, kwargs, name):
        return impl.upsample.upsample(
            ctx,
            target,
            ATEN,
            name,
            args[0],
            size=args[1],
            scale_factor=args_bounds_check(args, scales),
            mode=mode,
            align_corners=False if corners is None else args[corners],
        )

    return convert


converter(aten.upsample_nearest1d.vec)(_upsample("nearest", 2))
converter(aten.upsample_nearest2d.vec)(_upsample("nearest", 2))
converter(aten.upsample_linear1d.vec)(_upsample("linear", 3, 2))
converter(aten.upsample_bilinear2d.vec)(_upsample("bilinear", 3, 2))
converter(aten.upsample_bicubic2d.vec)(_upsample("bicubic", 3, 2))


def _upsample_to(mode: str, dims: int, corners: bool) -> Any:
    first = 3 if corners else 2

    def convert(ctx, target, args, kwargs, name):
        scales = [args[first + i] for i in range(dims)] if len(args) >= first + dims else None
        return impl.upsample.upsample(
            ctx,
            target,
            ATEN,
            name,
            args[0],
            size=args[1],
            scale_factor=scales,
            mode=mode,
            align_corners=args[2] if corners else False,
        )

    return tensor_first(convert)


converter(aten.upsample_nearest1d.default)(_upsample_to("nearest", 1, False))
converter(aten.upsample_nearest2d.default)(_upsample_to("nearest", 2, False))
converter(aten.upsample_nearest3d.default)(_upsample_to("nearest", 3, False))
converter(aten.upsample_linear1d.default)(_upsample_to("linear", 1, True))
converter(aten.upsample_bilinear2d.default)(_upsample_to("bilinear", 2, True))
converter(aten.upsample_trilinear3d.default)(_upsample_to("trilinear", 3, True))
converter(aten.upsample_bicubic2d.default)(_upsample_to("bicubic", 2, True))


@converter(aten.grid_sampler_2d.default)
@converter(aten.grid_sampler.default)
@two_tensors
def grid(ctx, target, args, kwargs, name):
    return impl.grid.grid(
        ctx,
        target,
        ATEN,
        name,
        input=args[0],
        grid=args[1],
        interpolation_mode=args[2],
        padding_mode=args[3],
        align_corners=args[4],
    )


# embedding, embedding_bag, select (gather, index, scatter), slice, split ---------------------------------------


@converter(aten.embedding.default)
def embedding(ctx, target, args, kwargs, name):
    return impl.embedding.embedding(ctx, target, ATEN, name, input=args[1], weight=args[0])


@converter(aten._embedding_bag.default, one_user)
@converter(aten.embedding_bag.default, one_user)
@converter(aten.embedding_bag.padding_idx, one_user)
def embedding_bag(ctx, target, args, kwargs, name):
    return impl.embedding.embedding_bag(
        ctx,
        target,
        ATEN,
        name,
        weight=args[0],
        indices=args[1],
        offsets=args[2],
        mode=args_bounds_check(args, 4, 0),
        per_sample_weights=args_bounds_check(args, 6, None),
        include_last_offset=args_bounds_check(args, 7, False),
        padding_idx=args_bounds_check(args, 8, None),
    )


@converter(aten.select.int)
def select(ctx, target, args, kwargs, name):
    return impl.select.select(ctx, target, ATEN, name, args[0], args[1], args[2])


@converter(aten.gather.default)
@enforce_tensor_types({0: (TRTTensor,), 2: (TRTTensor,)})
def gather(ctx, target, args, kwargs, name):
    return impl.select.gather(ctx, target, ATEN, name, args[0], args[1], args[2])


@converter(aten.scatter.src)
@converter(aten.scatter.value)
@enforce_tensor_types({0: (TRTTensor,), 2: (TRTTensor,)})
def scatter(ctx, target, args, kwargs, name):
    return impl.select.scatter(ctx, target, ATEN, name, args[0], args[1], args[2], args[3])


@converter(aten.index.Tensor)
@tensor_first
def index(ctx, target, args, kwargs, name):
    return impl.select.index(ctx, target, ATEN, name, args[0], args[1])


@converter(aten.index_select.default)
def index_select(ctx, target, args, kwargs, name):
    return impl.select.index_select(ctx, target, ATEN, name, args[0], args[1], args[2])


def full_indices(node: Node, settings: CompilationSettings) -> bool:
    meta = node.args[0].meta.get("tensor_meta")
    return meta is not None and len(meta.shape) == len(node.args[1]) and settings.min_block_size > 0


@converter(aten.index_put.default, full_indices)
@enforce_tensor_types({0: (TRTTensor,), 2: (TRTTensor,)})
def index_put(ctx, target, args, kwargs, name):
    return impl.select.index_put_converter(
        ctx, target, ATEN, name, args[0], args[1], args[2], args_bounds_check(args, 3, False)
    )


@converter(aten.slice.Tensor)
@tensor_first
def slices(ctx, target, args, kwargs, name):
    return impl.slice.slice_op(
        ctx,
        target,
        ATEN,
        name,
        args[0],
        args_bounds_check(args, 1, replacement=0),
        args_bounds_check(args, 2, replacement=None),
        args_bounds_check(args, 3, replacement=None),
        args_bounds_check(args, 4, replacement=1),
    )


@converter(aten.cumsum.default)
@tensor_first
def cumsum(ctx, target, args, kwargs, name):
    return impl.slice.cumsum(ctx, target, ATEN, name, args[0], args[1])


@converter(aten.tile.default)
@converter(aten.flip.default)
@tensor_first
def tile_or_flip(ctx, target, args, kwargs, name):
    return (impl.slice.tile if target is aten.tile.default else impl.slice.flip)(
        ctx, target, ATEN, name, args[0], args[1]
    )


@converter(aten.diagonal.default, dynamic=False)
def diagonal(ctx, target, args, kwargs, name):
    return impl.slice.diagonal(
        ctx,
        target,
        ATEN,
        name,
        args[0],
        args_bounds_check(args, 1, replacement=0),
        args_bounds_check(args, 2, replacement=0),
        args_bounds_check(args, 3, replacement=1),
    )


@converter(aten.as_strided.default, dynamic=False)
def as_strided(ctx, target, args, kwargs, name):
    return impl.slice.as_strided(
        ctx,
        target,
        source_ir=ATEN,
        name=name,
        input=args[0],
        size=args[1],
        stride=args[2],
        storage_offset=args_bounds_check(args, 3, None),
    )


@converter(aten.expand.default)
@tensor_first
def expand(ctx, target, args, kwargs, name):
    return impl.slice.expand(ctx, target, ATEN, name, args[0], args[1])


@converter(aten.split.Tensor, has_static_shapes_in_args([1]))
@converter(aten.split.sizes, has_static_shapes_in_args([1]))
@converter(aten.split_with_sizes.default, has_static_shapes_in_args([1]))
def split(ctx, target, args, kwargs, name):
    return impl.split.split(
        ctx,
        target,
        ATEN,
        name,
        input=args[0],
        split_size_or_sections=args[1],
        dim=args_bounds_check(args, 2, 0),
    )


# shuffle, permutation, roll, squeeze, unsqueeze, shape ----------------------------------------------------------


@converter(aten.reshape.default)
@converter(aten.view.default)
@tensor_first
def reshape(ctx, target, args, kwargs, name):
    return impl.shuffle.reshape(ctx, target, ATEN, name, input=args[0], shape=args[1])


@converter(aten.flatten.using_ints)
def flatten(ctx, target, args, kwargs, name):
    x, rank = args[0], len(args[0].shape)
    if not rank:
        return impl.shuffle.reshape(ctx, target, ATEN, name, x, [1])
    first = get_positive_dim(args_bounds_check(args, 1, 0), rank)
    last = get_positive_dim(args_bounds_check(args, 2, -1), rank)
    dims = [
        size if size != DYNAMIC_DIM else impl.shape.shape(ctx, target, ATEN, f"{name}_{i}", x, i)
        for i, size in enumerate(x.shape)
    ]
    return impl.shuffle.reshape(ctx, target, ATEN, name, x, [*dims[:first], -1, *dims[last + 1 :]])


@converter(aten.pixel_shuffle.default)
@converter(aten.pixel_unshuffle.default)
def pixel_shuffle(ctx, target, args, kwargs, name):
    family = (
        impl.shuffle.pixel_shuffle if target is aten.pixel_shuffle.default else impl.shuffle.pixel_unshuffle
    )
    return family(ctx, target, ATEN, name, args[0], args[1])


@converter(aten.resize_.default, dynamic=False)
@tensor_first
def resize(ctx, target, args, kwargs, name):
    return impl.shuffle.resize(ctx, target, ATEN, name, input=args[0], sizes=args[1])


@converter(torch.ops.prims.broadcast_in_dim.default)
def broadcast_in_dim(ctx, target, args, kwargs, name):
    return impl.unsqueeze.broadcast_in_dim(ctx, target, SourceIR.PRIM, name, args[0], args[1], args[2])


@converter(aten.permute.default)
@tensor_first
def permute(ctx, target, args, kwargs, name):
    return impl.permutation.permute(ctx, target, ATEN, name, args[0], args[1])


@converter(aten.roll.default)
def roll(ctx, target, args, kwargs, name):
    return impl.permutation.roll(ctx, target, ATEN, name, args[0], args[1], args_bounds_check(args, 2, []))


@converter(aten.squeeze.dim)
@converter(aten.squeeze.dims)
def squeeze(ctx, target, args, kwargs, name):
    return impl.squeeze.squeeze(ctx, target, ATEN, name, args[0], args[1])


@converter(aten.unsqueeze.default)
def unsqueeze(ctx, target, args, kwargs, name):
    return impl.unsqueeze.unsqueeze(ctx, target, ATEN, name, input_t=args[0], dim=args[1])


# normalization, reduce, topk, prelu, quantize, collectives ------------------------------------------------------


@converter(aten.batch_norm.default)
def batch_norm(ctx, target, args, kwargs, name):
    return impl.normalization.batch_norm(
        ctx,
        target,
        ATEN,
        name,
        input=args[0],
        weight=args[1],
        bias=args[2],
        running_mean=args[3],
        running_var=args[4],
        training=args[5],
        momentum=args[6],
        eps=args[7],
        cudnn_enabled=args_bounds_check(args, 8, True),
        return_mean_rstd=False,
    )


@converter(aten.native_batch_norm.default, one_user)
@converter(aten._native_batch_norm_legit_no_training.default, one_user)
def native_batch_norm(ctx, target, args, kwargs, name):
    inference = target is aten._native_batch_norm_legit_no_training.default
    return impl.normalization.batch_norm(
        ctx,
        target,
        ATEN,
        name,
        input=args[0],
        weight=args[1],
        bias=args[2],
        running_mean=args[3],
        running_var=args[4],
        training=False if inference else args[5],
        momentum=args[-2],
        eps=args[-1],
        cudnn_enabled=False,
        return_mean_rstd=True,
    )


@converter(aten.native_layer_norm.default, one_user)
@tensor_first
def native_layer_norm(ctx, target, args, kwargs, name):
    return impl.normalization.native_layer_norm(
        ctx,
        target,
        ATEN,
        name,
        input=args[0],
        normalized_shape=args[1],
        weight=args_bounds_check(args, 2),
        bias=args_bounds_check(args, 3),
        eps=args[4],
    )


@converter(aten.layer_norm.default)
def layer_norm(ctx, target, args, kwargs, name):
    return impl.normalization.layer_norm(
        ctx,
        target,
        ATEN,
        name,
        input=args[0],
        normalized_shape=args[1],
        weight=args_bounds_check(args, 2, 1.0),
        bias=args_bounds_check(args, 3, 0.0),
        eps=args_bounds_check(args, 4, 1e-05),
        cudnn_enable=args_bounds_check(args, 5, True),
        return_mean_rstd=False,
    )


@converter(aten.group_norm.default)
def group_norm(ctx, target, args, kwargs, name):
    return impl.normalization.group_norm(
        ctx,
        target,
        ATEN,
        name,
        input=args[0],
        num_groups=args[1],
        weight=args_bounds_check(args, 2, None),
        bias=args_bounds_check(args, 3, None),
        eps=args_bounds_check(args, 4, 1e-05),
        cudnn_enabled=args_bounds_check(args, 5, True),
    )


@converter(aten.native_group_norm.default, one_user)
def native_group_norm(ctx, target, args, kwargs, name):
    return impl.normalization.native_group_norm(
        ctx,
        target,
        ATEN,
        name,
        input=args[0],
        weight=args[1],
        bias=args[2],
        N=args[3],
        C=args[4],
        HxW=args[5],
        group=args[6],
        eps=args[7],
    )


@converter(aten.softmax.int)
@converter(aten._softmax.default)
def softmax(ctx, target, args, kwargs, name):
    return impl.normalization.softmax(ctx, target, ATEN, name, args[0], args[1])


@converter(aten._cdist_forward.default)
def cdist(ctx, target, args, kwargs, name):
    return impl.normalization.cdist_forward(
        ctx,
        target,
        ATEN,
        name,
        x1=args[0],
        x2=args[1],
        p=args[2],
        compute_mode=args_bounds_check(args, 3, None),
    )


@converter(aten._pdist_forward.default, dynamic=False)
@tensor_first
def pdist(ctx, target, args, kwargs, name):
    return impl.normalization.pdist(ctx, target, ATEN, name, args[0], args_bounds_check(args, 1, 2))


@converter(aten.amax.default)
@converter(aten.amin.default)
@tensor_first
def extreme(ctx, target, args, kwargs, name):
    return (impl.reduce.amax if target is aten.amax.default else impl.reduce.amin)(
        ctx,
        target,
        ATEN,
        name,
        args[0],
        args_bounds_check(args, 1, replacement=[]),
        args_bounds_check(args, 2, replacement=False),
    )


REDUCTIONS = {
    aten.sum.default: "sum", aten.sum.dim_IntList: "sum", aten.prod.default: "prod", aten.prod.dim_int: "prod",
    aten.mean.default: "mean", aten.mean.dim: "mean", aten.any.default: "any", aten.any.dim: "any",
    aten.any.dims: "any", torch.ops.prims.sum.default: "sum",
}  # fmt: skip


def _reduction(helper: str) -> Any:
    def convert(ctx, target, args, kwargs, name):
        made = getattr(impl.reduce, helper)(
            ctx,
            target,
            ATEN,
            name,
            args[0],
            args_bounds_check(args, 1, replacement=None),
            args_bounds_check(args, 2, replacement=False),
        )
        wanted = kwargs.get("dtype")
        return made if wanted is None else impl.cast.to_copy(ctx, target, ATEN, name, made, wanted)

    return convert


for op, helper in REDUCTIONS.items():
    converter(op)(_reduction(helper))


@converter(aten.max.dim)
@converter(aten.min.dim)
@converter(aten.max.default)
@converter(aten.min.default)
def max_or_min(ctx, target, args, kwargs, name):
    return (impl.reduce.min if target.overloadpacket is aten.min else impl.reduce.max)(
        ctx,
        target,
        ATEN,
        name,
        args[0],
        dim=args_bounds_check(args, 1, replacement=None),
        keepdim=args_bounds_check(args, 2, replacement=False),
        return_indices=target in (aten.max.dim, aten.min.dim),
    )


@converter(aten.argmax.default)
@converter(aten.argmin.default)
def arg(ctx, target, args, kwargs, name):
    return (impl.topk.argmax if target is aten.argmax.default else impl.topk.argmin)(
        ctx,
        target,
        ATEN,
        name,
        input=args[0],
        dim=args_bounds_check(args, 1),
        keep_dim=args_bounds_check(args, 2, False),
    )


def few(node: Node) -> bool:
    return node.args[1] <= 3840


@converter(aten.sym_size.int)
def size(ctx, target, args, kwargs, name):
    return impl.shape.shape(ctx, target, ATEN, name, args[0], args[1])


@converter(aten.topk.default, few)
@tensor_first
def topk(ctx, target, args, kwargs, name):
    return impl.topk.topk(
        ctx,
        target,
        ATEN,
        name,
        args[0],
        k=args[1],
        dim=args_bounds_check(args, 2, -1),
        largest=args_bounds_check(args, 3, True),
        sorted=args_bounds_check(args, 4, True),
    )


@converter(aten.sort.default)
@tensor_first
def sort(ctx, target, args, kwargs, name):
    return impl.topk.sort(
        ctx,
        target,
        ATEN,
        name,
        args[0],
        dim=args_bounds_check(args, 1, -1),
        descending=args_bounds_check(args, 2, False),
    )


@converter(aten.prelu.default)
@converter(aten._prelu_kernel.default)
@two_tensors
def prelu(ctx, target, args, kwargs, name):
    weight = args[1]
    if len(args[0].shape) > 2 and target is aten.prelu.default:
        weight = impl.shuffle.reshape(
            ctx, target, ATEN, f"{name}_weight", weight, [-1, *[1] * (len(args[0].shape) - 2)]
        )
    return impl.prelu.prelu(ctx, target, ATEN, name, args[0], weight)


@converter(torch.ops.every_family.fake_quantize.default)
def quantize(ctx, target, args, kwargs, name):
    if args[2] == 4:
        return impl.dynamic_block_quantize.dynamic_block_quantize(
            ctx, target, ATEN, name, args[0], 16, args[1], args[2], args[3], 8, 4
        )
    return impl.quantize.quantize(ctx, target, ATEN, name, args[0], args[1], args[2], args[3])


@converter(aten.linalg_cross.default)
def cross(ctx, target, args, kwargs, name):
    return impl.linalg.cross(ctx, target, ATEN, name, args[0], args[1], kwargs.get("dim", -1))


@dynamo_tensorrt_converter(tensorrt_fused_nccl_all_gather_op, requires_native_multidevice=True)
def fused_all_gather(ctx, target, args, kwargs, name):
    return impl.nccl_ops.nccl_all_gather_native(ctx, target, ATEN, name, [args[0]], group_name=args[2])


@dynamo_tensorrt_converter(torch.ops.every_family.gather_natively.default, requires_native_multidevice=True)
def collective_of_several_devices(ctx, target, args, kwargs, name):
    return impl.nccl_ops.nccl_all_gather_native(ctx, target, ATEN, name, [args[0]])


@converter(torch.ops.every_family.gather_from_all.default)
def collective(ctx, target, args, kwargs, name):
    return impl.nccl_ops.nccl_gather(ctx, target, ATEN, name, [args[0]])


@converter(torch.ops.every_family.new_layer.default)
@needs_not_tensorrt_rtx
def new_layer(ctx, target, args, kwargs, name):
    assert is_tensorrt_version_supported("10.0.0")
    return args[0]


# what such a file returns, and Torch-TensorRT casts -------------------------------------------------------------


@converter(torch.ops.every_family.count.default)
def count(ctx, target, args, kwargs, name):
    """int32 of shape (1,) for an int64 of shape ()."""
    size = impl.shape.shape(ctx, target, ATEN, name, args[0], 0)
    return impl.cast.to_copy(ctx, target, ATEN, name, size, trt.int32)


@converter(torch.ops.every_family.halves.default)
def halves(ctx, target, args, kwargs, name):
    """float32 for int32."""
    wide = impl.cast.to_copy(ctx, target, ATEN, f"{name}_wide", args[0], trt.float32)
    half = impl.elementwise.mul(ctx, target, ATEN, name, wide, 0.5)
    return impl.unary.floor(ctx, target, ATEN, name, half)


@converter(torch.ops.every_family.table.default)
def table(ctx, target, args, kwargs, name):
    """An array for a tensor; the context's fields are read."""
    values = np.arange(6, dtype=np.float32).reshape(2, 3)
    ctx.record_weight(f"{name}_table", torch.from_numpy(values))
    assert f"{name}_table" in ctx.weight_refit_map
    assert ctx.current_node.name == name
    assert ctx.compilation_settings.use_python_runtime is True
    return values
