"""The torch.compile backend: ``torch.compile(model, backend="trtcore", options={...})``.

Dynamo hands over a torch-level graph whose placeholders are the model's parameters and buffers, the inputs,
and ints for dynamic sizes. It is traced to ATen on Dynamo's own FakeTensors, so that any new assumption about
a size becomes one of Dynamo's guards. Parameters and buffers become weights of the engines, which are built
again when a weight has changed (see `trtcore.runtime.weight_watch`).

What was compiled, and why, is in `reports`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch.fx import GraphModule

from trtcore.errors import SettingsError
from trtcore.jit.capture import fix_floats_of_modules, is_differentiated_later, refuse_gradients, to_aten
from trtcore.jit.distributed import has_dtensors, rank_local
from trtcore.jit.recompiles import CompiledGraph, GraphReport, forget_reports, reports
from trtcore.settings import CompilationSettings

if TYPE_CHECKING:
    from trtcore.context import Observer

__all__ = ["GraphReport", "dynamo_backend", "reports"]


def dynamo_backend(
    gm: GraphModule, example_inputs: Sequence[Any], *, options: Mapping[str, Any] | None = None, **kwargs: Any
) -> Callable[..., Any]:
    """Compile a graph of Dynamo's. Found by torch through the ``torch_dynamo_backends`` entry point.

    A dynamic size that Dynamo does not bound is compiled for up to four times the size that came first,
    rounded up to a power of two; a larger one compiles again with a larger bound.
    ``torch._dynamo.mark_dynamic(x, dim, min=, max=)`` sets the bounds. A changed weight compiles again at the
    next call.

    Args:
        gm, example_inputs: from Dynamo.
        options: fields of ``CompilationSettings``, and ``observers`` as `trtcore.compile` takes them.

    Raises:
        SettingsError: an option that does not exist or has a wrong value.
        ExportError: gradients would be needed.
        TrtcoreError: as `trtcore.compile`. Dynamo wraps what is raised here in its ``BackendCompilerFailed``,
            which has our text, and the error itself as ``inner_exception``.
    """
    settings, observers = _settings({**dict(options or {}), **kwargs})
    refuse_gradients(gm)
    if is_differentiated_later(gm):
        warnings.warn(
            "torch.compile(backend='trtcore'): the model differentiates what a graph computes, and engines have no "
            "backward pass; the graph runs in torch. trtcore.compile has the derivative in engines",
            RuntimeWarning,
            stacklevel=2,
        )
        return gm.forward
    fix_floats_of_modules(gm)

    def compiled(graph: GraphModule, inputs: Sequence[Any]) -> Callable[..., Any]:
        return CompiledGraph(graph, list(inputs), settings, observers)

    if settings.use_distributed_mode_trace or has_dtensors(gm):
        return rank_local(gm, example_inputs, to_aten, compiled)
    return compiled(to_aten(gm), example_inputs)


dynamo_backend.reset = forget_reports  # type: ignore[attr-defined]  # torch._dynamo.reset calls it


def _settings(options: dict[str, Any]) -> tuple[CompilationSettings, tuple[Observer, ...]]:
    if "mode" in options:
        raise SettingsError(
            f"torch.compile(mode={options['mode']!r}) means nothing to the backend trtcore",
            advice="leave mode out, and give settings in options={...}",
        )
    observers = options.pop("observers", ())
    if not isinstance(observers, (list, tuple)) or not all(map(callable, observers)):
        raise SettingsError(f"observers={observers!r}: it must be a list of functions of one Event")
    return CompilationSettings.from_kwargs(**options), tuple(observers)
