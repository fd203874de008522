"""A backend that finds out what it can do by building minimal networks, once per version and target."""

from __future__ import annotations

from trtcore.pack import Backend, Capability, Target
from trtcore_backends.probes import PROBES, check_feature, probe
from trtcore_backends.store import CapabilityStore


class ProbedBackend(Backend):
    """Answers `can` by a probe of about 20 ms, and keeps the answer in the user's cache folder
    (``TRTCORE_CACHE_DIR`` overrides it)."""

    def __init__(self) -> None:
        super().__init__()
        self._stores: dict[str, CapabilityStore] = {}

    def features(self) -> tuple[str, ...]:
        """All names that `can` knows, sorted."""
        return tuple(sorted(PROBES))

    def can(self, feature: str, target: Target) -> Capability:
        """Whether this backend can do `feature` for `target`; see `Backend.can`."""
        check_feature(self, feature)
        key = target.name
        with self._lock:
            store = self._stores.get(key)
            if store is None:
                store = self._stores[key] = CapabilityStore.for_backend(self, target)
        return store.get(feature, lambda: probe(self, feature, target))
