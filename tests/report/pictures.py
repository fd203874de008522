"""The picture of the report's page in README and guide: `python tests/report/pictures.py` (needs what `make browser` has)."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from test_browser import BROWSER

import trtcore

IMAGES = Path(__file__).parents[2] / "docs" / "images"


@torch.library.custom_op("edges::magnitude", mutates_args=())
def magnitude(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """A user's own op, which no converter takes."""
    return torch.hypot(x, y)


@magnitude.register_fake
def _(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return torch.empty_like(x)


class Edges(torch.nn.Module):
    """A classifier that looks at edges."""

    def __init__(self) -> None:
        super().__init__()
        self.gradients = torch.nn.Conv2d(3, 64, 3, padding=1, bias=False)
        self.patches = torch.nn.Conv2d(32, 96, 8, stride=8)
        self.encoder = torch.nn.Sequential(*(self._layer() for _ in range(2)))
        self.head = torch.nn.Linear(96, 10)

    @staticmethod
    def _layer() -> torch.nn.Module:
        return torch.nn.TransformerEncoderLayer(96, 4, 192, batch_first=True, norm_first=True)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x, y = self.gradients(image).chunk(2, dim=1)
        edges = magnitude(x, y).clamp(max=1)
        tokens = self.patches(edges).flatten(2).transpose(1, 2)
        return self.head(self.encoder(tokens).mean(1))


def main() -> None:
    """Compile the model, open its page, and take the pictures."""
    from playwright.sync_api import sync_playwright

    images = trtcore.Input(min_shape=(1, 3, 64, 64), opt_shape=(8, 3, 64, 64), max_shape=(32, 3, 64, 64))
    report = trtcore.compile(Edges().eval(), inputs=[images], min_block_size=1).report
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        file = Path(folder) / "report.html"
        file.write_text(report.html(), encoding="utf-8")
        browser = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 800})
        page.goto(file.as_uri())
        page.locator("#graph g.op.torch").first.click()
        page.screenshot(path=IMAGES / "report.png")
        browser.close()


if __name__ == "__main__":
    main()
