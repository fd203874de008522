"""build_isolation="process": a crash is an error with a reason, and everything else is as in a thread."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import crashing_converters as bad
import pytest
import torch
from torch import Tensor

import trtcore
from trtcore.errors import ConversionError, EngineBuildError, SettingsError
from trtcore.pack import converter

aten = torch.ops.aten
pytestmark = pytest.mark.usefixtures("trt_backend")

X = torch.linspace(-1, 1, 128).reshape(1, 2, 8, 8)


@pytest.fixture(autouse=True)
def _scope() -> Iterator[None]:
    with trtcore.scoped_registry():
        yield


class Block(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = torch.nn.Linear(8, 8)
        self.second = torch.nn.Linear(8, 8)
        self.second.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        y = torch.special.bessel_j0(self.first(x).relu().tanh() * 0.5)
        return self.second(y).exp()


def compiled(model: torch.nn.Module, inputs: Any, *calls: Tensor, **settings: Any) -> Any:
    settings = {"min_block_size": 1, "build_isolation": "process", **settings}
    module = trtcore.compile(model, inputs, **settings)
    for x in calls:
        with torch.no_grad():
            torch.testing.assert_close(module(x), model(x), rtol=1e-5, atol=1e-5)
    return module


@pytest.fixture
def temporary(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder for temporary files of this test alone."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


@pytest.mark.slow
def test_several_segments_in_one_child(monkeypatch: pytest.MonkeyPatch, temporary: Path) -> None:
    """With TensorRT's progress for observers here, and the weights of the model itself."""
    from trtcore.engine.builders import ProcessBuilder

    started: list[Any] = []
    start = ProcessBuilder._start
    monkeypatch.setattr(ProcessBuilder, "_start", lambda self: (started.append(self), start(self)))
    seen: list[Any] = []
    model = Block().eval()
    module = compiled(model, [X], X, observers=[seen.append])
    assert len(module.report.engines) == 2
    assert len(started) == 1
    steps = [event for event in seen if event.stage == "build" and event.status == "progress"]
    assert steps
    assert {"segment", "phase", "step", "steps"} <= set(steps[0].data)
    assert not list(temporary.glob("trtcore-*"))
    assert all(engine.layers and engine.engine_bytes for engine in module.report.engines)
    # Each engine owns its weights: what is done to the model later changes neither.
    from trtcore.artifact.manifest import EngineManifest
    from trtcore.runtime.engine import get_engine

    for node in module.graph.nodes:
        if node.name.startswith("engine_") and "execute_engine" in str(node.target):
            artifact = get_engine(EngineManifest.from_json(node.args[3]).id).artifact
            (weight,) = (
                t for layer in artifact.snapshot.layers for t in layer.constants.values() if t.numel() == 64
            )
            assert weight.untyped_storage().data_ptr() == artifact.container.untyped_storage().data_ptr()
            assert torch.equal(weight.reshape(8, 8), model.first.weight)
            (record,) = (w for w in artifact.manifest.weights if w.name.endswith("weight"))
            assert record.name in ("first.weight", "second.weight")
            assert record.transform == ("memory", 0)


class Shapes(torch.nn.Module):
    """Symbols in shapes, sizes and outputs; bf16 and integer constants; several outputs of one op."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("table", torch.arange(12, dtype=torch.int64).reshape(3, 4).t())
        self.register_buffer("scale", torch.linspace(0, 1, 4).to(torch.bfloat16))

    def forward(self, x: Tensor) -> Any:
        values, indices = torch.topk(x, 2, dim=1)
        row = torch.arange(x.shape[0] * 2) + self.table[1, 2]
        a, b = torch.split(x.reshape(x.shape[0] * 2, 2), 1, dim=1)
        return values * 2, indices, row, a + b, x.to(torch.bfloat16) * self.scale


@pytest.mark.slow
def test_dynamic_shapes_and_all_kinds_of_constants() -> None:
    spec = [trtcore.Input(min_shape=(1, 4), opt_shape=(3, 4), max_shape=(8, 4))]
    module = compiled(Shapes().eval(), spec, *(torch.randn(n, 4) for n in (1, 3, 8)))
    assert module.report.fully_converted


@pytest.mark.slow
def test_a_saved_module_and_its_reload(tmp_path: Any) -> None:
    model = Block().eval()
    module = compiled(model, [X])
    trtcore.save(module, tmp_path / "block.pt2", inputs=[X])
    with torch.no_grad():
        torch.testing.assert_close(trtcore.load(tmp_path / "block.pt2")(X), model(X), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("body", "how"),
    [
        (bad.segfaults, "SIGSEGV"),
        pytest.param(bad.aborts, "SIGABRT", marks=pytest.mark.slow),
        pytest.param(bad.exits, "exit code 3", marks=pytest.mark.slow),
        (bad.raises, "KeyError"),
    ],
    ids=["segfault", "abort", "exit", "exception"],
)
def test_a_crashing_converter_is_quarantined(body: Callable[..., Any], how: str) -> None:
    converter(aten.special_bessel_j0.default)(body)
    module = compiled(Block().eval(), [X], X)
    (item,) = module.report.quarantined
    assert item.node == "special_bessel_j0"
    assert how in item.reason
    assert body.__name__ in item.reason
    assert len(module.report.engines) == 2


@pytest.mark.slow
def test_a_crashing_converter_is_an_error_when_asked() -> None:
    converter(aten.special_bessel_j0.default)(bad.segfaults)
    with pytest.raises(ConversionError, match="SIGSEGV") as caught:
        compiled(Block().eval(), [X], pass_through_build_failures=True)
    assert "aten.special_bessel_j0.default" in str(caught.value)
    assert "test_isolation.py" in str(caught.value)


@pytest.mark.slow
def test_a_crash_of_tensorrt_is_quarantined() -> None:
    converter(aten.special_bessel_j0.default)(bad.crashes_the_builder)
    module = compiled(Block().eval(), [X], X)
    assert [item.node for item in module.report.quarantined] == ["special_bessel_j0"]
    assert "alone" in module.report.quarantined[0].reason
    assert "crashed" in module.report.quarantined[0].reason
    assert "SIGSEGV" in module.report.quarantined[0].reason


@pytest.mark.slow
def test_a_crash_of_tensorrt_is_an_error_when_asked() -> None:
    converter(aten.special_bessel_j0.default)(bad.crashes_the_builder)
    with pytest.raises(EngineBuildError, match=r"TensorRT crashed.*SIGSEGV"):
        compiled(Block().eval(), [X], require_full_compilation=True)


@pytest.mark.slow
def test_a_refused_build_is_quarantined() -> None:
    converter(aten.special_bessel_j0.default)(bad.strided_and_dilated)
    module = compiled(Block().eval(), [X], X)
    (item,) = module.report.quarantined
    assert any("Deconv" in line for line in item.tensorrt)


@pytest.mark.slow
def test_what_a_converter_prints_is_not_an_answer() -> None:
    converter(aten.special_bessel_j0.default)(bad.prints)
    module = trtcore.compile(Block().eval(), [X], min_block_size=1, build_isolation="process")
    assert module.report.fully_converted


def test_a_converter_that_cannot_be_sent_is_refused() -> None:
    def local(ctx: Any, x: Any) -> Any:
        return x

    with pytest.raises(SettingsError, match=r"local.*aten\.special_bessel_j0\.default") as caught:
        compiled(Block().eval(), [X], converters={aten.special_bessel_j0.default: local})
    assert "module" in str(caught.value)


@pytest.mark.slow  # test_transport.py looks at what is sent of it
def test_a_call_site_converter_of_a_module() -> None:
    with pytest.raises(ConversionError, match="no such table"):
        compiled(
            Block().eval(),
            [X],
            converters={aten.special_bessel_j0.default: bad.raises},
            pass_through_build_failures=True,
        )


@pytest.mark.slow
def test_a_script_without_a_main_guard() -> None:
    """Multiprocessing's spawn would run the script again in the child."""
    script = """
        import torch, trtcore
        print("start")
        model, x = torch.nn.Linear(4, 4).eval(), torch.ones(2, 4)
        compiled = trtcore.compile(model, [x], min_block_size=1, build_isolation="process")
        assert torch.allclose(compiled(x), model(x)) and compiled.report.fully_converted
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "start\n"


@pytest.mark.slow
def test_ctrl_c_ends_the_child(monkeypatch: pytest.MonkeyPatch, temporary: Path) -> None:
    from trtcore.engine.builders import ProcessBuilder

    children: list[Any] = []
    real = ProcessBuilder.build

    def interrupted(self: Any, *arguments: Any, **options: Any) -> Any:
        real(self, *arguments, **options)
        children.append(self.child)
        raise KeyboardInterrupt

    monkeypatch.setattr(ProcessBuilder, "build", interrupted)
    with pytest.raises(KeyboardInterrupt):
        compiled(Block().eval(), [X])
    assert children[0].poll() is not None
    assert not list(temporary.glob("trtcore-*"))
