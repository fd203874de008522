"""What every compile and every explain returns: a `Report`.

It is filled by the compiler and read by people (`str(report)`, `report.summary()`, `report.render(console)`), by tools
(`report.to_json()`, schema 1) and by tests (the attributes). Reading one from a saved file loads no compiler.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from trtcore.errors import ArtifactError, printable
from trtcore.report import text as texts
from trtcore.report.records import (
    REFERENCE_NOTE,
    CandidateReport,
    FallbackGroup,
    NodeReport,
    PackReport,
    PluginReport,
    QuarantineReport,
    ReportFields,
    SegmentReport,
    StageTiming,
    plain,
)

if TYPE_CHECKING:
    from rich.console import Console

__all__ = [
    "REFERENCE_NOTE",
    "SCHEMA",
    "CandidateReport",
    "FallbackGroup",
    "NodeReport",
    "PackReport",
    "PluginReport",
    "QuarantineReport",
    "Report",
    "SegmentReport",
    "StageTiming",
]

SCHEMA = 1


@dataclass(frozen=True, repr=False)
class Report(ReportFields):
    """What a compile did, or what it would do: `ReportFields`, with text and JSON."""

    def summary(self) -> str:
        """The few lines a person wants first."""
        return texts.summary(self)

    def text(self, *, verbose: bool = False) -> str:
        """The whole report as plain text; `verbose` adds every op with its candidates."""
        return texts.text(self, verbose=verbose)

    def html(self) -> str:
        """The report as a page: the partitioned graph drawn, what runs where and why, and what it costs.

        One self-contained document that needs no network; write it to a file and open it:
        ``Path("report.html").write_text(report.html(), encoding="utf-8")``.
        """
        from trtcore.report.html import page

        return page(self)

    def to_model_explorer(self) -> dict[str, Any]:
        """The partitioned graph as plain values that Model Explorer (the package ai-edge-model-explorer) reads from a
        JSON file."""
        from trtcore.report.model_explorer import graphs

        return graphs(self)

    def __str__(self) -> str:
        return self.text()

    def __repr__(self) -> str:
        name = f" of {self.model}" if self.model else ""
        return printable(f"<Report: {self.kind}{name}, {texts.counts(self)}>")

    def _repr_html_(self) -> str:
        """The page in a frame, where a notebook shows a report."""
        from trtcore.report.html import frame

        return frame(self)

    def render(self, console: Console | None = None, *, verbose: bool = False) -> None:
        """Print the report to a rich console, with tables."""
        texts.render(self, console, verbose=verbose)

    def to_dict(self) -> dict[str, Any]:
        """Plain values; the first key is ``schema``. Fields may be added within a schema, never changed."""
        return {
            "schema": SCHEMA,
            **{item.name: plain(getattr(self, item.name)) for item in dataclasses.fields(self)},
            "totals": {
                "ops": len(self.nodes) - len(self.written_back),
                "ops_in_engines": len(self.converted),
                "engines": len(self.engines),
                "engine_bytes": self.engine_bytes,
                "seconds": self.seconds,
            },
        }

    def to_json(self, *, indent: int | None = 2) -> str:
        """`to_dict` as JSON text."""
        return json.dumps(self.to_dict(), indent=indent)

    @classmethod
    def from_json(cls, text: str) -> Report:
        """Read `to_json` back.

        Raises:
            ArtifactError: it is not a report, or one of another schema.
        """
        try:
            data = json.loads(text)
            schema = data["schema"]
        except (ValueError, TypeError, KeyError) as error:
            raise ArtifactError(f"this is not a trtcore report: {error!r}") from error
        if schema != SCHEMA:
            raise ArtifactError(
                f"this report has schema {schema!r}, this version of trtcore reads {SCHEMA}",
                advice="read it with the trtcore that wrote it",
            )
        try:
            report: Report = _from_plain(cls, data)
        except (TypeError, ValueError, AttributeError) as error:
            raise ArtifactError(f"this report is damaged: {error}") from error
        return report


_T = TypeVar("_T")

_ELEMENTS: dict[str, type] = {
    "nodes": NodeReport,
    "segments": SegmentReport,
    "stages": StageTiming,
    "quarantined": QuarantineReport,
    "packs": PackReport,
    "plugins": PluginReport,
    "candidates": CandidateReport,
}


def _from_plain(cls: type[_T], data: Mapping[str, Any]) -> _T:
    """A report dataclass from its plain form; keys of a newer minor version are ignored."""
    values: dict[str, Any] = {}
    for name in (item.name for item in dataclasses.fields(cls)):  # type: ignore[arg-type]
        if name not in data:
            continue
        value = data[name]
        element = _ELEMENTS.get(name)
        if element is not None:
            value = tuple(_from_plain(element, item) for item in value)
        elif name == "symbols":
            value = _ranges(value)
        elif name == "profiles":
            value = tuple(map(_ranges, value))
        elif isinstance(value, list):
            value = tuple(value)
        values[name] = value
    return cls(**values)


def _ranges(value: Mapping[str, Any]) -> dict[str, tuple[int, int, int]]:
    return {key: (int(low), int(opt), int(high)) for key, (low, opt, high) in value.items()}
