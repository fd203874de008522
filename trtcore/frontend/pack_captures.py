"""What packs put around a model while it is captured (hook ``captures``)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch

from trtcore.errors import PackError, TrtcoreError, shown
from trtcore.packs.registry import ConverterRegistry


@contextmanager
def as_packs_capture(model: torch.nn.Module, registry: ConverterRegistry) -> Iterator[None]:
    """Enter what the packs of `registry` want around this model; undone in the opposite order.

    Raises:
        TrtcoreError: a pack refuses the model.
        PackError: a pack's function fails, or gives something that is no context manager.
    """
    with ExitStack() as entered:
        for pack, capture in registry.captures:
            try:
                around = capture(model)
                if around is not None:
                    entered.enter_context(around)
            except TrtcoreError:
                raise
            except Exception as error:
                raise PackError(
                    f"its hook captures, for {type(model).__name__}, raised {shown(error)}",
                    pack=str(pack),
                    advice=f"fix {pack.distribution}, or switch it off: TRTCORE_DISABLE_PACKS={pack.id}",
                ) from error
        yield
