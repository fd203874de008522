"""ModelOpt's quantizers while a model is captured: each is one op with its format and scales.

ModelOpt's own export leaves such ops in the graph on CUDA. On the CPU it computes integers by formulas that look at
values, which torch.export cannot trace, and it reshapes weights into blocks, of which no Q/DQ layer can be made. Here
every quantizer becomes ``trtcore_quantize::fake_quantize`` (or ``fake_quantize_blocks``), on any device, with scales in
the shape of the blocks.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor

from trtcore.pack import InputError

_SUPPORTED = (
    "INT8 and FP8 (a scale for the tensor, or for each channel), INT4, INT8 and FP8 weights in blocks, NVFP4 in blocks "
    "of 16, MXFP8 in blocks of 32; symmetric and signed"
)
_BEFORE = "compile the model before mtq.compress: the engine's weights are small anyway"


def modelopt_capture(model: torch.nn.Module) -> AbstractContextManager[None] | None:
    """What is around the capture of a model that ModelOpt quantised; None for any other.

    Raises:
        InputError: a quantizer whose format is not supported, or that is not calibrated to its end.
    """
    if "modelopt.torch.quantization" not in sys.modules:
        return None
    from modelopt.torch.quantization.nn import TensorQuantizer

    found = [(name, module) for name, module in model.named_modules() if isinstance(module, TensorQuantizer)]
    if not found:
        return None
    for name, quantizer in found:
        check(name, quantizer)
    _refuse_compressed(model)
    return _as_ops(TensorQuantizer)


@contextmanager
def _as_ops(quantizer: Any) -> Iterator[None]:
    """Not in ModelOpt's export mode, which leaves recurrent layers unquantised, and quantises weights that others read
    without their layer (those of ``nn.MultiheadAttention``)."""
    forward = quantizer.forward
    quantizer.forward = quantize
    try:
        yield
    finally:
        quantizer.forward = forward


def check(name: str, quantizer: Any) -> None:
    """Refuse what no engine computes.

    Raises:
        InputError: with the quantizer's path, what it asks for, and what is supported.
    """
    if not quantizer.is_enabled or not quantizer._if_quant:
        return
    problem = _problem(quantizer)
    if problem:
        what, advice = problem
        raise InputError(f"the quantizer {name} {what}", where=name, advice=advice)


def _problem(quantizer: Any) -> tuple[str, str] | None:
    """What is not supported of a quantizer that is on, and what to do."""
    again = f"quantise with another configuration of ModelOpt; supported: {_SUPPORTED}"
    if quantizer._if_calib:
        return "still collects statistics", "end the calibration first (mtq.calibrate does)"
    if not quantizer.fake_quant:
        return "holds compressed weights", _BEFORE
    if quantizer.unsigned:
        return "is unsigned", f"set unsigned=False: TensorRT quantises symmetrically; {again}"
    if quantizer.bias is not None:
        return (
            "has an offset (a zero point other than 0)",
            f"leave bias out: TensorRT quantises symmetrically; {again}",
        )
    if quantizer.rotate_is_enabled:
        return "rotates its input", again
    if quantizer.backend is not None:
        return f"computes with the backend {quantizer.backend!r} of its own", again
    if format_of(quantizer) is None:
        return f"has the format {describe(quantizer)}", again
    return None


def _refuse_compressed(model: torch.nn.Module) -> None:
    from modelopt.torch.quantization.qtensor import QTensorWrapper

    for name, weight in model.named_parameters():
        if isinstance(weight, QTensorWrapper):
            raise InputError(
                f"the weight {name} is compressed",
                where=name,
                advice=_BEFORE,
            )


def describe(quantizer: Any) -> str:
    """Bits and blocks, as ModelOpt's configurations write them."""
    blocks = quantizer.block_sizes
    return f"num_bits={quantizer.num_bits}" + (f", block_sizes={dict(blocks)}" if blocks else "")


def format_of(quantizer: Any) -> str | None:
    """The name in trtcore's ops of what a quantizer quantises to; None where no engine has it."""
    bits, blocks = quantizer.num_bits, quantizer.block_sizes
    own_scales = blocks is not None and blocks.get("type") == "dynamic"
    scale_bits = blocks.get("scale_bits") if blocks is not None else None
    if own_scales:
        block = blocks.get(-1)
        if (bits, scale_bits, block) == ((2, 1), (4, 3), 16):
            return "nvfp4"
        return "mxfp8" if (bits, scale_bits, block) == ((4, 3), (8, 0), 32) else None
    if scale_bits is not None:
        return None
    return {8: "int8", 4: "int4", (4, 3): "fp8"}.get(bits)


def quantize(self: Any, x: Tensor) -> Tensor:
    """``TensorQuantizer.forward`` in a capture."""
    if x.numel() == 0:
        return x
    if self.pre_quant_scale is not None:  # SmoothQuant, AWQ
        x = x * self.pre_quant_scale
    if not self.is_enabled or not self._if_quant:
        return x
    to = format_of(self)
    if to in ("nvfp4", "mxfp8"):
        amax = None if to == "mxfp8" else _amax(self, x)
        return torch.ops.trtcore_quantize.fake_quantize_blocks(x, amax, to)
    amax: Tensor = _amax(self, x)
    blocks: Sequence[int] = ()
    if _in_blocks(self.block_sizes):
        blocks = _blocks(self.block_sizes, x.dim())
        counts = [math.ceil(size / block) for size, block in zip(x.shape, blocks)]
        amax = amax.reshape(counts)
    return torch.ops.trtcore_quantize.fake_quantize(x, amax, to, bool(self.narrow_range), blocks)


def _amax(quantizer: Any, x: Tensor) -> Tensor:
    """From calibration; else that of the values themselves, as ModelOpt computes it without."""
    if quantizer._use_constant_amax:
        return x.new_full((), 448.0, dtype=torch.float32)
    if hasattr(quantizer, "_amax"):
        found: Tensor = quantizer._amax
        return found
    from modelopt.torch.quantization import utils

    axes = utils.convert_quantization_axis_to_reduce_axis(x, quantizer._axis)
    largest: Tensor = utils.reduce_amax(x, axis=axes, keepdims=True)
    return largest


def _in_blocks(block_sizes: Any) -> bool:
    return block_sizes is not None and any(
        isinstance(axis, int) and size is not None for axis, size in block_sizes.items()
    )


def _blocks(block_sizes: Any, rank: int) -> Sequence[int]:
    """The block along each dim; 1 where each index has a scale of its own."""
    return [block_sizes.get(axis) or block_sizes.get(axis - rank) or 1 for axis in range(rank)]
