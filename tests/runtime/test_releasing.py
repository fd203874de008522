"""What engines hold on a device, given back between calls."""

from __future__ import annotations

import gc

import pytest
import torch
from torch import nn

import trtcore
from trtcore.errors import InputError
from trtcore.runtime import release
from trtcore.runtime.engine import engines_in


@pytest.fixture(scope="module")
def compiled():
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4)).eval()
    return trtcore.compile(model, [torch.randn(2, 8)], min_block_size=1, runtime="reference")


def test_constants_go_and_come_back(compiled):
    x = torch.randn(2, 8)
    before = compiled(x)
    (engine,) = engines_in(compiled)
    constants = engine._opened.module.constants
    assert constants._staged
    release(compiled)
    assert not constants._staged
    assert torch.equal(compiled(x), before)
    assert constants._staged


def test_a_module_that_was_never_called():
    release(trtcore.compile(nn.Linear(8, 4).eval(), [torch.randn(2, 8)], min_block_size=1))


def test_what_has_no_engines():
    with pytest.raises(InputError, match="not Linear"):
        release(nn.Linear(2, 2))


@pytest.mark.gpu
def test_the_gpus_memory_is_free_again():
    x = torch.randn(2, 4096, device="cuda")
    model = nn.Sequential(*[nn.Linear(4096, 4096) for _ in range(8)]).eval().cuda().requires_grad_(False)
    compiled = trtcore.compile(model, [x], min_block_size=1, offload_module_to_cpu=True)
    before = compiled(x)
    gc.collect()
    torch.cuda.empty_cache()
    held = torch.cuda.mem_get_info()[0]
    release(compiled)
    gc.collect()
    torch.cuda.empty_cache()
    freed = torch.cuda.mem_get_info()[0] - held
    assert freed > 8 * 4096 * 4096 * 4 // 2
    torch.testing.assert_close(compiled(x), before)
