"""``torch.compile(model, backend="torch_tensorrt")``: trtcore's backend, with settings by their old names."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from trtcore_contrib_torch_tensorrt._settings import CompilationSettings, as_settings

__all__ = ["aot_torch_tensorrt_aten_backend", "torch_tensorrt_backend"]


def torch_tensorrt_backend(
    gm: Any, sample_inputs: Sequence[Any], *, options: Mapping[str, Any] | None = None, **kwargs: Any
) -> Callable[..., Any]:
    """Compile a graph of Dynamo's with trtcore. Results have no gradients: with trtcore's own backend a call in which
    they would be needed is an error.

    Args:
        options: settings by their old names; ``settings`` may be a `CompilationSettings`.

    Raises:
        as trtcore's backend; Dynamo wraps it in its ``BackendCompilerFailed``.
    """
    from torch._dynamo.backends.registry import lookup_backend

    given = {**dict(options or {}), **kwargs}
    settings = given.pop("settings", None)
    if settings is not None and not isinstance(settings, CompilationSettings):
        given = {**dict(settings), **given}
        settings = None
    _without_gradients(gm)
    with torch.no_grad():  # engines have no gradients, and scripts written for that backend do not say so
        compiled = lookup_backend("trtcore")(gm, list(sample_inputs), options=as_settings(given, settings))
    return torch.no_grad()(compiled)


def _without_gradients(gm: torch.fx.GraphModule) -> None:
    """What the graph gives is not differentiated behind it, which trtcore would leave to torch."""
    for node in gm.graph.output_node().all_input_nodes:
        value = node.meta.get("example_value")
        if node.op != "placeholder" and isinstance(value, torch.Tensor) and value.requires_grad:
            node.meta["example_value"] = value.detach()


aot_torch_tensorrt_aten_backend = torch_tensorrt_backend
