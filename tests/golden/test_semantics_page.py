"""docs/semantics.md names every golden case in which TensorRT differs from torch, and no case that does not exist."""

from __future__ import annotations

import fnmatch
import pathlib
import re

import golden

PAGE = pathlib.Path(__file__).parents[2] / "docs" / "semantics.md"
NAMES = list(golden.BY_NAME)
GROUPS = {case["group"] for case in golden.CASES}


def _expand(pattern: str) -> list[str]:
    found = re.search(r"\{([^}]*)\}", pattern)
    if not found:
        return [pattern]
    start, end = found.span()
    return [
        full
        for choice in found[1].split(",")
        for full in _expand(pattern[:start] + choice + pattern[end:])
    ]


def _patterns() -> list[str]:
    quoted = re.findall(r"`([a-z_]+\.[^` ]+)`", PAGE.read_text())
    return [full for text in quoted if text.split(".")[0] in GROUPS for full in _expand(text)]


def test_every_pattern_names_a_case():
    assert len(_patterns()) > 50
    assert not [pattern for pattern in _patterns() if not fnmatch.filter(NAMES, pattern)]


def test_every_difference_is_on_the_page():
    named = {name for pattern in _patterns() for name in fnmatch.filter(NAMES, pattern)}
    differs = {case["name"] for case in golden.CASES if case["differs_from_expected"]}
    assert not differs - named
    assert not set(golden.WAIVED) - named
