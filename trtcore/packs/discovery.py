"""Finding packs: entry points of the group ``trtcore``, from metadata alone; and which of them may be imported.

Environment:
    TRTCORE_DISABLE_PACKS: comma-separated names of packs, distributions, or ``distribution:pack``.
    TRTCORE_PACK_AUTOLOAD: ``0`` loads no installed pack at all; ``builtin`` only trtcore's own; ``1`` all.
"""

from __future__ import annotations

import difflib
import importlib.metadata
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from trtcore.errors import PackError, SettingsError, shown
from trtcore.packs.failures import warn, warn_once
from trtcore.packs.model import PackInfo, Scope

GROUP = "trtcore"
_OFF = ("0", "false", "no", "off")


@dataclass(frozen=True)
class Found:
    """An entry point before anything of it is imported."""

    info: PackInfo
    load: Callable[[], Any]
    requires: tuple[str, ...] = ()


def discover() -> tuple[Found, ...]:
    """Every entry point of the group, in a stable order. Imports nothing of them."""
    found: dict[str, Found] = {}
    for distribution in importlib.metadata.distributions():
        try:
            for one in _entry_points(distribution):
                found.setdefault(one.info.id, one)
        except Exception as error:  # somebody's broken metadata must not hide everybody's packs
            path = getattr(distribution, "_path", "an unknown place")
            warn(f"trtcore cannot read the metadata of the distribution at {path}: {shown(error)}")
    if not any(one.info.scope is Scope.BUILT_IN for one in found.values()):
        warn(
            "trtcore is imported from a folder and not installed, so that its own packs (backends and "
            "converters) are missing. To fix it: pip install -e . in the checkout"
        )
    return tuple(found[key] for key in sorted(found))


def _entry_points(distribution: importlib.metadata.Distribution) -> list[Found]:
    text = distribution.read_text("entry_points.txt")
    if not text or GROUP not in text:
        return []
    # Not asked for where it is missing: from Python 3.12 on that warns, and will raise.
    name = next(iter(distribution.metadata.get_all("Name") or ()), "")
    if not name:
        raise PackError("it has no name")
    # The same distribution may lie on the path twice (an old one behind an editable one): the first counts.
    distribution = importlib.metadata.distribution(name)
    normalised = canonical(name)
    scope = Scope.BUILT_IN if normalised == "trtcore" else Scope.THIRD_PARTY
    requires = tuple(distribution.requires or ())
    return [
        Found(
            PackInfo(normalised, distribution.version, entry.name, scope, "not imported", value=entry.value),
            entry.load,
            requires,
        )
        for entry in distribution.entry_points
        if entry.group == GROUP
    ]


def canonical(distribution: str) -> str:
    """A distribution's normalised name."""
    from packaging.utils import canonicalize_name

    return canonicalize_name(distribution)


def home(module: str) -> str:
    """The package that a pack's entry point lies in."""
    return module.rpartition(".")[0] or module


# Blocking and versions ----------------------------------------------------------------------------------


def verdict(found: Found, disabled: Sequence[str]) -> PackInfo:
    """Whether a pack may be imported: status "disabled", "incompatible" or "not imported"."""
    reason = blocked(found.info, disabled) or _autoload_off(found.info)
    if reason:
        return replace(found.info, status="disabled", error=reason)
    misfit = None if found.info.scope is Scope.BUILT_IN else _misfit(found.requires)
    return replace(found.info, status="incompatible", error=misfit) if misfit else found.info


def blocked(info: PackInfo, disabled: Sequence[str]) -> str | None:
    """Why a pack is switched off by name; None if it is not."""
    for source, names in (
        ("TRTCORE_DISABLE_PACKS", _disabled_by_environment()),
        ("settings.disabled_packs", disabled),
    ):
        if any(means(name, info) for name in names):
            return f"switched off by {source}"
    return None


def _disabled_by_environment() -> list[str]:
    names = os.environ.get("TRTCORE_DISABLE_PACKS", "").split(",")
    return [name.strip() for name in names if name.strip()]


def means(name: str, info: PackInfo) -> bool:
    """Whether a user's name (``pack``, ``distribution`` or ``distribution:pack``) is that of a pack."""
    distribution, colon, pack = name.partition(":")
    if colon:
        return canonical(distribution) == info.distribution and pack == info.name
    return bool(name) and (name == info.name or canonical(name) == info.distribution)


def check_environment() -> None:
    """See that TRTCORE_PACK_AUTOLOAD has a value that means something.

    Raises:
        SettingsError: it has not; what somebody wanted switched off must not be loaded by default.
    """
    value = os.environ.get("TRTCORE_PACK_AUTOLOAD", "").strip()
    if value.lower() not in ("", "1", "builtin", *_OFF):
        raise SettingsError(
            f"TRTCORE_PACK_AUTOLOAD={value!r} means nothing",
            advice="write 1 (all installed packs, as without it), builtin (trtcore's own) or 0 (none)",
        )


def _autoload_off(info: PackInfo) -> str | None:
    value = os.environ.get("TRTCORE_PACK_AUTOLOAD", "").strip().lower()
    if value in _OFF or (value == "builtin" and info.scope is not Scope.BUILT_IN):
        return f"switched off by TRTCORE_PACK_AUTOLOAD={value}"
    return None


def _misfit(requires: Iterable[str]) -> str | None:
    """Why the pack's own requirements exclude this trtcore; None if they do not."""
    from packaging.requirements import InvalidRequirement, Requirement

    version = core_version()
    for line in requires:
        try:
            requirement = Requirement(line)
        except InvalidRequirement as error:
            if line.strip().lower().startswith("trtcore"):
                return f"its requirement {line!r} cannot be read ({error})"
            continue
        if canonical(requirement.name) != "trtcore":
            continue
        applies = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
        if applies and version and not requirement.specifier.contains(version, prereleases=True):
            return f"it requires {requirement.name}{requirement.specifier}, and this is trtcore {version}"
    return None


@lru_cache(maxsize=1)
def core_version() -> str | None:
    """The installed trtcore's version; None where it only lies in a folder."""
    try:
        return importlib.metadata.version("trtcore")
    except importlib.metadata.PackageNotFoundError:
        return None


def tell_strangers(disabled: Sequence[str], infos: Sequence[PackInfo]) -> None:
    """Warn, once, of names that switch packs off and are those of none."""
    for source, names in (
        ("settings.disabled_packs", disabled),
        ("TRTCORE_DISABLE_PACKS", _disabled_by_environment()),
    ):
        for name in names:
            if not any(means(name, info) for info in infos):
                known = sorted({text for info in infos for text in (info.name, info.distribution, info.id)})
                close = difflib.get_close_matches(name, known)
                hint = f"; did you mean {' or '.join(close)}?" if close else ""
                warn_once(f"{source} names {name!r}, and no such pack is installed{hint}")
