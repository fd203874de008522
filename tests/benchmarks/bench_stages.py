"""Where the time of a compile goes: BERT-base fp32, ours beside torch.export's and TensorRT's own.

``python tests/benchmarks/bench_stages.py [--repeat N]``. Ours is capture + lowering + partition + conversion, the
best of N compiles after one that fills the capability cache; torch.export and the build are those of the same run.
"""

from __future__ import annotations

import argparse
import os

os.environ["HF_HUB_OFFLINE"] = "1"

import torch

import trtcore

OURS = ("capture", "lowering", "partition", "conversion")


def bert() -> torch.nn.Module:
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    return BertModel(BertConfig()).eval()


def inputs(dynamic: bool) -> dict[str, object]:
    if not dynamic:
        return {name: torch.ones(2, 64, dtype=torch.int64) for name in ("input_ids", "attention_mask")}
    ranges = {"min_shape": (1, 2), "opt_shape": (2, 64), "max_shape": (8, 512), "dtype": torch.int64}
    return {name: trtcore.Input(**ranges) for name in ("input_ids", "attention_mask")}


def measure(dynamic: bool, repeat: int) -> dict[str, float]:
    """Seconds per stage, of the repeat whose own stages were fastest."""
    model, best = bert(), None
    for _ in range(repeat + 1):
        report = trtcore.compile(model, kwarg_inputs=inputs(dynamic)).report
        assert report.fully_converted
        seconds = {stage.name: stage.seconds for stage in report.stages}
        seconds["ours"] = sum(seconds[name] for name in OURS)
        seconds["ops"], seconds["layers"] = len(report.nodes), report.engines[0].layers or 0
        if best is None or seconds["ours"] < best["ours"]:
            best = seconds
    assert best is not None
    return best


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeat", type=int, default=2)
    repeat = parser.parse_args().repeat
    print("| BERT-base fp32 | ops | layers | capture | lowering | partition | conversion | **ours** | torch.export "
          "| TensorRT build |")  # fmt: skip
    print("|---|---|---|---|---|---|---|---|---|---|")
    for name, dynamic in (("static", False), ("dynamic batch and sequence", True)):
        s = measure(dynamic, repeat)
        stages = " | ".join(f"{s[stage]:.3f} s" for stage in OURS)
        print(f"| {name} | {s['ops']:.0f} | {s['layers']:.0f} | {stages} | **{s['ours']:.3f} s** "
              f"| {s['export']:.2f} s | {s['build']:.2f} s |")  # fmt: skip


if __name__ == "__main__":
    main()
