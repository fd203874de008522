"""What the native runtime needs of CUDA besides TensorRT: streams, captures, and contexts that belong to graphs.

torch has streams and captures; what it has not (a stream that the default stream is ordered with, relaxed capture mode,
user objects of graphs) is asked of the driver, by ctypes.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch

from trtcore.errors import BackendUnavailableError
from trtcore.ir.torch_private import cuda_calls

_RELAXED = 2  # CU_STREAM_CAPTURE_MODE_RELAXED
_BLOCKING = 0  # CU_STREAM_DEFAULT: ordered with the legacy default stream
_NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING: ordered with no other
_NO_DESTRUCTOR_SYNC = 1  # CU_USER_OBJECT_NO_DESTRUCTOR_SYNC
_MOVE = 1  # CU_GRAPH_USER_OBJECT_MOVE
_SEM_BYTES = 64  # more than sizeof(sem_t) anywhere


@dataclass(frozen=True)
class Ambient:
    """Plain functions for generated code: none parses arguments or makes an object that it need not.

    Attributes:
        current_device: the index of the current device.
        raw_stream: from a device's index, the handle of the current stream; 0 is the default stream.
        capturing: whether the current stream is being captured.
        empty: ``(size, stride, dtype)`` on the current device.
    """

    current_device: Callable[[], int]
    raw_stream: Callable[[int], int]
    capturing: Callable[[], bool]
    empty: Callable[..., torch.Tensor]


class Cuda:
    """The CUDA half of a `Connection` (bindings.py); TensorRT's half is in the class that derives from it."""

    def __init__(self) -> None:
        self._blocking: dict[int, int] = {}
        self._lock = threading.Lock()

    def ambient(self) -> Ambient:
        """What generated code asks of torch."""
        return Ambient(*cuda_calls())

    def on_device(self, device: torch.device) -> AbstractContextManager[Any]:
        """Make `device` current."""
        return torch.cuda.device(device)

    def execution_stream(self, index: int, stream: int) -> int:
        """The stream to run an engine on for a caller whose stream is `stream`.

        TensorRT synchronises with the host when it runs on the default stream (``IExecutionContext.execute_async_v3``).
        Instead of it a *blocking* stream is taken, one per device: CUDA itself orders the default stream's work with
        it, both ways, without events.
        """
        if stream:
            return stream
        with self._lock:
            found = self._blocking.get(index)
            if found is None:
                found = self._blocking[index] = _new_stream(index, _BLOCKING)
            return found

    @contextmanager
    def side_stream(self, device: torch.device) -> Iterator[int]:
        """A stream of our own as torch's current one; what was queued on it has run at the end."""
        stream = own_stream(device)
        with torch.cuda.stream(stream):
            yield int(stream.cuda_stream)
        stream.synchronize()

    def relaxed(self) -> AbstractContextManager[None]:
        """See `relaxed`."""
        return relaxed()

    def capture_number(self, stream: int) -> int:
        """The number of the capture that is going on on a stream; 0 where none is."""
        return capture_info(stream)[0]

    def graph_token(self, stream: int) -> GraphToken:
        """Something that tells when the graph that is being captured on `stream` is gone, with all its executables."""
        return GraphToken(stream)


@contextmanager
def relaxed() -> Iterator[None]:
    """This thread's calls are allowed whatever is being captured, as those of torch's allocator are."""
    exchange = _driver().cuThreadExchangeStreamCaptureMode
    mode = ctypes.c_int(_RELAXED)
    _ask("cuThreadExchangeStreamCaptureMode", exchange(ctypes.byref(mode)))
    try:
        yield
    finally:
        _ask("cuThreadExchangeStreamCaptureMode", exchange(ctypes.byref(mode)))


class GraphToken:
    """A CUDA user object that a graph owns; its destructor posts a semaphore, from a thread of the driver's.

    The semaphore's memory is given back by `done` alone: the driver may still post it when Python has ended.
    """

    def __init__(self, stream: int) -> None:
        cuda, libc = _driver(), _libc()
        self._semaphore = libc.calloc(1, _SEM_BYTES)
        libc.sem_init(self._semaphore, 0, 0)
        _, graph = capture_info(stream)
        made = ctypes.c_void_p()
        destroy = ctypes.cast(libc.sem_post, ctypes.c_void_p)
        memory = ctypes.c_void_p(self._semaphore)
        _ask("cuUserObjectCreate",
             cuda.cuUserObjectCreate(ctypes.byref(made), memory, destroy, 1, _NO_DESTRUCTOR_SYNC))  # fmt: skip
        _ask("cuGraphRetainUserObject", cuda.cuGraphRetainUserObject(graph, made, 1, _MOVE))

    def done(self) -> bool:
        """Whether the graph is gone; once True, always True."""
        if self._semaphore is None:
            return True
        libc = _libc()
        if libc.sem_trywait(self._semaphore):
            return False
        libc.free(self._semaphore)
        self._semaphore = None
        return True


def capture_info(stream: int) -> tuple[int, ctypes.c_void_p]:
    """The number and the graph of the capture that is going on on a stream; 0 and null where none is."""
    status, number, graph = ctypes.c_int(), ctypes.c_uint64(), ctypes.c_void_p()
    found = _driver().cuStreamGetCaptureInfo_v2(
        ctypes.c_void_p(stream), ctypes.byref(status), ctypes.byref(number), ctypes.byref(graph), None, None
    )
    _ask("cuStreamGetCaptureInfo_v2", found)
    return (int(number.value), graph) if status.value else (0, ctypes.c_void_p())


_own: dict[int, torch.cuda.Stream] = {}
_own_lock = threading.Lock()


def own_stream(device: torch.device) -> torch.cuda.Stream:
    """A stream on a device that nobody else has, for work outside of calls.

    torch's are from a pool of 32 and come again: one of them may be the stream that is being captured.
    """
    index = torch.cuda.current_device() if device.index is None else device.index
    with _own_lock:
        if index not in _own:
            with torch.cuda.device(index), relaxed():
                handle = _new_stream(index, _NON_BLOCKING)
            _own[index] = torch.cuda.ExternalStream(handle, device=torch.device("cuda", index))  # type: ignore[no-untyped-call]
        return _own[index]


def _new_stream(index: int, flags: int) -> int:
    cuda, context, made = _driver(), ctypes.c_void_p(), ctypes.c_void_p()
    _ask("cuCtxGetCurrent", cuda.cuCtxGetCurrent(ctypes.byref(context)))
    if not context.value:  # a thread that has asked nothing of CUDA yet
        _ask("cuDevicePrimaryCtxRetain", cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), index))
        _ask("cuCtxSetCurrent", cuda.cuCtxSetCurrent(context))
    _ask("cuStreamCreate", _driver().cuStreamCreate(ctypes.byref(made), flags))
    return int(made.value or 0)


def _ask(name: str, result: int) -> None:
    if result:
        raise BackendUnavailableError(f"CUDA's driver refused {name} (error {result})")


@cache
def _driver() -> Any:
    try:
        return ctypes.CDLL("nvcuda.dll" if ctypes.sizeof(ctypes.c_wchar) == 2 else "libcuda.so.1")
    except OSError as error:
        raise BackendUnavailableError(f"CUDA's driver cannot be loaded: {error}") from None


@cache
def _libc() -> Any:
    libc = ctypes.CDLL(None)
    libc.calloc.restype = ctypes.c_void_p
    libc.calloc.argtypes = [ctypes.c_size_t, ctypes.c_size_t]
    libc.free.argtypes = [ctypes.c_void_p]
    libc.free.restype = None
    libc.sem_init.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_uint]
    for function in (libc.sem_post, libc.sem_trywait):
        function.argtypes = [ctypes.c_void_p]
    return libc
