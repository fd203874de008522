"""A component of a pipeline: of the model's class for all that a pipeline asks, and computing in engines."""

from __future__ import annotations

import copy
import threading
import types
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from trtcore.errors import InputError
from trtcore_contrib_diffusers.adapters import own_adapted_weights
from trtcore_contrib_diffusers.engines import Engines


class InEngines(nn.Module):
    """What components have beside their model's class. Made by `component`; never called itself."""

    __slots__ = ("_engines",)
    _engines: Engines


def component(engines: Engines) -> Any:
    """`engines.model` under a class of the same name, derived from its own: attributes and methods are the model's,
    and the methods for which there are engines run in these."""
    model = engines.model
    made = object.__new__(_class_of(type(model), tuple(engines.methods)))
    object.__setattr__(made, "__dict__", model.__dict__)
    object.__setattr__(made, "_engines", engines)
    return made


def with_tensors_of(model: nn.Module) -> Any:
    """A copy of the modules, with the very same parameters and buffers."""
    memo = {id(one): one for one in (*model.parameters(), *model.buffers())}
    return copy.deepcopy(model, memo)


_FIXED = (
    *(
        "enable_freeu",
        "disable_freeu",
        "enable_forward_chunking",
        "disable_forward_chunking",
        "enable_tiling",
    ),
    *("enable_cache", "enable_layerwise_casting", "enable_group_offload", "resize_token_embeddings"),
)
"""Methods that change what a model computes, or where; engines have taken it from the model as it was."""

_classes: dict[Any, Any] = {}
_lock = threading.Lock()


def _class_of(model: type[nn.Module], methods: tuple[str, ...]) -> Any:
    with _lock:
        if (model, methods) not in _classes:
            members: dict[str, Any] = {
                "__slots__": (),
                "__module__": model.__module__,
                "__doc__": model.__doc__,
                "device": property(lambda self: self._engines.device),
                "_apply": _apply,
                "__reduce_ex__": _reduce,
                "peft_config": property(_peft_config, _set_peft_config, _del_peft_config),
                "load_state_dict": _counted(model, "load_state_dict"),
                **{
                    name: _fusing(model, name)
                    for name in ("fuse_lora", "unfuse_lora")
                    if hasattr(model, name)
                },
                **{name: _refused(model, name) for name in _FIXED if hasattr(model, name)},
                **{method: _in_engine(model, method) for method in methods},
            }
            # diffusers looks up what it knows of a model by the name of its class.
            _classes[model, methods] = types.new_class(
                model.__name__, (model, InEngines), exec_body=lambda names: names.update(members)
            )
        return _classes[model, methods]


def _in_engine(model: type[nn.Module], method: str) -> Callable[..., Any]:
    def run(self: InEngines, *args: Any, **kwargs: Any) -> Any:
        return self._engines.run(method, args, kwargs)

    run.__name__, run.__doc__ = method, getattr(model, method).__doc__
    return run


def _apply(self: InEngines, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> Any:
    """What `to`, `cuda`, `half` and the like come to. The weights in torch stay where they are."""
    engines = self._engines
    now = torch.empty(0, dtype=self.dtype, device=engines.device)
    then = fn(now)
    if then.dtype != now.dtype and then.dtype in engines.dtypes:
        engines.become(then.dtype)
    elif then.dtype != now.dtype:
        raise InputError(
            f"{engines.name} is compiled in {now.dtype}, and cannot become {then.dtype}",
            advice=f"compile_pipeline(pipe.to({then.dtype}), ...) of the pipeline that was compiled",
        )
    if then.device != now.device:
        engines.move(then.device)
    return self


def _refused(model: type[nn.Module], method: str) -> Callable[..., Any]:
    def refused(self: InEngines, *args: Any, **kwargs: Any) -> Any:
        raise InputError(
            f"{self._engines.name} runs in engines, which {method}() would not change",
            advice=f"call {method}() of the pipeline in torch, where compile_pipeline takes that, and compile it then",
        )

    refused.__name__, refused.__doc__ = method, getattr(model, method).__doc__
    return refused


def _reduce(self: InEngines, protocol: Any) -> Any:
    raise InputError(
        f"{self._engines.name} of a compiled pipeline cannot be copied or pickled",
        advice="copy the pipeline that was compiled, and compile the copy",
    )


# Adapters: PEFT sets and deletes `peft_config` as they come and go. ------------------------------------------------


def _peft_config(self: InEngines) -> Any:
    try:
        return self.__dict__["peft_config"]
    except KeyError:
        raise AttributeError("peft_config") from None


def _set_peft_config(self: InEngines, value: Any) -> None:
    self._engines.weights.epoch += 1
    self.__dict__["peft_config"] = value


def _del_peft_config(self: InEngines) -> None:
    self._engines.weights.epoch += 1
    del self.__dict__["peft_config"]


def _counted(model: type[nn.Module], method: str) -> Callable[..., Any]:
    """A method of the model's that changes weights in ways that nothing else shows."""

    def changing(self: InEngines, *args: Any, **kwargs: Any) -> Any:
        try:
            return getattr(model, method)(self, *args, **kwargs)
        finally:
            self._engines.weights.epoch += 1

    changing.__name__, changing.__doc__ = method, getattr(model, method).__doc__
    return changing


def _fusing(model: type[nn.Module], method: str) -> Callable[..., Any]:
    """Fusing writes into weights, which from then on are the component's own."""
    counted = _counted(model, method)

    def fusing(self: InEngines, *args: Any, **kwargs: Any) -> Any:
        own_adapted_weights(self._engines.model)
        return counted(self, *args, **kwargs)

    fusing.__name__, fusing.__doc__ = method, getattr(model, method).__doc__
    return fusing
