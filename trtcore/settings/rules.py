"""Settings that contradict each other, or ask for what this version has not got."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import attrs
import torch

from trtcore.errors import SettingsError
from trtcore.settings.values import AUTOCAST, FP4, QUANTISED


class Chosen(attrs.AttrsInstance, Protocol):
    """What the rules read of a `CompilationSettings`."""

    @property
    def enabled_precisions(self) -> frozenset[torch.dtype]: ...
    @property
    def use_explicit_typing(self) -> bool: ...
    @property
    def enable_autocast(self) -> bool: ...
    @property
    def autocast_low_precision_type(self) -> torch.dtype | None: ...
    @property
    def require_full_compilation(self) -> bool: ...
    @property
    def cache_built_engines(self) -> bool: ...
    @property
    def reuse_cached_engines(self) -> bool: ...
    @property
    def engine_cache_dir(self) -> str | None: ...
    @property
    def build_executor(self) -> object: ...
    @property
    def build_isolation(self) -> str: ...
    @property
    def custom_engine_cache(self) -> object: ...
    @property
    def engine_cache_size(self) -> int: ...
    @property
    def immutable_weights(self) -> bool: ...
    @property
    def enable_resource_partitioning(self) -> bool: ...
    @property
    def cpu_memory_budget(self) -> int | None: ...
    @property
    def partitioner(self) -> str | None: ...
    @property
    def use_fast_partitioner(self) -> bool: ...


def refuse_contradictions(settings: Chosen) -> None:
    """Raise SettingsError for the first rule that is broken."""
    for rule in _RULES:
        rule(settings)


def refuse_crossing(kwargs: Mapping[str, Any]) -> None:
    """Raise SettingsError where an entry point that returns a module for this machine is asked for one for Windows."""
    if kwargs.get("enable_cross_compile_for_windows"):
        raise SettingsError(
            "enable_cross_compile_for_windows=True: engines for Windows are made by another entry point",
            advice="call trtcore.dynamo.cross_compile_for_windows, which sets it, and "
            "save_cross_compiled_exported_program",
        )


def autocast_dtype(settings: Chosen) -> torch.dtype | None:
    """What float32 nodes are cast to; None where autocast is off."""
    lower = _lower(settings)
    if not settings.enable_autocast and (settings.use_explicit_typing or not lower):
        return None
    return settings.autocast_low_precision_type or (lower[0] if lower else None)


def _lower(settings: Chosen) -> list[torch.dtype]:
    return [dtype for dtype in AUTOCAST if dtype in settings.enabled_precisions]


def _refuse_what_is_not_built(settings: Chosen) -> None:
    for field in attrs.fields(type(settings)):
        what, value = field.metadata["not_built"], getattr(settings, field.name)
        if what and value != field.default:
            raise _not_built(field.name, value, what, f"the only value that works is {field.default!r}")


def _refuse_two_partitioners(settings: Chosen) -> None:
    if not settings.use_fast_partitioner and settings.partitioner not in (None, "global"):
        raise SettingsError(
            f"use_fast_partitioner=False is the global partitioner, and partitioner={settings.partitioner!r} another",
            advice="leave one of them out",
        )


def _not_built(name: str, value: object, what: str, instead: str) -> SettingsError:
    return SettingsError(
        f"{name}={value!r}: {what} is not built yet in this version of trtcore; {instead}",
        advice=f"leave {name} out",
    )


def _refuse_quantised_precisions(settings: Chosen) -> None:
    """A quantised dtype comes from the graph alone: naming it would change nothing."""
    asked = set(QUANTISED) & settings.enabled_precisions
    if settings.use_explicit_typing:
        asked -= {FP4}
    if asked:
        names = ", ".join(sorted(map(str, asked)))
        raise SettingsError(
            f"enabled_precisions has {names}, which would change nothing: engines compute in it where the model "
            "quantises and dequantises, and nowhere else",
            advice="leave it out of enabled_precisions and quantise the model before it is compiled "
            '(docs/user-guide.md, "Quantised models"): its quantise and dequantise ops make the engine quantised',
        )


def _refuse_precisions_from_the_graph(settings: Chosen) -> None:
    other = settings.enabled_precisions - {torch.float32, FP4}
    if settings.use_explicit_typing and other:
        names = ", ".join(sorted(map(str, other)))
        raise SettingsError(
            f"enabled_precisions has {names}, and with use_explicit_typing=True dtypes come from the graph",
            advice="convert the model (model.half()) and leave enabled_precisions out, or set "
            "use_explicit_typing=False for autocast, or "
            "enable_autocast=True with autocast_low_precision_type and enabled_precisions left alone",
        )


def _refuse_two_autocast_types(settings: Chosen) -> None:
    lower, chosen = _lower(settings), settings.autocast_low_precision_type
    if chosen is not None and lower and chosen not in lower:
        raise SettingsError(
            f"autocast_low_precision_type={chosen} is not in enabled_precisions={set(settings.enabled_precisions)}"
        )
    wanted = settings.enable_autocast or not settings.use_explicit_typing
    if wanted and chosen is None and len(lower) > 1:
        raise SettingsError(
            "enabled_precisions has float16 and bfloat16, and autocast casts to one",
            advice="name it: autocast_low_precision_type=torch.float16 (or torch.bfloat16)",
        )


def _refuse_idle_autocast(settings: Chosen) -> None:
    if autocast_dtype(settings) is not None:
        return
    if settings.enable_autocast:
        raise SettingsError(
            "enable_autocast=True: autocast to what?",
            advice="set autocast_low_precision_type to torch.float16 or torch.bfloat16",
        )
    for field in attrs.fields(type(settings)):
        if field.name.startswith("autocast_") and getattr(settings, field.name) != field.default:
            raise SettingsError(
                f"{field.name} has no effect without autocast",
                advice="set enable_autocast=True"
                + (
                    ""
                    if settings.autocast_low_precision_type
                    else " and autocast_low_precision_type=torch.float16"
                ),
            )


_CACHE = ("engine_cache_dir", "engine_cache_size", "custom_engine_cache", "engine_cache_key")


def _refuse_idle_cache(settings: Chosen) -> None:
    """What says where the engine cache is means nothing where there is none."""
    if settings.cache_built_engines or settings.reuse_cached_engines:
        if settings.custom_engine_cache is not None and settings.engine_cache_dir is not None:
            raise SettingsError("custom_engine_cache and engine_cache_dir are two engine caches; give one")
        _refuse_idle_size(settings)
        return
    for field in attrs.fields(type(settings)):
        if field.name in _CACHE and getattr(settings, field.name) != field.default:
            raise SettingsError(
                f"{field.name} has no effect without the engine cache",
                advice="set cache_built_engines=True and reuse_cached_engines=True",
            )


def _refuse_idle_size(settings: Chosen) -> None:
    if settings.engine_cache_size == attrs.fields_dict(type(settings))["engine_cache_size"].default:
        return
    if settings.custom_engine_cache is not None:
        raise SettingsError(
            "engine_cache_size has no effect with custom_engine_cache, which looks after its own size",
            advice="leave engine_cache_size out",
        )
    if not settings.cache_built_engines:
        raise SettingsError(
            "engine_cache_size has no effect where the engine cache is only read",
            advice="set cache_built_engines=True, or leave engine_cache_size out",
        )


def _refuse_two_places_to_build(settings: Chosen) -> None:
    if settings.build_executor is not None and settings.build_isolation != "thread":
        raise SettingsError(
            f"build_executor and build_isolation={settings.build_isolation!r} both say where engines are built",
            advice="leave one out; an executor of processes isolates the builds, too",
        )


def _refuse_forcing_to_torch(settings: Chosen) -> None:
    if not settings.require_full_compilation:
        return
    for name in ("torch_executed_ops", "torch_executed_modules"):
        if forced := getattr(settings, name):
            raise SettingsError(
                f"require_full_compilation=True contradicts {name}="
                f"{sorted(str(item) for item in forced)}: what it names is left in torch",
                advice=f"drop one of the two: require_full_compilation or {name}",
            )


def _refuse_refit_of_what_cannot_change(settings: Chosen) -> None:
    if not settings.immutable_weights:
        return
    for name in ("strip_engine_weights", "refit_identical_engine_weights"):
        if getattr(settings, name):
            raise SettingsError(
                f"{name}=True needs plans that take weights, and with immutable_weights=True they do not",
                advice=f"set immutable_weights=False, or leave {name} out",
            )


def _refuse_idle_budget(settings: Chosen) -> None:
    if settings.cpu_memory_budget is not None and not settings.enable_resource_partitioning:
        raise SettingsError(
            f"cpu_memory_budget={settings.cpu_memory_budget} has no effect alone",
            advice="set enable_resource_partitioning=True, too",
        )


_RULES: tuple[Callable[[Chosen], None], ...] = (
    _refuse_what_is_not_built,
    _refuse_two_partitioners,
    _refuse_quantised_precisions,
    _refuse_precisions_from_the_graph,
    _refuse_two_autocast_types,
    _refuse_idle_autocast,
    _refuse_idle_cache,
    _refuse_two_places_to_build,
    _refuse_forcing_to_torch,
    _refuse_refit_of_what_cannot_change,
    _refuse_idle_budget,
)
