"""The generated pages are what they were generated from, and the site's own files hang together."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest
from reference_pages import DOCS, PAGES

import trtcore

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("page", PAGES)
def test_the_page_is_current(page: str) -> None:
    written, made = (DOCS / page).read_text(encoding="utf-8"), PAGES[page]()
    if page == "errors.md":  # its cases are a selection, none of which may be out of date
        assert set(written.splitlines()) <= set(made.splitlines()), "run: python tests/reference_pages.py"
        written, made = (re.sub(r"^\|.*\n", "", text, flags=re.MULTILINE) for text in (written, made))
    assert written == made, "run: python tests/reference_pages.py"


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
            for member in filter(None, members[0].split(", ")) if members else ():
                assert hasattr(found, member), f"{page.name}: {dotted}.{member}"


@pytest.mark.parametrize(
    "public",
    [
        "trtcore",
        "trtcore.dynamo",
        "trtcore.runtime",
        "trtcore.debug",
        "trtcore.testing",
        "trtcore.pack",
        "trtcore_plugins",
    ],
)
def test_what_is_public_is_in_the_reference(public: str) -> None:
    import importlib

    text = "".join(page.read_text() for page in DOCS.glob("*.md"))
    module = importlib.import_module(public)
    inner = {
        # what other pages show, and what only code written against the core's own values names
        "trtcore": {"__version__", "CompilationSettings", "SettingsDict", "TrtcoreError", "scoped_registry"},
        "trtcore.dynamo": set(),
        "trtcore.debug": {"Debugger"},
        "trtcore.testing": {"ConversionProof", "Deviation", "OpSample", "SampleResult", "usable_backend"},
        "trtcore.runtime": {"Engine", "EngineManifest", "GraphedModule", "SizeBinding", "TensorBinding", "choose_runtime",
                            "execute_engine", "get_engine", "register_engine"},
        "trtcore.pack": {"BOUNDARY", "REASON", "ITensor", "Operand", "hookimpl"},
        "trtcore_plugins": {"Combination", "CustomOpPlugin", "PluginProof", "TritonPlugin"},
    }[public]  # fmt: skip
    for name in set(module.__all__) - inner:
        one = getattr(module, name)
        if not inspect.ismodule(one) and not (
            isinstance(one, type) and issubclass(one, trtcore.TrtcoreError)
        ):
            assert re.search(rf"heading: {re.escape(public)}\.{name}$", text, re.MULTILINE), name


def test_the_site_asks_for_nothing_from_elsewhere() -> None:
    text = (ROOT / ".mkdocs.yml").read_text()
    assert "font: false" in text
    assert not re.search(r"extra_(css|javascript):.*https?:", text)
    assert (
        'data-md-component="source"' not in (ROOT / ".ci/theme/partials/source.html").read_text()
    )  # GitHub's stars
    assert "polyfills: [vendor/" in text  # of the offline plugin, which takes it from the network otherwise
