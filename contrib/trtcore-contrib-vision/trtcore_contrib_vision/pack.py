"""What the entry point names."""

from __future__ import annotations

from collections.abc import Iterable

from trtcore.pack import Converter, LoweringPass, converters_in, hookimpl


@hookimpl
def converters() -> Iterable[Converter]:
    """The converters of torchvision's ops, by their names: torchvision need not be there."""
    from trtcore_contrib_vision import deform_conv2d, nms, roi_align

    return converters_in(nms, roi_align, deform_conv2d)


@hookimpl
def lowering_passes() -> Iterable[LoweringPass]:
    """The pass that splits nms."""
    from trtcore_contrib_vision.nms import PASSES

    return PASSES
