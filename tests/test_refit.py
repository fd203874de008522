"""`dynamo.refit_module_weights`: the weights of another program of the same model, without building an engine."""

from __future__ import annotations

import gc
import pickle
import warnings
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import trtcore
from trtcore.engine.refit import changed_constants
from trtcore.errors import InputError, RefitError, SettingsError
from trtcore.refit import engines_of

pytestmark = pytest.mark.usefixtures("trt_backend")

X = torch.linspace(-1, 1, 2 * 3 * 8 * 8).reshape(2, 3, 8, 8)


class Mixed(nn.Module):
    """Folded, cast, transposed, joined, tied and computed weights; parameters and a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)
        self.one, self.two = nn.Linear(8, 8), nn.Linear(8, 8)
        self.two.weight = self.one.weight
        self.layer_norm = nn.LayerNorm(8)
        self.lower = nn.Linear(8, 8).half()
        self.left, self.right = nn.Parameter(torch.randn(4, 8)), nn.Parameter(torch.randn(4, 8))
        self.register_buffer("offset", torch.randn(8))

    def forward(self, x):
        x = self.norm(self.conv(x)).relu().mean((2, 3))
        x = self.layer_norm(self.two(self.one(x)))
        x = self.lower(x.half()).float()
        return x @ (torch.cat([self.left, self.right.half().float()]) * 2 + 1).t() + self.offset


def other(kind=Mixed, seed=1, **kwargs):
    """The model with random weights, and with statistics as after training."""
    torch.manual_seed(seed)
    model = kind(**kwargs).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
        if isinstance(module, (nn.BatchNorm2d, nn.LayerNorm)):
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)
    return model


def compiled(model, *inputs, **settings):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return trtcore.compile(model, inputs=list(inputs), runtime="reference", min_block_size=1, **settings)


def refit(module, model, *inputs, **kwargs):
    return trtcore.dynamo.refit_module_weights(module, trtcore.dynamo.trace(model, list(inputs)), **kwargs)


def close(got, wanted):
    torch.testing.assert_close(got, wanted, rtol=1e-3, atol=2e-3)


def same(got, wanted):
    assert torch.equal(got, wanted)


@pytest.fixture(scope="module")
def mixed():
    torch.manual_seed(0)
    model = Mixed().eval()
    return model, compiled(model, X, immutable_weights=False)


def test_every_weight_of_the_new_program_is_in_the_module(mixed):
    _, module = mixed
    before = module(X)
    new = other()
    made = refit(module, new, X, arg_inputs=[X], verify_output=True)
    close(made(X), new(X))
    assert (made(X) - before).abs().max() > 0.1
    same(module(X), before)
    assert made.report.kind == "refit"
    assert not any(stage.name == "build" for stage in made.report.stages)


def test_the_hashes_in_the_engines_are_those_of_the_new_constants(mixed):
    _, module = mixed
    for cached in (True, False):
        made = refit(module, other(), X, use_weight_map_cache=cached)
        for engine in engines_of(made):
            engine.verify()
            records = {record.name: record.sha256 for record in engine.manifest.weights}
            known = {record.name: record.sha256 for record in engines_of(module)[0].manifest.weights}
            assert records["conv.weight"] != known["conv.weight"]


def test_what_has_not_changed_keeps_its_hash_and_the_rest_is_hashed(mixed, monkeypatch):
    """A partial refit: one low-rank update of one weight."""
    import hashlib

    from trtcore.artifact import engine_file

    model, module = mixed
    changed = other(seed=0)
    changed.load_state_dict(model.state_dict())
    with torch.no_grad():
        changed.one.weight += torch.outer(torch.ones(8), torch.arange(8.0))  # tied: two layers
    hashed = []

    class Counted:
        def __init__(self, *args, **kwargs):
            self.digest, self.bytes = hashlib.sha256(), 0
            hashed.append(self)

        def update(self, data):
            self.bytes += len(data)
            self.digest.update(data)

        def hexdigest(self):
            return self.digest.hexdigest()

    program = trtcore.dynamo.trace(changed, [X])
    monkeypatch.setattr(engine_file, "hashlib", SimpleNamespace(sha256=Counted))
    made = trtcore.dynamo.refit_module_weights(module, program)
    some = sum(one.bytes for one in hashed)
    monkeypatch.undo()
    # Half precision with weights ten times as large: what processors round differently is larger, too.
    torch.testing.assert_close(made(X), changed(X), rtol=1e-2, atol=2e-2)
    assert not torch.allclose(module(X), changed(X), rtol=1e-1, atol=2e-1)
    assert some == changed.one.weight.nbytes
    for engine in engines_of(made):
        engine.verify()


def test_in_place_changes_the_module_and_keeps_its_hooks():
    model, new = other(seed=0), other()
    module = compiled(model, X, immutable_weights=False)
    seen = []
    module.register_forward_hook(lambda *_: seen.append(1))
    module.register_forward_pre_hook(lambda *_: seen.append(0))
    assert refit(module, new, X, in_place=True) is module
    close(module(X), new(X))
    assert seen == [0, 1]


@pytest.mark.parametrize("way", ["save", "pickle", "in_place_of_loaded"])
def test_what_was_refitted_goes_through_files(mixed, tmp_path, way):
    model, module = mixed
    new = other()
    made = refit(module, new, X)
    if way == "pickle":
        back = pickle.loads(pickle.dumps(made))
    else:
        trtcore.save(made, tmp_path / "m.pt2")
        back = trtcore.load(tmp_path / "m.pt2")
    same(back(X), made(X))
    again = refit(back, model, X, in_place=way == "in_place_of_loaded")
    close(again(X), model(X))
    if way != "in_place_of_loaded":
        same(back(X), made(X))


def test_a_plan_without_refit_is_dropped_and_told(mixed, tmp_path):
    """On the reference runtime any engine takes weights; TensorRT's plan of the old ones must never run again."""
    _, module = mixed
    made = refit(module, other(), X)
    (engine,) = engines_of(made)
    assert (engine.manifest.plan, engine.plan.numel()) == ("none", 0)
    trtcore.save(made, tmp_path / "m.pt2")
    with pytest.raises(trtcore.errors.ArtifactError, match="weights that its plan could not take"):
        trtcore.load(tmp_path / "m.pt2", runtime="native")
    with pytest.raises(trtcore.errors.ArtifactError, match="cannot be saved without its network"):
        trtcore.save(made, tmp_path / "m.pt2", reference=False)


def test_the_same_weights_keep_the_plan(mixed):
    model, module = mixed
    made = refit(module, model, X)
    (engine,) = engines_of(made)
    assert engine.manifest.plan == "whole"
    assert torch.equal(engine.plan, engines_of(module)[0].plan)


class InTorch(nn.Module):
    """Engines with an op in torch between them, which has weights of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(4, 4), nn.Linear(4, 4)
        self.matrix = nn.Parameter(torch.randn(4, 4))
        self.register_buffer("count", torch.zeros(()))

    def forward(self, x):
        self.count.add_(1)
        return self.two(self.one(x) @ torch.linalg.matrix_exp(self.matrix + x[0, 0])) + self.count


def test_weights_of_ops_in_torch_and_buffers_that_are_written():
    torch.manual_seed(0)
    model, new = InTorch().eval(), InTorch().eval()
    x = torch.randn(3, 4)
    module = compiled(model, x)
    assert len(module.report.engines) >= 2
    made = refit(module, new, x)
    for _ in range(2):
        count = new.count.clone()
        wanted = new(x)
        new.count.copy_(count)
        torch.testing.assert_close(made(x), wanted, rtol=1e-3, atol=1e-3)


class Dynamic(nn.Module):
    def __init__(self, size=4) -> None:
        super().__init__()
        self.line = nn.Linear(4, size)

    def forward(self, x, *, scale: float = 2.0):
        return self.line(x).reshape(-1, 2) * scale


@pytest.mark.parametrize(
    "wanted",
    [trtcore.Input(min_shape=(1, 4), opt_shape=(3, 4), max_shape=(8, 4)), trtcore.Input(profiles=[(1, 4), ((2, 4), (4, 4), (8, 4))])],
    ids=["range", "profiles"],
)  # fmt: skip
def test_sizes_that_vary(wanted):
    module = compiled(other(Dynamic, 0), wanted)
    new = other(Dynamic)
    batch = torch.export.Dim("rows", min=1, max=64)
    program = torch.export.export(new, (torch.randn(5, 4),), dynamic_shapes=({0: batch},))
    made = trtcore.dynamo.refit_module_weights(module, program)
    for size in (1, 2, 8):
        x = torch.randn(size, 4)
        torch.testing.assert_close(made(x), new(x))
    with pytest.raises(trtcore.errors.InputError):
        made(torch.randn(9, 4))
    kept = [one.manifest.inputs[0].all_profiles for one in (engines_of(made)[0], engines_of(module)[0])]
    assert kept[0] == kept[1]


class Table(nn.Module):
    def __init__(self, size=4) -> None:
        super().__init__()
        self.table = nn.Embedding(9, size)

    def forward(self, x):
        return self.table(x).float().relu() + 1


@pytest.mark.gpu
def test_weights_on_a_gpu():
    model, new, x = other(seed=0).cuda(), other().cuda(), X.cuda()
    made = refit(compiled(model, x), new, x)
    torch.testing.assert_close(made(x), new(x), rtol=1e-2, atol=1e-2)


# ---- what is refused ----------------------------------------------------------------------------------------


class Renamed(Mixed):
    def __init__(self) -> None:
        super().__init__()
        self.extra = nn.Parameter(torch.randn(8))

    def forward(self, x):
        return super().forward(x) + self.extra


class Gelu(Mixed):
    def forward(self, x):
        return nn.functional.gelu(super().forward(x))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (Renamed, "it has extra, which the module has not"),
        (Gelu, "engine_0 of the new program is no engine of the module with other weights.*layers?"),
        (lambda: Dynamic(4), "lacks conv.weight|is 8 at dimension 3"),
    ],
)
def test_another_model_is_refused_and_the_module_stays(mixed, model, message):
    _, module = mixed
    before = module(X)
    torch.manual_seed(0)
    new = model().eval()
    x = X if isinstance(new, Mixed) else torch.randn(2, 3, 8, 4)
    with pytest.raises(RefitError, match=message):
        refit(module, new, x, in_place=True)
    same(module(X), before)


@pytest.mark.parametrize(
    ("size", "dtype", "message"),
    [
        (5, torch.float32, r"table.weight is float32\[9, 5\], and was float32\[9, 4\]"),
        (4, torch.float16, r"table.weight is float16\[9, 4\]"),
    ],
)
def test_weights_of_another_shape_or_dtype_are_named(size, dtype, message):
    x = torch.ones(2, 3, dtype=torch.int64)
    module = compiled(other(Table), x)
    with pytest.raises(RefitError, match=message):
        refit(module, other(Table, size=size).to(dtype), x)


def test_a_program_for_other_sizes_is_refused():
    module = compiled(other(Dynamic), torch.randn(3, 4))
    with pytest.raises(RefitError, match="is 3 at dimension 0, there it is 2"):
        refit(module, other(Dynamic), torch.randn(2, 4))


@pytest.mark.parametrize("given", [nn.Linear(1, 1), {}])
def test_what_is_no_program_is_refused(mixed, given):
    with pytest.raises(RefitError, match=r"must come in an ExportedProgram"):
        trtcore.dynamo.refit_module_weights(mixed[1], given)
    with pytest.raises(RefitError, match=r"takes what trtcore\.compile returned"):
        trtcore.dynamo.refit_module_weights(given, given)


def test_verify_output_compares_and_wants_inputs(mixed, monkeypatch):
    _, module = mixed
    with pytest.raises(RefitError, match="give arg_inputs"):
        refit(module, other(), X, verify_output=True)
    import trtcore.refit as room

    monkeypatch.setattr(room.torch, "allclose", lambda *_, **__: False)
    with pytest.raises(RefitError, match="result 0 of the module is off by"):
        refit(module, other(), X, verify_output=True, arg_inputs=[X])


def test_verify_output_with_inputs_of_another_shape_says_which(mixed):
    _, module = mixed
    with pytest.raises(InputError, match="input x"):
        refit(module, other(), X, verify_output=True, arg_inputs=[X[:, :-1]])


def test_a_module_without_its_network_takes_no_weights(mixed, tmp_path):
    module = compiled(mixed[0], X)
    trtcore.save(module, tmp_path / "m.pt2", reference=False)
    del module  # its engines would be found in this process
    gc.collect()
    loaded = trtcore.load(tmp_path / "m.pt2")
    with pytest.raises(RefitError, match="saved without its network"):
        refit(loaded, other(), X)


def test_values_that_decide_what_is_built_are_not_refitted():
    """A batch normalisation whose statistics are not finite is not folded: the network is another one."""
    x = X[:, :, :4, :4]
    model = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)).eval()
    new = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)).eval()
    new[1].running_mean[0] = float("inf")
    module = compiled(model, x)
    with pytest.raises(RefitError, match="is no engine of the module with other weights"):
        refit(module, new, x)


# ---- settings -----------------------------------------------------------------------------------------------


def test_tensorrt_rtx_without_a_driver_builds_no_refittable_plan(trt_backend):
    if trt_backend.can("flag:REFIT", trt_backend.default_target(trtcore.CompilationSettings())).ok:
        pytest.skip("this backend builds refittable plans here")
    with pytest.raises(SettingsError, match="immutable_weights=False cannot be done") as caught:
        trtcore.compile(other(Dynamic), inputs=[torch.randn(3, 4)], immutable_weights=False)
    assert 'runtime="reference"' in caught.value.advice
    with pytest.raises(SettingsError, match="strip_engine_weights=True cannot be done"):
        compiled(other(Dynamic), torch.randn(3, 4), immutable_weights=False, strip_engine_weights=True)
    with pytest.raises(SettingsError, match="refit_identical_engine_weights=True cannot be done"):
        compiled(
            other(Dynamic), torch.randn(3, 4), immutable_weights=False, refit_identical_engine_weights=True
        )


@pytest.mark.parametrize("name", ["strip_engine_weights", "refit_identical_engine_weights"])
def test_what_needs_plans_that_take_weights_says_so(name):
    with pytest.raises(SettingsError, match=f"{name}=True needs plans that take weights"):
        trtcore.CompilationSettings(**{name: True})
    trtcore.CompilationSettings(**{name: True, "immutable_weights": False})


class Possible:
    """A backend that can do anything."""

    def __init__(self, backend):
        self._backend = backend

    def __getattr__(self, name):
        return getattr(self._backend, name)

    def can(self, feature, target):
        from trtcore.backend.base import Capability

        return Capability(True)


@pytest.mark.parametrize(
    ("settings", "flags"),
    [
        ({}, set()),
        ({"immutable_weights": False}, {"REFIT"}),
        ({"immutable_weights": False, "strip_engine_weights": True}, {"REFIT", "STRIP_PLAN"}),
        ({"immutable_weights": False, "refit_identical_engine_weights": True}, {"REFIT_IDENTICAL"}),
        ({"enable_weight_streaming": True}, {"WEIGHT_STREAMING"}),
    ],
)
def test_the_flags_on_the_real_builder_config(trt_backend, settings, flags):
    from trtcore.backend.base import Target
    from trtcore.engine.config import make_config

    backend = Possible(trt_backend)
    logger = backend.make_logger()
    builder = backend.make_builder(logger)
    config = make_config(backend, builder, trtcore.CompilationSettings(**settings), Target(), logger)
    all_of_them = ("REFIT", "REFIT_IDENTICAL", "STRIP_PLAN", "WEIGHT_STREAMING")
    assert {name for name in all_of_them if config.get_flag(getattr(backend.trt.BuilderFlag, name))} == flags


def test_constants_of_one_element_with_any_strides():
    def snapshot(value):
        one = torch.full((5, 5), value).diagonal()[:1]
        assert one.stride() == (6,)
        return SimpleNamespace(layers=[SimpleNamespace(index=0, constants={"weights": one})])

    assert changed_constants(snapshot(3), snapshot(3)) == ()
    assert changed_constants(snapshot(3), snapshot(4)) == ((0, "weights"),)
