"""The old home of `trace`."""

from trtcore_contrib_torch_tensorrt.dynamo._compiler import trace

__all__ = ["trace"]
