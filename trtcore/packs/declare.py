"""What a pack contributes, as plain values: converters, lowering passes, kernel plugins; and who the pack is.

`converter` declares a converter. Where it is used in a pack, the pack's hook hands it over
(`converters_in`); anywhere else (a script, a notebook, a test) it lands in the process registry, which every
compile copies when it starts.
"""

from __future__ import annotations

import re
import sys
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, replace
from enum import IntEnum
from types import ModuleType
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, runtime_checkable

import torch
from torch import fx

from trtcore.errors import PackError

if TYPE_CHECKING:
    from trtcore.artifact.snapshot import NetworkSnapshot
    from trtcore.backend.base import Backend, Target
    from trtcore.context import CompileContext
    from trtcore.packs.loading import LoadedPack

_F = TypeVar("_F", bound=Callable[..., Any])
DECLARED = "__trtcore_converters__"
"""Attribute of a decorated function, and of its module: the converters declared."""


class Priority(IntEnum):
    """Names for common priorities; any int is one. Higher goes first."""

    FALLBACK = -100
    STANDARD = 0
    HIGH = 100


class Scope(IntEnum):
    """Where a contribution comes from. At one priority, lower goes first."""

    CALL_SITE = 0
    PROCESS = 1
    THIRD_PARTY = 2
    BUILT_IN = 3


@dataclass(frozen=True)
class PackInfo:
    """Who a pack is and how it fared.

    Attributes:
        distribution: the distribution's normalised name (``"trtcore"`` for the built-in packs).
        version: the distribution's version.
        name: the entry point's name.
        scope: BUILT_IN, THIRD_PARTY, or PROCESS for one that was registered by hand.
        status: "loaded", "disabled", "failed", "incompatible" or "not imported".
        error: why it is not loaded; None when it is.
        value: the entry point's value, ``"module"`` or ``"module:attribute"``.
    """

    distribution: str
    version: str
    name: str
    scope: Scope = Scope.THIRD_PARTY
    status: str = "loaded"
    error: str | None = None
    value: str = ""

    @property
    def id(self) -> str:
        """``distribution:name``."""
        return f"{self.distribution}:{self.name}"

    @property
    def module(self) -> str:
        """The module part of the entry point's value."""
        return self.value.partition(":")[0].strip()

    def __str__(self) -> str:
        return f"{self.id} {self.version}".rstrip()


@dataclass(frozen=True)
class Reject:
    """A capability validator's no, with the reason. Falsy.

    Example:
        >>> bool(Reject("only 2-D pooling"))
        False
    """

    reason: str

    def __bool__(self) -> bool:
        return False


@dataclass(frozen=True)
class Requires:
    """What a converter needs from the backend, for the target and not for the machine that builds.

    Args:
        layers: ``INetworkDefinition`` methods, such as ``{"add_attention"}``; each is asked as
            ``Backend.can("layer:add_attention")``.
        plugins: whether plugin layers are needed.
        version: range of the backend's version (PEP 440), ``">=10.3"``; or one range per backend, such as
            ``{"tensorrt": ">=10.3", "tensorrt_rtx": ">=1.2"}``, that leaves others unrestricted.
        dtypes: torch dtypes the backend must know.
        features: further feature names for ``Backend.can``.

    Raises:
        PackError: a field of the wrong type, or a version range that cannot be read.
    """

    layers: frozenset[str] = frozenset()
    plugins: bool = False
    version: str | Mapping[str, str] | tuple[tuple[str, str], ...] | None = None
    dtypes: frozenset[torch.dtype] = frozenset()
    features: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        from packaging.specifiers import InvalidSpecifier, SpecifierSet

        for field, kind in (("layers", str), ("dtypes", torch.dtype), ("features", str)):
            value = getattr(self, field)
            if isinstance(value, str) or not isinstance(value, Iterable):
                raise PackError(f"Requires({field}={value!r}): give a collection of {kind.__name__}")
            items = tuple(value)
            for item in items:
                if not isinstance(item, kind):
                    raise PackError(f"Requires({field}=...): {item!r} is not a {kind.__name__}")
            object.__setattr__(self, field, items if field == "features" else frozenset(items))
        if isinstance(self.version, Mapping):
            object.__setattr__(self, "version", tuple(sorted(self.version.items())))
        for _, text in self._ranges():
            try:
                SpecifierSet(text)
            except (InvalidSpecifier, TypeError, AttributeError) as error:
                raise PackError(
                    f"Requires(version={self.version!r}): {error}", advice='write ">=10.3"'
                ) from error

    def check(self, backend: Backend, target: Target | None) -> str | None:
        """Return the reason why `backend` does not hold for `target`, or None when all is there."""
        from packaging.specifiers import SpecifierSet

        for name, text in self._ranges():
            fits = name not in ("", backend.name) or SpecifierSet(text).contains(
                backend.version, prereleases=True
            )
            if not fits:
                return f"needs {backend.name} {text}, and this is {backend.version}"
        if self.plugins and not backend.has_plugins:
            return f"needs plugin layers, which {backend.name} does not have"
        for dtype in sorted(self.dtypes, key=str):
            if not backend.supports_dtype(dtype):
                return f"needs {dtype}, which {backend.name} does not have"
        for feature in (*(f"layer:{layer}" for layer in sorted(self.layers)), *self.features):
            capability = backend.can(feature, target)  # type: ignore[arg-type]
            if not capability.ok:
                message = f": {capability.message}" if capability.message else ""
                return f"needs {feature}, which {backend.name} does not do for this target{message}"
        return None

    def _ranges(self) -> tuple[tuple[str, str], ...]:
        """(backend name, range) pairs; an empty name stands for every backend."""
        if self.version is None:
            return ()
        if isinstance(self.version, tuple):
            return self.version
        return (("", self.version),)  # type: ignore[return-value]


NO_REQUIREMENTS = Requires()

Validator = Callable[[fx.Node, "CompileContext"], "bool | Reject"]


@dataclass(frozen=True)
class Converter:
    """How one op becomes TensorRT layers, and when it may.

    Attributes:
        target: the `OpOverload` (or other callable) that nodes call; a custom op and a packet with one
            functional overload become that overload. The name of an op (``"torchvision::nms"``) stays a name
            until a compile starts, so that the pack needs no import of what defines the op.
        implementation: called as ``implementation(ctx, *schema arguments)``.
        priority: higher goes first.
        capability_validator: ``(node, compile context) -> bool | Reject``; None accepts every node.
        supports_dynamic_shapes: whether it may get nodes with symbolic dims.
        requires_output_allocator: whether its output's shape depends on data.
        requires: what it needs from the backend.
        name: for pins and reports; the implementation's own by default.
        pack: who contributed it; None for the process and for the call site.
        scope: where it comes from.
        order: position among its source's converters.
        plugin: the kernel plugin that it places; None for converters that make ordinary layers.

    Raises:
        PackError: a field of the wrong type.
    """

    target: Any
    implementation: Callable[..., Any]
    priority: int = Priority.STANDARD
    capability_validator: Validator | None = None
    supports_dynamic_shapes: bool = False
    requires_output_allocator: bool = False
    requires: Requires = NO_REQUIREMENTS
    name: str = ""
    pack: PackInfo | None = None
    scope: Scope = Scope.PROCESS
    order: int = 0
    plugin: KernelPlugin | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "target", resolve_target(self.target))
        if not callable(self.implementation):
            raise PackError(
                f"converter for {target_name(self.target)}: {self.implementation!r} is not callable"
            )
        if not self.name:
            qualified = getattr(self.implementation, "__qualname__", None) or repr(self.implementation)
            object.__setattr__(self, "name", qualified.rpartition("<locals>.")[2])
        for field, fits, kind in (
            ("priority", type(self.priority) is not bool and isinstance(self.priority, int), "an int"),
            (
                "capability_validator",
                self.capability_validator is None or callable(self.capability_validator),
                "callable",
            ),
            ("supports_dynamic_shapes", isinstance(self.supports_dynamic_shapes, bool), "a bool"),
            ("requires_output_allocator", isinstance(self.requires_output_allocator, bool), "a bool"),
            ("requires", isinstance(self.requires, Requires), "a Requires"),
        ):
            if not fits:
                wrong = f"{field}={getattr(self, field)!r} is not {kind}"
                raise PackError(f"converter {self.name} for {target_name(self.target)}: {wrong}")

    @property
    def source(self) -> str:
        """Whose it is: ``distribution:pack``, ``"process"`` or ``"call site"``."""
        if self.pack is not None:
            return self.pack.id
        return "call site" if self.scope is Scope.CALL_SITE else "process"

    @property
    def source_version(self) -> str:
        """`source` with the pack's version, for errors."""
        return str(self.pack) if self.pack is not None else self.source

    def __str__(self) -> str:
        return f"{self.source}:{self.name}"


@dataclass(frozen=True)
class LoweringPass:
    """A rewrite of the whole graph before partitioning.

    Attributes:
        name: unique; ``before`` and ``after`` of other passes and ``settings.disabled_passes`` use it.
        run: ``(graph module, compile context) -> graph module``; None when it changed that one in place.
        before: names of passes that must come later than this one.
        after: names of passes that must come earlier.
        pack: who contributed it; filled in when the pack is loaded.
        required: without it the result would be wrong, or not what the user's settings ask for: its failure ends the
            compile. Any other pass that fails is undone, with a warning.

    Raises:
        PackError: a field of the wrong type.
    """

    name: str
    run: Callable[[fx.GraphModule, CompileContext], fx.GraphModule | None]
    before: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    pack: PackInfo | None = None
    required: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name:
            raise PackError(f"LoweringPass: name={self.name!r} is not a name")
        if not callable(self.run):
            raise PackError(f"LoweringPass {self.name!r}: run={self.run!r} is not callable")
        for field in ("before", "after"):
            names = getattr(self, field)
            if isinstance(names, str) or not all(isinstance(name, str) for name in names):
                raise PackError(f"LoweringPass {self.name!r}: {field}={names!r} is not a tuple of names")
            object.__setattr__(self, field, tuple(names))


@runtime_checkable
class KernelPlugin(Protocol):
    """A kernel for an op that TensorRT has no layer for, and the converter that places it.

    A pack that contributes one need not list its converter again. One that is not deployable may have a method
    ``prepare(backend)``, which registers it with TensorRT before an engine with it is loaded.
    """

    @property
    def name(self) -> str:
        """The op's qualified name, ``"namespace::op"``."""
        ...

    @property
    def deployable(self) -> bool:
        """Whether an engine with it runs outside Python: False where the kernel is a Python callback."""
        ...

    @property
    def converter(self) -> Converter:
        """The converter that places the plugin layer."""
        ...


class Runtime(ABC):
    """Executes engines in place of TensorRT, such as the reference runtime.

    Attributes:
        name: what manifests and `settings.runtime` call it.
    """

    name: str

    @abstractmethod
    def open(self, snapshot: NetworkSnapshot) -> Callable[..., Sequence[torch.Tensor]]:
        """Set one engine up.

        Args:
            snapshot: the network. It is not changed.

        Returns:
            a function of the network's inputs (tensors, then an int64 tensor of shape (1,) for each size) that
            returns its outputs in the network's order. Threads may call it at the same time. The caller checks the
            inputs, and dtypes, shapes and devices of what comes back.

        Raises:
            ConversionError: a layer that it cannot execute; the message names it.
        """


def plugin_converter(plugin: KernelPlugin) -> Converter:
    """The converter of a kernel plugin, and whose it is: the plugin's."""
    return replace(plugin.converter, plugin=plugin)


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
        raise PackError(f"{plugin!r} is no kernel plugin", advice="it needs name, deployable and converter")
    PROCESS.add([plugin_converter(plugin)], module)


def target_name(target: Any) -> str:
    """Return what people call an op: ``"aten.gelu.default"``, ``"operator.getitem"``, ``"cond"``.

    Example:
        >>> import operator, torch
        >>> target_name(torch.ops.aten.gelu.default), target_name(operator.getitem)
        ('aten.gelu.default', 'operator.getitem')
    """
    if isinstance(target, (torch._ops.OpOverload, torch._ops.OpOverloadPacket)):
        return str(target)
    if isinstance(target, str):
        return target.replace("::", ".")
    if isinstance(target, torch._ops.HigherOrderOperator):
        return str(target._name)
    name = getattr(target, "__qualname__", None) or repr(target)
    module = getattr(target, "__module__", None)
    return f"{module.lstrip('_')}.{name}" if module and module != "builtins" else str(name)


def converter(
    target_or_targets: Any,
    *,
    priority: int = Priority.STANDARD,
    capability_validator: Validator | None = None,
    supports_dynamic_shapes: bool = False,
    requires_output_allocator: bool = False,
    requires: Requires = NO_REQUIREMENTS,
    name: str | None = None,
    _depth: int = 1,
) -> Callable[[_F], _F]:
    """Declare a function as the converter of one op or several.

    The function is called like the op: ``ctx`` and then the op's schema arguments, normalised. It comes back
    unchanged, apart from an attribute that lists what was declared.

    Args:
        target_or_targets: an `OpOverload`; a packet with one functional overload; what
            ``torch.library.custom_op`` returned; the name of an op, ``"torchvision::nms"``, whose library need not
            be there; a higher-order op or another callable that nodes call; or a list of them.
        priority: higher goes first; see `Priority`.
        capability_validator: ``(node, compile context) -> bool | Reject("reason")``. Must not change the
            graph, and must not branch on symbolic sizes.
        supports_dynamic_shapes: whether it may get nodes with symbolic dims.
        requires_output_allocator: whether its output's shape depends on data.
        requires: what it needs from the backend.
        name: the name for pins and reports; the function's own by default.

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
    namespace = sys._getframe(_depth).f_globals

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
        >>> [target_name(c.target) for c in converters_in(unary)]
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
        return replace(given, target=target, scope=Scope.CALL_SITE, pack=None)
    declared: Sequence[Converter] = getattr(given, DECLARED, ())
    for one in reversed(declared):
        if find_target(one.target) is target:
            return replace(one, scope=Scope.CALL_SITE, pack=None)
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


# What a converter may be for -----------------------------------------------------------------------------

_NAME = re.compile(r"(\w+)(?:::|\.)(\w+)(?:\.(\w+))?")


def resolve_target(target: Any) -> Any:
    """Return what nodes call: an overload, another callable, or a name that a compile will look up.

    Raises:
        PackError: nothing that a node of a captured graph calls, or a packet of several overloads.

    Example:
        >>> import torch
        >>> resolve_target(torch.ops.aten.gelu), resolve_target("torchvision::nms")
        (<OpOverload(op='aten.gelu', overload='default')>, 'torchvision::nms')
    """
    if isinstance(target, str):
        match = _NAME.fullmatch(target.strip().removeprefix("torch.ops."))
        if match is None:
            raise PackError(
                f"{target!r} is no name of an op", advice='write "namespace::op" or "namespace::op.overload"'
            )
        namespace, name, overload = match.groups()
        return f"{namespace}::{name}" + (f".{overload}" if overload else "")
    if isinstance(target, torch._ops.OpOverloadPacket):
        return _only_overload(target)
    overload = getattr(target, "_opoverload", None)  # what torch.library.custom_op returns
    if isinstance(overload, torch._ops.OpOverload):
        return overload
    if not callable(target):
        raise PackError(
            f"{target!r} is not an op", advice="give an OpOverload such as torch.ops.aten.gelu.default"
        )
    if not isinstance(target, torch._ops.OperatorBase):
        _refuse_torch_function(target)
    return target


def find_target(target: Any) -> Any:
    """Return the op that a name means; None where nothing has registered it. Anything else comes back.

    Raises:
        PackError: the name of a packet with several overloads.
    """
    if not isinstance(target, str):
        return target
    namespace, _, rest = target.partition("::")
    name, _, overload = rest.partition(".")
    packet = getattr(getattr(torch.ops, namespace), name, None)
    if not isinstance(packet, torch._ops.OpOverloadPacket):
        return packet if isinstance(packet, torch._ops.OperatorBase) else None
    return getattr(packet, overload, None) if overload else _only_overload(packet)


def _only_overload(packet: torch._ops.OpOverloadPacket) -> torch._ops.OpOverload:
    """The overload that writes to none of its arguments (graphs are functional when converters see them)."""
    overloads = [getattr(packet, name) for name in packet.overloads()]  # type: ignore[no-untyped-call]
    functional = [one for one in overloads if not one._schema.is_mutable]
    if len(functional) != 1:
        names = ", ".join(str(one) for one in functional or overloads)
        raise PackError(f"{packet} is a family of ops", advice=f"name the overload: {names}")
    return functional[0]  # type: ignore[no-any-return]


def _refuse_torch_function(target: Any) -> None:
    """``torch.relu`` is what models call, and not what captured graphs do: its converter would never act."""
    name = getattr(target, "__name__", "")
    for home in (torch, torch.nn.functional, torch.Tensor):
        if not name.startswith("sym_") and getattr(home, name, None) is target:
            raise PackError(
                f"{home.__name__}.{name} is no op: captured graphs call ATen ops",
                advice=f"give the op, such as torch.ops.aten.{name}.default; trtcore.explain shows the names",
            )
