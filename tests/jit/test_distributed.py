"""Tensor parallel models: engines of each rank's weights, collectives in torch between them."""

from __future__ import annotations

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
    with pytest.raises(InputError, match="takes example tensors"):
        trtcore.compile(
            nn.Linear(2, 2),
            inputs=[trtcore.Input((1, 2))],
            use_distributed_mode_trace=True,
            runtime="reference",
        )


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
