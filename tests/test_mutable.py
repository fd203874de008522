"""`MutableModule`: whatever is done to the model, the next call is the model's."""

from __future__ import annotations

import copy
import functools
import gc
import pickle
import types
import warnings
import weakref
from collections.abc import Iterator

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

import trtcore
from trtcore.errors import ArtifactError, ExportError, InputError, SettingsError

pytestmark = [
    pytest.mark.usefixtures("trt_backend"),
    pytest.mark.filterwarnings("ignore:.*exported in training mode"),
    pytest.mark.filterwarnings("ignore:.*in training mode runs in torch"),
]


@pytest.fixture(autouse=True)
def _no_grad() -> Iterator[None]:
    with torch.no_grad():
        yield


class Config:
    def __init__(self) -> None:
        self.scales = [1.0, 2.0]


class Lora(nn.Module):
    """A linear layer with an adapter that can be turned on and off."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base, self.on = base, True
        self.down = nn.Parameter(torch.randn(2, base.in_features))
        self.up = nn.Parameter(torch.randn(base.out_features, 2))

    def forward(self, x):
        y = self.base(x)
        return y + x @ self.down.t() @ self.up.t() if self.on else y


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(4, 4), nn.Linear(4, 4)
        self.norm = nn.BatchNorm1d(4)
        self.register_buffer("count", torch.zeros(4))
        self.register_buffer("mask", torch.ones(4), persistent=False)
        self.config, self.flag, self.table = Config(), 1, torch.arange(4.0)

    def forward(self, x, *, bias: float = 0.0):
        self.count.add_(1)
        x = self.two(self.norm(self.one(x)).relu() * self.mask) * self.config.scales[0]
        return x * self.flag + self.count + self.table + bias


def made(**kwargs):
    """The mutable module, and its like in eager."""
    torch.manual_seed(0)
    model = Model().eval()
    return trtcore.MutableModule(model, min_block_size=1, **kwargs), copy.deepcopy(model)


def agree(fast, slow, x=None, **kwargs):
    x = torch.linspace(-1, 1, 12).reshape(3, 4) if x is None else x
    torch.testing.assert_close(fast(x, **kwargs), slow(x, **kwargs), rtol=1e-4, atol=1e-4)


def both(*models):
    """Do the same to each, with the same random numbers."""
    for model in models:
        torch.manual_seed(7)
        yield model


# name -> (what is done to a model, whether an engine may have to be built)
CHANGES = {
    "load_state_dict": (lambda m: m.load_state_dict({k: torch.rand_like(v.float()) for k, v in m.state_dict().items()}), False),
    "in_place": (lambda m: m.one.weight.mul_(2), False),
    "element": (lambda m: m.one.weight[0, 1].fill_(5), False),
    "data_in_place": (lambda m: m.one.weight.data.mul_(-1), False),
    "data_replaced": (lambda m: setattr(m.one.weight, "data", torch.randn(4, 4)), False),
    "parameter": (lambda m: setattr(m.one, "weight", nn.Parameter(torch.randn(4, 4))), False),
    "statistics": (lambda m: m.norm.running_mean.add_(1), False),
    "buffer_in_place": (lambda m: m.mask.mul_(3), False),
    "buffer_replaced": (lambda m: setattr(m, "mask", torch.randn(4)), False),
    "written_buffer": (lambda m: m.count.fill_(40), False),
    "written_buffer_replaced": (lambda m: setattr(m, "count", torch.full((4,), 9.0)), False),
    "flag": (lambda m: setattr(m, "flag", m.flag + 1), True),
    "plain_tensor": (lambda m: m.table.add_(1), False),
    "plain_tensor_replaced": (lambda m: setattr(m, "table", torch.randn(4)), False),
    "attribute_of_attribute": (lambda m: m.config.scales.__setitem__(0, 3.0), True),
    "submodule": (lambda m: setattr(m, "two", nn.Linear(4, 4)), False),
    "other_submodule": (lambda m: setattr(m, "two", nn.Sequential(nn.Linear(4, 4), nn.GELU())), True),
    "tie": (lambda m: setattr(m.two, "weight", m.one.weight), True),
    "hook": (lambda m: m.one.register_forward_hook(lambda mod, args, out: out + 1), True),
    "root_hook": (lambda m: m.register_forward_pre_hook(lambda mod, args: (args[0] * 2,)), True),
    "method": (lambda m: setattr(m.two, "forward", types.MethodType(lambda s, x: nn.Linear.forward(s, x) - 1, m.two)), True),
    "partial": (lambda m: setattr(m.two, "forward", functools.partial(torch.mul, 2.0)), True),
    "adapter": (lambda m: setattr(m, "one", Lora(m.one)), True),
    "norm_in_training": (lambda m: m.norm.train(), True),
    "training": (lambda m: m.train(), False),
    "no_bias": (lambda m: m.one.register_parameter("bias", None), True),
    "other_size": (lambda m: (setattr(m, "one", nn.Linear(4, 6)), setattr(m, "norm", nn.BatchNorm1d(6).eval()), setattr(m, "two", nn.Linear(6, 4)), setattr(m, "mask", torch.ones(6))), True),
    "double": (lambda m: m.to(torch.float64).to(torch.float32), False),
}  # fmt: skip


def _apply(name, fast, slow):
    """Make a change and call; no engine is built for what is a change of values alone."""
    change, may_build = CHANGES[name]
    before = fast.report
    for model in both(fast, slow):
        change(model)
    agree(fast, slow)
    report = fast.report
    agree(fast, slow)
    assert fast.report is report, "the second call did something"
    if not may_build and report is not before:
        assert not any(stage.name == "build" for stage in report.stages), f"{name}: an engine was built"


@pytest.mark.slow
@pytest.mark.parametrize("name", CHANGES)
def test_a_change_alone(name):
    fast, slow = made()
    agree(fast, slow)
    _apply(name, fast, slow)


def test_changes_are_in_the_next_call():
    """One after the other, so that there is one capture and build to begin with; alone they are in the slow tests."""
    fast, slow = made()
    agree(fast, slow)
    for name in CHANGES:
        if CHANGES[name][1] is False and name != "training":
            _apply(name, fast, slow)


def test_changes_of_structure_are_in_the_next_call():
    fast, slow = made()
    agree(fast, slow)
    for name in ("flag", "attribute_of_attribute", "adapter", "method", "hook", "root_hook"):
        _apply(name, fast, slow)


def test_nothing_is_done_where_nothing_has_changed():
    fast, slow = made()
    agree(fast, slow)
    report = fast.report
    for _ in range(3):
        agree(fast, slow)
    assert fast.report is report


@pytest.mark.slow
@settings(max_examples=25, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_any_sequence_of_changes(data):
    _sequence(data, steps=12)


@settings(max_examples=1, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_a_sequence_of_changes(data):
    _sequence(data, steps=4)


def _sequence(data, steps):
    with torch.no_grad():
        fast, slow = made()
        names = [
            name
            for name in CHANGES
            if name not in ("other_size", "no_bias", "partial", "other_submodule", "tie", "method")
        ]
        for _ in range(data.draw(st.integers(1, steps))):
            action = data.draw(st.sampled_from([*names, "eval", "call", "call", "copy"]))
            rows = data.draw(st.integers(2, 3))
            if action == "call":
                agree(fast, slow, torch.randn(rows, 4))
            elif action == "copy":
                fast = copy.deepcopy(fast)
            elif "one.weight" not in dict(fast.named_parameters()) and action in (
                "in_place",
                "element",
                "data_in_place",
                "data_replaced",
                "parameter",
                "adapter",
            ):
                continue  # an adapter has taken its place
            else:
                change = (lambda m: m.eval()) if action == "eval" else CHANGES[action][0]
                for model in both(fast, slow):
                    change(model)
        agree(fast, slow)  # fmt: skip


def test_switching_back_and_forth_builds_and_captures_nothing():
    fast, slow = made()
    for model in both(fast, slow):
        model.one = Lora(model.one)
    agree(fast, slow)
    for model in both(fast, slow):
        model.one.on = False
    agree(fast, slow)
    report = fast.report
    for on in (True, False, True):
        for model in both(fast, slow):
            model.one.on = on
        agree(fast, slow)
    assert fast.report is report
    for model in both(fast, slow):  # another adapter: only its weights
        model.one.up = nn.Parameter(torch.randn(4, 2))
    agree(fast, slow)
    assert fast.report.kind == "refit"


def test_peft_adapters():
    peft = pytest.importorskip("peft")
    fast, slow = made()
    config = peft.LoraConfig(r=2, target_modules=["one", "two"], init_lora_weights=False)
    for model in both(fast, slow):
        peft.inject_adapter_in_model(config, model)
        model.eval()
    agree(fast, slow)
    for enabled in (False, True):
        for model in both(fast, slow):
            for module in model.modules():
                if isinstance(module, peft.tuners.lora.LoraLayer):
                    module.enable_adapters(enabled)
        agree(fast, slow)


@pytest.mark.gpu
def test_to_another_device_and_back():
    fast, slow = made()
    x = torch.randn(3, 4)
    agree(fast, slow, x)
    for device in ("cuda", "cpu"):
        for model in both(fast, slow):
            model.to(device)
            model.table = model.table.to(device)
        agree(fast, slow, x.to(device))
        for model in both(fast, slow):
            model.one.weight.mul_(2)
        agree(fast, slow, x.to(device))
        assert fast.report.kind == "refit"


# ---- it is the model ----------------------------------------------------------------------------------------


def test_it_is_the_model_under_another_class():
    model = Model().eval()
    fast = trtcore.MutableModule(model)
    assert isinstance(fast, Model)
    assert isinstance(fast, trtcore.MutableModule)
    assert fast.one is model.one
    fast.flag = 5
    assert model.flag == 5
    del fast.flag
    assert not hasattr(model, "flag")
    assert list(fast.state_dict()) == list(model.state_dict())
    assert [name for name, _ in fast.named_modules()] == [name for name, _ in model.named_modules()]
    with pytest.raises(AttributeError):
        _ = fast.nothing
    assert trtcore.MutableModule(fast).one is model.one


def test_names_of_the_model_come_first():
    class Own(nn.Module):
        report = "mine"

        def save(self):
            return "saved"

        def load(self):
            return "loaded"

        def forward(self, x):
            return x + 1

    fast = trtcore.MutableModule(Own().eval())
    assert (fast.report, fast.save(), fast.load()) == ("mine", "saved", "loaded")


def test_a_graph_module_that_is_edited_and_models_with_a_metaclass():
    class Meta(type):
        pass

    class Plain(nn.Module, metaclass=Meta):
        def forward(self, x):
            return x.relu()

    x = torch.randn(2, 4)
    torch.testing.assert_close(trtcore.MutableModule(Plain().eval(), min_block_size=1)(x), x.relu())
    graph = torch.fx.symbolic_trace(Plain()).eval()
    fast = trtcore.MutableModule(graph, min_block_size=1)
    torch.testing.assert_close(fast(x), x.relu())
    (node,) = (one for one in graph.graph.nodes if one.target == "relu")
    node.target = "sigmoid"
    graph.recompile()
    torch.testing.assert_close(fast(x), x.sigmoid())


def test_objects_that_hold_one_another():
    class Link:
        def __init__(self, other):
            self.other = other

    class Chained(nn.Module):
        def __init__(self):
            super().__init__()
            self.chain = Link(None)
            self.chain.other = self.chain
            self.first = functools.reduce(lambda other, _: Link(other), range(2000), None)
            self.back = Link(self)

        def forward(self, x):
            return x + 1 if self.first.other else x

    model = Chained().eval()
    fast = trtcore.MutableModule(model, min_block_size=1)
    x = torch.randn(2, 4)
    torch.testing.assert_close(fast(x), x + 1)
    model.first.other = None
    torch.testing.assert_close(fast(x), x)


def test_classes_whose_attributes_hold_classes_do_not_change_by_being_looked_at():
    from trtcore.mutable.looking import Looker

    class Listed(nn.Module):
        kinds = {"a": nn.Linear, "b": [nn.ReLU, 1.5]}

        def forward(self, x):
            return x + 1

    model, looker = Listed().eval(), Looker()
    look = looker.look_at(model)
    assert looker.look_at(model).structure == look.structure
    Listed.kinds["b"][1] = 2.5
    assert looker.look_at(model).structure != look.structure


def test_methods_of_the_model_call_the_engines():
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.line = nn.Linear(4, 4)

        def forward(self, x):
            return self.line(x)

        def twice(self, x):
            return self(self.forward(x))

    model = Twice().eval()
    fast = trtcore.MutableModule(model, min_block_size=1)
    x = torch.randn(2, 4)
    torch.testing.assert_close(fast.twice(x), model.twice(x))
    assert fast.report.engines


def test_calls_of_other_shapes_modes_and_values():
    fast, slow = made()
    for rows in (1, 2, 5, 1):
        agree(fast, slow, torch.randn(rows, 4))
    agree(fast, slow, bias=2.0)
    agree(fast, slow, torch.randn(2, 4).t().contiguous().t())
    with (
        torch.autocast("cpu", dtype=torch.bfloat16),
        pytest.warns(UserWarning, match=r"under torch\.autocast"),
    ):
        agree(fast, slow)
    with pytest.raises((InputError, ExportError)):
        fast(torch.randn(2, 5))
    agree(fast, slow)


def test_ranges_are_compiled_once_and_other_calls_for_their_sizes():
    fast, slow = made(arg_inputs=[trtcore.Input(min_shape=(1, 4), opt_shape=(2, 4), max_shape=(4, 4))])
    agree(fast, slow, torch.randn(2, 4))
    report = fast.report
    for rows in (1, 3, 4):
        agree(fast, slow, torch.randn(rows, 4))
    assert fast.report is report
    agree(fast, slow, torch.randn(9, 4))
    assert fast.report is not report
    fast.set_expected_dynamic_shape_range(
        [trtcore.Input(min_shape=(1, 4), opt_shape=(2, 4), max_shape=(20, 4))]
    )
    for rows in (11, 12):
        agree(fast, slow, torch.randn(rows, 4))


def test_training_runs_in_torch_with_gradients():
    fast, _ = made()
    fast.train()
    with torch.enable_grad(), pytest.warns(UserWarning, match="in training mode runs in torch"):
        fast(torch.randn(3, 4)).sum().backward()
    assert fast.one.weight.grad is not None


@pytest.mark.parametrize("wrong", [None, 3, torch.jit.trace(nn.ReLU(), torch.ones(1))])
def test_what_is_no_module_is_refused(wrong):
    with pytest.raises(InputError, match="takes an nn"):
        trtcore.MutableModule(wrong)
    with pytest.raises(SettingsError, match="min_block_size"):
        trtcore.MutableModule(nn.ReLU(), min_block=1)


def test_nothing_of_it_stays():
    fast, _ = made()
    fast(torch.randn(2, 4))
    reference = weakref.ref(fast._calls)
    del fast
    gc.collect()
    assert reference() is None


# ---- copies and files ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "way", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))], ids=["copy", "pickle"]
)
def test_copies_and_pickles(way):
    fast, slow = made()
    agree(fast, slow)
    other = way(fast)
    other.one.weight.zero_()
    agree(fast, slow)
    slow.one.weight.zero_()
    slow.count.copy_(other.count)
    agree(other, slow)


def test_save_and_load_build_nothing(tmp_path):
    fast, slow = made()
    for model in both(fast, slow):
        model.two.weight = model.one.weight
    agree(fast, slow)
    fast.save(tmp_path / "m.trtcore")
    torch.manual_seed(3)
    model = Model().eval()
    model.two.weight = model.one.weight
    back = trtcore.MutableModule.load(tmp_path / "m.trtcore", model)
    agree(back, slow)
    assert not any(stage.name == "build" for stage in back.report.stages)
    for model in both(back, slow):
        model.one.weight.mul_(2)
    agree(back, slow)


def test_damaged_and_foreign_files(tmp_path):
    fast, _ = made()
    fast(torch.randn(2, 4))
    path = tmp_path / "m.trtcore"
    fast.save(path)
    with pytest.raises(ArtifactError, match="not those of this Linear"):
        trtcore.MutableModule.load(path, nn.Linear(2, 2))
    data = path.read_bytes()
    for wrong in (
        b"",
        b"nonsense",
        data[:1000],
        data[: len(data) // 2] + b"x" * 99 + data[len(data) // 2 + 99 :],
    ):
        path.write_bytes(wrong)
        with warnings.catch_warnings(), pytest.raises(ArtifactError):
            trtcore.MutableModule.load(path, Model())
    with pytest.raises(ArtifactError):
        trtcore.MutableModule.load(tmp_path / "none", Model())
