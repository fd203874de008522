"""EngineArtifact: a plan with everything needed to run it, in a file that holds no code and no pickle.

An artifact is born as such a file: the network's constants, then the plan as TensorRT streams it, both hashed on the
way. The file is mapped and has no name any more, so that an engine owns its weights (nothing that is done to the model
later changes it), its pages can be evicted, and it is gone with the artifact.

The file is a safetensors container, so any safetensors reader can look into it:

- tensors ``snapshot.<key>``: the constants' storages of the network snapshot, flat; tied weights once.
- tensor ``plan``: TensorRT's plan, uint8, shape (bytes,).
- ``__metadata__``: ``trtcore`` (the format's number), ``manifest`` (JSON, see `EngineManifest`), ``snapshot``
  (JSON, the network's structure; absent when the artifact carries no reference), ``dtypes`` (JSON, of the
  tensors whose dtype safetensors has no name for, kept as uint8), ``sha256`` (JSON, of every tensor's bytes).
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
import tempfile
import weakref
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, BinaryIO

import torch

from trtcore.artifact.manifest import EngineManifest, WeightRecord
from trtcore.errors import ArtifactError
from trtcore.ir.tensor_bytes import bytes_of, on_threads
from trtcore.memory import map_file
from trtcore.paths import atomic_write, temporary_file

if TYPE_CHECKING:
    from trtcore.artifact.snapshot import LayerSnapshot, NetworkSnapshot

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


class EngineArtifact:
    """One built engine: everything that it promises, and its bytes.

    Args:
        plan: TensorRT's plan, uint8, shape (bytes,), on the CPU.
        manifest: bindings, symbols, conditions, weights, what it was built with and for.
        snapshot: the network, for the reference runtime, refit and inspection; None if left out.
        container: the engine file's bytes, uint8, of which `plan` and the snapshot's constants are views; made when
            it is asked for where it is not given.
    """

    def __init__(
        self,
        plan: torch.Tensor,
        manifest: EngineManifest,
        snapshot: NetworkSnapshot | Callable[[], NetworkSnapshot] | None = None,
        container: torch.Tensor | None = None,
    ) -> None:
        if plan.dtype != torch.uint8 or plan.dim() != 1 or plan.device.type != "cpu":
            raise ArtifactError(
                f"a plan must be a uint8 tensor of one dimension on the CPU, not {plan.dtype} of shape "
                f"{tuple(plan.shape)} on {plan.device}"
            )
        self.plan = plan
        self.manifest = manifest
        self._snapshot = snapshot
        self._container = container

    def __repr__(self) -> str:
        return f"<EngineArtifact {self.manifest.name} {self.manifest.id[:12]}>"

    @property
    def has_snapshot(self) -> bool:
        """Whether it carries the network, without reading it."""
        return self._snapshot is not None

    @property
    def snapshot(self) -> NetworkSnapshot | None:
        """The network, read when it is first asked for."""
        if callable(self._snapshot):
            self._snapshot = self._snapshot()
        return self._snapshot

    def network(self) -> NetworkSnapshot | None:
        """The same, and one that was not read yet is not kept."""
        return self._snapshot() if callable(self._snapshot) else self._snapshot

    def layers(self) -> tuple[LayerSnapshot, ...]:
        """The network's layers; () where it carries no network. One that was not read yet is not kept."""
        snapshot = self.network()
        return snapshot.layers if snapshot is not None else ()

    @property
    def container(self) -> torch.Tensor:
        """The engine file's bytes, uint8, shape (bytes,)."""
        if self._container is None:
            self._container = self.to_tensor()
        return self._container

    def written_network(self) -> dict[str, Any]:
        """The network's structure as its file has it, whose constants have the keys of the manifest's records.

        Raises:
            ArtifactError: it carries no network.
        """
        metadata, _ = _parse(self.container)
        if "snapshot" not in metadata:
            raise ArtifactError(f"the engine {self.manifest.name} was written without its network")
        return _json(metadata["snapshot"], "snapshot")

    def hashed_constants(self) -> dict[str, tuple[str, torch.Tensor]]:
        """The constants in its file by their names there: the sha256 that the file says of each, and its bytes."""
        metadata, tensors = _parse(self.container)
        hashes = _json(metadata.get("sha256", "{}"), "sha256")
        return {
            name: (str(hashes[name]), tensor)
            for name, tensor in tensors.items()
            if name != "plan" and name in hashes
        }

    def holds(self, data: torch.Tensor) -> bool:
        """Whether these bytes, uint8, are those of its file, or of its plan alone."""
        own = [self.plan, *([] if self._container is None else [self._container])]
        return any(
            one.numel() == data.numel()
            and (one.data_ptr() == data.data_ptr() or torch.equal(one, data.to(one.device)))
            for one in own
        )

    def with_manifest(self, manifest: EngineManifest) -> EngineArtifact:
        """The same engine under another name or for another runtime; the container keeps its own manifest."""
        return EngineArtifact(self.plan, manifest, self._snapshot, self._container)

    def with_constants_of(self, known: dict[str, torch.Tensor]) -> tuple[EngineArtifact, int]:
        """The same engine, whose network has its constants in tensors of other engines where the bytes are equal.

        Args:
            known: flat tensors by the sha256 of their bytes and their dtype; the other constants are put into it.

        Returns:
            (the engine, bytes of its constants that it has in others' tensors).
        """
        metadata, tensors = _parse(self.container)
        if "snapshot" not in metadata:
            return self, 0
        hashes = _json(metadata.get("sha256", "{}"), "sha256")
        shared = 0
        for name, tensor in tensors.items():
            if name == "plan" or name not in hashes:
                continue
            held = known.setdefault(f"{hashes[name]} {tensor.dtype}", tensor)
            if held is not tensor and held.shape == tensor.shape:
                tensors[name] = held
                shared += tensor.nbytes
        tensors.pop("plan", None)
        return EngineArtifact(
            self.plan, self.manifest, lambda: _snapshot(metadata, tensors), self._container
        ), shared

    def detached(self) -> EngineArtifact:
        """The same engine on tensor objects of its own: those of this one can be freed."""
        container = None if self._container is None else self._container.detach()
        return EngineArtifact(self.plan.detach(), self.manifest, self._snapshot, container)

    def to_file(self, path: str | os.PathLike[str], *, reference: bool = True) -> None:
        """Write the artifact, in one step: another file of that name stays whole until the new one is.

        Args:
            path: where; by custom with the suffix ``.engine``.
            reference: False leaves the snapshot out; the file then runs natively only.

        Raises:
            ArtifactError: the file cannot be written.
        """
        try:
            with atomic_write(path) as file:
                self._write(file, reference)
        except OSError as error:
            raise ArtifactError(f"{os.fspath(path)} cannot be written: {error}") from error

    def to_tensor(self, *, reference: bool = True) -> torch.Tensor:
        """The container's bytes as a uint8 tensor, shape (bytes,), mapped from a file that goes with it.

        Raises:
            ArtifactError: there is no room for it in the folder of temporary files.
        """
        try:
            with temporary_file() as (file, path):
                self._write(file, reference)
                file.flush()
                return map_and_unlink(path)
        except OSError as error:
            raise ArtifactError(
                f"the engine {self.manifest.name} cannot be written to {tempfile.gettempdir()}: {error}",
                advice="free some space, or set TMPDIR to a larger file system",
            ) from error

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
            data = map_file(source)
        except (OSError, RuntimeError, ValueError) as error:
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
        artifact = open_container(data)
        _ = artifact.snapshot  # checked now, because it comes from elsewhere
        return artifact

    def verify(self, known: Collection[str] = ()) -> None:
        """Hash the engine's bytes and compare: reads all of them.

        Args:
            known: names of tensors in the file whose bytes were compared otherwise.

        Raises:
            ArtifactError: a byte is not what was written.
        """
        metadata, tensors = _parse(self.container)
        hashes = _json(metadata.get("sha256", "{}"), "sha256")
        tensors = {name: tensor for name, tensor in tensors.items() if name not in known}
        found = on_threads(_sha256, tensors.values())
        for name, digest in zip(tensors, found):
            if hashes.get(name) != digest:
                raise ArtifactError(
                    f"the engine {self.manifest.name} is damaged: tensor {name!r} has changed"
                )

    # -- writing -------------------------------------------------------------------------------------------

    def _write(self, file: BinaryIO, reference: bool) -> None:
        writer = EngineFileWriter(file, self.manifest, self.snapshot if reference else None)
        if self.plan.numel():
            writer.write(self.plan.contiguous().numpy().data)
        writer.finish(self.manifest)


def open_container(data: torch.Tensor) -> EngineArtifact:
    """A container's artifact; its snapshot is read when it is asked for.

    Args:
        data: as for `EngineArtifact.from_tensor`, which is for bytes that come from elsewhere.
    """
    metadata, tensors = _parse(data)
    version = metadata.get("trtcore")
    if version is None or "manifest" not in metadata or "plan" not in tensors:
        raise ArtifactError("this is not an engine file of trtcore (a safetensors file of something else)")
    _check_version(version)
    manifest = EngineManifest.from_json(metadata["manifest"])
    plan = tensors.pop("plan")
    if "snapshot" not in metadata:
        if tensors:
            raise ArtifactError(f"the engine file holds tensors that nothing names: {sorted(tensors)[:3]}")
        return EngineArtifact(plan, manifest, None, data)
    return EngineArtifact(plan, manifest, lambda: _snapshot(metadata, tensors), data)


def with_new_manifest(artifact: EngineArtifact, manifest: EngineManifest) -> EngineArtifact:
    """The same engine under another manifest, which its container has too.

    It is written over the one in the artifact's container, which must be the caller's alone; or into a new container
    where the old one's header has no room for it.
    """
    data = artifact.container
    (length,) = struct.unpack("<Q", data[:8].numpy().tobytes())
    document = _header(data[8 : 8 + length].numpy().tobytes())
    document["__metadata__"]["manifest"] = manifest.to_json()
    header = json.dumps(document, separators=(",", ":")).encode()
    if len(header) > length:
        return open_container(EngineArtifact(artifact.plan, manifest, artifact.snapshot).to_tensor())
    room = bytearray(header.ljust(length))
    data[8 : 8 + length] = torch.frombuffer(room, dtype=torch.uint8)
    return EngineArtifact(artifact.plan, manifest, artifact._snapshot, data)


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


def _snapshot(metadata: Mapping[str, str], tensors: Mapping[str, torch.Tensor]) -> NetworkSnapshot:
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


_ALIGNMENT = 64
_PLACEHOLDER = 1 << 60  # as wide as any size can be
_NO_HASH = "0" * 64


class EngineFileWriter:
    """Writes one container as it comes to be: the constants at once, the plan as it is streamed, the header last.

    The header stands first in the file. Its room is kept by a header of the same texts with the widest numbers.

    Args:
        file: seekable, at its start.
        manifest: as it will be, but for hashes.
        snapshot: the network, whose constants are written; None leaves it out.
        known: hashes of constants by their keys, where they are known.
    """

    def __init__(
        self,
        file: BinaryIO,
        manifest: EngineManifest,
        snapshot: NetworkSnapshot | None,
        known: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self._file = file
        self._metadata: dict[str, str] = {"trtcore": str(FORMAT)}
        tensors: dict[str, torch.Tensor] = {}
        if snapshot is not None:
            structure, constants = snapshot.to_json()
            self._metadata["snapshot"] = json.dumps(structure, separators=(",", ":"), allow_nan=True)
            tensors = {_PREFIX + key: tensor for key, tensor in constants.items()}
        # Largest items first: each tensor then starts at a multiple of its item size. The plan's is one byte.
        order = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
        self._entries, raw, position = _layout(tensors, order)
        if raw:
            self._metadata["dtypes"] = json.dumps(raw)
        self._plan_start = position
        self.hashes: dict[str, str] = dict.fromkeys([*order, "plan"], _NO_HASH)
        self._room = len(self._header(manifest, _PLACEHOLDER))
        if self._room > _MAX_HEADER:
            raise ArtifactError(f"the engine's structure takes {self._room} bytes, more than a file can hold")
        _write_all(file, struct.pack("<Q", self._room) + b" " * self._room)
        for name in order:
            self.hashes[name] = _write_tensor(file, tensors[name], known.get(name.removeprefix(_PREFIX)))
        self._plan_bytes = 0
        self._plan_hash = hashlib.sha256()

    def write(self, data: Any) -> int:
        """The next bytes of the plan.

        Returns:
            how many were taken: all of them.

        Raises:
            OSError: they cannot be written.
        """
        view = memoryview(data).cast("B")
        _write_all(self._file, view)
        self._plan_hash.update(view)
        self._plan_bytes += len(view)
        return len(view)

    def hashed(self, weight: WeightRecord) -> WeightRecord:
        """The record with its constant's hash; as it is where the constants are left out."""
        digest = self.hashes.get(_PREFIX + weight.constant)
        return weight if digest is None else replace(weight, sha256=digest)

    @property
    def plan_bytes(self) -> int:
        """Bytes of the plan so far."""
        return self._plan_bytes

    def finish(self, manifest: EngineManifest) -> None:
        """Write the header: the file is a container from now on."""
        self.hashes["plan"] = self._plan_hash.hexdigest()
        header = self._header(manifest, self._plan_bytes)
        if len(header) > self._room:
            raise ArtifactError("the engine's manifest has grown while the engine was built")
        self._file.seek(8)
        _write_all(self._file, header + b" " * (self._room - len(header)))
        self._file.flush()

    def _header(self, manifest: EngineManifest, plan_bytes: int) -> bytes:
        metadata = {
            **self._metadata,
            "manifest": manifest.to_json(),
            "sha256": json.dumps(self.hashes, separators=(",", ":")),
        }
        start = self._plan_start
        plan = {"dtype": "U8", "shape": [plan_bytes], "data_offsets": [start, start + plan_bytes]}
        document = {"__metadata__": metadata, **self._entries, "plan": plan}
        encoded = json.dumps(document, separators=(",", ":")).encode()
        return encoded + b" " * (-len(encoded) % 8)


def _layout(
    tensors: Mapping[str, torch.Tensor], order: list[str]
) -> tuple[dict[str, Any], dict[str, str], int]:
    """The header's entries, the dtypes that safetensors has no name for, and where the next tensor starts."""
    raw: dict[str, str] = {}
    entries: dict[str, Any] = {}
    position = 0
    for name in order:
        tensor = tensors[name]
        if tensor.dtype not in _NAMES:
            text = str(tensor.dtype).removeprefix("torch.")
            if text not in _RAW:
                raise ArtifactError(f"a constant of dtype {tensor.dtype} cannot be saved")
            raw[name] = text
        size = tensor.numel() * tensor.element_size()
        entries[name] = {
            "dtype": _NAMES.get(tensor.dtype, "U8"),
            "shape": list(tensor.shape),
            "data_offsets": [position, position + size],
        }
        position += size
    return entries, raw, position


_CHUNK = 16 << 20


def _write_all(file: BinaryIO, data: bytes | memoryview) -> None:
    """Write all of it; an unbuffered file may take less at a time."""
    rest = memoryview(data)
    while rest:
        rest = rest[file.write(rest) :]


def _write_tensor(file: BinaryIO, tensor: torch.Tensor, known: str | None = None) -> str:
    """Write a tensor's bytes, and return their sha256; a GPU tensor comes to the host, one at a time."""
    digest = hashlib.sha256()
    for piece in _pieces(tensor):
        _write_all(file, piece)
        if known is None:
            digest.update(piece)
    return known or digest.hexdigest()


def _sha256(tensor: torch.Tensor) -> str:
    digest = hashlib.sha256()
    for piece in _pieces(tensor):
        digest.update(piece)
    return digest.hexdigest()


def _pieces(tensor: torch.Tensor) -> list[memoryview]:
    if not tensor.numel():
        return []
    data = bytes_of(tensor.detach().cpu().contiguous())
    return [data[start : start + _CHUNK] for start in range(0, len(data), _CHUNK)]


# -- files that go with a tensor ---------------------------------------------------------------------------


def stored(storages: Mapping[str, torch.UntypedStorage]) -> dict[str, torch.UntypedStorage]:
    """Copies of storages: those on the CPU in one mapped file that goes with them, others on their device.

    Raises:
        OSError: there is no room for the file.
    """
    distinct = {(s.device, s.data_ptr()): s for s in storages.values()}
    copies: dict[tuple[torch.device, int], torch.UntypedStorage] = {}
    places: dict[tuple[torch.device, int], int] = {}
    with temporary_file() as (file, path):
        position = 0
        for key, storage in distinct.items():
            if storage.device.type != "cpu" or not storage.nbytes():
                copies[key] = storage.clone()  # type: ignore[no-untyped-call]
                continue
            padding = -position % _ALIGNMENT
            _write_all(file, b"\0" * padding)
            places[key] = position + padding
            whole = torch.empty(0, dtype=torch.uint8).set_(storage)
            _write_all(file, bytes_of(whole))
            position += padding + storage.nbytes()
        if places:
            whole = map_and_unlink(path)
    for key, start in places.items():
        copies[key] = torch.frombuffer(
            whole.numpy(), dtype=torch.uint8, offset=start, count=distinct[key].nbytes()
        ).untyped_storage()
    return {name: copies[s.device, s.data_ptr()] for name, s in storages.items()}


def map_and_unlink(path: Path) -> torch.Tensor:
    """As `map_file`; the file goes with the tensor."""
    data = map_file(path)
    try:
        path.unlink()  # the mapping keeps the bytes until the tensor is gone
    except OSError:  # Windows cannot delete a mapped file
        weakref.finalize(data, _unlink, path)  # at exit at the latest
    return data


def _unlink(path: Path) -> None:
    with suppress(OSError):
        path.unlink()


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
