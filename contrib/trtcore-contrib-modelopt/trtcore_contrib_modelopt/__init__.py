"""Models quantised by NVIDIA ModelOpt, for trtcore: ``trtcore.compile`` takes them as they are."""

from trtcore_contrib_modelopt.emulation import without_cuda

__all__ = ["without_cuda"]
