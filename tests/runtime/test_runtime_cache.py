"""RuntimeCache: loaded before, saved after, told where it means nothing.

An engine of TensorRT for RTX's cannot be opened without a GPU. So the calls are recorded, and each one is looked up in the real
bindings' classes.
"""

from __future__ import annotations

import re
import types
from pathlib import Path
from typing import Any

import pytest
import torch

import trtcore
from trtcore.errors import InputError
from trtcore.runtime import RuntimeCache
from trtcore.runtime.native.bindings import TensorRT

CALLS: list[tuple[str, str]] = []


class Recorded:
    """An object of the bindings' class `kind`: its calls are recorded."""

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def __getattribute__(self, name: str) -> Any:
        value = object.__getattribute__(self, name)
        if isinstance(value, types.MethodType):
            CALLS.append((object.__getattribute__(self, "kind"), name))
        return value


class Cache(Recorded):
    def __init__(self) -> None:
        super().__init__("IRuntimeCache")
        self.kernels: set[bytes] = set()

    def deserialize(self, blob: bytes) -> bool:
        if not blob.startswith(b"kernels"):
            return False
        self.kernels |= set(blob.split()[1:])
        return True

    def serialize(self) -> bytes:
        return b" ".join([b"kernels", *sorted(self.kernels)])


class Config(Recorded):
    def __init__(self) -> None:
        super().__init__("IRuntimeConfig")
        self.cache: Cache | None = None
        self.strategy = ""

    def set_execution_context_allocation_strategy(self, strategy: str) -> None:
        self.strategy = strategy

    def create_runtime_cache(self) -> Cache:
        return Cache()

    def set_runtime_cache(self, cache: Cache) -> bool:
        self.cache = cache
        return True


class CudaEngine(Recorded):
    """Compiles one kernel, named after it, when a context of it is made."""

    def __init__(self, name: bytes) -> None:
        super().__init__("ICudaEngine")
        self.name = name
        self.compiled = 0

    def create_runtime_config(self) -> Config:
        return Config()

    def create_execution_context(self, how: Any) -> Any:
        if isinstance(how, Config) and how.cache is not None:
            assert how.strategy == "USER_MANAGED"
            self.compiled += self.name not in how.cache.kernels
            how.cache.kernels.add(self.name)
        else:
            assert how == "USER_MANAGED"
            self.compiled += 1
        return self


class Rtx:
    """As much of a backend as contexts need."""

    def __init__(self, **members: Any) -> None:
        strategies = types.SimpleNamespace(USER_MANAGED="USER_MANAGED")
        self.trt = types.SimpleNamespace(
            ExecutionContextAllocationStrategy=strategies, __name__="tensorrt", __version__="10.9", **members
        )

    def make_logger(self) -> Any:
        return types.SimpleNamespace(mark=lambda: 0, since=lambda mark: ())


RTX = {"IRuntimeCache": Cache}


def compiled_kernels(path: Path, *names: bytes) -> int:
    """How many kernels are compiled by a process that starts some engines with a cache."""
    connection, engines = TensorRT(Rtx(**RTX)), [CudaEngine(name) for name in names]
    with RuntimeCache(path) as cache:
        for engine in engines:
            connection.create_context(engine)
        assert cache.engines == len(engines)
    return sum(engine.compiled for engine in engines)


def test_kernels_are_there_for_the_next_process(tmp_path: Path) -> None:
    path = tmp_path / "not there yet" / "kernels"
    assert compiled_kernels(path, b"a", b"b") == 2
    before = path.stat().st_mtime_ns
    assert compiled_kernels(path, b"a") == 0
    assert path.stat().st_mtime_ns == before
    assert compiled_kernels(path, b"a", b"c") == 1
    assert path.read_bytes() == b"kernels a b c"


def test_every_call_is_one_of_the_real_api(trt_backend: Any, tmp_path: Path) -> None:
    CALLS.clear()
    for _ in range(2):
        compiled_kernels(tmp_path / "kernels", b"a")
    trt = trt_backend.trt
    assert {name for _, name in CALLS} == {
        "create_runtime_config", "set_execution_context_allocation_strategy", "create_runtime_cache", "deserialize",
        "set_runtime_cache", "create_execution_context", "serialize",
    }  # fmt: skip
    assert all(hasattr(getattr(trt, kind), name) for kind, name in CALLS)
    # ... and takes the arguments that it is given, in this order.
    for kind, name, arguments in [
        ("IRuntimeConfig", "set_execution_context_allocation_strategy", "ExecutionContextAllocationStrategy"),
        ("IRuntimeConfig", "set_runtime_cache", "IRuntimeCache"),
        ("IRuntimeCache", "deserialize", "Buffer"),
        ("ICudaEngine", "create_execution_context", "IRuntimeConfig"),
    ]:
        assert re.search(rf"\(self: [^,]+, \w+: [^,)]*{arguments}", getattr(getattr(trt, kind), name).__doc__)


def test_without_a_block_contexts_are_made_as_ever() -> None:
    engine = CudaEngine(b"a")
    TensorRT(Rtx(**RTX)).create_context(engine)
    assert engine.compiled == 1


@pytest.mark.parametrize("data", [b"garbage", b"\0" * 100])
def test_a_file_that_tensorrt_refuses_is_told_and_replaced(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "kernels"
    path.write_bytes(data)
    with pytest.warns(RuntimeWarning, match="of another TensorRT, driver or GPU, or damaged"):
        assert compiled_kernels(path, b"a") == 1
    assert path.read_bytes() == b"kernels a"


def test_a_file_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.warns(RuntimeWarning, match="cannot be written"):
        compiled_kernels(tmp_path / "file" / "kernels", b"a")


def test_tensorrt_that_compiles_at_build_says_so(tmp_path: Path) -> None:
    engine = CudaEngine(b"a")
    with (
        pytest.warns(RuntimeWarning, match=r"of no use: tensorrt 10\.9 compiles kernels when it builds"),
        RuntimeCache(tmp_path / "kernels"),
    ):
        TensorRT(Rtx()).create_context(engine)
    assert engine.compiled == 1
    assert not (tmp_path / "kernels").exists()


def test_the_reference_runtime_says_so(trt_backend: Any, tmp_path: Path) -> None:
    compiled = trtcore.compile(torch.nn.Linear(4, 4).eval(), [torch.ones(2, 4)], min_block_size=1)
    told = pytest.warns(RuntimeWarning, match="no engine was set up in the block. The reference runtime")
    with torch.no_grad(), told, RuntimeCache(tmp_path / "kernels"):
        compiled(torch.ones(2, 4))


def test_the_innermost_block_counts(tmp_path: Path) -> None:
    connection = TensorRT(Rtx(**RTX))
    with RuntimeCache(tmp_path / "outer") as outer:
        connection.create_context(CudaEngine(b"a"))
        with RuntimeCache(tmp_path / "inner"):
            connection.create_context(CudaEngine(b"b"))
        connection.create_context(CudaEngine(b"c"))
    assert outer.engines == 2
    assert (tmp_path / "inner").read_bytes() == b"kernels b"
    assert (tmp_path / "outer").read_bytes() == b"kernels a c"


def test_without_a_path_it_is_in_the_users_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRTCORE_CACHE_DIR", str(tmp_path))
    assert RuntimeCache().path == tmp_path / "runtime" / "kernels.cache"


def test_what_is_no_file_name_is_refused() -> None:
    with pytest.raises(InputError, match="takes a file's name or None, not int"):
        RuntimeCache(5)  # type: ignore[arg-type]
