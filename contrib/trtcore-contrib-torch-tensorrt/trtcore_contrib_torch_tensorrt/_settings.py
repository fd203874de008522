"""Settings by their old names and defaults, and what trtcore's are for them."""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch

import trtcore
from trtcore import errors
from trtcore_contrib_torch_tensorrt._defaults import ARGUMENTS, DEFAULTS
from trtcore_contrib_torch_tensorrt._Device import Device
from trtcore_contrib_torch_tensorrt._enums import EngineCapability, dtype
from trtcore_contrib_torch_tensorrt._told import NotHereError

__all__ = ["CompilationSettings", "as_settings", "split"]

_CACHE = ("cache_built_engines", "reuse_cached_engines")
_AUTOCAST = (torch.float16, torch.bfloat16)


class CompilationSettings:
    """The 51 settings under their old names, with their old defaults; attributes may be set.

    Raises:
        SettingsError: a name that is none of them, with the nearest ones.
    """

    def __init__(self, **given: Any) -> None:
        for name, default in {**DEFAULTS, **ARGUMENTS}.items():
            value = given.pop(name, default)
            vars(self)[name] = set(value) if isinstance(value, (frozenset, set)) else value
        if given:
            raise _unknown(next(iter(given)))

    @classmethod
    def of(cls, settings: trtcore.CompilationSettings) -> CompilationSettings:
        """trtcore's settings of a compile, as a converter or a validator reads them. What trtcore has beside the old
        ones (``backend``, ``pins``, ...) is there, too.
        """
        made = cls.__new__(cls)
        for doc in settings.describe():
            vars(made)[doc.name] = getattr(settings, doc.name)
        vars(made).update(
            enabled_precisions={dtype._from(one) for one in settings.enabled_precisions},
            engine_capability=EngineCapability[settings.engine_capability.upper()],
            torch_executed_ops=set(settings.torch_executed_ops),
            attn_bias_is_causal=False,
            use_complex_decomposition=False,
            device=Device._current_device() if settings.device is None else settings.device,
        )
        return made

    def changed(self) -> dict[str, Any]:
        """Those that differ from their defaults."""
        return {
            name: vars(self)[name]
            for name, default in {**DEFAULTS, **ARGUMENTS}.items()
            if vars(self).get(name, default) != default
        }

    def __eq__(self, other: object) -> bool:
        return isinstance(other, CompilationSettings) and vars(self) == vars(other)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return (
            f"CompilationSettings({', '.join(f'{name}={value!r}' for name, value in self.changed().items())})"
        )


# What becomes of a setting where it is not handed over as it is: value -> trtcore's settings ---------------


def _precisions(value: Any) -> dict[str, Any]:
    if isinstance(value, (dtype, torch.dtype)):
        value = {value}
    return {"enabled_precisions": {dtype._from(one).to(torch.dtype) for one in value}}


def _device(value: Any) -> dict[str, Any]:
    if (
        value is None
        or isinstance(value, tuple)
        or (isinstance(value, str) and value.lower().startswith("sm"))
    ):
        return {"device": value}
    return {"device": Device._from(value).as_setting()}


def _capability(value: Any) -> dict[str, Any]:
    return {
        "engine_capability": EngineCapability._from(value).name.lower()
        if not isinstance(value, str)
        else value
    }


def _low_precision(value: Any) -> dict[str, Any]:
    return {"autocast_low_precision_type": None if value is None else dtype._from(value).to(torch.dtype)}


def _nothing(value: Any) -> dict[str, Any]:
    return {}


def _only(name: str, allowed: Iterable[Any], instead: str) -> Callable[[Any], dict[str, Any]]:
    """A setting of which trtcore has only some values, which are what it does anyway."""

    def convert(value: Any) -> dict[str, Any]:
        if value in tuple(allowed):
            return {}
        raise NotHereError(f"{name}={value!r} is not here", advice=instead)

    return convert


CONVERTED: Mapping[str, Callable[[Any], dict[str, Any]]] = {
    "enabled_precisions": _precisions,
    "precision": _precisions,
    "device": _device,
    "engine_capability": _capability,
    "autocast_low_precision_type": _low_precision,
    "use_python_runtime": _nothing,  # engines run by trtcore's own runtime either way
    "attn_bias_is_causal": _nothing,  # masks are kept as they are, which is right for every mask
    # False is that frontend's other way of doing the same
    "use_complex_decomposition": lambda value: {"use_complex_decomposition": True} if value else {},
    "make_refitable": lambda value: {"immutable_weights": not value},
    "use_strong_types": lambda value: {"use_explicit_typing": value},
    "strict": _only("strict", (True, False, None), ""),
    "prefer_deferred_runtime_asserts_over_guards": _only(
        "prefer_deferred_runtime_asserts_over_guards", (True, False), ""
    ),
    "allow_complex_guards_as_runtime_asserts": _only(
        "allow_complex_guards_as_runtime_asserts", (True, False), ""
    ),
    "calibrator": _only(
        "calibrator", (None,), "quantise the model with torchao or ModelOpt, and export that"
    ),
    "allow_shape_tensors": _only("allow_shape_tensors", (True, False), ""),
    "fallback_to_inductor": _only("fallback_to_inductor", (True, False), ""),
    "weight_streaming_budget": _only(
        "weight_streaming_budget",
        (None,),
        "with torch_tensorrt.runtime.weight_streaming(module) as w: w.device_budget = n",
    ),
    "lift_mutable_buffers": _only(
        "lift_mutable_buffers", (False, None), "leave it out: written buffers are kept in torch"
    ),
}
"""Old settings that are not handed over with their own name and value; newer and older ones among them."""


def as_settings(given: Mapping[str, Any], settings: CompilationSettings | None = None) -> dict[str, Any]:
    """trtcore's settings for old ones.

    Args:
        given: settings by their old names; trtcore's own names are taken, too.
        settings: an object with more of them, which `given` changes.

    Raises:
        NotHereError: a value that trtcore has not got; the text has what to use.
    """
    all_given = {**(settings.changed() if settings is not None else {}), **given}
    made: dict[str, Any] = {}
    for name, value in all_given.items():
        made.update(CONVERTED[name](value) if name in CONVERTED else {name: value})
    low = [one for one in _AUTOCAST if one in made.get("enabled_precisions", ())]
    if low and "use_explicit_typing" not in made and not made.get("enable_autocast"):
        made["use_explicit_typing"] = False  # what lower precisions have always meant: autocast
    if made.get("immutable_weights") is False and not torch.cuda.is_available() and "runtime" not in made:
        del made["immutable_weights"]
        warnings.warn(
            "immutable_weights=False: torch sees no GPU here, without which TensorRT builds no plan that takes other "
            "weights; the reference runtime, which runs the engines here, gives them to any engine",
            stacklevel=3,
        )
    if any(made.get(name) for name in _CACHE) and made.get("custom_engine_cache") is None:
        made.setdefault("engine_cache_dir", ARGUMENTS["engine_cache_dir"])
        made.setdefault("engine_cache_size", ARGUMENTS["engine_cache_size"])
    return made


def split(given: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Keyword arguments that are settings, and the others."""
    known = {doc.name for doc in trtcore.CompilationSettings.describe()}
    names = {*DEFAULTS, *ARGUMENTS, *CONVERTED, *known}
    return (
        {name: value for name, value in given.items() if name in names},
        {name: value for name, value in given.items() if name not in names},
    )


def _unknown(name: str) -> errors.SettingsError:
    near = difflib.get_close_matches(name, [*DEFAULTS, *ARGUMENTS], n=3, cutoff=0.5)
    return errors.SettingsError(
        f"there is no setting {name!r}", advice=f"did you mean {' or '.join(near)}?" if near else None
    )
