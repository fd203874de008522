"""What this pack takes from the private parts of torch: each in one place, with the reason.

``tests/plugins/test_torch_private_plugins.py`` has a canary for each.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

import torch

__all__ = [
    "decompositions",
    "fake_tensors",
    "floor_divide",
    "parse_schema",
    "python_dispatcher",
    "shares_storage",
    "symbolic_size",
    "upper_bound",
]


def parse_schema(text: str) -> torch.FunctionSchema:
    """Read ``"ns::op(Tensor x) -> Tensor"``.

    Raises:
        RuntimeError: torch cannot read it.
    """
    return torch._C.parse_schema(text)


def python_dispatcher() -> AbstractContextManager[Any]:
    """Within it symbolic sizes go through torch's Python kernels; some in C++ ask for sizes as numbers."""
    from torch._dispatch.python import enable_python_dispatcher

    return enable_python_dispatcher()


def fake_tensors(environment: Any) -> Any:
    """A FakeTensorMode whose sizes are symbols of a ShapeEnv."""
    from torch._subclasses import FakeTensorMode

    return FakeTensorMode(shape_env=environment)


def symbolic_size(environment: Any, name: str, hint: int) -> tuple[Any, torch.SymInt]:
    """A fresh dynamic size of a ShapeEnv: its symbol and the size, which knows `hint` as its value now."""
    from torch._dynamo.source import ConstantSource
    from torch.fx.experimental.symbolic_shapes import DimDynamic

    source = ConstantSource(name)
    symbol = environment.create_symbol(hint, source, DimDynamic.DYNAMIC, positive=None)
    return symbol, environment.create_symintnode(symbol, hint=hint, source=source)


def upper_bound(size: torch.SymInt) -> int | None:
    """The largest value that the graph's guards allow a size; None where they set no limit. Adds no guard."""
    upper = size.node.shape_env.bound_sympy(size.node.expr).upper
    return int(upper) if upper.is_Integer else None


def floor_divide(a: Any, b: Any) -> Any:
    """``a // b`` of sympy expressions, as torch writes it in sizes."""
    from torch.utils._sympy.functions import FloorDiv

    return FloorDiv(a, b)


def decompositions() -> Mapping[Any, Callable[..., Any]]:
    """torch's table of decompositions, op to function."""
    from torch._decomp import decomposition_table

    return decomposition_table


def shares_storage(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Whether two tensors look at the same memory; of FakeTensors too, whose ``data_ptr()`` says nothing."""
    return bool(a.untyped_storage()._cdata == b.untyped_storage()._cdata)
