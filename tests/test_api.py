"""The entry points: what they take, what they give, and what they leave alone."""

from __future__ import annotations

import importlib
import json
import pathlib
import pkgutil
import types
from typing import Any

import pytest
import torch
from torch.export import Dim, export

import trtcore
from trtcore.errors import InputError, SettingsError, UnsupportedOperatorError

pytestmark = pytest.mark.usefixtures("trt_backend")


class Model(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = torch.nn.Linear(8, 8), torch.nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = torch.relu(self.first(x))
        return torch.tanh(self.second(torch.cumprod(hidden, 1)))


@pytest.fixture
def model() -> Model:
    return Model().eval()


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randn(3, 8)


def close(compiled: Any, model: Any, x: torch.Tensor) -> bool:
    with torch.no_grad():
        return bool(torch.allclose(compiled(x), model(x), atol=1e-6))


def test_the_model_stays_as_it_was(model: Model, x: torch.Tensor) -> None:
    before = {name: (value.data_ptr(), value.clone()) for name, value in model.state_dict().items()}
    trtcore.compile(model, [x], min_block_size=1)
    for name, value in model.state_dict().items():
        address, copy = before[name]
        assert value.data_ptr() == address
        assert torch.equal(value, copy)


def test_an_exported_program_can_be_compiled_twice(model: Model, x: torch.Tensor) -> None:
    exported = export(model, (x,), dynamic_shapes={"x": {0: Dim("n", min=1, max=9)}}, strict=False)
    nodes = len(exported.graph.nodes)
    for _ in range(2):
        assert close(trtcore.dynamo.compile(exported, min_block_size=1), model, torch.randn(9, 8))
    assert len(exported.graph.nodes) == nodes


@pytest.mark.parametrize("ir", ["dynamo", "default", "torch_compile", "fx", "ts", "torchscript"])
def test_every_ir(model: Model, x: torch.Tensor, ir: str) -> None:
    source: Any = model
    if ir == "fx":
        source = torch.fx.symbolic_trace(model)
    elif ir in ("ts", "torchscript"):
        source = torch.jit.trace(model, x)
    with torch.no_grad():
        compiled = trtcore.compile(source, [x], ir=ir, min_block_size=1)
        assert close(compiled, model, x)


def test_ranges_mean_nothing_to_torch_compile(model: Model) -> None:
    with pytest.raises(InputError, match="from the calls"):
        trtcore.compile(
            model, [trtcore.Input(min_shape=(1, 8), opt_shape=(2, 8), max_shape=(4, 8))], ir="torch_compile"
        )


def test_an_unknown_ir(model: Model, x: torch.Tensor) -> None:
    with pytest.raises(SettingsError, match="torch_compile"):
        trtcore.compile(model, [x], ir="onnx")


def test_what_is_forced_to_torch_stays_there(model: Model, x: torch.Tensor) -> None:
    compiled = trtcore.compile(model, [x], min_block_size=1, torch_executed_ops=["aten.linear"])
    left = {node.op for node in compiled.report.in_torch}
    assert "aten.linear.default" in left
    assert all(
        "torch_executed_ops" in n.reason for n in compiled.report.in_torch if n.op == "aten.linear.default"
    )
    assert close(compiled, model, x)
    compiled = trtcore.compile(model, [x], min_block_size=1, torch_executed_modules=["second"])
    assert [n.module_path for n in compiled.report.in_torch if n.op == "aten.linear.default"] == ["second"]
    assert close(compiled, model, x)


def test_small_segments_go_to_torch_and_the_report_says_so(model: Model, x: torch.Tensor) -> None:
    compiled = trtcore.compile(model, [x], min_block_size=50)
    assert not compiled.report.engines
    assert compiled.report.lost("min_block_size")
    assert "min_block_size=50" in str(compiled.report)
    assert close(compiled, model, x)


def test_explain_builds_nothing(model: Model, x: torch.Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    from trtcore.engine import build

    monkeypatch.setattr(build, "stream_plan", lambda *a, **k: pytest.fail("explain built an engine"))
    monkeypatch.setattr(build, "convert_segment", lambda *a, **k: pytest.fail("explain made a network"))
    report = trtcore.explain(model, [x], min_block_size=1, torch_executed_ops=["aten.relu"])
    assert report.kind == "explain"
    assert [node.op for node in report.in_torch if "torch_executed_ops" in node.reason] == [
        "aten.relu.default"
    ]
    assert json.loads(report.to_json())["totals"]["engines"] == len(report.engines) >= 1
    chosen = next(node for node in report.nodes if node.op == "aten.linear.default")
    assert chosen.converter
    assert chosen.pack.startswith("trtcore:aten")
    assert chosen.source.endswith(str(_line("self.first(x)")))


def test_explain_and_compile_agree(model: Model, x: torch.Tensor) -> None:
    settings = {"min_block_size": 1, "torch_executed_ops": ["aten.relu"]}
    explained, compiled = (
        trtcore.explain(model, [x], **settings),
        trtcore.compile(model, [x], **settings).report,
    )
    assert [(n.op, n.segment, n.reason) for n in explained.nodes] == [
        (n.op, n.segment, n.reason) for n in compiled.nodes
    ]


def test_a_dry_run_converts_and_builds_nothing(model: Model, x: torch.Tensor, tmp_path: pathlib.Path) -> None:
    file = tmp_path / "report.txt"
    compiled = trtcore.compile(model, [x], min_block_size=1, dryrun=str(file))
    assert compiled.report.kind == "dryrun"
    assert all(segment.layers and segment.engine_bytes is None for segment in compiled.report.engines)
    assert file.read_text().strip() == str(compiled.report).strip()
    assert close(compiled, model, x)
    with pytest.raises(SettingsError, match=r"could not be written[^$]*print the module.s report"):
        trtcore.compile(model, [x], dryrun=str(tmp_path / "no" / "such" / "folder"))


def test_one_engine_as_bytes(x: torch.Tensor) -> None:
    model = torch.nn.Sequential(
        torch.nn.Linear(8, 8), torch.nn.ReLU(), torch.nn.Linear(8, 8), torch.nn.Tanh()
    ).eval()
    exported = trtcore.dynamo.trace(
        model, [trtcore.Input(min_shape=(1, 8), opt_shape=(3, 8), max_shape=(9, 8))]
    )
    plan = trtcore.dynamo.convert_exported_program_to_serialized_trt_engine(exported)
    assert isinstance(plan, bytes)
    assert len(plan) > 2 * 8 * 8 * 4
    with pytest.raises(UnsupportedOperatorError, match=r"aten\.relu\.default"):
        trtcore.dynamo.convert_exported_program_to_serialized_trt_engine(
            exported, torch_executed_ops=["aten.relu"]
        )
    with pytest.raises(UnsupportedOperatorError, match="engines"):
        trtcore.dynamo.convert_exported_program_to_serialized_trt_engine(exported, max_segment_size=2)


def test_inputs_by_both_names(model: Model, x: torch.Tensor) -> None:
    exported = trtcore.dynamo.trace(model, [x])
    for call in (trtcore.dynamo.compile, trtcore.dynamo.explain):
        with pytest.raises(InputError, match="not both"):
            call(exported, inputs=[x], arg_inputs=[x])


def test_observers_see_every_stage(model: Model, x: torch.Tensor) -> None:
    seen: list[tuple[str, str]] = []
    trtcore.compile(
        model, [x], min_block_size=1, observers=[lambda event: seen.append((event.stage, event.status))]
    )
    for stage in ("lowering", "partition", "conversion", "build", "assembly"):
        assert (stage, "start") in seen
        assert (stage, "end") in seen
    assert ("build", "progress") in seen


def test_an_observer_that_raises_is_a_warning(model: Model, x: torch.Tensor) -> None:
    def broken(event: Any) -> None:
        raise RuntimeError("no disk")

    with pytest.warns(RuntimeWarning, match="no disk"):
        compiled = trtcore.compile(model, [x], min_block_size=1, observers=[broken])
    assert close(compiled, model, x)


def test_ctrl_c_during_the_build(model: Model, x: torch.Tensor) -> None:
    def interrupt(event: Any) -> None:
        if (event.stage, event.status) == ("build", "progress"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trtcore.compile(model, [x], min_block_size=1, observers=[interrupt])
    assert close(trtcore.compile(model, [x], min_block_size=1), model, x)


def test_passes_can_be_turned_off(model: Model, x: torch.Tensor) -> None:
    class Dropout(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.relu(torch.nn.functional.dropout(torch.relu(x), 0.5, False))

    ops = {node.op for node in trtcore.explain(Dropout().eval(), [x], min_block_size=1).nodes}
    assert ops == {"aten.relu.default"}
    disabled = {"remove_noops", "decompose"}
    ops = {
        n.op for n in trtcore.explain(Dropout().eval(), [x], min_block_size=1, disabled_passes=disabled).nodes
    }
    assert "aten.dropout.default" in ops


def test_compiles_in_several_threads(model: Model) -> None:
    from concurrent.futures import ThreadPoolExecutor

    call = torch.nn.Module.__call__
    rows = [1, 2, 3, 4]
    with ThreadPoolExecutor(4) as pool:
        compiled = list(
            pool.map(lambda n: trtcore.compile(model, [torch.ones(n, 8)], min_block_size=1), rows)
        )
    for count, module in zip(rows, compiled):
        assert close(module, model, torch.ones(count, 8))
    assert torch.nn.Module.__call__ is call  # torch patches it while it traces


def _line(text: str) -> int:
    with open(__file__) as file:
        return next(number for number, line in enumerate(file, 1) if text in line)


@pytest.mark.parametrize("package", ["trtcore", "trtcore.runtime", "trtcore.testing"])
def test_no_name_that_loads_late_is_that_of_a_module_beside_it(package):
    """The first import of such a module would put it in the name's place."""
    module = importlib.import_module(package)
    assert hasattr(module, "__getattr__")
    beside = {found.name for found in pkgutil.iter_modules(module.__path__)}
    for name in beside & set(module.__all__):
        assert isinstance(getattr(module, name), types.ModuleType), f"{package}.{name}"
