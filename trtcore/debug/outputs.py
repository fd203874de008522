"""`check_outputs`: a look at what the first call of a module returns."""

from __future__ import annotations

import warnings
from typing import Any, TypeVar

import torch

from trtcore.errors import InputError
from trtcore.runtime.first_calls import floats, named_floats, not_finite

_Module = TypeVar("_Module", bound=torch.nn.Module)
_ADVICE = "trtcore.debug.compare(model, inputs) finds the first op whose value differs from eager's"


def check_outputs(module: _Module) -> _Module:
    """Look at the results of the next call, and warn of NaN, infinities and tensors of zeros alone.

    Results that are not finite are told unless an input was not finite already. The look waits for the GPU; later calls
    are not looked at.

    Args:
        module: what `trtcore.compile`, `trtcore.load` or `torch.compile` returned, or any module.

    Returns:
        the module itself.

    Raises:
        InputError: `module` is no module.

    Example:
        >>> trtcore.debug.check_outputs(compiled)(x)  # doctest: +SKIP
    """
    if not isinstance(module, torch.nn.Module):
        raise InputError(
            f"check_outputs takes a module, not {type(module).__name__}",
            advice="give what trtcore.compile or trtcore.load returned",
        )

    def look(_: Any, args: Any, kwargs: Any, results: Any) -> None:
        handle.remove()
        given = all(bool(one.isfinite().all()) for one in floats((args, kwargs)))
        for name, result in named_floats(results):
            if text := _fault(result, given):
                warnings.warn(f"the first call: {name} {text}; {_ADVICE}", UserWarning, stacklevel=2)

    handle = module.register_forward_hook(look, with_kwargs=True)
    return module


def _fault(result: torch.Tensor, inputs_are_finite: bool) -> str:
    """What is wrong with a result, or ""."""
    if inputs_are_finite and not bool(result.isfinite().all()):
        return not_finite(result)
    if result.numel() > 1 and not bool(result.any()):
        return f"is zero in all its {result.numel()} elements"
    return ""
