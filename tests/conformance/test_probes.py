"""The smallest network behind a refusal: what TensorRT itself says, asked of it again.

When a later TensorRT stops refusing one of these, the test fails, and the validator can go.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest


def _top(net: Any, trt: Any) -> Any:
    x = net.add_input("x", trt.float32, (1, 8000))
    return net.add_topk(x, trt.TopKOperation.MAX, 3841, 1 << 1)


def _and_of_ints(net: Any, trt: Any) -> Any:
    a, b = (net.add_input(name, trt.int32, (2,)) for name in "ab")
    return net.add_elementwise(a, b, trt.ElementWiseOperation.AND)


def _sum_of_uint8(net: Any, trt: Any) -> Any:
    a, b = (net.add_input(name, trt.uint8, (2,)) for name in "ab")
    return net.add_elementwise(a, b, trt.ElementWiseOperation.SUM)


def _sine_of_ints(net: Any, trt: Any) -> Any:
    return net.add_unary(net.add_input("x", trt.int32, (2,)), trt.UnaryOperation.SIN)


def _sum_over_bools(net: Any, trt: Any) -> Any:
    return net.add_reduce(net.add_input("x", trt.bool, (2, 2)), trt.ReduceOperation.SUM, 1, False)


def _slice_of_uint8(net: Any, trt: Any) -> Any:
    return net.add_slice(net.add_input("x", trt.uint8, (4,)), (0,), (2,), (1,))


def _nonzero(net: Any, trt: Any) -> Any:
    return net.add_non_zero(net.add_input("x", trt.bool, (4,)), trt.int64)


PROBES: list[tuple[str, Callable[[Any, Any], Any], str]] = [
    ("TopK gives at most 3840 elements", _top, "Valid range of TopK K"),
    ("AND, OR and XOR take bools only", _and_of_ints, "AND requires boolean inputs"),
    ("no arithmetic on uint8", _sum_of_uint8, "SUM requires inputs with type .*But type is UInt8"),
    ("trigonometry is floating point only", _sine_of_ints, "input has type Int32 but must have type Float"),
    ("no sums of bools", _sum_over_bools, "input has type Bool but must have type Float"),
    ("no slices of uint8", _slice_of_uint8, "first input has type UInt8 but must"),
    ("NonZero has no kernel", _nonzero, "has no runners"),
]


"""(what a validator relies on, the network, what TensorRT says)"""


@pytest.mark.parametrize(("what", "make", "message"), PROBES, ids=[probe[0] for probe in PROBES])
def test_tensorrt_still_says_no(what, make, message, trt_backend):
    backend = trt_backend
    trt, logger = backend.trt, backend.make_logger()
    builder = trt.Builder(logger)
    network = backend.create_network(builder)
    layer = make(network, trt)
    if layer is not None:
        try:
            output = layer.get_output(0)
            _ = output.shape
            network.mark_output(output)
            plan = builder.build_serialized_network(network, builder.create_builder_config())
        except RuntimeError:  # the shape of a layer that TensorRT refuses
            plan = None
        assert plan is None, f"{what}: TensorRT builds it now"
    lines = "\n".join(logger.errors())
    assert re.search(message, lines), f"{what}: TensorRT says\n{lines}"
