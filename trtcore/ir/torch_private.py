"""What trtcore takes from the private parts of torch: each in one place, with the reason.

Everything here may change with any release of torch; ``tests/ir/test_torch_private.py`` has a canary for each, which
says what is missing. ``torch.utils._pytree`` and ``OpOverload._schema`` are not here: torch documents both.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch._subclasses.fake_tensor import FakeTensor

__all__ = ["FakeTensor", "silent_export"]


@contextmanager
def silent_export() -> Iterator[None]:
    """Keep torch.export from printing the graph that it had traced when a data-dependent size stopped it.

    There is no switch for that. The text is the exception's ``partial_fx_graph`` too. Not for several threads at once.
    """
    module: Any = importlib.import_module("torch.export._trace")

    def print(*_values: Any, **_options: Any) -> None:
        """Nothing."""

    module.print = print  # found before the builtin
    try:
        yield
    finally:
        vars(module).pop("print", None)
