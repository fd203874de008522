"""Every extension point of trtcore, in one file.

A pack is a module (or an object) with functions of these names, marked with `hookimpl`. All of them are
optional; each returns plain values. An entry point of the group ``trtcore`` names the pack:

    # pyproject.toml
    [project.entry-points.trtcore]
    mypack = "mypackage.pack"

    # mypackage/pack.py
    from trtcore.pack import converters_in, hookimpl
    from mypackage import activations

    @hookimpl
    def converters():
        return converters_in(activations)

A hook that takes an argument ``core`` gets a `Core`: which trtcore asks. An implementation names the arguments that it
wants, so that one without ``core`` goes on working, as it will when a hook gets another argument.

Packs are called one at a time and apart from each other: what one raises is its own failure. The order in
which hooks run has no meaning; among converters the registry chooses (`trtcore.packs.registry`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import pluggy

from trtcore.packs.deprecation import HOOK_ARGUMENTS, HOOKS

if TYPE_CHECKING:
    import torch

    from trtcore.backend.base import Backend
    from trtcore.events import Event
    from trtcore.packs.model import Converter, Core, KernelPlugin, LoweringPass, Runtime

PROJECT = "trtcore"

hookimpl = pluggy.HookimplMarker(PROJECT)

_F = TypeVar("_F", bound=Callable[..., Any])


def hookspec(function: _F) -> _F:
    """Mark an extension point; pluggy warns packs of what `trtcore.packs.deprecation` says of it."""
    name = function.__name__
    arguments = {argument: one.warning() for argument, one in HOOK_ARGUMENTS.get(name, {}).items()}
    whole = HOOKS[name].warning() if name in HOOKS else None
    return pluggy.HookspecMarker(PROJECT)(function, warn_on_impl=whole, warn_on_impl_args=arguments or None)


@hookspec
def converters(core: Core) -> Iterable[Converter]:  # type: ignore[empty-body]
    """Return the pack's converters, in definition order (it breaks ties inside the pack).

    Usually ``return converters_in(module, ...)``.
    """


@hookspec
def refusals(core: Core) -> Mapping[torch._ops.OpOverload, str]:  # type: ignore[empty-body]
    """Return ops (overloads, or their names) that no converter can help with -> why, and what to do instead.

    The reason is what a report gives in place of "no converter". A decomposition of the op is tried all the same,
    and a converter that another pack has for it is asked.
    """


@hookspec
def decompositions(core: Core) -> Mapping[torch._ops.OpOverload, Callable[..., Any]]:  # type: ignore[empty-body]
    """Return what ops (overloads, or their names) are rewritten into, before partitioning.

    The values take the op's own arguments and return what the op returns, written in other torch ops; they
    are traced on FakeTensors.
    """


@hookspec
def lowering_passes(core: Core) -> Iterable[LoweringPass]:  # type: ignore[empty-body]
    """Return passes over the whole graph; their ``before`` and ``after`` order them."""


@hookspec
def kernel_plugins(core: Core) -> Iterable[KernelPlugin]:  # type: ignore[empty-body]
    """Return kernels for ops that TensorRT has no layer for; their converters come with them."""


@hookspec
def backends(core: Core) -> Iterable[Backend]:  # type: ignore[empty-body]
    """Return TensorRT flavours. Making one must not load its bindings."""


@hookspec
def runtimes(core: Core) -> Iterable[Runtime]:  # type: ignore[empty-body]
    """Return what executes engines in place of TensorRT. Making one must load nothing."""


@hookspec
def partitioners(core: Core) -> Mapping[str, Callable[..., Any]]:  # type: ignore[empty-body]
    """Return partitioners by the name that ``settings.partitioner`` takes."""


@hookspec
def captures(core: Core) -> Iterable[Callable[[torch.nn.Module], Any]]:  # type: ignore[empty-body]
    """Return what models of some library need around them while they are captured.

    Each is a function of the model that returns a context manager, or None for a model that is not the library's; it
    raises `InputError` for one that cannot be compiled, with what to do. The context holds while torch.export traces
    the model and while the capture is compared with it. torch.compile traces without it.
    """


@hookspec
def observe(event: Event) -> None:
    """See what a compile does (progress, timing, logging).

    Must not change anything. What it raises becomes a warning that names the pack.
    """
