"""The built documentation (`make docs`) in headless Chromium; `make browser` builds it and runs this."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from browsers import BROWSER, DESKTOP, PHONE

SITE = Path(__file__).parent.parent / "build" / "site"
PAGES = sorted(page.relative_to(SITE).as_posix() for page in SITE.rglob("*.html") if page.name != "404.html")

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(BROWSER is None, reason="needs Chromium"),
    pytest.mark.skipif(not PAGES, reason="needs `make docs`"),
]

# elements that end beyond the right edge of the window, where nothing around them scrolls
CUT_OFF = """() => [...document.querySelectorAll(".md-content *")].filter(one => {
    const box = one.getBoundingClientRect();
    if (!box.width || box.right <= innerWidth + 1) return false;
    for (let at = one.parentElement; at && at !== document.body; at = at.parentElement)
        if (["auto", "scroll"].includes(getComputedStyle(at).overflowX)) return false;
    return true;
}).map(one => `${one.tagName}.${one.className}: ${(one.textContent || "").slice(0, 60)}`)"""


def opened(browser: Any, page: str, window: dict[str, int], wrong: list[str]) -> Any:
    """A page of the site from the disk; errors, and what it asks the network for, go into `wrong`."""
    tab = browser.new_page(viewport=window)
    tab.on("pageerror", lambda error: wrong.append(str(error)))
    tab.on("console", lambda line: wrong.append(line.text) if line.type == "error" else None)
    tab.on(
        "request",
        lambda request: None if request.url.startswith(("file:", "data:")) else wrong.append(request.url),
    )
    tab.goto((SITE / page).as_uri())
    return tab


@pytest.mark.parametrize("window", [DESKTOP, PHONE], ids=["desktop", "phone"])
@pytest.mark.parametrize("page", PAGES)
def test_a_page_is_whole(browser: Any, page: str, window: dict[str, int]) -> None:
    wrong: list[str] = []
    tab = opened(browser, page, window, wrong)
    assert tab.evaluate("document.documentElement.scrollWidth") <= window["width"]
    assert tab.evaluate(CUT_OFF) == []
    missing = tab.evaluate("[...document.images].filter(one => !one.naturalWidth).map(one => one.src)")
    assert missing == []
    tab.close()
    assert wrong == []


def test_search_works_from_the_disk(browser: Any) -> None:
    wrong: list[str] = []
    tab = opened(browser, "index.html", DESKTOP, wrong)
    tab.click(".md-search__input")
    tab.keyboard.type("min_block_size")
    tab.wait_for_selector(".md-search-result__item")
    assert "settings.html" in tab.locator(".md-search-result__list").inner_html()
    tab.close()
    assert wrong == []


def test_code_is_coloured_and_can_be_copied(browser: Any) -> None:
    wrong: list[str] = []
    tab = opened(browser, "user-guide.html", DESKTOP, wrong)
    assert tab.locator(".highlight .k, .highlight .kn").count() > 5
    assert tab.locator(".highlight .md-clipboard, .highlight .md-code__button").count() > 5
    tab.close()
    assert wrong == []
