"""The golden cases notice a wrong reference runtime: each mutation here must make some case fail.

A mutation changes one attribute of every layer of a type in the snapshots, or replaces one function that evaluators
call. What is mutated is the reference's own code and its reading of networks, not a converter. That nothing fails
unmutated is what test_golden.py says.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import golden
import pytest
import torch

from trtcore_reference import EVALUATORS, compile_snapshot, elementwise, image, indexing, reduction, shape


def _swap(key: str, *pairs: tuple[Any, Any]) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    table = dict(pairs) | {b: a for a, b in pairs}
    return lambda attributes: {**attributes, key: table.get(attributes[key], attributes[key])}


def _set(key: str, change: Callable[[Any], Any]) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    return lambda attributes: {**attributes, key: change(attributes[key])}


#: (layer type, group of cases, what is wrong, new attributes)
ATTRIBUTES = [
    ("ELEMENTWISE", "elementwise", "MAX and MIN swapped", _swap("op", ("MAX", "MIN"))),
    ("ELEMENTWISE", "elementwise", "FLOOR_DIV divides", _swap("op", ("FLOOR_DIV", "DIV"))),
    ("ELEMENTWISE", "elementwise", "GREATER and LESS swapped", _swap("op", ("GREATER", "LESS"))),
    ("ELEMENTWISE", "elementwise", "AND and OR swapped", _swap("op", ("AND", "OR"))),
    ("UNARY", "unary", "CEIL and FLOOR swapped", _swap("op", ("CEIL", "FLOOR"))),
    ("UNARY", "unary", "ASINH and SINH swapped", _swap("op", ("ASINH", "SINH"))),
    ("ACTIVATION", "activation", "alpha and beta swapped", lambda a: {**a, "alpha": a["beta"], "beta": a["alpha"]}),
    ("REDUCE", "reduce", "SUM and AVG swapped", _swap("op", ("SUM", "AVG"))),
    ("REDUCE", "reduce", "keep_dims flipped", _set("keep_dims", lambda keep: not keep)),
    ("TOPK", "topk", "MAX and MIN swapped", _swap("op", ("MAX", "MIN"))),
    ("SOFTMAX", "softmax", "over the last axis", _set("axes", lambda axes: (-1,))),
    ("MATRIX_MULTIPLY", "matmul", "second operand not transposed", _swap("op1", ("TRANSPOSE", "NONE"))),
    ("CONVOLUTION", "convolution", "SAME_UPPER and SAME_LOWER swapped", _swap("padding_mode", ("SAME_UPPER", "SAME_LOWER"))),
    ("CONVOLUTION", "convolution", "rounds down", _swap("padding_mode", ("EXPLICIT_ROUND_UP", "EXPLICIT_ROUND_DOWN"))),
    ("CONVOLUTION", "convolution", "pre and post padding swapped", lambda a: {**a, "pre_padding": a["post_padding"], "post_padding": a["pre_padding"]}),
    ("CONVOLUTION", "convolution", "no dilation", _set("dilation_nd", lambda d: (1,) * len(d))),
    ("DECONVOLUTION", "deconvolution", "SAME_UPPER and SAME_LOWER swapped", _swap("padding_mode", ("SAME_UPPER", "SAME_LOWER"))),
    ("POOLING", "pooling", "average counts padding the other way", _set("average_count_excludes_padding", lambda x: not x)),
    ("POOLING", "pooling", "blend factor the other way", _set("blend_factor", lambda b: 1 - b)),
    ("PADDING", "padding", "pre and post swapped", lambda a: {"pre_padding_nd": a["post_padding_nd"], "post_padding_nd": a["pre_padding_nd"]}),
    ("SHUFFLE", "shuffle", "transposes swapped", lambda a: {**a, "first_transpose": a["second_transpose"], "second_transpose": a["first_transpose"]}),
    ("SHUFFLE", "shuffle", "0 is an empty dim", _set("zero_is_placeholder", lambda zero: not zero)),
    ("CONCATENATION", "concat", "axis 0", _set("axis", lambda axis: 0)),
    ("SLICE", "slice", "WRAP clamps", _swap("mode", ("WRAP", "CLAMP"))),
    ("SLICE", "slice", "REFLECT clamps", _swap("mode", ("REFLECT", "CLAMP"))),
    ("SLICE", "slice", "FILL clamps", _swap("mode", ("FILL", "CLAMP"))),
    ("RESIZE", "resize", "HALF_PIXEL and ASYMMETRIC swapped", _swap("coordinate_transformation", ("HALF_PIXEL", "ASYMMETRIC"))),
    ("RESIZE", "resize", "rounds the other way", _swap("nearest_rounding", ("HALF_UP", "HALF_DOWN"))),
    ("RESIZE", "resize", "default cubic coefficient", _set("cubic_coeff", lambda c: -0.75)),
    ("RESIZE", "resize", "counts outside pixels", _set("exclude_outside", lambda x: not x)),
    ("RESIZE", "resize", "selector ignored", _set("selector_for_single_pixel", lambda s: "FORMULA")),
    ("GATHER", "gather", "axis 0", _set("axis", lambda axis: 0)),
    ("GATHER", "gather", "no elementwise dims", _set("num_elementwise_dims", lambda n: 0)),
    ("SCATTER", "scatter", "axis 0", _set("axis", lambda axis: 0)),
    ("FILL", "fill", "alpha and beta swapped", lambda a: {**a, "alpha": a["beta"], "beta": a["alpha"]}),
    ("ONE_HOT", "one_hot", "last axis", _set("axis", lambda axis: -1)),
    ("GRID_SAMPLE", "grid_sample", "align_corners flipped", _set("align_corners", lambda x: not x)),
    ("NMS", "nms", "box formats swapped", _swap("bounding_box_format", ("CENTER_SIZES", "CORNER_PAIRS"))),
    ("QUANTIZE", "quantize", "per-channel axis 2", _set("axis", lambda axis: 2)),
    ("SCALE", "scale", "channel axis 3", _set("channel_axis", lambda axis: 3)),
    ("LRN", "lrn", "window 3", _set("window_size", lambda n: 3)),
    ("LOOP_OUTPUT", "loop", "REVERSE concatenates forward", _swap("kind", ("REVERSE", "CONCATENATE"))),
    ("ITERATOR", "loop", "iterates forward", _set("reverse", lambda x: False)),
    ("EINSUM", "einsum", "i and j swapped in the output", _set("equation", lambda text: text.replace("->ik", "->ki"))),
]  # fmt: skip

#: (module, function, group of cases, what is wrong, replacement)
FUNCTIONS: list[tuple[Any, str, str, str, Callable[..., Any]]] = [
    (elementwise, "relu", "activation", "NaN propagates", torch.relu),
    (elementwise, "clip", "activation", "NaN propagates", lambda x, a, b: x.clamp(a, b)),
    (elementwise, "float_to_integer", "cast", "torch's cast", lambda x, to: x.to(to)),
    (elementwise, "sign", "unary", "sign(NaN) is 0", torch.sign),
    (elementwise, "power", "elementwise", "C99 pow", torch.pow),
    (elementwise, "floor_divide", "elementwise", "torch's floor mode", lambda a, b: torch.div(a, b, rounding_mode="floor")),
    (reduction, "reduce_max", "reduce", "NaN propagates", lambda x, axes, keep: x.amax(axes, keep)),
    (reduction, "top", "topk", "torch.topk", lambda x, k, axis, largest, to: tuple(torch.topk(x, int(k), axis, largest))),
    (image, "max_pool", "pooling", "NaN propagates", lambda x, window, stride, *rest: torch.nn.functional.max_pool2d(x, window, stride)),
    (indexing, "wrap_indices", "gather", "outside is clamped", lambda i, n: (torch.where(i < 0, i + n, i).clamp(0, n - 1), None)),
    (shape, "_reflect", "slice", "edge repeated", lambda i, n: torch.where(i % (2 * n) >= n, 2 * n - 1 - i % (2 * n), i % (2 * n))),
]  # fmt: skip


def _failures(group: str, mutate: Callable[[Any], Any], evaluators: Mapping[str, Any] = EVALUATORS) -> list[str]:
    failed = []
    for case in golden.CASES:
        if case["group"] != group:
            continue
        name = case["name"]
        network = mutate(golden.snapshot(name))
        try:
            problems = golden.mismatches(name, compile_snapshot(network, evaluators), network)
        except Exception as error:
            problems = [repr(error)]
        if problems:
            failed.append(name)
    return failed


@pytest.mark.parametrize(("kind", "group", "what", "change"), ATTRIBUTES, ids=[f"{a[0]}: {a[2]}" for a in ATTRIBUTES])
def test_attribute(kind: str, group: str, what: str, change: Callable[[Mapping[str, Any]], dict[str, Any]]):
    def mutate(network):
        layers = tuple(
            dataclasses.replace(x, attributes=change(x.attributes)) if x.type == kind else x for x in network.layers
        )
        return dataclasses.replace(network, layers=layers)

    assert _failures(group, mutate), f"no {group} case notices: {what}"


def _replace_everywhere(module: Any, name: str, replacement: Callable[..., Any], patch: pytest.MonkeyPatch) -> None:
    original = getattr(module, name)
    replacement.__name__ = name if replacement.__name__ == "<lambda>" else replacement.__name__
    patch.setattr(module, name, replacement)
    for table in [v for v in vars(module).values() if isinstance(v, dict)]:
        for key, value in table.items():
            if value is original:
                patch.setitem(table, key, replacement)
            elif isinstance(value, tuple) and value and value[0] is original:
                patch.setitem(table, key, (replacement, *value[1:]))


@pytest.mark.parametrize(
    ("module", "name", "group", "what", "replacement"), FUNCTIONS, ids=[f"{f[1]}: {f[3]}" for f in FUNCTIONS]
)
def test_function(module, name, group, what, replacement, monkeypatch):
    def wrong(*args):
        return replacement(*args)

    wrong.__name__ = name
    _replace_everywhere(module, name, wrong, monkeypatch)
    assert _failures(group, lambda network: network), f"no {group} case notices: {name}: {what}"
