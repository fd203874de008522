"""One entry of the engine cache: an engine's file, and behind it what the cache knows of it, sealed.

    engine file | JSON (`EntryFacts`) | 32 bytes: the seal of the JSON | 8 bytes: its length | 8 bytes: magic

The JSON has the sha256 of the engine file's header, the header that of every tensor, and tensors fill the file. For the
plan the JSON says which constants stand in it again, and has a hash of the rest (`repeats`). So the seal covers every
byte. It is a sha256, or, with a secret key, an HMAC: what others wrote then does not open. Nothing
here needs torch.
"""

from __future__ import annotations

import dataclasses
import hashlib
import hmac
import json
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

FORMAT = 2
_MAGIC = b"TRTEC\x00\x00\x01"
_FOOT = struct.Struct("<32sQ8s")
FOOT_BYTES = _FOOT.size
_MAX_FACTS = 64 << 20
_HEAD = struct.Struct("<Q")  # of an engine's file, a safetensors container


class DamagedEntryError(Exception):
    """What was stored is not what came back, or somebody else's."""


@dataclass(frozen=True)
class EntryFacts:
    """What the cache knows of an engine.

    Attributes:
        key: of the request that it was built for.
        engine_bytes: of the engine's file, which the entry begins with.
        header_sha256: of the engine file's header, its length included.
        repeats: (place, name) of the constants of its file that stand in its plan again.
        rest_sha256: of the rest of its plan.
        layers: of the TensorRT network.
        symbols, weights, contents: as `trtcore.engine.key.Identity` has them, but `weights` by the model's names.
        name, backend, backend_version, target: for people.
        built: seconds since 1970.
    """

    key: str
    engine_bytes: int
    header_sha256: str
    repeats: tuple[tuple[int, str], ...]
    rest_sha256: str
    layers: int
    symbols: tuple[str, ...]
    weights: tuple[str, ...]
    contents: tuple[str, ...]
    name: str
    backend: str
    backend_version: str
    target: str
    built: float
    format: int = FORMAT


def name_of(key: str, secret: bytes | None) -> str:
    """What an entry is stored under: with a secret, a name that only its owners find."""
    return key if secret is None else hmac.new(secret, b"name:" + key.encode(), hashlib.sha256).hexdigest()


def foot(facts: EntryFacts, secret: bytes | None) -> bytes:
    """What follows the engine's file in an entry."""
    text = json.dumps(dataclasses.asdict(facts), separators=(",", ":")).encode()
    return text + _FOOT.pack(_seal(text, secret), len(text), _MAGIC)


def facts_bytes(end: bytes) -> int:
    """How many bytes from its end an entry's facts begin.

    Args:
        end: at least the last `FOOT_BYTES` bytes.

    Raises:
        DamagedEntryError: this is no entry.
    """
    if len(end) < FOOT_BYTES:
        raise DamagedEntryError(f"it has {len(end)} bytes")
    _, length, magic = _FOOT.unpack(end[-FOOT_BYTES:])
    if magic != _MAGIC or length > _MAX_FACTS:
        raise DamagedEntryError("it does not end as an entry does")
    return int(length) + FOOT_BYTES


def read_facts(end: bytes, secret: bytes | None) -> EntryFacts:
    """The facts of an entry.

    Args:
        end: its last bytes, at least as many as `facts_bytes` says.

    Raises:
        DamagedEntryError: truncated, changed, or sealed with another secret.
    """
    count = facts_bytes(end)
    if len(end) < count:
        raise DamagedEntryError("it is truncated")
    text = end[len(end) - count : len(end) - FOOT_BYTES]
    seal, _, _ = _FOOT.unpack(end[-FOOT_BYTES:])
    if not hmac.compare_digest(seal, _seal(text, secret)):
        raise DamagedEntryError("its seal does not fit: a byte has changed, or another key has sealed it")
    try:
        return _facts(json.loads(text))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DamagedEntryError(f"its facts are none of an engine's: {error!r}") from None


# What JSON makes of the fields, by their annotations.
_KINDS: dict[str, tuple[type, ...]] = {"str": (str,), "int": (int,), "float": (int, float)}


def _facts(values: dict[str, Any]) -> EntryFacts:
    if values.get("format") != FORMAT:
        raise DamagedEntryError(f"it has the format {values.get('format')!r}")
    for field in dataclasses.fields(EntryFacts):
        if type(values[field.name]) not in _KINDS.get(str(field.type), (list,)):
            raise TypeError(f"{field.name} is {type(values[field.name]).__name__}")
    tuples = {name: tuple(values[name]) for name in ("symbols", "weights", "contents")}
    repeats = tuple((int(place), str(name)) for place, name in values["repeats"])
    return EntryFacts(**{**values, **tuples, "repeats": repeats})


def _seal(text: bytes, secret: bytes | None) -> bytes:
    if secret is None:
        return hashlib.sha256(text).digest()
    return hmac.new(secret, b"facts:" + text, hashlib.sha256).digest()


def header_sha256(engine: memoryview) -> str:
    """The hash of an engine file's header and its length.

    Raises:
        DamagedEntryError: the header is longer than the file.
    """
    if len(engine) < _HEAD.size:
        raise DamagedEntryError("its engine is truncated")
    (length,) = _HEAD.unpack(engine[: _HEAD.size])
    if _HEAD.size + length > len(engine):
        raise DamagedEntryError("its engine is truncated")
    return hashlib.sha256(engine[: _HEAD.size + length]).hexdigest()


def facts_of(entry: memoryview, secret: bytes | None) -> EntryFacts:
    """The facts of a whole entry.

    Raises:
        DamagedEntryError: truncated, changed, or sealed with another secret.
    """
    return read_facts(bytes(entry[-facts_bytes(bytes(entry[-FOOT_BYTES:])) :]), secret)


def engine_of(entry: memoryview, key: str, secret: bytes | None) -> tuple[EntryFacts, memoryview]:
    """The facts of an entry and its engine's file, of whose tensors the hashes are yet to be compared.

    Raises:
        DamagedEntryError: truncated, changed, sealed with another secret, or of another request.
    """
    count = facts_bytes(bytes(entry[-FOOT_BYTES:]))
    facts = read_facts(bytes(entry[-count:]), secret)
    if facts.key != key:
        raise DamagedEntryError("it belongs to another request")
    if facts.engine_bytes != len(entry) - count:
        raise DamagedEntryError(f"its engine has {len(entry) - count} bytes, not {facts.engine_bytes}")
    engine = entry[: facts.engine_bytes]
    if header_sha256(engine) != facts.header_sha256:
        raise DamagedEntryError("its engine's header has changed")
    return facts, engine


def pieces_of(engine: memoryview, facts: EntryFacts, secret: bytes | None) -> Sequence[memoryview | bytes]:
    """An entry, to be written one piece after another."""
    return engine, foot(facts, secret)
