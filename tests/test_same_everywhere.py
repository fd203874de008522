"""The same choices in every process: whatever the hash seed, the order of installation, and the thread."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

import trtcore

PACK = """
    import sys
    import torch
    from trtcore.pack import LoweringPass, Reject, converter, converters_in, hookimpl, pattern_converter

    aten = torch.ops.aten
    NAME, NUMBER = __name__, int(__name__[-1])

    @converter([aten.relu.default, aten.add.Tensor, aten.mul.Tensor], supports_dynamic_shapes=True,
               priority=NUMBER % 2)
    def one(ctx, *args): ...

    @converter("aten::sigmoid", capability_validator=lambda node, ctx: Reject("never"))
    def two(ctx, x): ...

    def pattern(x):
        return torch.relu(x) * NUMBER

    @pattern_converter(pattern, (torch.empty(2, 3),), name=f"p{NUMBER}")
    def three(ctx, x): ...

    @hookimpl
    def converters():
        return converters_in(sys.modules[__name__])

    @hookimpl
    def decompositions():
        return {aten.erfinv.default: lambda x: x, "aten::hypot": lambda x, y: x}

    @hookimpl
    def lowering_passes():
        before = f"pass{(NUMBER + 1) % 4}"
        return [LoweringPass(f"pass{NUMBER}", lambda graph, ctx: None, before=(before,)), LoweringPass("shared", print)]
"""

TOLD = """
    import json, warnings
    from types import SimpleNamespace
    import torch
    from packaging.version import Version
    warnings.simplefilter("ignore")
    from trtcore.context import CompileContext
    from trtcore.lowering import ordered_passes
    from trtcore.packs.loading import build_registry
    from trtcore.ir.ops import target_name
    from trtcore.settings import CompilationSettings

    settings = CompilationSettings(pins={"aten.mul.Tensor": "pack-2:pack_2"})
    registry = build_registry(settings)
    backend = SimpleNamespace(name="fake", version=Version("10.0"), has_plugins=False,
                              supports_dtype=lambda dtype: dtype is torch.float32,
                              can=lambda feature, target: SimpleNamespace(ok=True, message=""))
    context = CompileContext(settings, registry, backend=backend)

    class Model(torch.nn.Module):
        def forward(self, x, y):
            z = (x.double() + y.half()) * y.to(torch.int16)
            return torch.sigmoid(torch.relu(x) * 3 + y), z.relu()

    graph = torch.export.export(Model(), (torch.ones(2, 3), torch.ones(2, 3))).graph
    selections = [registry.select(node, context) for node in graph.nodes if node.op == "call_function"]
    print(json.dumps({
        "targets": [[target_name(t), [str(one) for one in registry.candidates(t)], registry.places(t)]
                    for t in registry.targets],
        "patterns": [pattern.__name__ for pattern in registry.patterns],
        "decompositions": [[str(op), function.__module__] for op, function in registry.decompositions.items()],
        "passes": [str(one.pack) + one.name for one in ordered_passes(registry.lowering_passes)],
        "ties": [str(tie) for tie in registry.ties],
        "packs": [str(info) for info in registry.packs],
        "selections": [[one.target, str(one.chosen), one.reason, [(str(c.converter), c.verdict, c.reason)
                        for c in one.candidates]] for one in selections],
    }))
"""


def install(folder: Path, number: int) -> None:
    module = f"pack_{number}"
    info = folder / f"pack_{number}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: pack-{number}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[trtcore]\n{module} = {module}\n")
    (folder / f"{module}.py").write_text(textwrap.dedent(PACK))


def told(folders: list[Path], seed: str) -> dict[str, object]:
    clean = {key: value for key, value in os.environ.items() if not key.startswith("TRTCORE_")}
    environment = {**clean, "PYTHONPATH": os.pathsep.join(map(str, folders)), "PYTHONHASHSEED": seed}
    environment["TRTCORE_DISABLE_PACKS"] = "trtcore"
    code = textwrap.dedent(TOLD)
    run = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    found: dict[str, object] = json.loads(run.stdout)
    return found


@pytest.mark.parametrize(
    "seeds", [{-1: "1"}, pytest.param({11: "4242", 5: "77"}, marks=pytest.mark.slow)], ids=str
)
def test_hash_seeds_and_installation_orders_change_nothing(tmp_path: Path, seeds: dict[int, str]) -> None:
    """Four packs that want the same ops, the same passes and opposite orders, in four folders of the path."""
    folders = [tmp_path / name for name in "abcd"]
    for number, folder in zip((2, 0, 3, 1), folders):
        install(folder, number)
    orders = list(itertools.permutations(folders))
    first = told(list(orders[0]), "0")
    assert sum(pack.startswith("pack-") for pack in first["packs"]) == 4  # type: ignore[attr-defined]
    assert first["ties"]
    assert any(chosen != "None" for _, chosen, *_ in first["selections"])  # type: ignore[attr-defined]
    for order, seed in seeds.items():
        assert told(list(orders[order]), seed) == first


class Model(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.softmax(torch.nn.functional.gelu(self.linear(x)), -1) + torch.erfinv(x)


def test_threads_change_nothing() -> None:
    exported = torch.export.export(Model(), (torch.randn(2, 4),))

    def nodes(_: int) -> object:
        return trtcore.dynamo.explain(exported, min_block_size=1).nodes

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(nodes, range(8)))
    assert found[0]
    assert all(one == found[0] for one in found)
