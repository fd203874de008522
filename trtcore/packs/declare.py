"""Declaring: `converter` and what it leaves for a pack's hook to collect; what a process declares outside packs.

Where `converter` is used in a pack, the pack's hook hands the converters over (`converters_in`); anywhere else (a
script, a notebook, a test) they land in the process registry, which every compile copies when it starts.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from types import ModuleType
from typing import Any, TypeVar

import attrs

from trtcore.errors import PackError, shown
from trtcore.ir.ops import find_target, resolve_target
from trtcore.packs.model import (
    NO_REQUIREMENTS,
    Converter,
    KernelPlugin,
    LoadedPack,
    Priority,
    Requires,
    Scope,
    Validator,
    plugin_converter,
)

_F = TypeVar("_F", bound=Callable[..., Any])
DECLARED = "__trtcore_converters__"
"""Attribute of a decorated function, and of its module: the converters declared."""


def register_kernel_plugin(plugin: KernelPlugin, module: str) -> None:
    """Let every compile of this process use a kernel plugin, as ``@converter`` does for converters.

    Inside `scoped_registry` it is taken back at the end. Plugins that a pack's modules declare are the pack's.

    Args:
        plugin: the plugin.
        module: name of the module that declares it.

    Raises:
        PackError: it is no kernel plugin.
    """
    if not isinstance(plugin, KernelPlugin):
        raise PackError(
            f"{shown(plugin)} is no kernel plugin", advice="it needs name, deployable and converter"
        )
    PROCESS.add([plugin_converter(plugin)], module)


def converter(
    target_or_targets: Any,
    *,
    priority: int = Priority.STANDARD,
    capability_validator: Validator | None = None,
    supports_dynamic_shapes: bool = False,
    supports_strict_numerics: bool = False,
    requires_output_allocator: bool = False,
    requires: Requires = NO_REQUIREMENTS,
    name: str | None = None,
    shapes: Callable[..., Any] | None = None,
    stacklevel: int = 1,
) -> Callable[[_F], _F]:
    """Declare a function as the converter of one op or several.

    The function is called like the op: ``ctx`` and then the op's schema arguments, normalised. It comes back
    unchanged, apart from an attribute that lists what was declared.

    Args:
        target_or_targets: an `OpOverload`; a packet with one functional overload; what
            ``torch.library.custom_op`` returned; the name of an op, ``"torchvision::nms"``, whose library need not
            be there; a higher-order op or another callable that nodes call; or a list of them.
        priority: higher goes first; see `Priority`.
        capability_validator: ``(node, NodeContext) -> bool | Reject("reason")``. Must not change the
            graph, and must not branch on symbolic sizes.
        supports_dynamic_shapes: whether it may get nodes with symbolic dims.
        supports_strict_numerics: whether NaN, infinities and signed zeros come out as from torch: asked for where the
            user sets ``strict_numerics=True``.
        requires_output_allocator: whether its output's shape depends on data.
        requires: what it needs from the backend.
        name: the name for pins and reports; the function's own by default.
        shapes: for an op that torch takes apart when it captures a model, called like the op: results of the op's
            shapes, strides and dtypes, with nothing in them (``x.new_empty(...)``). Captures then keep the op whole,
            and ask this in place of torch's own pieces, which may fix a size (a loop over the length of a sequence).
        stacklevel: which caller's module declares it: 1 the one that calls this, 2 its caller, for a decorator of your
            own that calls this one (as in `warnings.warn`).

    Raises:
        PackError: a target or an option of the wrong type.

    Example:
        >>> import torch
        >>> with scoped_registry():
        ...     @converter(torch.ops.aten.gelu.default, supports_dynamic_shapes=True)
        ...     def gelu(ctx, x, *, approximate="none"):
        ...         return ctx.activation(x, "GELU_ERF" if approximate == "none" else "GELU_TANH")
    """
    several = isinstance(target_or_targets, (list, tuple, set, frozenset))
    targets = tuple(map(resolve_target, target_or_targets if several else (target_or_targets,)))
    if not targets:
        raise PackError("@converter got an empty list of targets")
    namespace = sys._getframe(stacklevel).f_globals

    def declare(function: _F) -> _F:
        declared = [
            Converter(
                target,
                function,
                priority,
                capability_validator,
                supports_dynamic_shapes,
                requires_output_allocator,
                requires,
                name or "",
                supports_strict_numerics=supports_strict_numerics,
                shapes=shapes,
            )
            for target in targets
        ]
        with suppress(TypeError, AttributeError):  # a builtin or a slotted callable: the module's list has it
            vars(function).setdefault(DECLARED, []).extend(declared)
        namespace.setdefault(DECLARED, []).extend(declared)
        PROCESS.add(declared, str(namespace.get("__name__", "")))
        return function

    return declare


def converters_in(*sources: ModuleType | Callable[..., Any]) -> tuple[Converter, ...]:
    """Return the converters that modules (or decorated functions) declare, in definition order.

    A module's converters are those whose ``@converter`` ran in it; what it merely imports is not among them.

    Raises:
        PackError: a source that declares none.

    Example:
        >>> import torch
        >>> with scoped_registry():
        ...     @converter([torch.ops.aten.neg.default, torch.ops.aten.abs.default])
        ...     def unary(ctx, x): ...
        >>> [str(c.target) for c in converters_in(unary)]
        ['aten.neg.default', 'aten.abs.default']
    """
    found: list[Converter] = []
    for source in sources:
        declared = getattr(source, DECLARED, None)
        if not declared:
            raise PackError(
                f"converters_in: {getattr(source, '__name__', source)!r} declares no converter",
                advice="decorate its functions with @converter, and give the modules that do so themselves",
            )
        found.extend(declared)
    return tuple(_without_redefined(found))


def as_converter(target: Any, given: Any) -> Converter:
    """Return the call-site converter that ``settings.converters = {target: given}`` means.

    `given` is a function, or a `Converter` whose options are kept. A decorated function keeps the options
    that it was decorated with for that target.

    Raises:
        PackError: neither, or `target` is not an op overload.
    """
    target = resolve_target(target)
    if isinstance(given, Converter):
        return attrs.evolve(given, target=target, scope=Scope.CALL_SITE, pack=None)
    declared: Sequence[Converter] = getattr(given, DECLARED, ())
    for one in reversed(declared):
        if find_target(one.target) is target:
            return attrs.evolve(one, scope=Scope.CALL_SITE, pack=None)
    return Converter(target, given, scope=Scope.CALL_SITE)


class _ProcessRegistry:
    """Converters declared outside packs. Append-only but for scopes, which take theirs away at their end."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._entries: list[tuple[Converter, str, object]] = []
        self._packs: list[tuple[LoadedPack, object]] = []
        self._scope: ContextVar[object] = ContextVar("trtcore_scope", default=None)
        self._in_pack: ContextVar[bool] = ContextVar("trtcore_in_pack", default=False)

    def add(self, converters: Iterable[Converter], module: str) -> None:
        if self._in_pack.get():
            return
        scope = self._scope.get()
        with self._lock:
            self._entries.extend((one, module, scope) for one in converters)

    def add_pack(self, pack: LoadedPack) -> None:
        with self._lock:
            self._packs.append((pack, self._scope.get()))

    def packs(self) -> tuple[LoadedPack, ...]:
        """The packs registered by hand; of one identity, the last."""
        with self._lock:
            return tuple({pack.info.id: pack for pack, _ in self._packs}.values())

    def converters(
        self, is_packs: Callable[[Converter, str], bool] = lambda one, module: False
    ) -> tuple[Converter, ...]:
        """The converters in definition order, apart from those for which ``is_packs(one, module)``."""
        with self._lock:
            entries = tuple(self._entries)
        return tuple(_without_redefined(one for one, module, _ in entries if not is_packs(one, module)))

    @contextmanager
    def scope(self) -> Iterator[None]:
        marker = object()
        token = self._scope.set(marker)
        try:
            yield
        finally:
            self._scope.reset(token)
            with self._lock:
                self._entries = [entry for entry in self._entries if entry[2] is not marker]
                self._packs = [entry for entry in self._packs if entry[1] is not marker]

    @contextmanager
    def pack_at_work(self) -> Iterator[None]:
        """While a pack is imported and asked, what it declares is the pack's."""
        token = self._in_pack.set(True)
        try:
            yield
        finally:
            self._in_pack.reset(token)


PROCESS = _ProcessRegistry()


@contextmanager
def scoped_registry() -> Iterator[None]:
    """Take back, at the end, every ``@converter`` that this thread declared inside.

    The converters act in the whole process while the scope is open. Scopes nest.

    Example:
        >>> import torch
        >>> before = PROCESS.converters()
        >>> with scoped_registry():
        ...     @converter(torch.ops.aten.relu.default)
        ...     def mine(ctx, x): ...
        >>> PROCESS.converters() == before
        True
    """
    with PROCESS.scope():
        yield


def _without_redefined(converters: Iterable[Converter]) -> Iterator[Converter]:
    """Drop what a later definition of the same name replaces: a notebook cell run twice, a reloaded module.

    Functions made inside functions share a name without being the same, so all of them stay.
    """
    kept: dict[object, Converter] = {}
    for one in converters:
        function = one.implementation
        local = "<" in one.name or "<" in getattr(function, "__qualname__", "<")
        key = (one.target, getattr(function, "__module__", ""), one.name)
        kept[id(one) if local else key] = one
    return iter(kept.values())
