"""`TensorRTQuantizer`: where torchao's PT2E flow quantises a model, so that TensorRT takes all of it.

Needs torchao (``pip install "trtcore[quantize]"``).

Example::

    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
    from trtcore_converters.quantizer import TensorRTQuantizer

    prepared = prepare_pt2e(torch.export.export(model, inputs).module(), TensorRTQuantizer())
    for batch in calibration:
        prepared(*batch)
    quantised = convert_pt2e(prepared)
    compiled = trtcore.compile(quantised, inputs=list(inputs))
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import fx

from trtcore.pack import module_path

try:
    from torchao.quantization.pt2e import (
        HistogramObserver,
        MinMaxObserver,
        PerChannelMinMaxObserver,
    )
    from torchao.quantization.pt2e.quantizer import QuantizationAnnotation, QuantizationSpec, Quantizer
except ImportError as error:
    raise ImportError(
        'TensorRTQuantizer is a quantizer for torchao\'s PT2E flow: pip install "trtcore[quantize]"'
    ) from error

aten = torch.ops.aten

_WEIGHTED = {
    op: axis
    for axis, targets in (
        (
            0,
            (
                aten.linear.default,
                aten.conv1d.default,
                aten.conv2d.default,
                aten.conv3d.default,
                aten.conv1d.padding,
                aten.conv2d.padding,
                aten.conv3d.padding,
            ),
        ),
        (1, (aten.conv_transpose2d.input, aten.conv_transpose3d.input)),
    )
    for op in targets
}
"""Ops with a weight as their second argument, and the weight's output channels."""
_PRODUCTS = frozenset({aten.matmul.default, aten.bmm.default, aten.mm.default})
_ANNOTATION = "quantization_annotation"


class TensorRTQuantizer(Quantizer):  # type: ignore[misc]
    """int8 with zero point 0 in front of convolutions, linear layers and matrix products.

    Args:
        per_channel: one scale for each output channel of a weight; False: one for a weight.
        excluded_modules: paths of modules ("encoder.layer.0") that stay as they are, with all below them.
        products: whether products of two activations (attention written out) are quantised too.

    Activations are observed with a histogram, per tensor; weights by their largest absolute value. Biases and
    everything else stay in floating point.
    """

    def __init__(
        self, *, per_channel: bool = True, excluded_modules: Iterable[str] = (), products: bool = True
    ) -> None:
        super().__init__()
        self.per_channel = per_channel
        self.excluded_modules = tuple(excluded_modules)
        self.products = products

    def annotate(self, model: fx.GraphModule) -> fx.GraphModule:
        """Mark the inputs of what is quantised. Called by ``prepare_pt2e``."""
        for node in model.graph.nodes:
            if node.op != "call_function" or not _is_float(node) or self._is_excluded(node):
                continue
            inputs: dict[fx.Node, Any] = {}
            if node.target in _WEIGHTED:
                axis = _grouped_axis(node, _WEIGHTED[node.target])
                inputs = {node.args[0]: activations(), node.args[1]: self._weights(axis)}
            elif node.target in _PRODUCTS and self.products:
                inputs = {argument: activations() for argument in node.args[:2]}
            if inputs:
                node.meta[_ANNOTATION] = QuantizationAnnotation(input_qspec_map=inputs, _annotated=True)
        return model

    def validate(self, model: fx.GraphModule) -> None:
        """Nothing to check: `annotate` marks only what TensorRT takes."""

    def _weights(self, axis: int | None) -> Any:
        return weights(axis if self.per_channel else None)

    def _is_excluded(self, node: fx.Node) -> bool:
        path = module_path(node)
        return any(path == name or path.startswith(f"{name}.") for name in self.excluded_modules)


def activations() -> Any:
    """int8, one scale for a tensor, zero point 0."""
    return QuantizationSpec(
        dtype=torch.int8,
        quant_min=-128,
        quant_max=127,
        qscheme=torch.per_tensor_symmetric,
        is_dynamic=False,
        observer_or_fake_quant_ctr=HistogramObserver.with_args(eps=2**-12),
    )


def weights(axis: int | None) -> Any:
    """int8, a scale for each channel along `axis` (None: one for all), zero point 0."""
    observer = MinMaxObserver if axis is None else PerChannelMinMaxObserver
    return QuantizationSpec(
        dtype=torch.int8,
        quant_min=-128,
        quant_max=127,
        qscheme=torch.per_tensor_symmetric if axis is None else torch.per_channel_symmetric,
        ch_axis=axis,
        is_dynamic=False,
        observer_or_fake_quant_ctr=observer.with_args(eps=2**-12),
    )


def _is_float(node: fx.Node) -> bool:
    value = node.meta.get("val")
    return isinstance(value, torch.Tensor) and value.dtype == torch.float32


def _grouped_axis(node: fx.Node, axis: int) -> int | None:
    """The channels' axis of a weight; None for a transposed convolution in groups, where they are two dims."""
    groups = node.args[6] if axis == 1 and len(node.args) > 6 else 1
    return axis if groups == 1 else None
