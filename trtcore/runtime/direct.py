"""Eager calls of a hybrid graph that hand tensors to engines directly, not by way of torch's dispatcher.

The dispatcher boxes the inputs, the plan and the manifest of every ``trtcore::execute_engine``, and wraps the outputs
anew: as long as a small engine runs itself, for an op that has one kernel. Traces, modes, profilers, subclasses of
``torch.Tensor`` and functorch need the op and get it; nobody else can tell the difference.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from operator import attrgetter
from typing import Any

import torch

from trtcore.ir.torch_private import compiled_forward, ops_are_watched
from trtcore.runtime.conditions import CONDITION
from trtcore.runtime.op import are_plain, execute, execute_engine

_OP_CALL = re.compile(r"^(\s*\w+(?: : [^=\n]+)? = )torch\.ops\.(\w+)\.(\w+)\.(\w+)(?=\()", re.MULTILINE)


class DirectForward:
    """A hybrid graph's generated code with engines called directly and ops looked up once; made when first wanted.

    Args:
        forward: what fx generated.
        source: its source.
    """

    def __init__(self, forward: Callable[..., Any], source: str) -> None:
        self._forward, self._source = forward, source
        self._made: Callable[..., Any] | None = None

    def of(self, module: torch.nn.Module) -> Callable[..., Any]:
        """What to call with the module and the arguments: this code, or the module's own forward where that is
        another by now or where somebody watches ops."""
        current: Callable[..., Any] = type(module).forward
        if current is not self._forward or "forward" in module.__dict__:
            return _own_forward
        if ops_are_watched():
            return current
        made = self._made
        if made is None:
            made = self._made = self._make()
        return made

    def _make(self) -> Callable[..., Any]:
        names: dict[str, Any] = dict(getattr(self._forward, "__globals__", {}))

        def bind(match: re.Match[str]) -> str:
            start, *path = match.groups()
            name = "_trtcore_" + "_".join(path)
            op = attrgetter(".".join(path))(torch.ops)
            names[name] = call_engine if op is execute_engine else op
            return start + name

        source = _OP_CALL.sub(bind, CONDITION.sub("", self._source))
        if call_engine not in names.values():
            return self._forward
        return compiled_forward(source, names)


def _own_forward(module: torch.nn.Module, *args: Any, **kwargs: Any) -> Any:
    return module.forward(*args, **kwargs)


def call_engine(
    inputs: list[torch.Tensor], sizes: list[int], plan: torch.Tensor, manifest: str
) -> list[torch.Tensor]:
    """`execute_engine` for plain tensors; the op itself for what the dispatcher would unwrap or materialise."""
    if (
        not are_plain(inputs) or torch.compiler.is_compiling()
    ):  # the latter in a frame that Dynamo found by itself
        return execute_engine(inputs, sizes, plan, manifest)  # type: ignore[no-any-return]
    return execute(inputs, sizes, plan, manifest)
