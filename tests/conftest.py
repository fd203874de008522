"""Settings of the whole test run: one torch thread, no network, a cache of its own, and honest skips."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator

# Before transformers is imported anywhere.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# glibc reads these as a process starts: they are for xdist's workers and for the processes that tests start. Each build
# of TensorRT's takes two blocks of 64 MB and gives them back to the system: 40 ms of page faults, a third of a small
# compile. Like this the memory is kept for the next build.
os.environ.setdefault("MALLOC_ARENA_MAX", "1")
os.environ.setdefault("MALLOC_MMAP_MAX_", "0")
os.environ.setdefault("MALLOC_TRIM_THRESHOLD_", str(1 << 30))

import hypothesis
import pytest
import torch
from browsers import browser as browser  # a fixture
from packaging.version import Version

# A deadline is a timed assertion: on a busy machine it fails by itself.
hypothesis.settings.register_profile("trtcore", deadline=None)
hypothesis.settings.load_profile("trtcore")

_cache: str | None = None


def pytest_configure(config: pytest.Config) -> None:
    """Give the run its own user cache. xdist's workers inherit the controller's, and so share its probes."""
    global _cache
    torch.set_num_threads(1)
    config.option.log_level = config.option.log_level or "WARNING"  # torch.export logs its trace at DEBUG
    if not hasattr(config, "workerinput"):
        _cache = tempfile.mkdtemp(prefix="trtcore-tests-")
        os.environ["TRTCORE_CACHE_DIR"] = _cache


def pytest_unconfigure() -> None:
    if _cache is not None:
        shutil.rmtree(_cache, ignore_errors=True)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for marker, reason in (("gpu", _no_gpu()), ("tensorrt", _no_tensorrt(items))):
        if reason:
            skip = pytest.mark.skip(reason=reason)
            for item in items:
                if item.get_closest_marker(marker):
                    item.add_marker(skip)
    for item in items:
        for marker in item.iter_markers("torch_since"):
            version, why = marker.args
            if Version(torch.__version__) < Version(version):
                # Strict: the day a lacking feature is there, the mark goes.
                item.add_marker(pytest.mark.xfail(strict=True, reason=f"before torch {version}: {why}"))


def _no_gpu() -> str:
    tried_without = os.environ.get("TRTCORE_GPU_DEVICE") == "cpu"  # tests/gpu
    if torch.cuda.is_available() or tried_without:
        return ""
    return "needs an NVIDIA GPU: torch.cuda.is_available() is False here"


def _no_tensorrt(items: list[pytest.Item]) -> str:
    if not any(item.get_closest_marker("tensorrt") for item in items):
        return ""
    try:
        import tensorrt  # noqa: F401
    except Exception as error:  # an ImportError, or whatever a half-installed wheel raises
        return f"needs the tensorrt wheel and its libraries: {type(error).__name__}: {error}".splitlines()[0]
    return ""


@pytest.fixture(autouse=True)
def _torch_state() -> Iterator[None]:
    """The same random numbers for every test, and no test's grad mode or default dtype in the next."""
    torch.manual_seed(0)
    dtype, grad = torch.get_default_dtype(), torch.is_grad_enabled()
    yield
    torch.set_default_dtype(dtype)
    torch.set_grad_enabled(grad)
