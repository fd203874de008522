"""The conformance kit: what pack authors test converters with.

`assert_converts` proves an op or a module, level by level; `assert_refuses` proves that something is left
to torch, for the reason you expect. The pytest plugin (`trtcore.testing.pytest_plugin`, loaded by itself)
has both as fixtures that skip where no TensorRT can be used.

    def test_gelu():
        assert_converts(torch.nn.GELU(), (torch.randn(2, 8),), dynamic={0: {0: (1, 4, 8)}})
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trtcore.testing.conformance import (
        ConversionProof,
        Deviation,
        assert_converts,
        assert_refuses,
        usable_backend,
    )

__all__ = ["ConversionProof", "Deviation", "assert_converts", "assert_refuses", "usable_backend"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from trtcore.testing import conformance

        return getattr(conformance, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
