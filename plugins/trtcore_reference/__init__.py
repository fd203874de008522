"""The reference runtime: a network snapshot as one torch graph, with TensorRT's semantics.

`compile_snapshot` is the way in. Evaluators live in one file per family of layers (`elementwise`, `linear`,
`shape`, `reduction`, `indexing`, `image`, `quantization`, `control`), each with a `TABLE` from LayerType
name to evaluator. They are written from TensorRT's operator reference and tested against outputs of a real
TensorRT (tests/golden); where TensorRT differs from torch they do what TensorRT does (docs/semantics.md).
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from torch import fx

from trtcore.pack import NetworkSnapshot
from trtcore_reference import (
    build,
    control,
    elementwise,
    image,
    indexing,
    linear,
    quantization,
    reduction,
    shape,
)
from trtcore_reference.emit import Evaluator
from trtcore_reference.staging import Constants

#: LayerType name -> evaluator.
EVALUATORS: Mapping[str, Evaluator] = MappingProxyType(
    {
        **elementwise.TABLE,
        **linear.TABLE,
        **shape.TABLE,
        **reduction.TABLE,
        **indexing.TABLE,
        **image.TABLE,
        **quantization.TABLE,
        **control.TABLE,
    }
)


def compile_snapshot(
    snapshot: NetworkSnapshot, evaluators: Mapping[str, Evaluator] = EVALUATORS
) -> fx.GraphModule:
    """A snapshot as one fx graph module, with these evaluators; see `build.compile_snapshot`."""
    return build.compile_snapshot(snapshot, evaluators)


__all__ = ["EVALUATORS", "Constants", "compile_snapshot"]
