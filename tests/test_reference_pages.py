"""The generated pages are what they were generated from, and the site's own files hang together."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from reference_pages import DOCS, PAGES

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("page", PAGES)
def test_the_page_is_current(page: str) -> None:
    assert (DOCS / page).read_text(encoding="utf-8") == PAGES[page](), "run: python tests/reference_pages.py"


def test_every_page_is_in_the_navigation() -> None:
    listed = set(re.findall(r"[\w/-]+\.md", (ROOT / ".mkdocs.yml").read_text().partition("nav:")[2]))
    docs = ROOT / "docs"
    assert listed == {path.relative_to(docs).as_posix() for path in docs.rglob("*.md")}


def test_what_the_reference_names_exists() -> None:
    import importlib

    for page in DOCS.glob("*.md"):
        for dotted, options in re.findall(r"^::: ([\w.]+)\n((?:    .*\n)*)", page.read_text(), re.MULTILINE):
            members = re.findall(r"members: \[(.*)\]", options)
            try:
                found = importlib.import_module(dotted)
            except ModuleNotFoundError:
                module, _, name = dotted.rpartition(".")
                found = getattr(importlib.import_module(module), name)
            for member in members[0].split(", ") if members else ():
                assert hasattr(found, member), f"{page.name}: {dotted}.{member}"


def test_the_site_asks_for_nothing_from_elsewhere() -> None:
    text = (ROOT / ".mkdocs.yml").read_text()
    assert "font: false" in text
    assert not re.search(r"extra_(css|javascript):.*https?:", text)
