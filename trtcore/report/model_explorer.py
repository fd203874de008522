"""A report's graph in the form that Model Explorer reads: https://github.com/google-ai-edge/model-explorer"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trtcore.report.records import NodeReport, ReportFields

_ENGINE = {"backgroundColor": "#d9f2e3", "borderColor": "#2f8f5b"}
_TORCH = {"backgroundColor": "#fdebcf", "borderColor": "#c47a12"}


def graphs(report: ReportFields) -> dict[str, Any]:
    """A collection of one graph: an op is a node in the namespace of its segment and module."""
    made = {text.partition(": ")[0] for text in report.inputs} | {one.name for one in report.nodes}
    nodes = [_input(text) for text in report.inputs]
    nodes += [_node(one, made) for one in report.nodes]
    nodes += [_output(index, text, made) for index, text in enumerate(report.outputs)]
    about = {
        "kind": report.kind,
        "backend": f"{report.backend} {report.backend_version}",
        "target": report.target,
    }
    graph = {
        "id": report.model or "model",
        "nodes": nodes,
        "groupNodeAttributes": {"": about, **_segments(report)},
    }
    return {"label": f"trtcore {report.kind}", "graphs": [graph]}


def _segments(report: ReportFields) -> dict[str, dict[str, str]]:
    known: dict[str, dict[str, str]] = {}
    for one in report.segments:
        values = {"kind": one.kind, "ops": one.ops, "layers": one.layers, "engine bytes": one.engine_bytes}
        known[one.name] = {name: str(value) for name, value in values.items() if value is not None}
    return known


def _attributes(values: Mapping[str, Any]) -> list[dict[str, str]]:
    return [{"key": name, "value": str(value)} for name, value in values.items() if value not in ("", None)]


def _results(types: tuple[str, ...] | list[str]) -> list[dict[str, Any]]:
    return [{"id": str(index), "attrs": _attributes({"tensor": text})} for index, text in enumerate(types)]


def _input(text: str) -> dict[str, Any]:
    name, _, kind = text.partition(": ")
    return {"id": name, "label": name, "namespace": "", "outputsMetadata": _results([kind])}


def _output(index: int, text: str, made: set[str]) -> dict[str, Any]:
    name, _, kind = text.partition(": ")
    return {
        "id": f"output {index}",
        "label": f"output {index}",
        "namespace": "",
        "incomingEdges": _edges([name], made),
        "attrs": _attributes({"tensor": kind}),
    }


def _node(one: NodeReport, made: set[str]) -> dict[str, Any]:
    candidates = {
        f"candidate {c.converter}": f"{c.pack}: {c.verdict}" + (f", {c.reason}" if c.reason else "")
        for c in one.candidates
    }
    about = {
        "op": one.op,
        "runs in": one.segment,
        "reason": one.reason,
        "advice": one.advice,
        "source": one.source,
        "converter": one.converter,
        "pack": one.pack,
        "weights": ", ".join(one.weights),
        "layers": "\n".join(one.layers),
        **candidates,
    }
    return {
        "id": one.name,
        "label": one.op,
        "namespace": "/".join([one.segment, *filter(None, one.module_path.split("."))]),
        "incomingEdges": _edges(one.inputs, made),
        "attrs": _attributes(about),
        "outputsMetadata": _results(one.outputs),
        "style": _ENGINE if one.in_engine else _TORCH,
    }


def _edges(names: tuple[str, ...] | list[str], made: set[str]) -> list[dict[str, str]]:
    """Every end of an edge must be a node."""
    known = [name for name in names if name in made]
    return [
        {"sourceNodeId": name, "sourceNodeOutputId": "0", "targetNodeInputId": str(index)}
        for index, name in enumerate(known)
    ]
