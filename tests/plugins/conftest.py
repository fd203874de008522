"""Kernels on a machine without a GPU: Triton's interpreter.

Triton decides when it is imported whether it interprets, so a process does one or the other. Tests marked
``interpreter`` are left out of an ordinary run and run by `test_interpreted.py`, in a process of their own.
One by hand: ``TRITON_INTERPRET=1 pytest -m interpreter tests/plugins/test_declare.py -k name``.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from trtcore.pack import scoped_registry


def interpreting() -> bool:
    return os.environ.get("TRITON_INTERPRET") == "1"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if interpreting():
        return
    left_out = [item for item in items if item.get_closest_marker("interpreter")]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if not item.get_closest_marker("interpreter")]


@pytest.fixture(autouse=True)
def _declarations_of_one_test() -> Iterator[None]:
    """What a test declares is for that test."""
    with scoped_registry():
        yield
