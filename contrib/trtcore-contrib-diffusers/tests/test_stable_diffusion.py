"""Stable Diffusion in engines: images are eager's, calls outside of what was compiled are refused."""

from __future__ import annotations

import copy

import pytest
import torch
from trtcore_contrib_diffusers import compile_pipeline, reports

from trtcore.errors import InputError

pytest.importorskip("diffusers")


def image(pipe, batch=1, **arguments):
    """Of a few steps, from the same noise."""
    sizes = {"height": 32, "width": 32, "num_inference_steps": 2, "output_type": "np", **arguments}
    return pipe(["a cat"] * batch, generator=torch.Generator().manual_seed(0), **sizes).images


def difference(one, other):
    assert one.shape == other.shape
    return abs(one - other).max()


@pytest.fixture(scope="module")
def pipe(pipeline_of):
    return pipeline_of("stable_diffusion")


@pytest.fixture(scope="module")
def compiled(pipe):
    return compile_pipeline(pipe, height=32)


@pytest.mark.slow
def test_images_are_eagers_and_everything_is_in_engines(pipe, compiled):
    assert type(compiled) is type(pipe)
    assert difference(image(compiled), image(pipe)) < 1e-3
    assert set(reports(compiled)) == {"unet.forward", "vae.decode", "text_encoder.forward"}
    for report in reports(compiled).values():
        assert report.fully_converted
        assert len(report.engines) == 1


@pytest.mark.slow
def test_the_pipeline_that_was_compiled_stays_in_torch(pipe, compiled):
    assert type(pipe.unet) is not type(compiled.unet)
    assert isinstance(compiled.unet, type(pipe.unet))
    assert compiled.scheduler is not pipe.scheduler
    assert reports(pipe) == {}
    assert not [name for name in pipe.unet.__dict__ if name == "forward"]  # what recorded is gone


@pytest.mark.slow
def test_results_and_bars_are_those_of_diffusers(compiled, capfd):
    made = compiled("a cat", height=32, width=32, num_inference_steps=2)
    assert type(made).__name__ == "StableDiffusionPipelineOutput"
    assert made.images[0].size == (32, 32)
    compiled.set_progress_bar_config(disable=False)
    compiled("a cat", height=32, width=32, num_inference_steps=3, output_type="latent")
    compiled.set_progress_bar_config(disable=True)
    assert "3/3" in capfd.readouterr().err


@pytest.mark.slow
def test_schedulers_with_whole_and_with_fractional_steps(pipe, compiled, pipeline_of):
    from diffusers import EulerDiscreteScheduler

    theirs = pipeline_of("stable_diffusion")
    kept = compiled.scheduler
    theirs.scheduler = EulerDiscreteScheduler.from_config(pipe.scheduler.config)
    compiled.scheduler = EulerDiscreteScheduler.from_config(pipe.scheduler.config)
    try:
        assert difference(image(compiled), image(theirs)) < 1e-3
    finally:
        compiled.scheduler = kept


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"height": 48, "width": 48}, "unet was called with sample (2, 4, 24, 24)"),
        ({"batch": 2}, "text_encoder was called with input_ids (2, 16)"),
        ({"guidance_scale": 0.0}, "unet was called with sample (1, 4, 16, 16)"),
        ({"cross_attention_kwargs": {"other": 1.0}}, "compiled without cross_attention_kwargs['other']=1.0"),
    ],
    ids=["size", "batch", "guidance", "argument"],
)
def test_calls_outside_are_refused_with_what_is_served(compiled, arguments, told):
    with pytest.raises(InputError) as caught:
        image(compiled, **arguments)
    assert "the compiled StableDiffusionPipeline serves height 32, width 32, batch 1" in str(caught.value)
    assert told in str(caught.value)
    assert "compile_pipeline(pipe, height=" in str(caught.value)


@pytest.mark.slow
def test_it_goes_to_no_other_dtype(compiled):
    with pytest.raises(
        InputError, match=r"unet is compiled in torch.float32, and cannot become torch.float16"
    ):
        compiled.unet.half()
    assert compiled.to("cpu") is compiled


@pytest.mark.slow
def test_what_engines_have_taken_from_the_model_stays(compiled):
    for change in (
        lambda: compiled.enable_freeu(0.9, 0.2, 1.5, 1.6),
        lambda: compiled.vae.enable_tiling(),
        lambda: compiled.text_encoder.resize_token_embeddings(60),
    ):
        with pytest.raises(InputError, match=r"runs in engines, which \w+\(\) would not change"):
            change()
    with pytest.raises(InputError, match="cannot be copied or pickled"):
        copy.deepcopy(compiled.unet)


@pytest.mark.slow
def test_resolutions_and_batches_in_profiles(pipe):
    compiled = compile_pipeline(pipe, height=[32, 48], width=[32, 64], batch=(1, 2, 4))
    for sizes in (
        {},
        {"batch": 4},
        {"batch": 3, "height": 48, "width": 64},
        {"batch": 2, "guidance_scale": 0.0},
    ):
        assert difference(image(compiled, **sizes), image(pipe, **sizes)) < 1e-3, sizes
    assert all(report.fully_converted for report in reports(compiled).values())
    served = "height 32, width 32, batch 1 to 4; or height 48, width 64, batch 1 to 4"
    for sizes in ({"height": 48, "width": 48}, {"height": 64, "width": 64}, {"batch": 5}):
        with pytest.raises(InputError, match=served):
            image(compiled, **sizes)


@pytest.mark.slow
def test_a_range_of_resolutions(pipe):
    compiled = compile_pipeline(pipe, height=(32, 48, 64), width=32, components=["unet", "vae"])
    assert set(reports(compiled)) == {"unet.forward", "vae.decode"}
    for height in (32, 40, 64):
        assert difference(image(compiled, height=height), image(pipe, height=height)) < 1e-3, height


@pytest.mark.slow
def test_several_kinds_of_calls(pipe):
    """With guidance and without, of which the UNet has two rows and one."""
    compiled = compile_pipeline(pipe, height=32, arguments=[{}, {"guidance_scale": 0.0}], components=["unet"])
    for scale in (0.0, 7.5):
        assert difference(image(compiled, guidance_scale=scale), image(pipe, guidance_scale=scale)) < 1e-3
