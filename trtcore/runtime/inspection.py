"""What a compiled module's engines are made of: layers, precisions, memory."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from trtcore.errors import InputError, TrtcoreError
from trtcore.runtime.engine import Engine
from trtcore.runtime.plans import engines_of


@dataclass(frozen=True)
class LayerInfo:
    """One layer of a network.

    Attributes:
        name: with the path of the model's module.
        type: TensorRT's layer type.
        dtype, shape: of its first output, "float32" and "(-1, 8)"; "" for a layer without outputs.
        weight_bytes: of the constants that it holds.
    """

    name: str
    type: str
    dtype: str
    shape: str
    weight_bytes: int


@dataclass(frozen=True)
class EngineInfo:
    """One engine.

    Attributes:
        name, runtime, backend: as in its manifest.
        inputs, outputs: "x float32 (s0, 8)".
        profiles: number of optimisation profiles.
        plan_bytes: of TensorRT's plan.
        activation_bytes: device memory for the largest shapes; None where TensorRT has not opened the engine here.
        layers: as built into the network; () for an engine that was saved without it.
        tensorrt: TensorRT's own description of the built engine, as JSON; "" where it has not opened it here.
        note: why something is missing.
    """

    name: str
    runtime: str
    backend: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    profiles: int
    plan_bytes: int
    activation_bytes: int | None
    layers: tuple[LayerInfo, ...]
    tensorrt: str
    note: str

    def __str__(self) -> str:
        memory = "" if self.activation_bytes is None else f", activations {_size(self.activation_bytes)}"
        head = [
            f"{self.name}: {self.runtime} runtime, {self.backend}, plan {_size(self.plan_bytes)}{memory}",
            f"  in:  {'; '.join(self.inputs) or 'nothing'}",
            f"  out: {'; '.join(self.outputs)}",
        ]
        rows = [("layer", "type", "dtype", "shape", "weights")]
        rows += [(one.name, one.type, one.dtype, one.shape, _size(one.weight_bytes)) for one in self.layers]
        body = text_table(rows) if self.layers else []
        return "\n".join(
            [*head, *([f"  note: {self.note}"] if self.note else []), *(f"  {line}" for line in body)]
        )


class EngineInfos(tuple[EngineInfo, ...]):
    """Those of a module, in the order of their calls. `str` is a table, `to_json` is JSON."""

    __slots__ = ()

    def __str__(self) -> str:
        return "\n\n".join(map(str, self)) or "no engines: everything runs in torch"

    def to_json(self) -> str:
        """All of it, an object per engine."""
        return json.dumps([dataclasses.asdict(one) for one in self], indent=1)


def engine_info(module: torch.nn.Module) -> EngineInfos:
    """The engines of a compiled module.

    Layers are those of the network that the converters built. What TensorRT made of them, with its fusions and
    memory, is there for native engines on a machine that runs them; such an engine is opened for it.

    Args:
        module: what a compile, or `trtcore.load`, returned.

    Raises:
        InputError: it is no compiled module.
    """
    if not isinstance(module, torch.fx.GraphModule):
        raise InputError(f"engine_info takes a compiled module, not a {type(module).__name__}")
    return EngineInfos(_info(engine) for engine in engines_of(module))


def _info(engine: Engine) -> EngineInfo:
    manifest = engine.manifest
    memory, description, note = _opened(engine)
    layers = _layers(engine)
    if not layers and not note:
        note = "saved without its network (reference=False): layers are known to TensorRT alone"
    return EngineInfo(
        manifest.name, manifest.runtime, f"{manifest.backend} {manifest.backend_version}",
        tuple(f"{b.name} {_dtype(b.dtype)} {_shape(b.shape)}" for b in manifest.inputs)
        + tuple(f"{s.name} size {s.min}..{s.max}" for s in manifest.sizes),
        tuple(f"{b.name} {_dtype(b.dtype)} {_shape(b.shape)}" for b in manifest.outputs),
        manifest.profile_count, engine.artifact.plan.numel(), memory, layers, description, note,
    )  # fmt: skip


def _opened(engine: Engine) -> tuple[int | None, str, str]:
    """(activation bytes, TensorRT's description, why not)."""
    if engine.manifest.runtime != "native":
        return None, "", ""
    try:
        return engine.described()
    except TrtcoreError as error:
        return None, "", f"not opened by TensorRT: {error.message}"


def _layers(engine: Engine) -> tuple[LayerInfo, ...]:
    snapshot = engine.artifact.snapshot
    if snapshot is None:
        return ()
    found = []
    for layer in snapshot.layers:
        made = snapshot.tensors[layer.outputs[0]] if layer.outputs else None
        weights = sum(tensor.nbytes for tensor in layer.constants.values())
        dtype, shape = ("", "") if made is None else (_dtype(made.dtype), _shape(made.shape))
        found.append(LayerInfo(layer.name, layer.type, dtype, shape, weights))
    return tuple(found)


def _dtype(dtype: Any) -> str:
    return str(dtype).removeprefix("torch.")


def _shape(shape: Sequence[Any]) -> str:
    return f"({', '.join(map(str, shape))}{',' if len(shape) == 1 else ''})"


def _size(count: int) -> str:
    for unit, name in ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")):
        if count >= unit:
            return f"{count / unit:.1f} {name}"
    return f"{count} B"


def text_table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of text in columns."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows]
