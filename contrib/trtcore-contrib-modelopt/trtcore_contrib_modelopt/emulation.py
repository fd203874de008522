"""ModelOpt's block formats without CUDA."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from trtcore.pack import load_packs


@contextmanager
def without_cuda() -> Iterator[None]:
    """Let ModelOpt calibrate and run NVFP4 and MXFP8 models on the CPU, for which it has kernels on CUDA alone.

    The formulas are those of its tensors of these formats; a block that is not 16 (NVFP4) or 32 (MXFP8) stays an error.

    Raises:
        ImportError: ModelOpt is not installed.

    Example:
        >>> with without_cuda():  # doctest: +SKIP
        ...     model = mtq.quantize(model, mtq.NVFP4_DEFAULT_CFG, forward_loop)
        >>> compiled = trtcore.compile(model, inputs=[x])  # doctest: +SKIP
    """
    try:
        from modelopt.torch.quantization.nn.modules import tensor_quantizer
    except ImportError as error:
        raise ImportError("ModelOpt is not installed: pip install nvidia-modelopt") from error
    load_packs()  # registers the ops
    own = tensor_quantizer.dynamic_block_quant
    tensor_quantizer.dynamic_block_quant = _emulated(own)
    try:
        yield
    finally:
        tensor_quantizer.dynamic_block_quant = own


def _emulated(own: Any) -> Any:
    known = {((2, 1), (4, 3), 16): "nvfp4", ((4, 3), (8, 0), 32): "mxfp8"}

    def dynamic_block_quant(
        inputs: Tensor, block: int, amax: Any, bias: Any, bits: Any, scale_bits: Any, *rest: Any
    ) -> Tensor:
        to = known.get((bits, scale_bits, block))
        if to is None or inputs.is_cuda or bias is not None:
            return own(inputs, block, amax, bias, bits, scale_bits, *rest)
        return torch.ops.trtcore_quantize.fake_quantize_blocks(inputs, amax, to)

    return dynamic_block_quant
