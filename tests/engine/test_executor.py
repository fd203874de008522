"""build_executor: engines by threads, processes, Dask and Ray; what fails there, and what gets lost there."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import socket
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import crashing_converters as bad
import pytest
import torch
from torch import Tensor, nn

import trtcore
from trtcore.cli.app import main
from trtcore.engine import executor as module_under_test
from trtcore.engine.request import MappedStorages
from trtcore.errors import ConversionError, EngineBuildError, SettingsError
from trtcore.pack import converter

pytestmark = pytest.mark.usefixtures("trt_backend")
bessel = torch.ops.aten.special_bessel_j0.default
X = torch.linspace(0.1, 1, 16).reshape(2, 8)


@pytest.fixture(autouse=True)
def _scope() -> Iterator[None]:
    with trtcore.scoped_registry():
        yield


class Blocks(nn.Module):
    """An engine per block: no pack converts the op between them."""

    def __init__(self, count: int = 3) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(count))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = torch.special.bessel_j0(layer(x).relu())
        return x


def compiled(executor: Any, model: nn.Module | None = None, **options: Any) -> Any:
    model = (Blocks() if model is None else model).eval()
    module = trtcore.compile(model, [X], min_block_size=1, build_executor=executor, **options)
    with torch.no_grad():
        torch.testing.assert_close(module(X), model(X))
    return module


class Elsewhere(Executor):
    """Runs what it is given on a copy, as another process would, or raises what `before` raises."""

    def __init__(self, before: Callable[[int], None] = lambda number: None) -> None:
        self.calls = 0
        self.before = before

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        self.calls += 1
        try:
            self.before(self.calls)
            sent = pickle.loads(pickle.dumps((fn, args, kwargs)))
            future.set_result(pickle.loads(pickle.dumps(sent[0](*sent[1], **sent[2]))))
        except BaseException as error:
            future.set_exception(error)
        return future


def test_every_segment_is_built_by_the_executor() -> None:
    executor = Elsewhere()
    module = compiled(executor)
    assert executor.calls == len(module.report.engines) == 3
    assert all(engine.layers and engine.engine_bytes for engine in module.report.engines)


def test_threads_take_what_other_processes_could_not_find() -> None:
    def local(ctx: Any, x: Any) -> Any:
        return ctx.activation(x, "RELU")

    with ThreadPoolExecutor(2) as pool:
        module = compiled(pool, converters={"aten.relu.default": local})
    assert len(module.report.engines) == 3
    assert not module.report.quarantined


def test_a_converter_of_a_script_is_refused_with_the_reason() -> None:
    def local(ctx: Any, x: Any) -> Any:
        return ctx.activation(x, "RELU")

    with pytest.raises(
        SettingsError, match=r"local of aten\.relu\.default cannot be found by another"
    ) as caught:
        compiled(Elsewhere(), converters={"aten.relu.default": local})
    assert "script" in str(caught.value)
    assert "top of a module" in str(caught.value)


def test_a_worker_on_another_host_gets_the_weights_and_gives_the_engine_as_bytes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(MappedStorages, "is_here", property(lambda self: False))
    monkeypatch.setattr(module_under_test.os.path, "isdir", lambda path: ".trtcore-" not in str(path))
    executor = Elsewhere()
    assert len(compiled(executor).report.engines) == 3
    # Told once of the first; what was sent ahead by then is sent again, too.
    assert executor.calls == 6


# ---- what fails ---------------------------------------------------------------------------------------------


def test_a_failing_converter_is_quarantined_and_the_worker_named() -> None:
    converter(bessel)(bad.raises)
    module = compiled(Elsewhere())
    (item, *rest) = module.report.quarantined
    assert len(rest) == 2
    assert "no such table" in item.reason
    assert f"on the worker {socket.gethostname()}, process {os.getpid()}" in item.reason


def test_a_failing_converter_is_our_error_where_it_is_asked_for() -> None:
    converter(bessel)(bad.raises)
    with pytest.raises(ConversionError, match=r"on the worker .*, process \d+"):
        compiled(Elsewhere(), pass_through_build_failures=True)


def test_a_refused_build_is_quarantined() -> None:
    converter(bessel)(bad.strided_and_dilated)
    module = compiled(Elsewhere(), Wide())
    (item,) = module.report.quarantined
    assert item.node == "special_bessel_j0"
    assert any("Deconv" in line for line in item.tensorrt)


class Wide(nn.Module):
    """What `bad.strided_and_dilated` takes: (1, 2, 8, 8)."""

    def forward(self, x: Tensor) -> Tensor:
        y = torch.special.bessel_j0(torch.cat([x.relu()] * 8).reshape(1, 2, 8, 8))
        return y.exp()


def test_a_worker_that_lacks_something_is_our_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def backend_gone(request: Any, registry: Any, **options: Any) -> Any:
        raise RuntimeError("the library is gone")

    monkeypatch.setattr(module_under_test, "build_engine", backend_gone)
    with pytest.raises(EngineBuildError, match=r"engine_0 was not built: .*library is gone.*on the worker"):
        compiled(Elsewhere())


def test_a_worker_without_trtcore_is_our_error() -> None:
    def missing(number: int) -> None:
        raise ModuleNotFoundError("No module named 'trtcore'")

    with pytest.raises(EngineBuildError, match=r"worker of Elsewhere could not begin.*No module") as caught:
        compiled(Elsewhere(missing))
    assert "pip install trtcore" in str(caught.value)


# ---- what gets lost -----------------------------------------------------------------------------------------


class KilledWorker(Exception):
    """Dask's, by name."""


def test_what_a_lost_worker_had_is_built_again() -> None:
    def lose(number: int) -> None:
        if number == 2:
            raise KilledWorker("it is gone")

    executor = Elsewhere(lose)
    with pytest.warns(
        RuntimeWarning, match="a worker of Elsewhere was lost with engine_1, which is built again"
    ):
        module = compiled(executor)
    assert len(module.report.engines) == 3
    assert executor.calls == 4


@pytest.mark.slow
def test_without_any_worker_left_a_process_here_builds() -> None:
    def broken(number: int) -> None:
        raise BrokenProcessPool("a child process terminated abruptly")

    with pytest.warns(RuntimeWarning, match="BrokenProcessPool"):
        module = compiled(Elsewhere(broken))
    assert len(module.report.engines) == 3


def test_an_executor_that_is_shut_down_is_refused() -> None:
    pool = ThreadPoolExecutor(1)
    pool.shutdown()
    with pytest.raises(SettingsError, match="takes no work"):
        compiled(pool)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"build_executor": 3}, "a concurrent.futures.Executor or None"),
        ({"build_executor": "threads:2"}, r"Executor or None[^$]*trtcore\.executors\.connect"),
        ({"build_executor": ThreadPoolExecutor}, "Executor or None[^$]*give an object of the class"),
        ({"build_executor": Elsewhere(), "build_isolation": "process"}, "both say where"),
    ],
)
def test_settings_that_do_not_fit(options: dict[str, Any], text: str) -> None:
    with pytest.raises(SettingsError, match=text):
        trtcore.CompilationSettings(**options)


class Loses(Elsewhere):
    """A wrapper that does not hand on what it was given."""

    def __init__(self, result: Any) -> None:
        super().__init__()
        self.result = result

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        if self.result is not None:
            return self.result
        super().submit(fn, *args, **kwargs)
        lost: Future[Any] = Future()
        lost.set_result(None)
        return lost


def test_an_executor_that_loses_results_is_told() -> None:
    with pytest.raises(EngineBuildError, match="Loses gave None for engine_0") as caught:
        compiled(Loses(None))
    assert "must return a Future of what" in str(caught.value)
    with pytest.raises(SettingsError, match="is no Executor: its submit returned 7"):
        compiled(Loses(7))


# ---- with the engine cache ----------------------------------------------------------------------------------


def test_a_farm_shares_what_was_built(tmp_path: Path) -> None:
    options = {"cache_built_engines": True, "reuse_cached_engines": True, "engine_cache_dir": tmp_path}
    model = Blocks()
    first, second = Elsewhere(), Elsewhere()
    assert not any(engine.cached for engine in compiled(first, model, **options).report.engines)
    assert all(engine.cached for engine in compiled(second, model, **options).report.engines)
    assert (first.calls, second.calls) == (3, 0)
    half = Blocks(4)
    half.layers[0], half.layers[1] = model.layers[0], model.layers[1]
    assert sum(engine.cached for engine in compiled(second, half, **options).report.engines) == 2
    assert second.calls == 2


# ---- addresses ----------------------------------------------------------------------------------------------


def test_threads_by_their_address() -> None:
    with trtcore.executors.connect("threads:2") as executor:
        assert isinstance(executor, ThreadPoolExecutor)
        assert len(compiled(executor).report.engines) == 3
    with pytest.raises(RuntimeError, match="shutdown"):
        executor.submit(print)


@pytest.mark.parametrize("address", ["", "thread", "threads:none", "processes:0", "mpi://x"])
def test_addresses_of_nothing(address: str) -> None:
    with (
        pytest.raises(SettingsError, match="there is no executor") as caught,
        trtcore.executors.connect(address),
    ):
        pass
    assert "dask://HOST:PORT" in str(caught.value)


def test_the_command_line_takes_an_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from click.testing import CliRunner

    monkeypatch.syspath_prepend(os.path.dirname(__file__))
    arguments = ["compile", "test_executor:Blocks", "--input", "2x8:float32", "--set", "min_block_size=1"]
    output = str(tmp_path / "blocks.pt2")
    result = CliRunner().invoke(main, [*arguments, "--executor", "threads:2", "-o", output])
    assert result.exit_code == 0, result.output
    assert "3 engines" in result.stdout
    result = CliRunner().invoke(main, [*arguments, "--executor", "nowhere", "-o", output])
    assert result.exit_code == 1
    assert "there is no executor" in result.stderr


# ---- real ones ----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_new_processes() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:
            module = compiled(pool)
    assert len(module.report.engines) == 3


@pytest.mark.slow
def test_a_process_that_crashes_is_a_crash_with_its_converter() -> None:
    converter(bessel)(bad.segfaults)
    told = pytest.warns(RuntimeWarning, match="BrokenProcessPool")
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool, told:
        module = compiled(pool, Blocks(1))
    (item,) = module.report.quarantined
    assert "SIGSEGV" in item.reason


@pytest.mark.slow
def test_dask_by_its_address() -> None:
    """Two workers in processes of their own; one is killed with its work."""
    distributed = pytest.importorskip("distributed", reason="pip install 'trtcore[services]'")
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, dashboard_address=None, host="127.0.0.1"
    ) as cluster:
        address = cluster.scheduler_address.replace("tcp://", "dask://")
        with trtcore.executors.connect(address) as executor:
            assert len(compiled(executor, Blocks(4)).report.engines) == 4
            converter(bessel)(bad.raises)
            module = compiled(executor, Blocks(2))
            assert "on the worker" in module.report.quarantined[0].reason
            assert str(os.getpid()) not in module.report.quarantined[0].reason.rpartition("process ")[2]


@pytest.mark.slow
@pytest.mark.parametrize("allowed_failures", [0, 3])
def test_a_worker_of_dask_that_is_killed_while_it_builds(
    allowed_failures: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With 0 Dask gives up at once, and the request is sent again; with 3 Dask itself runs it on another worker."""
    distributed = pytest.importorskip("distributed", reason="pip install 'trtcore[services]'")
    import dask

    mark = tmp_path / "killed"
    monkeypatch.setenv("TRTCORE_TEST_KILLED", str(mark))
    converter(torch.ops.aten.relu.default)(bad.kills_its_process_once)
    with (
        dask.config.set({"distributed.scheduler.allowed-failures": allowed_failures}),
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, dashboard_address=None, host="127.0.0.1"
        ) as cluster,
        distributed.Client(cluster) as client,
        warnings.catch_warnings(record=True) as told,
    ):
        warnings.simplefilter("always")
        module = compiled(client.get_executor(), Blocks(4))
    assert mark.exists()
    assert not module.report.quarantined
    assert len(module.report.engines) == 4
    lost = [str(one.message) for one in told if "was lost with" in str(one.message)]
    assert bool(lost) == (allowed_failures == 0), lost


@pytest.mark.slow
def test_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray", reason="pip install 'trtcore[services]'")
    # Ray's workers do not get this process's path, and the converters are in a module beside this one.
    paths = [os.path.dirname(__file__), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
    with trtcore.executors.connect("ray://local") as executor:
        assert len(compiled(executor, Blocks(4)).report.engines) == 4
        converter(bessel)(bad.raises)
        module = compiled(executor, Blocks(2))
        assert "on the worker" in module.report.quarantined[0].reason
