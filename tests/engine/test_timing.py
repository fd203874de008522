"""The timing cache: loaded before a build, merged with what others wrote, saved in one step; refused where there is none.

No TensorRT that times kernels can be loaded here: the calls are made on a stand-in that keeps to the documented meaning of
`IBuilderConfig` and `ITimingCache`, and on the real objects of TensorRT for RTX, whose timing cache does nothing.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import trtcore
from trtcore.backend.base import Capability, Target
from trtcore.engine.timing import timing_cache, timing_cache_file
from trtcore.errors import SettingsError
from trtcore.settings import CompilationSettings


class Cache:
    """Timings by kernel, of one TensorRT; serialised as text."""

    def __init__(self, data: bytes) -> None:
        head, _, rest = (data or b"v1|").partition(b"|")
        self.version, self.kernels = head, dict(item.split(b"=") for item in rest.split() if rest)

    def combine(self, other: Cache, ignore_mismatch: bool) -> bool:
        assert not ignore_mismatch
        self.kernels = {**other.kernels, **self.kernels}
        return True

    def serialize(self) -> bytes:
        return self.version + b"|" + b" ".join(b"=".join(item) for item in sorted(self.kernels.items()))


class Config:
    """The part of an `IBuilderConfig`."""

    def __init__(self) -> None:
        self.cache: Cache | None = None
        self.calls: list[str] = []

    def create_timing_cache(self, data: bytes) -> Cache | None:
        self.calls.append(f"create {data.decode()}")
        return None if data.startswith(b"garbage") else Cache(data)

    def set_timing_cache(self, cache: Cache, ignore_mismatch: bool) -> bool:
        self.calls.append("set")
        if cache.version != b"v1" and not ignore_mismatch:
            return False
        self.cache = cache
        return True

    def get_timing_cache(self) -> Cache | None:
        return self.cache


class Timing:
    name, version = "tensorrt", "10.9"

    def can(self, feature: str, target: Target) -> Capability:
        assert feature == "timing_cache"
        return Capability(True)


def build(path: Path, measured: dict[bytes, bytes]) -> Config:
    config = Config()
    chosen = CompilationSettings(timing_cache_path=path)
    with timing_cache(Timing(), config, chosen, Target()):  # type: ignore[arg-type]
        assert config.cache is not None
        config.cache.kernels.update(measured)
    return config


def test_what_a_build_measured_is_there_for_the_next(tmp_path: Path) -> None:
    path = tmp_path / "not there yet" / "timings"
    assert build(path, {b"a": b"1"}).calls == ["create ", "set"]
    assert build(path, {b"b": b"2"}).calls[:2] == ["create v1|a=1", "set"]
    assert path.read_bytes() == b"v1|a=1 b=2"
    assert {file.name for file in path.parent.iterdir()} <= {"timings", "timings.lock"}


def test_what_another_process_measured_meanwhile_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "timings"
    config = Config()
    with timing_cache(Timing(), config, CompilationSettings(timing_cache_path=path), Target()):  # type: ignore[arg-type]
        build(path, {b"theirs": b"3", b"both": b"1"})
        assert config.cache is not None
        config.cache.kernels.update({b"ours": b"4", b"both": b"2"})
    assert path.read_bytes() == b"v1|both=2 ours=4 theirs=3"


@pytest.mark.parametrize("data", [b"garbage", b"v0|old=1"])
def test_a_file_of_another_tensorrt_is_told_and_replaced(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "timings"
    path.write_bytes(data)
    with pytest.warns(RuntimeWarning, match="of another TensorRT or GPU, or damaged"):
        build(path, {b"a": b"1"})
    assert path.read_bytes().startswith(b"v1|a=1")


def test_a_build_that_fails_leaves_the_file(tmp_path: Path) -> None:
    path = tmp_path / "timings"
    build(path, {b"a": b"1"})
    chosen = CompilationSettings(timing_cache_path=path)
    with pytest.raises(KeyError), timing_cache(Timing(), Config(), chosen, Target()):  # type: ignore[arg-type]
        raise KeyError
    assert path.read_bytes() == b"v1|a=1"


def test_a_file_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.warns(RuntimeWarning, match="cannot be written"):
        build(tmp_path / "file" / "timings", {b"a": b"1"})


def test_without_a_path_it_is_in_the_users_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRTCORE_CACHE_DIR", str(tmp_path))
    found = timing_cache_file(Timing(), CompilationSettings(), Target((8, 9)))  # type: ignore[arg-type]
    assert found == tmp_path / "timing" / "tensorrt-10.9-sm_89-linux_x86_64.cache"


def test_the_calls_on_a_real_config(trt_backend: Any, tmp_path: Path) -> None:
    """TensorRT for RTX takes them, keeps nothing, and says so in a DeprecationWarning."""

    class Willing:
        def __getattr__(self, name: str) -> Any:
            return getattr(trt_backend, name)

        def can(self, feature: str, target: Target) -> Capability:
            return Capability(True)

    logger = trt_backend.make_logger()
    builder = trt_backend.make_builder(logger)
    chosen = CompilationSettings(timing_cache_path=tmp_path / "timings")
    for _ in range(2):
        config = builder.create_builder_config()
        told = pytest.warns(DeprecationWarning, match="no-ops in TensorRT-RTX")
        with told, timing_cache(Willing(), config, chosen, Target()):  # type: ignore[arg-type]
            assert config.get_timing_cache() is not None
        assert (tmp_path / "timings").stat().st_size


def test_rtx_refuses_the_setting(trt_backend: Any, tmp_path: Path) -> None:
    import torch

    with pytest.raises(SettingsError, match=r"timing_cache_path=.* cannot be done by tensorrt_rtx") as caught:
        trtcore.compile(
            torch.nn.Linear(4, 4), [torch.ones(2, 4)], min_block_size=1, timing_cache_path=tmp_path / "x"
        )
    assert "no-op" in str(caught.value)
    assert timing_cache_file(trt_backend, CompilationSettings(), Target()) is None
