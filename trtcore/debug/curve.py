"""A comparison as a page: the error at each node, on a logarithmic scale, as a plot without scripts."""

from __future__ import annotations

import html
import math
from dataclasses import dataclass

from trtcore.report.records import short_path

_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 960, 320, 64, 16, 16, 28
_LEAST = 1e-9  # smaller errors, and none, are drawn here

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>trtcore compare</title><style>
body {{ font: 15px/1.5 system-ui, sans-serif; color: #1f2430; max-width: 64rem; margin: 2rem auto; padding: 0 1rem; }}
pre {{ background: #f4f5f7; padding: .8rem; overflow-x: auto; }}
.plot, .nodes {{ overflow-x: auto; }}
svg {{ width: 100%; min-width: 40rem; height: auto; }}
svg text {{ font: 11px system-ui, sans-serif; fill: #596070; }}
.grid {{ stroke: #e3e6eb; }} .tolerance {{ stroke: #b3261e; stroke-dasharray: 6 4; }}
.curve {{ fill: none; stroke: #1565c0; stroke-width: 1.5; }}
circle {{ fill: #1565c0; }} circle.over {{ fill: #b3261e; }}
circle.first {{ stroke: #b3261e; stroke-width: 3; fill: #fff; }}
table {{ border-collapse: collapse; font-size: 13px; }}
td, th {{ padding: .2rem .7rem .2rem 0; text-align: left; white-space: nowrap; }}
tr.over td {{ color: #b3261e; }}
</style></head><body><h1>Compiled against eager</h1><pre>{text}</pre>{plot}{table}</body></html>
"""


@dataclass(frozen=True)
class CurvePoint:
    """The error at a node, in a program that returns every node's value.

    Attributes:
        node, op, module_path, source: of the exported program.
        error: the norm of the difference over the norm of eager's value; inf where one of them is not finite alone.
    """

    node: str
    op: str
    module_path: str
    source: str
    error: float


def page(text: str, curve: tuple[CurvePoint, ...], tolerance: float, first: str) -> str:
    """The page.

    Args:
        text: what was found, above the plot.
        curve: the points, in the order of the nodes; none gives the text alone.
        tolerance: drawn as a line.
        first: the name of the node to mark; "" for none.
    """
    return _PAGE.format(
        text=html.escape(text),
        plot=_plot(curve, tolerance, first) if curve else "",
        table=_table(curve, tolerance) if curve else "",
    )


def _plot(curve: tuple[CurvePoint, ...], tolerance: float, first: str) -> str:
    top = max([1.0, *(one.error for one in curve if math.isfinite(one.error))])
    low, high = math.log10(_LEAST), math.ceil(math.log10(top))

    def x(index: int) -> float:
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * (index + 0.5) / len(curve)

    def y(error: float) -> float:
        level = high if math.isinf(error) else math.log10(max(error, _LEAST))
        return _TOP + (_HEIGHT - _TOP - _BOTTOM) * (high - level) / (high - low)

    parts = [
        f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y(10.0**power):.1f}" y2="{y(10.0**power):.1f}"/>'
        f'<text x="{_LEFT - 8}" y="{y(10.0**power) + 4:.1f}" text-anchor="end">1e{power}</text>'
        for power in range(int(low), high + 1)
    ]
    parts.append(
        f'<line class="tolerance" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y(tolerance):.1f}" y2="{y(tolerance):.1f}"/>'
        f'<text x="{_WIDTH - _RIGHT}" y="{y(tolerance) + 14:.1f}" text-anchor="end">tolerance {tolerance:.0e}</text>'
    )
    points = " ".join(f"{x(index):.1f},{y(one.error):.1f}" for index, one in enumerate(curve))
    parts.append(f'<polyline class="curve" points="{points}"/>')
    for index, one in enumerate(curve):
        kind = "first" if one.node == first else "over" if one.error > tolerance else ""
        parts.append(
            f'<circle class="{kind}" cx="{x(index):.1f}" cy="{y(one.error):.1f}" r="{5 if kind == "first" else 3}">'
            f"<title>{html.escape(_label(one))}</title></circle>"
        )
    parts.append(
        f'<text x="{_LEFT}" y="{_HEIGHT - 8}">the model\'s {len(curve)} nodes, in the order in which they run</text>'
    )
    return (
        f'<div class="plot"><svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="error at each node">'
        f"{''.join(parts)}</svg></div>"
    )


def _label(one: CurvePoint) -> str:
    return f"{one.node} ({one.op}) {one.module_path} {short_path(one.source)}: error {one.error:.2e}".replace(
        "  ", " "
    )


def _table(curve: tuple[CurvePoint, ...], tolerance: float) -> str:
    parts = ["<tr><th>node</th><th>op</th><th>module</th><th>source</th><th>error</th></tr>"]
    for one in curve:
        texts = (one.node, one.op, one.module_path, short_path(one.source), f"{one.error:.2e}")
        kind = " class=over" if one.error > tolerance else ""
        parts.append(f"<tr{kind}>" + "".join(f"<td>{html.escape(text)}</td>" for text in texts) + "</tr>")
    return f'<div class="nodes"><table>{"".join(parts)}</table></div>'
