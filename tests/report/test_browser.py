"""The report's page in a browser: headless Chromium, through Playwright. `make browser` installs both and runs all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from browsers import BROWSER, DESKTOP, PHONE
from reports import long_report

from trtcore.report.data import Report

pytestmark = pytest.mark.skipif(BROWSER is None, reason="needs Chromium")


class Opened:
    """A report's page in a window; what it asked the network for and what went wrong in it is kept."""

    def __init__(self, browser: Any, report: Report, folder: Path, **window: Any) -> None:
        file = folder / "report.html"
        file.write_text(report.html(), encoding="utf-8")
        self.page = browser.new_page(**{"viewport": DESKTOP, **window})
        self.errors: list[str] = []
        self.asked: list[str] = []
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("console", lambda line: self.errors.append(line.text) if line.type == "error" else None)
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(file.as_uri())
        self.page.wait_for_selector("html[data-ready=yes]", state="attached")

    def panel(self) -> str:
        text: str = self.page.inner_text("#content")
        return text

    def shown(self, kind: str) -> int:
        count: int = self.page.locator(f"#graph g.{kind}").count()
        return count

    def box(self, id: str) -> Any:
        return self.page.locator(f'#graph g[data-id="{id}"]')

    def close(self) -> None:
        self.page.close()
        assert self.errors == []
        assert [url for url in self.asked if not url.startswith("file:")] == []


def test_a_page_opens_and_shows_what_was_clicked_on(browser: Any, tmp_path: Path) -> None:
    """The smoke test of the default run."""
    opened = Opened(browser, long_report(10), tmp_path)
    assert opened.shown("op") == 10
    opened.box("op:n4").click()
    panel = opened.panel()
    for text in ("n4 = aten.linear.default", "/home/me/model.py:4", "trtcore:aten 0.1.0", "chosen", "float32[s0, 128, 768]",
                 "model.layers.0.attn.weight: float32[768]", "ELEMENTWISE model.layers.0.attn"):  # fmt: skip
        assert text in panel
    opened.box("op:n1").click()
    for text in (
        "no converter takes it",
        "take it out of torch_executed_ops",
        "takes float16 only",
        "acme:ops 2.0",
    ):
        assert text in opened.panel()
    opened.close()


@pytest.mark.browser
@pytest.mark.parametrize("modules", [True, False], ids=["modules", "flat"])
@pytest.mark.parametrize("window", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_5000_ops_open_folded_and_unfold(
    browser: Any, tmp_path: Path, modules: bool, window: dict[str, int]
) -> None:
    opened = Opened(browser, long_report(5000, modules=modules), tmp_path, viewport=window)
    seen = opened.shown("op") + opened.shown("folded")
    assert 10 < seen < 120
    folded = opened.page.locator("#graph g.folded").first
    id = folded.get_attribute("data-id")
    folded.dispatch_event("click")
    assert "unfolded" in opened.box(id).get_attribute("class")
    assert opened.shown("op") + opened.shown("folded") > seen
    opened.page.click("#fold")
    assert opened.shown("op") == 0
    assert opened.shown("unfolded") == 0
    opened.page.click("#unfold")
    assert opened.shown("unfolded") > 5
    wide = opened.page.evaluate("document.documentElement.scrollWidth")
    assert wide <= window["width"]  # nothing is cut off at the side
    opened.close()


@pytest.mark.browser
def test_search_finds_and_shows_an_op_that_is_folded_away(browser: Any, tmp_path: Path) -> None:
    opened = Opened(browser, long_report(5000), tmp_path)
    assert opened.box("op:n4321").count() == 0
    opened.page.press("body", "/")
    opened.page.keyboard.type("n4321 linear")
    opened.page.keyboard.press("Enter")
    assert "n4321" in opened.panel()
    inside = opened.page.evaluate(
        """() => { const a = document.querySelector('g[data-id="op:n4321"] rect').getBoundingClientRect(),
        b = document.getElementById("graph").getBoundingClientRect();
        return a.left >= b.left && a.right <= b.right && a.top >= b.top && a.bottom <= b.bottom; }"""
    )
    assert inside
    opened.page.fill("#search", "no converter takes it")
    assert "30 of 5000 ops" in opened.panel()
    opened.page.fill("#search", "nothing at all")
    assert "0 of 5000 ops" in opened.panel()
    opened.close()


@pytest.mark.browser
def test_by_module_keeps_what_was_selected(browser: Any, tmp_path: Path) -> None:
    opened = Opened(browser, long_report(40), tmp_path)
    opened.box("op:n5").dispatch_event("click")
    opened.page.select_option("#grouping", "modules")
    assert opened.box("segment:engine_0").count() == 0
    assert "selected" in opened.box("op:n5").get_attribute("class")
    opened.close()


@pytest.mark.browser
def test_zoom_and_pan_move_the_graph(browser: Any, tmp_path: Path) -> None:
    opened = Opened(browser, long_report(10), tmp_path)
    where = [opened.box("op:n4").bounding_box()]
    opened.page.click("#zoom-in")
    where.append(opened.box("op:n4").bounding_box())
    assert where[1]["width"] > where[0]["width"]
    opened.page.mouse.move(60, 500)
    opened.page.mouse.down()
    opened.page.mouse.move(160, 560, steps=4)
    opened.page.mouse.up()
    where.append(opened.box("op:n4").bounding_box())
    assert where[2]["x"] == pytest.approx(where[1]["x"] + 100, abs=1)
    assert where[2]["y"] == pytest.approx(where[1]["y"] + 60, abs=1)
    opened.page.click("#fit")
    assert opened.box("op:n4").bounding_box()["width"] == pytest.approx(where[0]["width"], abs=1)
    opened.close()


@pytest.mark.browser
def test_the_tabs_say_what_was_made_and_what_it_costs(browser: Any, tmp_path: Path) -> None:
    opened = Opened(browser, long_report(1000), tmp_path)
    costs = opened.panel()
    assert "2 × aten.relu.default" in costs
    assert costs.index("aten.relu") < costs.index("aten.linear")
    opened.page.click("text=Overview")
    for text in (
        "33.0 s",
        "portable",
        "s0 1..8 (opt 4)",
        "12 MiB",
        "from the cache",
        "TensorRT refused the layer",
        "boom",
    ):
        assert text in opened.panel()
    opened.close()


@pytest.mark.browser
@pytest.mark.parametrize(
    "report", [Report(), Report(nodes=long_report(3).nodes)], ids=["empty", "without segments"]
)
def test_odd_reports_open(browser: Any, tmp_path: Path, report: Report) -> None:
    opened = Opened(browser, report, tmp_path)
    assert opened.shown("op") == len(report.nodes)
    opened.close()


@pytest.mark.browser
def test_the_frame_of_a_notebook_works(browser: Any, tmp_path: Path) -> None:
    file = tmp_path / "notebook.html"
    file.write_text(f"<!doctype html><body>{long_report(10)._repr_html_()}</body>", encoding="utf-8")
    page = browser.new_page(viewport=DESKTOP)
    page.goto(file.as_uri())
    inner = page.frame_locator("iframe")
    inner.locator('g[data-id="op:n4"]').click()
    assert "n4 = aten.linear.default" in inner.locator("#content").inner_text()
    page.close()
