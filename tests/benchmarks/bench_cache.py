"""A second compile of BERT-base in a new process, from the engine cache, against the first.

``python tests/benchmarks/bench_cache.py``. The time is of `trtcore.dynamo.compile`, without import and export. Each compile is
a process of its own; "warm" ones have compiled a small model before, so that libraries and packs are loaded; "cold" ones
have not. The cache is a folder, a new one in each of three rounds, and the best of each kind counts. Modules are compiled to
bytecode before, as they are where trtcore is installed.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time

import torch

import trtcore


def child(folder: str, warm: bool) -> None:
    import transformers

    torch.manual_seed(0)
    model = transformers.BertModel(transformers.BertConfig(), add_pooling_layer=False).eval()
    ids = torch.randint(0, 30000, (1, 128))
    exported = trtcore.dynamo.trace(model, inputs=[ids])
    if warm:
        trtcore.compile(torch.nn.Linear(8, 8).eval(), [torch.ones(1, 8)], min_block_size=1)
    options = {"cache_built_engines": True, "reuse_cached_engines": True, "engine_cache_dir": folder}
    wall, cpu = time.perf_counter(), time.process_time()
    compiled = trtcore.dynamo.compile(exported, inputs=[ids], **options)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    stages = {stage.name: stage.seconds for stage in compiled.report.stages}
    cached = all(engine.cached for engine in compiled.report.engines)
    print(json.dumps({"wall": wall, "cpu": cpu, "cached": cached, "stages": stages}))


def measured(folder: str, warm: bool, environment: dict[str, str]) -> dict[str, float]:
    command = [sys.executable, "-W", "ignore", __file__, folder, str(int(warm))]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    return json.loads(done.stdout.splitlines()[-1])  # type: ignore[no-any-return]


def rounds(warm: bool, environment: dict[str, str]) -> tuple[dict[str, float], dict[str, float]]:
    """The least wall and CPU time of a first and of a second compile, in turn."""
    found: tuple[list[dict[str, float]], list[dict[str, float]]] = [], []
    for _ in range(3):
        with tempfile.TemporaryDirectory() as folder:
            for number, kept in enumerate(found):
                kept.append(measured(folder, warm, environment))
                assert kept[-1]["cached"] == bool(number)
    first, second = ({kind: min(one[kind] for one in kept) for kind in ("wall", "cpu")} for kept in found)
    print(found[0][-1]["stages"], found[1][-1]["stages"], file=sys.stderr)
    return first, second


def main() -> None:
    if len(sys.argv) > 1:
        child(sys.argv[1], bool(int(sys.argv[2])))
        return
    print("| process | first: wall, CPU s | second: wall, CPU s | ratio: wall, CPU |")
    print("|---|---|---|---|")
    with tempfile.TemporaryDirectory() as bytecode:
        environment = {name: text for name, text in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        environment["PYTHONPYCACHEPREFIX"] = bytecode
        with tempfile.TemporaryDirectory() as folder:
            measured(folder, False, environment)
        for name, warm in (("libraries loaded", True), ("cold", False)):
            first, second = rounds(warm, environment)
            ratios = ", ".join(f"{second[kind] / first[kind]:.3f}" for kind in ("wall", "cpu"))
            print(
                f"| {name} | {first['wall']:.2f}, {first['cpu']:.2f} | {second['wall']:.2f}, {second['cpu']:.2f} "
                f"| {ratios} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
