"""The old home of the context."""

from trtcore_contrib_torch_tensorrt._registry import ConversionContext

__all__ = ["ConversionContext"]
