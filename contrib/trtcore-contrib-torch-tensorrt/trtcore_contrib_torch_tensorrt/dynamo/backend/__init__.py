"""The torch.compile backend by its old names."""

from trtcore_contrib_torch_tensorrt.dynamo.backend.backends import (
    aot_torch_tensorrt_aten_backend,
    torch_tensorrt_backend,
)

__all__ = ["aot_torch_tensorrt_aten_backend", "torch_tensorrt_backend"]
