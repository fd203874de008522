"""Checking a pack's hook implementations, calling them, and checking what they return."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from types import MappingProxyType
from typing import Any

import attrs
import torch

from trtcore._version import __version__
from trtcore.errors import PackError, shown
from trtcore.events import Event
from trtcore.ir.ops import resolve_target
from trtcore.packs import hookspecs
from trtcore.packs.declare import DECLARED, converters_in
from trtcore.packs.model import (
    EMPTY,
    Converter,
    Core,
    KernelPlugin,
    LoadedPack,
    LoweringPass,
    PackInfo,
    Refusal,
    Runtime,
    plugin_converter,
)


def contributions(info: PackInfo, pack: Any) -> LoadedPack:
    """Check and call the hooks of `pack`.

    Raises:
        PackError: a hook that is unknown or of another signature, that raises, or returns something else.
    """
    info = replace(info, status="loaded", error=None)
    hooks = _Hooks(info, pack() if isinstance(pack, type) else pack)
    plugins = hooks.items("kernel_plugins", KernelPlugin)
    given = [*hooks.converters(), *(plugin_converter(plugin) for plugin in plugins)]
    refusals = hooks.mapping("refusals", _is_op, _AN_OP, is_value=_is_reason, value="a reason in words")
    decompositions = hooks.mapping("decompositions", _is_op, _AN_OP)
    return LoadedPack(
        info,
        converters=tuple(
            attrs.evolve(one, pack=info, scope=info.scope, order=i) for i, one in enumerate(given)
        ),
        refusals=tuple(Refusal(op, reason, info) for op, reason in refusals.items()),
        decompositions=MappingProxyType({resolve_target(op): one for op, one in decompositions.items()}),
        lowering_passes=tuple(
            attrs.evolve(one, pack=info) for one in hooks.items("lowering_passes", LoweringPass)
        ),
        kernel_plugins=plugins,
        backends=hooks.items("backends", _backend_class),
        runtimes=hooks.items("runtimes", Runtime),
        partitioners=hooks.mapping("partitioners", lambda key: isinstance(key, str), "a name"),
        captures=hooks.items("captures", Callable),
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
            text = shown(error, str)
            unknown = re.match(r"unknown hook '(\w+)'", text)
            if unknown:
                near = difflib.get_close_matches(unknown[1], sorted(hook_names()))
                raise PackError(
                    f"it has a hook {unknown[1]!r}, and trtcore calls none of that name",
                    advice=f"did you mean {' or '.join(near)}? {_HOOKS}" if near else _HOOKS,
                ) from None
            raise PackError(" ".join(text.split()) or shown(error), advice=_HOOKS) from error
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

    def converters(self) -> tuple[Converter, ...]:
        """Those of the hook ``converters``; a decorated function or a module stands for what it declares."""
        found: list[Any] = []
        for value in self._values("converters"):
            found.extend(converters_in(value) if getattr(value, DECLARED, None) else (value,))
        self._check_kind("converters", found, Converter, "return converters_in(module)")
        return tuple(found)

    def items(self, name: str, kind: Any) -> tuple[Any, ...]:
        """The values of a hook that returns an iterable of `kind`: a type, or a function that returns one."""
        values = self._values(name)
        self._check_kind(name, values, kind if isinstance(kind, type) or not values else kind(), _HOOKS)
        return values

    def _values(self, name: str) -> tuple[Any, ...]:
        found = self._call(name)
        if found is None:
            return ()
        if isinstance(found, (str, bytes)) or not isinstance(found, Iterable):
            raise PackError(f"its hook {name} returned {_short(found)}, which is no iterable", advice=_HOOKS)
        try:
            return tuple(found)  # runs a generator's body
        except (PackError, KeyboardInterrupt):
            raise
        except BaseException as error:
            raise PackError(f"its hook {name} raised {shown(error)}") from error

    def _check_kind(self, name: str, values: Iterable[Any], expected: type, advice: str) -> None:
        for value in values:
            if not isinstance(value, expected):
                raise PackError(
                    f"its hook {name} returned, among its values, {_short(value)}: no {expected.__name__}",
                    advice=advice,
                )

    def mapping(
        self,
        name: str,
        is_key: Callable[[Any], bool],
        key_is: str,
        *,
        is_value: Callable[[Any], bool] = callable,
        value: str = "callable",
    ) -> Mapping[Any, Any]:
        """The entries of a hook that returns a mapping."""
        found = self._call(name)
        if found is None:
            return EMPTY
        if not isinstance(found, Mapping):
            raise PackError(f"its hook {name} returned {_short(found)}, which is no mapping", advice=_HOOKS)
        for key, entry in found.items():
            if not is_key(key):
                raise PackError(
                    f"its hook {name} returned the key {_short(key)}, which is not {key_is}", advice=_HOOKS
                )
            if not is_value(entry):
                raise PackError(
                    f"its hook {name} returned {_short(entry)} for {shown(key, str)}, which is not {value}"
                )
        return MappingProxyType(dict(found))

    def _call(self, name: str) -> Any:
        if not self.has(name):
            return None
        try:
            results = getattr(self.manager.hook, name)(core=_core())
        except (PackError, KeyboardInterrupt):
            raise
        except BaseException as error:
            raise PackError(f"its hook {name} raised {shown(error)}") from error
        if not results:  # pluggy drops None
            raise PackError(
                f"its hook {name} returned None", advice="return an empty list or dict for nothing"
            )
        return results[0]

    def _check_unmarked(self, pack: Any) -> None:
        """A function called like a hook and not marked would be ignored in silence."""
        for name in sorted(hook_names() - self._names):
            own = vars(pack).get(name) if hasattr(pack, "__dict__") else None
            if callable(own) and getattr(own, "__module__", None) == getattr(pack, "__name__", None):
                raise PackError(f"its function {name} is called like a hook and is not marked with @hookimpl")


_HOOKS = "`python -m pydoc trtcore.packs.hookspecs` lists the hooks and what they return"


_AN_OP = "an OpOverload, or the name of one"


def hook_names() -> set[str]:
    """The hooks that there are."""
    return {name for name, value in vars(hookspecs).items() if hasattr(value, f"{hookspecs.PROJECT}_spec")}


@lru_cache(maxsize=1)
def _core() -> Core:
    return Core(__version__, frozenset(hook_names()))


def _backend_class() -> type:
    from trtcore.backend.base import Backend

    return Backend


def _is_op(key: Any) -> bool:
    try:
        return isinstance(resolve_target(key), (str, torch._ops.OpOverload))
    except PackError:
        return False


def _is_reason(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _short(value: Any) -> str:
    text = shown(value)
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
                f"the observer of pack {self.info} raised {shown(error)}", pack=str(self.info)
            ) from error
