"""A builder that asks the engine cache first, and gives it what was built."""

from __future__ import annotations

import os
import re
import time
import uuid
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from trtcore.artifact.engine_file import EngineArtifact, with_new_manifest
from trtcore.artifact.manifest import EngineManifest, TensorBinding
from trtcore.engine.build import Builder, Failure, Tell
from trtcore.engine.cache.entry import (
    FOOT_BYTES,
    DamagedEntryError,
    EntryFacts,
    engine_of,
    facts_bytes,
    facts_of,
    header_sha256,
    name_of,
    pieces_of,
    read_facts,
)
from trtcore.engine.cache.repeats import is_intact, repeats_of, rest_sha256
from trtcore.engine.cache.stores import CustomStore, Store, store_at
from trtcore.engine.key import tensor_hash
from trtcore.engine.refit import Donors, refit_engine
from trtcore.engine.request import EngineRequest
from trtcore.errors import ArtifactError
from trtcore.ir.tensor_bytes import have_same_bytes, on_threads

if TYPE_CHECKING:
    from trtcore.packs.registry import ConverterRegistry
    from trtcore.settings import CompilationSettings

_VARIABLE = "TRTCORE_ENGINE_CACHE_KEY"


def secret_of(settings: CompilationSettings) -> bytes | None:
    """The key that seals entries: ``engine_cache_key``, or the environment's ``TRTCORE_ENGINE_CACHE_KEY``."""
    if settings.engine_cache_key is not None:
        return bytes(settings.engine_cache_key.value)
    text = os.environ.get(_VARIABLE)
    return text.encode() if text else None


@dataclass(frozen=True)
class _Found:
    """An entry's engine.

    Attributes:
        layers: of its network.
        has_the_weights: those of the request; else it can be refitted, and has others.
    """

    artifact: EngineArtifact
    layers: int
    has_the_weights: bool


class CachedBuilder:
    """Another builder, behind the engine cache.

    Nothing that the cache does stops a compile: what cannot be read, is damaged, or cannot be written is a warning, and
    the engine is built.

    Args:
        settings: of the compile; they ask for the cache.
        inner: who builds what the cache has not got.
        registry: of the compile.

    Raises:
        SettingsError: there is no such place.
    """

    def __init__(self, settings: CompilationSettings, inner: Builder, registry: ConverterRegistry) -> None:
        self.inner, self.registry = inner, registry
        self._reads, self._writes = settings.reuse_cached_engines, settings.cache_built_engines
        self._limit = settings.engine_cache_size
        self._secret = secret_of(settings)
        custom = settings.custom_engine_cache
        self.store: Store = CustomStore(custom) if custom is not None else store_at(settings.engine_cache_dir)
        self._asked: dict[int, tuple[EngineRequest, _Found | None]] = {}
        self._reachable = True

    def submit(self, request: EngineRequest) -> None:
        """Start a build of what the cache has not got."""
        found = self._look_up(request)
        self._asked[id(request)] = request, found
        if found is None:
            self.inner.submit(request)

    def build(
        self, request: EngineRequest, tell: Tell, *, trial: bool = False, convert_only: bool = False
    ) -> EngineArtifact | Failure | None:
        """As `Builder.build`.

        It tells ``("cached", layers)`` of an engine from the cache, and ``("cache",)`` before one is written.
        """
        if trial or convert_only:
            return self.inner.build(request, tell, trial=trial, convert_only=convert_only)
        asked = self._asked.pop(id(request), None)
        found = self._look_up(request) if asked is None else asked[1]
        heard = _Layers(tell)
        if found is not None:
            artifact = found.artifact if found.has_the_weights else self._refitted(request, found, heard)
            if artifact is not None:
                tell("cached", found.layers)
                return artifact
        made = self.inner.build(request, heard)
        if isinstance(made, EngineArtifact) and self._writes:
            tell("cache")
            self._keep(request, made, heard.layers)
        return made

    def _refitted(self, request: EngineRequest, found: _Found, tell: Tell) -> EngineArtifact | None:
        """An engine that can be refitted, with the request's weights; None where these make another network."""
        made = refit_engine(request, self.registry, Donors([found.artifact]), tell)
        return made if isinstance(made, EngineArtifact) else None

    def close(self) -> None:
        """The compile is over."""
        self._asked.clear()
        self.inner.close()

    # -- reading -------------------------------------------------------------------------------------------

    def _look_up(self, request: EngineRequest) -> _Found | None:
        """The request's engine; None where it has to be built.

        First under the name that samples of the weights give. What lies there says what weights it has, and its
        constants are compared with the request's, which is faster than to hash them. Where it has others, and where
        entries have a secret seal, the hash of all decides.
        """
        if not (self._reads and self._reachable):
            return None
        quick = self._quick_name(request)
        if quick is not None and (found := self._read(request, quick, self._at_a_glance)) is not None:
            return found
        name = self._name(request)
        return None if name is None or name == quick else self._read(request, name, self._hashed)

    def _read(
        self, request: EngineRequest, name: str, opened: Callable[[EngineRequest, memoryview], _Found | None]
    ) -> _Found | None:
        if not self._reachable:
            return None
        try:
            data = self.store.read(name)
        except Exception as error:
            self._unreachable(request, "read", error)
            return None
        if data is None:
            return None
        try:
            return opened(request, memoryview(data))
        except (DamagedEntryError, ArtifactError, ValueError, KeyError, TypeError) as error:
            text = error.message if isinstance(error, ArtifactError) else str(error)
            _warn(f"the entry of {request.name} in the engine cache {self.store.place} is not used: {text}")
            return None

    def _hashed(self, request: EngineRequest, entry: memoryview) -> _Found:
        """The engine of an entry under the request's key."""
        opened = OpenedEntry.of(entry, request.key(), self._secret)
        compared = _compared(opened.constants, request.anatomy.weights, request.identity.contents)
        return _verified(request, opened, compared)

    def _at_a_glance(self, request: EngineRequest, entry: memoryview) -> _Found | None:
        """The engine of an entry under the request's quick name; None where it has other weights."""
        claimed = facts_of(entry, self._secret).contents
        weights = request.anatomy.weights
        if len(claimed) != len(weights):
            raise DamagedEntryError("it belongs to another request")
        identity = request.anatomy.identity(claimed)
        opened = OpenedEntry.of(entry, identity.key, self._secret)
        compared = _compared(opened.constants, weights, claimed)
        rest = set(range(len(weights))) - compared.weights
        if all(tensor_hash(weights[index]) == claimed[index] for index in rest):
            request.recognise(identity)
            return _verified(request, opened, compared)
        if self._name(request) == self._quick_name(request):  # the samples are all that there is
            raise DamagedEntryError("it belongs to another request, or has changed")
        return None

    # -- writing -------------------------------------------------------------------------------------------

    def _keep(self, request: EngineRequest, artifact: EngineArtifact, layers: int) -> None:
        name = self._place(request) if self._reachable else None
        if name is None:
            return None
        engine = memoryview(artifact.container.numpy())  # type: ignore[arg-type]
        identity = request.identity
        constants = {name: tensor for name, (_, tensor) in artifact.hashed_constants().items()}
        repeats = repeats_of(artifact.plan, constants)
        facts = EntryFacts(
            identity.key, len(engine), header_sha256(engine), repeats, rest_sha256(artifact.plan, constants, repeats),
            layers, identity.symbols, _weight_names(request), identity.contents, request.name, request.backend,
            request.backend_version, request.target.name, time.time(),
        )  # fmt: skip
        pieces = pieces_of(engine, facts, self._secret)
        if (size := sum(map(len, pieces))) > self._limit and not isinstance(self.store, CustomStore):
            return _warn(
                f"{request.name} has {size} bytes, and is not kept: engine_cache_size is {self._limit}"
            )
        try:
            self.store.write(name, pieces)
            self.store.shrink(self._limit)
        except Exception as error:
            self._unreachable(request, "written", error)

    def _place(self, request: EngineRequest) -> str | None:
        """The name to keep an engine under: the quick one, unless another request's has it."""
        name, quick = self._name(request), self._quick_name(request)
        if quick is None or name is None or quick == name:
            return name
        try:
            end = self.store.end(quick, FOOT_BYTES)
            facts = read_facts(self.store.end(quick, facts_bytes(end)), self._secret)
        except Exception:  # nothing is there, or nothing that anybody could use
            return quick
        return quick if facts.key == request.key() else name

    def _quick_name(self, request: EngineRequest) -> str | None:
        """A name of which a few bytes of each weight are a part; None where the key has to decide, and is enough."""
        if self._secret is not None or not request.settings.immutable_weights:
            return None
        try:
            return request.anatomy.sampled_key
        except TypeError:  # `_name` says so
            return None

    def _name(self, request: EngineRequest) -> str | None:
        try:
            return name_of(request.key(), self._secret)
        except TypeError as error:
            _warn(f"{request.name} does not go through the engine cache: it has no key, because {error}")
            return None

    def _unreachable(self, request: EngineRequest, what: str, error: Exception) -> None:
        self._reachable = False
        _warn(
            f"the engine cache {self.store.place} cannot be {what} for {request.name}, and is left alone for the rest "
            f"of this compile: {type(error).__name__}: {error}"
        )


@dataclass(frozen=True)
class OpenedEntry:
    """An entry whose header and facts hold, and whose tensors are yet to be compared or hashed.

    Attributes:
        constants: those of the engine's file by name: (the sha256 that the file says, the tensor).
    """

    facts: EntryFacts
    artifact: EngineArtifact
    constants: Mapping[str, tuple[str, torch.Tensor]]

    @classmethod
    def of(cls, entry: memoryview, key: str, secret: bytes | None) -> OpenedEntry:
        """The entry of the request of a key.

        Raises:
            ArtifactError, DamagedEntryError: it is none, or its facts or header have changed.
        """
        facts, engine = engine_of(entry, key, secret)
        artifact = EngineArtifact.from_tensor(torch.frombuffer(engine, dtype=torch.uint8))
        return cls(facts, artifact, artifact.hashed_constants())

    def verify(self, known: Collection[str] = ()) -> None:
        """Leave no byte of the engine's file that was neither compared nor hashed.

        Args:
            known: names of constants that were compared otherwise.

        Raises:
            ArtifactError, DamagedEntryError: one has changed.
            KeyError, ValueError: the facts are of another engine.
        """
        self.artifact.verify(known={*known, "plan"})
        constants = {name: tensor for name, (_, tensor) in self.constants.items()}
        if not is_intact(self.artifact.plan, constants, self.facts.repeats, self.facts.rest_sha256):
            raise DamagedEntryError("its plan has changed")


@dataclass(frozen=True)
class _Compared:
    """What of an engine's file and of a request has the same bytes.

    Attributes:
        constants: names in the file.
        weights: places of the weights.
    """

    constants: set[str]
    weights: set[int]


def _compared(
    constants: Mapping[str, tuple[str, torch.Tensor]],
    weights: Sequence[torch.Tensor],
    contents: Sequence[str],
) -> _Compared:
    """Compare each weight with the constant that is to have its hash, which takes a fifth of the time of hashing it.

    Args:
        contents: the hashes that the weights have, or are said to have.
    """
    places: dict[str, list[int]] = {}
    for index, content in enumerate(contents):
        places.setdefault(content, []).append(index)
    groups: dict[str, list[str]] = {}
    for name, (content, _) in constants.items():
        if content in places:
            groups.setdefault(content, []).append(name)

    def of_one(content: str) -> _Compared:
        same = _Compared(set(), set())
        for name in groups[content]:
            # A second constant of the same bytes need only be what it says; the weights are known then.
            left = [index for index in places[content] if index not in same.weights] or places[content][:1]
            equal = {index for index in left if have_same_bytes(constants[name][1], weights[index])}
            same.weights.update(equal)
            if equal:
                same.constants.add(name)
        return same

    found = on_threads(of_one, groups)
    return _Compared(
        set().union(*(one.constants for one in found)), set().union(*(one.weights for one in found))
    )


def _verified(request: EngineRequest, opened: OpenedEntry, compared: _Compared) -> _Found:
    opened.verify(compared.constants)
    facts = opened.facts
    manifest = _adopted(opened.artifact.manifest, facts, request)
    same = facts.contents == request.identity.contents
    return _Found(with_new_manifest(opened.artifact, manifest), facts.layers, same)


def _warn(text: str) -> None:
    warnings.warn(text, RuntimeWarning, stacklevel=5)


class _Layers:
    """Hands on what a build tells, and remembers the number of layers."""

    def __init__(self, tell: Tell) -> None:
        self.tell, self.layers = tell, 0

    def __call__(self, what: str, *data: Any) -> Any:
        if what == "converted":
            self.layers = data[0]
        return self.tell(what, *data)


# ---- another program's engine -------------------------------------------------------------------------------


def _weight_names(request: EngineRequest) -> tuple[str, ...]:
    return tuple(request.weight_names.get(target, target) for target in request.identity.weights)


def _adopted(manifest: EngineManifest, facts: EntryFacts, request: EngineRequest) -> EngineManifest:
    """The manifest of an engine that another program of the same key left, in the names of this one."""
    symbols = _renaming(facts.symbols, request.identity.symbols)
    weights = _renaming(facts.weights, _weight_names(request))
    changes: dict[str, Any] = {"id": uuid.uuid4().hex, "name": request.name, "runtime": request.runtime}
    if any(old != new for old, new in symbols.items()):
        changes |= _with_symbols(manifest, symbols)
    if any(old != new for old, new in weights.items()):
        changes["weights"] = tuple(
            replace(record, name=weights[record.name] if record.name else "") for record in manifest.weights
        )
    return replace(manifest, **changes)


def _renaming(old: tuple[str, ...], new: tuple[str, ...]) -> dict[str, str]:
    if len(old) != len(new):
        raise DamagedEntryError("it has other symbols or weights than the request")
    pairs = {(one, other) for one, other in zip(old, new) if one}
    if len({one for one, _ in pairs}) != len(pairs):
        raise DamagedEntryError("one name in it stands for several of the request's")
    return dict(pairs)


_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def _with_symbols(manifest: EngineManifest, symbols: Mapping[str, str]) -> dict[str, Any]:
    def text(expression: Any) -> Any:
        if not isinstance(expression, str):
            return expression
        return _IDENTIFIER.sub(lambda found: symbols.get(found[0], found[0]), expression)

    def bound(binding: TensorBinding) -> TensorBinding:
        return replace(binding, shape=tuple(map(text, binding.shape)))

    return {
        "inputs": tuple(map(bound, manifest.inputs)),
        "outputs": tuple(map(bound, manifest.outputs)),
        "sizes": tuple(replace(size, symbol=symbols[size.symbol]) for size in manifest.sizes),
        "symbols": {symbols[name]: source for name, source in manifest.symbols.items()},
        "conditions": tuple(map(text, manifest.conditions)),
    }
