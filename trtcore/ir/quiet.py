"""What torch logs while it traces: said by our errors and reports, and not twice."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet_loggers(*only: str) -> Iterator[None]:
    """torch's loggers print nothing: what a trace cannot do is a reason in the report, or an error of ours.

    Args:
        only: names of loggers; none for all of torch's.
    """

    def refuse(_record: logging.LogRecord) -> bool:
        return False

    loggers = [logging.getLogger(name) for name in only] or [
        logger
        for name, logger in list(logging.root.manager.loggerDict.items())
        if isinstance(logger, logging.Logger) and (name == "torch" or name.startswith("torch."))
    ]
    for logger in loggers:
        logger.addFilter(refuse)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeFilter(refuse)
