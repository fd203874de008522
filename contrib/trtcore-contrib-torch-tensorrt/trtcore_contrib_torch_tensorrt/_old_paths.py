"""Modules of Torch-TensorRT's that are parts of larger ones here: scripts import from them, too."""

from __future__ import annotations

import importlib
import sys

__all__ = ["OLD_PATHS", "give_old_paths"]

#: package -> {old module in it: its home}, paths without the package's own name.
OLD_PATHS: dict[str, dict[str, str]] = {
    "runtime": dict.fromkeys(
        (
            "_cudagraphs",
            "_multi_device_safe_mode",
            "_optimization_profile",
            "_output_allocator",
            "_pre_allocated_outputs",
            "_runtime_cache",
            "_runtime_config",
            "_weight_streaming",
        ),
        "runtime",
    ),
    "dynamo.runtime": dict.fromkeys(
        ("_MutableTorchTensorRTModule", "_PythonTorchTensorRTModule", "_TorchTensorRTModule"),
        "dynamo.runtime",
    ),
    "dynamo.conversion": {
        "_TRTInterpreter": "dynamo.conversion",
        "_conversion": "dynamo.conversion",
        "converter_registry": "dynamo.conversion._ConverterRegistry",
    },
    "dynamo.conversion.plugins": dict.fromkeys(
        ("_custom_op", "_generate_plugin", "_generate_plugin_converter"), "dynamo.conversion.plugins"
    ),
    "dynamo.lowering": {"_decomposition_groups": "dynamo.lowering"},
    "fx": {
        "types": "dynamo.types",
        "converters": "dynamo.conversion",
        "converters.converter_utils": "converter_utils",
    },
}


def give_old_paths(package: str) -> None:
    """Make the old modules of a package importable; called at the end of the package."""
    root = __name__.rpartition(".")[0]
    for old, home in OLD_PATHS[package].items():
        module = importlib.import_module(f"{root}.{home}")
        sys.modules[f"{root}.{package}.{old}"] = module
        if "." not in old:
            vars(sys.modules[f"{root}.{package}"]).setdefault(old, module)
