"""Views, parts, joins."""

from __future__ import annotations

import pytest
import torch

from trtcore.testing import assert_converts, assert_refuses

aten = torch.ops.aten
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
BATCH = {0: {0: (1, 2, 4)}}
BATCH_AND_LENGTH = {0: {0: (1, 2, 4), 1: (2, 6, 9)}}


def test_other_shapes():
    def run(x):
        b, s, d = x.shape
        return (
            x.view(b, s, 2, d // 2), x.reshape(-1, d), x.reshape(b, -1), x.view(-1), x.flatten(1), x.flatten(0, 1),
            x.unsqueeze(0), x.unsqueeze(-1), x.unsqueeze(1), x[:, None, :, None], x.unflatten(2, (4, 2)), x.unflatten(-1, (2, -1)),
            x.view(b * s, d), x.reshape(b, s * d), x.unsqueeze(1).squeeze(1), x.unsqueeze(0).squeeze((0, -1)),
            x.squeeze(-1), torch.ops.aten._unsafe_view.default(x, [b, s, 4, 2]),
        )  # fmt: skip

    assert_converts(run, (torch.randn(2, 6, 8),), dtypes=DTYPES)
    assert_converts(run, (torch.randn(2, 6, 8),), dynamic=BATCH_AND_LENGTH)
    assert_converts(lambda x: x.squeeze(), (torch.randn(2, 1, 3, 1),))


def test_order_of_dims():
    def run(x):
        return (
            x.transpose(1, 2), x.transpose(-1, 0), x.permute(2, 0, 1), x.permute(-1, 0, -2), x[0].t(), x.mT, x.movedim(0, -1),
            x.swapaxes(0, 1), x[0].T, x.transpose(0, 0),
        )  # fmt: skip

    assert_converts(run, (torch.randn(2, 6, 8),), dynamic=BATCH_AND_LENGTH)


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.bool])
def test_other_dtypes(dtype):
    def run(x):
        return (
            x.transpose(0, 1), x.reshape(-1), x[:, ::2], torch.cat([x, x], 1), x[0], x.expand(3, -1, -1), x.flip(1), x.repeat(2, 3),
            torch.stack([x, x]), x.unbind(1)[1], x.roll(1, 1),
        )  # fmt: skip

    assert_converts(run, (torch.arange(12).reshape(2, 6).to(dtype),), dynamic=BATCH)


def test_slices():
    def run(x):
        return (
            x[:, 2:5], x[:, -3:], x[:, :-1], x[:, ::2], x[..., 1::3], x[:, -100:100], x[:, 1:3, 2:4], x[:, 3:2],
            x[..., 5:], x[:, :, None, -1], x[:, -4:-1], x[:, 100:], x.narrow(1, 1, 2), x.narrow(-1, -3, 2), x[:, 1],
        )  # fmt: skip

    assert_converts(run, (torch.randn(2, 6, 8),), dtypes=(torch.float32, torch.float16))
    assert_converts(run, (torch.randn(2, 6, 8),), dynamic=BATCH)


def test_slices_of_a_varying_length():
    def run(x):
        n = x.shape[1]
        return (
            x[:, 1:], x[:, :-1], x[:, -2:], x[:, ::2], x[:, 1::2], x[:, :2], x[:, n // 2 :], x[:, : n - 1], x[:, -1], x[:, 0],
            x[:, : n // 2], x[:, -2], x[:, :100], x[:, n - 2], x[:, -3:-1], x[:, -n:],
        )  # fmt: skip

    assert_converts(run, (torch.randn(2, 6, 8),), dynamic={0: {0: (1, 2, 4), 1: (4, 6, 9)}})


def test_slices_by_the_size_of_another_tensor():
    def run(x, y):
        n = y.shape[0]
        return x[:n], x[: n - 1], x[n - 1], x[n - 1 :]

    assert_converts(run, (torch.randn(9, 3), torch.randn(4)), dynamic={1: {0: (2, 4, 8)}})


def test_selections():
    def run(x):
        return (
            x.select(0, 0),
            x.select(1, -1),
            x[..., 2],
            x[0, 0, 0],
            x[-1, -2],
            *x.unbind(1),
            x.unbind(-1)[3],
        )

    assert_converts(run, (torch.randn(2, 3, 4),), dtypes=DTYPES)
    assert_converts(run, (torch.randn(2, 3, 4),), dynamic=BATCH)


def test_parts():
    def run(x):
        return (
            *x.split(4, 1), *x.split([1, 2, 3], dim=1), *x.chunk(3, -1), *x.chunk(4, 1), *x.tensor_split(4, 2), x.split(3, -1)[1],
            *x.tensor_split([1, 3], 1), *x.split(8, 2), *x.chunk(2, -1),
        )  # fmt: skip

    assert_converts(run, (torch.randn(2, 6, 8),), dtypes=DTYPES)
    assert_converts(run, (torch.randn(2, 6, 8),), dynamic=BATCH)


def test_joins():
    def run(x, y):
        return (
            torch.cat([x, y], 1), torch.cat([x, x, x], -1), torch.cat([x], 0), torch.stack([x, x], 0), torch.stack([x, x], -1),
            torch.cat([x, y.int()], 1), torch.cat([x.half(), x.bfloat16(), x], 2), torch.cat([x, torch.zeros(0)], 1),
            torch.hstack([x, y]), torch.vstack([x, x]), torch.stack([x, x.half()], 1),
        )  # fmt: skip

    values = (torch.randn(2, 3, 4), torch.randn(2, 5, 4))
    assert_converts(run, values, dtypes=(torch.float32,))
    dims = {0: (1, 2, 4)}
    assert_converts(run, values, dynamic={0: dims, 1: dims})


def test_cat_along_a_varying_length():
    dims = {0: (1, 2, 4), 1: (2, 3, 8)}
    assert_converts(
        lambda x, y: torch.cat([x, y, x], 1), (torch.randn(2, 3, 4),) * 2, dynamic={0: dims, 1: dims}
    )


def test_repetition():
    def run(x):
        b, s, _ = x.shape
        return (
            x.expand(b, s, 8), x.expand(3, -1, -1, 8), x.expand(-1, -1, -1), x.repeat(1, 2, 3), x.repeat(2, 1, 1, 1), x.repeat(2, 1, 2),
            x[:, :1].expand(-1, 5, 4), x[:, :1].expand(b, s, 1), x.expand_as(x.repeat(1, 1, 4)), x.repeat(1, 0, 2), x.tile(2, 1, 3),
            torch.broadcast_to(x, (2, b, s, 3)), x.repeat_interleave(2, 1),
        )  # fmt: skip

    assert_converts(run, (torch.randn(2, 3, 1),), dtypes=DTYPES)
    assert_converts(run, (torch.randn(2, 3, 1),), dynamic={0: {0: (1, 2, 4), 1: (2, 3, 6)}})


def test_other_order():
    def run(x):
        return (
            x.flip(0),
            x.flip(1, -1),
            x.roll(2, 1),
            x.roll((1, -3), (1, 2)),
            x.roll(7, 2),
            x.flip(0, 1, 2),
            x.roll(-1, -1),
        )

    assert_converts(run, (torch.randn(2, 3, 4),), dtypes=DTYPES)
    assert_converts(run, (torch.randn(2, 3, 4),), dynamic=BATCH)
    assert_converts(lambda x: x.roll(5), (torch.randn(2, 3, 4),))
    assert_converts(lambda x: x.roll(1, 0), (torch.randn(2, 3, 4),), dynamic=BATCH)


def test_nothing_at_all():
    def run(x):
        return (
            x.clone(),
            x.transpose(0, 1).contiguous(),
            x.detach() + 1,
            torch.dropout(x, 0.5, False),
            x * 1.0,
            +x,
        )

    assert_converts(run, (torch.randn(2, 3),), dynamic=BATCH)


def test_scalars_and_empty():
    def run(x, e):
        return (
            x.view(1), x.reshape(1, 1), x.unsqueeze(0), x.expand(2, 3), x.squeeze(), x.permute(()), x.flatten(), torch.stack([x, x]),
            e.transpose(0, 1), e.reshape(3, 0), e.view(-1, 3), torch.cat([e, torch.ones(2, 3) * x]), e[:0], e.unsqueeze(1), e.expand(2, 0, 3),
            e.flip(0), e.repeat(2, 2), x.transpose(0, 0), e.flatten(),
        )  # fmt: skip

    assert_converts(run, (torch.tensor(2.5), torch.zeros(0, 3)))


def test_refusals():
    assert_refuses(lambda x: x[1:].t(), (torch.ones(3, 2, dtype=torch.uint8),), "uint8")
    assert_refuses(lambda x: torch.dropout(x, 0.0001, True) * 0, (torch.randn(3, 2),), "random")
    assert_refuses(lambda x: x.reshape([1] * 8 + [6]) + 1, (torch.randn(3, 2),), "at most 8 dims")
