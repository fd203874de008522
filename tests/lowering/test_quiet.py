"""What torch says while decompositions are tried is a reason in the report, and nothing on the screen."""

from __future__ import annotations

import logging

import torch

import trtcore


def test_a_decomposition_that_fails_logs_nothing():
    records: list[logging.LogRecord] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            records.append(record)

    logger, keep = logging.getLogger("torch.fx.experimental.symbolic_shapes"), Keep(logging.WARNING)
    logger.addHandler(keep)
    try:
        x = trtcore.Input(min_shape=(1, 1, 1), opt_shape=(4, 2, 1), max_shape=(9, 9, 1))
        report = trtcore.explain(torch.nn.GRU(1, 1), [x], min_block_size=1)
        logger.warning("afterwards torch may speak again")
    finally:
        logger.removeHandler(keep)
    assert any("its decomposition does not help" in node.reason for node in report.in_torch)
    assert [record.getMessage() for record in records] == ["afterwards torch may speak again"]
