"""What torch says while decompositions are tried is a reason in the report, and nothing on the screen."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import torch

import trtcore


@contextmanager
def told_by(name: str) -> Iterator[list[str]]:
    """What torch's logger of this name says meanwhile."""
    told: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            told.append(record.getMessage())

    logger, keep = logging.getLogger(name), Keep(logging.WARNING)
    logger.addHandler(keep)
    try:
        yield told
        logger.warning("afterwards torch may speak again")
    finally:
        logger.removeHandler(keep)


def test_a_decomposition_that_fails_logs_nothing():
    with told_by("torch.fx.experimental.symbolic_shapes") as told:
        x = trtcore.Input(min_shape=(1, 1, 1), opt_shape=(4, 2, 1), max_shape=(9, 9, 1))
        report = trtcore.explain(torch.nn.GRU(1, 1), [x], min_block_size=1)
    assert any("its decomposition does not help" in node.reason for node in report.in_torch)
    assert told == ["afterwards torch may speak again"]


def test_aliases_that_are_looked_for_log_nothing():
    class Padded(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.pad(x.relu(), (0, 0, 0, 1))

    torch._dynamo.reset()
    with told_by("torch._subclasses.fake_tensor") as told, torch.no_grad():
        compiled = torch.compile(Padded(), backend="trtcore", dynamic=True, options={"min_block_size": 1})
        x = torch.randn(4, 4)
        torch.testing.assert_close(compiled(x), Padded()(x))
    assert told == ["afterwards torch may speak again"]
