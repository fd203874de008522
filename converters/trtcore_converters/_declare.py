"""How the converters of this pack are declared."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from trtcore.pack import converter

_F = TypeVar("_F", bound=Callable[..., Any])


def converts(
    target_or_targets: Any, *, supports_dynamic_shapes: bool = True, **options: Any
) -> Callable[[_F], _F]:
    """`trtcore.pack.converter`, for ops of sizes that vary unless told otherwise, as nearly all are here."""
    return converter(
        target_or_targets, supports_dynamic_shapes=supports_dynamic_shapes, stacklevel=2, **options
    )
