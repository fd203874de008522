"""Under torch.compile a changed weight is never stale, whichever way it was changed."""

import copy
import time

import pytest
import torch
from torch import nn

from trtcore.jit.backend import reports
from trtcore.runtime.weight_watch import WeightWatch

OPTIONS = {"min_block_size": 1}


@pytest.fixture(autouse=True)
def fresh():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def network():
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 4)).eval()


def compiled(model, **kwargs):
    return torch.compile(model, backend="trtcore", options=OPTIONS, **kwargs)


def check(fast, model, *shape):
    x = torch.randn(*(shape or (3, 4)))
    torch.testing.assert_close(fast(x), model(x), rtol=1e-4, atol=1e-4)


def optimizer_step(model):
    with torch.enable_grad():
        model(torch.randn(3, 4)).square().sum().backward()
    torch.optim.SGD(model.parameters(), lr=0.5).step()


def replace_parameter(model):
    model[0].weight = nn.Parameter(torch.randn(8, 4))


def replace_data(model):
    model[2].bias.data = torch.randn(4)


def write_data(model):
    model[2].weight.data.mul_(-2)


def write_numpy(model):
    model[0].bias.detach().numpy()[:] = 3


CHANGES = {
    "add_": lambda m: m[0].weight.add_(1),
    "copy_": lambda m: m[0].bias.copy_(torch.randn(8)),
    "load_state_dict": lambda m: m.load_state_dict(network().state_dict()),
    "load_state_dict(assign)": lambda m: m.load_state_dict(network().state_dict(), assign=True),
    "optimizer": optimizer_step,
    "init": lambda m: nn.init.normal_(m[2].weight),
    "new parameter": replace_parameter,
    "data =": replace_data,
    "data.mul_": write_data,
    "numpy": write_numpy,
    "_apply": lambda m: m.double().float(),
}


@torch.no_grad()
def test_every_change_is_seen():
    model = network()
    fast = compiled(model)
    check(fast, model)
    for name, change in CHANGES.items():
        before, count = model(torch.ones(1, 4)), len(reports())
        change(model)
        if name != "_apply":
            assert not torch.allclose(model(torch.ones(1, 4)), before), name
        check(fast, model)
        assert len(reports()) > count, name
        check(fast, model)
        assert len(reports()) == count + 1, f"{name}: compiled again without a change"
    reasons = [entry.reason for entry in reports()]
    assert reasons[0] == "new graph"
    assert reasons[1] == "0.weight was changed in place"
    assert "2.weight was changed in place (through .data or the like)" in reasons


def test_a_write_in_inference_mode_is_seen():
    with torch.inference_mode():
        model = network()
        fast = compiled(model)
        check(fast, model)
        model[0].weight.neg_()
        check(fast, model)


@torch.no_grad()
def test_nan_in_a_weight_is_no_change():
    model = network()
    model[0].bias[0] = float("nan")
    fast = compiled(model)
    fast(torch.randn(3, 4))
    fast(torch.randn(3, 4))
    assert len(reports()) == 1


@torch.no_grad()
def test_tied_weights_change_together():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Embedding(11, 6)
            self.out = nn.Linear(6, 11, bias=False)
            self.out.weight = self.embed.weight

        def forward(self, ids):
            return self.out(torch.tanh(self.embed(ids)))

    model = Tied().eval()
    fast = compiled(model)
    ids = torch.randint(0, 11, (2, 5))
    for _ in range(2):
        torch.testing.assert_close(fast(ids), model(ids), rtol=1e-4, atol=1e-4)
        model.out.weight.add_(0.5)
    assert len(reports()) == 2
    assert all(entry.report.fully_converted for entry in reports())


@torch.no_grad()
def test_blocks_that_share_a_graph_keep_their_own_weights():
    blocks = [network() for _ in range(3)]
    fast = [compiled(block) for block in blocks]
    x = torch.randn(3, 4)
    for _ in range(3):
        for block, quick in zip(blocks, fast):
            torch.testing.assert_close(quick(x), block(x), rtol=1e-4, atol=1e-4)
    assert len(reports()) == 3
    blocks[1][0].weight.add_(1)
    for block, quick in zip(blocks, fast):
        torch.testing.assert_close(quick(x), block(x), rtol=1e-4, atol=1e-4)
    assert len(reports()) == 4


@torch.no_grad()
def test_a_copy_of_the_model_has_its_own_weights():
    model = network()
    fast = compiled(model)
    check(fast, model)
    other = copy.deepcopy(fast)
    for parameter in other.parameters():
        parameter.neg_()
    check(other, other._orig_mod)
    check(fast, model)


@torch.no_grad()
def test_sizes_stay_allowed_when_a_weight_changes():
    model = network()
    fast = compiled(model, dynamic=True)
    check(fast, model, 3, 4)
    check(fast, model, 20, 4)
    model[0].weight.add_(1)
    check(fast, model, 3, 4)
    check(fast, model, 60, 4)
    ranges = [tuple(entry.report.symbols.values()) for entry in reports()]
    assert ranges == [((2, 3, 16),), ((2, 20, 128),), ((2, 3, 128),)]
    assert reports()[1].reason.endswith("dimension 0 is 20, outside of 2..16")


def test_watching_is_exact_about_what_changed():
    tensors = [torch.randn(5), torch.randn(64, 64, dtype=torch.float16), torch.randn(6, 4).t()]
    watch = WeightWatch(tensors, ["a", "b", "c"])
    assert watch.watches(tensors)
    assert watch.change(tensors) is None
    assert not watch.watches([tensors[0].clone(), *tensors[1:]])
    tensors[2].data.add_(1)
    assert watch.change(tensors) == "c was changed in place (through .data or the like)"
    tensors[1].add_(1)
    assert watch.change(tensors) == "b was changed in place"
    tensors[0].data = torch.randn(5)
    assert watch.change(tensors) == "a has other memory than before"
    assert watch.alive()
    del tensors
    assert not watch.alive()


def test_every_kind_of_tensor_can_be_watched():
    tensors = [
        torch.tensor(3.0),
        torch.zeros(0, 4),
        torch.zeros(3, dtype=torch.bool),
        torch.zeros(3, dtype=torch.complex128),
        torch.zeros(3, dtype=torch.float8_e4m3fn),
        torch.zeros(1, 3).expand(4, 3),
        torch.zeros(2, 3).to_sparse(),
    ]
    watch = WeightWatch(tensors[:-1], "abcdef")
    assert watch.change(tensors[:-1]) is None
    tensors[3].data.fill_(1j)
    assert watch.change(tensors[:-1]) == "d was changed in place (through .data or the like)"


@pytest.mark.gpu
@torch.no_grad()
def test_changes_on_a_gpu():
    tensors = [torch.randn(8, 4, device="cuda"), torch.randn(4, device="cuda", dtype=torch.float16)]
    watch = WeightWatch(tensors, ["a", "b"])

    def change():
        time.sleep(0.03)  # comparisons are that far apart
        found = watch.change(tensors)
        torch.cuda.synchronize()
        return found

    assert [change(), change(), change()] == [None, None, None]
    tensors[1].data.mul_(-2)
    assert change() is None
    with pytest.warns(RuntimeWarning, match=r"changed through \.data"):
        assert [change(), change()].count("b was changed in place (through .data or the like)") >= 1
    tensors[0].add_(1)
    assert change() == "a was changed in place"
    tensors[0].data = torch.randn(8, 4, device="cuda")
    assert change() == "a has other memory than before"


@pytest.mark.usefixtures("trt_backend")
def test_a_changed_weight_is_refitted_and_a_graph_that_is_shared_is_built_once():
    with torch.no_grad():
        model = network()
        fast = compiled(model)
        check(fast, model)
        model[0].weight.mul_(2)
        check(fast, model)
        first, second = (entry.report for entry in reports()[-2:])
        assert (first.kind, second.kind) == ("compile", "refit")
        assert not any(stage.name == "build" for stage in second.stages)
        fast = compiled(model, dynamic=True)
        for rows in (3, 3, 200):  # beyond the range: built
            check(fast, model, rows, 4)
        assert reports()[-1].report.kind == "compile"
