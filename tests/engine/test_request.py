"""EngineRequest: what decides an engine, as a value that pickles, and its key."""

from __future__ import annotations

import importlib
import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import crashing_converters as bad
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import trtcore
from trtcore import compiler
from trtcore.artifact.engine_file import EngineArtifact
from trtcore.engine.build import Failure, build_engine
from trtcore.engine.key import _Names, function_hash, package_hash
from trtcore.engine.request import ConverterReference, EngineRequest, WeightFile, define_ops, request_of
from trtcore.errors import SettingsError
from trtcore.frontend.export import program_from_exported, trace
from trtcore.ir.graph_data import NodeRef, OpRef
from trtcore.ir.program import SymbolRange
from trtcore.ir.tensor_bytes import bytes_of
from trtcore.pack import converter
from trtcore.packs.loading import build_registry
from trtcore.packs.model import Converter, PackInfo, Scope
from trtcore.runtime.engine import Engine
from trtcore.settings import CompilationSettings

pytestmark = pytest.mark.usefixtures("trt_backend")
relu = torch.ops.aten.relu.default


@pytest.fixture(autouse=True)
def _scope() -> Iterator[None]:
    with trtcore.scoped_registry():
        yield


def request_for(model: nn.Module, inputs: Any, **options: Any) -> EngineRequest:
    """The request of a model that becomes one engine."""
    program = program_from_exported(trace(model.eval(), inputs), inputs, None)
    ctx = compiler.make_context(CompilationSettings.from_kwargs(min_block_size=1, **options))
    lowered, parts = compiler._partition(
        compiler.lower(program.with_weight_names(), ctx, ctx.selections), ctx, {}
    )
    (segment,) = parts.segments
    return request_of(
        segment,
        parts.selections,
        lowered.symbols,
        ctx,
        conditions=lowered.conditions,
        weight_names=lowered.weight_names,
    )


class Net(nn.Module):
    """Named differently, the same engine."""

    def __init__(
        self, weight: Tensor, op: Callable[[Tensor], Tensor] = torch.relu, name: str = "first"
    ) -> None:
        super().__init__()
        layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
        layer.weight = nn.Parameter(weight.clone())
        self.add_module(name, layer)
        self.name, self.op = name, op

    def forward(self, x: Tensor) -> Tensor:
        return self.op(getattr(self, self.name)(x)) * 2.0


W = torch.linspace(-1, 1, 32).reshape(4, 8)
BATCH = trtcore.Input(min_shape=(1, 8), opt_shape=(2, 8), max_shape=(6, 8))


def run(artifact: EngineArtifact | Failure | None, *inputs: Tensor) -> Tensor:
    assert isinstance(artifact, EngineArtifact)
    return Engine(artifact).run(inputs)[0]


@pytest.mark.parametrize("weights", ["inline", "mapped"])
def test_a_request_that_crossed_a_pickle_builds_the_same_engine(weights: str, tmp_path: Any) -> None:
    model = Net(W)
    request = request_for(model, [BATCH])
    file = WeightFile(str(tmp_path / "weights")) if weights == "mapped" else None
    crossed = pickle.loads(pickle.dumps(request.detached(file)))
    assert crossed.segment is None
    artifact = build_engine(crossed, build_registry(crossed.settings))
    for batch in (1, 2, 5):
        x = torch.randn(batch, 8)
        torch.testing.assert_close(run(artifact, x), model(x))
    assert crossed.key() == request.key()


def test_a_request_without_its_weights_is_small_and_cannot_be_built() -> None:
    request = request_for(Net(torch.randn(512, 512)), [torch.randn(2, 512)])
    small = pickle.dumps(request.without_weights())
    assert len(small) < 32_000
    assert len(pickle.dumps(request)) > 512 * 512 * 4
    with pytest.raises(ValueError, match="without its weights"):
        build_engine(pickle.loads(small), build_registry(request.settings))


@pytest.mark.models
def test_bert_base_is_under_a_mebibyte_without_weights() -> None:
    transformers = pytest.importorskip("transformers")
    model = transformers.BertModel(transformers.BertConfig(), add_pooling_layer=False).eval()
    ids = trtcore.Input(min_shape=(1, 8), opt_shape=(2, 16), max_shape=(4, 32), dtype=torch.int64)
    assert len(pickle.dumps(request_for(model, [ids]).without_weights())) < 1 << 20


@pytest.mark.slow
def test_the_key_is_the_same_in_another_process() -> None:
    here = request_for(Net(W), [BATCH]).key()
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "import torch, test_request as t\n"
        "print(t.request_for(t.Net(t.W, name='elsewhere'), [t.BATCH]).key())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, os.path.dirname(__file__)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONHASHSEED": "7"},
    )
    assert done.stdout.split()[-1] == here


def test_names_do_not_count() -> None:
    assert request_for(Net(W), [BATCH]).key() == request_for(Net(W, name="another"), [BATCH]).key()


class Shapes(nn.Module):
    def __init__(self, dim: int = 1, scale: float = 2.0, swap: bool = False) -> None:
        super().__init__()
        self.dim, self.scale, self.swap = dim, scale, swap

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        a, b = (y, x) if self.swap else (x, y)
        return torch.softmax(a - b, self.dim) * self.scale


def pair(low: int = 1, high: int = 6, dtype: torch.dtype = torch.float32) -> list[Any]:
    x = trtcore.Input(min_shape=(low, 8), opt_shape=(2, 8), max_shape=(high, 8), dtype=dtype)
    return [x, torch.zeros(8, dtype=dtype)]


def test_whatever_decides_an_engine_changes_the_key() -> None:
    """Argument, edge, constant, weight, dtype, shape, range, setting, target, op, converter."""

    def mine(ctx: Any, x: Any) -> Any:
        return ctx.activation(x, "RELU")

    bent = W.clone()
    bent[2, 3] = torch.nextafter(bent[2, 3], torch.tensor(9.0))
    requests = {
        "base": request_for(Shapes(), pair()),
        "argument": request_for(Shapes(dim=0), pair()),
        "constant": request_for(Shapes(scale=2.5), pair()),
        "sign of a constant": request_for(Shapes(scale=-2.5), pair()),
        "edge": request_for(Shapes(swap=True), pair()),
        "dtype": request_for(Shapes(), pair(dtype=torch.float16)),
        "range": request_for(Shapes(), pair(high=7)),
        "least": request_for(Shapes(), pair(low=2)),
        "static": request_for(Shapes(), [torch.zeros(2, 8), torch.zeros(8)]),
        "shape": request_for(Shapes(), [torch.zeros(3, 8), torch.zeros(8)]),
        "setting": request_for(Shapes(), pair(), disable_tf32=True),
        "level": request_for(Shapes(), pair(), optimization_level=1),
        "target": request_for(Shapes(), pair(), device="sm_89"),
        "weight": request_for(Net(W), [BATCH]),
        "one bit of a weight": request_for(Net(bent), [BATCH]),
        "op": request_for(Net(W, torch.tanh), [BATCH]),
        "converter": request_for(
            Net(W), [BATCH], converters={relu: Converter(relu, mine, supports_dynamic_shapes=True)}
        ),
    }
    keys = {name: request.key() for name, request in requests.items()}
    assert len(set(keys.values())) == len(keys), keys


def test_settings_that_decide_nothing_do_not_count() -> None:
    one = request_for(Net(W), [BATCH]).key()
    assert request_for(Net(W), [BATCH], max_quarantine_builds=3, build_isolation="process").key() == one


def test_the_code_of_a_converter_is_in_the_key() -> None:
    def with_(body: str) -> str:
        names: dict[str, Any] = {"__name__": "edited"}
        exec(f"def helper(ctx, x):\n    return {body}\ndef mine(ctx, x):\n    return helper(ctx, x)\n", names)
        with trtcore.scoped_registry():
            converter(relu, supports_dynamic_shapes=True)(names["mine"])
            return request_for(Net(W), [BATCH]).key()

    relu_twice = with_("ctx.activation(x, 'RELU')"), with_("ctx.activation(x, 'RELU')")
    assert relu_twice[0] == relu_twice[1]
    assert with_("ctx.activation(x, 'TANH')") != relu_twice[0]


def test_refittable_engines_are_keyed_by_the_structure_of_their_weights() -> None:
    def refittable(weight: Tensor) -> EngineRequest:
        request = request_for(Net(weight), [BATCH])
        object.__setattr__(request.settings, "immutable_weights", False)
        return request

    same = [refittable(weight).key() for weight in (W, W * 2)]
    assert same[0] == same[1]
    assert request_for(Net(W), [BATCH]).key() != request_for(Net(W * 2), [BATCH]).key()


OPS = [
    torch.relu,
    torch.tanh,
    torch.sigmoid,
    torch.exp,
    torch.abs,
    lambda x: x + 1,
    lambda x: x + 2.0,
    lambda x: x * x,
]


class Chain(nn.Module):
    def __init__(self, picks: tuple[int, ...]) -> None:
        super().__init__()
        self.picks = picks

    def forward(self, x: Tensor) -> Tensor:
        for pick in self.picks:
            x = OPS[pick](x)
        return x


_seen: dict[str, tuple[int, ...]] = {}


@settings(max_examples=25)
@given(st.lists(st.integers(0, len(OPS) - 1), min_size=1, max_size=4).map(tuple))
def test_different_programs_never_share_a_key(picks: tuple[int, ...]) -> None:
    key = request_for(Chain(picks), [torch.zeros(2, 3)]).key()
    assert _seen.setdefault(key, picks) == picks


_NUMBERS = st.sampled_from([1.0, 1, True, -1.0, 0.0, -0.0, 2.5, float("inf"), float("nan"), 1e-300])
_VARIATIONS = st.fixed_dictionaries(
    {},
    optional={
        "dim": st.sampled_from([0, 1]),
        "scale": _NUMBERS,
        "swap": st.booleans(),
        "low": st.integers(1, 2),
        "high": st.integers(5, 7),
        "dtype": st.sampled_from([torch.float32, torch.float16, torch.bfloat16]),
        "rows": st.integers(2, 3),
        "option": st.sampled_from(["disable_tf32", "sparse_weights"]),
        "level": st.integers(0, 2),
        "device": st.sampled_from(["sm_80", "sm_89"]),
        # Not what is installed: the default is that.
        "backend_version": st.sampled_from(["0.1", "0.2"]),
        "pack_version": st.sampled_from(["1", "2"]),
        "name": st.sampled_from(["x", "y"]),
    },
)
_DEFAULTS: dict[str, Any] = {
    "dim": 1, "scale": 2.0, "swap": False, "low": 1, "high": 6, "dtype": torch.float32, "rows": 0, "option": "",
    "level": None, "device": None, "backend_version": "", "pack_version": "",
}  # fmt: skip


def varied(given: dict[str, Any]) -> EngineRequest:
    """The request of `Shapes` with some things changed; `name` is of a node, which does not count."""
    what = {**_DEFAULTS, **given}
    inputs = pair(what["low"], what["high"], what["dtype"])
    if what["rows"]:
        inputs[0] = torch.zeros(what["rows"], 8, dtype=what["dtype"])
    options = {name: what[name] for name in ("device",) if what[name]}
    options |= {what["option"]: True} if what["option"] else {}
    options |= {} if what["level"] is None else {"optimization_level": what["level"]}
    request = request_for(Shapes(what["dim"], what["scale"], what["swap"]), inputs, **options)
    if what["backend_version"]:
        request.backend_version = what["backend_version"]
    return changed_data(request, what["pack_version"], what.get("name", ""))


def changed_data(request: EngineRequest, version: str, prefix: str) -> EngineRequest:
    """Another version of every pack, and other names of nodes, than are installed and captured here."""
    if not version and not prefix:
        return request
    detached = request.detached()
    data = detached._graph
    names = {node.name: prefix + node.name for node in data.nodes}

    def renamed(value: Any) -> Any:
        if isinstance(value, NodeRef):
            return NodeRef(names[value.name])
        if isinstance(value, (list, tuple)):
            return type(value)(map(renamed, value))
        return {k: renamed(v) for k, v in value.items()} if isinstance(value, dict) else value

    nodes = tuple(
        replace(node, name=names[node.name], args=renamed(node.args), kwargs=renamed(node.kwargs))
        for node in data.nodes
    )
    converters = {
        names[name]: replace(one, version=version) if version else one
        for name, one in data.converters.items()
    }
    return detached._with_graph(replace(data, nodes=nodes, converters=converters))


_by_key: dict[str, Any] = {}
_by_variation: dict[Any, str] = {}


@settings(max_examples=25)
@given(_VARIATIONS)
def test_requests_share_a_key_exactly_if_they_differ_in_names_alone(given: dict[str, Any]) -> None:
    what = {**_DEFAULTS, **given, "name": None}
    if what["rows"]:  # a static shape has no range
        what |= {"low": None, "high": None}
    told = tuple((name, repr(value)) for name, value in sorted(what.items()))
    key = varied(given).key()
    assert _by_key.setdefault(key, told) == told
    assert _by_variation.setdefault(told, key) == key


def test_a_condition_is_in_the_key_whatever_its_symbols_are_called() -> None:
    """A symbol that has the name which another gets in the key is not taken for it."""

    def key(first: str, second: str, condition: str) -> str:
        ranges = {name: SymbolRange(name, 1, 2, 6 + number) for number, name in enumerate((first, second))}
        names = _Names(ranges, ())
        for name in (first, second):
            names.symbol(name)
        return names.condition(condition)

    assert key("a", "b", "a < b") == key("d1", "d0", "d1 < d0") == key("s1", "s12", "s1 < s12")
    assert key("a", "b", "a < b") != key("d1", "d0", "d0 < d1")


HELPERS = """
import functools
def helper(ctx, x):
    return {body}
class Helper:
    @staticmethod
    def make(ctx, x):
        return helper(ctx, x)
@functools.lru_cache
def cached(kind):
    return {kind!r}
"""
CALLS = [
    "def mine(ctx, x):\n    return Helper.make(ctx, x)",
    "def mine(ctx, x):\n    return ctx.activation(x, cached(0))",
    "import edited_helpers\ndef mine(ctx, x):\n    return edited_helpers.helper(ctx, x)",
]


@pytest.mark.parametrize("call", CALLS, ids=["class", "cached", "module"])
def test_what_a_converter_calls_is_in_the_key(
    call: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through a class, behind a cache, in another module."""
    monkeypatch.syspath_prepend(str(tmp_path))
    kinds = {}
    for kind in ("RELU", "TANH"):
        text = HELPERS.format(body=f"ctx.activation(x, {kind!r})", kind=kind)
        (tmp_path / "edited_helpers.py").write_text(text)
        package_hash.cache_clear()
        importlib.invalidate_caches()
        sys.modules.pop("edited_helpers", None)
        names: dict[str, Any] = {"__name__": "edited"}
        exec(text + call, names)
        kinds[kind] = function_hash(names["mine"])
    assert kinds["RELU"] != kinds["TANH"]


# ---- other processes ----------------------------------------------------------------------------------------


def test_an_op_that_the_building_process_lacks_is_registered_by_its_schema() -> None:
    schema = "request_test::scaled.out_of(Tensor x, float by=2., *, int? n=None) -> (Tensor, Tensor)"
    define_ops([OpRef("request_test.scaled.out_of", schema)])
    assert str(torch.ops.request_test.scaled.out_of._schema) == schema


@torch.library.custom_op("request_test::put_", mutates_args=("cache",))
def put_(cache: Tensor, x: Tensor) -> None:
    cache.copy_(x)


@torch.library.custom_op("request_test::sub_", mutates_args=("cache",))
def sub_(cache: Tensor, x: Tensor) -> None:
    cache.sub_(x)


def assigned(ctx: Any, op: Any, *, cache: Any, x: Any) -> Any:
    """Of ``put_``: its result, and what it has written."""
    return None, x


class Puts(nn.Module):
    def __init__(self, op: Any) -> None:
        super().__init__()
        self.op = op

    def forward(self, x: Tensor) -> Tensor:
        cache = torch.zeros(2, 8)
        self.op(cache, x)
        return cache.relu()


def test_an_op_that_a_node_is_given_crosses_like_one_that_it_calls() -> None:
    """``auto_functionalized(op, ...)``: by name and schema, in the key, and missing where nothing registers it."""
    converter(torch.ops.higher_order.auto_functionalized)(assigned)
    request = request_for(Puts(torch.ops.request_test.put_), [torch.randn(2, 8)])
    sent = pickle.dumps(request.detached(None))
    crossed = pickle.loads(sent)
    assert crossed.missing_ops == ()
    assert crossed.key() == request.key()
    assert request_for(Puts(torch.ops.request_test.sub_), [torch.randn(2, 8)]).key() != request.key()
    x = torch.randn(2, 8)
    artifact = build_engine(crossed, build_registry(crossed.settings))
    torch.testing.assert_close(run(artifact, x), x.relu())
    unknown = pickle.loads(sent.replace(b"request_test.put_.default", b"request_test.got_.default"))
    assert [op.name for op in unknown.missing_ops] == ["request_test.got_.default"]


def chosen(pack: PackInfo | None, scope: Scope, function: Any = bad.prints) -> ConverterReference:
    return ConverterReference.of(Converter(relu, function, name="c", pack=pack, scope=scope), relu)


def test_converters_of_installed_packs_go_by_pack_and_others_by_module() -> None:
    installed = chosen(PackInfo("acme", "1", "ops", value="acme.pack"), Scope.THIRD_PARTY)
    assert (installed.distribution, installed.version, installed.pack, installed.module) == (
        "acme",
        "1",
        "ops",
        "",
    )
    by_hand = PackInfo("in-process", "0", "mine", Scope.PROCESS, value="Mine")
    for found in (chosen(by_hand, Scope.PROCESS), chosen(None, Scope.PROCESS), chosen(None, Scope.CALL_SITE)):
        assert (found.pack, found.module, found.function) == ("", "crashing_converters", "prints")
    with pytest.raises(SettingsError, match="cannot be found by another process"):
        chosen(by_hand, Scope.PROCESS, lambda ctx, x: x)


# ---- what comes out -----------------------------------------------------------------------------------------


def test_an_engine_owns_its_weights() -> None:
    model = Net(W)
    x = torch.randn(2, 8)
    expected = model(x).detach()
    artifact = build_engine(request_for(model, [BATCH]), build_registry(CompilationSettings()))
    with torch.no_grad():
        model.first.weight.mul_(7)
    torch.testing.assert_close(run(artifact, x), expected)
    artifact.verify()


def test_the_weights_are_known_by_the_models_names() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.plain, self.turned = nn.Linear(8, 4, bias=False), nn.Parameter(torch.randn(8, 6).t())

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return self.plain(x), x @ self.turned.t() + 3.5

    artifact = build_engine(request_for(Two(), [torch.randn(2, 8)]), build_registry(CompilationSettings()))
    assert isinstance(artifact, EngineArtifact)
    records = {record.name: record for record in artifact.manifest.weights}
    assert {"plain.weight", "turned"} <= set(records)
    assert all(len(set(record.sha256)) > 1 for record in artifact.manifest.weights)


def test_what_fails_comes_back_as_a_value() -> None:
    def broken(ctx: Any, x: Any) -> Any:
        raise KeyError("no such table")

    request = request_for(Net(W), [BATCH], converters={relu: broken}, assume_dynamic_shape_support=True)
    failure = build_engine(request, build_registry(request.settings))
    assert isinstance(failure, Failure)
    assert failure.kind == "node"
    assert "no such table" in str(failure.error)


def test_weights_that_cannot_be_written_are_told_once():
    """On a full disk the error is that of the write; closing the file adds none."""
    weights = WeightFile("/dev/full")
    with pytest.raises(OSError, match="No space left"):
        weights.add(torch.ones(1 << 16).untyped_storage())
    weights.close()


def test_weights_can_be_resized_after_a_compile(tmp_path):
    """Nobody has shown their storages to numpy: FSDP frees weights by ``resize_(0)``."""
    model, x = (
        torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.ReLU(), torch.nn.Linear(4, 4)),
        torch.randn(2, 4),
    )
    want = model(x).detach()
    compiled = trtcore.compile(model.eval(), inputs=[x], min_block_size=1, torch_executed_modules=["2"])
    trtcore.save(compiled, tmp_path / "m.pt2")
    for weight in model.parameters():
        weight.untyped_storage().resize_(0)
    assert torch.allclose(compiled(x), want, atol=1e-6)


def test_bytes_of():
    for tensor in (
        torch.tensor([1, 2], dtype=torch.int16),
        torch.tensor(3.0),
        torch.zeros(0),
        torch.randn(2, 2).bool(),
    ):
        assert bytes(bytes_of(tensor)) == tensor.numpy().tobytes()
    turned = torch.tensor([1 + 2j]).conj()
    assert bytes(bytes_of(turned)) == turned.resolve_conj().numpy().tobytes()
