"""Where the time of a compile goes, for every model that must compile whole: static, fp32, base sizes.

``python tests/benchmarks/bench_models.py [--tiny] [--repeat N] [name ...]``. Columns as in bench_stages: ours is
capture + lowering + partition + conversion of the fastest of N compiles, after one that fills the capability cache.
"""

from __future__ import annotations

import argparse
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / "models"))

import torch
import zoo

import trtcore

OURS = ("capture", "lowering", "partition", "conversion")


def measure(name: str, tiny: bool, repeat: int) -> dict[str, float]:
    """Seconds per stage, of the repeat whose own stages were fastest."""
    arch = zoo.ARCHITECTURES[name]
    model = arch.build(tiny)
    inputs = zoo.inputs_for(arch, False, torch.float32, tiny)
    rows = []
    for _ in range(repeat):
        report = trtcore.compile(model, kwarg_inputs=inputs).report
        assert report.fully_converted, str(report)
        seconds = {stage.name: stage.seconds for stage in report.stages}
        seconds["ours"] = sum(seconds[stage] for stage in OURS)
        seconds["ops"], seconds["layers"] = len(report.nodes), report.engines[0].layers or 0
        rows.append(seconds)
    return min(rows, key=lambda row: row["ours"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--repeat", type=int, default=2)
    given = parser.parse_args()
    torch.set_num_threads(2)
    names = given.names or list(zoo.ARCHITECTURES)
    measure(names[0], True, 1)  # fills the capability cache
    print("| static, fp32 | ops | layers | capture | lowering | partition | conversion | **ours** | torch.export "
          "| TensorRT build |", flush=True)  # fmt: skip
    print("|---|---|---|---|---|---|---|---|---|---|")
    for name in names:
        s = measure(name, given.tiny, given.repeat)
        stages = " | ".join(f"{s[stage]:.3f} s" for stage in OURS)
        print(f"| {name} | {s['ops']:.0f} | {s['layers']:.0f} | {stages} | **{s['ours']:.3f} s** "
              f"| {s['export']:.2f} s | {s['build']:.2f} s |", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
