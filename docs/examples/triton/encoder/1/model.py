"""Triton Inference Server, Python backend: a compiled module behind Triton's own dynamic batcher.

The repository's layout is ``encoder/config.pbtxt`` and ``encoder/1/``, with this file and ``model.pt2``, which
`trtcore.save` wrote. Triton puts requests together up to ``max_batch_size``, the profile's largest first dimension.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import triton_python_backend_utils as pb_utils
from torch.utils.dlpack import from_dlpack, to_dlpack

import trtcore


class TritonPythonModel:
    """What Triton calls."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the module for this instance's device."""
        kind, index = args["model_instance_kind"], args["model_instance_device_id"]
        self._device = torch.device(f"cuda:{index}" if kind == "GPU" else "cpu")
        folder = Path(args["model_repository"]) / args["model_version"]
        self._module = trtcore.load(folder / "model.pt2")
        self._stream = torch.cuda.Stream(self._device) if self._device.type == "cuda" else None

    def execute(self, requests: list[Any]) -> list[Any]:
        """One call for all requests; a response for each."""
        given = [from_dlpack(pb_utils.get_input_tensor_by_name(r, "x").to_dlpack()) for r in requests]
        with torch.inference_mode(), torch.cuda.stream(self._stream):
            rows = torch.cat([x.to(self._device) for x in given])
            results = self._module(rows).split([len(x) for x in given])
            if self._stream is not None:
                self._stream.synchronize()
        return [
            pb_utils.InferenceResponse([pb_utils.Tensor.from_dlpack("y", to_dlpack(y.contiguous()))])
            for y in results
        ]
