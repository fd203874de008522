"""Names that people coming from elsewhere look for, and that this version has not got."""

from __future__ import annotations

from collections.abc import Mapping

# module -> name -> what to use; a feature that gets built takes its line out.
NOT_BUILT: Mapping[str, Mapping[str, str]] = {
    "trtcore": {
        "MutableTorchTensorRTModule": "trtcore.MutableModule, which is the same by another name",
        "Device": 'the setting device="cuda:0", or device="sm_89"',
        "dtype": "torch's dtypes",
    },
    "trtcore.dynamo": {},
    "trtcore.runtime": {
        "set_cudagraphs_mode": "trtcore.runtime.enable_cudagraphs(module), which is about one module",
        "get_cudagraphs_mode": "trtcore.runtime.enable_cudagraphs(module), which is about one module",
        "get_whole_cudagraphs_mode": "trtcore.runtime.enable_cudagraphs(module), which is about one module",
        "set_whole_cudagraphs_mode": "trtcore.runtime.enable_cudagraphs(module), which is about one module",
    },
}


def missing(module: str, name: str) -> AttributeError:
    """The error for a name that `module` has not got; it says so where the name is known and not built."""
    if instead := NOT_BUILT[module].get(name):
        text = f"{module}.{name} is not built yet in this version of trtcore; until it is: {instead}"
    else:
        text = f"module {module!r} has no attribute {name!r}"
    return AttributeError(text)
