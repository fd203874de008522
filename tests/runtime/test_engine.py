"""Engines: input checks that name things, the table, runtimes, threads, saved engines as plan tensors."""

from __future__ import annotations

import threading
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from engines import BACKEND, ROWS, X, add_one, make
from hypothesis import given, settings
from hypothesis import strategies as st

from trtcore.artifact.engine_file import EngineArtifact
from trtcore.artifact.manifest import EngineManifest, SizeBinding, TensorBinding
from trtcore.backend.base import Capability, Target, host_platform
from trtcore.errors import (
    ArtifactError,
    BackendUnavailableError,
    ConversionError,
    InputError,
    SettingsError,
)
from trtcore.runtime import op
from trtcore.runtime.choose import choose_runtime
from trtcore.runtime.engine import Engine, get_engine, register_engine, with_runtime


def engine_of(artifact: EngineArtifact) -> Engine:
    return Engine(artifact)


@pytest.fixture(scope="module")
def two_inputs():
    """x (s0 in 1..8, 4) + y (s0, 1), and z (2*s1 + 1,) passed through."""

    def body(n, x, y, z):
        return n.sum(x, y), n.relu(z)

    inputs = (
        X,
        TensorBinding("y", torch.float32, ("s0", 1), ((1, 1), (2, 1), (8, 1))),
        TensorBinding("z", torch.float32, ("2*s1 + 1",), ((3,), (5,), (9,))),
    )
    outputs = (
        TensorBinding("sum", torch.float32, ("s0", 4)),
        TensorBinding("z_out", torch.float32, ("2*s1 + 1",)),
    )
    return engine_of(make(body, inputs, outputs, {**ROWS, "s1": ("input", 2, 0, 2, 1)}))


def good():
    return [torch.randn(2, 4), torch.randn(2, 1), torch.randn(5)]


def test_runs(two_inputs):
    x, y, z = good()
    total, out = two_inputs.run([x, y, z])
    assert torch.equal(total, x + y)
    assert torch.equal(out, torch.relu(z))


@pytest.mark.parametrize(
    ("position", "bad", "words"),
    [
        (0, torch.randn(2, 4, dtype=torch.float64), ["'x'", "torch.float64", "torch.float32"]),
        (0, torch.randn(2, 4, 1), ["'x'", "3 dims", "(2, 4, 1)", "2"]),
        (0, torch.randn(2, 5), ["'x'", "(2, 5)", "dim 1 is 5", "takes 4"]),
        (0, torch.randn(9, 4), ["'x'", "dim 0 is 9", "1 to 8", "max_shape"]),
        (0, torch.randn(0, 4), ["'x'", "dim 0 is 0", "1 to 8"]),
        (1, torch.randn(3, 1), ["'y'", "dim 0", "is 3", "s0 = 2"]),
        (2, torch.randn(6), ["'z'", "dim 0", "is 6", "2*s1 + 1 = 5"]),
        (2, torch.empty(5, device="meta"), ["'z'", "meta", "'x'", "cpu"]),
    ],
)
def test_a_bad_input_is_named_with_what_came_and_what_is_allowed(two_inputs, position, bad, words):
    inputs = good()
    inputs[position] = bad
    with pytest.raises(InputError) as caught:
        two_inputs.run(inputs)
    for word in words:
        assert word in str(caught.value)


def test_wrong_counts(two_inputs):
    with pytest.raises(InputError, match="takes 3 tensors, 2 came"):
        two_inputs.run(good()[:2])
    with pytest.raises(InputError, match="takes 0 sizes, 1 came"):
        two_inputs.run(good(), [3])


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(0, 10), min_size=0, max_size=3), st.lists(st.integers(0, 10), min_size=1, max_size=1)
)
def test_a_call_either_runs_right_or_is_an_input_error(two_inputs, shape, length):
    x, y, z = torch.ones(shape), torch.ones(2, 1), torch.ones(length)
    allowed = len(shape) == 2 and shape == [2, 4] and length[0] in (3, 5, 7, 9)
    if allowed:
        assert torch.equal(two_inputs.run([x, y, z])[0], x + y)
    else:
        with pytest.raises(InputError):
            two_inputs.run([x, y, z])


def test_sizes_are_checked_and_computed_with():
    artifact = make(
        lambda n, size: n.sum(size, n.constant([1], "int64")),
        (),
        (TensorBinding("next", torch.int64, (1,)),),
        {"s3": ("size", 0)},
        (SizeBinding("size_s3", "s3", 2, 3, 5),),
    )
    engine = engine_of(artifact)
    assert engine.run([], [4])[0].tolist() == [5]
    for bad in (1, 6):
        with pytest.raises(InputError, match="'s3' is"):
            engine.run([], [bad])


def test_strided_inputs_are_taken_as_they_are(two_inputs):
    _, y, z = good()
    twisted = torch.randn(4, 2).t()
    assert torch.equal(two_inputs.run([twisted, y, z])[0], twisted + y)
    assert two_inputs.run([twisted, y, z])[0].is_contiguous()


def test_what_the_program_does_not_promise_is_an_error():
    artifact = add_one()
    for shape, dtype, words in [
        (("s0", 4), torch.float16, "torch.float16"),
        (("s0 + 1", 4), torch.float32, r"\(2, 4\)"),
        ((2, 4, 1), torch.float32, "promises"),
    ]:
        manifest = replace(artifact.manifest, outputs=(TensorBinding("out", dtype, shape),))
        engine = Engine(artifact.with_manifest(manifest))
        with pytest.raises(ConversionError, match=words):
            engine.run([torch.randn(2, 4)])


def test_data_dependent_shapes_are_read_from_the_output():
    artifact = add_one()
    manifest = replace(
        artifact.manifest,
        outputs=(TensorBinding("out", torch.float32, ("u0", 4)),),
        symbols={**artifact.manifest.symbols, "u0": ("output", 0, 0)},
    )
    assert Engine(artifact.with_manifest(manifest)).run([torch.randn(3, 4)])[0].shape == (3, 4)


# ---- the table ----------------------------------------------------------------------------------------


def test_registering_twice_is_one_engine_and_another_of_that_id_is_refused():
    artifact = add_one()
    assert register_engine(artifact) == register_engine(artifact) == artifact.manifest.id
    engine = get_engine(artifact.manifest.id)
    assert engine.artifact.manifest == artifact.manifest
    assert engine.artifact.plan.data_ptr() == artifact.plan.data_ptr()
    other = EngineArtifact(artifact.plan, replace(artifact.manifest, backend_version="9"), artifact.snapshot)
    with pytest.raises(ArtifactError, match="two different engines"):
        register_engine(other)


def test_the_op_refuses_a_manifest_that_is_not_the_engines():
    artifact = add_one()
    register_engine(artifact)
    lie = replace(artifact.manifest, outputs=(TensorBinding("out", torch.float32, (2, 4)),))
    with pytest.raises(ArtifactError, match="not the one of engine"):
        op.execute_engine([torch.randn(2, 4)], [], artifact.container, lie.to_json())


def test_nothing_keeps_an_engine_but_its_plan():
    artifact = add_one()
    id = register_engine(artifact)
    op.execute_engine([torch.randn(2, 4)], [], artifact.container, artifact.manifest.to_json())
    assert get_engine(id) is not None
    del artifact
    assert get_engine(id) is None  # at once, without the garbage collector


def test_a_saved_engine_as_the_plan_tensor_runs_in_a_process_that_never_saw_it():
    artifact = add_one()
    container, text = artifact.to_tensor(), artifact.manifest.to_json()
    x = torch.randn(2, 4)
    for _ in range(2):
        (y,) = op.execute_engine([x], [], container, text)
        assert torch.equal(y, torch.relu(x + 1))
    assert get_engine(artifact.manifest.id) is not None
    lie = replace(artifact.manifest, outputs=(TensorBinding("out", torch.float32, (2, 4)),), id="f" * 32)
    with pytest.raises(ArtifactError):
        op.execute_engine([x], [], container, lie.to_json())
    with pytest.raises(ArtifactError):
        op.execute_engine(
            [x], [], container[:-100].clone(), replace(artifact.manifest, id="e" * 32).to_json()
        )


def test_without_its_network_an_engine_runs_only_natively():
    artifact = add_one()
    container = artifact.to_tensor(reference=False)
    with pytest.raises(ArtifactError, match="without its network"):
        op.execute_engine([torch.randn(2, 4)], [], container, artifact.manifest.to_json())


def test_the_other_runtime_of_a_saved_engine():
    artifact = add_one(runtime="native")
    container = artifact.to_tensor()
    reference = with_runtime(artifact.manifest, "reference")
    x = torch.randn(2, 4)
    (y,) = op.execute_engine([x], [], container, reference.to_json())
    assert torch.equal(y, torch.relu(x + 1))
    assert get_engine(artifact.manifest.id).manifest.runtime == "reference"


# ---- runtimes -----------------------------------------------------------------------------------------


class OnlyRuntime:
    """A backend's answer to one question."""

    name = "tensorrt_rtx"

    def __init__(self, ok: bool, message: str = "") -> None:
        self.capability = Capability(ok, message)

    def native_runtime(self) -> Capability:
        return self.capability


def test_choose_runtime(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: "GPU of the test")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: (8, 9))
    here, nowhere = OnlyRuntime(True), OnlyRuntime(False, "no driver")

    def ask(backend, runtime, target=None):
        return choose_runtime(backend, SimpleNamespace(runtime=runtime), target)

    assert ask(here, "auto")[0] == "native"
    assert ask(here, "reference")[0] == "reference"
    name, why = ask(nowhere, "auto")
    assert name == "reference"
    assert "no driver" in why
    name, why = ask(nowhere, "native")
    assert name == "native"
    assert "no driver" in why
    assert ask(None, "auto")[0] == "reference"
    assert ask(here, "auto", Target((8, 9), host_platform()))[0] == "native"
    assert ask(here, "auto", Target((12, 0), host_platform())) == (
        "reference",
        "TensorRT engines cannot run here: the engines are for compute capability 12.0, this GPU has 8.9",
    )
    assert ask(here, "auto", Target(None, "windows_x86_64"))[0] == "reference"
    with pytest.raises(SettingsError, match="'python'"):
        ask(here, "python")


@pytest.mark.skipif(BACKEND.native_runtime().ok, reason="engines run here")
def test_a_native_engine_where_it_cannot_run_says_why_and_what_to_do():
    engine = engine_of(add_one(runtime="native", build=True))
    with pytest.raises(BackendUnavailableError) as caught:
        engine.run([torch.randn(2, 4)])
    assert "cannot run natively here" in caught.value.message
    assert 'runtime="reference"' in caught.value.advice


def test_a_backend_nobody_contributes():
    artifact = add_one(runtime="native")
    engine = Engine(EngineArtifact(artifact.plan, replace(artifact.manifest, backend="tensorrt_fast")))
    with pytest.raises(BackendUnavailableError, match="'tensorrt_fast'"):
        engine.run([torch.randn(2, 4)])


def test_threads():
    artifact = add_one()
    register_engine(artifact)
    text = artifact.manifest.to_json()
    failures = []

    def work(seed):
        generator = torch.Generator().manual_seed(seed)
        for _ in range(30):
            x = torch.randn(1 + seed % 8, 4, generator=generator)
            (y,) = op.execute_engine([x], [], artifact.container, text)
            if not torch.equal(y, torch.relu(x + 1)):
                failures.append(seed)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_manifest_is_shared_by_text():
    artifact = add_one()
    assert engine_of(artifact).manifest is EngineManifest.from_json(artifact.manifest.to_json())
