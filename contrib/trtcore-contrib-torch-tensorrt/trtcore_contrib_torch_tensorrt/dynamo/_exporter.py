"""The old home of `export`."""

from trtcore_contrib_torch_tensorrt.dynamo._compiler import export

__all__ = ["export"]
