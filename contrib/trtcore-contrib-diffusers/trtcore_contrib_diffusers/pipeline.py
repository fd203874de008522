"""`compile_pipeline`: a pipeline's components in engines."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import nn

from trtcore_contrib_diffusers.component import InEngines, component, with_tensors_of
from trtcore_contrib_diffusers.engines import Engines, build
from trtcore_contrib_diffusers.recording import Arguments, Calling, Recorder, record
from trtcore_contrib_diffusers.sizes import Sizes
from trtcore_contrib_diffusers.support import can_be_copied, check_pipeline, chosen_models, methods_of
from trtcore_contrib_diffusers.turns import Turns

if TYPE_CHECKING:
    import trtcore

Pipeline = TypeVar("Pipeline")


def compile_pipeline(
    pipe: Pipeline,
    *,
    height: Any = None,
    width: Any = None,
    num_frames: Any = None,
    batch: Any = 1,
    arguments: Arguments | Sequence[Arguments] = (),
    components: Collection[str] | None = None,
    offload: bool = False,
    progress: bool = False,
    **settings: Any,
) -> Pipeline:
    """Compile the components of a pipeline of diffusers: its denoiser, text encoders and VAE.

    The pipeline runs for one step at the sizes that it is compiled for, which shows what it calls its components with.
    Each of them is captured and compiled for that.

    Args:
        pipe: a pipeline; stays as it is. Both share their weights in torch.
        height, width, num_frames: sizes as the pipeline's call takes them; by default those that it has itself, and
            the width is the height. A number; ``(min, opt, max)`` for all sizes between; or a list of these with one
            for each optimisation profile, where lists belong together: ``height=[512, 768], width=[768, 512]``.
        batch: in the same way, how many prompts a call has.
        arguments: further arguments of the calls that are to be served, such as ``{"guidance_scale": 0.0}``; or a
            function that makes them of the number of prompts. A list of these for several kinds of calls.
        components: names of those to compile; by default all that the pipeline calls and that can be: ``unet``,
            ``transformer``, ``vae``, ``text_encoder`` and the like.
        offload: have one component at a time on the device; the others are in the host's memory. The weights in torch
            move to the CPU, those of `pipe` too (``offload_module_to_cpu``).
        progress: show bars while it works.
        **settings: of `trtcore.compile`; ``truncate_double`` is True by default: rotary tables that some models
            compute in float64 are then computed in float32, as diffusers does where a device has no float64.

    Returns:
        a pipeline of the same class, called as `pipe` is. A call that it does not serve is an `InputError`.

    Raises:
        InputError: `pipe` is no pipeline, or one that cannot be compiled; a size is none.
        SettingsError, ExportError, EngineBuildError and others: as `trtcore.compile`.

    Example:
        >>> fast = compile_pipeline(pipe, height=[512, 768], batch=(1, 1, 4))  # doctest: +SKIP
        >>> fast("a photo of a cat", height=768, width=768).images[0]  # doctest: +SKIP
    """
    check_pipeline(pipe)
    settings.setdefault("truncate_double", True)
    if width is None and "width" in inspect.signature(type(pipe).__call__).parameters:
        width = height
    sizes = Sizes.of(height=height, width=width, num_frames=num_frames, batch=batch)
    chosen = chosen_models(pipe, components)
    made: Any = copied(pipe)
    models: dict[str, Any] = {name: getattr(made, name) for name in chosen}
    methods = {
        (name, method): (model, Calling(model, method))
        for name, model in models.items()
        for method in methods_of(model)
    }
    recorder = Recorder(methods)
    given = [arguments] if isinstance(arguments, Mapping) or callable(arguments) else list(arguments) or [{}]
    with _without_bars(made):
        record(made, sizes, given, recorder)
    turns = Turns() if offload else None
    for name, model in models.items():
        own = _offloaded(settings, model) if offload else settings
        engines = Engines(name, type(pipe).__name__, str(sizes), model, device_of(model))
        for (owner, method), kinds in recorder.found.items():
            if owner == name and kinds:
                calling = methods[owner, method][1]
                built = {
                    kind: build(model, calling.method, recorded, progress, own)
                    for kind, recorded in kinds.items()
                }
                engines.add(calling, built)
                engines.dtypes |= {model.dtype, *(recorded.dtype for recorded in kinds.values())}
        if engines.methods:
            engines.take_turns(turns)
            setattr(made, name, component(engines))
    result: Pipeline = made
    return result


def copied(pipe: Any) -> Any:
    """A pipeline of its own, whose models have the same tensors: adapters are for one of the two."""
    made = copy.copy(pipe)
    for name, one in made.components.items():
        if isinstance(one, nn.Module):
            if can_be_copied(one):
                setattr(made, name, with_tensors_of(one))
        elif hasattr(one, "set_timesteps"):  # a scheduler, which counts steps
            setattr(made, name, copy.deepcopy(one))
    return made


def reports(pipe: Any) -> dict[str, trtcore.Report]:
    """What became of each component of a compiled pipeline, by its name and the method of it, as ``vae.decode``."""
    return {
        f"{name}.{method.removeprefix('_')}" + (f" ({index})" if index else ""): built.module.report
        for name, model in pipe.components.items()
        if isinstance(model, InEngines)
        for method, kinds in model._engines.methods.items()
        for index, built in enumerate(kinds.values())
    }


def _offloaded(settings: Mapping[str, Any], model: nn.Module) -> dict[str, Any]:
    """The settings of a compile after which nothing of the model is on its device."""
    on_cpu = device_of(model).type == "cpu"
    return {**({} if on_cpu else {"offload_module_to_cpu": True}), "lazy_engine_init": True, **settings}


def device_of(model: nn.Module) -> torch.device:
    """Where a model computes."""
    return next((one.device for one in (*model.parameters(), *model.buffers())), torch.device("cpu"))


@contextmanager
def _without_bars(pipe: Any) -> Iterator[None]:
    before = getattr(pipe, "_progress_bar_config", None)
    pipe._progress_bar_config = {"disable": True}
    yield
    if before is None:
        del pipe._progress_bar_config
    else:
        pipe._progress_bar_config = before
