"""Names of settings: unknown ones with the nearest, and those that people coming from elsewhere still write."""

from __future__ import annotations

import difflib
import logging
import warnings
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, NamedTuple

from trtcore.errors import SettingsError


class Deprecated(NamedTuple):
    """An old name.

    Attributes:
        new: the field that it sets; "" for none.
        convert: the old value -> the new one.
        text: what to write instead.
        removed_in: the version that no longer knows it.
    """

    new: str
    convert: Callable[[bool], bool]
    text: str
    removed_in: str


def _same(value: bool) -> bool:
    return value


def _opposite(value: bool) -> bool:
    return not value


# A test fails when one outlives `removed_in`.
DEPRECATED: Mapping[str, Deprecated] = {
    "truncate_long_and_double": Deprecated("truncate_double", _same, "truncate_double", "0.4"),
    "refit": Deprecated("immutable_weights", _opposite, "immutable_weights (its opposite)", "0.4"),
    "make_refittable": Deprecated("immutable_weights", _opposite, "immutable_weights (its opposite)", "0.4"),
    "debug": Deprecated("", _same, 'logging.getLogger("trtcore").setLevel("DEBUG")', "0.4"),
}


def refuse_unknown(names: Iterable[str], known: Collection[str]) -> None:
    """Raise SettingsError for a name that no setting has, with the nearest ones."""
    for name in names:
        if name in known:
            continue
        near = difflib.get_close_matches(name, (*known, *DEPRECATED), n=3, cutoff=0.5)
        raise SettingsError(
            f"there is no setting {name!r}",
            advice=f"did you mean {' or '.join(near)}?" if near else "`trtcore settings` lists them",
        )


def map_deprecated(kwargs: Mapping[str, Any], *, stacklevel: int) -> dict[str, Any]:
    """Keyword arguments under their present names, with a DeprecationWarning for each old one.

    Raises:
        SettingsError: an old and a new name, or two old ones, for one thing; a value that is no bool.
    """
    found = {name: value for name, value in kwargs.items() if name not in DEPRECATED}
    used: dict[str, str] = {}
    for old, value in kwargs.items():
        if old not in DEPRECATED:
            continue
        rule = DEPRECATED[old]
        if rule.new and rule.new in used | found:
            other = used.get(rule.new, rule.new)
            raise SettingsError(f"{old} and {other} set the same thing; give {rule.new} only")
        if not isinstance(value, bool):
            raise SettingsError(f"{old}={value!r}: it must be True or False")
        warnings.warn(
            f"{old} is deprecated and goes away in trtcore {rule.removed_in}: use {rule.text}",
            DeprecationWarning,
            stacklevel=stacklevel + 1,
        )
        if rule.new:
            used[rule.new] = old
            found[rule.new] = rule.convert(value)
        elif value:
            logging.getLogger("trtcore").setLevel(logging.DEBUG)
    return found
