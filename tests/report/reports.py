"""Reports of models that do not exist, of any size."""

from __future__ import annotations

from trtcore.report.data import (
    CandidateReport,
    NodeReport,
    PackReport,
    QuarantineReport,
    Report,
    SegmentReport,
    StageTiming,
)

_OPS = ("aten.linear.default", "aten.add.Tensor", "aten.relu.default", "aten.view.default")
_TAKEN = (CandidateReport("linear", "trtcore:aten 0.1.0"),)
_REFUSED = (CandidateReport("linear", "acme:ops 2.0", -100, "rejected", "takes float16 only"),)


def long_report(ops: int = 5000, *, modules: bool = True) -> Report:
    """A chain of ops with short cuts: every 500 ops three are in torch; 20 ops a layer of the model."""
    nodes = tuple(_node(index, modules) for index in range(ops))
    counts: dict[str, int] = {}
    for node in nodes:
        counts[node.segment] = counts.get(node.segment, 0) + 1
    return Report(
        model="Long",
        nodes=nodes,
        segments=tuple(_segment(name, count) for name, count in counts.items()),
        stages=(StageTiming("export", 2.0), StageTiming("build", 33.0)),
        quarantined=(
            QuarantineReport(
                "n1", _OPS[1], "TensorRT refused the layer", "add", "acme:ops 2.0", ("k is too big",)
            ),
        ),
        packs=(PackReport("trtcore:aten", "0.1.0", ops=ops), PackReport("sad:pack", "1.0", "failed", "boom")),
        backend="tensorrt_rtx",
        backend_version="1.7",
        target="portable",
        runtime="reference",
        symbols={"s0": (1, 4, 8)},
        inputs=("x: float32[s0, 128, 768]",),
        outputs=(f"n{ops - 1}: float32[s0, 128, 768]",),
        modules={"": "Long", "model": "Trunk"},
    )


def _node(index: int, modules: bool) -> NodeReport:
    in_torch = index % 500 < 3
    layer = f"model.layers.{index // 20}.{'attn' if index % 20 < 10 else 'mlp'}"
    return NodeReport(
        f"n{index}",
        _OPS[index % 4],
        not in_torch,
        f"{'torch' if in_torch else 'engine'}_{index // 500}",
        "" if in_torch else "linear",
        "" if in_torch else "trtcore:aten 0.1.0",
        "no converter takes it" if in_torch else "",
        module_path=layer if modules else "",
        source=f"/home/me/model.py:{index % 300}",
        candidates=_REFUSED if in_torch else _TAKEN,
        inputs=(
            f"n{index - 1}" if index else "x",
            *((f"n{index - 7}",) if index > 7 and index % 5 == 0 else ()),
        ),
        weights=(f"{layer}.weight: float32[768]",) if index % 4 == 0 else (),
        outputs=("float32[s0, 128, 768]",),
        layers=() if in_torch else (f"ELEMENTWISE {layer}/{_OPS[index % 4]}/n{index}",),
        bytes=123_456 * (index % 7),
        advice="take it out of torch_executed_ops" if in_torch else "",
    )


def _segment(name: str, count: int) -> SegmentReport:
    if name.startswith("torch"):
        return SegmentReport(name, "torch", count)
    return SegmentReport(
        name,
        "tensorrt",
        count,
        ("x: float32[8]",),
        ("y: float32[8]",),
        900,
        12 << 20,
        3.2,
        cached=name == "engine_1",
    )
