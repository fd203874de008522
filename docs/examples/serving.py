"""A small server: requests are batched into the engine's optimisation profile.

    pip install fastapi uvicorn
    MODEL=encoder.pt2 uvicorn serving:app

``POST /predict`` with ``{"rows": [[...], ...]}`` gives ``{"rows": [[...], ...]}``. `Batcher` needs no web framework,
and is what an own server would take from here.
"""

import asyncio
import os
import queue
import threading
import time
from concurrent.futures import Future
from types import TracebackType
from typing import Annotated, Any

import torch


class Batcher:
    """Puts requests together along their first dimension, and gives each its own rows back.

    One thread, with a stream of its own, calls the module; others submit. A batch is as large as the profile allows,
    and no request waits longer than `wait` for others.

    Args:
        module: what `trtcore.compile` or `trtcore.load` returned, of one tensor whose first dimension is dynamic.
        largest: the profile's largest first dimension.
        wait: seconds.
        device: where the module's inputs are; results come back on the CPU.

    Attributes:
        calls: how many batches there have been.
    """

    def __init__(self, module: Any, largest: int, wait: float = 0.002, device: str = "cuda") -> None:
        self._module, self._largest, self._wait, self._device = module, largest, wait, torch.device(device)
        self._requests: queue.Queue[tuple[torch.Tensor, Future[torch.Tensor]] | None] = queue.Queue()
        self._left: tuple[torch.Tensor, Future[torch.Tensor]] | None = None
        self._thread = threading.Thread(target=self._work, name="batcher", daemon=True)
        self.calls = 0
        self._thread.start()

    def submit(self, rows: torch.Tensor) -> Future[torch.Tensor]:
        """Queue a request; its result has as many rows.

        Raises:
            ValueError: more rows than the profile takes, or none.
        """
        if not 1 <= len(rows) <= self._largest:
            raise ValueError(f"a request has 1 to {self._largest} rows, not {len(rows)}")
        future: Future[torch.Tensor] = Future()
        self._requests.put((rows, future))
        return future

    def close(self) -> None:
        """Finish what is queued, and end the thread."""
        self._requests.put(None)
        self._thread.join()

    def __enter__(self) -> "Batcher":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _work(self) -> None:
        stream = torch.cuda.Stream(self._device) if self._device.type == "cuda" else None
        with torch.inference_mode(), torch.cuda.stream(stream):
            while (batch := self._next()) is not None:
                self._run(batch)

    def _next(self) -> list[tuple[torch.Tensor, Future[torch.Tensor]]] | None:
        """The next batch: waits for a first request, then a little for others that fit."""
        first = self._left or self._requests.get()
        self._left = None
        if first is None:
            return None
        batch, count, until = [first], len(first[0]), time.monotonic() + self._wait
        while count < self._largest:
            try:
                more = self._requests.get(timeout=max(0.0, until - time.monotonic()))
            except queue.Empty:
                break
            if more is None:
                self._requests.put(None)
                break
            if count + len(more[0]) > self._largest:
                self._left = more
                break
            batch.append(more)
            count += len(more[0])
        return batch

    def _run(self, batch: list[tuple[torch.Tensor, Future[torch.Tensor]]]) -> None:
        self.calls += 1
        try:
            given = torch.cat([rows for rows, _ in batch]).to(self._device, non_blocking=True)
            results = self._module(given).cpu().split([len(rows) for rows, _ in batch])
        except Exception as error:  # a request that is wrong is its sender's to hear of
            for _, future in batch:
                future.set_exception(error)
            return
        for (_, future), rows in zip(batch, results):
            future.set_result(rows)


def make_app(batcher: Batcher) -> Any:
    """The FastAPI application over a batcher."""
    from fastapi import Body, FastAPI, HTTPException

    app = FastAPI()
    Rows = Annotated[list[list[float]], Body(embed=True)]

    @app.post("/predict")
    async def predict(rows: Rows) -> dict[str, list[list[float]]]:
        try:
            future = batcher.submit(torch.tensor(rows))
            result = await asyncio.wrap_future(future)
        except Exception as error:
            raise HTTPException(422, str(error)) from None
        return {"rows": result.tolist()}

    return app


def __getattr__(name: str) -> Any:
    """`app`, made when uvicorn asks for it: the module in $MODEL, with the largest batch $LARGEST (64)."""
    if name != "app":
        raise AttributeError(name)
    import trtcore

    device = "cuda" if torch.cuda.is_available() else "cpu"
    return make_app(
        Batcher(trtcore.load(os.environ["MODEL"]), int(os.environ.get("LARGEST", "64")), device=device)
    )
