"""The op that the pack splits nms into: what an engine can compute of it."""

from __future__ import annotations

import torch


@torch.library.custom_op("trtcore_vision::nms_sorted", mutates_args=())
def nms_sorted(
    dets: torch.Tensor, scores: torch.Tensor, iou_threshold: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Greedy non-maximum suppression without its last step, so that shapes do not depend on data.

    Args:
        dets: (n, 4) float32 boxes ``x1, y1, x2, y2``.
        scores: (n,) float32.
        iou_threshold: a box goes whose overlap with a better one that stays is larger.

    Returns:
        The boxes' places by falling score (n,) int64, and which of these stay (n,) bool. ``order[keep]`` is
        what ``torchvision::nms`` gives.
    """
    order = scores.sort(stable=True, dim=0, descending=True)[1]
    overlaps = _overlaps(dets[order]) > iou_threshold
    keep = torch.ones(len(order), dtype=torch.bool, device=dets.device)
    for index in range(len(order)):
        keep[index + 1 :] &= ~(overlaps[index, index + 1 :] & keep[index])
    return order, keep


def _overlaps(boxes: torch.Tensor) -> torch.Tensor:
    """Intersection over union of all pairs (n, n)."""
    low = torch.maximum(boxes[:, None, :2], boxes[None, :, :2])
    high = torch.minimum(boxes[:, None, 2:], boxes[None, :, 2:])
    shared = (high - low).clamp(min=0).prod(-1)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(-1)
    return shared / (areas[:, None] + areas[None, :] - shared)


@nms_sorted.register_fake
def _(dets: torch.Tensor, scores: torch.Tensor, iou_threshold: float) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.empty_like(scores, dtype=torch.int64), torch.empty_like(scores, dtype=torch.bool)
