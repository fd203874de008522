"""Weights for native plans: what is asked of TensorRT's ``IRefitter`` and of its weight streaming.

No machine with these tests has a driver, so the refitter is written down; its names are those of the real bindings.
"""

from __future__ import annotations

import contextlib
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from engines import BACKEND, X, make

from trtcore.artifact.manifest import TensorBinding
from trtcore.errors import ArtifactError, BackendUnavailableError, RefitError, SettingsError
from trtcore.runtime.engine import Engine, _weights_of
from trtcore.runtime.native.bindings import NativeError, TensorRT
from trtcore.runtime.native.cuda import Ambient
from trtcore.runtime.native.logic import NativeEngine

trt = BACKEND.trt
Y = TensorBinding("y", torch.float32, ("s0", 4))


def add_weights(network, x):
    return network.sum(x, network.constant([[1.0, 2.0, 3.0, 4.0]]))


@pytest.fixture
def artifact():
    return make(add_weights, (X,), (Y,), {"s0": ("input", 0, 0, 1, 0)}, runtime="native")


class Refitter:
    """`trt.Refitter`, written down."""

    takes = ()
    lacks = ()
    works = True
    made = None

    def __init__(self, engine, logger):
        type(self).made = self
        self.engine, self.given, self.done = engine, {}, False

    def get_all(self):
        return [name for name, _ in self.takes], [role for _, role in self.takes]

    def set_weights(self, name, role, weights):
        assert (name, role) in self.takes
        assert isinstance(weights, trt.Weights)
        self.given[name, role] = weights
        return True

    def get_missing(self):
        left = [one for one in self.lacks if one not in self.given]
        return [name for name, _ in left], [role for _, role in left]

    def refit_cuda_engine(self):
        self.done = True
        return self.works


@pytest.fixture
def connection(monkeypatch, artifact):
    made = TensorRT(BACKEND)
    names = {name: getattr(trt, name) for name in ("Weights", "WeightsRole", "DataType")}
    name = next(layer.name for layer in artifact.snapshot.layers if layer.constants)
    kind = type("Recorded", (Refitter,), {"takes": ((name, trt.WeightsRole.CONSTANT),)})
    made._trt = SimpleNamespace(Refitter=kind, **names)
    return made


def test_the_names_are_those_of_the_real_bindings():
    for name in ("get_all", "set_weights", "get_missing", "refit_cuda_engine"):
        assert hasattr(trt.Refitter, name)
    assert {"KERNEL", "BIAS", "SHIFT", "SCALE", "CONSTANT"} <= set(trt.WeightsRole.__members__)
    for name in (
        "streamable_weights_size",
        "weight_streaming_budget_v2",
        "get_weight_streaming_automatic_budget",
    ):
        assert hasattr(trt.ICudaEngine, name)


def test_all_weights_that_the_plan_takes_are_given(connection, artifact):
    manifest = replace(artifact.manifest, plan="refit", refittable=True)
    connection.refit("engine", *_weights_of(manifest, artifact)())
    made = connection._trt.Refitter.made
    (weights,) = made.given.values()
    assert made.done
    assert (weights.size, weights.dtype) == (4, trt.float32)


def test_a_changed_weight_that_the_plan_does_not_take_is_an_error(connection, artifact):
    index = next(layer.index for layer in artifact.snapshot.layers if layer.constants)
    manifest = replace(artifact.manifest, plan="refit", refittable=True, refitted=(f"{index}.weights",))
    given = _weights_of(manifest, artifact)()
    connection.refit("engine", *given)
    connection._trt.Refitter.takes = ()
    with pytest.raises(RefitError, match="takes no other weights for"):
        connection.refit("engine", *given)


def test_weights_that_nobody_has_are_an_error(connection, artifact):
    connection._trt.Refitter.lacks = (("elsewhere", trt.WeightsRole.KERNEL),)
    manifest = replace(artifact.manifest, plan="refit")
    with pytest.raises(RefitError, match=r"lacks weights for elsewhere \(kernel\)"):
        connection.refit("engine", *_weights_of(manifest, artifact)())


def test_a_refit_that_tensorrt_refuses_is_an_error(connection, artifact):
    connection._trt.Refitter.works = False
    manifest = replace(artifact.manifest, plan="refit")
    with pytest.raises(RefitError, match="TensorRT refused the weights"):
        connection.refit("engine", *_weights_of(manifest, artifact)())


def test_a_plan_with_its_weights_is_given_none_and_one_without_a_plan_never_runs(artifact):
    assert _weights_of(artifact.manifest, artifact) is None
    with pytest.raises(BackendUnavailableError, match="lacks the engine's weights"):
        _weights_of(replace(artifact.manifest, plan="none"), artifact)


@pytest.mark.parametrize(
    "fields", [{"plan": "half"}, {"refittable": 1}, {"plan": "refit", "refitted": ("x",)}, {"refitted": (3,)}]
)
def test_a_manifest_that_makes_no_sense_is_refused(artifact, fields):
    with pytest.raises(ArtifactError):
        replace(artifact.manifest, **fields)


def test_the_manifest_goes_through_json(artifact):
    made = replace(artifact.manifest, plan="refit", refittable=True, refitted=("3.kernel", "4.bias"))
    assert type(made).from_json(made.to_json()) == made
    assert "refit" not in artifact.manifest.to_json()


# ---- weight streaming ---------------------------------------------------------------------------------------


class Streams:
    """What `NativeEngine` asks of a connection for streaming."""

    def __init__(self):
        self.budget, self.calls = 1000, []

    def deserialize(self, plan):
        return "engine"

    def refit(self, engine, weights, needed):
        self.calls.append("refit")

    def io_tensors(self, engine):
        return ()

    def ambient(self):
        return Ambient(lambda: 0, lambda index: 7, lambda: False, torch.empty)

    def relaxed(self):
        return contextlib.nullcontext()

    def refused(self, what):
        return NativeError(what)

    def streaming(self, engine):
        return 1000, self.budget, 600

    def set_streaming_budget(self, engine, budget):
        self.budget = budget


@pytest.fixture
def streamed(monkeypatch, artifact):
    import trtcore.runtime.native.logic as logic
    import trtcore.runtime.streaming as room

    streams = Streams()
    plan = SimpleNamespace(in_host_memory="", sizes_on_host=True)
    monkeypatch.setattr(logic, "make_binding_plan", lambda *_: plan)
    native = NativeEngine(artifact.manifest, artifact.plan, streams, device_type="cpu")
    engine = Engine(artifact)
    engine._runner, engine._opened = native.run, native
    monkeypatch.setattr(room, "engines_in", lambda module: [engine])
    return streams


def test_the_budget_is_set_and_taken_back(streamed):
    from trtcore.runtime import weight_streaming

    with weight_streaming(None) as streaming:
        assert streaming.total_device_budget == 1000
        assert streaming.get_automatic_weight_streaming_budget() == 600
        streaming.device_budget = 300
        assert (streaming.device_budget, streamed.budget) == (300, 300)
        for wrong in (-1, 1001, 0.5, True):
            with pytest.raises(SettingsError, match="an int from 0 to 1000"):
                streaming.device_budget = wrong
    assert streamed.budget == 1000


def test_an_engine_that_streams_nothing_says_so(streamed, monkeypatch):
    from trtcore.runtime import weight_streaming

    monkeypatch.setattr(Streams, "streaming", lambda self, engine: (0, 0, 0))
    with pytest.raises(SettingsError, match="enable_weight_streaming=True") as caught, weight_streaming(None):
        pass
    assert caught.value.advice


def test_on_the_reference_runtime_it_says_that_it_means_nothing(trt_backend):
    import trtcore

    module = trtcore.compile(
        torch.nn.Linear(4, 4).eval(),
        inputs=[torch.randn(2, 4)],
        min_block_size=1,
        enable_weight_streaming=True,
    )
    if module.report.runtime != "reference":
        pytest.skip("engines run natively here")
    streaming = trtcore.runtime.weight_streaming(module)
    with pytest.warns(UserWarning, match="weight streaming means nothing here"):
        streaming.__enter__()
    assert streaming.total_device_budget == 0
    streaming.__exit__()
