"""For people coming from Torch-TensorRT: their converters' names and calling convention, on trtcore.

A converter file of theirs works after its imports are changed to this module::

    from trtcore_contrib_torch_tensorrt import ConverterPriority, dynamo_tensorrt_converter, impl, trt
    from trtcore_contrib_torch_tensorrt.converter_utils import get_trt_tensor, set_layer_name

    @dynamo_tensorrt_converter(torch.ops.aten.relu.default, priority=ConverterPriority.HIGH)
    def relu(ctx, target, args, kwargs, name):
        layer = ctx.net.add_activation(args[0], trt.ActivationType.RELU)
        set_layer_name(layer, target, name)
        return layer.get_output(0)

The table of old and new names is in ``docs/coming-from-torch-tensorrt.md``. New converters are better written with
`trtcore.pack`: called like the op, with defaults filled in.
"""

from __future__ import annotations

from trtcore_contrib_torch_tensorrt import converter_utils, impl
from trtcore_contrib_torch_tensorrt._bindings import TRTTensor, trt
from trtcore_contrib_torch_tensorrt._registry import (
    ConversionContext,
    ConverterPriority,
    SourceIR,
    dynamo_tensorrt_converter,
    has_dynamic_shapes_in_args,
    has_static_shapes_in_args,
    is_only_operator_on_placeholder,
)

__all__ = [
    "ConversionContext",
    "ConverterPriority",
    "SourceIR",
    "TRTTensor",
    "converter_utils",
    "dynamo_tensorrt_converter",
    "has_dynamic_shapes_in_args",
    "has_static_shapes_in_args",
    "impl",
    "is_only_operator_on_placeholder",
    "trt",
]
