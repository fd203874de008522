"""The old home of `refit_module_weights`."""

from trtcore_contrib_torch_tensorrt.dynamo._compiler import refit_module_weights

__all__ = ["refit_module_weights"]
