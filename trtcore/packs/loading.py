"""Loading packs, each one apart from the others, and the registry of one compile.

Loading a pack means: is it blocked (before anything of it is imported), does its distribution's ``Requires-Dist:
trtcore...`` allow this version (`trtcore.packs.discovery`), import it, check its hook implementations, call them, check
what they return (`trtcore.packs.hooks`). A pack that fails at any of these is skipped with one warning; the others go
on.

Environment:
    TRTCORE_STRICT_PACKS: ``1`` raises `PackError` where a pack would be skipped.
    TRTCORE_DISABLE_PACKS, TRTCORE_PACK_AUTOLOAD: see `trtcore.packs.discovery`.
"""

from __future__ import annotations

import importlib
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

from trtcore.errors import PackError, shown
from trtcore.ir.ops import find_target
from trtcore.packs.declare import PROCESS
from trtcore.packs.discovery import (
    Found,
    blocked,
    canonical,
    check_environment,
    core_version,
    discover,
    home,
    means,
    tell_strangers,
    verdict,
)
from trtcore.packs.failures import PackWarning, forget_told, pack_failure, strict, warn_once
from trtcore.packs.hooks import contributions
from trtcore.packs.model import Converter, KernelPlugin, LoadedPack, PackInfo, Runtime, Scope
from trtcore.packs.registry import ConverterRegistry

if TYPE_CHECKING:
    from trtcore.backend.base import Backend
    from trtcore.settings import CompilationSettings

__all__ = [
    "IN_PROCESS",
    "LoadedPack",
    "PackWarning",
    "build_registry",
    "find_backend",
    "find_runtime",
    "forget_packs",
    "kernel_plugins",
    "load_named",
    "load_packs",
    "means",
    "metadata_of_packs",
    "pack_failure",
    "process_converters",
    "providers",
    "register_pack",
]

IN_PROCESS = "in-process"
_T = TypeVar("_T")


@dataclass(frozen=True)
class _Latest:
    """The registry that was built last, and what it was built of.

    Attributes:
        named: (name, the op that it meant then) of every contribution that names its op by a text.
    """

    packs: tuple[LoadedPack, ...]
    process: tuple[Converter, ...]
    named: tuple[tuple[str, Any], ...]
    registry: ConverterRegistry

    def is_of(self, packs: Sequence[LoadedPack], process: Sequence[Converter]) -> bool:
        """Whether a registry of these would be the same: of the very same values, with names that mean the same."""
        return (
            _same(self.packs, packs)
            and _same(self.process, process)
            and all(_op_of(name) is op for name, op in self.named)
        )


def _same(some: Sequence[Any], others: Sequence[Any]) -> bool:
    return len(some) == len(others) and all(a is b for a, b in zip(some, others))


def _op_of(name: str) -> Any:
    try:
        return find_target(name)
    except PackError:  # an op of several overloads
        return None


def _names(packs: Sequence[LoadedPack], process: Sequence[Converter]) -> Iterator[str]:
    targets: list[Any] = [one.target for one in process]
    for pack in packs:
        targets += (one.target for one in pack.converters)
        targets += (one.target for one in pack.refusals)
        targets += pack.decompositions
    return (target for target in dict.fromkeys(targets) if isinstance(target, str))


class _Process:
    """What this process knows of installed packs."""

    def __init__(self) -> None:
        # Held while packs are imported; reentrant, because a pack may compile something when it is imported.
        self.lock = threading.RLock()
        self.found: tuple[Found, ...] | None = None
        self.loaded: dict[str, LoadedPack] = {}
        self.loading: set[str] = set()
        self.latest: _Latest | None = None


_process = _Process()


def build_registry(settings: CompilationSettings) -> ConverterRegistry:
    """Return the registry of one compile: packs, process converters, the settings' converters and pins.

    Without converters and pins of the settings it is the latest one again, as long as nothing came or went.

    Raises:
        SettingsError: a pin or a call-site converter that makes no sense.
        PackError: a pack fails and TRTCORE_STRICT_PACKS is set.
    """
    packs, process = load_packs(disabled=settings.disabled_packs), process_converters()
    if settings.converters or settings.pins:
        return ConverterRegistry.build(
            packs, process=process, call_site=settings.converters, pins=settings.pins
        )
    latest = _process.latest
    if latest is None or not latest.is_of(packs, process):
        named = tuple((name, _op_of(name)) for name in _names(packs, process))
        latest = _Latest(packs, process, named, ConverterRegistry.build(packs, process=process))
        _process.latest = latest
    return latest.registry


def load_packs(*, disabled: Iterable[str] = ()) -> tuple[LoadedPack, ...]:
    """Return every pack, loaded where it may be and can be. Packs load once per process.

    Args:
        disabled: names (``pack``, ``distribution`` or ``distribution:pack``) of packs that contribute nothing
            this time, and are not imported if they are not yet.

    Raises:
        PackError: a pack fails and TRTCORE_STRICT_PACKS is set.
        SettingsError: TRTCORE_PACK_AUTOLOAD has a value that means nothing.
    """
    disabled = tuple(disabled)
    check_environment()
    with _process.lock:
        packs = [_load(found, disabled) for found in _discover()]
    for pack in PROCESS.packs():
        reason = blocked(pack.info, disabled)
        packs.append(LoadedPack(replace(pack.info, status="disabled", error=reason)) if reason else pack)
    tell_strangers(disabled, [pack.info for pack in packs])
    return tuple(packs)


def register_pack(
    pack: Any, *, name: str, distribution: str = IN_PROCESS, version: str = "0", scope: Scope = Scope.PROCESS
) -> LoadedPack:
    """Take a module or object as a pack of this process: for tests and notebooks, without an installation.

    A pack of the same distribution and name is replaced. `trtcore.scoped_registry` takes it back at its end.

    Raises:
        PackError: its hook implementations, or what they return, do not fit `trtcore.packs.hookspecs`.

    Example:
        >>> from trtcore.pack import hookimpl, scoped_registry
        >>> class Mine:
        ...     @hookimpl
        ...     def decompositions(self):
        ...         return {}
        >>> with scoped_registry():
        ...     print(register_pack(Mine(), name="mine").info)
        in-process:mine 0
    """
    info = PackInfo(canonical(distribution), version, name, scope, value=type(pack).__name__)
    with PROCESS.pack_at_work():
        loaded = contributions(info, pack)
    PROCESS.add_pack(loaded)
    return loaded


def process_converters() -> tuple[Converter, ...]:
    """Return the converters that were declared outside packs.

    What a pack's modules declare is the pack's, also when somebody imports them before the pack is loaded, or
    when the pack is switched off.
    """
    with _process.lock:
        owned = {id(one.implementation) for pack in _process.loaded.values() for one in pack.converters}
        homes = {home(found.info.module) for found in _discover()}
    owned |= {id(one.implementation) for pack in PROCESS.packs() for one in pack.converters}

    def is_packs(one: Converter, module: str) -> bool:
        return id(one.implementation) in owned or any(
            module == home or module.startswith(home + ".") for home in homes
        )

    return PROCESS.converters(is_packs)


def kernel_plugins() -> dict[str, KernelPlugin]:
    """The kernel plugins of this process by name: the packs', and those declared outside packs."""
    found = {plugin.name: plugin for pack in load_packs() for plugin in pack.kernel_plugins}
    return {
        **found,
        **{one.plugin.name: one.plugin for one in process_converters() if one.plugin is not None},
    }


def load_named(ids: Iterable[str]) -> tuple[LoadedPack, ...]:
    """Return the packs of these ids (``distribution:name``) and those registered by hand; no other is imported."""
    wanted = set(ids)
    with _process.lock:
        packs = [_load(found, ()) for found in _discover() if found.info.id in wanted]
    return (*packs, *PROCESS.packs())


def find_runtime(name: str, packs: Iterable[str] = ()) -> Runtime | None:
    """The runtime of this name that a pack contributes; None where none does.

    Args:
        packs: ids of packs to look in first; only where they have none, all packs are loaded.
    """
    return _find(packs, lambda pack: (one for one in pack.runtimes if one.name == name))


def find_backend(name: str, packs: Iterable[str] = ()) -> Backend | None:
    """The backend of this name that a pack contributes; None where none does. `packs` as for `find_runtime`."""
    return _find(packs, lambda pack: (one for one in pack.backends if one.name == name))


def _find(packs: Iterable[str], of: Callable[[LoadedPack], Iterable[_T]]) -> _T | None:
    loads: tuple[Callable[[], Iterable[LoadedPack]], ...] = (lambda: load_named(packs), load_packs)
    return next((one for load in loads for pack in load() for one in of(pack)), None)


def providers(backend: str) -> dict[str, tuple[PackInfo, ...]]:
    """Who contributes a backend, and who contributes runtimes: role -> packs that are installed."""
    packs = [pack for pack in load_packs() if pack.info.distribution != IN_PROCESS]
    return {
        "backend": tuple(pack.info for pack in packs if any(one.name == backend for one in pack.backends)),
        "runtime": tuple(pack.info for pack in packs if pack.runtimes),
    }


def forget_packs() -> None:
    """Forget what was found and loaded; the next compile looks again (say, after an installation)."""
    with _process.lock:
        _process.found = _process.latest = None
        _process.loaded.clear()
        importlib.invalidate_caches()
        core_version.cache_clear()
    forget_told()


def metadata_of_packs() -> tuple[PackInfo, ...]:
    """Every installed pack by its metadata alone; one that could be imported is "not imported"."""
    check_environment()
    with _process.lock:
        return tuple(verdict(found, ()) for found in _discover())


# Loading ------------------------------------------------------------------------------------------------


def _discover() -> tuple[Found, ...]:
    if _process.found is None:
        _process.found = discover()
    return _process.found


def _load(found: Found, disabled: Sequence[str]) -> LoadedPack:
    """Load a pack once, under the lock. Failures are kept as well, so that each is told once."""
    info = verdict(found, disabled)
    if info.status == "disabled" or info.id in _process.loading:
        return LoadedPack(info)
    pack = _process.loaded.get(info.id)
    if pack is None:
        _process.loading.add(info.id)
        try:
            pack = _process.loaded[info.id] = _attempt(found, info)
        finally:
            _process.loading.discard(info.id)
    if pack.exception is not None:
        if strict():
            raise pack.exception.with_traceback(None)
        warn_once(
            f"trtcore skips pack {info}: {pack.info.error}. To fix it: {pack.exception.advice}. "
            f"To switch it off: TRTCORE_DISABLE_PACKS={info.id}",
            key=info.id,
        )
    return pack


def _attempt(found: Found, info: PackInfo) -> LoadedPack:
    try:
        if info.status == "incompatible":
            advice = f"pip install --upgrade {info.distribution}, or install a trtcore that it allows"
            raise PackError(str(info.error), advice=advice)
        with PROCESS.pack_at_work():
            return contributions(info, found.load())
    except (KeyboardInterrupt, GeneratorExit):
        raise
    except BaseException as error:  # also SystemExit and pytest.skip: a pack must not end a compile
        return _failed(info, error)


def _failed(info: PackInfo, error: BaseException) -> LoadedPack:
    ours = error if isinstance(error, PackError) else PackError(f"loading {info.value} raised {shown(error)}")
    raised = error if ours is not error else error.__cause__
    line = _line_in(info, raised)
    reason = f"{ours.message} at {line}" if line else ours.message
    failure = PackError(
        f"pack {info} cannot be used: {reason}",
        where=ours.where,
        pack=str(info),
        advice=ours.advice or _advice(info, raised),
    )
    failure.__cause__ = error
    status = "incompatible" if info.status == "incompatible" else "failed"
    return LoadedPack(replace(info, status=status, error=reason), exception=failure)


def _line_in(info: PackInfo, error: BaseException | None) -> str:
    """``file:line`` of the pack's own code that raised; "" if none of it did."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}:{error.lineno}"
    home = info.module.partition(".")[0]
    lines = [
        f"{frame.f_code.co_filename}:{line}"
        for frame, line in traceback.walk_tb(error.__traceback__ if error is not None else None)
        if frame.f_globals.get("__name__", "").partition(".")[0] == home
    ]
    return lines[-1] if lines and home != "trtcore" else ""


def _advice(info: PackInfo, error: BaseException | None) -> str:
    missing = error.name if isinstance(error, ModuleNotFoundError) else None
    if missing and f"{info.module}.".startswith(f"{missing}."):
        return f"the module is not there; pip install --force-reinstall {info.distribution}"
    update = f"pip install --upgrade {info.distribution}"
    return (
        f"install what provides the module {missing!r}, or {update}"
        if missing
        else f"{update}, or tell its authors"
    )
