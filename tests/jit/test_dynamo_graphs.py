"""torch.compile(backend="trtcore"): graphs and models of many kinds, against eager."""

import copy
import subprocess
import sys
import threading

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import trtcore
from trtcore.jit.backend import reports


@pytest.fixture(autouse=True)
def fresh():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def compiled(model, **kwargs):
    return torch.compile(model, backend="trtcore", options={"min_block_size": 1}, **kwargs)


def close(found, expected, tolerance=1e-4):
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


def test_no_import_of_trtcore_is_needed():
    code = (
        "import sys, torch\n"
        "model = torch.nn.Linear(3, 3).requires_grad_(False)\n"
        "fast = torch.compile(model, backend='trtcore', options={'min_block_size': 1})\n"
        "x = torch.randn(2, 3)\n"
        "assert torch.allclose(fast(x), model(x), atol=1e-4)\n"
        "print(len(sys.modules['trtcore.jit.backend'].reports()))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["1"]


# --- options and errors ---------------------------------------------------------------------------------------


@torch.no_grad()
def test_a_wrong_option_stops_before_anything_is_built():
    with pytest.raises(
        torch._dynamo.exc.BackendCompilerFailed, match="did you mean min_block_size"
    ) as caught:
        torch.compile(nn.Linear(4, 4), backend="trtcore", options={"min_blok_size": 3})(torch.randn(2, 4))
    assert isinstance(caught.value.inner_exception, trtcore.errors.SettingsError)
    with pytest.raises(Exception, match=r"mode='max-autotune'\) means nothing"):
        torch.compile(nn.Linear(4, 4), backend="trtcore", mode="max-autotune")(torch.randn(2, 4))
    with pytest.raises(Exception, match="observers=3"):
        torch.compile(nn.Linear(4, 4), backend="trtcore", options={"observers": 3})(torch.randn(2, 4))
    assert reports() == ()


@torch.no_grad()
def test_errors_keep_their_text():
    fast = torch.compile(
        torch.linalg.matrix_exp, backend="trtcore", options={"require_full_compilation": True}
    )
    with pytest.raises(Exception, match=r"aten\.linalg_matrix_exp\.default(.|\n)*no converter"):
        fast(torch.eye(3))


@torch.no_grad()
def test_observers_and_reports():
    events = []
    options = {"min_block_size": 1, "observers": [events.append]}
    torch.compile(nn.Linear(4, 4), backend="trtcore", options=options)(torch.randn(2, 4))
    assert {"lowering", "partition"} <= {event.stage for event in events}
    (entry,) = reports()
    assert entry.reason == "new graph"
    assert entry.report.fully_converted
    assert str(entry).startswith(f"torch.compile graph {entry.graph}: new graph\n")
    torch._dynamo.reset()
    assert reports() == ()


@torch.no_grad()
def test_the_convenience_layer_compiles_at_the_first_call():
    model = nn.Linear(4, 4)
    fast = trtcore.compile(model, ir="torch_compile", min_block_size=1)
    assert reports() == ()
    x = torch.randn(2, 4)
    close(fast(x), model(x))
    assert reports()[0].report.settings == {"min_block_size": 1}
    with pytest.raises(trtcore.errors.SettingsError, match="min_block_size"):
        trtcore.compile(model, ir="torch_compile", min_blok_size=1)


@torch.no_grad()
def test_without_a_backend_it_runs_in_torch_with_a_warning():
    model = nn.Linear(4, 4)
    fast = torch.compile(model, backend="trtcore", options={"disabled_packs": ["trtcore:backends"]})
    x = torch.randn(2, 4)
    with pytest.warns(RuntimeWarning, match="the graph runs in torch, because no engine can be built"):
        found = fast(x)
    close(found, model(x))


# --- gradients ------------------------------------------------------------------------------------------------


@pytest.mark.xfail(
    torch.__version__.startswith("2.11"),
    reason="seen under torch 2.11: the changed flag does not reach the backend",
)
def test_gradients_are_refused_when_they_become_needed():
    model = nn.Linear(4, 4).requires_grad_(False)
    fast, x = compiled(model), torch.randn(2, 4)
    close(fast(x), model(x))
    model.weight.requires_grad_(True)
    with pytest.raises(Exception, match=r"weight requires them(.|\n)*requires_grad_\(False\)"):
        fast(x)
    with torch.no_grad():
        close(fast(x), model(x))


def test_gradients_that_do_not_leave_the_graph_are_not_needed():
    model = nn.Linear(4, 4)

    def inside(x):
        with torch.no_grad():
            return model(x).relu()

    x = torch.randn(2, 4)
    for function in (inside, lambda x: model(x).detach()):
        found = compiled(function)(x)
        close(found, function(x))
        assert not found.requires_grad


# --- sizes ----------------------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize(("dynamic", "compiles"), [(None, 2), (True, 1), (False, 4)])
def test_compiles_for_four_batch_sizes(dynamic, compiles):
    model = nn.Linear(4, 4)
    fast = compiled(model, dynamic=dynamic)
    for batch in (3, 5, 7, 9):
        x = torch.randn(batch, 4)
        close(fast(x), model(x))
    assert len(reports()) == compiles


@torch.no_grad()
def test_numbers_as_arguments():
    def function(x, repeats, scale):
        return torch.relu(x * repeats) * scale + x.shape[0]

    fast = compiled(function)
    for repeats, scale in ((2, 0.5), (3, 0.5), (4, 1.5), (5, 2.5)):
        x = torch.randn(2, 3)
        close(fast(x, repeats, scale), function(x, repeats, scale))


# --- weights, buffers, aliases --------------------------------------------------------------------------------


@torch.no_grad()
def test_no_parameter_is_an_engine_input():
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.GELU(), nn.Linear(8, 4)).eval()
    x = torch.randn(3, 4)
    close(compiled(model, fullgraph=True)(x), model(x))
    (engine,) = reports()[0].report.engines
    assert len(engine.inputs) == 1
    assert "float32[3, 4]" in str(engine.inputs[0])


@torch.no_grad()
def test_a_cache_in_a_buffer_is_written_back():
    class Step(nn.Module):
        def __init__(self):
            super().__init__()
            self.query = nn.Linear(8, 8)
            self.register_buffer("cache", torch.zeros(1, 16, 8))

        def forward(self, x, position):
            self.cache.index_copy_(1, position, self.query(x))
            mask = torch.arange(16)[None, :] <= position[:, None]
            return F.scaled_dot_product_attention(x, self.cache, self.cache, attn_mask=mask)

    model = Step().eval()
    eager = copy.deepcopy(model)
    fast = compiled(model, fullgraph=True)
    for index in range(12):
        x, position = torch.randn(1, 1, 8), torch.tensor([index])
        close(fast(x, position), eager(x, position))
    close(model.cache, eager.cache)
    assert len(reports()) == 1


@torch.no_grad()
def test_training_mode():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5)).train()
    model[3].p = 0.0
    eager = copy.deepcopy(model)
    fast = compiled(model)
    for _ in range(2):
        x = torch.randn(2, 3, 8, 8)
        close(fast(x), eager(x))
    close(dict(model.named_buffers()), dict(eager.named_buffers()))
    dropout = compiled(nn.Dropout(0.5).train())
    assert 0.4 < (dropout(torch.ones(1000)) == 0).float().mean() < 0.6


def write_to_a_view_of_an_input(x):
    view, result = x.view(-1), x * 2
    torch._dynamo.graph_break()
    view.add_(1)
    return x, result


def write_to_one_of_several_views(x):
    a = torch.relu(x) * 2 + 1
    b, c = a.view(-1), a.t()
    torch._dynamo.graph_break()
    b.add_(1)
    return a, b, c


def write_below_a_view(x):
    y = torch.sigmoid(x) * 2
    flat = y.reshape(-1)
    y.add_(1)
    return flat


def write_to_the_input(x):
    x.mul_(2)
    return x, x + 1, x[0]


def only_views(x):
    return x.view(-1), x.t(), x


def constants(x):
    return x + torch.tensor([1.0, 2.0, 3.0]), torch.arange(3), {"none": None, "size": x.shape[0] * 2}


def branch(x):
    y = torch.relu(x) + 1
    if y.sum() > 3:
        return y * 2
    return y - 1


def condition(x):
    return torch.cond(x.sum() > 0, lambda x: x + 1, lambda x: x - 1, (x,))


@torch.no_grad()
@pytest.mark.parametrize(
    "function",
    [
        write_to_a_view_of_an_input,
        write_to_one_of_several_views,
        write_below_a_view,
        write_to_the_input,
        only_views,
        constants,
        branch,
        condition,
    ],
    ids=lambda function: function.__name__,
)
def test_function(function):
    fast = compiled(function)
    for sign in (1, -1):
        x = torch.rand(2, 3) * sign
        own = x.clone()
        close(fast(x), function(own))
        close(x, own)


@torch.no_grad()
def test_returned_views_share_memory():
    fast = compiled(only_views)
    x = torch.randn(2, 3)
    flat, turned, same = fast(x)
    flat[0] = 7
    assert turned[0, 0] == 7
    assert same is x


@torch.no_grad()
def test_autocast():
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU()).eval()

    def inside(x):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return model(x)

    x = torch.randn(2, 4)
    found, fast = compiled(inside)(x), compiled(model)
    close(fast(x), model(x))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outside = fast(x)
    for result in (found, outside):
        assert result.dtype is torch.bfloat16
        close(result, inside(x), 2e-2)


def test_threads():
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 4)).requires_grad_(False)
    fast, errors = compiled(model, dynamic=True), []
    fast(torch.randn(2, 4))

    def work(index):
        try:
            for batch in (3, 40, 7):
                x = torch.randn(batch + index, 4)
                close(fast(x), model(x))
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert len(reports()) == 2


# --- models ---------------------------------------------------------------------------------------------------


def bert():
    from transformers import BertConfig, BertModel

    sizes = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32, "num_hidden_layers": 1}
    return BertModel(BertConfig(vocab_size=50, max_position_embeddings=64, **sizes))


def gpt2():
    from transformers import GPT2Config, GPT2LMHeadModel

    sizes = {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 64}
    return GPT2LMHeadModel(GPT2Config(vocab_size=50, bos_token_id=1, eos_token_id=1, **sizes))


@torch.no_grad()
@pytest.mark.parametrize("make", [pytest.param(bert, marks=pytest.mark.slow), gpt2])
def test_a_transformer_with_dynamic_batch_and_length(make):
    pytest.importorskip("transformers")
    model = make().eval()
    fast = compiled(model, dynamic=True, fullgraph=True)
    for batch, length in ((2, 5), (3, 9), (5, 31)):
        ids = torch.randint(0, 50, (batch, length))
        mask = torch.ones(batch, length, dtype=torch.int64)
        mask[0, -2:] = 0
        found = fast(input_ids=ids, attention_mask=mask)
        expected = model(input_ids=ids, attention_mask=mask)
        assert type(found) is type(expected)
        close(found[0], expected[0])
    (entry,) = reports()
    assert entry.report.fully_converted
    (engine,) = entry.report.engines
    assert len(engine.inputs) == 2
