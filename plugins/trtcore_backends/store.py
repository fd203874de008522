"""Where `Backend.can` keeps its answers: one JSON file per bindings version, target and kind of machine."""

from __future__ import annotations

import json
import threading
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from trtcore.pack import Capability, atomic_write, cache_directory, current_device
from trtcore_backends.probes import revision

if TYPE_CHECKING:
    from trtcore.pack import Backend, Target

FORMAT = 1
_LOCK_SECONDS = 10.0


class CapabilityStore:
    """Answers by feature, in memory and in a file. Threads and processes may share one.

    A file that cannot be read is rebuilt with a warning; one that cannot be written costs a warning and the
    next process's time.

    Args:
        path: the JSON file.
        revision: of the probes; answers of another revision are asked again.
    """

    def __init__(self, path: Path, revision: str) -> None:
        self.path = path
        self.revision = revision
        self._answers: dict[str, Capability] | None = None
        self._guard = threading.RLock()
        self._writable = True

    @classmethod
    def for_backend(cls, backend: Backend, target: Target) -> CapabilityStore:
        """The store for these bindings, this target, and a machine with or without a GPU."""
        machine = "gpu" if current_device() is not None else "nogpu"
        name = f"{backend.name}-{backend.version}-{target.name}-{machine}.json"
        return cls(cache_directory() / "capabilities" / name, revision())

    def get(self, feature: str, ask: Callable[[], Capability]) -> Capability:
        """The kept answer, or `ask`'s, which is then kept."""
        with self._guard:
            if self._answers is None:
                self._answers = self._read()
            answer = self._answers.get(feature)
            if answer is None:
                answer = self._answers[feature] = ask()
                self._write()
            return answer

    def _read(self) -> dict[str, Capability]:
        try:
            text = self.path.read_text(encoding="utf-8")
        except (FileNotFoundError, NotADirectoryError):
            return {}
        except OSError as error:
            warnings.warn(
                f"the capability cache {self.path} cannot be read: {error}", RuntimeWarning, stacklevel=4
            )
            return {}
        except UnicodeDecodeError as error:
            self._warn_corrupt(error)
            return {}
        try:
            return _parse(text, self.revision)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            self._warn_corrupt(error)
            return {}

    def _warn_corrupt(self, error: Exception) -> None:
        warnings.warn(
            f"the capability cache {self.path} is damaged ({error!r}); it is rebuilt",
            RuntimeWarning,
            stacklevel=5,
        )

    def _write(self) -> None:
        """Merge with what other processes wrote, and replace the file in one step."""
        if not self._writable or self._answers is None:
            return
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(f"{self.path}.lock", timeout=_LOCK_SECONDS):
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", RuntimeWarning)  # told at the first reading
                    merged = {**self._read(), **self._answers}
                self._answers = merged
                with atomic_write(self.path) as file:
                    file.write(_dump(merged, self.revision).encode())
        except (OSError, Timeout) as error:
            self._writable = False
            warnings.warn(
                f"the capability cache {self.path} cannot be written: {error}; "
                "TRTCORE_CACHE_DIR sets its folder",
                RuntimeWarning,
                stacklevel=4,
            )


def _dump(answers: Mapping[str, Capability], revision: str) -> str:
    plain = {name: {"ok": c.ok, "message": c.message} for name, c in sorted(answers.items())}
    return json.dumps({"format": FORMAT, "probes": revision, "answers": plain}, indent=1)


def _parse(text: str, revision: str) -> dict[str, Capability]:
    document: Any = json.loads(text)
    if document["format"] != FORMAT or document["probes"] != revision:
        return {}
    answers: dict[str, Capability] = {}
    for name, answer in document["answers"].items():
        ok, message = answer["ok"], answer["message"]
        if not isinstance(ok, bool) or not isinstance(message, str):
            raise ValueError(f"the answer for {name!r} is {answer!r}")
        answers[name] = Capability(ok, message)
    return answers
