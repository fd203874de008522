"""Where an op comes from: a part of layer names."""

from trtcore_contrib_torch_tensorrt._registry import SourceIR

__all__ = ["SourceIR"]
