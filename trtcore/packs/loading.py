"""Finding packs, loading each one apart from the others, and saying how they fared.

A pack is an entry point of the group ``trtcore``. Loading one means: is it blocked (before anything of it is
imported), does its distribution's ``Requires-Dist: trtcore...`` allow this version, import it, check its hook
implementations against `trtcore.packs.hookspecs`, call them, check what they return. A pack that fails at any of
these is skipped with one warning; the others go on.

Environment:
    TRTCORE_DISABLE_PACKS: comma-separated names of packs, distributions, or ``distribution:pack``.
    TRTCORE_PACK_AUTOLOAD: ``0`` loads no installed pack at all; ``builtin`` only trtcore's own.
    TRTCORE_STRICT_PACKS: ``1`` raises `PackError` where a pack would be skipped.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.metadata
import os
import re
import threading
import traceback
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from trtcore.errors import PackError
from trtcore.packs import hookspecs
from trtcore.packs.declare import (
    PROCESS,
    Converter,
    KernelPlugin,
    LoweringPass,
    PackInfo,
    Runtime,
    Scope,
    plugin_converter,
    resolve_target,
    target_name,
)
from trtcore.packs.registry import ConverterRegistry

if TYPE_CHECKING:
    from trtcore.backend.base import Backend
    from trtcore.context import Event, Observer
    from trtcore.settings import CompilationSettings

GROUP = "trtcore"
IN_PROCESS = "in-process"
_EMPTY: Mapping[Any, Any] = MappingProxyType({})


class PackWarning(UserWarning):
    """A pack was skipped, or a name that should mean a pack means none."""


@dataclass(frozen=True)
class LoadedPack:
    """A pack and what it contributes; nothing where its status is not "loaded".

    Attributes:
        info: who it is and how it fared.
        exception: what it failed with.
    """

    info: PackInfo
    converters: tuple[Converter, ...] = ()
    decompositions: Mapping[Any, Callable[..., Any]] = field(default_factory=lambda: _EMPTY)
    lowering_passes: tuple[LoweringPass, ...] = ()
    kernel_plugins: tuple[KernelPlugin, ...] = ()
    backends: tuple[Backend, ...] = ()
    runtimes: tuple[Runtime, ...] = ()
    partitioners: Mapping[str, Callable[..., Any]] = field(default_factory=lambda: _EMPTY)
    observer: Observer | None = None
    exception: PackError | None = None


@dataclass(frozen=True)
class _Found:
    """An entry point before anything of it is imported."""

    info: PackInfo
    load: Callable[[], Any]
    requires: tuple[str, ...] = ()


class _Process:
    """What this process knows of installed packs."""

    def __init__(self) -> None:
        # Held while packs are imported; reentrant, because a pack may compile something when it is imported.
        self.lock = threading.RLock()
        self.found: tuple[_Found, ...] | None = None
        self.loaded: dict[str, LoadedPack] = {}
        self.loading: set[str] = set()
        self.warned: set[str] = set()


_process = _Process()


def build_registry(settings: CompilationSettings) -> ConverterRegistry:
    """Return the registry of one compile: packs, process converters, the settings' converters and pins.

    Raises:
        SettingsError: a pin or a call-site converter that makes no sense.
        PackError: a pack fails and TRTCORE_STRICT_PACKS is set.
    """
    return ConverterRegistry.build(
        load_packs(disabled=settings.disabled_packs),
        process=process_converters(),
        call_site=settings.converters,
        pins=settings.pins,
    )


def load_packs(*, disabled: Iterable[str] = ()) -> tuple[LoadedPack, ...]:
    """Return every pack, loaded where it may be and can be. Packs load once per process.

    Args:
        disabled: names (``pack``, ``distribution`` or ``distribution:pack``) of packs that contribute nothing
            this time, and are not imported if they are not yet.

    Raises:
        PackError: a pack fails and TRTCORE_STRICT_PACKS is set.
    """
    disabled = tuple(disabled)
    with _process.lock:
        packs = [_load(found, disabled) for found in _discover()]
    for pack in PROCESS.packs():
        reason = _blocked(pack.info, disabled)
        packs.append(LoadedPack(replace(pack.info, status="disabled", error=reason)) if reason else pack)
    if disabled:
        _warn_about_strangers(disabled, [pack.info for pack in packs])
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
    info = PackInfo(_canonical(distribution), version, name, scope, value=type(pack).__name__)
    with PROCESS.pack_at_work():
        loaded = _contributions(info, pack)
    PROCESS.add_pack(loaded)
    return loaded


def process_converters() -> tuple[Converter, ...]:
    """Return the converters that were declared outside packs.

    What a pack's modules declare is the pack's, also when somebody imports them before the pack is loaded, or
    when the pack is switched off.
    """
    with _process.lock:
        owned = {id(one.implementation) for pack in _process.loaded.values() for one in pack.converters}
        homes = {_home(found.info.module) for found in _discover()}
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


def _find(packs: Iterable[str], of: Callable[[LoadedPack], Iterable[Any]]) -> Any:
    for load in (lambda: load_named(packs), load_packs):
        for pack in load():
            for one in of(pack):
                return one
    return None


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
        _process.found = None
        _process.loaded.clear()
        _process.warned.clear()
        importlib.invalidate_caches()
        _core_version.cache_clear()


def describe_packs(no_import: bool = False) -> list[dict[str, Any]]:
    """Return what ``trtcore packs`` prints: a plain dict per pack.

    Args:
        no_import: metadata only; nothing is imported, and a pack that could be is "not imported".

    Returns:
        Per pack: ``name``, ``distribution``, ``version``, ``scope``, ``value``, ``status``, ``error``,
        ``gives`` (kind -> names; for converters, ops), ``shadowed``: every contribution that another pack's
        goes before, as dicts of ``kind``, ``subject``, ``by`` and, for converters, ``converter``; and
        ``waiting``: converters of ops that nothing in this process has registered, as dicts of ``converter``
        and ``reason``.
    """
    if no_import:
        with _process.lock:
            infos = [_verdict(found, ()) for found in _discover()]
        return [_description(LoadedPack(info), (), ()) for info in infos]
    packs = load_packs()
    registry = ConverterRegistry.build(packs, process=process_converters())
    shadowed = _shadowed(packs, registry)
    waiting: dict[str, list[dict[str, str]]] = {}
    for one, reason in registry.unknown:
        waiting.setdefault(one.source, []).append({"converter": one.name, "reason": reason})
    return [
        _description(pack, shadowed.get(pack.info.id, ()), waiting.get(pack.info.id, ())) for pack in packs
    ]


# Discovery ----------------------------------------------------------------------------------------------


def _discover() -> tuple[_Found, ...]:
    """Every entry point of the group, from metadata alone, in a stable order."""
    if _process.found is None:
        found: dict[str, _Found] = {}
        for distribution in importlib.metadata.distributions():
            try:
                for one in _entry_points(distribution):
                    found.setdefault(one.info.id, one)
            except Exception as error:  # somebody's broken metadata must not hide everybody's packs
                path = getattr(distribution, "_path", "an unknown place")
                _warn(f"trtcore cannot read the metadata of the distribution at {path}: {error!r}")
        if not any(one.info.scope is Scope.BUILT_IN for one in found.values()):
            _warn(
                "trtcore is imported from a folder and not installed, so that its own packs (backends and "
                "converters) are missing. To fix it: pip install -e . in the checkout"
            )
        _process.found = tuple(found[key] for key in sorted(found))
    return _process.found


def _entry_points(distribution: importlib.metadata.Distribution) -> list[_Found]:
    text = distribution.read_text("entry_points.txt")
    if not text or GROUP not in text:
        return []
    name = distribution.metadata["Name"]
    if not name:
        raise PackError("it has no name")
    # The same distribution may lie on the path twice (an old one behind an editable one): the first counts.
    distribution = importlib.metadata.distribution(name)
    canonical = _canonical(name)
    scope = Scope.BUILT_IN if canonical == "trtcore" else Scope.THIRD_PARTY
    requires = tuple(distribution.requires or ())
    return [
        _Found(
            PackInfo(canonical, distribution.version, entry.name, scope, "not imported", value=entry.value),
            entry.load,
            requires,
        )
        for entry in distribution.entry_points
        if entry.group == GROUP
    ]


def _canonical(distribution: str) -> str:
    from packaging.utils import canonicalize_name

    return canonicalize_name(distribution)


def _home(module: str) -> str:
    """The package that a pack's entry point lies in."""
    return module.rpartition(".")[0] or module


# Blocking and versions ----------------------------------------------------------------------------------


def _verdict(found: _Found, disabled: Sequence[str]) -> PackInfo:
    """Whether a pack may be imported: status "disabled", "incompatible" or "not imported"."""
    reason = _blocked(found.info, disabled) or _autoload_off(found.info)
    if reason:
        return replace(found.info, status="disabled", error=reason)
    misfit = None if found.info.scope is Scope.BUILT_IN else _misfit(found.requires)
    return replace(found.info, status="incompatible", error=misfit) if misfit else found.info


def _blocked(info: PackInfo, disabled: Sequence[str]) -> str | None:
    from_environment = os.environ.get("TRTCORE_DISABLE_PACKS", "").split(",")
    for source, names in (("TRTCORE_DISABLE_PACKS", from_environment), ("settings.disabled_packs", disabled)):
        if any(_means(name.strip(), info) for name in names):
            return f"switched off by {source}"
    return None


def _means(name: str, info: PackInfo) -> bool:
    distribution, colon, pack = name.partition(":")
    if colon:
        return _canonical(distribution) == info.distribution and pack == info.name
    return bool(name) and (name == info.name or _canonical(name) == info.distribution)


def _autoload_off(info: PackInfo) -> str | None:
    value = os.environ.get("TRTCORE_PACK_AUTOLOAD", "").strip().lower()
    if value in ("0", "false", "no", "off") or (value == "builtin" and info.scope is not Scope.BUILT_IN):
        return f"switched off by TRTCORE_PACK_AUTOLOAD={value}"
    return None


def _misfit(requires: Iterable[str]) -> str | None:
    """Why the pack's own requirements exclude this trtcore; None if they do not."""
    from packaging.requirements import InvalidRequirement, Requirement

    version = _core_version()
    for line in requires:
        try:
            requirement = Requirement(line)
        except InvalidRequirement as error:
            if line.strip().lower().startswith("trtcore"):
                return f"its requirement {line!r} cannot be read ({error})"
            continue
        if _canonical(requirement.name) != "trtcore":
            continue
        applies = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
        if applies and version and not requirement.specifier.contains(version, prereleases=True):
            return f"it requires {requirement.name}{requirement.specifier}, and this is trtcore {version}"
    return None


@lru_cache(maxsize=1)
def _core_version() -> str | None:
    try:
        return importlib.metadata.version("trtcore")
    except importlib.metadata.PackageNotFoundError:
        return None


def _warn_about_strangers(names: Sequence[str], infos: Sequence[PackInfo]) -> None:
    for name in names:
        if not any(_means(name, info) for info in infos):
            known = sorted({text for info in infos for text in (info.name, info.distribution, info.id)})
            close = difflib.get_close_matches(name, known)
            hint = f"; did you mean {' or '.join(close)}?" if close else ""
            _warn(f"settings.disabled_packs names {name!r}, and no such pack is installed{hint}")


# Loading ------------------------------------------------------------------------------------------------


def _load(found: _Found, disabled: Sequence[str]) -> LoadedPack:
    """Load a pack once, under the lock. Failures are kept as well, so that each is told once."""
    info = _verdict(found, disabled)
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
        if _strict():
            raise pack.exception.with_traceback(None)
        if info.id not in _process.warned:
            _process.warned.add(info.id)
            _warn(
                f"trtcore skips pack {info}: {pack.info.error}. To fix it: {pack.exception.advice}. "
                f"To switch it off: TRTCORE_DISABLE_PACKS={info.id}"
            )
    return pack


def _attempt(found: _Found, info: PackInfo) -> LoadedPack:
    try:
        if info.status == "incompatible":
            advice = f"pip install --upgrade {info.distribution}, or install a trtcore that it allows"
            raise PackError(str(info.error), advice=advice)
        with PROCESS.pack_at_work():
            return _contributions(info, found.load())
    except (KeyboardInterrupt, GeneratorExit):
        raise
    except BaseException as error:  # also SystemExit and pytest.skip: a pack must not end a compile
        return _failed(info, error)


def _failed(info: PackInfo, error: BaseException) -> LoadedPack:
    ours = error if isinstance(error, PackError) else PackError(f"loading {info.value} raised {error!r}")
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


def _strict() -> bool:
    return os.environ.get("TRTCORE_STRICT_PACKS", "").strip().lower() not in ("", "0", "false", "no", "off")


def pack_failure(text: str, pack: str, error: BaseException | None = None) -> None:
    """Tell, once, that something of a pack is left out of a compile; with TRTCORE_STRICT_PACKS, raise it.

    Raises:
        PackError: in strict mode.
    """
    if _strict():
        advice = error.advice if isinstance(error, PackError) and error.advice else None
        raise PackError(
            text, pack=pack, advice=advice or f"switch the pack off with disabled_packs, or fix {pack}"
        ) from error
    with _process.lock:
        told = text in _process.warned
        _process.warned.add(text)
    if not told:
        _warn(text)


def _warn(text: str) -> None:
    warnings.warn(text, PackWarning, stacklevel=2)


# What hooks return --------------------------------------------------------------------------------------


def _contributions(info: PackInfo, pack: Any) -> LoadedPack:
    """Check and call the hooks of `pack`.

    Raises:
        PackError: a hook that is unknown or of another signature, that raises, or returns something else.
    """
    info = replace(info, status="loaded", error=None)
    hooks = _Hooks(info, pack() if isinstance(pack, type) else pack)
    plugins = hooks.items("kernel_plugins", KernelPlugin)
    converters = tuple(
        replace(one, pack=info, scope=info.scope, order=i)
        for i, one in enumerate(
            [*hooks.items("converters", Converter), *(plugin_converter(plugin) for plugin in plugins)]
        )
    )
    return LoadedPack(
        info,
        converters=converters,
        decompositions=_by_op(hooks.mapping("decompositions", _is_op, "an OpOverload, or the name of one")),
        lowering_passes=tuple(
            replace(one, pack=info) for one in hooks.items("lowering_passes", LoweringPass)
        ),
        kernel_plugins=plugins,
        backends=hooks.items("backends", _backend_class),
        runtimes=hooks.items("runtimes", Runtime),
        partitioners=hooks.mapping("partitioners", lambda key: isinstance(key, str), "a name"),
        observer=_Observer(info, hooks.manager.hook.observe) if hooks.has("observe") else None,
    )


class _Hooks:
    """The hook implementations of one pack, in a plugin manager of their own."""

    def __init__(self, info: PackInfo, pack: Any) -> None:
        import pluggy

        self.manager = pluggy.PluginManager(hookspecs.PROJECT)
        self.manager.add_hookspecs(hookspecs)
        try:
            self.manager.register(pack, info.id)
            self.manager.check_pending()
        except Exception as error:  # PluginValidationError, or what an attribute of the pack raises
            unknown = re.match(r"unknown hook '(\w+)'", str(error))
            if unknown:
                near = difflib.get_close_matches(unknown[1], sorted(_hook_names()))
                raise PackError(
                    f"it has a hook {unknown[1]!r}, and trtcore calls none of that name",
                    advice=f"did you mean {' or '.join(near)}? {_HOOKS}" if near else _HOOKS,
                ) from None
            raise PackError(" ".join(str(error).split()) or repr(error), advice=_HOOKS) from error
        callers = self.manager.get_hookcallers(pack) or []
        for caller in callers:
            if any(one.hookwrapper or one.wrapper for one in caller.get_hookimpls()):
                raise PackError(
                    f"its hook {caller.name} is a wrapper; there is nothing to wrap", advice=_HOOKS
                )
        if not callers:
            raise PackError(
                "it has no hook implementation", advice=f"mark its functions with @hookimpl; {_HOOKS}"
            )
        self._names = {caller.name for caller in callers}
        self._check_unmarked(pack)

    def has(self, name: str) -> bool:
        return name in self._names

    def items(self, name: str, kind: Any) -> tuple[Any, ...]:
        """The values of a hook that returns an iterable of `kind`: a type, or a function that returns one."""
        found = self._call(name)
        if found is None:
            return ()
        if isinstance(found, (str, bytes)) or not isinstance(found, Iterable):
            raise PackError(f"its hook {name} returned {_short(found)}, which is no iterable", advice=_HOOKS)
        try:
            values = tuple(found)  # runs a generator's body
        except (PackError, KeyboardInterrupt):
            raise
        except BaseException as error:
            raise PackError(f"its hook {name} raised {error!r}") from error
        expected = kind if isinstance(kind, type) or not values else kind()
        for value in values:
            if not isinstance(value, expected):
                raise PackError(
                    f"its hook {name} returned, among its values, {_short(value)}: no {expected.__name__}",
                    advice="return converters_in(module)" if expected is Converter else _HOOKS,
                )
        return values

    def mapping(self, name: str, is_key: Callable[[Any], bool], what: str) -> Mapping[Any, Any]:
        """The values of a hook that returns a mapping from keys to functions."""
        found = self._call(name)
        if found is None:
            return _EMPTY
        if not isinstance(found, Mapping):
            raise PackError(f"its hook {name} returned {_short(found)}, which is no mapping", advice=_HOOKS)
        for key, value in found.items():
            if not is_key(key):
                raise PackError(
                    f"its hook {name} returned the key {_short(key)}, which is not {what}", advice=_HOOKS
                )
            if not callable(value):
                raise PackError(f"its hook {name} returned {_short(value)} for {key}, which is not callable")
        return MappingProxyType(dict(found))

    def _call(self, name: str) -> Any:
        if not self.has(name):
            return None
        try:
            results = getattr(self.manager.hook, name)()
        except (PackError, KeyboardInterrupt):
            raise
        except BaseException as error:
            raise PackError(f"its hook {name} raised {error!r}") from error
        if not results:  # pluggy drops None
            raise PackError(
                f"its hook {name} returned None", advice="return an empty list or dict for nothing"
            )
        return results[0]

    def _check_unmarked(self, pack: Any) -> None:
        """A function called like a hook and not marked would be ignored in silence."""
        for name in sorted(_hook_names() - self._names):
            own = vars(pack).get(name) if hasattr(pack, "__dict__") else None
            if callable(own) and getattr(own, "__module__", None) == getattr(pack, "__name__", None):
                raise PackError(f"its function {name} is called like a hook and is not marked with @hookimpl")


_HOOKS = "`python -m pydoc trtcore.packs.hookspecs` lists the hooks and what they return"


def _hook_names() -> set[str]:
    return {name for name, value in vars(hookspecs).items() if hasattr(value, f"{hookspecs.PROJECT}_spec")}


def _backend_class() -> type:
    from trtcore.backend.base import Backend

    return Backend


def _is_op(key: Any) -> bool:
    import torch

    try:
        return isinstance(resolve_target(key), (str, torch._ops.OpOverload))
    except PackError:
        return False


def _by_op(decompositions: Mapping[Any, Callable[..., Any]]) -> Mapping[Any, Callable[..., Any]]:
    return MappingProxyType({resolve_target(key): function for key, function in decompositions.items()})


def _short(value: Any) -> str:
    text = repr(value)
    return f"{text if len(text) <= 80 else text[:77] + '...'} ({type(value).__name__})"


@dataclass(frozen=True)
class _Observer:
    """A pack's ``observe``, whose errors name the pack."""

    info: PackInfo
    hook: Callable[..., Any] = field(repr=False)

    def __call__(self, event: Event) -> None:
        try:
            self.hook(event=event)
        except (KeyboardInterrupt, GeneratorExit):
            raise
        except BaseException as error:
            raise PackError(
                f"the observer of pack {self.info} raised {error!r}", pack=str(self.info)
            ) from error


# Listing ------------------------------------------------------------------------------------------------


def _description(
    pack: LoadedPack, shadowed: Iterable[dict[str, str]], waiting: Iterable[dict[str, str]]
) -> dict[str, Any]:
    info = pack.info
    return {
        "name": info.name,
        "distribution": info.distribution,
        "version": info.version,
        "scope": info.scope.name.lower(),
        "value": info.value,
        "status": info.status,
        "error": info.error,
        "gives": {kind: names for kind, names in _names_given(pack).items() if names},
        "shadowed": list(shadowed),
        "waiting": list(waiting),
    }


def _names_given(pack: LoadedPack) -> dict[str, list[str]]:
    return {
        "converters": [target_name(one.target) for one in pack.converters],
        "decompositions": sorted(target_name(op) for op in pack.decompositions),  # torch's come from sets
        "lowering_passes": [one.name for one in pack.lowering_passes],
        "kernel_plugins": [one.name for one in pack.kernel_plugins],
        "backends": [one.name for one in pack.backends],
        "runtimes": [one.name for one in pack.runtimes],
        "partitioners": list(pack.partitioners),
        "observe": ["observe"] if pack.observer is not None else [],
    }


def _shadowed(packs: Sequence[LoadedPack], registry: ConverterRegistry) -> dict[str, list[dict[str, str]]]:
    """Pack id -> its contributions that another pack's (or the process's) go before."""
    result: dict[str, list[dict[str, str]]] = {}
    for target in registry.targets:
        first, *others = registry.candidates(target)
        for one in others:
            if one.source == first.source:
                continue  # a pack's own second choice
            entry = {
                "kind": "converters",
                "subject": target_name(target),
                "converter": one.name,
                "by": str(first),
            }
            result.setdefault(one.source, []).append(entry)
    owners: dict[tuple[str, str], str] = {}
    for pack in sorted(packs, key=lambda pack: (pack.info.scope, pack.info.id)):
        for kind, names in _names_given(pack).items():
            for name in names if kind not in ("converters", "observe") else ():
                owner = owners.setdefault((kind, name), pack.info.id)
                if owner != pack.info.id:
                    result.setdefault(pack.info.id, []).append({"kind": kind, "subject": name, "by": owner})
    return result
