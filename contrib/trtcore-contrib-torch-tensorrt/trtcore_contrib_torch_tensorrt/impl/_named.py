"""Functions that are made when they are asked for, from a table of TensorRT's operations."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from typing import Any


def named(module: str, name: str, table: Mapping[str, Any], make: Callable[[Any], Any], instead: str) -> Any:
    """What ``module.name`` is: `make` of the table's entry.

    Args:
        instead: what to write where the table has none.

    Raises:
        AttributeError: the table has no such name; the text has the nearest ones and `instead`.
    """
    if name not in table:
        near = [] if name.startswith("_") else difflib.get_close_matches(name, table)
        hint = f"; did you mean {' or '.join(near)}? " if near else "; "
        raise AttributeError(f"module {module!r} has no {name!r}{hint}In new code: {instead}", name=name)
    function = make(table[name])
    function.__name__ = function.__qualname__ = name
    function.__module__ = module
    return function
