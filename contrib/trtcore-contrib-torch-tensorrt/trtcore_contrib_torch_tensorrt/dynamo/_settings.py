"""The old home of the settings."""

from trtcore_contrib_torch_tensorrt._settings import CompilationSettings

__all__ = ["CompilationSettings"]
