"""What the entry point names."""

from __future__ import annotations

from collections.abc import Iterable

from trtcore.pack import Converter, converters_in, hookimpl


@hookimpl
def converters() -> Iterable[Converter]:
    """The pack's converters."""
    from trtcore_example_pack import converters as module

    return converters_in(module)
