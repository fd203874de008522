"""The pack against torchvision itself: its functions, its modules, its CPU kernels. Skipped where it is missing."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import trtcore

pytest.importorskip("torchvision")
from torchvision import ops
from torchvision.models.detection.rpn import AnchorGenerator

PACK = "trtcore-contrib-vision:vision"


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def boxes(count: int, seed: int = 0, size: float = 20.0) -> Tensor:
    """Boxes (count, 4); some are empty, some of negative size, some are the same box."""
    corners = random(count, 2, seed=seed) * size
    sizes = random(count, 2, seed=seed + 1) * size / 2
    sizes[::11], sizes[5::13] = 0.0, -1.0
    found = torch.cat([corners, corners + sizes], 1)
    found[1::7] = found[0].clone()
    return found


def scores(count: int, seed: int = 0) -> Tensor:
    """All different (count,)."""
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    return (order + 1) / (count + 1)


def of_the_pack(report: Any) -> dict[str, bool]:
    """Op to whether it is in an engine, of torchvision's ops and the pack's own."""
    return {node.op: node.in_engine for node in report.nodes if "vision" in node.op}


def compiled(module: torch.nn.Module, *inputs: Any, **settings: Any) -> Any:
    return trtcore.compile(
        module.eval(), list(inputs), min_block_size=1, runtime="reference", pass_through_build_failures=True,
        **settings,
    )  # fmt: skip


# nms ----------------------------------------------------------------------------------------------------


class Nms(torch.nn.Module):
    def __init__(self, threshold: float) -> None:
        super().__init__()
        self.threshold = threshold

    def forward(self, dets: Tensor, points: Tensor) -> Tensor:
        return ops.nms(dets, points, self.threshold)


@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.5, 1.0])
def test_nms(threshold: float) -> None:
    module = Nms(threshold)
    found = compiled(module, boxes(60), scores(60))
    assert of_the_pack(found.report) == {"trtcore_vision.nms_sorted.default": True}
    for seed in range(12):
        given = boxes(60, seed), scores(60, seed)
        assert found(*given).tolist() == ops.nms(*given, threshold).tolist(), seed


@pytest.mark.parametrize("count", [1, 2, 200])
def test_nms_of_few_and_many(count: int) -> None:
    given = boxes(count, 7, size=60.0), scores(count, 7)
    found = compiled(Nms(0.4), *given)
    assert found(*given).tolist() == ops.nms(*given, 0.4).tolist()


def test_batched_nms() -> None:
    class Batched(torch.nn.Module):
        def forward(self, dets: Tensor, points: Tensor, labels: Tensor) -> Tensor:
            return ops.batched_nms(dets, points, labels, 0.4)

    labels = torch.arange(50) % 3
    found = compiled(Batched(), boxes(50), scores(50), labels)
    assert of_the_pack(found.report) == {"trtcore_vision.nms_sorted.default": True}
    for seed in range(6):
        given = boxes(50, seed).abs(), scores(50, seed), labels.flip(0)
        assert found(*given).tolist() == ops.batched_nms(*given, 0.4).tolist(), seed


# roi_align ----------------------------------------------------------------------------------------------


def regions(count: int, images: int, size: float) -> Tensor:
    """(count, 5): image and box; boxes at, over and far from the border, empty and turned around ones too."""
    found = boxes(count, 3, size)
    found[0] = torch.tensor([-1.0, -1.0, size, size])
    found[2] = torch.tensor([-9.0, size - 1, 0.0, size + 9])
    found[3] = torch.tensor([size * 3, size * 3, size * 4, size * 4])
    found[4] = torch.tensor([0.0, 0.0, size - 1, size - 1])
    return torch.cat([(torch.arange(count) % images).float()[:, None], found], 1)


@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize(("scale", "grid", "samples"), [(1.0, 7, 2), (0.5, (2, 4), 1), (0.25, (3, 1), 3)])
def test_roi_align(assert_converts: Any, scale: float, grid: Any, samples: int, aligned: bool) -> None:
    image = torch.randn(2, 3, 11, 8, generator=torch.Generator().manual_seed(1))
    proof = assert_converts(
        ops.RoIAlign(grid, scale, samples, aligned), (image, regions(16, 2, 11.0 / scale)), atol=1e-5
    )
    assert of_the_pack(proof.report) == {"torchvision.roi_align.default": True}


def test_roi_align_with_all_sizes_dynamic(assert_converts: Any) -> None:
    class OfTwo(torch.nn.Module):
        def forward(self, image: Tensor, of_first: Tensor, of_second: Tensor) -> Tensor:
            return ops.roi_align(image, [of_first, of_second], (2, 3), 0.5, 2, aligned=True)

    image = torch.randn(2, 3, 9, 7, generator=torch.Generator().manual_seed(1))
    dynamic = {0: {2: (5, 9, 11), 3: (4, 7, 8)}, 1: {0: (5, 6, 9)}, 2: {0: (2, 4, 7)}}
    assert_converts(OfTwo(), (image, regions(6, 1, 18.0)[:, 1:], boxes(4, 9, 18.0)), dynamic=dynamic)


def test_what_the_pack_has_no_converter_for_stays_in_torch() -> None:
    class Pools(torch.nn.Module):
        def forward(self, image: Tensor, rois: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            adaptive = ops.roi_align(image, rois, 2)
            return ops.roi_pool(image + 1, rois, 2), ops.ps_roi_align(image * 2, rois, 2, 1.0, 2), adaptive

    given = torch.randn(1, 4, 9, 9), regions(6, 1, 9.0)
    found = compiled(Pools(), *given)
    assert set(of_the_pack(found.report).values()) == {False}
    assert "depends on the boxes" in str(found.report)
    for have, want in zip(found(*given), Pools()(*given), strict=True):
        torch.testing.assert_close(have, want)


# deform_conv2d ------------------------------------------------------------------------------------------


class Deformed(torch.nn.Module):
    """torchvision's module, with or without a mask."""

    def __init__(self, masked: bool, **options: Any) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(5)
            self.conv = ops.DeformConv2d(**options)
        self.masked = masked

    def inputs(self, image: Tensor, offset_groups: int) -> tuple[Tensor, ...]:
        conv, generator = self.conv, torch.Generator().manual_seed(7)
        geometry = zip(
            image.shape[2:], conv.kernel_size, conv.stride, conv.padding, conv.dilation, strict=True
        )
        sizes = [(s + 2 * p - d * (k - 1) - 1) // step + 1 for s, k, step, p, d in geometry]
        taps = offset_groups * conv.kernel_size[0] * conv.kernel_size[1]
        offset = 3 * torch.randn(len(image), 2 * taps, *sizes, generator=generator)
        mask = torch.rand(len(image), taps, *sizes, generator=generator)
        return (image, offset, mask) if self.masked else (image, offset)

    def forward(self, image: Tensor, offset: Tensor, mask: Tensor | None = None) -> Tensor:
        return self.conv(image, offset, mask)


DEFORMED = [
    (True, 1, {"in_channels": 3, "out_channels": 5, "kernel_size": 3, "padding": 1}),
    (False, 1, {"in_channels": 3, "out_channels": 4, "kernel_size": (2, 3), "bias": False}),
    (
        True,
        2,
        {"in_channels": 4, "out_channels": 6, "kernel_size": 3, "stride": 2, "padding": 1, "groups": 2},
    ),
    (
        False,
        4,
        {"in_channels": 4, "out_channels": 4, "kernel_size": 3, "padding": (3, 2), "dilation": (3, 2)},
    ),
]


@pytest.mark.parametrize(("masked", "offset_groups", "options"), DEFORMED)
def test_deform_conv2d(
    assert_converts: Any, masked: bool, offset_groups: int, options: dict[str, Any]
) -> None:
    module = Deformed(masked, **options)
    image = torch.randn(2, options["in_channels"], 9, 7, generator=torch.Generator().manual_seed(9))
    proof = assert_converts(module, module.inputs(image, offset_groups), atol=1e-4)
    assert of_the_pack(proof.report) == {"torchvision.deform_conv2d.default": True}


# Together -----------------------------------------------------------------------------------------------


class Detector(torch.nn.Module):
    """One stage of anchors and a second on their regions, as torchvision's detectors have them."""

    def __init__(self) -> None:
        super().__init__()
        self.features = torch.nn.Sequential(
            torch.nn.Conv2d(3, 8, 3, 2, 1), torch.nn.ReLU(), torch.nn.Conv2d(8, 8, 3, 2, 1), torch.nn.ReLU()
        )
        self.scores = torch.nn.Conv2d(8, 3, 1)
        self.moves = torch.nn.Conv2d(8, 12, 1)
        self.pool = ops.RoIAlign(3, 0.25, 2, aligned=True)
        self.head = torch.nn.Linear(72, 4)
        anchors = AnchorGenerator(((8,),), ((0.5, 1.0, 2.0),)).grid_anchors([(8, 8)], [[4, 4]])
        self.register_buffer("anchors", torch.cat(anchors).float())

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        seen = self.features(image)
        points = self.scores(seen).permute(0, 2, 3, 1).reshape(-1).sigmoid()
        moves = self.moves(seen).permute(0, 2, 3, 1).reshape(-1, 4)
        dets = ops.clip_boxes_to_image(self.anchors + moves, (32, 32))
        best, order = points.topk(24)
        rois = dets[order]
        classes = self.head(self.pool(seen, torch.cat([rois.new_zeros(24, 1), rois], 1)).flatten(1))
        keep = ops.batched_nms(rois, best, classes.argmax(1) % 2, 0.1)
        return rois[keep], best[keep], classes[keep]


def test_a_detector() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = Detector().eval()
        images = [torch.randn(1, 3, 32, 32) for _ in range(3)]
    found = compiled(model, images[0])
    assert of_the_pack(found.report) == {
        "torchvision.roi_align.default": True,
        "trtcore_vision.nms_sorted.default": True,
    }
    assert {node.pack.split()[0] for node in found.report.converted if "vision" in node.op} == {PACK}
    for image in images:
        want = model(image)
        assert 0 < len(want[0]) < 24
        for have, expected in zip(found(image), want, strict=True):
            torch.testing.assert_close(have, expected, rtol=1e-4, atol=1e-4)
