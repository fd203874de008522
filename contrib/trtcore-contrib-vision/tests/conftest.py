"""torchvision's ops for the tests: its own where it is installed, else ours under the same names and schemas.

Ours are written from torchvision's documentation, one sampling point after the other.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

try:
    import torchvision  # noqa: F401
except ImportError:
    LIBRARY = torch.library.Library("torchvision", "DEF")
    LIBRARY.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    LIBRARY.define(
        "roi_align(Tensor input, Tensor rois, float spatial_scale, SymInt pooled_height, SymInt pooled_width, "
        "int sampling_ratio, bool aligned) -> Tensor"
    )
    LIBRARY.define(
        "deform_conv2d(Tensor input, Tensor weight, Tensor offset, Tensor mask, Tensor bias, SymInt stride_h, "
        "SymInt stride_w, SymInt pad_h, SymInt pad_w, SymInt dilation_h, SymInt dilation_w, SymInt groups, "
        "SymInt offset_groups, bool use_mask) -> Tensor"
    )

    @torch.library.impl(LIBRARY, "nms", "CPU")
    def nms(dets: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
        left = scores.sort(stable=True, dim=0, descending=True)[1].tolist()
        kept: list[int] = []
        while left:
            best, *rest = left
            kept.append(best)
            left = [other for other in rest if not overlap(dets[best], dets[other]) > iou_threshold]
        return torch.tensor(kept, dtype=torch.int64)

    def overlap(a: Tensor, b: Tensor) -> float:
        width = (min(a[2], b[2]) - max(a[0], b[0])).clamp(min=0)
        height = (min(a[3], b[3]) - max(a[1], b[1])).clamp(min=0)
        areas = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1])
        return float(width * height / (areas - width * height))

    @torch.library.register_fake("torchvision::nms")
    def _(dets: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
        return dets.new_empty(torch.library.get_ctx().new_dynamic_size(), dtype=torch.int64)

    def pixel(image: Tensor, y: int, x: int) -> Tensor:
        """Channels of image (C, H, W) at a pixel; zero outside."""
        _, height, width = image.shape
        return image[:, y, x] if 0 <= y < height and 0 <= x < width else image.new_zeros(image.shape[0])

    def bilinear(image: Tensor, y: float, x: float) -> Tensor:
        """Between pixels, with zeros around the image."""
        low_y, low_x = math.floor(y), math.floor(x)
        total = image.new_zeros(image.shape[0])
        for dy, dx in ((0, 0), (0, 1), (1, 0), (1, 1)):
            weight = (1 - abs(y - low_y - dy)) * (1 - abs(x - low_x - dx))
            total = total + weight * pixel(image, low_y + dy, low_x + dx)
        return total

    @torch.library.impl(LIBRARY, "roi_align", "CPU")
    def roi_align(
        input: Tensor, rois: Tensor, spatial_scale: float, pooled_height: int, pooled_width: int,
        sampling_ratio: int, aligned: bool,
    ) -> Tensor:  # fmt: skip
        _, channels, height, width = input.shape
        result = torch.zeros(len(rois), channels, pooled_height, pooled_width)
        for k, (batch, *box) in enumerate(rois.float().tolist()):
            x1, y1, x2, y2 = (value * spatial_scale - (0.5 if aligned else 0) for value in box)
            w, h = x2 - x1, y2 - y1
            if not aligned:
                w, h = max(w, 1.0), max(h, 1.0)
            samples_y = sampling_ratio if sampling_ratio > 0 else math.ceil(h / pooled_height)
            samples_x = sampling_ratio if sampling_ratio > 0 else math.ceil(w / pooled_width)
            for i in range(pooled_height):
                for j in range(pooled_width):
                    total = torch.zeros(channels)
                    for a in range(samples_y):
                        for b in range(samples_x):
                            y = y1 + (i + (a + 0.5) / samples_y) * h / pooled_height
                            x = x1 + (j + (b + 0.5) / samples_x) * w / pooled_width
                            if -1 <= y <= height and -1 <= x <= width:
                                y, x = (min(max(v, 0.0), s - 1.0) for v, s in ((y, height), (x, width)))
                                total += bilinear(input[int(batch)].float(), y, x)
                    result[k, :, i, j] = total / max(samples_y * samples_x, 1)
        return result.to(input.dtype)

    @torch.library.register_fake("torchvision::roi_align")
    def _(
        input: Tensor, rois: Tensor, spatial_scale: float, pooled_height: int, pooled_width: int,
        sampling_ratio: int, aligned: bool,
    ) -> Tensor:  # fmt: skip
        return input.new_empty(rois.shape[0], input.shape[1], pooled_height, pooled_width)

    @torch.library.impl(LIBRARY, "deform_conv2d", "CPU")
    def deform_conv2d(
        input: Tensor, weight: Tensor, offset: Tensor, mask: Tensor, bias: Tensor, stride_h: int, stride_w: int,
        pad_h: int, pad_w: int, dilation_h: int, dilation_w: int, groups: int, offset_groups: int, use_mask: bool,
    ) -> Tensor:  # fmt: skip
        batch, channels = input.shape[:2]
        out, share, kernel_h, kernel_w = weight.shape
        rows, columns = offset.shape[2:]
        taps = kernel_h * kernel_w
        result = bias.float().reshape(1, out, 1, 1).repeat(batch, 1, rows, columns)
        per_offset = channels // offset_groups
        for n in range(batch):
            for r in range(rows):
                for c in range(columns):
                    seen = torch.zeros(channels, kernel_h, kernel_w)
                    for g in range(offset_groups):
                        image = input[n, g * per_offset : (g + 1) * per_offset].float()
                        for tap in range(taps):
                            i, j = divmod(tap, kernel_w)
                            at = 2 * (g * taps + tap)
                            y = r * stride_h - pad_h + i * dilation_h + float(offset[n, at, r, c])
                            x = c * stride_w - pad_w + j * dilation_w + float(offset[n, at + 1, r, c])
                            factor = float(mask[n, g * taps + tap, r, c]) if use_mask else 1.0
                            seen[g * per_offset : (g + 1) * per_offset, i, j] = factor * bilinear(image, y, x)
                    for o in range(out):
                        first = o // (out // groups) * share
                        result[n, o, r, c] += (seen[first : first + share] * weight[o].float()).sum()
        return result.to(input.dtype)

    @torch.library.register_fake("torchvision::deform_conv2d")
    def _(input: Tensor, weight: Tensor, offset: Tensor, *rest: object) -> Tensor:
        return input.new_empty(input.shape[0], weight.shape[0], offset.shape[2], offset.shape[3])
