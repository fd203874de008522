"""Switches that other frontends have and that trtcore's runtimes need not: each says what is done instead."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from trtcore.errors import InputError


@contextmanager
def enable_output_allocator(module: torch.nn.Module) -> Iterator[torch.nn.Module]:
    """Outputs whose sizes depend on data, in an allocator.

    Nothing to switch on: every engine with such an output has an allocator for it, from torch's memory, on both
    runtimes, and no other output pays for one. Here so that code which asks for it runs.

    Yields:
        the module.
    """
    _compiled(module, "enable_output_allocator")
    yield module


@contextmanager
def enable_pre_allocated_outputs(module: torch.nn.Module) -> Iterator[torch.nn.Module]:
    """Outputs that are allocated before a call needs them.

    Nothing to switch on: the usual call takes an output from torch's caching allocator in about a microsecond,
    without the allocation that this is meant to hide. Memory that waited from one call to the next could be given
    away by a CUDA graph's pool meanwhile. To have results in the same memory in every call, use
    ``enable_cudagraphs(module, copy_outputs=False)``. Here so that code which asks for it runs.

    Yields:
        the module.
    """
    _compiled(module, "enable_pre_allocated_outputs")
    yield module


class set_multi_device_safe_mode:
    """Engines on several GPUs in one process.

    Nothing to switch on or off: a call whose inputs are on another device than the current one makes that one current
    for its time, and one whose device is current does not pay for it. Here so that code which asks for it runs, as a
    function and as a context manager.

    Raises:
        InputError: `mode` is no bool.
    """

    def __init__(self, mode: bool) -> None:
        if type(mode) is not bool:
            raise InputError(f"set_multi_device_safe_mode takes True or False, not {mode!r}")

    def __enter__(self) -> None:
        """Nothing changes."""

    def __exit__(self, *exception: Any) -> None:
        """Nothing changes."""


def _compiled(module: torch.nn.Module, name: str) -> None:
    if not isinstance(module, torch.fx.GraphModule) or not hasattr(module, "report"):
        raise InputError(f"{name} takes a compiled module, not a {type(module).__name__}")
