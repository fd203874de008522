"""Debugger, replay and compare."""

from __future__ import annotations

import json
import logging
import math
import re
import struct
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import trtcore
from trtcore.debug import check_outputs, compare, replay
from trtcore.engine.request_file import read_request, write_request
from trtcore.errors import ArtifactError, InputError
from trtcore.pack import converter, scoped_registry

pytestmark = pytest.mark.usefixtures("trt_backend")


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(8, 8) for _ in range(4)])
        self.norm = nn.LayerNorm(8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for index, layer in enumerate(self.layers):
            x = layer(x).relu()
            if index == 2:
                x = torch.tanh(self.norm(x))
        return x


X = torch.randn(2, 8)
BATCH = trtcore.Input(min_shape=(1, 8), opt_shape=(2, 8), max_shape=(4, 8))


@pytest.fixture
def net() -> nn.Module:
    return Net().eval()


def wrong(ctx: Any, self: Any) -> Any:
    """tanh as a sigmoid."""
    return ctx.net.add_activation(self, ctx.trt.ActivationType.SIGMOID).get_output(0)


def compiled_with(function: Any, model: nn.Module, **settings: Any) -> Any:
    converter(torch.ops.aten.tanh.default, supports_dynamic_shapes=True)(function)
    return trtcore.compile(model, [BATCH], min_block_size=1, **settings)


# ---- compare -----------------------------------------------------------------------------------------------


def test_a_model_that_agrees_takes_one_build(net: nn.Module) -> None:
    found = compare(net, [X])
    assert found.agrees
    assert found.builds == 1
    assert "agree" in str(found)


def test_the_first_node_that_diverges_is_found_by_bisection(net: nn.Module) -> None:
    with scoped_registry():
        converter(torch.ops.aten.tanh.default, supports_dynamic_shapes=True)(wrong)
        found = compare(net, [X])
    assert (found.node, found.op, found.converter, found.pack) == (
        "tanh",
        "aten.tanh.default",
        "wrong",
        "process",
    )
    assert found.source.endswith(f"test_debug.py:{_line('x = torch.tanh')}")
    assert found.builds <= math.log2(found.nodes) + 2
    assert found.error > 0.1
    assert all(step.diverges == (step.error > found.tolerance) for step in found.steps)
    text = str(found)
    assert "tanh (aten.tanh.default)" in text
    assert "wrong of process" in text


@pytest.mark.parametrize("which", [0, 3])
def test_the_ends_of_a_model_are_found_too(which: int) -> None:
    ops = [torch.tanh if index == which else torch.sin for index in range(4)]

    class Chain(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for op in ops:
                x = op(x)
            return x

    with scoped_registry():
        converter(torch.ops.aten.tanh.default, supports_dynamic_shapes=True)(wrong)
        found = compare(Chain(), [X])
    assert found.node == "tanh"
    assert found.builds <= math.log2(found.nodes) + 2


def test_lower_precisions_have_their_own_tolerance(net: nn.Module) -> None:
    found = compare(net, [X], enable_autocast=True, autocast_low_precision_type=torch.float16)
    assert found.agrees
    assert found.error > 1e-6
    strict = compare(
        net, [X], enable_autocast=True, autocast_low_precision_type=torch.float16, tolerance=1e-9
    )
    assert not strict.agrees
    assert strict.module_path == "layers.0"


def test_the_curve_has_the_error_of_every_node_and_is_drawn(net: nn.Module) -> None:
    with scoped_registry():
        converter(torch.ops.aten.tanh.default, supports_dynamic_shapes=True)(wrong)
        found = compare(net, [X], curve=True)
    plain = compare(net, [X], curve=True)
    names = [point.node for point in found.curve]
    assert len(names) == found.nodes
    at = names.index("tanh")
    assert all(point.error <= found.tolerance for point in (*found.curve[:at], *plain.curve))
    assert found.curve[at].error > 0.1
    assert found.curve[at].source.endswith(f"test_debug.py:{_line('x = torch.tanh')}")
    assert found.builds == len(found.steps) + 1
    page = found.html()
    assert page.count("<circle") == len(names)
    assert page.count('class="first"') == 1
    assert plain.html().count("class=over") == 0
    assert "wrong of process" in page
    assert "<script" not in page
    assert "http" not in page
    assert "<svg" not in compare(net, [X]).html()


class Gives(nn.Module):
    """Returns what it is given, in a structure."""

    def forward(self, x: torch.Tensor) -> dict[str, object]:
        return {"a": [x, x > 0], "b": x.log()}


@pytest.mark.parametrize(
    ("x", "told"),
    [
        ([1.0, 2.0], []),
        ([1.0, -1.0], [r"the output \['b'\] has 1 of 2 elements that are not finite \(1 of them NaN\)"]),
        ([1.0, 0.0], [r"\['b'\] has 1 of 2 elements that are not finite \(0 of them NaN\)"]),
        ([1.0, 1.0], [r"\['b'\] is zero in all its 2 elements"]),
        ([1.0, float("nan")], []),  # as it came
    ],
)
def test_the_results_of_one_call_are_looked_at(x: list[float], told: list[str]) -> None:
    given = torch.tensor(x)
    compiled = trtcore.compile(Gives(), [torch.ones(2)], min_block_size=1)
    for module in (compiled, Gives()):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            check_outputs(module)(given)
            module(given)
        texts = [str(one.message) for one in caught if "the first call" in str(one.message)]
        assert len(texts) == len(told)
        for text, pattern in zip(texts, told):
            assert re.search(pattern, text)
            assert "trtcore.debug.compare" in text


def test_what_is_no_module_has_no_results_to_look_at() -> None:
    with pytest.raises(InputError, match="takes a module, not int"):
        check_outputs(3)  # type: ignore[type-var]


def test_what_cannot_be_compared_is_refused() -> None:
    with pytest.raises(InputError, match="no floating-point output"):
        compare(nn.Flatten(), [torch.ones(2, 3, dtype=torch.int64)])

    class Counts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("count", torch.zeros(1))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.count += 1
            return x * self.count

    with pytest.raises(InputError, match="neither buffers nor inputs"):
        compare(Counts(), [X])


# ---- Debugger ----------------------------------------------------------------------------------------------


def test_a_failing_request_is_kept_and_replayed(net: nn.Module, tmp_path: Path) -> None:
    def failing(ctx: Any, self: Any) -> Any:
        raise ValueError("not today")

    with scoped_registry(), trtcore.Debugger(tmp_path):
        compiled = compiled_with(failing, net)
        assert compiled.report.quarantined
        (file,) = (tmp_path / "0" / "requests").iterdir()
        again = replay(file)
    assert (again.kind, again.artifact) == ("node", None)
    assert "not today" in str(again.error)
    with pytest.raises(trtcore.errors.SettingsError, match="which a script defined"):
        replay(file)


def test_all_requests_without_weights_build_again(net: nn.Module, tmp_path: Path) -> None:
    with trtcore.Debugger(tmp_path, requests="all", weights=False):
        trtcore.compile(
            net, [BATCH], min_block_size=1, enabled_precisions={"float16"}, use_explicit_typing=False
        )
    (file,) = (tmp_path / "0" / "requests").iterdir()
    assert file.stat().st_size < 60_000
    assert _secret(net) not in file.read_bytes()
    again = replay(file)
    assert again.artifact is not None
    assert again.artifact.manifest.inputs[0].profile == ((1, 8), (2, 8), (4, 8))


def test_a_request_with_its_weights_gives_the_same_engine(net: nn.Module, tmp_path: Path) -> None:
    with trtcore.Debugger(tmp_path, requests="all", graphs=False, layers=False):
        compiled = trtcore.compile(net, [X], min_block_size=1)
    file = tmp_path / "0" / "requests" / "engine_0.request"
    assert _secret(net) in file.read_bytes()
    artifact = replay(file).artifact
    assert artifact is not None
    assert [one.name for one in artifact.layers()] == [
        layer.split(" ", 1)[1] for n in compiled.report.nodes for layer in n.layers
    ]
    assert sorted(p.name for p in (tmp_path / "0").iterdir()) == [
        "report.html",
        "report.json",
        "report.txt",
        "requests",
    ]


def test_the_folder_has_graphs_layers_a_report_and_a_log(net: nn.Module, tmp_path: Path) -> None:
    logger = logging.getLogger("trtcore")
    before = (logger.level, list(logger.handlers))
    for _ in range(2):
        with trtcore.Debugger(tmp_path):
            trtcore.compile(net, [X], min_block_size=1)
    assert (logger.level, list(logger.handlers)) == before
    assert sorted(one.name for one in tmp_path.iterdir()) == ["0", "1", "log.txt"]
    graphs = sorted(one.name for one in (tmp_path / "0" / "graphs").iterdir())
    assert graphs[0] == "00-captured.txt"
    layers = json.loads((tmp_path / "0" / "layers" / "engine_0.json").read_text())["layers"]
    assert {"MATRIX_MULTIPLY", "ACTIVATION"} <= {one["type"] for one in layers}
    assert any(one["node"] == "tanh" for one in layers)
    log = (tmp_path / "log.txt").read_text()
    assert "build end in" in log
    assert log.count("lowering start") == 2
    trtcore.compile(net, [X], min_block_size=1)
    assert (tmp_path / "log.txt").read_text() == log


def test_arguments_of_the_debugger_are_checked(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="'failed', 'all', 'none'"):
        trtcore.Debugger(tmp_path, requests="some")
    with pytest.raises(InputError, match="log_level"):
        trtcore.Debugger(tmp_path, log_level="loud")
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"), trtcore.Debugger(tmp_path / "file"):
        pass


# ---- the file of a request ---------------------------------------------------------------------------------


@pytest.fixture
def document(net: nn.Module, tmp_path: Path) -> tuple[Path, dict[str, Any], bytes]:
    with trtcore.Debugger(tmp_path, requests="all", graphs=False, layers=False):
        trtcore.compile(net, [BATCH], min_block_size=1)
    file = tmp_path / "0" / "requests" / "engine_0.request"
    raw = file.read_bytes()
    (size,) = struct.unpack("<Q", raw[:8])
    header = json.loads(raw[8 : 8 + size])
    return file, header, raw[8 + size :]


def _rewritten(file: Path, header: dict[str, Any], data: bytes, change: Any) -> None:
    document = json.loads(header["__metadata__"]["trtcore_request"])
    change(document)
    header["__metadata__"]["trtcore_request"] = json.dumps(document)
    text = json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text + data)


def _op(document: Any, value: Any) -> None:
    node = next(one for one, _ in document["graph"]["nodes"] if one[0] == "call_function")
    node[2] = value


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: _op(d, ["op", "aten.from_file.default"]), "may not be run"),
        (lambda d: _op(d, ["function", "os.system"]), "calls"),
        (
            lambda d: d["graph"]["converters"]["tanh"].update(distribution="", module="antigravity"),
            "not imported",
        ),
        (lambda d: d.update(name="x=open('f','w')"), "name"),
        (lambda d: d.update(conditions=["__import__('os')"]), ""),
        (lambda d: d["ranges"].update({"s77": [1, "2", 3, []]}), "size"),
        (lambda d: d.update(storages=[10**30]), "size"),
        (lambda d: d.pop("graph"), "damaged"),
        (lambda d: d.update(format=99), "format 99"),
        (lambda d: d["settings"].update(no_such=1), "no setting"),
    ],
)
def test_a_hostile_request_is_refused(document: Any, change: Any, message: str) -> None:
    file, header, data = document
    _rewritten(file, header, data, change)
    with pytest.raises(ArtifactError, match=message):
        read_request(file)


def test_what_is_no_request_is_refused(tmp_path: Path) -> None:
    for content in (b"", b"nonsense", struct.pack("<Q", 1 << 40)):
        (tmp_path / "x").write_bytes(content)
        with pytest.raises(ArtifactError, match="no request"):
            read_request(tmp_path / "x")
    with pytest.raises(ArtifactError, match="no request"):
        read_request(tmp_path / "missing")


def test_a_request_read_back_is_written_again(document: Any, tmp_path: Path) -> None:
    file, _, _ = document
    write_request(read_request(file), tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == file.read_bytes()


def _secret(net: nn.Module) -> bytes:
    return net.layers[0].weight.detach().numpy().tobytes()  # type: ignore[union-attr, index]


def _line(text: str) -> int:
    return next(n for n, line in enumerate(Path(__file__).read_text().splitlines(), 1) if text in line)
