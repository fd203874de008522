"""Converters that take their process down, or make TensorRT do so; importable by the build process."""

from __future__ import annotations

import ctypes
import os
import signal
from typing import Any

import torch


def segfaults(ctx: Any, x: Any) -> Any:
    ctypes.string_at(0)


def aborts(ctx: Any, x: Any) -> Any:
    os.abort()


def exits(ctx: Any, x: Any) -> Any:
    os._exit(3)


def prints(ctx: Any, x: Any) -> Any:
    """Not a crash: what it prints must not get into the answers."""
    print("hello from the converter" * 100)
    os.write(1, b"and from C")
    return ctx.output(ctx.net.add_identity(x))


def raises(ctx: Any, x: Any) -> Any:
    raise KeyError("no such table")


def strided_and_dilated(ctx: Any, x: Any) -> Any:
    """Refused at build, without a name; x is (1, 2, 8, 8)."""
    layer = ctx.net.add_deconvolution_nd(x, 2, (3, 3), ctx.weights(torch.ones(2, 2, 3, 3)), ctx.trt.Weights())
    layer.stride_nd, layer.dilation_nd = (2, 2), (2, 2)
    return ctx.slice(ctx.output(layer), [0, 0, 0, 0], [1, 2, 8, 8])


def crashes_the_builder(ctx: Any, x: Any) -> Any:
    """Attention in fp32 that may not be decomposed: TensorRT for RTX 1.7 dies of it (SIGSEGV) while it builds."""
    q, k, v = (ctx.elementwise(x, float(i + 1), "PROD") for i in range(3))
    kind = ctx.trt.AttentionNormalizationOp.SOFTMAX
    return ctx.net.add_attention_v2(q, k, v, kind, ctx.trt.CausalMaskKind.NONE).get_output(0)


def kills_its_process_once(ctx: Any, x: Any) -> Any:
    """The first process that gets here is gone, as when a host loses its power; the others convert."""
    mark = os.environ["TRTCORE_TEST_KILLED"]
    try:
        os.close(os.open(mark, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return ctx.activation(x, "RELU")
    return os.kill(os.getpid(), signal.SIGKILL)
