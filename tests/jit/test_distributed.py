"""Tensor parallel models: engines of each rank's weights, collectives in torch between them."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import trtcore
from trtcore.errors import ExportError, InputError

SCRIPT = Path(__file__).with_name("tensor_parallel.py")

pytest.importorskip("torch.distributed.tensor")


def ranks(world, folder):
    """Run the script in a process per rank."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    running = [
        subprocess.Popen(
            [sys.executable, "-W", "ignore", str(SCRIPT), str(rank), str(world), str(folder)],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment,
        )
        for rank in range(world)
    ]  # fmt: skip
    return [process.communicate(timeout=900)[0] for process in running]


@pytest.mark.slow
@pytest.mark.parametrize("world", [2, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 4))])
def test_ranks(world, tmp_path):
    for out in ranks(world, tmp_path):
        assert out.strip().endswith("right"), out


def test_a_plain_model_goes_the_same_way():
    class Pair(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(4, 4)

        def forward(self, x, *, scale):
            return {"y": self.linear(x) * scale, "x": (x + 1,)}

    model = Pair().eval()
    inputs, named = [torch.randn(2, 4)], {"scale": torch.randn(2, 4)}
    module = trtcore.compile(
        model,
        inputs=inputs,
        kwarg_inputs=named,
        use_distributed_mode_trace=True,
        runtime="reference",
        min_block_size=1,
    )
    with torch.no_grad():
        got, want = module(*inputs, **named), model(*inputs, **named)
    torch.testing.assert_close(got, want)
    assert list(got) == ["y", "x"]


def test_what_cannot_be_captured_is_told():
    class Broken(nn.Module):
        def forward(self, x):
            torch._dynamo.graph_break()
            return x + 1

    with pytest.raises(ExportError, match="could not capture Broken whole"):
        trtcore.compile(Broken(), inputs=[torch.ones(2)], use_distributed_mode_trace=True)
    with pytest.raises(InputError, match="takes tensors and Inputs"):
        trtcore.compile(nn.Linear(2, 2), inputs=[3], use_distributed_mode_trace=True, runtime="reference")


def test_a_file_may_call_collectives_only_where_there_is_a_process_group(tmp_path):
    from trtcore.ir.op_rules import refuse_op

    reduce, send = torch.ops._c10d_functional.all_reduce.default, torch.ops.c10d.send.default
    assert "namespace" in refuse_op(reduce, ["sum", "0"])
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/r", rank=0, world_size=1)
    try:
        assert not refuse_op(reduce, ["sum", "0"])
        assert "is given the text" in refuse_op(reduce, ["sum", "/etc/passwd"])
        assert refuse_op(send)
    finally:
        torch.distributed.destroy_process_group()
    assert refuse_op(reduce, ["sum", "0"])


def test_state_and_sizes_that_vary():
    """What the model writes is written, nothing of the trace is left in it, and ranges are ranges."""

    class Counted(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(4, 4)
            self.register_buffer("calls", torch.zeros(()))
            self.register_buffer("seen", torch.zeros(4))

        def forward(self, x):
            self.calls.add_(1)
            self.seen[1:].copy_(x.sum(0)[1:])
            return self.linear(x) * self.calls

    model = Counted().eval()
    eager = copy.deepcopy(model)  # a module writes to the buffers of the model that it was compiled from
    rows = trtcore.Input(min_shape=(1, 4), opt_shape=(3, 4), max_shape=(8, 4))
    options = {"use_distributed_mode_trace": True, "runtime": "reference", "min_block_size": 1}
    module = trtcore.compile(model, inputs=[rows], **options)
    assert model.calls == 0
    assert not model.seen.any()
    with torch.no_grad():
        for count in (1, 8, 3):
            x = torch.randn(count, 4)
            torch.testing.assert_close(module(x), eager(x))
    state = dict(module.named_buffers())
    assert [float(value) for name, value in state.items() if name.endswith("calls")] == [3.0]
    (seen,) = (value for name, value in state.items() if name.endswith("seen"))
    torch.testing.assert_close(seen, eager.seen)


def test_a_range_of_what_is_not_used_and_results_that_are_no_floats():
    class Told(nn.Module):
        def forward(self, x, unused):
            return x > 0, x[:0], x.argmax(-1)

    rows = trtcore.Input(min_shape=(1, 4), opt_shape=(3, 4), max_shape=(8, 4))
    options = {"use_distributed_mode_trace": True, "runtime": "reference", "min_block_size": 1}
    module = trtcore.compile(Told(), inputs=[torch.randn(2, 4), rows], **options)
    x = torch.randn(2, 4)
    torch.testing.assert_close(module(x, torch.randn(7, 4)), Told()(x, None))
    module = trtcore.compile(Told(), inputs=[rows, torch.randn(2, 4)], **options)
    for count in (1, 8):
        x = torch.randn(count, 4)
        torch.testing.assert_close(module(x, torch.randn(2, 4)), Told()(x, None))


def test_a_model_that_goes_two_ways_is_refused():
    class Branches(nn.Module):
        def forward(self, x):
            return x + 1 if x.shape[0] < 5 else x - 1

    class Fixed(nn.Module):
        def forward(self, x):
            return x * torch.arange(3.0)[:, None]

    options = {"use_distributed_mode_trace": True, "runtime": "reference", "min_block_size": 1}
    rows = trtcore.Input(min_shape=(1, 4), opt_shape=(3, 4), max_shape=(8, 4))
    with pytest.raises(ExportError, match="takes another way for some sizes"):
        trtcore.compile(Branches(), inputs=[rows], **options)
    with pytest.raises(ExportError, match="works for size 3 of dim 0"):
        trtcore.compile(Fixed(), inputs=[rows], **options)


@pytest.mark.slow
def test_a_decoder_whose_cache_is_divided(tmp_path):
    """Started by torchrun: the tokens of one process, also from the files of each rank in new processes."""
    script = Path(__file__).parents[1] / "gpu" / "ranks.py"
    for what in ("check", "again"):
        ran = subprocess.run(
            [sys.executable, "-W", "ignore", "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
             str(script), what, str(tmp_path)],
            capture_output=True, text=True, timeout=900, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        assert ran.returncode == 0, ran.stderr[-3000:]
        assert "200 tokens as in one process" in ran.stdout
