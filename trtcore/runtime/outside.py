"""Work on a GPU that belongs to no call: what it allocates stays, whatever is being captured or warmed up meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

import torch

from trtcore.runtime.native.cuda import own_stream, relaxed

T = TypeVar("T")


def outside_of_calls(device: torch.device, work: Callable[[], T]) -> T:
    """Do work on a GPU, such as copying constants to it, so that its memory can outlive the call that needs it first.

    A call may be part of a CUDA graph's capture, or of the warm-up of one, where torch takes the thread's memory from
    the graph's pool: what stayed there would be given to others. So the work is done in a thread of its own, on a
    stream of its own, in relaxed capture mode, and is finished when this returns.

    Args:
        device: where; for a device that is no GPU, the work is simply done.
        work: called once.

    Returns:
        what `work` returned.
    """
    if device.type != "cuda":
        return work()
    results: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            with torch.cuda.device(device), relaxed():
                stream = own_stream(device)
                with torch.cuda.stream(stream):
                    results.append(work())
                stream.synchronize()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, name="trtcore outside of calls")
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]
