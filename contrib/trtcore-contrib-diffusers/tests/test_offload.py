"""One component at a time on the device."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from trtcore_contrib_diffusers import compile_pipeline

from trtcore.runtime import EngineManifest, get_engine

pytest.importorskip("diffusers")
pytestmark = pytest.mark.slow


def image(pipe):
    generator = torch.Generator().manual_seed(0)
    return pipe(
        "a cat", height=32, width=32, num_inference_steps=2, output_type="np", generator=generator
    ).images


def there(pipe):
    """The components whose engines hold something: the reference runtime's copies of constants."""
    found = set()
    for name, model in pipe.components.items():
        for method, kinds in getattr(model, "_engines", SimpleNamespace(methods={})).methods.items():
            for engine in (engine for built in kinds.values() for engine in engines_of(built.module)):
                if engine._opened is not None and engine._opened.module.constants._staged:
                    found.add(f"{name}.{method}")
    return found


def engines_of(module):
    calls = module.graph.find_nodes(op="call_function", target=torch.ops.trtcore.execute_engine.default)
    return [get_engine(EngineManifest.from_json(call.args[3]).id) for call in calls]


def test_components_take_turns(pipeline_of):
    pipe = pipeline_of("stable_diffusion")
    compiled = compile_pipeline(pipe, height=32, offload=True, runtime="reference")
    assert there(compiled) == set()
    seen = []

    def step(pipe, index, timestep, arguments):
        seen.append(there(pipe))
        return arguments

    made = compiled(
        "a cat", height=32, width=32, num_inference_steps=2, output_type="np", callback_on_step_end=step,
        generator=torch.Generator().manual_seed(0),
    ).images  # fmt: skip
    assert seen == [{"unet.forward"}] * 2
    assert there(compiled) == {"vae._decode"}
    assert abs(made - image(pipe)).max() < 1e-3
    all_there = compile_pipeline(pipe, height=32, runtime="reference")
    image(all_there)
    assert there(all_there) == {"unet.forward", "vae._decode", "text_encoder.forward"}
