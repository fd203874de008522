"""Changes of dtype."""

from __future__ import annotations

import math

import torch

from trtcore.testing import assert_converts, assert_refuses

aten = torch.ops.aten
EVERY = (torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.bool)


def test_every_pair():
    x = torch.tensor([[-2.75, -1.0, -0.25, 0.0], [0.5, 1.0, 2.75, 100.0]])

    def run(x):
        return tuple(x.to(a).to(b) for a in EVERY for b in EVERY)

    assert_converts(run, (x,), dynamic={0: {0: (1, 2, 3)}})


def test_spellings():
    def run(x, i):
        return (
            x.half(), x.to("cpu"), x.to(torch.float16, copy=True), x.to(i), i.to(x), x.type_as(i), i.float(), i.bool(), x.long(),
            aten._to_copy.default(x, dtype=torch.bfloat16), x.to(torch.float32), x.to(dtype=torch.int32, memory_format=torch.preserve_format),
        )  # fmt: skip

    assert_converts(run, (torch.randn(2, 3), torch.tensor([1, 0, -3])), dynamic={0: {0: (1, 2, 3)}})


def test_specials():
    """Anything but zero is True, NaN too; float32 that float16 cannot hold becomes infinite."""
    x = torch.tensor([math.nan, math.inf, -math.inf, -0.0, 65519.0, 65520.0, 1e30])
    assert_converts(lambda x: (x.bool(), x.half(), x.bfloat16(), x.half().float()), (x,))


def test_images_come_as_bytes():
    image = torch.randint(0, 256, (2, 4, 4, 3), dtype=torch.uint8)
    assert_converts(lambda x: (x.float() / 255).permute(0, 3, 1, 2), (image,), dynamic={0: {0: (1, 2, 3)}})
    assert_converts(lambda x: (x.half(), x.long(), (x.float() + 0.5).to(torch.uint8), x.bool()), (image,))


def test_scalars_and_empty():
    assert_converts(
        lambda x, e: (x.half(), x.long(), e.half(), e.bool()), (torch.tensor(1.5), torch.zeros(0, 2))
    )


def test_refusals():
    assert_refuses(lambda x: x.double() * 2, (torch.randn(3),), "float64")
