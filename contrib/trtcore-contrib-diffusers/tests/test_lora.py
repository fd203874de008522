"""Adapters that are loaded into a compiled pipeline: engines are refitted, nothing is built."""

from __future__ import annotations

import pytest
import torch
from trtcore_contrib_diffusers import compile_pipeline, reports

from trtcore.errors import InputError

pytest.importorskip("diffusers")
pytest.importorskip("peft")
pytestmark = pytest.mark.slow


def image(pipe, **arguments):
    sizes = {"height": 32, "width": 32, "num_inference_steps": 2, "output_type": "np", **arguments}
    return pipe("a cat", generator=torch.Generator().manual_seed(0), **sizes).images


def difference(one, other):
    assert one.shape == other.shape
    return abs(one - other).max()


@pytest.fixture(scope="module")
def adapters(tmp_path_factory, pipeline_of):
    """Folders of two adapters for the UNet and the text encoder."""
    from diffusers import StableDiffusionPipeline
    from peft import LoraConfig, inject_adapter_in_model
    from peft.utils import get_peft_model_state_dict

    folders = []
    for seed in (1, 2):
        pipe = pipeline_of("stable_diffusion")
        torch.manual_seed(seed)
        layers = {}
        for name, targets in (
            ("unet", ["to_q", "to_v", "conv1", "time_emb_proj"]),
            ("text_encoder", ["q_proj", "v_proj"]),
        ):
            model = getattr(pipe, name)
            inject_adapter_in_model(LoraConfig(r=4, target_modules=targets, init_lora_weights=False), model)
            layers[f"{name}_lora_layers"] = {
                key: 3 * value for key, value in get_peft_model_state_dict(model).items()
            }
        folders.append(tmp_path_factory.mktemp("adapter"))
        StableDiffusionPipeline.save_lora_weights(folders[-1], **layers)
    return folders


@pytest.fixture
def pipes(pipeline_of):
    """A pipeline in torch, and the same compiled."""
    compiled = compile_pipeline(
        pipeline_of("stable_diffusion"), height=32, components=["unet", "text_encoder"]
    )
    return pipeline_of("stable_diffusion"), compiled


def test_adapters_come_change_and_go(pipes, adapters):
    plain = image(pipes[0])
    assert difference(image(pipes[1]), plain) < 1e-3
    seen = [plain]

    def both(change, **arguments):
        for pipe in pipes:
            change(pipe)
        theirs = image(pipes[0], **arguments)
        assert difference(image(pipes[1], **arguments), theirs) < 1e-3
        assert all(difference(theirs, other) > 1e-2 for other in seen)  # or it would show nothing
        seen.append(theirs)
        assert {report.kind for report in reports(pipes[1]).values()} == {"refit"}

    both(lambda pipe: pipe.load_lora_weights(adapters[0], adapter_name="first"))
    both(lambda pipe: pipe.load_lora_weights(adapters[1], adapter_name="second"))
    both(lambda pipe: pipe.set_adapters(["first", "second"], [0.7, 0.4]))
    both(lambda pipe: None, cross_attention_kwargs={"scale": 0.5})
    both(lambda pipe: pipe.delete_adapters("second"))
    for pipe in pipes:
        pipe.disable_lora()
    assert difference(image(pipes[1]), plain) < 1e-3
    for pipe in pipes:
        pipe.enable_lora()
    assert difference(image(pipes[1]), image(pipes[0])) < 1e-3
    for pipe in pipes:
        pipe.unload_lora_weights()
    assert difference(image(pipes[1]), plain) < 1e-3
    assert difference(image(pipes[0]), plain) < 1e-3


def test_fused_adapters_and_the_pipeline_that_was_compiled(pipeline_of, adapters):
    pipe, theirs = pipeline_of("stable_diffusion"), pipeline_of("stable_diffusion")
    compiled = compile_pipeline(pipe, height=32, components=["unet"])
    plain = image(pipe)
    for one in (compiled, theirs):
        one.load_lora_weights(adapters[0], adapter_name="first")
        one.fuse_lora(components=["unet"])
        one.unet.unload_lora()
    assert difference(image(compiled), image(theirs)) < 1e-3
    assert difference(image(compiled), plain) > 1e-2
    assert difference(image(pipe), plain) == 0


def test_a_pipeline_that_has_adapters_when_it_is_compiled(pipeline_of, adapters):
    pipe = pipeline_of("stable_diffusion")
    plain = image(pipe)
    pipe.load_lora_weights(adapters[0], adapter_name="first")
    compiled = compile_pipeline(pipe, height=32, components=["unet", "text_encoder"])
    assert difference(image(compiled), image(pipe)) < 1e-3
    compiled.unload_lora_weights()
    assert difference(image(compiled), plain) < 1e-3
    assert difference(image(pipe), plain) > 1e-2


def test_weights_that_are_written(pipeline_of):
    pipe = pipeline_of("stable_diffusion")
    compiled = compile_pipeline(pipe, height=32, components=["unet"])
    with torch.no_grad():
        pipe.unet.conv_out.weight.mul_(2)
    assert difference(image(compiled), image(pipe)) < 1e-3
    compiled.unet.load_state_dict({key: value / 2 for key, value in compiled.unet.state_dict().items()})
    assert difference(image(compiled), image(pipe)) < 1e-3


def test_an_adapter_that_is_more_than_weights(pipes):
    from peft import LoraConfig

    config = LoraConfig(r=2, target_modules=["to_q"], modules_to_save=["conv_out"])
    pipes[1].unet.add_adapter(config, "more")
    with pytest.raises(
        InputError, match=r"an adapter of unet changes more than its weights: conv_out.weight"
    ):
        image(pipes[1])
