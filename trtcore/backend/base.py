"""What a TensorRT flavour is to the rest of trtcore: bindings, data types, target, capabilities."""

from __future__ import annotations

import platform
import sys
import threading
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from packaging.version import Version

from trtcore.errors import BackendUnavailableError, ConversionError, SettingsError

if TYPE_CHECKING:
    from trtcore.backend.logger import CollectingLogger
    from trtcore.settings import CompilationSettings

# TensorRT's DataType members by name, in TensorRT's order. A name the torch in use has no dtype for is
# left out. FP4 is two values to a byte in torch (`float4_e2m1fn_x2`), one to an element in TensorRT.
_DTYPES: Mapping[str, torch.dtype] = {
    name: getattr(torch, dtype)
    for name, dtype in {
        "FLOAT": "float32",
        "HALF": "float16",
        "BF16": "bfloat16",
        "INT8": "int8",
        "INT32": "int32",
        "INT64": "int64",
        "BOOL": "bool",
        "UINT8": "uint8",
        "FP8": "float8_e4m3fn",
        "INT4": "int4",
        "FP4": "float4_e2m1fn_x2",
        "E8M0": "float8_e8m0fnu",
    }.items()
    if hasattr(torch, dtype)
}


@dataclass(frozen=True)
class Target:
    """What engines are built for.

    Attributes:
        compute_capability: (major, minor) of the GPU; None is the backend's own default (TensorRT: the
            current GPU; TensorRT-RTX: every GPU it supports).
        platform: where the engine will run, "linux_x86_64", "windows_x86_64", "linux_aarch64".
        device: the torch device that holds the engine's inputs; None when there is no GPU here.
    """

    compute_capability: tuple[int, int] | None = None
    platform: str = "linux_x86_64"
    device: torch.device | None = None

    @property
    def name(self) -> str:
        """A short text, the same in every process: "sm_89-linux_x86_64", "portable-linux_x86_64"."""
        if self.compute_capability is None:
            return f"portable-{self.platform}"
        major, minor = self.compute_capability
        return f"sm_{major}{minor}-{self.platform}"


@dataclass(frozen=True)
class Capability:
    """Whether a backend can do something, and TensorRT's own words when it cannot. Falsy when it cannot."""

    ok: bool
    message: str = ""

    def __bool__(self) -> bool:
        return self.ok


@dataclass(frozen=True)
class Availability:
    """Whether a backend's bindings and libraries can be loaded here.

    Attributes:
        ok: they load.
        reason: why they do not ("" when ok).
        fix: the command that makes them ("" when ok).
    """

    ok: bool
    reason: str = ""
    fix: str = ""

    def __bool__(self) -> bool:
        return self.ok


WINDOWS = "windows_x86_64"


def host_platform() -> str:
    """This machine as a `Target.platform`: "linux_x86_64", "windows_x86_64", "linux_aarch64", ..."""
    system = {"linux": "linux", "win32": "windows", "darwin": "macos"}.get(sys.platform, sys.platform)
    machine = platform.machine().lower()
    return f"{system}_{'x86_64' if machine in ('x86_64', 'amd64') else machine}"


class Backend(ABC):
    """A TensorRT flavour: its Python bindings plus what they can do.

    A pack contributes backends by returning instances from its `backends()` hook. Making an instance is
    cheap and loads nothing; the bindings load at the first use of `trt`.

    Attributes:
        name: what users write in `settings.backend`.
        has_plugins: networks can hold plugin layers (`add_plugin_v3`).
    """

    name: str
    has_plugins: bool = False

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._trt: Any = None
        self._data_types: dict[torch.dtype, Any] = {}

    def __repr__(self) -> str:
        return f"<trtcore backend {self.name}>"

    def __deepcopy__(self, memo: dict[int, Any]) -> Backend:
        return self  # one per process: it stands for the loaded libraries

    # -- loading ---------------------------------------------------------------------------------------

    @abstractmethod
    def _load(self) -> Any:
        """Import the bindings module. Raises BackendUnavailableError with the pip command."""

    @abstractmethod
    def distributions(self) -> tuple[tuple[str, str], ...]:
        """(name, version) of every installed distribution that the backend may be made of. Loads nothing.

        It reads the metadata of everything that is installed: for `trtcore doctor`, and not for each compile.
        """

    @property
    def trt(self) -> Any:
        """The bindings module. Raises BackendUnavailableError, which holds the pip command."""
        if self._trt is None:
            with self._lock:
                if self._trt is None:
                    self._trt = self._load()
        return self._trt

    @property
    def version(self) -> Version:
        """The version of the bindings in use, e.g. 1.7.1.116."""
        return Version(self.trt.__version__)

    def availability(self) -> Availability:
        """Whether the bindings load here, else why not and the command that helps. Never raises."""
        try:
            _ = self.trt
        except BackendUnavailableError as error:
            return Availability(False, error.message, error.advice or "")
        except Exception as error:
            return Availability(False, f"loading {self.name} raised {error!r}")
        return Availability(True)

    # -- data types ------------------------------------------------------------------------------------

    def torch_dtype(self, trt_dtype: Any) -> torch.dtype:
        """The torch dtype of a `trt.DataType`. Raises ConversionError where torch has none."""
        try:
            return _DTYPES[trt_dtype.name]
        except (KeyError, AttributeError):
            raise ConversionError(
                f"torch {torch.__version__} has no dtype for TensorRT's {trt_dtype}"
            ) from None

    def trt_dtype(self, torch_dtype: torch.dtype) -> Any:
        """The `trt.DataType` of a torch dtype. Raises ConversionError where TensorRT has none (float64)."""
        if not self._data_types:
            members = self.trt.DataType.__members__
            self._data_types = {_DTYPES[name]: member for name, member in members.items() if name in _DTYPES}
        try:
            return self._data_types[torch_dtype]
        except KeyError:
            raise ConversionError(
                f"{self.name} {self.version} has no data type for {torch_dtype}",
                advice="it has " + ", ".join(map(str, self._data_types)),
            ) from None

    def supports_dtype(self, torch_dtype: torch.dtype) -> bool:
        """Whether a network of this backend can hold a tensor of this dtype."""
        try:
            self.trt_dtype(torch_dtype)
        except ConversionError:
            return False
        return True

    # -- logger ----------------------------------------------------------------------------------------

    def make_logger(self) -> CollectingLogger:
        """A new `trt.ILogger` that keeps its lines; give each Builder its own."""
        from trtcore.backend.logger import make_logger

        return make_logger(self.trt)

    def make_builder(self, logger: CollectingLogger) -> Any:
        """A new `trt.Builder` that reports to the logger; `trtcore.backend.builders` says why it is made here."""
        from trtcore.backend.builders import make_builder

        return make_builder(self.trt, logger)

    def create_network(self, builder: Any) -> Any:
        """A new strongly typed `trt.INetworkDefinition`: its dtypes are the graph's."""
        flag = getattr(self.trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
        return builder.create_network(0 if flag is None else 1 << int(flag))

    # -- target ----------------------------------------------------------------------------------------

    @abstractmethod
    def compute_capabilities(self) -> tuple[tuple[int, int], ...]:
        """The compute capabilities an engine can be built for; () where only the current GPU can be."""

    def default_target(self, settings: CompilationSettings) -> Target:
        """The target that `settings.device` names, else the GPU here, else the backend's portable default.

        A GPU here that the backend cannot build for gives `compute_capability=None`; `native_runtime`
        then says why engines do not run on it.

        Raises:
            SettingsError: `settings.device` asks for a compute capability the backend cannot build for, or
                for a GPU that is not there.
        """
        asked = settings.device
        supported = self.compute_capabilities()
        elsewhere = settings.enable_cross_compile_for_windows
        target = Target(platform=WINDOWS if elsewhere else host_platform())
        if isinstance(asked, tuple):
            if asked not in supported:
                raise SettingsError(
                    f"{self.name} {self.version} cannot build for compute capability {asked[0]}.{asked[1]} "
                    "(settings.device)",
                    advice="it can build for " + (_sm_names(supported) or "the GPU of this machine only"),
                )
            return replace(target, compute_capability=asked, device=current_device())
        device = _checked_device(asked) if asked is not None else current_device()
        if device is None:
            return target
        capability = torch.cuda.get_device_capability(device)
        known = capability in supported
        return replace(target, compute_capability=capability if known else None, device=device)

    def set_target(self, config: Any, target: Target, logger: CollectingLogger) -> None:
        """Tell a builder config what the engine is for. No compute capability: the backend's own default.

        Raises:
            SettingsError: the backend cannot build for the target; with TensorRT's lines.
        """
        if target.compute_capability is None:
            return
        major, minor = target.compute_capability
        if not hasattr(config, "set_compute_capability"):  # TensorRT proper builds for the GPU it runs on
            if target.compute_capability not in self.compute_capabilities():
                raise SettingsError(
                    f"{self.name} builds for the GPU of this machine only, not for compute capability "
                    f"{major}.{minor}",
                    advice="build on such a GPU, or use backend='tensorrt_rtx'",
                )
            return
        mark = logger.mark()
        member = getattr(self.trt.ComputeCapability, f"SM{major}{minor}", None)
        done = False
        if member is not None:
            config.num_compute_capabilities = 1
            done = config.set_compute_capability(member, 0)
        if not done:
            raise SettingsError(
                f"{self.name} {self.version} cannot build for compute capability {major}.{minor}",
                tensorrt=logger.errors(mark),
            )

    def native_runtime(self) -> Capability:
        """Whether engines of this backend run on this machine, and if not, why."""
        available = self.availability()
        reason = no_gpu_reason() if available.ok else available.reason
        reason = reason or self.no_runtime_on(torch.cuda.get_device_capability())
        return Capability(not reason, reason)

    def no_runtime_on(self, compute_capability: tuple[int, int]) -> str:
        """Why engines do not run on GPUs of a compute capability; "" where they do, as for all unless overridden."""
        return ""

    # -- capabilities ----------------------------------------------------------------------------------

    @abstractmethod
    def features(self) -> tuple[str, ...]:
        """All names that `can` knows, sorted."""

    @abstractmethod
    def can(self, feature: str, target: Target) -> Capability:
        """Whether this backend, in the installed version, can do `feature` in an engine for `target`.

        The first call for a (bindings version, target, feature) may build a minimal network; the answer is kept.

        Args:
            feature: "layer:add_non_zero", "layer:add_attention_v2:float32", "flag:REFIT",
                "network:plugins", "platform:WINDOWS", "version_compatible", ...; see `features`.
            target: what the engine is for.

        Raises:
            ValueError: an unknown feature; the message lists the nearest known ones.
            BackendUnavailableError: the bindings cannot be loaded.
        """


def current_device() -> torch.device | None:
    """The current CUDA device, or None on a machine (or a torch) without one."""
    if not torch.cuda.is_available():
        return None
    return torch.device("cuda", torch.cuda.current_device())


def no_gpu_reason() -> str:
    """Why torch sees no GPU here; "" when it sees one."""
    if torch.cuda.is_available():
        return ""
    if torch.version.cuda is None:
        return f"torch {torch.__version__} is a build without CUDA"
    return "torch sees no CUDA GPU on this machine (no GPU, or no working driver)"


def _checked_device(device: torch.device) -> torch.device:
    reason = no_gpu_reason()
    if reason:
        raise SettingsError(
            f"settings.device is {str(device)!r}, but {reason}",
            advice='name the target GPU by its compute capability, e.g. device="sm_89", or leave it None',
        )
    count = torch.cuda.device_count()
    index = torch.cuda.current_device() if device.index is None else device.index
    if index >= count:
        raise SettingsError(f"settings.device is {str(device)!r}, but this machine has {count} GPU(s)")
    return torch.device("cuda", index)


def _sm_names(capabilities: Sequence[tuple[int, int]]) -> str:
    return ", ".join(f"sm_{major}{minor}" for major, minor in capabilities)


def resolve_backend(name: str, backends: Sequence[Backend]) -> Backend:
    """Pick the backend that `settings.backend` asks for.

    Args:
        name: a backend's name, or "auto": `tensorrt` where it loads and a GPU is usable, else
            `tensorrt_rtx`, else any other backend that loads, in the order given.
        backends: what the packs contribute.

    Raises:
        BackendUnavailableError: it (or, for "auto", none) can be used; the message has every backend's
            reason and pip command.
        SettingsError: no backend has that name.
    """
    by_name: dict[str, Backend] = {}
    for backend in backends:
        by_name.setdefault(backend.name, backend)
    if name != "auto":
        return _named_backend(name, by_name)
    reasons: list[str] = []
    fixes: list[str] = []
    order: list[str] = [n for n in ("tensorrt", "tensorrt_rtx") if n in by_name]
    order += [n for n in by_name if n not in order]
    for candidate in order:
        backend = by_name[candidate]
        available = backend.availability()
        if not available.ok:
            reasons.append(f"{candidate}: {available.reason}")
            fixes.append(available.fix)
            continue
        if candidate == "tensorrt" and current_device() is None:
            # TensorRT builds on a GPU only
            reasons.append(f"{candidate}: it builds on a GPU only, and {no_gpu_reason()}")
            continue
        return backend
    if not by_name:
        reasons.append("no pack contributes one (is the pack `trtcore:backends` disabled?)")
    raise BackendUnavailableError(
        "no TensorRT backend can be used here: " + "; ".join(reasons),
        advice=" or ".join(fix for fix in fixes if fix) or None,
    )


def _named_backend(name: str, by_name: Mapping[str, Backend]) -> Backend:
    if name not in by_name:
        raise SettingsError(
            f"backend={name!r} is not one of the backends that the loaded packs contribute: "
            + (", ".join(sorted(by_name)) or "none"),
            advice="see `trtcore packs` for what is loaded or disabled",
        )
    available = by_name[name].availability()
    if not available.ok:
        raise BackendUnavailableError(
            f"backend {name!r} cannot be used here: {available.reason}", advice=available.fix or None
        )
    return by_name[name]
