"""Weight streaming: how much of the GPU's memory the weights of native engines may take; the rest stays on the host."""

from __future__ import annotations

import warnings
from typing import Any

import torch

from trtcore.errors import SettingsError
from trtcore.runtime.engine import Engine, engines_in
from trtcore.runtime.native.logic import NativeEngine


class weight_streaming:
    """A context in which the budget for weights on the current GPU can be set; at its end all weights are there again.

    Args:
        module: compiled with ``enable_weight_streaming=True``.

    On the reference runtime the weights are torch's tensors, and nothing is streamed: entering warns; the total is 0.

    Raises:
        SettingsError: an engine was built without weight streaming; a budget that is not between 0 and the total.

    Example:
        >>> with trtcore.runtime.weight_streaming(compiled) as streaming:  # doctest: +SKIP
        ...     streaming.device_budget = streaming.total_device_budget // 2
        ...     compiled(x)
    """

    def __init__(self, module: torch.fx.GraphModule) -> None:
        self._module = module
        self._engines: list[NativeEngine] = []
        self._sizes: list[int] = []

    def __enter__(self) -> weight_streaming:
        engines = engines_in(self._module)
        self._engines = [native for one in engines if (native := _native(one)) is not None]
        if len(self._engines) < len(engines) or not engines:
            warnings.warn(
                "weight streaming means nothing here: "
                + (
                    "the module runs on the reference runtime, whose weights are torch's tensors"
                    if engines
                    else "the module has no engine"
                ),
                UserWarning,
                stacklevel=2,
            )
        self._sizes = [one.streaming()[0] for one in self._engines]
        if self._engines and not any(self._sizes):
            raise SettingsError(
                "the module's engines stream no weights",
                advice="compile it with enable_weight_streaming=True",
            )
        return self

    def __exit__(self, *exception: object) -> None:
        if self._engines:
            self.device_budget = self.total_device_budget

    @property
    def total_device_budget(self) -> int:
        """Bytes of all weights that can be streamed: with this budget none is."""
        return sum(self._sizes)

    @property
    def device_budget(self) -> int:
        """Bytes of weights that are on the current GPU."""
        return sum(one.streaming()[1] for one in self._engines)

    @device_budget.setter
    def device_budget(self, budget: int) -> None:
        total = self.total_device_budget
        if isinstance(budget, bool) or not isinstance(budget, int) or not 0 <= budget <= total:
            raise SettingsError(f"device_budget={budget!r}: it must be an int from 0 to {total} (bytes)")
        for engine, size in zip(self._engines, self._sizes):
            engine.set_streaming_budget(budget * size // total if total else 0)

    def get_automatic_weight_streaming_budget(self) -> int:
        """Bytes that TensorRT takes for a good budget with the memory that is free now; sets nothing."""
        return sum(one.streaming()[2] for one in self._engines)


def _native(engine: Engine) -> Any:
    """The native runtime's part of an engine, opened; None on another runtime."""
    engine.open()
    opened = engine._opened
    return opened if isinstance(opened, NativeEngine) else None
