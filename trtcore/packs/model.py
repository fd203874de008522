"""What a pack contributes, as plain values: converters, refusals, lowering passes, kernel plugins, runtimes; and who
the pack is.
"""

from __future__ import annotations

import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, runtime_checkable

import attrs
import torch
from torch import fx

from trtcore.errors import PackError
from trtcore.ir.ops import op_name, resolve_target

if TYPE_CHECKING:
    from trtcore.artifact.snapshot import NetworkSnapshot
    from trtcore.backend.base import Backend, Target
    from trtcore.events import Observer
    from trtcore.settings import CompilationSettings

_T = TypeVar("_T")
EMPTY: Mapping[Any, Any] = MappingProxyType({})


# Who a pack is -------------------------------------------------------------------------------------------


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
class Core:
    """The trtcore that asks, as hooks with an argument ``core`` get it.

    Attributes:
        version: trtcore's version.
        hooks: the names of the hooks that it calls.
    """

    version: str
    hooks: frozenset[str] = frozenset()


# Converters ----------------------------------------------------------------------------------------------


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
class NodeContext:
    """What a capability validator may look at beside the node.

    Attributes:
        settings: the compile's settings.
        backend: the TensorRT flavour.
        target: what the engine is for; None where the compile names none.
    """

    settings: CompilationSettings
    backend: Backend
    target: Target | None = None
    _compile: Callable[[], Any] = field(default=lambda: None, repr=False, compare=False)

    @classmethod
    def of(cls, ctx: Any) -> NodeContext:
        """That of a compile, whose other attributes stay reachable for a while (see `__getattr__`)."""
        return cls(ctx.settings, ctx.backend, ctx.target, weakref.ref(ctx))

    def __getattr__(self, name: str) -> Any:
        """Validators once got the whole compile context; what is left of it warns."""
        from trtcore.packs.deprecation import NODE_CONTEXT

        known = NODE_CONTEXT.get(name)
        if known is None:
            raise AttributeError(
                f"a capability validator's context has settings, backend and target, and no {name!r}"
            )
        known.warn()
        return getattr(self._compile(), name)


def _items(field: str, kind: type[_T], given: Iterable[_T]) -> tuple[_T, ...]:
    if isinstance(given, str) or not isinstance(given, Iterable):
        raise PackError(f"Requires({field}={given!r}): give a collection of {kind.__name__}")
    items = tuple(given)
    for item in items:
        if not isinstance(item, kind):
            raise PackError(f"Requires({field}=...): {item!r} is not a {kind.__name__}")
    return items


def _layers(given: Iterable[str]) -> frozenset[str]:
    return frozenset(_items("layers", str, given))


def _dtypes(given: Iterable[torch.dtype]) -> frozenset[torch.dtype]:
    return frozenset(_items("dtypes", torch.dtype, given))


def _features(given: Iterable[str]) -> tuple[str, ...]:
    return _items("features", str, given)


def _version(given: str | Mapping[str, str] | tuple[tuple[str, str], ...] | None) -> Any:
    return tuple(sorted(given.items())) if isinstance(given, Mapping) else given


@attrs.frozen
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

    layers: frozenset[str] = attrs.field(default=frozenset(), converter=_layers)
    plugins: bool = False
    version: str | tuple[tuple[str, str], ...] | None = attrs.field(default=None, converter=_version)
    dtypes: frozenset[torch.dtype] = attrs.field(default=frozenset(), converter=_dtypes)
    features: tuple[str, ...] = attrs.field(default=(), converter=_features)

    def __attrs_post_init__(self) -> None:
        from packaging.specifiers import InvalidSpecifier, SpecifierSet

        for _, text in self.ranges:
            try:
                SpecifierSet(text)
            except (InvalidSpecifier, TypeError, AttributeError) as error:
                raise PackError(
                    f"Requires(version={self.version!r}): {error}", advice='write ">=10.3"'
                ) from error

    def check(self, backend: Backend, target: Target | None) -> str | None:
        """Return the reason why `backend` does not hold for `target`, or None when all is there."""
        from packaging.specifiers import SpecifierSet

        for name, text in self.ranges:
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

    @property
    def ranges(self) -> tuple[tuple[str, str], ...]:
        """(backend name, range) pairs; an empty name stands for every backend."""
        if self.version is None:
            return ()
        return self.version if isinstance(self.version, tuple) else (("", self.version),)


NO_REQUIREMENTS = Requires()

Validator = Callable[[fx.Node, NodeContext], "bool | Reject"]


def _is(kind: str, fits: Callable[[Any], bool]) -> Callable[[Any, Any, Any], None]:
    """An attrs validator of a converter's field."""

    def check(one: Converter, attribute: attrs.Attribute[Any], value: Any) -> None:
        if not fits(value):
            raise PackError(
                f"converter {one.name or _called(one.implementation)} for {op_name(one.target)}: "
                f"{attribute.name}={value!r} is not {kind}"
            )

    return check


def _callable(one: Converter, attribute: attrs.Attribute[Any], value: Any) -> None:
    if not callable(value):
        raise PackError(f"converter for {op_name(one.target)}: {value!r} is not callable")


def _called(implementation: Callable[..., Any]) -> str:
    qualified = getattr(implementation, "__qualname__", None) or repr(implementation)
    return qualified.rpartition("<locals>.")[2]


_a_bool = _is("a bool", lambda value: isinstance(value, bool))


@attrs.frozen
class Converter:
    """How one op becomes TensorRT layers, and when it may.

    Attributes:
        target: the `OpOverload` (or other callable) that nodes call; a custom op and a packet with one
            functional overload become that overload. The name of an op (``"torchvision::nms"``) stays a name
            until a compile starts, so that the pack needs no import of what defines the op.
        implementation: called as ``implementation(ctx, *schema arguments)``.
        priority: higher goes first.
        capability_validator: ``(node, NodeContext) -> bool | Reject``; None accepts every node.
        supports_dynamic_shapes: whether it may get nodes with symbolic dims.
        supports_strict_numerics: whether NaN, infinities and signed zeros come out as from torch; with
            ``strict_numerics=True`` it gets no floats otherwise.
        requires_output_allocator: whether its output's shape depends on data.
        requires: what it needs from the backend.
        name: for pins and reports; the implementation's own by default.
        pack: who contributed it; None for the process and for the call site.
        scope: where it comes from.
        order: position among its source's converters.
        plugin: the kernel plugin that it places; None for converters that make ordinary layers.
        shapes: of a composite op that capture keeps whole: empty results from the op's own arguments; None for others.

    Raises:
        PackError: a field of the wrong type.
    """

    target: Any = attrs.field(converter=resolve_target)
    implementation: Callable[..., Any] = attrs.field(validator=_callable)
    priority: int = attrs.field(
        default=Priority.STANDARD,
        validator=_is("an int", lambda value: type(value) is not bool and isinstance(value, int)),
    )
    capability_validator: Validator | None = attrs.field(
        default=None, validator=_is("callable", lambda value: value is None or callable(value))
    )
    supports_dynamic_shapes: bool = attrs.field(default=False, validator=_a_bool)
    requires_output_allocator: bool = attrs.field(default=False, validator=_a_bool)
    requires: Requires = attrs.field(
        default=NO_REQUIREMENTS, validator=_is("a Requires", lambda value: isinstance(value, Requires))
    )
    name: str = ""
    pack: PackInfo | None = None
    scope: Scope = Scope.PROCESS
    order: int = 0
    plugin: KernelPlugin | None = None
    supports_strict_numerics: bool = attrs.field(default=False, validator=_a_bool, kw_only=True)
    shapes: Callable[..., Any] | None = attrs.field(
        default=None, validator=_is("callable", lambda value: value is None or callable(value))
    )

    def __attrs_post_init__(self) -> None:
        if not self.name:
            object.__setattr__(self, "name", _called(self.implementation))

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
class StrictDecomposition:
    """A decomposition whose pieces, each computed as torch does, keep the op's NaN, infinities and signed zeros.

    With ``strict_numerics=True`` no other is used for floats.

    Attributes:
        function: takes the op's arguments, and gives its results in smaller ops.
    """

    function: Callable[..., Any]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(*args, **kwargs)


@attrs.frozen
class Refusal:
    """An op that no converter can help with, and why: what a user reads instead of "no converter".

    A converter that somebody has for the op all the same is asked first.

    Attributes:
        target: the op, or the name of one, as in `Converter`.
        reason: why, and what to do instead.
        pack: who says so; filled in when the pack is loaded.

    Raises:
        PackError: the target is no op, or there is no reason.
    """

    target: Any = attrs.field(converter=resolve_target)
    reason: str = attrs.field()
    pack: PackInfo | None = None

    @reason.validator
    def _check_reason(self, attribute: attrs.Attribute[str], value: str) -> None:
        if not isinstance(value, str) or not value.strip():
            raise PackError(f"the refusal of {op_name(self.target)} has no reason: {value!r}")

    def __str__(self) -> str:
        whose = self.pack.id if self.pack is not None else "this process"
        return f"{self.reason} (refused by {whose})"


# Lowering passes, kernel plugins, runtimes ----------------------------------------------------------------


def _names(given: Iterable[str]) -> tuple[str, ...]:
    return given if isinstance(given, str) else tuple(given)  # type: ignore[return-value]


@attrs.frozen
class LoweringPass:
    """A rewrite of the whole graph before partitioning.

    Attributes:
        name: unique; ``before`` and ``after`` of other passes and ``settings.disabled_passes`` use it.
        run: ``(graph module, CompileContext) -> graph module``; None when it changed that one in place.
        before: names of passes that must come later than this one.
        after: names of passes that must come earlier.
        pack: who contributed it; filled in when the pack is loaded.
        required: without it the result would be wrong, or not what the user's settings ask for: its failure ends the
            compile. Any other pass that fails is undone, with a warning.

    Raises:
        PackError: a field of the wrong type.
    """

    name: str = attrs.field()
    # The compile context belongs to a room above this one, so that its type is not written here.
    run: Callable[[fx.GraphModule, Any], fx.GraphModule | None] = attrs.field()
    before: tuple[str, ...] = attrs.field(default=(), converter=_names)
    after: tuple[str, ...] = attrs.field(default=(), converter=_names)
    pack: PackInfo | None = None
    required: bool = False

    @name.validator
    def _check_name(self, attribute: attrs.Attribute[str], value: str) -> None:
        if not isinstance(value, str) or not value:
            raise PackError(f"LoweringPass: name={value!r} is not a name")

    @run.validator
    def _check_run(self, attribute: attrs.Attribute[Any], value: Any) -> None:
        if not callable(value):
            raise PackError(f"LoweringPass {self.name!r}: run={value!r} is not callable")

    @before.validator
    @after.validator
    def _check_names(self, attribute: attrs.Attribute[Any], value: Any) -> None:
        if isinstance(value, str) or not all(isinstance(name, str) for name in value):
            raise PackError(f"LoweringPass {self.name!r}: {attribute.name}={value!r} is not a tuple of names")


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


def plugin_converter(plugin: KernelPlugin) -> Converter:
    """The converter of a kernel plugin, and whose it is: the plugin's."""
    return attrs.evolve(plugin.converter, plugin=plugin)


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

    def open_fused(self, snapshot: NetworkSnapshot) -> Callable[..., Sequence[torch.Tensor]] | None:
        """As `open`, for who asked for small ops as generated kernels; None where the runtime has no such way."""
        return None


# A pack and all that it gives ------------------------------------------------------------------------------


@dataclass(frozen=True)
class LoadedPack:
    """A pack and what it contributes; nothing where its status is not "loaded".

    Attributes:
        info: who it is and how it fared.
        exception: what it failed with.
    """

    info: PackInfo
    converters: tuple[Converter, ...] = ()
    refusals: tuple[Refusal, ...] = ()
    decompositions: Mapping[Any, Callable[..., Any]] = field(default_factory=lambda: EMPTY)
    lowering_passes: tuple[LoweringPass, ...] = ()
    kernel_plugins: tuple[KernelPlugin, ...] = ()
    backends: tuple[Backend, ...] = ()
    runtimes: tuple[Runtime, ...] = ()
    partitioners: Mapping[str, Callable[..., Any]] = field(default_factory=lambda: EMPTY)
    captures: tuple[Callable[[torch.nn.Module], Any], ...] = ()
    observer: Observer | None = None
    exception: PackError | None = None
