"""The report as a page and as a graph for Model Explorer: what is in the file. How it behaves: test_browser.py."""

from __future__ import annotations

import dataclasses
import html
import json
import re
from html.parser import HTMLParser
from typing import Any

import pytest
import torch
from reports import long_report

import trtcore
from trtcore.report.data import NodeReport, Report
from trtcore.report.records import FLOPS_PER_BYTE


def data_of(page: str) -> dict[str, Any]:
    """What the page's script reads, found as a browser finds it."""

    class Finder(HTMLParser):
        text, inside = "", False

        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            self.inside = ("id", "data") in attrs

        def handle_data(self, data: str) -> None:
            if self.inside:
                self.text += data

        def handle_endtag(self, tag: str) -> None:
            self.inside = False

    finder = Finder()
    finder.feed(page)
    found: dict[str, Any] = json.loads(finder.text)
    return found


def test_a_page_asks_for_nothing_from_outside() -> None:
    page = long_report(10).html()
    assert "default-src 'none'" in page
    assert not re.search(r"<(link|img|iframe|base)\b", page)
    assert not re.search(r"\b(src|href)=[\"']", page)
    assert not re.search(r"@import|url\(\s*[\"']?(?!#)", page.partition("<script")[0])
    assert "fetch(" not in page
    assert "Permission is hereby granted" in page  # dagre's licence goes with dagre


def test_what_a_report_says_is_never_markup() -> None:
    evil = "</script><script>alert(1)</script><!--"
    node = NodeReport("n", f"aten.{evil}", reason=evil, segment="torch_0", module_path=evil)
    page = Report(model=evil, nodes=(node,), warnings=(evil,), inputs=(f"{evil}: {evil}",)).html()
    assert page.count("<script") == 3
    assert "<title>trtcore compile &lt;/script&gt;" in page
    data = data_of(page)
    assert data["model"] == evil
    assert data["texts"][data["nodes"][0]["reason"]] == evil


def test_a_page_of_5000_ops_is_small_and_has_every_op() -> None:
    page = long_report(5000).html()
    assert len(page) < 2_500_000
    data = data_of(page)
    assert len(data["nodes"]) == 5000
    assert len(data["candidates"]) == 2


def test_an_empty_report_has_a_page() -> None:
    assert data_of(Report().html())["nodes"] == []


def test_what_is_in_torch_is_sorted_by_its_cost() -> None:
    cheap = NodeReport("a", "aten.a.default", bytes=1 << 20)
    view = NodeReport("b", "aten.b.default", bytes=0, flops=0)
    heavy = NodeReport("c", "aten.c.default", bytes=1024, flops=FLOPS_PER_BYTE << 21, advice="do this")
    unknown = NodeReport("d", "aten.d.default")
    report = Report(nodes=(cheap, view, heavy, unknown))
    assert [group.op.split(".")[1] for group in report.costliest()] == ["c", "a", "b", "d"]
    first = data_of(report.html())["torch"][0]
    assert (first["cost"], first["advice"]) == (2 << 20, "do this")


def test_repr_is_short_and_a_notebook_shows_the_page() -> None:
    report = long_report(5000)
    assert (
        repr(report) == "<Report: compile of Long, 4970 of 5000 ops in 10 engines, 30 in torch, 20 segments>"
    )
    frame = report._repr_html_()
    assert frame.startswith("<iframe srcdoc=")
    document = html.unescape(re.findall(r'srcdoc="([^"]*)"', frame)[0])
    assert document == report.html()
    assert 'sandbox="allow-scripts"' in frame


def test_model_explorer_gets_a_graph_whose_edges_have_ends() -> None:
    report = long_report(100)
    graphs = json.loads(json.dumps(report.to_model_explorer()))
    assert set(graphs) == {"label", "graphs"}
    (graph,) = graphs["graphs"]
    ids = [node["id"] for node in graph["nodes"]]
    assert len(ids) == len(set(ids)) == 100 + 2
    for node in graph["nodes"]:
        for edge in node.get("incomingEdges", ()):
            assert edge["sourceNodeId"] in ids
    node = next(node for node in graph["nodes"] if node["id"] == "n20")
    assert node["namespace"] == "engine_0/model/layers/1/attn"
    assert {"key": "candidate linear", "value": "trtcore:aten 0.1.0: chosen"} in node["attrs"]
    assert node["outputsMetadata"][0]["attrs"] == [{"key": "tensor", "value": "float32[s0, 128, 768]"}]
    assert graph["groupNodeAttributes"]["engine_0"]["layers"] == "900"


class Model(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = torch.nn.Linear(8, 64), torch.nn.Linear(64, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        parts = torch.relu(self.up(x)).chunk(2, 1)
        return self.down(torch.cat((parts[1], parts[0]), 1).double().cumsum(1).unsqueeze(2).amax(2).float())


@pytest.fixture(scope="module")
def compiled(trt_backend: object) -> Report:
    batch = trtcore.Input(min_shape=(1, 8), opt_shape=(4, 8), max_shape=(9, 8))
    report: Report = trtcore.compile(
        Model().eval(), [batch], min_block_size=1, torch_executed_ops={"aten.relu"}
    ).report
    return report


def test_a_compile_tells_values_edges_and_layers(compiled: Report) -> None:
    by_op: dict[str, NodeReport] = {node.op: node for node in reversed(compiled.nodes)}
    up = by_op["aten.linear.default"]
    assert up.inputs == ("x",)
    assert up.weights == ("up.weight: float32[64, 8]", "up.bias: float32[64]")
    (shape,) = up.outputs
    symbol = shape.removeprefix("float32[").removesuffix(", 64]")
    assert compiled.inputs == (f"x: float32[{symbol}, 8]",)
    assert compiled.symbols == {symbol: (1, 4, 9)}
    assert any(layer.startswith("MATRIX_MULTIPLY up/aten.linear.default/linear") for layer in up.layers)
    assert up.bytes == 4 * (4 * 8 + 64 * 8 + 64 + 4 * 64)  # at the opt size
    relu = by_op["aten.relu.default"]
    assert relu.inputs == (up.name,)
    assert relu.layers == ()
    assert by_op["aten.unsqueeze.default"].bytes == 0
    (cat,) = (node for node in compiled.nodes if node.op == "aten.cat.default")
    assert set(cat.inputs) <= {node.name for node in compiled.nodes}  # a result of several is its op's
    assert compiled.outputs == (f"{compiled.nodes[-1].name}: float32[{symbol}, 8]",)
    assert compiled.modules == {"": "Model", "up": "Linear", "down": "Linear"}


def test_advice_comes_from_what_was_decided(compiled: Report) -> None:
    advice = {group.op: group.advice for group in compiled.costliest()}
    assert advice["aten.relu.default"] == "take it out of torch_executed_ops"
    assert advice["aten.cumsum.default"] == "truncate_double=True computes it in float32"


def test_operations_of_what_is_in_torch_are_counted(trt_backend: object) -> None:
    report = trtcore.explain(
        Model().eval(), [torch.randn(4, 8)], min_block_size=1, torch_executed_modules=["up"]
    )
    (up,) = (node for node in report.in_torch if node.op == "aten.linear.default")
    assert up.flops == 2 * 4 * 8 * 64
    assert up.advice == "take it out of torch_executed_modules"


def test_a_report_with_a_graph_survives_json(compiled: Report) -> None:
    assert Report.from_json(compiled.to_json()) == compiled
    older = json.loads(compiled.to_json())
    for node in older["nodes"]:
        for name in ("inputs", "outputs", "layers", "bytes", "advice"):
            del node[name]
    read = Report.from_json(json.dumps(older))
    assert read.nodes[0] == dataclasses.replace(
        compiled.nodes[0], inputs=(), outputs=(), layers=(), bytes=None, advice=""
    )
