"""The reference runtime: a network snapshot as one torch graph, with TensorRT's semantics.

`compile_snapshot` is the way in. Evaluators live in one file per family of layers (`elementwise`, `linear`,
`shape`, `reduction`, `indexing`, `image`, `quantization`, `control`), each with a `TABLE` from LayerType
name to evaluator. They are written from TensorRT's operator reference and tested against outputs of a real
TensorRT (tests/golden); where TensorRT differs from torch they do what TensorRT does (docs/semantics.md).
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import torch
from torch import fx

from trtcore.pack import NetworkSnapshot
from trtcore_reference import (
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
from trtcore_reference.region import Engine, Region
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
    """Compile a snapshot to one fx graph module: (*inputs) -> tuple of outputs, both in the snapshot's order.

    It runs on the device of its inputs: the first that is not on the CPU decides, and constants are copied
    there on the first call (`module.constants`, see `staging.Constants`). Shapes are computed on the CPU.
    Outputs are on that device too, contiguous, and share memory with no input or constant. Inputs are
    trusted: whoever calls checks dtypes and ranges.

    Raises:
        ConversionError: a layer, or an attribute of it, that has no evaluator; the message names the layer.
    """
    engine = Engine(snapshot, evaluators)
    region = Region(engine)
    region.open(snapshot.inputs)
    region.build(snapshot.layers)
    inputs = [region.value(tensor, False) for tensor in snapshot.inputs]
    region.close([region.value(tensor, False) for tensor in snapshot.outputs], inputs)
    object.__setattr__(region.root, "constants", engine.constants)
    with torch.no_grad():
        module = fx.GraphModule(region.root, region.graph, class_name="ReferenceEngine")
    object.__setattr__(module, "constants", engine.constants)  # neither parameter, buffer nor submodule
    return module


__all__ = ["EVALUATORS", "Constants", "compile_snapshot"]
