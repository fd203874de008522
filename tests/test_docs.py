"""The guides' Python runs, page by page from top to bottom, and their links lead somewhere."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import FrameType

import pytest
import torch

import trtcore
from trtcore.cli.new_pack import create
from trtcore.pack import scoped_registry

DOCS = Path(__file__).parent.parent / "docs"
PAGES = sorted(page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md"))


def blocks(page: str) -> list[tuple[int, str]]:
    """(line number, code) of every Python block but those that show a file (their first line is a path)."""
    text = (DOCS / page).read_text()
    found = re.finditer(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    return [
        (text.count("\n", 0, match.start(1)), match[1])
        for match in found
        if not re.match(r"# \S+\.py\n", match[1])
    ]


@pytest.mark.usefixtures("trt_backend")
@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page)])
def test_examples_run(page: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)  # they write files
    monkeypatch.syspath_prepend(DOCS.parent / "contrib" / "trtcore-contrib-torch-tensorrt")
    namespace: dict[str, object] = {"__name__": "guide"}
    torch._dynamo.reset()  # forgets what other tests compiled
    with scoped_registry():
        for line, code in blocks(page):
            exec(compile("\n" * line + code, str(DOCS / page), "exec"), namespace)


def test_the_guides_pyproject_is_what_new_pack_writes(tmp_path: Path) -> None:
    text = (create("acme-ops", tmp_path) / "pyproject.toml").read_text()
    (block,) = re.findall(
        r"^```toml\n(.*?)^```", (DOCS / "pack-author-guide.md").read_text(), re.DOTALL | re.MULTILINE
    )
    for line in block.splitlines():
        assert line in text


@pytest.mark.usefixtures("trt_backend")
def test_the_way_of_one_tensor_is_that_of_the_architecture() -> None:
    root = DOCS.parent
    text = (
        (DOCS / "architecture.md").read_text().partition("## The way of one tensor")[2].partition("\n## ")[0]
    )
    wanted: list[tuple[str, str]] = []
    for row in re.findall(r"^\| (`.*?) \|", text, re.MULTILINE):
        file, _, first = row.split(", ")[0].strip("`").partition(":")
        wanted += [(file, first), *((file, name.strip("`")) for name in row.split(", ")[1:])]
    called: list[tuple[str, str]] = []

    def watch(frame: FrameType, event: str, _: object) -> None:
        file = frame.f_code.co_filename
        if event == "call" and file.startswith(str(root)):
            called.append((file.removeprefix(f"{root}/"), frame.f_code.co_name))

    class Model(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.gelu(x)

    before = sys.getprofile()
    sys.setprofile(watch)
    try:
        trtcore.compile(Model().eval(), [torch.randn(2, 3)], min_block_size=1)
    finally:
        sys.setprofile(before)
    assert len(wanted) > 20
    calls = iter(called)
    for one in wanted:
        assert one in calls, f"{one} is not called behind those before it"


def test_there_are_examples() -> None:
    assert len(blocks("user-guide.md")) >= 6
    assert len(blocks("pack-author-guide.md")) >= 10


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    for link in re.findall(r"\]\(((?!https?:)[^)#]+)", (DOCS / page).read_text()):
        assert ((DOCS / page).parent / link).exists(), link
