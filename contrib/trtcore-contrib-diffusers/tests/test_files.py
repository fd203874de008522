"""Engines of a pipeline in a folder: nothing is captured or built when they are loaded."""

from __future__ import annotations

import json

import pytest
import torch
from trtcore_contrib_diffusers import compile_pipeline, load_pipeline, reports, save_pipeline

import trtcore
from trtcore.errors import ArtifactError, InputError

pytest.importorskip("diffusers")
pytestmark = pytest.mark.slow


def image(pipe, batch=1, **arguments):
    sizes = {"height": 32, "width": 32, "num_inference_steps": 2, "output_type": "np", **arguments}
    return pipe(["a cat"] * batch, generator=torch.Generator().manual_seed(0), **sizes).images


@pytest.fixture(scope="module")
def folder(pipeline_of, tmp_path_factory):
    compiled = compile_pipeline(pipeline_of("stable_diffusion"), height=[32, 48], batch=(1, 1, 2))
    path = tmp_path_factory.mktemp("saved") / "pipeline"
    save_pipeline(compiled, path)
    return path


def test_engines_are_loaded(folder, pipeline_of, monkeypatch):
    pipe = pipeline_of("stable_diffusion")
    with monkeypatch.context() as patch:
        patch.delattr(trtcore.dynamo, "trace")
        patch.delattr(trtcore.dynamo, "compile")
        loaded = load_pipeline(pipe, folder)
        for sizes in ({}, {"batch": 2}, {"height": 48, "width": 48}):
            assert abs(image(loaded, **sizes) - image(pipe, **sizes)).max() < 1e-3
    assert set(reports(loaded)) == {"unet.forward", "vae.decode", "text_encoder.forward"}
    with pytest.raises(InputError, match="serves height 32, width 32, batch 1 to 2; or height 48"):
        image(loaded, height=64)


def test_adapters_of_what_was_loaded(folder, pipeline_of):
    """A refit needs the capture, which is made then."""
    pytest.importorskip("peft")
    from peft import LoraConfig

    pipe = pipeline_of("stable_diffusion")
    loaded = load_pipeline(pipe, folder, offload=True)
    plain = image(pipe)
    for one in (loaded, pipe):
        torch.manual_seed(1)
        one.unet.add_adapter(LoraConfig(r=4, target_modules=["to_q", "to_v"], init_lora_weights=False), "one")
    assert abs(image(pipe) - plain).max() > 1e-2
    assert abs(image(loaded) - image(pipe)).max() < 1e-3
    with pytest.raises(ArtifactError, match="unet of the pipeline is not the one"):
        load_pipeline(pipe, folder)


def test_what_does_not_belong_together(folder, pipeline_of, tmp_path):
    pipe = pipeline_of("stable_diffusion")
    with torch.no_grad():
        pipe.unet.conv_in.weight.mul_(2)
    with pytest.raises(ArtifactError, match="unet of the pipeline is not the one whose engines"):
        load_pipeline(pipe, folder)
    with pytest.raises(ArtifactError, match="has the engines of a StableDiffusionPipeline, not of a Flux"):
        load_pipeline(pipeline_of("flux"), folder)
    with pytest.raises(ArtifactError, match="is no folder of a saved pipeline"):
        load_pipeline(pipe, tmp_path)
    with pytest.raises(InputError, match="has no engines to save"):
        save_pipeline(pipe, tmp_path)


@pytest.mark.parametrize("text", ["{", "[]", '{"schema": 2}', '{"schema": 1}', "bad file", "bad leaves"])
def test_damage(folder, pipeline_of, tmp_path, text):
    index = json.loads((folder / "pipeline.json").read_text())
    (entry,) = index["components"]["unet"]["methods"]["forward"]
    if text == "bad file":
        entry["file"] = "../unet.pt2"
    elif text == "bad leaves":
        entry["leaves"][0] = ["tensor"]
    (tmp_path / "pipeline.json").write_text(json.dumps(index) if text.startswith("bad") else text)
    for file in folder.glob("*.pt2"):
        (tmp_path / file.name).symlink_to(file)
    with pytest.raises(ArtifactError, match=r"damaged|another version"):
        load_pipeline(pipeline_of("stable_diffusion"), tmp_path)
