"""Whether a model goes through the dicts that it is given in their order: then another order is another call."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch


class DictOrder:
    """Watches the dicts among a model's arguments while it is traced.

    Attributes:
        seen: the model went through one.
    """

    def __init__(self) -> None:
        self.seen = False

    def hook(
        self, module: torch.nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """A forward pre-hook (with kwargs) that puts watched dicts in the place of plain ones."""
        return tuple(map(self._watched, args)), {name: self._watched(value) for name, value in kwargs.items()}

    def _watched(self, value: Any) -> Any:
        if type(value) is dict:
            made = _Watched((key, self._watched(item)) for key, item in value.items())
            made.watcher = self
            return made
        if type(value) in (tuple, list):
            return type(value)(map(self._watched, value))
        return value


class _Watched(dict[Any, Any]):
    """A dict that tells when somebody goes through it. Looking a key up does not count."""

    watcher: DictOrder | None = None

    def _note(self) -> None:
        if self.watcher is not None:
            self.watcher.seen = True

    def __iter__(self) -> Any:
        self._note()
        return super().__iter__()

    def __reversed__(self) -> Any:
        self._note()
        return super().__reversed__()

    def keys(self) -> Any:
        self._note()
        return super().keys()

    def values(self) -> Any:
        self._note()
        return super().values()

    def items(self) -> Any:
        self._note()
        return super().items()

    def popitem(self) -> Any:
        self._note()
        return super().popitem()

    def copy(self) -> Any:
        self._note()
        return super().copy()


def holds_dicts(*values: Any) -> bool:
    """Whether there is a dict of several keys among nested arguments."""
    for value in values:
        if isinstance(value, Mapping):
            if len(value) > 1 or holds_dicts(*value.values()):
                return True
        elif isinstance(value, (tuple, list)) and holds_dicts(*value):
            return True
    return False
