"""Where the time of a compiled module's calls goes: per layer of each engine, and per op in torch."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from operator import getitem
from pathlib import Path
from typing import Any

import torch
from torch.fx import Interpreter, Node

from trtcore.errors import InputError
from trtcore.runtime.engine import Engine, resolve
from trtcore.runtime.inspection import text_table
from trtcore.runtime.module import CompiledModule
from trtcore.runtime.op import execute_engine

_IN_TORCH = "torch"


@dataclass(frozen=True)
class Timed:
    """One execution of a layer or an op.

    Attributes:
        engine: the engine's name; "torch" for an op outside of engines.
        name: the layer's or op's.
        start, duration: in milliseconds, `start` from the beginning of the first call. Those of TensorRT's own profiler
            have no beginning: its layers are told one after the other from the engine's.
    """

    engine: str
    name: str
    start: float
    duration: float


@dataclass(frozen=True)
class Row:
    """All executions of one layer or op: milliseconds in `calls` calls."""

    engine: str
    name: str
    calls: int
    total: float


class Profile:
    """What `profile` has measured; complete when its context is left."""

    def __init__(self) -> None:
        self.events: list[Timed] = []
        self._marks: list[tuple[str, str, Any, Any]] = []

    def rows(self) -> tuple[Row, ...]:
        """By layer and op, those that took longest first."""
        found: dict[tuple[str, str], list[float]] = {}
        for event in self.events:
            found.setdefault((event.engine, event.name), []).append(event.duration)
        made = [Row(engine, name, len(times), sum(times)) for (engine, name), times in found.items()]
        return tuple(sorted(made, key=lambda row: -row.total))

    def __str__(self) -> str:
        rows = self.rows()
        everything = sum(row.total for row in rows) or 1.0
        lines = [("engine", "layer", "calls", "total ms", "ms a call", "share")]
        lines += [
            (row.engine, row.name, str(row.calls), f"{row.total:.3f}", f"{row.total / row.calls:.4f}",
             f"{100 * row.total / everything:.1f} %")
            for row in rows
        ]  # fmt: skip
        return "\n".join(text_table(lines))

    def to_json(self) -> str:
        """A list of objects with engine, layer, calls and total_ms."""
        rows = self.rows()
        return json.dumps(
            [{"engine": r.engine, "layer": r.name, "calls": r.calls, "total_ms": r.total} for r in rows],
            indent=1,
        )

    def chrome_trace(self, path: str | Path) -> None:
        """Write the executions for chrome://tracing or Perfetto, a track per engine."""
        events = [
            {"name": e.name, "cat": e.engine, "ph": "X", "ts": e.start * 1e3, "dur": e.duration * 1e3, "pid": "trtcore",
             "tid": e.engine}
            for e in self.events
        ]  # fmt: skip
        Path(path).write_text(json.dumps({"traceEvents": events, "displayTimeUnit": "ms"}))

    def _finish(self) -> None:
        if any(isinstance(start, torch.cuda.Event) for _, _, start, _ in self._marks):
            torch.cuda.synchronize()
        first: Any = self._marks[0][2] if self._marks else None
        ends: dict[str, float] = {}
        for engine, name, start, end in self._marks:
            if isinstance(end, float) and start is None:  # TensorRT's: a duration alone
                begin, duration = ends.get(engine, 0.0), end
            elif isinstance(start, float):
                assert isinstance(first, float)
                begin, duration = (start - first) * 1e3, (end - start) * 1e3
            else:
                begin, duration = first.elapsed_time(start), start.elapsed_time(end)
            ends[engine] = begin + duration
            self.events.append(Timed(engine, name, begin, duration))
        self._marks.clear()


@contextmanager
def profile(module: CompiledModule) -> Iterator[Profile]:
    """Measure a compiled module's calls layer by layer.

    Within it, the module runs node by node: engines of the reference runtime layer by layer, with CUDA events on a
    GPU and the clock on a CPU; native ones with TensorRT's own profiler. Calls are slower for it, and for one thread
    at a time.

    Args:
        module: what a compile, or `trtcore.load`, returned.

    Raises:
        InputError: it is no compiled module.

    Example:
        >>> with trtcore.runtime.profile(compiled) as times:  # doctest: +SKIP
        ...     compiled(x)
        >>> print(times)  # doctest: +SKIP
    """
    if not isinstance(module, CompiledModule):
        raise InputError(f"profile takes a compiled module, not a {type(module).__name__}")
    found = Profile()

    def forward(*args: Any, **kwargs: Any) -> Any:
        check = module._input_check
        leaves = args if check is None else check.named_leaves(check.binding.bind(args, kwargs))[0]
        with torch.no_grad():
            flat = _Timing(module, found._marks, leaves).run(*leaves, enable_io_processing=False)
        return module.graph.process_outputs(flat)

    before = module.__dict__.get("forward")
    module.forward = forward
    try:
        yield found
    finally:
        if before is None:
            del module.forward
        else:
            module.forward = before
        found._finish()


class _Timing(Interpreter):
    """Runs a hybrid graph and marks when each node began and ended."""

    def __init__(
        self, module: CompiledModule, marks: list[tuple[str, str, Any, Any]], leaves: Sequence[Any]
    ) -> None:
        super().__init__(module)
        self._marks = marks
        on_gpu = any(isinstance(leaf, torch.Tensor) and leaf.is_cuda for leaf in leaves)
        self._now: Callable[[], Any] = _event if on_gpu else time.perf_counter

    def run_node(self, n: Node) -> Any:
        if n.op != "call_function" or n.target is getitem:
            return super().run_node(n)
        if n.target is execute_engine:
            (inputs, sizes, plan, manifest), _ = self.fetch_args_kwargs_from_env(n)
            return self._engine(resolve(manifest, plan), inputs, sizes)
        start = self._now()
        result = super().run_node(n)
        self._marks.append((_IN_TORCH, n.name, start, self._now()))
        return result

    def _engine(self, engine: Engine, inputs: list[torch.Tensor], sizes: list[int]) -> list[torch.Tensor]:
        name, marks, now = engine.manifest.name, self._marks, self._now

        def layers(network: torch.fx.GraphModule, *arguments: torch.Tensor) -> Any:
            return _Layers(network, name, marks, now).run(*arguments)

        def told(layer: str, milliseconds: float) -> None:
            marks.append((name, layer, None, float(milliseconds)))

        start = now()
        count = len(marks)
        outputs = engine.run_profiled(inputs, sizes, layers, told)
        if len(marks) == count:  # a runtime that has no layers to show
            marks.append((name, name, start, now()))
        return outputs


class _Layers(Interpreter):
    """Runs the reference runtime's graph of one engine; a node is a part of its layer."""

    def __init__(
        self, network: torch.fx.GraphModule, engine: str, marks: list[Any], now: Callable[[], Any]
    ) -> None:
        super().__init__(network)
        self._engine, self._marks, self._now = engine, marks, now

    def run_node(self, n: Node) -> Any:
        layer = n.meta.get("layer")
        if layer is None:
            return super().run_node(n)
        start = self._now()
        result = super().run_node(n)
        self._marks.append((self._engine, str(layer), start, self._now()))
        return result


def _event() -> torch.cuda.Event:
    event: torch.cuda.Event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    event.record()
    return event
