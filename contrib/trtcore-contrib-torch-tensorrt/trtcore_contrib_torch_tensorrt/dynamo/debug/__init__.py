"""Looking into compiles."""

from trtcore_contrib_torch_tensorrt.dynamo.debug._Debugger import Debugger

__all__ = ["Debugger"]
