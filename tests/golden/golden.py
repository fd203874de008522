"""Golden cases as tests see them: replayed on real bindings, read back, run in the reference runtime.

`WAIVED` is the one list of what is not held against the stored outputs, by case name, with the reason. A waiver is as
narrow as it can be: other inputs, other expected values, or some elements; never a whole case unlooked at.
"""

from __future__ import annotations

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import replay
import torch

from trtcore.backend.builders import make_builder
from trtcore_backends.tensorrt_rtx import load
from trtcore.artifact.snapshot import NetworkSnapshot
from trtcore.conversion.readback import take_snapshot

FOLDER = pathlib.Path(__file__).parent
CASES, TENSORS = replay.load(FOLDER)
BY_NAME = {case["name"]: case for case in CASES}

Arrays = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Waiver:
    """What a case is held to instead of its stored outputs."""

    reason: str
    inputs: Callable[[Arrays], Arrays] | None = None  # run with these inputs
    outputs: Callable[[Arrays, Arrays], Arrays] | None = None  # (inputs, stored) -> what to expect
    skip: Callable[[Arrays], np.ndarray] | None = None  # elements of every output that are not compared
    raises: str | None = None  # the run must raise an error with this text


def _flushed(inputs: Arrays) -> Arrays:
    tiny = np.finfo(np.float32).tiny
    return {k: np.where(abs(v) < tiny, np.float32(0), v) if v.dtype == np.float32 else v for k, v in inputs.items()}


def _expect(**outputs: Any) -> Callable[[Arrays, Arrays], Arrays]:
    return lambda inputs, stored: {k: np.array(v, stored[k].dtype) for k, v in outputs.items()}


def _exact(reduction: Callable[[np.ndarray], np.ndarray]) -> Callable[[Arrays, Arrays], Arrays]:
    return lambda inputs, stored: {"o": reduction(inputs["x"].astype(object)).astype(np.int64).astype(np.int32)}


def _wrapped(values: np.ndarray) -> np.ndarray:
    return (values + 2**31) % 2**32 - 2**31


def _at(*index: int) -> Callable[[Arrays], np.ndarray]:
    def skip(inputs: Arrays) -> np.ndarray:
        mask = np.zeros(inputs["x"].shape, bool)
        mask[index] = True
        return mask

    return skip


DENORMAL = Waiver("TensorRT 8.5 flushes denormals to zero; compared with the denormal input already flushed", _flushed)
RANGE = Waiver("poor range reduction of 8.5 far from zero (do not copy)", skip=lambda inputs: abs(inputs["x"]) > 50)
INTEGERS = "8.5 reduces int32 in floating point (do not copy); compared with exact, wrapping integer arithmetic"
DUPLICATE = "which of several updates of one element wins is not promised"

WAIVED: Mapping[str, Waiver] = {
    **{f"unary.{op}.float32": DENORMAL for op in ("log", "abs", "neg", "ceil")},
    "activation.relu.float32": DENORMAL,
    "activation.clip.am1.b2.float32": DENORMAL,
    "non_zero.float32": DENORMAL,
    "non_zero.dynamic": DENORMAL,
    **{f"unary.{op}.float32": RANGE for op in ("sin", "cos", "tan")},
    **{f"unary.{op}.float16": RANGE for op in ("cos", "tan")},
    "elementwise.div.int32_zero": Waiver("undefined; on the CPU the reference raises", raises="ZeroDivision"),
    "elementwise.floor_div.int32_zero": Waiver("undefined; on the CPU the reference raises", raises="ZeroDivision"),
    "reduce.sum.int32_overflow": Waiver(INTEGERS, outputs=_exact(lambda x: _wrapped(x.sum(1)))),
    "reduce.sum.int32_big": Waiver(INTEGERS, outputs=_exact(lambda x: _wrapped(x.sum(1)))),
    "reduce.prod.int32_big": Waiver(INTEGERS, outputs=_exact(lambda x: _wrapped(x.prod(1)))),
    "reduce.max.int32_big": Waiver(INTEGERS, outputs=_exact(lambda x: x.max(1))),
    "reduce.min.int32_big": Waiver(INTEGERS, outputs=_exact(lambda x: x.min(1))),
    "reduce.avg.int32_big": Waiver(
        INTEGERS, outputs=_exact(lambda x: np.array([int(s / 3) for s in x.sum(1)], object))
    ),
    "scatter.element.duplicate": Waiver(DUPLICATE, skip=_at(0, 2)),
    "scatter.nd.duplicate": Waiver(DUPLICATE, skip=_at(1, 1)),
    "dequantize.weights": Waiver(
        "8.5 dropped Q/DQ on a constant with no quantisable consumer (do not copy); compared with quantised values",
        outputs=_expect(o=[[2, -4, 127], [0.5, 0, 63.5]]),
    ),
}


@functools.cache
def _builder() -> tuple[Any, Any]:
    trt = load()

    class Quiet(trt.ILogger):
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, text: str) -> None:
            pass

    logger = Quiet()
    return make_builder(trt, logger), logger


@functools.cache
def snapshot(name: str) -> NetworkSnapshot:
    """The network of a case, built with the RTX bindings and read back."""
    trt = load()
    network = _builder()[0].create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    replay.build(trt, network, BY_NAME[name], TENSORS)
    return take_snapshot(trt, network)


def inputs_of(name: str) -> Arrays:
    return {k: TENSORS[f"{name}/in/{k}"] for k in BY_NAME[name]["inputs"]}


def array(name: str, network: NetworkSnapshot, tensor: int) -> np.ndarray:
    """A copy of the stored input that is tensor number `tensor` of the network."""
    return TENSORS[f"{name}/in/{network.tensors[tensor].name}"].copy()


def run(module: Any, network: NetworkSnapshot, inputs: Arrays, device: str = "cpu") -> Arrays:
    """The outputs by name."""
    given = (torch.from_numpy(inputs[network.tensors[i].name].copy()).to(device) for i in network.inputs)
    return {network.tensors[i].name: value.cpu().numpy() for i, value in zip(network.outputs, module(*given))}


def mismatches(
    name: str, module: Any, network: NetworkSnapshot, *, waive: bool = True, device: str = "cpu"
) -> list[str]:
    """How the outputs of `module` differ from what the case is held to; empty if they do not."""
    case = BY_NAME[name]
    waiver = WAIVED.get(name) if waive else None
    inputs = inputs_of(name)
    expected = {o["name"]: TENSORS[f"{name}/out/{o['name']}"] for o in case["outputs"]}
    if waiver and waiver.raises:
        try:
            run(module, network, inputs)
        except Exception as error:
            return [] if waiver.raises in str(error) else [f"raised {error!r}, not {waiver.raises}"]
        return [f"did not raise {waiver.raises}"]
    if waiver and waiver.outputs:
        expected = waiver.outputs(inputs, expected)
    found = run(module, network, waiver.inputs(inputs) if waiver and waiver.inputs else inputs, device)
    skip = waiver.skip(inputs) if waiver and waiver.skip else None
    problems = []
    for key, want in expected.items():
        problems += [f"output {key}: {text}" for text in _compare(case, found[key], want, skip)]
    return problems


def _compare(case: dict[str, Any], got: np.ndarray, want: np.ndarray, skip: np.ndarray | None) -> list[str]:
    dtype = np.dtype(np.int64) if case["group"] == "shape" else want.dtype  # Shape is int64 since TensorRT 10
    if got.dtype != dtype or got.shape != want.shape:
        return [f"{got.dtype}{list(got.shape)}, expected {dtype}{list(want.shape)}"]
    wrong = ~same(got, want, case["rtol"], case["atol"])
    if skip is not None:
        wrong &= ~skip
    places = np.argwhere(wrong)
    return [f"{tuple(map(int, p))}: {got[tuple(p)]!r}, expected {want[tuple(p)]!r}" for p in places[:8]]


def same(got: np.ndarray, want: np.ndarray, rtol: float, atol: float) -> np.ndarray:
    """Elementwise: equal (NaN equals NaN, -0.0 equals 0.0), or both finite and close."""
    if got.dtype.kind != "f":
        return got == want
    g, w = got.astype(np.float64), want.astype(np.float64)
    with np.errstate(all="ignore"):
        close = np.isfinite(g) & np.isfinite(w) & (abs(g - w) <= atol + rtol * abs(w))
        return (g == w) | (np.isnan(g) & np.isnan(w)) | close
