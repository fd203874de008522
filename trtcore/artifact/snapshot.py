"""A TensorRT network as plain, frozen data.

A `NetworkSnapshot` holds layers, tensors, edges, attributes and constants, with no TensorRT object inside.
The reference runtime, refit, inspection and the artifact file format use it, because a built plan cannot be
read back; `trtcore.conversion.readback` makes it from an `INetworkDefinition`.

Attributes are plain data: enums their names, `Dims` tuples, axis bit masks tuples of axis numbers, data types
`torch.dtype`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import torch

from trtcore.errors import ArtifactError

FORMAT = 1

#: TensorRT `DataType` name -> torch dtype.
TORCH_DTYPES: Mapping[str, torch.dtype] = MappingProxyType(
    {
        "FLOAT": torch.float32,
        "HALF": torch.float16,
        "BF16": torch.bfloat16,
        "INT8": torch.int8,
        "INT32": torch.int32,
        "INT64": torch.int64,
        "BOOL": torch.bool,
        "UINT8": torch.uint8,
        "FP8": torch.float8_e4m3fn,
        "INT4": getattr(torch, "int4"),  # noqa: B009  (not in torch's stubs)
        "FP4": torch.float4_e2m1fn_x2,
        "E8M0": torch.float8_e8m0fnu,
    }
)


#: The `LayerType` names that a snapshot may have: those that trtcore can read back.
# fmt: off
LAYER_TYPES = frozenset({
    "ACTIVATION", "ASSERTION", "ATTENTION_INPUT", "ATTENTION_OUTPUT", "CAST", "CONCATENATION", "CONDITION",
    "CONDITIONAL_INPUT", "CONDITIONAL_OUTPUT", "CONSTANT", "CONVOLUTION", "CUMULATIVE", "DECONVOLUTION",
    "DEQUANTIZE", "DYNAMIC_QUANTIZE", "EINSUM", "ELEMENTWISE", "FILL", "GATHER", "GRID_SAMPLE", "IDENTITY",
    "ITERATOR", "KV_CACHE_UPDATE", "LOOP_OUTPUT", "LRN", "MATRIX_MULTIPLY", "MOE", "NMS", "NON_ZERO",
    "NORMALIZATION", "ONE_HOT", "PADDING", "PARAMETRIC_RELU", "POOLING", "QUANTIZE", "RAGGED_SOFTMAX",
    "RECURRENCE", "REDUCE", "RESIZE", "REVERSE_SEQUENCE", "ROTARY_EMBEDDING", "SCALE", "SCATTER", "SELECT",
    "SHAPE", "SHUFFLE", "SLICE", "SOFTMAX", "SQUEEZE", "TOPK", "TRIP_LIMIT", "UNARY", "UNSQUEEZE",
})
# fmt: on

#: The inputs of an ATTENTION_OUTPUT layer in a snapshot are the attention's own operands, in this order.
ATTENTION_OPERANDS = (
    "query",
    "key",
    "value",
    "mask",
    "normalization_quantize_scale",
    "query_lengths",
    "key_value_lengths",
)


@dataclasses.dataclass(frozen=True)
class TensorInfo:
    """A tensor of the network: name, dtype, and shape with -1 for dynamic dims."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class LayerSnapshot:
    """One layer.

    `type` is the `LayerType` name ("ELEMENTWISE"), `attributes` plain data, `inputs` tensor ids (None for an
    unset optional input; those of ATTENTION_OUTPUT are the `ATTENTION_OPERANDS`), `outputs` tensor ids,
    `constants` the layer's own weights by role ("kernel", "bias", "weights", "shift", "scale", "power";
    absent roles were empty weights).
    """

    index: int
    name: str
    type: str
    attributes: Mapping[str, Any]
    inputs: tuple[int | None, ...]
    outputs: tuple[int, ...]
    constants: Mapping[str, torch.Tensor]
    metadata: str = ""


@dataclasses.dataclass(frozen=True)
class NetworkSnapshot:
    """A whole network. Tensor ids index `tensors`; `inputs` and `outputs` are in the network's own order."""

    layers: tuple[LayerSnapshot, ...]
    tensors: tuple[TensorInfo, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    name: str = ""

    def constants(self) -> dict[str, torch.Tensor]:
        """The constants' storages by key, as `to_json` gives them."""
        storages = _Storages()
        for layer in self.layers:
            for tensor in layer.constants.values():
                storages.add(tensor)
        return storages.tensors()

    def to_json(self) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
        """Return (structure, tensors): JSON-ready data, and the constants' storages by key.

        Each storage appears once, as a flat 1-D tensor over the part that the constants use, so tied weights
        stay tied and no unused part of a large buffer is written. No pickle anywhere.
        """
        return _to_json(self)

    @classmethod
    def from_json(cls, structure: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> NetworkSnapshot:
        """Rebuild what `to_json` gave; constants are views of `tensors` (nothing is copied).

        Raises:
            ArtifactError: the structure is of another format, incomplete, or points outside its tensors.
        """
        return _from_json(structure, tensors)


# -- JSON -----------------------------------------------------------------------------------------


def _dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _plain(value: Any) -> Any:
    if isinstance(value, torch.dtype):
        return {"dtype": _dtype_name(value)}
    if isinstance(value, (tuple, list)):
        return [_plain(item) for item in value]
    if isinstance(value, Mapping):
        return {"map": {key: _plain(item) for key, item in value.items()}}
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": repr(value)}
    return value


def _parse(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_parse(item) for item in value)
    if isinstance(value, Mapping):
        if "dtype" in value:
            return _parse_dtype(value["dtype"])
        if "float" in value:
            return float(value["float"])
        return {key: _parse(item) for key, item in value["map"].items()}
    return value


def _parse_dtype(name: Any) -> torch.dtype:
    known = {_dtype_name(dtype): dtype for dtype in TORCH_DTYPES.values()}
    if name not in known:
        raise ArtifactError(f"a network snapshot names an unknown dtype: {name!r}")
    return known[name]


class _Storages:
    """Collects constants by storage, and gives each storage's used part as one flat tensor."""

    def __init__(self) -> None:
        self.spans: dict[tuple[int, torch.dtype], list[int]] = {}
        self.keys: dict[tuple[int, torch.dtype], str] = {}
        self.samples: dict[tuple[int, torch.dtype], torch.Tensor] = {}

    def add(self, tensor: torch.Tensor) -> None:
        where = self._where(tensor)
        low = int(tensor.storage_offset())
        high = low + (
            1 + sum((n - 1) * s for n, s in zip(tensor.shape, tensor.stride())) if tensor.numel() else 0
        )
        span = self.spans.setdefault(where, [low, high])
        span[0], span[1] = min(span[0], low), max(span[1], high)
        self.keys.setdefault(where, f"constant_{len(self.keys)}")
        self.samples.setdefault(where, tensor)

    def reference(self, tensor: torch.Tensor) -> dict[str, Any]:
        where = self._where(tensor)
        return {
            "key": self.keys[where],
            "offset": tensor.storage_offset() - self.spans[where][0],
            "shape": list(tensor.shape),
            "stride": list(tensor.stride()),
        }

    def tensors(self) -> dict[str, torch.Tensor]:
        flat = {}
        for where, (low, high) in self.spans.items():
            sample = self.samples[where]
            flat[self.keys[where]] = sample.as_strided((high - low,), (1,), low)
        return flat

    @staticmethod
    def _where(tensor: torch.Tensor) -> tuple[int, torch.dtype]:
        # an empty storage has pointer 0 for every tensor; its span is empty, so sharing the key is harmless
        return tensor.untyped_storage().data_ptr(), tensor.dtype


def _to_json(snapshot: NetworkSnapshot) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    storages = _Storages()
    for layer in snapshot.layers:
        for tensor in layer.constants.values():
            storages.add(tensor)
    structure = {
        "format": FORMAT,
        "name": snapshot.name,
        "inputs": list(snapshot.inputs),
        "outputs": list(snapshot.outputs),
        "tensors": [[t.name, _dtype_name(t.dtype), list(t.shape)] for t in snapshot.tensors],
        "layers": [
            {
                "name": layer.name,
                "type": layer.type,
                "attributes": {key: _plain(value) for key, value in layer.attributes.items()},
                "inputs": list(layer.inputs),
                "outputs": list(layer.outputs),
                "constants": {role: storages.reference(t) for role, t in layer.constants.items()},
                "metadata": layer.metadata,
            }
            for layer in snapshot.layers
        ],
    }
    return structure, storages.tensors()


def _from_json(structure: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> NetworkSnapshot:
    if structure.get("format") != FORMAT:
        raise ArtifactError(
            f"a network snapshot of format {structure.get('format')!r}; this version reads {FORMAT}"
        )
    try:
        infos = tuple(
            TensorInfo(name, _parse_dtype(d), tuple(shape)) for name, d, shape in structure["tensors"]
        )
        layers = tuple(
            LayerSnapshot(
                index,
                layer["name"],
                layer["type"],
                MappingProxyType({key: _parse(value) for key, value in layer["attributes"].items()}),
                tuple(layer["inputs"]),
                tuple(layer["outputs"]),
                MappingProxyType({role: _view(ref, tensors) for role, ref in layer["constants"].items()}),
                layer["metadata"],
            )
            for index, layer in enumerate(structure["layers"])
        )
        snapshot = NetworkSnapshot(
            layers, infos, tuple(structure["inputs"]), tuple(structure["outputs"]), structure["name"]
        )
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
        raise ArtifactError(f"a damaged network snapshot: {type(error).__name__}: {error}") from error
    _check_ids(snapshot)
    return snapshot


def _view(reference: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> torch.Tensor:
    flat = tensors[reference["key"]]
    shape, stride, offset = reference["shape"], reference["stride"], reference["offset"]
    if len(shape) != len(stride) or min([0, offset, *shape, *stride]) < 0:
        raise ValueError(
            f"constant {reference['key']!r} with shape {shape}, stride {stride}, offset {offset}"
        )
    last = offset + sum((n - 1) * s for n, s in zip(shape, stride))
    if 0 not in shape and last >= flat.numel():
        raise ValueError(f"constant {reference['key']!r} reaches {last} of {flat.numel()} values")
    return flat.as_strided(shape, stride, flat.storage_offset() + offset)


def _check_ids(snapshot: NetworkSnapshot) -> None:
    known = range(len(snapshot.tensors))
    used = [*snapshot.inputs, *snapshot.outputs]
    for layer in snapshot.layers:
        if layer.type not in LAYER_TYPES:
            raise ArtifactError(f"a network snapshot has a layer of unknown type {layer.type!r}")
        used += [i for i in layer.inputs if i is not None]
        used += layer.outputs
    if any(not isinstance(i, int) or i not in known for i in used):
        raise ArtifactError("a network snapshot refers to a tensor it does not hold")
