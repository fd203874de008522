"""Which features there are, and decorators that refuse what needs others."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

from trtcore_contrib_torch_tensorrt._told import NotHereError

__all__ = [
    "ENABLED_FEATURES",
    "FeatureSet",
    "for_all_methods",
    "has_torch_tensorrt_runtime",
    "has_torchscript_frontend",
    "needs_cross_compile",
    "needs_not_tensorrt_rtx",
    "needs_qdp_plugin",
    "needs_refit",
    "needs_tensorrt_rtx",
    "needs_torch_tensorrt_runtime",
    "needs_torchscript_frontend",
    "needs_trtllm_for_nccl",
]

_F = TypeVar("_F", bound=Callable[..., Any])
_C = TypeVar("_C", bound=type)


class FeatureSet(NamedTuple):
    """What is there, by old names."""

    torchscript_frontend: bool
    torch_tensorrt_runtime: bool
    dynamo_frontend: bool
    fx_frontend: bool
    refit: bool
    qdp_plugin: bool
    windows_cross_compile: bool
    tensorrt_rtx: bool
    trtllm_for_nccl: bool
    native_trt_collectives: bool


class _Features:
    """`FeatureSet` of the backend that ``backend="auto"`` takes; which one that is is asked when a feature is."""

    @functools.cached_property
    def _found(self) -> FeatureSet:
        from trtcore.testing import usable_backend

        backend = usable_backend()
        return FeatureSet(
            torchscript_frontend=True,  # ScriptModules are compiled, too
            torch_tensorrt_runtime=False,  # the C++ runtime
            dynamo_frontend=True,
            fx_frontend=True,
            refit=True,
            qdp_plugin=bool(backend.has_plugins),
            windows_cross_compile=sys.platform == "linux" and "rtx" not in backend.name,
            tensorrt_rtx="rtx" in backend.name,
            trtllm_for_nccl=False,
            native_trt_collectives=False,
        )

    def __getattr__(self, name: str) -> bool:
        if name not in FeatureSet._fields:
            raise AttributeError(f"there is no feature {name!r}; there are {', '.join(FeatureSet._fields)}")
        return bool(getattr(self._found, name))

    def _asdict(self) -> dict[str, bool]:
        return self._found._asdict()

    def __iter__(self) -> Any:
        return iter(self._found)

    def __repr__(self) -> str:
        return repr(self._found)


ENABLED_FEATURES: Any = _Features()


def _needs(feature: str, wanted: bool, instead: str) -> Callable[[_F], _F]:
    def decorate(function: _F) -> _F:
        @functools.wraps(function)
        def checked(*args: Any, **kwargs: Any) -> Any:
            if getattr(ENABLED_FEATURES, feature) is not wanted:
                state = "is not" if wanted else "is"
                raise NotHereError(
                    f"{function.__qualname__} cannot be used where {feature} {state} there", advice=instead
                )
            return function(*args, **kwargs)

        return checked  # type: ignore[return-value]

    return decorate


_BACKEND = 'choose the other TensorRT: backend="tensorrt" or backend="tensorrt_rtx"'
_PLUGINS = 'plugin layers need backend="tensorrt"; elsewhere the op runs in torch between engines'

needs_tensorrt_rtx = _needs("tensorrt_rtx", True, _BACKEND)
needs_not_tensorrt_rtx = _needs("tensorrt_rtx", False, _BACKEND)
needs_qdp_plugin = _needs("qdp_plugin", True, _PLUGINS)
needs_refit = _needs("refit", True, "")
needs_cross_compile = _needs(
    "windows_cross_compile", True, 'compile on Windows, or with backend="tensorrt" on Linux'
)
needs_torch_tensorrt_runtime = _needs(
    "torch_tensorrt_runtime", True, "there is no C++ runtime here: write the bytes of "
    "convert_method_to_trt_engine to a file, and load them with TensorRT's own C++ API"
)  # fmt: skip
needs_torchscript_frontend = _needs("torchscript_frontend", True, "")
needs_trtllm_for_nccl = _needs(
    "trtllm_for_nccl",
    True,
    "collectives run in torch between engines; use_distributed_mode_trace=True traces them",
)


def has_torch_tensorrt_runtime() -> bool:
    """Whether the C++ runtime is there."""
    return bool(ENABLED_FEATURES.torch_tensorrt_runtime)


def has_torchscript_frontend() -> bool:
    """Whether ScriptModules can be compiled."""
    return bool(ENABLED_FEATURES.torchscript_frontend)


def for_all_methods(decorator: Callable[..., Any], exclude: list[str] | None = None) -> Callable[[_C], _C]:
    """A class decorator: every method but those named gets `decorator`."""

    def decorate(cls: _C) -> _C:
        for name, member in list(vars(cls).items()):
            if callable(member) and name not in (exclude or ()):
                setattr(cls, name, decorator(member))
        return cls

    return decorate
