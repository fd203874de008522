"""A report as a page: one file, everything in it, no network.

The graph is laid out by dagre (``page/vendor``, MIT), the rest is in ``page``. What the report says goes into the page
as JSON, and the page's script writes it as text, never as markup.
"""

from __future__ import annotations

import html
import json
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import Any

from trtcore.report import text as texts
from trtcore.report.records import NodeReport, ReportFields, plain, short_path

_SCRIPTS = ("tree.js", "draw.js", "panel.js", "main.js")
_HEIGHT = 620  # of a notebook's frame, in pixels


def page(report: ReportFields) -> str:
    """The whole page, an HTML document of some 70 kB and 200 bytes an op."""
    title = " ".join(filter(None, ("trtcore", report.kind, report.model)))
    filled = {
        "TITLE": html.escape(title),
        "STYLE": _source("page.css"),
        "LIBRARY": f"/*! @dagrejs/dagre 3.1.3\n{_source('vendor/LICENSE.dagre')}*/\n{_source('vendor/dagre.min.js')}",
        "SCRIPT": "\n".join(map(_source, _SCRIPTS)),
        "DATA": _embedded(_data(report)),
    }
    first, *rest = _source("page.html").split("@")
    return first + "".join(filled.get(part, part) for part in rest)


def frame(report: ReportFields) -> str:
    """The page in a frame of its own, for notebooks."""
    document = html.escape(page(report), quote=True)
    return (
        f'<iframe srcdoc="{document}" sandbox="allow-scripts" style="width:100%;height:{_HEIGHT}px;border:1px solid '
        '#8884;border-radius:8px"></iframe>'
    )


@cache
def _source(name: str) -> str:
    return files("trtcore.report").joinpath("page", *name.split("/")).read_text(encoding="utf-8")


def _embedded(data: Any) -> str:
    """JSON that may stand in a script element: no ``<`` can end it."""
    return json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")


class _Table:
    """Values by number, each once."""

    def __init__(self) -> None:
        self.values: list[Any] = []
        self._known: dict[str, int] = {}

    def add(self, value: Any) -> int:
        key = value if isinstance(value, str) else json.dumps(value)
        if key not in self._known:
            self._known[key] = len(self.values)
            self.values.append(value)
        return self._known[key]


def _data(report: ReportFields) -> dict[str, Any]:
    """What the page's script reads; texts that many nodes share are numbers."""
    words, candidates = _Table(), _Table()
    nodes = [_node(one, words, candidates) for one in report.nodes]
    return {
        "kind": report.kind,
        "model": report.model,
        "note": report.runtime_note,
        "counts": {
            "inside": len(report.converted),
            "outside": len(report.in_torch),
            "text": texts.counts(report),
        },
        "facts": [(name, value) for name, value in texts.facts(report) if name != "time"],
        "stages": [(stage.name, stage.seconds) for stage in report.stages],
        "inputs": report.inputs,
        "outputs": report.outputs,
        "modules": dict(report.modules),
        "segments": plain(report.segments),
        "nodes": nodes,
        "texts": words.values,
        "candidates": candidates.values,
        "torch": _in_torch(report),
        "quarantined": plain(report.quarantined),
        "packs": plain(report.packs),
        "lists": _lists(report),
    }


def _node(one: NodeReport, words: _Table, candidates: _Table) -> dict[str, Any]:
    return {
        "name": one.name,
        "op": one.op,
        "segment": one.segment,
        "converter": one.converter,
        "pack": words.add(one.pack),
        "reason": words.add(one.reason),
        "lost": one.lost_to,
        "path": words.add(one.module_path),
        "source": words.add(short_path(one.source)),
        "candidates": candidates.add(plain(one.candidates)),
        "sources": one.sources,
        "inputs": one.inputs,
        "weights": one.weights,
        "outputs": one.outputs,
        "layers": one.layers,
        "bytes": one.bytes,
        "flops": one.flops,
        "advice": words.add(one.advice),
        "precision": words.add(one.precision),
    }


def _in_torch(report: ReportFields) -> list[dict[str, Any]]:
    return [
        {
            "op": group.op,
            "reason": group.reason,
            "advice": group.advice,
            "cost": group.cost,
            "nodes": [node.name for node in group.nodes],
        }
        for group in report.costliest()
    ]


def _lists(report: ReportFields) -> Sequence[tuple[str, Sequence[str]]]:
    plugins = [line for plugin in report.plugins for line in texts.plugin_lines(plugin, report.backend)]
    return (
        ("Warnings", report.warnings),
        ("Kernel plugins", plugins),
        ("Ties between packs", report.ties),
        ("Not lowered by autocast, and the rule", [str(group) for group in report.kept_precise()]),
        (
            "Number formats of products, as TensorRT is given them",
            [str(group) for group in report.precisions()],
        ),
        ("Computed in another way", [str(group) for group in report.noted()]),
        ("Written back", [str(group) for group in report.lost("write_back")]),
        ("Rewritten by lowering", report.rewrites),
        ("Versions", _versions(report)),
    )


def _versions(report: ReportFields) -> list[str]:
    known: Mapping[str, str] = {
        "trtcore": report.trtcore_version,
        "torch": report.torch_version,
        report.backend or "backend": report.backend_version,
    }
    return [f"{name} {version}" for name, version in known.items() if version]
