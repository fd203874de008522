"""Products with weights become ``linear``, which is what converters, autocast and other packs look for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import fx
from torch.nn.functional import linear

from trtcore.pack import RuleMatch, rewrite
from trtcore_converters.passes._graph import is_call, same_sizes, tensor_of
from trtcore_converters.passes.views import order_of

_PRODUCTS = (torch.ops.aten.matmul.default, torch.ops.aten.mm.default)
_ADDMM = torch.ops.aten.addmm.default
_LINEAR = torch.ops.aten.linear.default


def _is_bias(bias: Any, result: fx.Node) -> bool:
    """Whether a tensor is one number for each column of the result, in its dtype."""
    vector, value = tensor_of(bias), tensor_of(result)
    return (
        vector is not None
        and value is not None
        and vector.dtype == value.dtype
        and vector.dim() == 1
        and same_sizes(vector.shape, value.shape[-1:])
    )


def _is_matrix(right: Any) -> bool:
    value = tensor_of(right)
    return value is not None and value.dim() == 2 and value.is_floating_point()


def _weight(found: RuleMatch) -> bool:
    """Whether the right operand, the last argument, is a constant of two dims."""
    right = found.arguments[-1]
    return right in found.constants and _is_matrix(right)


def _turned_weight(found: RuleMatch) -> Sequence[Any] | bool:
    """The arguments with the weight of which the right operand is the transpose, if it is a constant."""
    *others, right = found.arguments
    if not _is_matrix(right) or order_of(right) != [1, 0] or right.args[0] not in found.constants:
        return False
    return (*others, right.args[0])


def _with_bias(check: Callable[[RuleMatch], Any]) -> Callable[[RuleMatch], Any]:
    """Also the first argument must be a bias."""
    return lambda found: _is_bias(found.arguments[0], found.nodes[-1]) and check(found)


def _adds_vector(node: fx.Node) -> bool:
    """Whether a sum may be that of a ``linear``, or of what the rules above make one of, and its bias."""
    sources = node.all_input_nodes
    vectors = (tensor_of(one) for one in sources if one.op == "get_attr")
    return any(is_call(one, (_LINEAR, *_PRODUCTS)) for one in sources) and any(
        vector is not None and vector.dim() == 1 for vector in vectors
    )


def _constant_bias(found: RuleMatch) -> bool:
    bias = found.arguments[-1]
    return bias in found.constants and _is_bias(bias, found.nodes[-1])


_X, _W, _B = torch.empty(2, 3), torch.empty(3, 4), torch.empty(4)

FUSE_LINEAR = (
    # A weight that is stored the other way round is looked at transposed; one that is transposed already, as it was.
    rewrite(_PRODUCTS, linear, (_X, _W), _turned_weight, name="turned_product"),
    rewrite(_PRODUCTS, lambda x, w: linear(x, w.t()), (_X, _W), _weight, name="product"),
    rewrite(
        _ADDMM, lambda b, x, w: linear(x, w, b), (_B, _X, _W), _with_bias(_turned_weight), name="turned_addmm"
    ),
    rewrite(_ADDMM, lambda b, x, w: linear(x, w.t(), b), (_B, _X, _W), _with_bias(_weight), name="addmm"),
    rewrite(
        lambda x, w, b: linear(x, w) + b,
        linear,
        (_X, torch.empty(4, 3), _B),
        _constant_bias,
        name="linear_and_bias",
        ops=(torch.ops.aten.add.Tensor,),
        anchor=_adds_vector,
    ),
)
"""``x @ weight.T``, ``addmm(bias, x, weight.T)`` and ``linear(x, weight) + bias`` as one ``linear``."""
