"""Non-maximum suppression.

How many boxes stay depends on data. Two ways:

- A pass splits ``torchvision::nms`` into ``trtcore_vision::nms_sorted``, which a loop in the engine computes, and
  ``order[keep]``, which torch does. It needs a known number of boxes.
- Otherwise TensorRT's NMS layer takes it whole, where the backend has it.

``batched_nms`` is no op: what it does around nms (boxes moved apart by class) is arithmetic and converts as that.
"""

from __future__ import annotations

import operator
from typing import Any

import numpy as np
import torch
from torch import fx

from trtcore.pack import (
    CompileContext,
    ConversionContext,
    LoweringPass,
    NodeContext,
    Reject,
    Requires,
    converter,
    forced_to_torch,
    insert_call,
    node_arguments,
)
from trtcore_contrib_vision._layers import part, times, traced
from trtcore_contrib_vision.ops import nms_sorted as nms_sorted_op

_SORTED = nms_sorted_op._opoverload

MOST_SORTED = 3840
"""TensorRT's TopK gives no more elements."""

MOST_LAYER = 5000
"""TensorRT's NMS layer looks at no more boxes."""


# In the engine, up to the last step ---------------------------------------------------------------------


def split_nms(graph_module: fx.GraphModule, ctx: CompileContext) -> None:
    """``nms(dets, scores, t)`` becomes ``order, keep = nms_sorted(dets, scores, t); order[keep]``, where it can."""
    for node in list(graph_module.graph.nodes):
        if node.op != "call_function" or str(node.target) != "torchvision.nms.default":
            continue
        given = node_arguments(node)
        if _unsorted(given) or forced_to_torch(node, ctx) or node.meta.get("val") is None:
            continue
        call = insert_call(node, _SORTED, (given["dets"], given["scores"], given["iou_threshold"]), like=node)
        with graph_module.graph.inserting_before(node):
            parts = [graph_module.graph.call_function(operator.getitem, (call, index)) for index in range(2)]
            for index, one in enumerate(parts):
                one.meta = {**call.meta, "val": call.meta["val"][index]}
            chosen = graph_module.graph.call_function(torch.ops.aten.index.Tensor, (parts[0], [parts[1]]))
        chosen.meta = dict(node.meta)
        node.replace_all_uses_with(chosen)
        graph_module.graph.erase_node(node)


def _unsorted(given: dict[str, Any]) -> str:
    """Why the loop does not take an nms; "" if it does."""
    dets, scores = traced(given["dets"]), traced(given["scores"])
    if dets is None or scores is None:
        return "the shapes of boxes and scores are unknown"
    if dets.dtype != torch.float32 or scores.dtype != torch.float32:
        return "nms is computed in float32 only"
    count = dets.shape[0]
    if not isinstance(count, int):
        return "the number of boxes varies from call to call"
    if not 1 <= count <= MOST_SORTED:
        return f"TensorRT sorts 1 to {MOST_SORTED} boxes, and this has {count}"
    return ""


def _sortable(node: fx.Node, ctx: NodeContext) -> bool | Reject:
    reason = _unsorted(node_arguments(node))
    return Reject(reason) if reason else True


@converter(
    _SORTED,
    capability_validator=_sortable,
    requires=Requires(layers=frozenset({"add_loop", "add_topk"})),
)
def nms_sorted(ctx: ConversionContext, dets: Any, scores: Any, iou_threshold: float) -> tuple[Any, Any]:
    """A sort, all overlaps, and a loop over the boxes from the best to the worst."""
    count = ctx.shape(dets)[0]
    top = ctx.net.add_topk(
        ctx.reshape(ctx.tensor(scores), [1, count]), ctx.trt.TopKOperation.MAX, count, 0b10
    )
    order = ctx.cast(ctx.reshape(ctx.output(top, 1), [count]), torch.int64)
    boxes = ctx.gather(ctx.tensor(dets), order, 0)
    overlapping = ctx.elementwise(_overlaps(ctx, boxes, count), _float32_below(iou_threshold), "GREATER")
    later = torch.ones(count, count, dtype=torch.bool).triu(1)
    return order, _greedy(ctx, ctx.elementwise(overlapping, later, "AND"), count)


def _float32_below(number: float) -> float:
    """The largest float32 that is not above `number`: no float32 lies between them, so comparisons are the same."""
    near = np.float32(number)
    return float(near if float(near) <= number else np.nextafter(near, np.float32(-np.inf)))


def _overlaps(ctx: ConversionContext, boxes: Any, count: int) -> Any:
    """Intersection over union of all pairs (count, count)."""
    corners = [part(ctx, boxes, 1, index) for index in range(4)]
    across = [ctx.reshape(corner, [1, count]) for corner in corners]
    sides = []
    for axis in range(2):
        low = ctx.elementwise(corners[axis], across[axis], "MAX")
        high = ctx.elementwise(corners[axis + 2], across[axis + 2], "MIN")
        sides.append(ctx.elementwise(ctx.elementwise(high, low, "SUB"), 0.0, "MAX"))
    shared = times(ctx, *sides)
    width, height = (ctx.elementwise(corners[axis + 2], corners[axis], "SUB") for axis in range(2))
    areas = times(ctx, width, height)
    together = ctx.elementwise(areas, ctx.reshape(areas, [1, count]), "SUM")
    return ctx.elementwise(shared, ctx.elementwise(together, shared, "SUB"), "DIV")


def _greedy(ctx: ConversionContext, suppresses: Any, count: int) -> Any:
    """Which boxes stay (count,), from which box suppresses which (count, count) if it stays itself."""
    loop = ctx.net.add_loop()
    loop.add_trip_limit(ctx.constant(count, torch.int32), ctx.trt.TripLimit.COUNT)
    row = ctx.output(loop.add_iterator(suppresses, 0))
    place = ctx.output(loop.add_iterator(ctx.constant(torch.arange(count).reshape(count, 1)), 0))
    recurrence = loop.add_recurrence(ctx.constant(torch.ones(count, dtype=torch.bool)))
    keep = ctx.output(recurrence)
    gone = ctx.elementwise(row, ctx.gather(keep, place, 0), "AND")
    recurrence.set_input(1, ctx.elementwise(keep, ctx.unary(gone, "NOT"), "AND"))
    return ctx.output(loop.add_loop_output(keep, ctx.trt.LoopOutput.LAST_VALUE))


# The layer ----------------------------------------------------------------------------------------------


def _fits_layer(node: fx.Node, ctx: NodeContext) -> bool | Reject:
    given = node_arguments(node)
    dets = traced(given["dets"])
    if dets is None or dets.dtype != torch.float32:
        return Reject("nms is computed in float32 only")
    if not 0 <= given["iou_threshold"] <= 1:
        return Reject("TensorRT's NMS layer takes thresholds from 0 to 1")
    count = dets.shape[0]
    if not isinstance(count, int) or count > MOST_LAYER:
        return Reject(f"TensorRT's NMS layer looks at {MOST_LAYER} boxes at most, and there may be more")
    return True


@converter(
    "torchvision::nms",
    capability_validator=_fits_layer,
    supports_dynamic_shapes=True,
    requires_output_allocator=True,
    requires=Requires(layers=frozenset({"add_nms"})),
)
def nms_layer(ctx: ConversionContext, dets: Any, scores: Any, iou_threshold: float) -> Any:
    """TensorRT's NMS layer. It takes corners in either order, so that a box of negative size counts as one."""
    boxes = ctx.tensor(dets)
    count = ctx.shape(boxes)[0]
    layer = ctx.net.add_nms(
        ctx.reshape(boxes, [1, count, 4]),
        ctx.reshape(ctx.tensor(scores), [1, count, 1]),
        ctx.constant(count, torch.int32),
    )
    layer.bounding_box_format = ctx.trt.BoundingBoxFormat.CORNER_PAIRS
    layer.topk_box_limit = count
    layer.set_input(3, ctx.constant(_float32_below(iou_threshold), torch.float32))
    layer.set_input(4, ctx.constant(float(np.finfo(np.float32).min), torch.float32))
    found = ctx.cast(ctx.output(layer), torch.int64)
    return ctx.reshape(part(ctx, found, 1, 2), [-1])


PASSES = (LoweringPass("split_nms", split_nms),)
