"""What cannot be compiled is refused before anything is built, in a sentence that says what can."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest
import torch
from trtcore_contrib_diffusers import compile_pipeline
from trtcore_contrib_diffusers.sizes import Sizes

from trtcore.errors import BackendUnavailableError, InputError


def test_sizes_are_profiles():
    sizes = Sizes.of(height=[512, (256, 512, 768)], width=512, batch=(1, 2, 4), num_frames=None)
    assert sizes.profiles == (
        {"height": (512, 512, 512), "width": (512, 512, 512), "batch": (1, 2, 4)},
        {"height": (256, 512, 768), "width": (512, 512, 512), "batch": (1, 2, 4)},
    )
    assert [tuple(one.values()) for one in sizes.corners(1)] == [(512, 512, 2), (256, 512, 1), (768, 512, 4)]
    assert len(Sizes.of(batch=1).corners(0)) == 1
    assert str(sizes) == "height 512, width 512, batch 1 to 4; or height 256 to 768, width 512, batch 1 to 4"


@pytest.mark.parametrize("height", [0, -8, 1.5, "512", (8, 4, 2), (8, 16), [], [8, "9"], True])
def test_what_is_no_size(height):
    with pytest.raises(InputError, match="height"):
        Sizes.of(height=height)


def test_lists_of_different_lengths():
    with pytest.raises(InputError, match="height has 2, batch has 3"):
        Sizes.of(height=[8, 16], batch=[1, 2, 3], width=[8])


def test_without_diffusers(monkeypatch):
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(BackendUnavailableError, match="compile_pipeline needs diffusers") as caught:
        compile_pipeline(object())
    assert 'pip install "trtcore-contrib-diffusers[diffusers]"' in str(caught.value)


def test_what_is_no_pipeline():
    pytest.importorskip("diffusers")
    with pytest.raises(InputError, match=r"not Linear: supported are pipelines of diffusers \(Stable"):
        compile_pipeline(torch.nn.Linear(2, 2))


def test_names_that_the_pipeline_has_not(pipeline_of):
    pipe = pipeline_of("stable_diffusion")
    with pytest.raises(InputError, match="has no component transformer") as caught:
        compile_pipeline(pipe, components=["unet", "transformer"])
    assert "text_encoder, unet, vae" in str(caught.value)
    with pytest.raises(InputError, match="StableDiffusionPipeline has no argument num_frames, promt"):
        compile_pipeline(pipe, num_frames=8, arguments={"promt": "a cat"})


def test_a_call_that_the_pipeline_does_not_take(pipeline_of):
    """What diffusers says of it, and where the missing goes."""
    pipe = pipeline_of("stable_diffusion")
    with pytest.raises(InputError, match=r"cannot be run with .*height.*divisible by 8") as caught:
        compile_pipeline(pipe, height=30)
    assert "arguments=" in str(caught.value)
    with pytest.raises(InputError, match="StableDiffusionPipeline cannot be run with"):
        compile_pipeline(pipe, height=32, arguments={"prompt": 5})


def test_a_quantised_model(pipeline_of):
    pipe = pipeline_of("stable_diffusion")
    pipe.unet.hf_quantizer = SimpleNamespace(quantization_config=SimpleNamespace(quant_method="bitsandbytes"))
    with pytest.raises(
        InputError, match=r"unet is quantised by bitsandbytes, .* supported are models in float32"
    ):
        compile_pipeline(pipe)


def test_a_cache(pipeline_of):
    from diffusers import PyramidAttentionBroadcastConfig
    from diffusers.hooks import apply_pyramid_attention_broadcast

    pipe = pipeline_of("stable_diffusion")
    config = PyramidAttentionBroadcastConfig(
        spatial_attention_block_skip_range=2, current_timestep_callback=lambda: 0,
        spatial_attention_block_identifiers=("attentions",), cross_attention_block_skip_range=2,
        cross_attention_block_identifiers=("attentions",),
    )  # fmt: skip
    apply_pyramid_attention_broadcast(pipe.unet, config)
    with pytest.raises(InputError, match=r"unet has the hook .* supported are models without caches"):
        compile_pipeline(pipe)


def test_tiles(pipeline_of):
    pipe = pipeline_of("stable_diffusion")
    pipe.vae.enable_tiling()
    with pytest.raises(InputError, match="vae works in tiles"):
        compile_pipeline(pipe)
