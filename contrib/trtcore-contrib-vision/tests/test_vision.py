"""torchvision's ops in an engine: numbers, static and dynamic, and what is refused."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

import trtcore
from trtcore.testing import Example, PackConformance

PACK = "trtcore-contrib-vision:vision 0.1.0"
vision = torch.ops.torchvision


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def boxes(count: int, seed: int = 0, size: float = 20.0) -> Tensor:
    """Boxes (count, 4) in a square, many of which overlap."""
    corner = torch.rand(count, 2, generator=generator(seed)) * size
    return torch.cat([corner, corner + 1 + torch.rand(count, 2, generator=generator(seed + 1)) * size / 2], 1)


@pytest.mark.slow
def test_importing_the_pack_needs_no_torchvision() -> None:
    code = """
import sys
sys.modules["torchvision"] = None  # an import of it fails
import trtcore_contrib_vision.pack as pack
assert len({str(one.target) for one in pack.converters()}) == 4
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr


# roi_align ----------------------------------------------------------------------------------------------


class RoiAlign(torch.nn.Module):
    def __init__(self, scale: float, grid: tuple[int, int], samples: int, aligned: bool) -> None:
        super().__init__()
        self.options = (scale, *grid, samples, aligned)

    def forward(self, image: Tensor, rois: Tensor, of_image: Tensor) -> Tensor:
        rois = torch.cat([of_image[:, None].to(rois.dtype), rois], 1)
        return vision.roi_align(image, rois, *self.options)


def regions(count: int, images: int, size: float) -> tuple[Tensor, Tensor]:
    """Boxes (count, 4), and whose; one of them reaches out of the image, one is empty, one far outside."""
    found = boxes(count, 3, size)
    found[0] = torch.tensor([-4.0, -3.0, 2.5, size + 3.0])
    found[1] = torch.tensor([3.0, 3.0, 3.0, 3.0])
    found[2] = torch.tensor([size * 3, size * 3, size * 4, size * 4])
    return found, torch.arange(count) % images


@pytest.mark.parametrize(
    ("scale", "grid", "samples", "aligned"),
    [(1.0, (3, 3), 2, False), (0.5, (2, 4), 1, True), (0.25, (1, 1), 3, False)],
)
def test_roi_align(
    assert_converts: Any, scale: float, grid: tuple[int, int], samples: int, aligned: bool
) -> None:
    image = torch.randn(2, 3, 9, 7, generator=generator(1))
    proof = assert_converts(RoiAlign(scale, grid, samples, aligned), (image, *regions(6, 2, 9.0 / scale)))
    (node,) = [node for node in proof.report.converted if node.op == "torchvision.roi_align.default"]
    assert node.candidates[0].pack == PACK


def test_the_build_process_needs_no_torchvision(assert_converts: Any) -> None:
    """The op goes there as its schema; the pack's converter, which has it by name, is found there."""
    inputs = (torch.randn(2, 3, 9, 7, generator=generator(1)), *regions(6, 2, 9.0))
    proof = assert_converts(RoiAlign(1.0, (3, 3), 2, False), inputs, settings={"build_isolation": "process"})
    assert any(node.op == "torchvision.roi_align.default" for node in proof.report.converted)


def test_roi_align_with_all_sizes_dynamic(assert_converts: Any) -> None:
    image = torch.randn(2, 3, 9, 7, generator=generator(1))
    dynamic = {0: {0: (2, 2, 3), 2: (5, 9, 11), 3: (4, 7, 8)}, 1: {0: (3, 6, 8)}, 2: {0: (3, 6, 8)}}
    assert_converts(RoiAlign(0.5, (2, 3), 2, True), (image, *regions(6, 2, 18.0)), dynamic=dynamic)


def test_roi_align_in_half(assert_converts: Any) -> None:
    image = torch.randn(1, 2, 6, 6, generator=generator(1))
    assert_converts(
        RoiAlign(1.0, (2, 2), 2, True),
        (image, *regions(4, 1, 5.0)),
        dtypes=[torch.float16],
        rtol=1e-2,
        atol=1e-2,
    )


def test_adaptive_sampling_stays_in_torch(assert_refuses: Any) -> None:
    image = torch.randn(1, 2, 6, 6)
    assert_refuses(RoiAlign(1.0, (2, 2), -1, False), (image, *regions(4, 1, 5.0)), "depends on the boxes")


# deform_conv2d ------------------------------------------------------------------------------------------


class DeformConv(torch.nn.Module):
    def __init__(
        self, channels: int, out: int, kernel: tuple[int, int], stride: int = 1, pad: int = 0, dilation: int = 1,
        groups: int = 1, offset_groups: int = 1, use_mask: bool = True,
    ) -> None:  # fmt: skip
        super().__init__()
        self.weight = torch.nn.Parameter(
            torch.randn(out, channels // groups, *kernel, generator=generator(5))
        )
        self.bias = torch.nn.Parameter(torch.randn(out, generator=generator(6)))
        self.options = (stride, stride, pad, pad, dilation, dilation, groups, offset_groups, use_mask)
        self.taps = kernel[0] * kernel[1] * offset_groups
        self.geometry = (kernel, stride, pad, dilation)

    def inputs(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        kernel, stride, pad, dilation = self.geometry
        sizes = [
            (s + 2 * pad - dilation * (k - 1) - 1) // stride + 1 for s, k in zip(image.shape[2:], kernel)
        ]
        offset = 2 * torch.randn(image.shape[0], 2 * self.taps, *sizes, generator=generator(7))
        mask = torch.rand(image.shape[0], self.taps, *sizes, generator=generator(8))
        return image, offset, mask

    def forward(self, image: Tensor, offset: Tensor, mask: Tensor) -> Tensor:
        return vision.deform_conv2d(image, self.weight, offset, mask, self.bias, *self.options)


@pytest.mark.parametrize(
    "module",
    [
        DeformConv(2, 3, (3, 3), pad=1),
        DeformConv(4, 4, (2, 3), stride=2, groups=2, offset_groups=2),
        DeformConv(2, 2, (3, 3), pad=2, dilation=2, use_mask=False),
        DeformConv(4, 2, (1, 1), offset_groups=4, groups=2),
    ],
    ids=["plain", "groups", "dilated", "one tap"],
)
def test_deform_conv2d(assert_converts: Any, module: DeformConv) -> None:
    image = torch.randn(2, module.weight.shape[1] * module.options[6], 5, 6, generator=generator(9))
    proof = assert_converts(module, module.inputs(image), atol=1e-4)
    assert {node.candidates[0].pack for node in proof.report.converted} == {PACK}


def test_deform_conv2d_with_all_sizes_dynamic(assert_converts: Any) -> None:
    module = DeformConv(2, 3, (3, 3), pad=1, offset_groups=2)
    image, offset, mask = module.inputs(torch.randn(2, 2, 4, 3, generator=generator(9)))
    sizes = {0: (1, 2, 2), 2: (3, 4, 5), 3: (2, 3, 4)}
    assert_converts(module, (image, offset, mask), dynamic={0: sizes, 1: sizes, 2: sizes}, atol=1e-4)


# nms ----------------------------------------------------------------------------------------------------


def nms(dets: Tensor, scores: Tensor, threshold: float = 0.4) -> Tensor:
    return vision.nms(dets, scores, threshold)


class Nms(torch.nn.Module):
    def __init__(self, threshold: float = 0.4) -> None:
        super().__init__()
        self.threshold = threshold

    def forward(self, dets: Tensor, scores: Tensor) -> Tensor:
        return dets[vision.nms(dets, scores * 2, self.threshold)]


def compiled(module: torch.nn.Module, inputs: list[Any], **settings: Any) -> Any:
    return trtcore.compile(module.eval(), inputs, min_block_size=1, runtime="reference", **settings)


@pytest.mark.parametrize("threshold", [0.0, 0.4])
def test_nms_is_sorted_and_suppressed_in_the_engine(threshold: float) -> None:
    module = Nms(threshold)
    found = compiled(module, [boxes(40), torch.rand(40)])
    ops = {node.op: node.in_engine for node in found.report.nodes}
    assert ops["trtcore_vision.nms_sorted.default"]
    assert "torchvision.nms.default" not in ops
    for seed in range(5):
        dets, scores = boxes(40, seed), torch.rand(40, generator=generator(seed))
        want = module(dets, scores)
        assert 0 < len(want) <= 40
        torch.testing.assert_close(found(dets, scores), want, rtol=0, atol=0)


def test_the_threshold_is_compared_as_torchvision_does() -> None:
    """An overlap of exactly the float32 next to the threshold, above and below."""
    dets = torch.tensor([[0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 10.0, 1.0], [0.0, 0.0, 10.0, 3.0]])
    for threshold in (0.1, 0.30000001192092896, 0.09999999):
        found = compiled(Nms(threshold), [dets, torch.tensor([3.0, 2.0, 1.0])])
        want = Nms(threshold)(dets, torch.tensor([3.0, 2.0, 1.0]))
        torch.testing.assert_close(found(dets, torch.tensor([3.0, 2.0, 1.0])), want)


def test_batched_nms() -> None:
    """What torchvision's batched_nms does: boxes of different classes are moved apart."""

    class Batched(torch.nn.Module):
        def forward(self, dets: Tensor, scores: Tensor, labels: Tensor) -> Tensor:
            apart = labels.to(dets) * (dets.max() + 1)
            return vision.nms(dets + apart[:, None], scores, 0.3)

    labels = torch.arange(30) % 4
    found = compiled(Batched(), [boxes(30), torch.rand(30), labels])
    assert "trtcore_vision.nms_sorted.default" in {node.op for node in found.report.converted}
    dets, scores = boxes(30, 4), torch.rand(30, generator=generator(4))
    want = Batched()(dets, scores, labels)
    assert len(want) > len(nms(dets, scores, 0.3))
    torch.testing.assert_close(found(dets, scores, labels), want)


def reason_of_nms(report: Any) -> str:
    (node,) = [node for node in report.nodes if node.op == "torchvision.nms.default"]
    assert not node.in_engine
    return str(node.reason)


def test_a_varying_number_of_boxes_needs_the_layer(trt_backend: Any) -> None:
    """Where the backend refuses TensorRT's NMS layer, the reason has its words; torch computes it, rightly."""
    module = Nms()
    inputs = [
        trtcore.Input(min_shape=(2, 4), opt_shape=(20, 4), max_shape=(50, 4)),
        trtcore.Input(min_shape=(2,), opt_shape=(20,), max_shape=(50,)),
    ]
    found = compiled(module, inputs)
    reason = reason_of_nms(found.report)
    can = trt_backend.can("layer:add_nms", trt_backend.default_target(trtcore.CompilationSettings()))
    if can:
        assert "boxes at most" in reason
    else:
        assert "needs layer:add_nms" in reason
        assert can.message in reason
    dets, scores = boxes(33), torch.rand(33)
    torch.testing.assert_close(found(dets, scores), module(dets, scores))


@torch.library.custom_op("vision_tests::nms_total", mutates_args=())
def nms_total(dets: Tensor, scores: Tensor) -> Tensor:
    """The sum of the places of the boxes that stay: of a shape that does not depend on data."""
    return nms(dets, scores).sum()


@nms_total.register_fake
def _(dets: Tensor, scores: Tensor) -> Tensor:
    return dets.new_empty((), dtype=torch.int64)


def test_the_layers_network_is_accepted(trt_backend: Any) -> None:
    """Without its `requires`, the converter of TensorRT's NMS layer comes as far as the build."""
    from trtcore_contrib_vision.nms import nms_layer

    def convert(ctx: Any, dets: Any, scores: Any) -> Any:
        return ctx.reduce(nms_layer(ctx, dets, scores, 0.4), "SUM", [])

    class Total(torch.nn.Module):
        def forward(self, dets: Tensor, scores: Tensor) -> Tensor:
            return torch.ops.vision_tests.nms_total(dets, scores)

    op = torch.ops.vision_tests.nms_total.default
    found = compiled(Total(), [boxes(8), torch.rand(8)], converters={op: convert})
    (node,) = found.report.nodes
    target = trt_backend.default_target(trtcore.CompilationSettings())
    assert node.in_engine == bool(trt_backend.can("layer:add_nms", target))
    assert node.in_engine or "could not build the engine" in node.reason, node.reason
    dets, scores = boxes(8, 5), torch.rand(8)
    torch.testing.assert_close(found(dets, scores), nms_total(dets, scores))


def test_what_the_user_keeps_in_torch_is_not_split() -> None:
    found = compiled(Nms(), [boxes(8), torch.rand(8)], torch_executed_ops={"torchvision.nms.default"})
    assert "forced to torch" in reason_of_nms(found.report)


def test_the_pass_can_be_turned_off() -> None:
    found = compiled(Nms(), [boxes(8), torch.rand(8)], disabled_passes={"split_nms"})
    assert reason_of_nms(found.report)
    dets, scores = boxes(8, 2), torch.rand(8)
    torch.testing.assert_close(found(dets, scores), Nms()(dets, scores))


@pytest.mark.slow
def test_nms_sorted_is_a_proper_op() -> None:
    from trtcore_contrib_vision.ops import nms_sorted

    torch.library.opcheck(nms_sorted, (boxes(9), torch.rand(9), 0.4))
    dets, scores = boxes(25), torch.rand(25)
    order, keep = nms_sorted(dets, scores, 0.3)
    torch.testing.assert_close(order[keep], nms(dets, scores, 0.3))


# The kit ------------------------------------------------------------------------------------------------


@pytest.mark.slow
class TestConformance(PackConformance):
    """What the kit asks of any pack."""

    pack = "trtcore-contrib-vision"
    not_shown = frozenset({"nms_layer"})  # TensorRT for RTX refuses the layer

    def examples(self) -> Iterator[Example]:
        image = torch.randn(2, 2, 5, 6, generator=generator(1))
        count = {0: (3, 4, 5)}
        yield Example(
            RoiAlign(0.5, (2, 2), 2, True), (image, *regions(4, 2, 10.0)), dynamic={1: count, 2: count}
        )
        module = DeformConv(2, 2, (3, 3), pad=1)
        batch = {0: (1, 2, 3)}
        yield Example(module, module.inputs(image), dynamic={0: batch, 1: batch, 2: batch}, atol=1e-4)

        def sort(dets: Tensor, scores: Tensor) -> Any:
            return torch.ops.trtcore_vision.nms_sorted(dets, scores, 0.4)

        yield Example(sort, (boxes(12), torch.rand(12)))
        yield Example(Nms(), (boxes(12), torch.rand(12)), converts=False)
