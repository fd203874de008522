"""Arguments that several entry points share."""

from __future__ import annotations

from typing import Any

from trtcore import errors
from trtcore_contrib_torch_tensorrt._Input import as_inputs
from trtcore_contrib_torch_tensorrt._told import NotHereError

__all__ = ["one_of", "refuse_binding_names"]


def one_of(inputs: Any, arg_inputs: Any) -> dict[str, Any]:
    """Positional inputs as trtcore takes them."""
    if inputs is not None and arg_inputs is not None:
        raise errors.InputError("give either inputs or arg_inputs, not both: they mean the same")
    given = inputs if inputs is not None else arg_inputs
    if given is not None and not isinstance(given, (list, tuple)):
        given = [given]
    return {"arg_inputs": None if given is None else tuple(as_inputs(list(given)))}


def refuse_binding_names(given: dict[str, Any]) -> None:
    """Names of bindings that the user wants, which trtcore gives by itself."""
    for name in ("arg_input_binding_names", "kwarg_input_binding_names", "output_binding_names"):
        if given.pop(name, None) is not None:
            raise NotHereError(
                f"{name}: an engine's inputs and outputs are called like those of the exported program's graph",
                advice="read them from the engine, or from trtcore.dynamo.trace(model, inputs).graph_signature",
            )
