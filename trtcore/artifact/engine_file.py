"""EngineArtifact: a plan with everything needed to run it, in a file that holds no code and no pickle.

The file is a safetensors container, so any safetensors reader can look into it:

- tensor ``plan``: TensorRT's plan, uint8, shape (bytes,).
- tensors ``snapshot.<key>``: the constants' storages of the network snapshot, flat; tied weights once.
- ``__metadata__``: ``trtcore`` (the format's number), ``manifest`` (JSON, see `EngineManifest`), ``snapshot``
  (JSON, the network's structure; absent when the artifact carries no reference), ``dtypes`` (JSON, of the
  tensors whose dtype safetensors has no name for, kept as uint8).

Reading maps the file: the plan and the weights come into memory when they are used.
"""

from __future__ import annotations

import json
import os
import struct
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import torch

from trtcore.errors import ArtifactError

if TYPE_CHECKING:
    from trtcore.artifact.manifest import EngineManifest
    from trtcore.artifact.snapshot import NetworkSnapshot

FORMAT = 1
_MAX_HEADER = 256 << 20
_PREFIX = "snapshot."

# The names of the safetensors format, https://github.com/huggingface/safetensors
_NAMES: Mapping[torch.dtype, str] = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
}
_DTYPES: Mapping[str, torch.dtype] = {name: dtype for dtype, name in _NAMES.items()}
# Dtypes of one byte that safetensors has no name for, or counts in other units; kept as U8.
_RAW: Mapping[str, torch.dtype] = {
    name: getattr(torch, name) for name in ("float8_e8m0fnu", "float4_e2m1fn_x2") if hasattr(torch, name)
}


@dataclass(frozen=True, eq=False)
class EngineArtifact:
    """One built engine.

    Attributes:
        plan: TensorRT's plan, uint8, shape (bytes,), on the CPU.
        manifest: bindings, symbols, what it was built with and for.
        snapshot: the network, for the reference runtime, refit and inspection; None if left out.
    """

    plan: torch.Tensor
    manifest: EngineManifest
    snapshot: NetworkSnapshot | None = None

    def __post_init__(self) -> None:
        plan = self.plan
        if plan.dtype != torch.uint8 or plan.dim() != 1 or plan.device.type != "cpu":
            raise ArtifactError(
                f"a plan must be a uint8 tensor of one dimension on the CPU, not {plan.dtype} of shape "
                f"{tuple(plan.shape)} on {plan.device}"
            )

    def to_file(self, path: str | os.PathLike[str], *, reference: bool = True) -> None:
        """Write the artifact, in one step: another file of that name stays whole until the new one is.

        Args:
            path: where; by custom with the suffix ``.engine``.
            reference: False leaves the snapshot out; the file then runs natively only.

        Raises:
            ArtifactError: the file cannot be written.
        """
        target = Path(path)
        try:
            handle, name = tempfile.mkstemp(dir=target.parent, prefix=target.name, suffix=".tmp")
        except OSError as error:
            raise ArtifactError(f"{target} cannot be written: {error}") from error
        try:
            with os.fdopen(handle, "wb") as file:
                self._write(file, reference)
            os.replace(name, target)
        except BaseException as error:
            with suppress(OSError):
                os.unlink(name)
            if isinstance(error, OSError):
                raise ArtifactError(f"{target} cannot be written: {error}") from error
            raise

    def to_tensor(self, *, reference: bool = True) -> torch.Tensor:
        """The container's bytes as a uint8 tensor, shape (bytes,), mapped from a file that goes with it."""
        from trtcore.engine.build import map_and_unlink

        handle, name = tempfile.mkstemp(prefix="trtcore-", suffix=".engine")
        try:
            with os.fdopen(handle, "wb") as file:
                self._write(file, reference)
            return map_and_unlink(Path(name))
        except BaseException:
            with suppress(OSError):
                os.unlink(name)
            raise

    @staticmethod
    def from_file(path: str | os.PathLike[str]) -> EngineArtifact:
        """Map an artifact's file and check it; nothing in it is run.

        Raises:
            ArtifactError: no such file, truncated, foreign, of a newer format, or damaged.
        """
        source = Path(path)
        try:
            size = source.stat().st_size
            if size < 8 or not source.is_file():
                raise ArtifactError(f"{source} is not an engine file: it has {size} bytes")
            data = torch.from_file(str(source), shared=False, size=size, dtype=torch.uint8)
        except (OSError, RuntimeError) as error:
            raise ArtifactError(f"{source} cannot be read: {error}") from error
        try:
            return EngineArtifact.from_tensor(data)
        except ArtifactError as error:
            raise ArtifactError(f"{source}: {error.message}", advice=error.advice) from error

    @staticmethod
    def from_tensor(data: torch.Tensor) -> EngineArtifact:
        """Read a container's bytes; plan and constants are views of `data`.

        Args:
            data: uint8, shape (bytes,), contiguous, on the CPU.

        Raises:
            ArtifactError: truncated, foreign, of a newer format, or damaged.
        """
        from trtcore.artifact.manifest import EngineManifest

        metadata, tensors = _parse(data)
        version = metadata.get("trtcore")
        if version is None or "manifest" not in metadata or "plan" not in tensors:
            raise ArtifactError(
                "this is not an engine file of trtcore (a safetensors file of something else)"
            )
        _check_version(version)
        manifest = EngineManifest.from_json(metadata["manifest"])
        plan = tensors.pop("plan")
        return EngineArtifact(plan, manifest, _snapshot(metadata, tensors))

    # -- writing -------------------------------------------------------------------------------------------

    def _write(self, file: BinaryIO, reference: bool) -> None:
        metadata = {"trtcore": str(FORMAT), "manifest": self.manifest.to_json()}
        tensors = {"plan": self.plan}
        if reference and self.snapshot is not None:
            structure, constants = self.snapshot.to_json()
            metadata["snapshot"] = json.dumps(structure, separators=(",", ":"), allow_nan=True)
            tensors |= {_PREFIX + key: tensor for key, tensor in constants.items()}
        _write_container(file, tensors, metadata)


def _check_version(text: str) -> None:
    try:
        number = int(text)
    except ValueError:
        raise ArtifactError(f"the engine file has the format {text!r}, which is no number") from None
    if number > FORMAT:
        raise ArtifactError(
            f"the engine file has format {number}; this trtcore reads formats up to {FORMAT}",
            advice="install a newer trtcore (pip install -U trtcore), or compile again with this one",
        )
    if number < 1:
        raise ArtifactError(f"the engine file has format {number}, which never was")


def _snapshot(metadata: Mapping[str, str], tensors: Mapping[str, torch.Tensor]) -> NetworkSnapshot | None:
    if "snapshot" not in metadata:
        if tensors:
            raise ArtifactError(f"the engine file holds tensors that nothing names: {sorted(tensors)[:3]}")
        return None
    from trtcore.artifact.snapshot import NetworkSnapshot

    raw = _json(metadata.get("dtypes", "{}"), "dtypes")
    constants: dict[str, torch.Tensor] = {}
    for name, tensor in tensors.items():
        key = name.removeprefix(_PREFIX)
        if name in raw:
            if raw[name] not in _RAW or tensor.dtype != torch.uint8:
                raise ArtifactError(f"tensor {name!r} of the engine file has the unknown dtype {raw[name]!r}")
            tensor = tensor.view(_RAW[raw[name]])
        constants[key] = tensor
    return NetworkSnapshot.from_json(_json(metadata["snapshot"], "snapshot"), constants)


def _json(text: str, what: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"the engine file's {what} is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise ArtifactError(f"the engine file's {what} is a {type(value).__name__}, not an object")
    return value


# -- the safetensors container ----------------------------------------------------------------------------
# 8 bytes: the header's length, little endian. The header: JSON, {name: {dtype, shape, data_offsets}} and
# "__metadata__" of strings. Then the data, without holes, in the header's order. Written and read here since
# the safetensors package copies every tensor before it writes, and reads files only.


def _write_container(file: BinaryIO, tensors: Mapping[str, torch.Tensor], metadata: dict[str, str]) -> None:
    raw: dict[str, str] = {}
    header: dict[str, Any] = {}
    position = 0
    # largest items first: each tensor then starts at a multiple of its item size
    order = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    for name in order:
        tensor = tensors[name]
        if tensor.dtype not in _NAMES:
            text = str(tensor.dtype).removeprefix("torch.")
            if text not in _RAW:
                raise ArtifactError(f"a constant of dtype {tensor.dtype} cannot be saved")
            raw[name] = text
        size = tensor.numel() * tensor.element_size()
        header[name] = {
            "dtype": _NAMES.get(tensor.dtype, "U8"),
            "shape": list(tensor.shape),
            "data_offsets": [position, position + size],
        }
        position += size
    if raw:
        metadata = {**metadata, "dtypes": json.dumps(raw)}
    encoded = json.dumps({"__metadata__": metadata, **header}, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)
    if len(encoded) > _MAX_HEADER:
        raise ArtifactError(f"the engine's structure takes {len(encoded)} bytes, more than a file can hold")
    file.write(struct.pack("<Q", len(encoded)))
    file.write(encoded)
    for name in order:
        _write_tensor(file, tensors[name])


def _write_tensor(file: BinaryIO, tensor: torch.Tensor) -> None:
    """Write a tensor's bytes; a GPU tensor comes to the host, one at a time."""
    if tensor.numel() > 0:
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        file.write(flat.view(torch.uint8).numpy().data)


def _parse(data: torch.Tensor) -> tuple[dict[str, str], dict[str, torch.Tensor]]:
    """Metadata and tensors (views) of a container; every number in it is checked first."""
    if data.dtype != torch.uint8 or data.dim() != 1 or data.device.type != "cpu" or not data.is_contiguous():
        raise ArtifactError("an engine's bytes must be a contiguous uint8 tensor of one dimension on the CPU")
    total = data.numel()
    if total < 8:
        raise ArtifactError(f"this is not an engine file: it has {total} bytes")
    (length,) = struct.unpack("<Q", data[:8].numpy().tobytes())
    if length > _MAX_HEADER or length < 2:
        raise ArtifactError("this is not an engine file of trtcore")
    if 8 + length > total:
        raise ArtifactError(f"the engine file is truncated: its header has {length} bytes, the file {total}")
    header = _header(data[8 : 8 + length].numpy().tobytes())
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(text, str) for text in metadata.values()):
        raise ArtifactError("the engine file's metadata is damaged")
    return metadata, _tensors(header, data[8 + length :])


def _header(text: bytes) -> dict[str, Any]:
    try:
        header = json.loads(text.decode("utf-8"), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise ArtifactError(
            f"this is not an engine file of trtcore, or its header is damaged: {error}"
        ) from None
    if not isinstance(header, dict):
        raise ArtifactError("this is not an engine file of trtcore")
    return header


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name is there twice")
    return found


def _tensors(header: Mapping[str, Any], body: torch.Tensor) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = {}
    end = 0
    entries = [(name, *_entry(name, entry)) for name, entry in header.items()]
    for name, dtype, shape, (first, last) in sorted(entries, key=lambda entry: entry[3]):
        size = dtype.itemsize
        for dim in shape:
            size *= dim
        if first != end or last - first != size:
            raise ArtifactError(f"the engine file is damaged: tensor {name!r} has the wrong place or size")
        end = last
        if last > body.numel():
            raise ArtifactError(
                f"the engine file is truncated: tensor {name!r} ends at byte {last} of {body.numel()}"
            )
        piece = body[first:last]
        if piece.storage_offset() % dtype.itemsize or piece.data_ptr() % dtype.itemsize:
            piece = piece.clone()  # a foreign writer's alignment
        found[name] = piece.view(dtype).reshape(shape)
    if end != body.numel():
        raise ArtifactError(f"the engine file is damaged: {body.numel() - end} bytes after its last tensor")
    return found


def _entry(name: str, entry: Any) -> tuple[torch.dtype, tuple[int, ...], tuple[int, int]]:
    try:
        dtype, shape, (first, last) = _DTYPES[entry["dtype"]], entry["shape"], entry["data_offsets"]
    except (KeyError, TypeError, ValueError):
        raise ArtifactError(f"the engine file is damaged: its header's entry for {name!r}") from None
    numbers = [first, last, *shape] if isinstance(shape, list) else [None]
    good = all(type(number) is int and 0 <= number < 1 << 62 for number in numbers)
    if not good or first > last or len(shape) > 8:
        raise ArtifactError(f"the engine file is damaged: the numbers of its header's entry for {name!r}")
    return dtype, tuple(shape), (first, last)
