"""Pipelines of other families, each against eager."""

from __future__ import annotations

import pytest
import torch
from trtcore_contrib_diffusers import compile_pipeline, reports

from trtcore.errors import InputError

pytest.importorskip("diffusers")
pytestmark = pytest.mark.slow


def result(pipe, **arguments):
    """The images or the video of two steps, from the same noise."""
    further = {"num_inference_steps": 2, "output_type": "np", "return_dict": False, **arguments}
    return pipe(generator=torch.Generator().manual_seed(0), **further)[0]


def difference(one, other):
    assert one.shape == other.shape
    return abs(one - other).max()


COMPONENTS = {
    "stable_diffusion_xl": {"unet.forward", "vae.decode", "text_encoder.forward", "text_encoder_2.forward"},
    "stable_diffusion_3": {
        "transformer.forward", "vae.decode", "text_encoder.forward", "text_encoder_2.forward",
        "text_encoder_3.forward",
    },
    "flux": {"transformer.forward", "vae.decode", "text_encoder.forward", "text_encoder_2.forward"},
    "ltx": {"transformer.forward", "vae.decode", "text_encoder.forward"},
    "wan": {"transformer.forward", "vae.decode", "text_encoder.forward"},
    "cogvideox": {"transformer.forward", "vae.decode", "text_encoder.forward"},
    "animate_diff": {"unet.forward", "vae.decode", "text_encoder.forward"},
    "image_to_image": {"unet.forward", "vae.decode", "vae.encode", "text_encoder.forward"},
    "inpainting": {"unet.forward", "vae.decode", "vae.encode", "text_encoder.forward"},
    "controlnet": {"unet.forward", "controlnet.forward", "vae.decode", "text_encoder.forward"},
}  # fmt: skip


@pytest.mark.parametrize("name", COMPONENTS)
def test_results_are_eagers(pipeline_of, calls, name):
    pipe, (sizes, further) = pipeline_of(name), calls[name]
    compiled = compile_pipeline(pipe, **sizes, arguments=further)
    assert set(reports(compiled)) == COMPONENTS[name]
    for place, report in reports(compiled).items():
        assert len(report.engines) == 1, (place, report.summary())
        assert report.fully_converted, (place, report.text())
    call = {"prompt": "a cat", **sizes, **further}
    assert difference(result(compiled, **call), result(pipe, **call)) < 1e-3
    if "height" in sizes:
        with pytest.raises(InputError, match=f"serves height {sizes['height']}, width"):
            result(compiled, **{**call, "height": 2 * sizes["height"]})


def test_a_vae_that_is_in_float32_for_the_time_of_a_call(pipeline_of):
    """As SDXL has it in half precision; the weights that both pipelines share stay in half precision."""
    pipe = pipeline_of("stable_diffusion_xl").to(torch.float16)
    assert pipe.vae.config.force_upcast
    call = {"prompt": "a cat", "height": 32, "width": 32}
    want = result(pipe, **call)
    compiled = compile_pipeline(pipe, height=32, components=["unet", "vae"])
    assert compiled.vae.dtype == torch.float16
    assert difference(result(compiled, **call), want) < 2e-2
    assert {one.dtype for one in (*compiled.vae.parameters(), *pipe.vae.parameters())} == {torch.float16}
    with pytest.raises(
        InputError, match=r"unet is compiled in torch.float16, and cannot become torch.float32"
    ):
        compiled.unet.float()


@pytest.mark.parametrize(("name", "engines"), [("stable_diffusion_3", 1), ("flux", 1), ("ltx", 2)])
def test_transformers_with_profiles(pipeline_of, calls, name, engines):
    """Their images are sequences, whose lengths belong together with tables of places. LTX is called with the sizes as
    numbers, and has a capture for each."""
    pipe, (_, further) = pipeline_of(name), calls[name]
    frames = {"num_frames": 9} if name == "ltx" else {}
    compiled = compile_pipeline(
        pipe, height=[32, 64], batch=(1, 1, 2), arguments=further, components=["transformer"], **frames
    )
    assert len(reports(compiled)) == engines
    for report in reports(compiled).values():
        assert len(report.engines) == 1, report.text()
    for batch, size in ((1, 32), (2, 64)):
        call = {"prompt": ["a cat"] * batch, "height": size, "width": size, **frames, **further}
        assert difference(result(compiled, **call), result(pipe, **call)) < 1e-3, (batch, size)
