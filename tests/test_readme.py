"""The README's Python runs, and its commands exist."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import trtcore
from trtcore.cli.app import COMMANDS, main
from trtcore.pack import scoped_registry

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


@pytest.mark.usefixtures("trt_backend")
def test_python_examples_run_in_order(capsys: pytest.CaptureFixture[str]) -> None:
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(blocks) == 4
    namespace: dict[str, object] = {}
    with scoped_registry():
        for block in blocks:
            exec(compile(block, "README.md", "exec"), namespace)
    printed = capsys.readouterr().out
    assert "in 1 engine, 0 in torch" in printed
    compiled, model, x = namespace["compiled"], namespace["model"], namespace["x"]
    assert (compiled(x) - model(x)).abs().max() < 1e-5  # type: ignore[operator]


@pytest.mark.usefixtures("trt_backend")
def test_the_report_of_an_op_in_torch_is_what_is_printed() -> None:
    (block,) = (
        block for block in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if "class Edges" in block
    )
    namespace: dict[str, Any] = {}
    exec(compile(block, "edges.py", "exec"), namespace)
    image = trtcore.Input(min_shape=(1, 1, 64, 64), opt_shape=(8, 1, 64, 64), max_shape=(32, 1, 64, 64))
    printed = str(trtcore.explain(namespace["Edges"](), [image], min_block_size=1))
    for line in printed.splitlines():
        if not re.match(r"  (backend|runtime|time|peak memory|dynamic|trtcore:)", line):
            assert re.sub(r"\bs\d+\b", "s40", line).rstrip() in README, line


def test_the_table_names_every_command() -> None:
    assert set(re.findall(r"^\| `trtcore ([a-z-]+)", README, re.MULTILINE)) == set(COMMANDS)
    for name in COMMANDS:
        assert CliRunner().invoke(main, [name, "--help"]).exit_code == 0


def test_make_targets_that_the_documents_name_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    text = README + (ROOT / "CONTRIBUTING.md").read_text()
    targets = set(re.findall(r"(?:^|`)make ([a-z-]+)", text, re.MULTILINE))
    assert {"demo", "test", "unit", "format", "bench", "gpu"} <= targets
    for target in targets:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


@pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md"])
def test_links_lead_somewhere(document: str) -> None:
    links = re.findall(r"\]\(((?!https?:)[^)#]+)", (ROOT / document).read_text())
    assert links
    for link in links:
        assert (ROOT / link).exists(), link


def linked(document: Path) -> set[Path]:
    """The files that a document links to."""
    links = re.findall(r"\]\(((?!https?:)[^)#]+)", document.read_text())
    return {(document.parent / link).resolve() for link in links}


def test_every_page_and_example_is_two_clicks_away() -> None:
    first = linked(ROOT / "README.md")
    second = set().union(*(linked(page) for page in first if page.suffix == ".md"))
    wanted = {*(ROOT / "docs").rglob("*.md"), *(ROOT / "docs" / "examples").glob("*.*")}
    assert sorted(path.relative_to(ROOT).as_posix() for path in wanted - first - second) == []
