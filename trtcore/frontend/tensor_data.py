"""``x.data`` in a model: torch.export records neither that it is taken nor that it is set.

What is taken would be a tensor from nowhere, and a tensor that is set would go on as it was, without a word.
"""

from __future__ import annotations

import sys
from types import FrameType
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from trtcore.errors import ExportError
from trtcore.ir.torch_private import FakeTensor

_GET: Any = torch.Tensor.data.__get__  # type: ignore[attr-defined]
_SET: Any = torch.Tensor.data.__set__  # type: ignore[attr-defined]


class TensorData(TorchFunctionMode):
    """While a model is traced: ``x.data`` is ``x.detach()``, which is in the same memory, and is not set."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if (
            not torch.compiler.is_dynamo_compiling()
            and func in (_GET, _SET)
            and isinstance(args[0], FakeTensor)
        ):
            if func == _GET:
                return args[0].detach()
            _refuse()
        return func(*args, **(kwargs or {}))


def _refuse() -> None:
    """Raise where a model's own code sets a tensor's data; torch's tracers do so, too."""
    frame: FrameType | None = sys._getframe(2)
    while frame is not None and frame.f_code.co_name == "__torch_function__":  # other modes'
        frame = frame.f_back
    if frame is None or str(frame.f_globals.get("__name__")).partition(".")[0] == "torch":
        return
    raise ExportError(
        "the model sets the data of a tensor, which gives it other memory for good; a graph of ops has no such thing",
        where=f"{frame.f_code.co_filename}:{frame.f_lineno} in {frame.f_code.co_name}",
        advice="write the new values into the tensor: under torch.no_grad(), x.copy_(new); or use the new tensor",
    )
