"""What the entry point names."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch

from trtcore.pack import hookimpl


@hookimpl
def captures() -> Iterable[Callable[[torch.nn.Module], Any]]:
    """ModelOpt's quantizers as ops that converters know."""
    from trtcore_contrib_modelopt.capture import modelopt_capture

    return [modelopt_capture]
