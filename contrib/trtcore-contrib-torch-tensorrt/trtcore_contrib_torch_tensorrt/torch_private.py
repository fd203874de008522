"""What this package takes from the private parts of torch: each in one place, with the reason.

``tests/test_torch_private_of_the_pack.py`` has a canary for each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from types import ModuleType
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    import sympy

__all__ = [
    "BACKENDS_REGISTRY",
    "enter_backend",
    "fake_mode",
    "hint_of",
    "is_composite",
    "model_hint",
    "new_symbol",
    "same_size",
    "shape_env",
    "stand_in",
    "symint",
    "tensor_meta",
    "traced",
    "tracing",
]

BACKENDS_REGISTRY = "torch._dynamo.backends.registry"


def enter_backend(registry: ModuleType, name: str, entry: Any) -> None:
    """Enter a backend of torch.compile as torch enters what it finds in entry points; a name that is there stays."""
    registry._BACKENDS.setdefault(name, entry)


def shape_env(number: Callable[[], int]) -> Any:
    """A ``ShapeEnv`` whose symbols are numbered by `number`, and so named: torch's own numbers are hashes below 100,
    and two traces would give one name to two sizes.
    """
    from torch.fx.experimental.symbolic_shapes import ShapeEnv

    class Numbered(ShapeEnv):
        def _generate_unique_id(self, source_name: str) -> int:
            return number()

    return Numbered()


def new_symbol(env: Any, hint: int, name: str) -> sympy.Symbol:
    """A symbol for a size, which may be 0 or 1.

    Args:
        hint: what it is taken to be where a trace decides on it.
        name: of its source, unique in `env`.
    """
    from torch._dynamo.source import ConstantSource
    from torch.fx.experimental.symbolic_shapes import DimDynamic

    made: sympy.Symbol = env.create_symbol(
        hint, ConstantSource(name), dynamic_dim=DimDynamic.DYNAMIC, do_not_specialize_zero_one=True
    )
    return made


def same_size(env: Any, symbol: sympy.Symbol, theirs: Any, their_symbol: sympy.Symbol) -> None:
    """Give `symbol` the range that another ShapeEnv has for its symbol."""
    from torch.utils._sympy.value_ranges import ValueRanges

    found = theirs.bound_sympy(their_symbol)
    env.var_to_range[symbol] = env.var_to_range[symbol] & ValueRanges(found.lower, found.upper)


def model_hint(env: Any, symbol: sympy.Symbol) -> int | None:
    """What a ShapeEnv takes a symbol to be; None where that depends on data."""
    found = env.backed_var_to_val.get(symbol)
    return None if found is None else int(found)


def symint(env: Any, expression: Any) -> Any:
    """An expression of symbols as a SymInt; an int where it is one."""
    if getattr(expression, "is_Integer", False):
        return int(expression)
    hint = expression.xreplace(dict(env.backed_var_to_val))
    return env.create_symintnode(expression, hint=int(hint))


def hint_of(size: Any) -> int:
    """What a size is taken to be."""
    return int(size.node.hint) if isinstance(size, torch.SymInt) else int(size)


def fake_mode(env: Any) -> Any:
    """A FakeTensorMode over a ShapeEnv, in which constants may be real."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    return FakeTensorMode(shape_env=env, allow_non_fake_inputs=True)


def stand_in(mode: Any, tensor: torch.Tensor) -> torch.Tensor:
    """A FakeTensor like a constant."""
    made: torch.Tensor = mode.from_tensor(tensor.detach(), static_shapes=True)
    return made


@contextmanager
def tracing(mode: Any) -> Iterator[None]:
    """What a trace runs in: torch's decompositions in Python know symbolic sizes, those in C++ do not."""
    from torch._dispatch.python import enable_python_dispatcher

    with ExitStack() as stack:
        stack.enter_context(mode)
        stack.enter_context(enable_python_dispatcher())
        stack.enter_context(torch.no_grad())
        yield


def traced(function: Callable[..., Any], values: Sequence[Any]) -> torch.fx.GraphModule:
    """A function's graph of ATen ops that write to nothing."""
    from torch.fx.experimental.proxy_tensor import make_fx

    made = make_fx(function, _allow_non_fake_inputs=True)(*values)
    if any(_writes(node) for node in made.graph.nodes):
        from torch._subclasses.functional_tensor import dispatch_functionalize

        made = make_fx(dispatch_functionalize(function), _allow_non_fake_inputs=True)(*values)
    made.graph.eliminate_dead_code()
    return made


def _writes(node: torch.fx.Node) -> bool:
    return isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable


def is_composite(target: Any) -> bool:
    """Whether an op takes itself apart."""
    return isinstance(target, torch._ops.OpOverload) and target._can_decompose()


def tensor_meta(value: torch.Tensor) -> Any:
    """What ``node.meta["tensor_meta"]`` has of a tensor, apart from its strides."""
    from torch.fx.passes.shape_prop import TensorMetadata

    return TensorMetadata(value.shape, value.dtype, value.requires_grad, (), None, value.is_quantized, {})
