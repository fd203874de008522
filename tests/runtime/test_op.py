"""trtcore::execute_engine as a torch op: fake shapes, export, torch.compile, opcheck, gradient, aliases."""

from __future__ import annotations

import copy
import gc
import io
import warnings
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from engines import ROWS, X, add_one, make
from torch.export import Dim

from trtcore.artifact.manifest import SizeBinding, TensorBinding
from trtcore.engine.build import _device_without_inputs
from trtcore.errors import ArtifactError, InputError
from trtcore.runtime import op
from trtcore.runtime.engine import get_engine, register_engine
from trtcore.runtime.op import output_device


class Hybrid(torch.nn.Module):
    """What a hybrid graph does around one engine."""

    def __init__(self, artifact):
        super().__init__()
        register_engine(artifact)
        self.plan = artifact.container
        self.manifest = artifact.manifest.to_json()

    def forward(self, x):
        (y,) = torch.ops.trtcore.execute_engine([x * 2], [], self.plan, self.manifest)
        return y - 1


def want(x):
    return torch.relu(x * 2 + 1) - 1


def test_runs():
    x = torch.randn(3, 4)
    assert torch.equal(Hybrid(add_one())(x), want(x))


def test_opcheck():
    artifact = add_one()
    register_engine(artifact)
    arguments = ([torch.randn(3, 4)], [], artifact.container, artifact.manifest.to_json())
    torch.library.opcheck(op.execute_engine, arguments)


def test_opcheck_with_sizes():
    artifact = sized()
    register_engine(artifact)
    arguments = ([torch.randn(3, 4)], [5], artifact.container, artifact.manifest.to_json())
    torch.library.opcheck(op.execute_engine, arguments)


def sized():
    """x (s0, 4) and a size s9 in 1..6: x + 1, and arange(s9)."""

    def body(n, x, size):
        filled = n.net.add_fill((1,), n.trt.FillOperation.LINSPACE, n.trt.DataType.FLOAT)
        filled.set_input(0, size)
        filled.set_input(1, n.constant(0.0))
        filled.set_input(2, n.constant([1.0]))
        return n.sum(x, n.constant([[1.0, 1.0, 1.0, 1.0]])), filled.get_output(0)

    outputs = (TensorBinding("y", torch.float32, ("s0", 4)), TensorBinding("range", torch.float32, ("s9",)))
    symbols = {**ROWS, "s9": ("size", 0)}
    return make(body, (X,), outputs, symbols, (SizeBinding("size_s9", "s9", 1, 3, 6),))


def test_sizes_reach_the_engine_and_shape_the_fake():
    artifact = sized()
    register_engine(artifact)

    class M(torch.nn.Module):
        def forward(self, x, y):
            a, b = torch.ops.trtcore.execute_engine([x], [y.shape[0]], PLAN, MANIFEST)
            return a, b + y

    PLAN, MANIFEST = artifact.container, artifact.manifest.to_json()
    x, y = torch.randn(2, 4), torch.randn(5)
    a, b = M()(x, y)
    assert torch.equal(a, x + 1)
    assert torch.equal(b, torch.arange(5.0) + y)
    dims = ({0: Dim("a", min=1, max=8)}, {0: Dim("b", min=2, max=6)})
    exported = torch.export.export(M(), (x, y), dynamic_shapes=dims)
    x, y = torch.randn(7, 4), torch.randn(3)
    assert torch.equal(exported.module()(x, y)[1], torch.arange(3.0) + y)


@pytest.mark.parametrize("strict", [False, True])
def test_export_with_dynamic_shapes(strict):
    module = Hybrid(add_one())
    exported = torch.export.export(
        module, (torch.randn(3, 4),), dynamic_shapes=({0: Dim("b", min=1, max=8)},), strict=strict
    )
    (output,) = exported.graph.find_nodes(op="output")
    dim = output.args[0][0].meta["val"].shape[0]
    assert isinstance(dim, torch.SymInt)
    x = torch.randn(7, 4)
    assert torch.equal(exported.module()(x), want(x))
    buffer = io.BytesIO()
    torch.export.save(exported, buffer)
    buffer.seek(0)
    assert torch.equal(torch.export.load(buffer).module()(x), want(x))


@pytest.mark.parametrize("dynamic", [False, True])
def test_torch_compile(dynamic):
    module = Hybrid(add_one())
    compiled = torch.compile(module, backend="aot_eager", dynamic=dynamic, fullgraph=True)
    for rows in (3, 5, 6):
        x = torch.randn(rows, 4)
        assert torch.equal(compiled(x), want(x))


def test_outputs_do_not_require_grad_and_one_warning_says_so(monkeypatch):
    monkeypatch.setattr(op, "_warned", False)
    module = Hybrid(add_one())
    x = torch.randn(2, 4, requires_grad=True)
    with pytest.warns(UserWarning, match="no gradient"):
        assert not module(x).requires_grad
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not module(x).requires_grad
        with torch.no_grad():
            module(x)
        module(x.detach())


def test_inference_mode_and_autocast():
    module, x = Hybrid(add_one()), torch.randn(2, 4)
    with torch.inference_mode():
        assert torch.equal(module(x), want(x))
    y = module(x)
    (y * torch.ones(4, requires_grad=True)).sum().backward()  # outputs are ordinary tensors

    def matmul(n, a):
        weight = n.constant(torch.eye(4).numpy())
        none = n.trt.MatrixOperation.NONE
        return n.net.add_matrix_multiply(a, none, weight, none).get_output(0)

    out = TensorBinding("out", torch.float32, ("s0", 4))
    module = Hybrid(make(matmul, (X,), (out,), ROWS))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = module(x)
    assert result.dtype == torch.float32
    assert torch.equal(result, x * 2 - 1)  # bfloat16 would have rounded


def test_no_alias():
    def body(n, x):
        same = n.net.add_identity(x).get_output(0)
        flat = n.net.add_shuffle(x)
        flat.reshape_dims = (-1,)
        constant = n.constant([1.0, 2.0])
        again = n.net.add_identity(constant).get_output(0)
        return same, flat.get_output(0), again

    outputs = (
        TensorBinding("same", torch.float32, ("s0", 4)),
        TensorBinding("flat", torch.float32, ("4*s0",)),
        TensorBinding("constant", torch.float32, (2,)),
    )
    artifact = make(body, (X,), outputs, ROWS)
    register_engine(artifact)
    x = torch.randn(2, 4)
    kept = x.clone()
    for _ in range(2):  # a constant that the first call gave away would be changed in the second
        results = op.execute_engine([x], [], artifact.container, artifact.manifest.to_json())
        assert torch.equal(results[2], torch.tensor([1.0, 2.0]))
        for result in results:
            result.add_(100)
    assert torch.equal(x, kept)


def test_fake_refuses_wrong_structure():
    from torch._subclasses import FakeTensorMode

    artifact = add_one()
    with FakeTensorMode():
        plan, text = torch.empty(4, dtype=torch.uint8), artifact.manifest.to_json()
        for bad in ([], [torch.empty(2, 4)] * 2, [torch.empty(2, 4, dtype=torch.float64)], [torch.empty(2)]):
            with pytest.raises(InputError):
                op.execute_engine(bad, [], plan, text)
        with pytest.raises(ArtifactError):
            op.execute_engine([torch.empty(2, 4)], [], plan, "{}")


def test_data_dependent_output_is_an_unbacked_symbol_in_export():
    artifact = add_one()
    text = artifact.manifest.to_json()
    import json

    document = json.loads(text)
    document["outputs"][0][2] = ["u0", 4]
    document["symbols"]["u0"] = ["output", 0, 0]
    text = json.dumps(document)
    from torch._subclasses import FakeTensorMode
    from torch.fx.experimental.symbolic_shapes import ShapeEnv

    with FakeTensorMode(shape_env=ShapeEnv()):
        (y,) = op.execute_engine([torch.empty(2, 4)], [], torch.empty(4, dtype=torch.uint8), text)
    assert "u" in str(y.shape[0])


def test_the_engine_dies_with_its_plan_and_survives_in_copies():
    module = Hybrid(add_one())
    id = get_engine_id(module)
    shared = copy.copy(module)
    shared(torch.randn(2, 4))
    del module
    assert get_engine(id) is not None
    shared(torch.randn(2, 4))
    text = shared.manifest
    del shared
    assert get_engine(id) is None
    gc.collect()
    with pytest.raises(ArtifactError, match="not in this process any more"):
        op.execute_engine([torch.randn(2, 4)], [], torch.zeros(8, dtype=torch.uint8), text)


def get_engine_id(module):
    from trtcore.artifact.manifest import EngineManifest

    return EngineManifest.from_json(module.manifest).id


def test_a_deep_copy_that_was_called_survives_the_original():
    module = Hybrid(add_one())
    twin = copy.deepcopy(module)
    x = torch.randn(2, 4)
    twin(x)
    del module
    gc.collect()
    assert torch.equal(twin(x), want(x))


class TestDeviceWithoutInputs:
    """Where the outputs of an engine without tensor inputs go: nothing in the call says it."""

    @pytest.fixture
    def manifest(self):
        return replace(sized().manifest, inputs=(), outputs=(), symbols={"s9": ("size", 0)})

    @pytest.fixture
    def two_gpus(self, monkeypatch):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
        monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)

    @pytest.mark.parametrize(
        ("runtime", "named", "expected"),
        [
            ("reference", None, "cpu"),
            ("reference", "cpu", "cpu"),
            ("reference", "cuda:0", "cuda:0"),
            ("reference", "cuda", "cuda:1"),
            ("reference", "cuda:7", "cuda:1"),
            ("native", None, "cuda:1"),
            ("native", "cuda:0", "cuda:0"),
        ],
    )
    def test_with_gpus(self, manifest, two_gpus, runtime, named, expected):
        target = {"platform": "linux_x86_64", **({"device": named} if named else {})}
        assert output_device(replace(manifest, runtime=runtime, target=target), []) == torch.device(expected)

    def test_without_a_gpu_the_reference_stays_on_the_cpu(self, manifest, monkeypatch):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        assert output_device(replace(manifest, target={"device": "cuda:0"}), []) == torch.device("cpu")

    @pytest.mark.parametrize("device", ["tpu", "cuda:x", 3, ""])
    def test_another_device_is_no_manifest(self, manifest, device):
        with pytest.raises(ArtifactError, match="device"):
            replace(manifest, target={"device": device})

    @pytest.mark.parametrize(
        ("device", "expected"), [("cuda:1", {"device": "cuda:1"}), ("cpu", {}), ("meta", {})]
    )
    def test_the_compile_writes_it_down(self, device, expected):
        node = torch.fx.Graph().placeholder("x")
        node.meta["val"] = SimpleNamespace(device=torch.device(device))
        segment = SimpleNamespace(inputs=(), outputs=(node,))
        assert _device_without_inputs(segment) == expected
        assert _device_without_inputs(SimpleNamespace(inputs=(node,), outputs=(node,))) == {}
