"""The debugger by its old arguments."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import trtcore
from trtcore_contrib_torch_tensorrt._defaults import DEBUG_LOGGING_DIR
from trtcore_contrib_torch_tensorrt._told import NotHereError

__all__ = ["Debugger"]

_LEVELS = {
    "debug": "debug",
    "info": "info",
    "warning": "warning",
    "error": "error",
    "internal_errors": "critical",
}


class Debugger:
    """Writes what happens in the compiles of a block into a folder: see `trtcore.Debugger` for what is in it.

    Args:
        log_level: "debug", "info", "warning", "error", "internal_errors" or "graphs" (debug).
        capture_fx_graph_before, capture_fx_graph_after: names of lowering passes; any of them writes the graphs after
            all passes.
        save_engine_profile: not here; see the error.
        logging_dir: the folder.
        save_layer_info: whether engines' layers are written.
        **kwargs: what that frontend has beside these: an error where it asks for something.

    Raises:
        NotHereError: save_engine_profile=True, or a recording of TensorRT's API.
    """

    def __init__(
        self,
        log_level: str = "debug",
        capture_fx_graph_before: Sequence[str] | None = None,
        capture_fx_graph_after: Sequence[str] | None = None,
        save_engine_profile: bool = False,
        profile_format: str = "perfetto",
        engine_builder_monitor: bool = True,
        logging_dir: str | os.PathLike[str] = DEBUG_LOGGING_DIR,
        save_layer_info: bool = False,
        **kwargs: Any,
    ) -> None:
        if save_engine_profile:
            raise NotHereError(
                "Debugger(save_engine_profile=True): times per layer are measured at calls",
                advice="with trtcore.runtime.profile(module) as p: module(x)",
            )
        asked = [name for name, value in kwargs.items() if value]
        if asked:
            raise NotHereError(
                f"Debugger({asked[0]}=...) is not here", advice="trtcore.debug.replay builds a request again"
            )
        self._inner = trtcore.Debugger(
            logging_dir,
            log_level="debug" if log_level == "graphs" else _LEVELS.get(log_level, log_level),
            graphs=bool(capture_fx_graph_before or capture_fx_graph_after),
            layers=save_layer_info,
        )

    def __enter__(self) -> Debugger:
        self._inner.__enter__()
        return self

    def __exit__(self, *exception: Any) -> None:
        self._inner.__exit__(*exception)
