"""The conformance kit: what pack authors test converters with.

`assert_converts` proves an op or a module, level by level; `assert_refuses` proves that something is left
to torch, for the reason you expect. The pytest plugin (`trtcore.testing.pytest_plugin`, loaded by itself)
has both as fixtures that skip where no TensorRT can be used. `opinfo_samples` and `assert_op_converts` take
PyTorch's own sample inputs of an op; `PackConformance` is a class of checks that any pack can subclass.

    def test_gelu():
        assert_converts(torch.nn.GELU(), (torch.randn(2, 8),), dynamic={0: {0: (1, 4, 8)}})
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trtcore.testing.conformance import (
        ConversionProof,
        Deviation,
        assert_converts,
        assert_refuses,
        usable_backend,
    )
    from trtcore.testing.opinfo import OpSample, SampleResult
    from trtcore.testing.packs import Example, PackConformance
    from trtcore.testing.parametrize import assert_op_converts, assert_sample_converts, opinfo_samples

__all__ = [
    "ConversionProof",
    "Deviation",
    "Example",
    "OpSample",
    "PackConformance",
    "SampleResult",
    "assert_converts",
    "assert_op_converts",
    "assert_refuses",
    "assert_sample_converts",
    "opinfo_samples",
    "usable_backend",
]

_HOMES = {
    "conformance": ("ConversionProof", "Deviation", "assert_converts", "assert_refuses", "usable_backend"),
    "opinfo": ("OpSample", "SampleResult"),
    "packs": ("Example", "PackConformance"),
    "parametrize": ("assert_op_converts", "assert_sample_converts", "opinfo_samples"),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name in _HOME_OF:
        return getattr(importlib.import_module(f"trtcore.testing.{_HOME_OF[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
