"""What this pack takes from the private parts of torch: each in one place, with the reason.

``tests/converters/test_torch_private_converters.py`` has a canary for each.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from packaging.version import Version

__all__ = [
    "decomposition_tables",
    "extremes",
    "interval",
    "is_erased",
    "prims",
    "ranks_are_exact",
    "register_quantized_ops",
    "shares_storage",
    "sym_sqrt",
]

# A function of a size that an exported graph calls; torch.sym_sqrt is not public, though torch.sym_max is.
sym_sqrt: Callable[..., Any] = torch._sym_sqrt  # type: ignore[attr-defined]


def register_quantized_ops() -> None:
    """Register the ops of ``torch.ops.quantized_decomposed``."""
    importlib.import_module("torch.ao.quantization.fx._decomposed")


def decomposition_tables() -> Iterator[Mapping[Any, Callable[..., Any]]]:
    """torch's tables of decompositions, op to function: all of them, then those to core ATen ops."""
    from torch._decomp import _core_aten_decompositions_post_autograd, decomposition_table

    # A composite op is what its own kernel says. torch._refs adds functions for some once anything has imported it, and
    # they may take other arguments than the op (std_mean.dim).
    yield {op: op if _is_composite(op) else one for op, one in decomposition_table.items()}
    # The public function also looks through every namespace for composite ops, a third of the time of a first compile:
    # these lowering takes apart anyway, by torch's own kernels.
    yield _core_aten_decompositions_post_autograd()


def _is_composite(op: Any) -> bool:
    key = torch._C.DispatchKey.CompositeImplicitAutograd
    return isinstance(op, torch._ops.OpOverload) and op.has_kernel_for_dispatch_key(key)


def prims() -> Mapping[str, torch._ops.OpOverload]:
    """torch's primitive ops by name; ``vars(op)["impl_aten"]`` says each in ATen."""
    import torch._prims

    return {
        name: op
        for name, op in vars(torch._prims).items()
        if isinstance(op, torch._ops.OpOverload) and op.namespace == "prims"
    }


def interval(size: torch.SymInt) -> Any:
    """The least and greatest value of a traced size as sympy numbers, ``lower`` and ``upper``. Adds no guard."""
    return size.node.shape_env.bound_sympy(size.node.expr)


def extremes() -> tuple[Any, Any]:
    """The sympy functions Min and Max of traced sizes, which are torch's own, not sympy's."""
    from torch.utils._sympy.functions import Max, Min

    return Min, Max


def ranks_are_exact() -> bool:
    """Whether this torch multiplies the q and n - 1 of a quantile in float64 (since 2.14), not in the input's dtype.

    ``arange(6.0).quantile(0.6, interpolation="higher")`` is 4, and was 3. Nothing but its results says so.
    """
    return Version(torch.__version__).release >= (2, 14)


def shares_storage(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Whether two tensors look at the same memory; of FakeTensors too, whose ``data_ptr()`` says nothing."""
    return bool(a.untyped_storage()._cdata == b.untyped_storage()._cdata)


def is_erased(node: torch.fx.Node) -> bool:
    """Whether a node is in its graph no more."""
    return node._erased
