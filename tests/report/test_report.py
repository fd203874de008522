"""Report: its text, its grouping, its JSON."""

from __future__ import annotations

import copy
import dataclasses
import io
import json
import pickle
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from rich.console import Console

from trtcore.errors import ArtifactError
from trtcore.report.collect import node_report, peak_memory
from trtcore.report.data import (
    REFERENCE_NOTE,
    CandidateReport,
    NodeReport,
    PackReport,
    QuarantineReport,
    Report,
    SegmentReport,
    StageTiming,
)
from trtcore.report.text import format_bytes, format_seconds, no_engine_warning

NO_CONVERTER = "no converter for aten.foo.default in any pack"


def _missing(index: int) -> NodeReport:
    return NodeReport(
        f"foo_{index}",
        "aten.foo.default",
        segment="torch_1",
        reason=NO_CONVERTER,
        module_path=f"encoder.layer.{index}",
        source="model.py:12",
    )


@pytest.fixture
def report() -> Report:
    chosen = CandidateReport("linear", "trtcore:aten 0.1.0")
    loser = CandidateReport("slow_linear", "other:aten 2.0", -100, "shadowed", "lower priority (-100 < 0)")
    return Report(
        model="Net",
        nodes=(
            NodeReport(
                "linear",
                "aten.linear.default",
                True,
                "engine_0",
                "linear",
                "trtcore:aten 0.1.0",
                candidates=(chosen, loser),
            ),
            *(_missing(index) for index in range(12)),
            NodeReport("bar", "aten.bar.default", segment="torch_1", reason="bool inputs are not supported"),
            NodeReport(
                "relu",
                "aten.relu.default",
                segment="torch_1",
                converter="relu",
                pack="trtcore:aten 0.1.0",
                reason="its segment has 1 op, min_block_size is 5",
                lost_to="min_block_size",
            ),
        ),
        segments=(
            SegmentReport(
                "engine_0",
                "tensorrt",
                1,
                ("x: float32[s0, 4]",),
                ("linear: float32[s0, 4]",),
                3,
                5 << 20,
                0.5,
            ),
            SegmentReport("torch_1", "torch", 14),
        ),
        stages=(StageTiming("lowering", 0.25), StageTiming("build", 1.5)),
        quarantined=(
            QuarantineReport(
                "topk",
                "aten.topk.default",
                "TensorRT refused the layer",
                "topk",
                "trtcore:aten 0.1.0",
                ("Error Code 3: k is too big",),
                "head",
                "net.py:7",
            ),
        ),
        packs=(PackReport("trtcore:aten", "0.1.0", ops=1), PackReport("sad:pack", "1.0", "failed", "boom")),
        backend="tensorrt_rtx",
        backend_version="1.7.1.116",
        target="portable",
        runtime="reference",
        runtime_reason="no NVIDIA driver",
        symbols={"s0": (1, 4, 8)},
        settings={"min_block_size": 5},
        ties=("a:x and b:y tie on aten.relu.default",),
        peak_memory_bytes=1 << 30,
    )


def test_counts_and_views(report: Report) -> None:
    assert len(report.converted) == 1
    assert len(report.in_torch) == 14
    assert not report.fully_converted
    assert [segment.name for segment in report.engines] == ["engine_0"]
    assert report.engine_bytes == 5 << 20
    assert report.seconds == 1.75


def test_fallbacks_are_grouped_by_reason_with_the_first_place(report: Report) -> None:
    first, second = report.fallbacks()
    assert str(first) == f"12 x aten.foo.default: {NO_CONVERTER}; first at encoder.layer.0 (model.py:12)"
    assert str(second) == "1 x aten.bar.default: bool inputs are not supported; first at bar"
    (lost,) = report.lost()
    assert lost.op == "aten.relu.default"
    assert "min_block_size" in lost.reason


def test_text_says_everything(report: Report) -> None:
    text = str(report)
    for expected in (
        "1 of 15 ops in 1 engine, 14 in torch, 2 segments",
        "tensorrt_rtx 1.7.1.116, target portable",
        "reference: no NVIDIA driver",
        "5.0 MiB",
        "1.8 s (lowering 250 ms, build 1.5 s)",
        "1.0 GiB",
        "s0 1..8 (opt 4)",
        "min_block_size=5",
        "12 x aten.foo.default",
        "Lost to min_block_size",
        "aten.topk.default at head (net.py:7) [topk of trtcore:aten 0.1.0]: TensorRT refused the layer",
        "TensorRT: Error Code 3: k is too big",
        "a:x and b:y tie on aten.relu.default",
        "boom",
    ):
        assert expected in text
    assert "slow_linear" not in text


def test_verbose_text_names_every_candidate(report: Report) -> None:
    text = report.text(verbose=True)
    assert "linear (aten.linear.default) at linear -> engine_0: linear of trtcore:aten 0.1.0" in text
    assert "shadowed: slow_linear of other:aten 2.0, priority -100: lower priority (-100 < 0)" in text


def test_rich_rendering_prints_what_the_text_says_and_takes_brackets_literally(report: Report) -> None:
    stream = io.StringIO()
    report.render(Console(file=stream, width=200))
    printed = stream.getvalue()
    assert "x: float32[s0, 4]" in printed
    assert "12 x aten.foo.default" in printed
    assert "[topk of trtcore:aten 0.1.0]" in printed


def test_summary_is_short(report: Report) -> None:
    lines = report.summary().splitlines()
    assert lines[0].startswith("1 of 15 ops in 1 engine")
    assert any("12 x aten.foo.default" in line for line in lines)
    assert len(lines) <= 12


def test_no_backend_is_said() -> None:
    text = str(Report(no_backend_reason="tensorrt_rtx: not installed (pip install trtcore[rtx])"))
    assert "none: tensorrt_rtx: not installed (pip install trtcore[rtx])" in text
    assert "0 of 0 ops" in text


def test_the_reference_note_stands_exactly_where_tensorrt_built_and_did_not_run(report: Report) -> None:
    assert report.runtime_note == REFERENCE_NOTE
    assert dataclasses.replace(report, runtime="native").runtime_note == ""
    assert dataclasses.replace(report, segments=()).runtime_note == ""


def test_json_round_trip_and_schema(report: Report) -> None:
    text = report.to_json()
    data = json.loads(text)
    assert data["schema"] == 1
    assert data["totals"] == {
        "ops": 15,
        "ops_in_engines": 1,
        "engines": 1,
        "engine_bytes": 5 << 20,
        "seconds": 1.75,
    }
    assert Report.from_json(text) == report


def test_json_keys_are_the_contract() -> None:
    # A key that goes away or changes its name needs a new schema number.
    keys = set(Report().to_dict())
    assert keys >= {
        "schema",
        "kind",
        "model",
        "nodes",
        "segments",
        "stages",
        "quarantined",
        "packs",
        "backend",
        "backend_version",
        "no_backend_reason",
        "target",
        "runtime",
        "runtime_reason",
        "symbols",
        "settings",
        "ties",
        "warnings",
        "peak_memory_bytes",
        "trtcore_version",
        "torch_version",
        "totals",
    }


def test_json_takes_settings_of_any_kind() -> None:
    settings = {"enabled_precisions": frozenset({torch.float32}), "where": Path("x"), "pins": {"a": "b"}}
    data = json.loads(Report(settings=settings).to_json())
    assert data["settings"] == {"enabled_precisions": ["torch.float32"], "where": "x", "pins": {"a": "b"}}


@pytest.mark.parametrize("text", ["nonsense", "[]", "{}", '{"schema": 2}', '{"schema": 1, "nodes": [3]}'])
def test_foreign_json_is_refused(text: str) -> None:
    with pytest.raises(ArtifactError):
        Report.from_json(text)


def test_a_report_can_be_copied_and_pickled(report: Report) -> None:
    assert copy.deepcopy(report) == report
    assert pickle.loads(pickle.dumps(report)) == report
    with pytest.raises(dataclasses.FrozenInstanceError):
        report.model = "other"  # type: ignore[misc]


class _Inner(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(x)


class _Outer(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = _Inner()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x) + 1


def test_place_comes_from_what_export_leaves_on_a_node(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = torch.export.export(_Outer(), (torch.zeros(2),)).graph
    relu = next(node for node in graph.nodes if node.target is torch.ops.aten.relu.default)
    selection = SimpleNamespace(target="aten.relu.default", chosen=None, candidates=(), reason="no converter")
    report = node_report(relu, selection)  # type: ignore[arg-type]
    line = _Inner.forward.__code__.co_firstlineno + 1
    assert report.module_path == "inner"
    assert report.source == f"{__file__}:{line}"
    monkeypatch.chdir(Path(__file__).parent)
    assert report.place == f"inner (test_report.py:{line})"


def test_place_leaves_out_the_environment() -> None:
    source = "/venv/lib/python3.11/site-packages/transformers/bert.py:3"
    assert NodeReport("x", "aten.relu.default", source=source).place == "transformers/bert.py:3"


def test_place_of_a_bare_node_is_its_name() -> None:
    assert NodeReport("x", "aten.relu.default").place == "x"


def test_node_report_keeps_every_candidate() -> None:
    def candidate(name: str, verdict: str, reason: str) -> SimpleNamespace:
        converter = SimpleNamespace(name=name, source_version="dist:aten 1.0", priority=0)
        return SimpleNamespace(converter=converter, verdict=SimpleNamespace(outcome=verdict), reason=reason)

    winner, loser = candidate("a", "chosen", ""), candidate("b", "rejected", "too big")
    selection = SimpleNamespace(
        target="aten.relu.default", chosen=winner.converter, candidates=(winner, loser), reason=""
    )
    node = torch.fx.Graph().placeholder("x")
    report = node_report(node, selection, segment="engine_0", in_engine=True)  # type: ignore[arg-type]
    assert (report.converter, report.pack, report.reason) == ("a", "dist:aten 1.0", "")
    assert [item.verdict for item in report.candidates] == ["chosen", "rejected"]
    assert report.candidates[1].reason == "too big"

    refused = SimpleNamespace(target="aten.foo.default", chosen=None, candidates=(), reason="no converter")
    report = node_report(node, refused)  # type: ignore[arg-type]
    assert (report.in_engine, report.reason, report.converter) == (False, "no converter", "")


def test_numbers_for_people() -> None:
    assert [format_bytes(n) for n in (10, 2048, 3 << 20, 5 << 30)] == [
        "10 B",
        "2.0 KiB",
        "3.0 MiB",
        "5.0 GiB",
    ]
    assert [format_seconds(s) for s in (0.012, 3.44, 125)] == ["12 ms", "3.4 s", "2 min 5 s"]


def test_peak_memory_is_that_of_a_process_with_torch() -> None:
    peak = peak_memory()
    assert peak is None or peak > 50 << 20


def test_a_compile_without_an_engine_says_what_was_lost_to_what() -> None:
    small = NodeReport(
        "relu", "aten.relu.default", converter="relu", lost_to="min_block_size", reason="too few"
    )
    double = NodeReport("sin", "aten.sin.default", reason="float64, which tensorrt_rtx cannot represent")
    failed = QuarantineReport("tan", "aten.tan.default", "its converter raised ValueError")
    report = Report(
        nodes=(
            small,
            double,
            *map(_missing, range(3)),
            NodeReport("tan", "aten.tan.default", lost_to="quarantine"),
        ),
        quarantined=(failed,),
        backend="tensorrt_rtx",
    )
    text = no_engine_warning(report)
    assert text is not None
    assert text.startswith("no engine was made: all 6 ops run in torch")
    assert "1 could be in engines, and are in segments below min_block_size (aten.relu.default)" in text
    assert "min_block_size=1" in text
    assert f"3 x aten.foo.default: {NO_CONVERTER}" in text
    assert "1 went back to torch after a failure: its converter raised ValueError" in text
    assert "truncate_double=True" in text
    assert "truncate_double=True" in report.text()
    told = dataclasses.replace(report, settings={"truncate_double": True})
    assert "truncate_double=True computes" not in f"{no_engine_warning(told)}"


def test_no_backend_is_a_reason_for_no_engine() -> None:
    text = no_engine_warning(Report(nodes=(_missing(0),), no_backend_reason="no bindings"))
    assert text is not None
    assert "no backend: no bindings" in text


def test_a_compile_with_an_engine_or_without_ops_has_no_such_warning(report: Report) -> None:
    assert no_engine_warning(report) is None
    assert no_engine_warning(Report()) is None


def test_reading_a_report_back_loads_no_torch(report: Report, tmp_path: Path) -> None:
    (tmp_path / "report.json").write_text(report.to_json())
    code = (
        "import sys; from trtcore.report.data import Report\n"
        f"print(Report.from_json(open({str(tmp_path / 'report.json')!r}).read()).summary())\n"
        "print(sorted(name for name in sys.modules if name == 'torch' or name.startswith('trtcore')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(eval(done.stdout.splitlines()[-1]))
    assert loaded <= {
        "trtcore", "trtcore._not_built", "trtcore._op_hook", "trtcore._version", "trtcore.errors",
        "trtcore.report", "trtcore.report.data", "trtcore.report.records", "trtcore.report.text",
    }  # fmt: skip
