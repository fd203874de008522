"""Every extension point of trtcore, in one file.

A pack is a module (or an object) with functions of these names, marked with `hookimpl`. All of them are
optional; each returns plain values. An entry point of the group ``trtcore`` names the pack::

    # pyproject.toml
    [project.entry-points.trtcore]
    mypack = "mypackage.pack"

    # mypackage/pack.py
    from trtcore.pack import converters_in, hookimpl
    from mypackage import activations

    @hookimpl
    def converters():
        return converters_in(activations)

Packs are called one at a time and apart from each other: what one raises is its own failure. The order in
which hooks run has no meaning; among converters the registry chooses (`trtcore.packs.registry`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:
    import torch

    from trtcore.backend.base import Backend
    from trtcore.context import Event
    from trtcore.packs.declare import Converter, KernelPlugin, LoweringPass, Runtime

PROJECT = "trtcore"

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def converters() -> Iterable[Converter]:  # type: ignore[empty-body]
    """Return the pack's converters, in definition order (it breaks ties inside the pack).

    Usually ``return converters_in(module, ...)``.
    """


@hookspec
def decompositions() -> Mapping[torch._ops.OpOverload, Callable[..., Any]]:  # type: ignore[empty-body]
    """Return what ops (overloads, or their names) are rewritten into, before partitioning.

    The values take the op's own arguments and return what the op returns, written in other torch ops; they
    are traced on FakeTensors.
    """


@hookspec
def lowering_passes() -> Iterable[LoweringPass]:  # type: ignore[empty-body]
    """Return passes over the whole graph; their ``before`` and ``after`` order them."""


@hookspec
def kernel_plugins() -> Iterable[KernelPlugin]:  # type: ignore[empty-body]
    """Return kernels for ops that TensorRT has no layer for; their converters come with them."""


@hookspec
def backends() -> Iterable[Backend]:  # type: ignore[empty-body]
    """Return TensorRT flavours. Making one must not load its bindings."""


@hookspec
def runtimes() -> Iterable[Runtime]:  # type: ignore[empty-body]
    """Return what executes engines in place of TensorRT. Making one must load nothing."""


@hookspec
def partitioners() -> Mapping[str, Callable[..., Any]]:  # type: ignore[empty-body]
    """Return partitioners by the name that ``settings.partitioner`` takes."""


@hookspec
def observe(event: Event) -> None:
    """See what a compile does (progress, timing, logging).

    Must not change anything. What it raises becomes a warning that names the pack.
    """
