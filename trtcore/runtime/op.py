"""The torch op that runs an engine: ``trtcore::execute_engine``.

    execute_engine(Tensor[] inputs, SymInt[] sizes, Tensor plan, str manifest) -> Tensor[]

A hybrid graph calls it like any other op, so that graph exports, serialises, and goes through torch.compile.

- `inputs` and `sizes` are in the manifest's order; `plan` (uint8, 1-D, on the CPU) is the engine's file
  (`trtcore.artifact.engine_file`), or a bare plan for the native runtime; `manifest` is `EngineManifest.to_json`.
- The fake implementation computes output shapes from the manifest's expressions, so they stay symbolic.
- Outputs are new contiguous tensors on the inputs' device: never a view of an input or of one another.
- Inference only: outputs do not require grad. An input that requires grad under grad mode gives one
  `UserWarning` per process, because a ``backward()`` would find no gradient here. torch.func's transforms and forward
  mode, which would find zeros, are errors.

Importing this module registers the op; it loads no TensorRT.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import torch

from trtcore.artifact.manifest import EngineManifest
from trtcore.errors import InputError
from trtcore.ir.torch_private import (
    below_autograd,
    grad_mode_switch,
    is_being_differentiated,
    is_transformed,
    overlaps_itself,
    profiler_is_on,
)
from trtcore.runtime.checks import check_structure, output_device
from trtcore.runtime.engine import Engine, resolve
from trtcore.runtime.functional_write import functional_write as functional_write  # registered with this one
from trtcore.runtime.requirement import check_op
from trtcore.runtime.requirement import require as require

if TYPE_CHECKING:
    from trtcore.runtime.input_check import InputCheck

NAME = "trtcore::execute_engine"

_set_grad_enabled = grad_mode_switch()

_library: Any = torch.library.Library("trtcore", "FRAGMENT")  # type: ignore[no-untyped-call]
_library.define(
    "execute_engine(Tensor[] inputs, SymInt[] sizes, Tensor plan, str manifest) -> Tensor[]",
    tags=(torch.Tag.pt2_compliant_tag,),
)


def execute(
    inputs: list[torch.Tensor], sizes: list[int], plan: torch.Tensor, manifest: str
) -> list[torch.Tensor]:
    """The op's kernel, for every device. AOTInductor's packages pass None for a list without elements."""
    inputs, sizes = inputs or [], sizes or []
    engine = resolve(manifest, plan)
    if profiler_is_on():
        with torch.profiler.record_function(engine.label):
            return _execute(engine, inputs, sizes)
    return _execute(engine, inputs, sizes)


def _execute(engine: Engine, inputs: list[torch.Tensor], sizes: list[int]) -> list[torch.Tensor]:
    if torch.is_grad_enabled():
        if any(tensor.requires_grad for tensor in inputs):
            _warn_no_gradient()
        _set_grad_enabled(False)  # torch.no_grad() costs 2 us
        try:
            return engine.run(inputs, sizes)
        finally:
            _set_grad_enabled(True)
    return engine.run(inputs, sizes)


def are_plain(tensors: Sequence[torch.Tensor]) -> bool:
    """Whether there is nothing about these tensors that the dispatcher would see to."""
    for tensor in tensors:  # noqa: SIM110 -- a generator would cost more than it looks at
        if type(tensor) is not torch.Tensor or tensor.is_neg() or tensor.is_meta:
            return False
    return True


def _warn_no_gradient() -> None:
    global _warned
    if not _warned:
        _warned = True
        warnings.warn(
            "an input of a compiled engine requires grad, but engines are for inference only: no gradient "
            "flows through them. Call the compiled module under torch.no_grad() or torch.inference_mode().",
            UserWarning,
            stacklevel=2,
        )


_warned = False


def _without_autograd(
    inputs: list[torch.Tensor], sizes: list[int], plan: torch.Tensor, manifest: str
) -> list[torch.Tensor]:
    """The kernel above: outputs do not require grad, and whoever would take their derivatives for zeros is told.

    Raises:
        InputError: torch.func.grad, jvp or the like differentiates an input, or forward mode does.
    """
    inputs = inputs or []
    if is_being_differentiated(inputs):
        raise InputError(
            "an input of a compiled engine is being differentiated (torch.func.grad, vjp, jvp, forward mode), "
            "but engines are for inference only",
            advice="differentiate the model itself, and compile it for inference",
        )
    if not is_transformed() and are_plain(inputs):
        return execute(inputs, sizes, plan, manifest)  # where the dispatcher would get to, microseconds later
    with below_autograd():
        return execute_engine(inputs, sizes, plan, manifest)  # type: ignore[no-any-return]


def _fake(
    inputs: Sequence[torch.Tensor], sizes: Sequence[Any], plan: torch.Tensor, manifest: str
) -> list[torch.Tensor]:
    description = EngineManifest.from_json(manifest)
    check_structure(description, inputs, sizes)
    values = description.solve([tensor.shape for tensor in inputs], sizes)
    if description.output_symbols:
        context = torch.library.get_ctx()
        for name, _, _ in description.output_symbols:
            values[name] = context.new_dynamic_size()
    device = output_device(description, inputs)
    return [
        torch.empty(shape, dtype=binding.dtype, device=device)
        for binding, shape in zip(description.outputs, description.output_shapes(values))
    ]


# ---- inputs of code that torch has compiled ----------------------------------------------------------------


@lru_cache(maxsize=256)
def _contract(text: str) -> InputCheck:
    from trtcore.runtime.contract import check_from_json

    return check_from_json(json.loads(text))


def _fit(inputs: list[torch.Tensor], contract: str) -> torch.Tensor:
    """See that tensors are what a program was compiled for, and contiguous where it does not say more.

    Args:
        contract: `trtcore.runtime.contract.check_to_json` as text.

    Returns:
        True, on the CPU.

    Raises:
        InputError: one is not.
    """
    check = _contract(contract)
    check.check(inputs, {})
    for tensor, leaf in zip(inputs, check.leaves):
        if not tensor.is_contiguous() and getattr(leaf, "stride", None) is None:
            raise InputError(
                f"input {leaf.name} must be contiguous, got the strides {tuple(tensor.stride())}: compiled code "
                "reads memory by them",
                advice=f"pass {leaf.name}.contiguous()",
            )
    return torch.ones((), dtype=torch.bool)


fit = check_op("fit", _fit)
"""``fit(Tensor[] inputs, str contract) -> Tensor``: raises where inputs do not fit a contract."""


# ---- strides ----------------------------------------------------------------------------------------

_library.define(
    "restride(Tensor x, SymInt[] stride) -> Tensor",
    tags=(torch.Tag.pt2_compliant_tag,),
)


def _restride(x: torch.Tensor, stride: Sequence[int]) -> torch.Tensor:
    """A copy of x, of its shape, with these strides: what an engine's output was to the model, laid out as there.

    Elements that share memory by these strides (an expanded tensor's) are equal in x.
    """
    stride = stride or ()  # AOTInductor's packages pass None for a list without elements
    result = torch.empty_strided(tuple(x.shape), tuple(stride), dtype=x.dtype, device=x.device)
    if not x.numel():
        return result
    if not overlaps_itself(result):  # dense: a permutation of dims
        return result.copy_(x)
    memory = torch.zeros(
        result.untyped_storage().nbytes() // x.element_size(), dtype=x.dtype, device=x.device
    )
    places = torch.arange(memory.numel(), device=x.device).as_strided(tuple(x.shape), tuple(stride))
    memory[places.reshape(-1)] = x.reshape(-1)
    return memory.as_strided(tuple(x.shape), tuple(stride))


def _fake_restride(x: torch.Tensor, stride: Sequence[Any]) -> torch.Tensor:
    return torch.empty_strided(x.shape, tuple(stride), dtype=x.dtype, device=x.device)


_library.impl("restride", _restride, "CompositeExplicitAutograd")
_library.impl("restride", torch.library.fallthrough_kernel, "Autograd")
torch.library.register_fake("trtcore::restride", _fake_restride, lib=_library)

restride = torch.ops.trtcore.restride.default
"""``restride(Tensor x, SymInt[] stride) -> Tensor``: a copy with these strides, for torch ops that read them."""

_library.impl("execute_engine", execute, "CompositeExplicitAutograd")
_library.impl("execute_engine", _without_autograd, "Autograd")
torch.library.register_fake(NAME, _fake, lib=_library)

execute_engine = torch.ops.trtcore.execute_engine.default
