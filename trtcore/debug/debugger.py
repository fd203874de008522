"""`Debugger`: everything about the compiles of a block, in a folder."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trtcore.errors import InputError, TrtcoreError
from trtcore.events import Event, watching

if TYPE_CHECKING:
    from types import TracebackType

    from trtcore.artifact.engine_file import EngineArtifact
    from trtcore.engine.request import EngineRequest
    from trtcore.report.data import Report

_LEVELS = ("debug", "info", "warning", "error", "critical")
_FORMAT = "%(asctime)s %(levelname)-7s %(name)s: %(message)s"


class Debugger:
    """Write what happens in the compiles of a block into a folder.

    Each compile gets a folder of its own, ``0``, ``1``, ... in ``folder``:

    - ``graphs/``: the graph as it was captured and after each lowering pass that changed it, as text;
    - ``requests/``: the request of each engine that failed, or with ``requests="all"`` of every engine, as a file
      that ``trtcore replay FILE`` builds again (`trtcore.debug.replay`);
    - ``layers/``: each engine's layers with the nodes that they come from, as JSON;
    - ``report.html``, ``report.json``, ``report.txt``.

    ``log.txt`` beside them has the messages of the logger "trtcore", TensorRT's own among them.

    Args:
        folder: is made where it is not there.
        log_level: the least level that goes into ``log.txt``.
        graphs: write the graphs.
        requests: "failed", "all" or "none".
        weights: False leaves the weights' values out of the requests.
        layers: write the engines' layers.

    Raises:
        InputError: the folder cannot be made, or an argument is none of those above.

    Example:
        >>> with trtcore.Debugger("debug"):  # doctest: +SKIP
        ...     trtcore.compile(model, inputs=[x])
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        log_level: str = "debug",
        graphs: bool = True,
        requests: str = "failed",
        weights: bool = True,
        layers: bool = True,
    ) -> None:
        if log_level.lower() not in _LEVELS:
            raise InputError(f"log_level={log_level!r} is none of {', '.join(map(repr, _LEVELS))}")
        if requests not in ("failed", "all", "none"):
            raise InputError(f"requests={requests!r} is none of 'failed', 'all', 'none'")
        self.folder = Path(folder)
        self.log_level = log_level.upper()
        self.graphs, self.requests, self.weights, self.layers = graphs, requests, weights, layers
        self._compiles = 0
        self._current: Path | None = None
        self._last_graph = ""
        self._passes = 0
        self._exit = ExitStack()

    def __enter__(self) -> Debugger:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            handler = logging.FileHandler(self.folder / "log.txt", encoding="utf-8")
        except OSError as error:
            raise InputError(f"{self.folder} cannot be written to: {error}") from error
        self._compiles = 1 + max(
            (int(one.name) for one in self.folder.iterdir() if one.name.isdecimal()), default=-1
        )
        handler.setFormatter(logging.Formatter(_FORMAT))
        handler.setLevel(self.log_level)
        logger = logging.getLogger("trtcore")
        before = logger.level
        logger.addHandler(handler)
        logger.setLevel(min(logger.getEffectiveLevel(), handler.level))
        self._exit.callback(handler.close)
        self._exit.callback(logger.removeHandler, handler)
        self._exit.callback(logger.setLevel, before)
        self._exit.enter_context(watching(self._observe))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._exit.close()

    # ---- what happens -------------------------------------------------------------------------------

    def _observe(self, event: Event) -> None:
        if (event.stage, event.status) == ("lowering", "start"):
            self._begin()
        elif event.stage == "pass" and self.graphs:
            self._graph(event.data["name"], event.subject)
        elif (event.stage, self.requests) in (("request", "all"), ("failure", "failed")):
            self._request(event.subject)
        elif event.stage == "engine" and self.layers:
            self._layers(event.subject, event.data["segment"])
        elif event.stage == "report":
            self._report(event.subject)

    def _begin(self) -> None:
        self._current = self.folder / str(self._compiles)
        self._current.mkdir(exist_ok=True)
        self._compiles += 1
        self._passes, self._last_graph = 0, ""

    def _file(self, *parts: str) -> Path:
        assert self._current is not None
        path = self._current.joinpath(*parts)
        path.parent.mkdir(exist_ok=True)
        return path

    def _graph(self, name: str, graph_module: Any) -> None:
        """The graph, where the pass changed it."""
        text = str(graph_module.graph)
        self._passes += 1
        if text != self._last_graph:
            self._file("graphs", f"{self._passes - 1:02}-{name}.txt").write_text(
                text + "\n", encoding="utf-8"
            )
        self._last_graph = text

    def _request(self, request: EngineRequest) -> None:
        from trtcore.engine.request_file import write_request

        path = self._file("requests", f"{request.name}.request")
        try:
            write_request(request, path, weights=self.weights)
        except (TrtcoreError, ValueError) as error:
            path.with_suffix(".txt").write_text(
                f"this request cannot be written: {error}\n", encoding="utf-8"
            )

    def _layers(self, artifact: EngineArtifact, segment: str) -> None:
        layers = [
            {"name": one.name, "type": one.type, **_metadata(one.metadata)} for one in artifact.layers()
        ]
        text = json.dumps({"schema": 1, "engine": segment, "layers": layers}, indent=1)
        self._file("layers", f"{segment}.json").write_text(text + "\n", encoding="utf-8")

    def _report(self, report: Report) -> None:
        self._file("report.html").write_text(report.html(), encoding="utf-8")
        self._file("report.json").write_text(report.to_json() + "\n", encoding="utf-8")
        self._file("report.txt").write_text(report.text(verbose=True) + "\n", encoding="utf-8")


def _metadata(text: str) -> Mapping[str, Any]:
    try:
        found = json.loads(text)
    except ValueError:
        return {"node": text}
    return found if isinstance(found, dict) else {"node": text}
