"""The scripts in docs/examples run, and show what they say. `make examples` runs all of them; a few are in the default run."""

from __future__ import annotations

import ast
import importlib.util
import json
import re
import runpy
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from trtcore.pack import scoped_registry

EXAMPLES = Path(__file__).parent.parent / "docs" / "examples"


@dataclass(frozen=True)
class Shown:
    """What an example prints.

    Attributes:
        pieces: regular expressions, in this order.
        tolerance: the largest difference from eager that it may print.
        needs: packages of extras.
        quick: it is part of the default run.
    """

    pieces: tuple[str, ...]
    tolerance: float = 1e-4
    needs: tuple[str, ...] = ()
    quick: bool = False


WHOLE = r"(\d+) of \1 ops in 1 engine, 0 in torch"
SAME = "the same tokens as eager: True"

SHOWN = {
    "bert": Shown((WHOLE, r"saved \d", "1 x 4", "3 x 77", "8 x 128")),
    "build_farm": Shown(("processes:2: 6 of 9 ops in 3 engines",)),
    "custom_op": Shown(("2 of 3 ops in 2 engines, 1 in torch", "no converter for example.soft_clip", WHOLE, "between"), quick=True),
    "engine_cache": Shown(("first: built", "again: from the cache", "other weights: from the cache"), quick=True),
    "flux": Shown((r"stays in torch: (\d+) of \d+ ops", f"float32: {WHOLE}"), needs=("diffusers",)),
    "gpt2": Shown((WHOLE, r"tokens \[", SAME)),
    "llama_static_cache": Shown((WHOLE, WHOLE, SAME)),
    "llm_generation": Shown(
        (f"prefill: {WHOLE}", f"decode: {WHOLE}", SAME, SAME, "loaded: the same tokens: True"), needs=("trtcore_contrib_llm",)
    ),
    "quantized_resnet": Shown((WHOLE, r"10 quantise and 2\d dequantise", "relative error"), needs=("torchao",)),
    "modelopt_vit": Shown((WHOLE, r"13 x aten.linear.default: float8", "relative error"), needs=("modelopt", "trtcore_contrib_modelopt")),
    "refit_lora": Shown(("the model: built", "with an adapter: built", "another adapter: refitted"), needs=("peft",)),
    "resnet_torch_compile": Shown(("batch 32", "new graph", r"dynamic .*\.\.15 ", "dynamic")),
    "sam2": Shown((WHOLE, "masks", "the same best mask as eager: True")),
    "stable_diffusion": Shown((f"UNet: {WHOLE}", "VAE decoder: 76 of 76", r"image \(1, 3, 32, 32\)"), 1e-3, ("diffusers",)),
    "triton_plugin": Shown(("3 of 4 ops in 2 engines, 1 in torch", "example::swiglu", "proved: shapes, compiled"), needs=("triton",)),
    "triton_server": Shown(("encoder/1/model.pt2", "3 requests in one batch"), quick=True),
    "whisper": Shown((WHOLE, r"tokens \[", SAME)),
}  # fmt: skip
LIBRARIES = {"serving"}  # modules to take from, with tests of their own


def test_every_example_is_here_and_says_what_it_is() -> None:
    assert {path.stem for path in EXAMPLES.glob("*.py")} == set(SHOWN) | LIBRARIES
    listed = (EXAMPLES.parent / "examples.md").read_text()
    for path in EXAMPLES.glob("*.py"):
        assert ast.get_docstring(ast.parse(path.read_text()))
        assert f"(examples/{path.name})" in listed


@pytest.mark.slow
@pytest.mark.usefixtures("trt_backend")
@pytest.mark.parametrize("notebook", sorted(EXAMPLES.glob("*.ipynb")), ids=lambda path: path.stem)
def test_a_notebook_runs_and_is_stored_without_outputs(
    notebook: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Cell by cell; a value at a cell's end is shown as Jupyter shows it."""
    stored = json.loads(notebook.read_text())
    assert stored["nbformat"] == 4
    assert f"(examples/{notebook.name})" in (EXAMPLES.parent / "examples.md").read_text()
    namespace: dict[str, object] = {"__name__": "__main__"}
    shown = []
    with scoped_registry():
        for number, cell in enumerate(stored["cells"]):
            if cell["cell_type"] != "code":
                continue
            assert cell["outputs"] == []
            tree = ast.parse("".join(cell["source"]))
            last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
            file = tmp_path / f"cell{number}.py"
            file.write_text("".join(cell["source"]))
            exec(compile(tree, str(file), "exec"), namespace)
            if isinstance(last, ast.Expr):
                value = eval(compile(ast.Expression(last.value), str(file), "eval"), namespace)
                shown += [value._repr_html_()] if hasattr(value, "_repr_html_") else []
    assert any(text.startswith("<iframe") for text in shown)
    printed = capsys.readouterr().out
    assert "no converter for aten.special_bessel_j0" in printed
    assert "the outputs agree" in printed


@pytest.mark.usefixtures("trt_backend")
@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=() if shown.quick else pytest.mark.slow) for name, shown in SHOWN.items()],
)
def test_an_example_shows_what_it_says(
    name: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = SHOWN[name]
    for package in shown.needs:
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"needs {package}")
    monkeypatch.setattr(sys, "argv", [name])
    torch._dynamo.reset()  # forgets what other tests compiled
    with scoped_registry(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    printed = capfd.readouterr().out
    print(printed)  # for `make examples`
    at = 0
    for piece in shown.pieces:
        found = re.compile(piece).search(printed, at)
        assert found is not None, piece
        at = found.end()
    differences = [
        float(number)
        for number in re.findall(r"difference from .*? ([\d.]+e[+-]\d+)$", printed, re.MULTILINE)
    ]
    assert differences or SAME in printed
    assert all(one <= shown.tolerance for one in differences)
