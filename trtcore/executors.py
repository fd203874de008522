"""Executors for ``build_executor``, by address: what `trtcore compile --executor` takes.

    with trtcore.executors.connect("dask://scheduler:8786") as executor:
        compiled = trtcore.compile(model, inputs, build_executor=executor)

- ``threads:4``: threads of this process. TensorRT lets other threads run while it builds.
- ``processes:4``: new processes of this host.
- ``dask://host:port``: the workers of a Dask scheduler (`pip install distributed`).
- ``ray://host:port``, ``ray://auto``: a Ray cluster (`pip install "ray[client]"`); ``ray://local`` starts one here.

Where no number is given it is that of the CPUs. Workers need trtcore and the packs.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from trtcore.errors import SettingsError

_KINDS = "threads:N, processes:N, dask://HOST:PORT, ray://HOST:PORT, ray://auto or ray://local"


class RayExecutor(Executor):
    """Runs functions as tasks of the Ray cluster that this process is connected to.

    Ray tries a task whose worker died again by itself, `retries` times; then it counts as lost.
    """

    def __init__(self, *, retries: int = 1) -> None:
        import ray

        self._ray: Any = ray
        self._retries = retries
        self._open = True

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Start ``fn(*args, **kwargs)`` on a worker."""
        if not self._open:
            raise RuntimeError("cannot schedule new futures after shutdown")
        remote = self._ray.remote(max_retries=self._retries)(fn)
        future: Future[Any] = remote.remote(*args, **kwargs).future()
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more work. What runs goes on."""
        self._open = False


@contextmanager
def connect(address: str) -> Iterator[Executor]:
    """The executor at an address, see the module; at the end it is shut down, or the connection closed.

    Raises:
        SettingsError: no such kind, its package is not installed, or nobody answers.
    """
    kind, _, rest = address.partition(":")
    try:
        opened = {"threads": _threads, "processes": _processes, "dask": _dask, "ray": _ray}[kind]
    except KeyError:
        raise SettingsError(f"there is no executor {address!r}", advice=f"write {_KINDS}") from None
    with opened(rest, address) as executor:
        yield executor


@contextmanager
def _threads(count: str, address: str) -> Iterator[Executor]:
    with ThreadPoolExecutor(_count(count, address)) as pool:
        yield pool


@contextmanager
def _processes(count: str, address: str) -> Iterator[Executor]:
    # Not forked: a child of a process that has used a GPU cannot use it.
    with ProcessPoolExecutor(_count(count, address), multiprocessing.get_context("spawn")) as pool:
        yield pool


def _count(text: str, address: str) -> int:
    if not text:
        return os.cpu_count() or 1
    if not text.isdecimal() or int(text) < 1:
        raise SettingsError(f"there is no executor {address!r}", advice=f"write {_KINDS}")
    return int(text)


@contextmanager
def _dask(rest: str, address: str) -> Iterator[Executor]:
    try:
        from distributed import Client
    except ImportError as error:
        raise SettingsError(
            f"executor {address!r}: Dask is not installed ({error})", advice="pip install distributed"
        ) from error
    client: Any
    try:
        client = Client("tcp:" + rest, timeout="20s")
    except (OSError, ValueError) as error:
        raise SettingsError(
            f"executor {address!r}: no scheduler of Dask's answers there: {error}",
            advice="start one with `dask scheduler`, and workers with `dask worker HOST:PORT`",
        ) from error
    with client:
        yield client.get_executor()


@contextmanager
def _ray(rest: str, address: str) -> Iterator[Executor]:
    try:
        import ray
    except ImportError as error:
        raise SettingsError(
            f"executor {address!r}: Ray is not installed ({error})", advice='pip install "ray[client]"'
        ) from error
    name = rest.removeprefix("//")
    where = {"local": None, "auto": "auto"}.get(name, address)
    ours = not ray.is_initialized()
    # A cluster of this host alone: its parts need not find each other by the host's address.
    alone = {"include_dashboard": False, "num_cpus": os.cpu_count(), "_node_ip_address": "127.0.0.1"}
    try:
        ray.init(where, ignore_reinit_error=True, **(alone if where is None else {}))
    except Exception as error:
        raise SettingsError(
            f"executor {address!r}: no cluster of Ray's answers there: {error}",
            advice="start one with `ray start --head`, or use ray://local",
        ) from error
    try:
        with RayExecutor() as executor:
            yield executor
    finally:
        if ours:
            ray.shutdown()
