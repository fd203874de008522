"""The native runtime's decisions, driven through a recorder that stands for our own thin module.

The recorder implements `Connection` over torch CPU tensors: it reads and writes memory at the addresses that
the logic gives it, computing the engine's function with the snapshot's reference evaluation. It knows
nothing of TensorRT. The thin module itself is tested here against the real bindings, as far as a machine
without a driver goes.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import gc
import threading
import weakref
from dataclasses import dataclass, field, replace

import pytest
import torch
from engines import BACKEND, ROWS, X, add_one, make

from trtcore.artifact.manifest import EngineManifest, SizeBinding, TensorBinding
from trtcore.errors import ArtifactError, BackendUnavailableError, ConversionError, InputError
from trtcore.ir.torch_private import empty_on_cpu
from trtcore.runtime.native import captures
from trtcore.runtime.native.binding_plan import choose_profile, make_binding_plan
from trtcore.runtime.native.bindings import IOTensor, NativeError, TensorRT, connect
from trtcore.runtime.native.cuda import Ambient
from trtcore.runtime.native.logic import NativeEngine
from trtcore.runtime.profiles import optimization_profile
from trtcore_reference import compile_snapshot

ALIGNMENT = 64  # what torch's CPU allocator gives


pytestmark = pytest.mark.usefixtures("alignment_of_the_cpu")


@dataclass
class Context:
    shapes: dict = field(default_factory=dict)
    addresses: dict = field(default_factory=dict)
    allocators: dict = field(default_factory=dict)
    profile: int = 0
    memory: tuple | None = None
    running: bool = False
    ran: list = field(default_factory=list)
    told: object = None


class Token:
    """Stands for a CUDA user object: `gone` is what the graph's end sets."""

    def __init__(self):
        self.gone = False

    def done(self):
        return self.gone


class Recorder:
    """A `Connection` whose engines compute on the CPU, and that writes down what it was asked."""

    def __init__(self, artifact, stream=7, profiles=None):
        self.artifact, self.stream = artifact, stream
        self.module = compile_snapshot(artifact.snapshot)
        self.calls = []
        self.profiles = profiles
        self.contexts = []
        self.refuse = None
        self.location = {}
        self.capture = 0  # the number of the capture that is going on
        self.tokens = []
        self.mode = ["strict"]

    def ambient(self):
        return Ambient(
            lambda: -1,
            lambda index: self.stream() if callable(self.stream) else self.stream,
            lambda: self.capture != 0,
            empty_on_cpu(),
        )

    def on_device(self, device):
        self.calls.append("guard")
        return contextlib.nullcontext()

    def execution_stream(self, index, stream):
        return stream or BLOCKING

    @contextlib.contextmanager
    def side_stream(self, device):
        self.calls.append("side")
        stream, self.stream, capture, self.capture = self.stream, SIDE, self.capture, 0
        yield SIDE
        self.stream, self.capture = stream, capture
        self.calls.append("synchronize")

    @contextlib.contextmanager
    def relaxed(self):
        self.mode.append("relaxed")
        yield
        self.mode.pop()

    def capture_number(self, stream):
        return self.capture

    def graph_token(self, stream):
        assert self.capture
        self.tokens.append(Token())
        return self.tokens[-1]

    def set_profiler(self, context, told):
        context.told = told
        return told

    def describe(self, engine):
        return 4096, '{"Layers": []}'

    def refused(self, what):
        return NativeError(f"TensorRT refused {what}", tensorrt=(self.refuse,))

    def deserialize(self, plan):
        assert self.mode[-1] == "relaxed"
        self.calls.append("deserialize")
        return "engine"

    def io_tensors(self, engine):
        m = self.artifact.manifest
        found = []
        for b in (*m.inputs, *m.outputs):
            shape = tuple(d if isinstance(d, int) else -1 for d in b.shape)
            own = (b.profile or (shape,) * 3,) if b in m.inputs else ()
            profiles = self.profiles.get(b.name, own) if self.profiles else own
            found.append(IOTensor(b.name, b in m.inputs, b.dtype, shape, b.name in self.location, profiles))
        for s in m.sizes:
            found.append(IOTensor(s.name, True, torch.int64, (1,), True, (((s.min,), (s.opt,), (s.max,)),)))
        return tuple(found)

    def create_context(self, engine):
        assert self.mode[-1] == "relaxed"
        self.calls.append("create_context")
        self.contexts.append(Context())
        return self.contexts[-1]

    def run_calls(self, context):
        return (
            functools.partial(self.set_address, context),
            functools.partial(self.set_memory, context),
            functools.partial(self.execute, context),
        )

    def set_profile(self, context, index, stream):
        self.calls.append(("profile", index))
        context.profile = index

    def set_input_shape(self, context, name, shape):
        self.calls.append(("shape", name, tuple(shape)))
        context.shapes[name] = tuple(shape)

    def set_address(self, context, name, address):
        assert address, "TensorRT takes no null address"
        assert address % ALIGNMENT == 0 or name in self.location or name.startswith("size_")
        assert context.addresses.get(name) != address or name.startswith("size_"), "an equal address again"
        self.calls.append(("address", name))
        context.addresses[name] = address
        return True

    def set_allocator(self, context, name, allocator):
        context.allocators[name] = allocator
        return allocator

    def missing(self, context):
        m = self.artifact.manifest
        wanted = [b.name for b in m.inputs] + [s.name for s in m.sizes]
        return [name for name in wanted if name not in context.shapes]

    def output_shape(self, context, name):
        m = self.artifact.manifest
        sizes = [int(self.read(context, s.name, torch.int64, (1,))) for s in m.sizes]
        values = m.solve([context.shapes[b.name] for b in m.inputs], sizes)
        if m.output_symbols:
            return (-1,) * 2
        return m.output_shapes(values)[[b.name for b in m.outputs].index(name)]

    def memory_size(self, context):
        return 1000

    def set_memory(self, context, address, size):
        assert size >= 1000
        assert context.memory != (address, size)
        self.calls.append("memory")
        context.memory = (address, size)

    def execute(self, context, stream):
        if self.refuse:
            return False
        assert not context.running, "one context, two calls at a time"
        assert context.memory is not None
        assert context.ran or (self.mode[-1] == "relaxed" and not self.capture), "forbidden in a capture"
        context.ran.append(self.capture)
        if context.told:
            context.told("layer", 0.25)
        context.running = True
        self.calls.append(("execute", stream))
        m = self.artifact.manifest
        arguments = [self.read(context, b.name, b.dtype, context.shapes[b.name]) for b in m.inputs]
        arguments += [self.read(context, s.name, torch.int64, (1,)) for s in m.sizes]
        for binding, result in zip(m.outputs, self.module(*arguments)):
            result = result.contiguous()
            if binding.name in context.allocators:
                allocator = context.allocators[binding.name]
                address = allocator.allocate(result.numel() * result.itemsize)
                allocator.shaped(tuple(result.shape))
            else:
                address = context.addresses[binding.name]
            ctypes.memmove(address, result.data_ptr(), result.numel() * result.itemsize)
        context.running = False
        return True

    def read(self, context, name, dtype, shape):
        count = torch.Size(shape).numel()
        if not count:
            return torch.empty(shape, dtype=dtype)
        raw = (ctypes.c_uint8 * (count * dtype.itemsize)).from_address(context.addresses[name])
        return torch.frombuffer(raw, dtype=dtype).clone().view(shape)

    def executed(self):
        return [call for call in self.calls if call[0] == "execute"]


BLOCKING, SIDE = 99, 77
PLUMBING = ("guard", "memory")  # what does not belong to a run's meaning


def native(artifact, **options):
    recorder = Recorder(artifact, **options)
    return NativeEngine(artifact.manifest, artifact.plan, recorder, device_type="cpu"), recorder


def run(engine, artifact, inputs, sizes=()):
    """As `Engine.run`: the generated code first."""
    usual = engine.fast(inputs, sizes)
    if usual is not None:
        return usual
    return engine.run(list(inputs), list(sizes), artifact.manifest.solve([x.shape for x in inputs], sizes))


def told(calls):
    """Without addresses and plumbing."""
    return [c for c in calls if c not in PLUMBING and c[0] != "address"]


def test_runs_on_the_callers_stream_and_sets_nothing_twice():
    artifact = add_one()
    engine, recorder = native(artifact)
    for _ in range(3):
        x = torch.randn(2, 4)
        assert torch.equal(run(engine, artifact, [x])[0], torch.relu(x + 1))
    assert told(recorder.calls) == [
        "deserialize",
        "create_context",
        ("shape", "x", (2, 4)),
        *[("execute", 7)] * 3,
    ]
    x = torch.randn(5, 4)
    assert torch.equal(run(engine, artifact, [x])[0], torch.relu(x + 1))
    assert told(recorder.calls)[-2:] == [("shape", "x", (5, 4)), ("execute", 7)]


class TestTheUsualCall:
    """What one call costs, counted in calls of TensorRT and CUDA."""

    def test_one_execute_and_nothing_else(self):
        artifact = add_one()
        engine, recorder = native(artifact)
        x = torch.randn(2, 4)
        kept = run(engine, artifact, [x])
        recorder.calls.clear()
        for _ in range(5):
            y = run(engine, artifact, [x])
            kept.append(y[0])  # every output has memory of its own
        assert recorder.calls.count(("execute", 7)) == 5
        assert set(recorder.calls) <= {("execute", 7), ("address", "out"), "memory"}
        assert all(torch.equal(y, torch.relu(x + 1)) for y in kept)
        assert len({y.data_ptr() for y in kept}) == 6

    def test_no_guard_no_lock_and_no_look_at_the_manifest(self, monkeypatch):
        artifact = add_one()
        engine, recorder = native(artifact)
        x = torch.randn(2, 4)
        run(engine, artifact, [x])
        monkeypatch.setattr(engine, "run", None)
        monkeypatch.setattr(recorder, "on_device", None)
        monkeypatch.setattr(engine, "_lock", None)
        for _ in range(3):
            assert torch.equal(run(engine, artifact, [x])[0], torch.relu(x + 1))

    def test_the_default_stream_has_a_blocking_one_and_no_events(self):
        artifact = add_one()
        engine, recorder = native(artifact, stream=0)
        for _ in range(2):
            run(engine, artifact, [torch.randn(2, 4)])
        assert told(recorder.calls)[-2:] == [("execute", BLOCKING)] * 2

    def test_shapes_by_turns_have_contexts_of_their_own(self):
        artifact = add_one()
        engine, recorder = native(artifact)
        for rows in (2, 5, 2, 5, 2):
            x = torch.randn(rows, 4)
            assert torch.equal(run(engine, artifact, [x])[0], torch.relu(x + 1))
        assert [c for c in recorder.calls if c[0] == "shape"] == [
            ("shape", "x", (2, 4)),
            ("shape", "x", (5, 4)),
        ]

    def test_contexts_do_not_grow_with_shapes(self, monkeypatch):
        monkeypatch.setattr("trtcore.runtime.native.logic._MOST_CONTEXTS", 3)
        monkeypatch.setattr("trtcore.runtime.native.logic._MOST_KEYS", 5)
        artifact = add_one()
        engine, recorder = native(artifact)
        for _ in range(3):
            for rows in range(1, 9):
                x = torch.randn(rows, 4)
                assert torch.equal(run(engine, artifact, [x])[0], torch.relu(x + 1))
        assert len(recorder.contexts) == 3
        assert len(engine._ready) <= 5

    def test_nothing_that_a_call_allocates_stays(self):
        artifact = add_one()
        engine, _ = native(artifact)
        x = torch.randn(2, 4)
        before = _tensors()
        for _ in range(3):
            run(engine, artifact, [x])
        assert _tensors() <= before

    @pytest.mark.parametrize(
        "unusual",
        [
            lambda x: x.double(),
            lambda x: torch.nn.Parameter(x),
            lambda x: x.t().contiguous().t(),
            lambda x: torch.cat([x.flatten(), x.new_zeros(1)])[1:].view(2, 4),
            lambda x: x[:1, :3],
            lambda x: x.to_sparse(),
            lambda x: x.to("meta"),
        ],
    )
    def test_what_is_not_usual_is_left_to_the_other_way(self, unusual):
        artifact = add_one()
        engine, recorder = native(artifact)
        x = torch.randn(2, 4)
        assert engine.fast([x], []) is None  # nothing has run yet
        run(engine, artifact, [x])
        assert torch.equal(engine.fast([x], [])[0], torch.relu(x + 1))
        recorder.calls.clear()
        assert engine.fast([unusual(x)], []) is None
        assert engine.fast([x, x], []) is None
        assert engine.fast([x], [3]) is None
        assert not recorder.calls

    def test_a_refused_run_drops_the_context(self):
        artifact = add_one()
        engine, recorder = native(artifact)
        x = torch.randn(2, 4)
        run(engine, artifact, [x])
        recorder.refuse = "Error Code 1"
        with pytest.raises(NativeError, match="refused to run"):
            engine.fast([x], [])
        recorder.refuse = None
        assert engine.fast([x], []) is None
        assert torch.equal(run(engine, artifact, [x])[0], torch.relu(x + 1))
        assert len(recorder.contexts) == 2

    def test_a_static_engine_with_several_outputs(self):
        def body(n, x, y):
            return n.sum(x, y), n.relu(x)

        one = TensorBinding("x", torch.float32, (2, 3))
        artifact = make(body, (one, replace(one, name="y")), (replace(one, name="a"), replace(one, name="b")))
        engine, recorder = native(artifact)
        for _ in range(3):
            x, y = torch.randn(2, 3), torch.randn(2, 3)
            a, b = run(engine, artifact, [x, y])
            assert torch.equal(a, x + y)
            assert torch.equal(b, x.relu())
        assert engine.fast([x, y.t()], []) is None
        assert len(recorder.contexts) == 1


def _tensors():
    gc.collect()
    return sum(type(one) is torch.Tensor for one in gc.get_objects())


class TestCaptures:
    """Calls that are captured into a CUDA graph."""

    def test_a_context_of_the_graphs_own_that_has_run_before(self):
        artifact = add_one()
        engine, recorder = native(artifact)
        x = torch.randn(2, 4)
        for warm_up in (False, True):
            if warm_up:
                run(engine, artifact, [x])
            recorder.capture = 5 + warm_up
            assert torch.equal(run(engine, artifact, [x])[0], torch.relu(x + 1))
            recorder.capture = 0
        captured = [context for context in recorder.contexts if context.ran[-1]]
        assert [context.ran for context in captured] == [[0, 5], [0, 6]]
        assert recorder.calls[recorder.calls.index("side") :].count("synchronize") == 2
        run(engine, artifact, [x])
        assert [context.ran[-1] for context in captured] == [5, 6], "an eager call took a graph's context"

    def test_calls_in_one_capture_share_a_context_by_shape(self):
        artifact = add_one()
        engine, recorder = native(artifact)
        recorder.capture = 3
        for rows in (2, 2, 4, 2):
            run(engine, artifact, [torch.randn(rows, 4)])
        assert len(recorder.contexts) == 2
        assert len(recorder.tokens) == 2

    def test_graphs_that_are_gone_give_their_contexts_back(self):
        artifact = add_one()
        engine, recorder = native(artifact)
        for number in range(1, 13):
            recorder.capture = number
            run(engine, artifact, [torch.randn(2, 4)])
            recorder.capture = 0
            recorder.tokens[-1].gone = True
        assert len(recorder.contexts) == 1
        recorder.tokens[-1].gone = True
        run(engine, artifact, [torch.randn(2, 4)])
        assert len(recorder.contexts) == 1, "an eager call takes a spare, too"

    def test_a_spare_of_other_shapes_runs_outside_of_the_capture_first(self):
        artifact = add_one()
        engine, recorder = native(artifact)
        for number, rows in ((1, 2), (2, 5)):
            recorder.capture = number
            run(engine, artifact, [torch.randn(rows, 4)])
            recorder.capture = 0
            recorder.tokens[-1].gone = True
        (context,) = recorder.contexts
        assert context.ran == [0, 1, 0, 2]

    def test_a_graph_outlives_the_module(self):
        artifact = add_one()
        engine, recorder = native(artifact)
        recorder.capture = 1
        run(engine, artifact, [torch.randn(2, 4)])
        recorder.capture = 0
        held = weakref.ref(recorder.contexts[0])
        recorder.contexts.clear()
        token = recorder.tokens[0]
        del engine
        gc.collect()
        assert held() is not None
        token.gone = True
        captures.sweep()
        gc.collect()
        assert held() is None

    def test_what_needs_the_host_cannot_be_captured(self):
        artifact = add_one()
        engine, recorder = native(artifact)
        recorder.location["x"] = True
        recorder.capture = 1
        with pytest.raises(InputError, match=r"cannot be captured.*'x' is read or written on the host"):
            run(engine, artifact, [torch.randn(2, 4)])


def test_strided_misaligned_and_empty_inputs():
    z = TensorBinding("x", torch.float32, ("s0", 4), ((0, 4), (2, 4), (8, 4)))
    artifact = make(lambda n, x: n.relu(x), (z,), (TensorBinding("out", torch.float32, ("s0", 4)),), ROWS)
    engine, _ = native(artifact)
    base = torch.randn(4, 9)
    for x in (
        base[:, :2].t(),
        torch.randn(100)[1:13].view(3, 4),
        torch.empty(0, 4),
        torch.randn(1, 4).expand(3, 4),
    ):
        kept = x.clone()
        (y,) = run(engine, artifact, [x])
        assert torch.equal(y, torch.relu(kept))
        assert torch.equal(x, kept)
        assert y.is_contiguous()


def test_sizes_are_staged_on_the_host_anew_for_each_value():
    artifact = make(
        lambda n, x, size: (n.relu(x), n.sum(size, n.constant([1], "int64"))),
        (X,),
        (TensorBinding("out", torch.float32, ("s0", 4)), TensorBinding("next", torch.int64, (1,))),
        {**ROWS, "s3": ("size", 0)},
        (SizeBinding("size_s3", "s3", 1, 3, 9),),
    )
    engine, _ = native(artifact)
    x = torch.randn(2, 4)
    assert [run(engine, artifact, [x], [size])[1].item() for size in (3, 4, 4, 9)] == [4, 5, 5, 10]


def test_a_shape_that_only_the_run_tells():
    artifact = add_one()
    manifest = replace(
        artifact.manifest,
        outputs=(TensorBinding("out", torch.float32, ("u0", 4)),),
        symbols={**ROWS, "u0": ("output", 0, 0)},
    )
    artifact = artifact.with_manifest(manifest)
    engine, _ = native(artifact)
    for rows in (2, 7, 1):
        x = torch.randn(rows, 4)
        (y,) = run(engine, artifact, [x])
        assert torch.equal(y, torch.relu(x + 1))


def test_outputs_in_host_memory_come_back_on_the_inputs_device():
    artifact = add_one()
    engine, recorder = native(artifact)
    recorder.location["out"] = True
    x = torch.randn(2, 4)
    assert torch.equal(run(engine, artifact, [x])[0], torch.relu(x + 1))


def test_inputs_in_host_memory_are_read_anew_each_time():
    artifact = add_one()
    engine, recorder = native(artifact)
    recorder.location["x"] = True
    for _ in range(2):
        x = torch.randn(2, 4)
        assert torch.equal(run(engine, artifact, [x])[0], torch.relu(x + 1))
    assert (
        recorder.calls.count(("shape", "x", (2, 4))) == 2
    )  # shapes may depend on the values: inferred again


def test_an_error_drops_the_context_and_the_next_call_works():
    artifact = add_one()
    engine, recorder = native(artifact)
    recorder.refuse = "Error Code 1: out of something"
    with pytest.raises(NativeError) as caught:
        run(engine, artifact, [torch.randn(2, 4)])
    assert caught.value.tensorrt == ("Error Code 1: out of something",)
    recorder.refuse = None
    run(engine, artifact, [torch.randn(2, 4)])
    assert recorder.calls.count("create_context") == 2


def test_another_output_shape_than_promised():
    artifact = add_one()
    engine, recorder = native(artifact)
    recorder.output_shape = lambda context, name: (3, 4)
    with pytest.raises(ConversionError, match=r"\(3, 4\).*promises \(2, 4\)"):
        run(engine, artifact, [torch.randn(2, 4)])


def test_an_input_elsewhere_is_named():
    artifact = add_one()
    engine = NativeEngine(artifact.manifest, artifact.plan, Recorder(artifact))
    with pytest.raises(InputError, match="'x' is on cpu, the engine runs on cuda"):
        run(engine, artifact, [torch.randn(2, 4)])


def test_threads_have_contexts_of_their_own():
    artifact = add_one()
    local = threading.local()
    engine, recorder = native(artifact, stream=lambda: local.stream)
    failures = []

    def work(number):
        local.stream = number % 3 + 1
        for _ in range(20):
            x = torch.randn(number + 1, 4)
            if not torch.equal(run(engine, artifact, [x])[0], torch.relu(x + 1)):
                failures.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert recorder.calls.count("deserialize") == 1
    assert 3 <= recorder.calls.count("create_context") <= 6
    assert {stream for _, stream in recorder.executed()} == {1, 2, 3}


def test_profiles_are_chosen_by_shape():
    artifact = add_one()
    profiles = {"x": (((1, 4), (1, 4), (2, 4)), ((3, 4), (4, 4), (8, 4)))}
    engine, recorder = native(artifact, profiles=profiles)
    for rows in (1, 5, 8, 2):
        x = torch.randn(rows, 4)
        assert torch.equal(run(engine, artifact, [x])[0], torch.relu(x + 1))
    # A new context has profile 0 already.
    chosen = [(c.shapes["x"][0], c.profile) for c in recorder.contexts]
    assert chosen == [(1, 0), (5, 1), (8, 1), (2, 0)]
    assert [call for call in recorder.calls if call[0] == "profile"] == [("profile", 1)] * 2


def test_a_profile_can_be_chosen_where_several_take_the_shape():
    profiles = (((1, 4), (1, 4), (8, 4)), ((3, 4), (4, 4), (8, 4)))
    x = TensorBinding.of_profiles("x", torch.float32, ("s0", 4), profiles)
    artifact = make(lambda n, x: n.relu(x), (x,), (TensorBinding("out", torch.float32, ("s0", 4)),), ROWS)
    engine, recorder = native(artifact, profiles={"x": profiles})
    given = torch.randn(4, 4)
    values = {"s0": 4}
    run(engine, artifact, [given])
    with optimization_profile(1):
        assert engine.fast([given], []) is None, "another profile's context"
        run(engine, artifact, [given])
        assert engine.fast([given], []) is not None
        with pytest.raises(InputError, match="profile 1 of 2 does not take"):
            engine.run([given[:2]], [], {"s0": 2})
    assert torch.equal(engine.run([given], [], values)[0], given.relu())
    # Not set again for the same shapes; the context of the failed call is not used again.
    assert [call for call in recorder.calls if call[0] == "profile"] == [("profile", 1)]


def test_no_profile_takes_it():
    artifact = add_one()
    recorder = Recorder(artifact, profiles={"x": (((1, 4), (1, 4), (2, 4)), ((4, 4), (4, 4), (8, 4)))})
    plan = make_binding_plan(artifact.manifest, recorder.io_tensors("engine"))
    assert choose_profile(plan, [(2, 4)], []) == 0
    assert choose_profile(plan, [(4, 4)], []) == 1
    with pytest.raises(InputError, match=r"'x' is \(3, 4\).*1\.\.2.*or.*4\.\.8"):
        choose_profile(plan, [(3, 4)], [])


def test_a_plan_that_is_not_the_manifests():
    artifact = add_one()
    m = artifact.manifest
    tensors = Recorder(artifact).io_tensors("engine")
    make_binding_plan(m, tensors)
    x, out = tensors
    wrong = [
        (x,),
        (x, out, replace(out, name="more")),
        (replace(x, name="y"), out),
        (replace(x, is_input=False), out),
        (replace(x, dtype=torch.float16), out),
        (replace(x, shape=(-1, 5)), out),
        (x, replace(out, shape=(-1, 4, 1))),
        (x, x),
    ]
    for tensors in wrong:
        with pytest.raises(ArtifactError):
            make_binding_plan(m, tensors)


def test_release_frees_engine_and_contexts():
    artifact = add_one()
    engine, recorder = native(artifact)
    run(engine, artifact, [torch.randn(2, 4)])
    engine.release()
    gc.collect()
    run(engine, artifact, [torch.randn(2, 4)])
    assert recorder.calls.count("deserialize") == 2


# ---- the thin module on the real bindings ---------------------------------------------------------------

no_gpu = pytest.mark.skipif(BACKEND.native_runtime().ok, reason="engines run here")


@no_gpu
def test_without_a_driver_a_plan_cannot_be_read():
    artifact = add_one(build=True)
    with pytest.raises(BackendUnavailableError) as caught:
        TensorRT(BACKEND).deserialize(artifact.plan)
    assert "TensorRT" in caught.value.message
    assert caught.value.advice


@no_gpu
def test_check_says_why():
    with pytest.raises(BackendUnavailableError, match=r"GPU|driver|compute capability"):
        TensorRT(BACKEND).check()


def test_one_connection_per_backend():
    manifest: EngineManifest = add_one().manifest
    assert connect(manifest) is connect(manifest)


def test_the_real_bindings_have_what_the_thin_module_calls():
    trt = BACKEND.trt
    for owner, names in {
        trt.Runtime: ["deserialize_cuda_engine"],
        trt.ICudaEngine: [
            "num_io_tensors", "get_tensor_name", "get_tensor_mode", "get_tensor_location", "get_tensor_shape",
            "get_tensor_dtype", "num_optimization_profiles", "get_tensor_profile_shape",
            "get_tensor_profile_values", "create_execution_context", "create_engine_inspector",
            "device_memory_size_v2",
        ],
        trt.IExecutionContext: [
            "set_optimization_profile_async", "set_input_shape", "set_tensor_address", "set_output_allocator",
            "infer_shapes", "get_tensor_shape", "update_device_memory_size_for_shapes", "set_device_memory",
            "execute_async_v3",
        ],
        trt.ExecutionContextAllocationStrategy: ["USER_MANAGED"],
        trt.TensorLocation: ["HOST"],
        trt.TensorIOMode: ["INPUT"],
        trt.IProfiler: ["report_layer_time"],
        trt.EngineInspector: ["get_engine_information"],
        trt.LayerInformationFormat: ["JSON"],
    }.items():  # fmt: skip
        for name in names:
            assert hasattr(owner, name), f"{owner.__name__}.{name}"
    from trtcore.runtime.native.bindings import _allocator_class

    class Target:
        def allocate(self, size):
            return size

        def shaped(self, shape):
            self.shape = shape

    target = Target()
    adapter = _allocator_class(trt)(target)
    assert isinstance(adapter, trt.IOutputAllocator)
    assert adapter.reallocate_output_async("y", 0, 8, 256, 0) == 8
    adapter.notify_shape("y", trt.Dims((2, 3)))
    assert target.shape == (2, 3)
