"""The process that converts and builds when ``build_isolation="process"``: ``python -m trtcore.engine.worker``.

It reads pickled requests from its standard input and answers on its standard output, until the input ends. Both
ends are this module and `trtcore.engine.builders`, of one installation.
"""

from __future__ import annotations

import faulthandler
import os
import pickle
import signal
import struct
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any, BinaryIO

if TYPE_CHECKING:
    from trtcore.conversion.interpreter import ConvertedSegment
    from trtcore.engine.request import Parcel

_HEAD = struct.Struct("<Q")


def send(stream: BinaryIO, message: Any) -> None:
    """Write one message."""
    data = pickle.dumps(message, protocol=pickle.HIGHEST_PROTOCOL)
    stream.write(_HEAD.pack(len(data)))
    stream.write(data)
    stream.flush()


def receive(stream: BinaryIO) -> Any:
    """Read one message; EOFError where the other side is gone."""
    head = stream.read(_HEAD.size)
    data = stream.read(_HEAD.unpack(head)[0]) if len(head) == _HEAD.size else b""
    if not data:
        raise EOFError
    return pickle.loads(data)


class _Worker:
    def __init__(self, answers: BinaryIO) -> None:
        self.answers = answers
        self.ctx: Any
        self.converted: ConvertedSegment | None = None

    def setup(self, settings: Any, backend: str, target: Any, threads: int, device: int | None) -> None:
        import torch

        from trtcore.context import CompileContext
        from trtcore.packs.loading import build_registry

        torch.set_num_threads(threads)
        if device is not None:
            torch.cuda.set_device(device)
        registry = build_registry(settings)
        (found,) = (one for one in registry.backends if one.name == backend)
        self.ctx = CompileContext(settings, registry, found, target)

    def convert(self, parcel: Parcel, path: str, places: list[tuple[int, int]], made: str) -> dict[str, Any]:
        from trtcore.conversion.interpreter import convert_segment
        from trtcore.engine.request import define_ops, mapped, pack_snapshot, unpack_segment
        from trtcore.packs.loading import build_registry

        self.converted = None
        if define_ops(parcel):  # converters by the ops' names waited for them
            self.ctx = replace(self.ctx, registry=build_registry(self.ctx.settings))
        with open(path, "rb") as file:
            storages = mapped(file, places)
        segment, selections = unpack_segment(parcel, storages, self.ctx.registry)
        converted = self.converted = convert_segment(
            segment, self.ctx, selections, parcel.ranges, before_node=lambda name: self._say("at", name)
        )
        with open(made, "w+b") as file:
            snapshot = pack_snapshot(converted.snapshot, storages, file)
        return {
            "inputs": converted.inputs, "sizes": converted.sizes, "outputs": converted.outputs,
            "symbols": dict(converted.symbols), "layers": converted.layers,
            "node_of_layer": converted.node_of_layer, "num_layers": converted.num_layers, "snapshot": snapshot,
        }  # fmt: skip

    def build(self, path: str) -> None:
        from trtcore.engine.build import build_network

        assert self.converted is not None
        plan = build_network(self.converted, self.ctx, progress=lambda *step: self._say("progress", *step))
        with open(path, "wb") as file:
            file.write(plan.numpy().data)

    def _say(self, *message: Any) -> None:
        send(self.answers, message)

    def answer(self, request: tuple[str, tuple[Any, ...]]) -> None:
        from trtcore.engine.request import pack_error

        name, arguments = request
        try:
            result = getattr(self, name)(*arguments)
        except Exception as error:
            self._say("error", pack_error(error))
        else:
            self._say("ok", result)


def main() -> None:
    """Answer requests until there are no more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the parent, which ends this process
    faulthandler.enable()
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what others print must not get between the answers
    worker = _Worker(answers)
    while True:
        try:
            request = receive(sys.stdin.buffer)
        except EOFError:
            return
        worker.answer(request)


if __name__ == "__main__":
    main()
