"""TensorRT for RTX: plain wheels, engines built on a machine without a GPU, no plugin layers."""

from __future__ import annotations

import ctypes
import importlib
import importlib.metadata
import importlib.util
import re
import sys
import threading
from pathlib import Path
from typing import Any

import torch
from packaging.version import Version

from trtcore.pack import BackendUnavailableError
from trtcore_backends.probed import ProbedBackend

# The pair that trtcore is tested with: bindings and libraries of one TensorRT-RTX version.
TESTED_VERSION = "1.7.1.116"
PIP_COMMAND = (
    "pip install tensorrt-rtx-cu13-bindings==1.7.1.116 onnxruntime-ep-nv-tensorrt-rtx-cu13==0.5.0  "
    '(or: pip install "trtcore[rtx]")'
)

# Modules that bring the bindings, the official ones first, and packages that bring the libraries.
_BINDINGS = ("tensorrt_rtx", "tensorrt_rtx_bindings")
_LIBRARY_PACKAGES = ("tensorrt_rtx_libs", "onnxruntime_ep_nv_tensorrt_rtx")
_DISTRIBUTION = re.compile(r"^(onnxruntime[-_.]ep[-_.]nv[-_.])?tensorrt[-_.]rtx([-_.].*)?$", re.I)

# Where its engines run: NVIDIA's support matrix of TensorRT-RTX 1.7 (Ampere 8.x, Ada 8.9, Blackwell 12.x).
_RUNS_ON = "8.0, 8.6, 8.9 and 12.x"

_load_lock = threading.Lock()


def load() -> Any:
    """Import the TensorRT-RTX bindings with libraries of the same version. The one place that does.

    Tries the official `tensorrt_rtx` package, then `tensorrt_rtx_bindings` over the libraries of
    `tensorrt_rtx_libs` or of the onnxruntime execution provider's wheel. Idempotent.

    Returns:
        the bindings module, what converters see as `ctx.trt`.

    Raises:
        BackendUnavailableError: a piece is missing, does not load, or bindings and libraries are of two
            versions; with the pip command.
    """
    with _load_lock:
        for name in _BINDINGS:
            if name in sys.modules and hasattr(sys.modules[name], "Builder"):
                return sys.modules[name]
        _check_installed()
        problems: list[str] = []
        if _find("tensorrt_rtx") and (trt := _import("tensorrt_rtx", problems)) is not None:
            return trt
        if not _find("tensorrt_rtx_bindings"):
            raise _unavailable(
                "; ".join(problems) or "the bindings (tensorrt_rtx_bindings) are not installed"
            )
        return _load_pieces(problems)


def _check_installed() -> None:
    if not any(_find(name) for name in _BINDINGS):
        raise _unavailable("the TensorRT-RTX bindings (tensorrt_rtx_bindings) are not installed")


def _find(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False


def _import(module: str, problems: list[str]) -> Any:
    try:
        return importlib.import_module(module)
    except Exception as error:  # a broken wheel raises what it likes
        problems.append(f"importing {module} raised {error!r}")
        return None


def _load_pieces(problems: list[str]) -> Any:
    """Load the libraries globally, then the bindings which link against them by soname."""
    bindings_version = _bindings_version()
    found: list[str] = []
    for package in _LIBRARY_PACKAGES:
        folder = _package_folder(package)
        library = _library(folder, "tensorrt_rtx") if folder is not None else None
        if folder is None or library is None:
            continue
        have = _library_version(library)
        found.append(f"{package} has libraries of {have}")
        if bindings_version and have and have.release[:3] != bindings_version.release[:3]:
            continue
        try:
            ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
            parser = _library(folder, "tensorrt_onnxparser_rtx")
            if parser is not None:
                ctypes.CDLL(str(parser), mode=ctypes.RTLD_GLOBAL)
        except OSError as error:
            problems.append(f"loading {library.name} raised {error}")
            continue
        trt = _import("tensorrt_rtx_bindings", problems)
        if trt is not None:
            return trt
    if problems:
        raise _unavailable("; ".join(problems))
    if found:
        raise _unavailable(
            f"the TensorRT-RTX bindings are of version {bindings_version}, but {' and '.join(found)}; "
            "the two must be the same"
        )
    raise _unavailable(
        "the TensorRT-RTX bindings are installed, the libraries are not (neither "
        + " nor ".join(_LIBRARY_PACKAGES)
        + ")"
    )


def _bindings_version() -> Version | None:
    for name, version in _distributions():
        if "bindings" in name:
            return Version(version)
    return None


def _package_folder(package: str) -> Path | None:
    try:
        spec = importlib.util.find_spec(package)
    except (ImportError, ValueError):
        return None
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(next(iter(spec.submodule_search_locations)))


def _library(folder: Path, stem: str) -> Path | None:
    """The newest shared library of that name in a package's folder."""
    pattern = f"{stem}*.dll" if sys.platform == "win32" else f"lib{stem}.so*"
    files = [p for p in folder.glob(pattern) if p.is_file() and p.stat().st_size > 4096]
    return max(files, key=_version_in_name, default=None)


def _version_in_name(path: Path) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", path.name.split(".so", 1)[-1]))


def _library_version(path: Path) -> Version | None:
    """The version that a library file's name carries (`libtensorrt_rtx.so.1.7.1`), without loading it."""
    numbers = _version_in_name(path)
    return Version(".".join(map(str, numbers))) if len(numbers) >= 3 else None


def _distributions() -> tuple[tuple[str, str], ...]:
    found = {
        (str(name), d.version)
        for d in importlib.metadata.distributions()
        if _may_be_ours(d) and (name := d.metadata["Name"]) and _DISTRIBUTION.match(name)
    }
    return tuple(sorted(found))


def _may_be_ours(distribution: importlib.metadata.Distribution) -> bool:
    """False where the folder of the metadata bears another name: to parse all that is installed takes 0.1 s."""
    folder = str(getattr(getattr(distribution, "_path", None), "name", ""))
    return not folder.endswith((".dist-info", ".egg-info")) or _DISTRIBUTION.match(folder) is not None


def _unavailable(reason: str) -> BackendUnavailableError:
    return BackendUnavailableError(reason, advice=PIP_COMMAND)


class RtxBackend(ProbedBackend):
    """TensorRT for RTX, backend name "tensorrt_rtx"."""

    name = "tensorrt_rtx"
    has_plugins = False

    def _load(self) -> Any:
        trt = load()
        missing = [
            n for n in ("Builder", "INetworkDefinition", "IBuilderConfig", "ILogger") if not hasattr(trt, n)
        ]
        if missing:
            raise _unavailable(
                f"the module {trt.__name__} lacks {', '.join(missing)}; the installation is damaged"
            )
        return trt

    def distributions(self) -> tuple[tuple[str, str], ...]:
        """The installed TensorRT-RTX distributions (bindings, libraries)."""
        return _distributions()

    def compute_capabilities(self) -> tuple[tuple[int, int], ...]:
        """What `trt.ComputeCapability` names: SM75 to SM121 in version 1.7."""
        members = getattr(self.trt.ComputeCapability, "__members__", {})
        numbers = sorted(int(n[2:]) for n in members if re.fullmatch(r"SM\d+", n))
        return tuple(divmod(number, 10) for number in numbers)

    def no_runtime_on(self, compute_capability: tuple[int, int]) -> str:
        """Engines run on compute capability 8.0, 8.6, 8.9 and 12.x."""
        if compute_capability in self._runs_on():
            return ""
        major, minor = compute_capability
        return (
            f"TensorRT-RTX runs on compute capability {_RUNS_ON}; "
            f"{torch.cuda.get_device_name()} has {major}.{minor}"
        )

    def _runs_on(self) -> set[tuple[int, int]]:
        return {(8, 0), (8, 6), (8, 9)} | {(12, minor) for minor in range(10)}
