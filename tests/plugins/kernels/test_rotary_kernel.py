"""The rotary kernel: in Triton's interpreter here, on a GPU where there is one."""

from __future__ import annotations

import itertools

import pytest
import torch

from trtcore_plugins.kernels.declarations import rotary_embedding, rotate

DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def make_inputs(shape: tuple[int, ...], dtype: torch.dtype, device: str = "cpu") -> list[torch.Tensor]:
    batch, _, length, dim = shape
    x = torch.randn(shape, device=device).to(dtype)
    angle = torch.randn(batch, length, dim // 2, device=device).repeat(1, 1, 2)
    tables = [angle.cos().to(dtype), angle.sin().to(dtype)]
    return [x, *(tables if batch % 2 else (table[0] for table in tables))]


def test_the_op_is_registered_well() -> None:
    torch.library.opcheck(rotary_embedding.op, tuple(make_inputs((2, 3, 5, 8), torch.float32)))


def test_it_is_what_transformers_computes() -> None:
    modeling = pytest.importorskip("transformers.models.llama.modeling_llama")
    x, cos, sin = make_inputs((3, 2, 7, 16), torch.float32)
    wanted, _ = modeling.apply_rotary_pos_emb(x, x, cos, sin)
    assert torch.equal(rotate(x, cos, sin), wanted)
    torch.testing.assert_close(rotary_embedding(x, cos, sin), wanted)


@pytest.mark.interpreter
@pytest.mark.parametrize("shape", [(1, 1, 1, 2), (2, 3, 17, 8), (3, 2, 33, 10)], ids=str)
def test_in_the_interpreter(shape: tuple[int, ...]) -> None:
    for dtype in (torch.float32, torch.float16):
        inputs = make_inputs(shape, dtype)
        got, exact = rotary_embedding(*inputs), rotate(*(one.double() for one in inputs))
        step = torch.finfo(dtype).eps
        torch.testing.assert_close(got.double(), exact, rtol=4 * step, atol=8 * step)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_on_a_gpu(dtype: torch.dtype) -> None:
    shapes = [
        (1, 1, 1, 2),
        (2, 3, 17, 64),
        (3, 5, 1000, 80),
        (8, 32, 4096, 256),
    ]  # the last has 2^28 elements
    for shape, special in itertools.product(shapes, (False, True)):
        inputs = make_inputs(shape, dtype, "cuda")
        if special:
            inputs[0].view(-1)[:2] = torch.tensor([float("nan"), float("inf")], dtype=dtype)
        assert torch.equal(rotary_embedding(*inputs).nan_to_num(7), rotate(*inputs).nan_to_num(7))
