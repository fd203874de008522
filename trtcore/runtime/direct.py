"""Eager calls of a hybrid graph that hand tensors to engines directly, not by way of torch's dispatcher.

The dispatcher boxes the inputs, the plan and the manifest of every ``trtcore::execute_engine``, and wraps the outputs
anew: as long as a small engine runs itself, for an op that has one kernel. Traces, modes, profilers, subclasses of
``torch.Tensor`` and functorch need the op and get it; nobody else can tell the difference.
"""

from __future__ import annotations

import re
import weakref
from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any

import torch

from trtcore.artifact.manifest import EngineManifest
from trtcore.ir.graphs import mutates
from trtcore.ir.torch_private import compiled_forward, keep_source
from trtcore.runtime.conditions import CONDITION
from trtcore.runtime.engine import resolve
from trtcore.runtime.input_check import InputCheck
from trtcore.runtime.op import are_plain, execute, execute_engine
from trtcore.runtime.requirement import REQUIREMENT
from trtcore.runtime.usual import is_static

Given = tuple[torch.dtype, "tuple[int, ...] | None"]
"""dtype and shape (None where it varies) of an argument that `accepts` has taken."""

_PLAN = re.compile(r"^(\s*\w+ = )self\.(\w+)\.plan\b", re.MULTILINE)
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
        self._made_checked: Callable[..., Any] | None = None

    def of(self, module: torch.nn.Module) -> Callable[..., Any]:
        """What to call with the module and the arguments: this code, or the module's own forward where that is
        another by now."""
        if type(module).forward is not self._forward or "forward" in module.__dict__:
            return _own_forward
        made = self._made
        if made is None:
            made = self._made = self._make([])
        return made

    def of_checked(
        self, module: torch.fx.GraphModule, state: dict[str, Any], check: InputCheck
    ) -> Callable[..., Any]:
        """As `of`, for calls whose arguments `check.usual` has taken, where nobody traces or watches.

        Args:
            state: the module's attributes.
        """
        if type(module).forward is not self._forward or "forward" in state:
            return _own_forward
        made = self._made_checked
        if made is None:
            made = self._made_checked = self._make(_given_to_engines(module.graph, check.given()))
        return made

    def _make(self, given: Sequence[Sequence[Given] | None]) -> Callable[..., Any]:
        """The code; of each engine what is known of its inputs before every call, or None."""
        names: dict[str, Any] = dict(getattr(self._forward, "__globals__", {}))
        engines: list[Any] = []

        def bind(match: re.Match[str]) -> str:
            start, *path = match.groups()
            name = "_trtcore_" + "_".join(path)
            op = attrgetter(".".join(path))(torch.ops)
            if op is execute_engine:
                name = f"{name}_{len(names)}"
                known = given[len(engines)] if len(engines) < len(given) else None
                op = engine_call() if known is None else checked_engine_call(known)
                engines.append(op)
            names[name] = op
            return start + name

        source = _OP_CALL.sub(bind, REQUIREMENT.sub("", CONDITION.sub("", self._source)))
        if not engines:
            return self._forward
        source = _PLAN.sub(r"\1self._modules['\2'].__dict__['plan']", source)
        made: Callable[..., Any] = compiled_forward(source, names)
        keep_source(made)
        return made


def _own_forward(module: torch.nn.Module, *args: Any, **kwargs: Any) -> Any:
    return module.forward(*args, **kwargs)


def _given_to_engines(graph: torch.fx.Graph, given: Sequence[Given]) -> list[Sequence[Given] | None]:
    """Of each engine what is known of all its inputs, if they are placeholders that are as they were given."""
    placeholders = graph.find_nodes(op="placeholder")
    if len(placeholders) != len(given) or any(mutates(user) for node in placeholders for user in node.users):
        return []
    known = dict(zip(placeholders, given))
    calls = [node for node in graph.nodes if node.target is execute_engine]
    return [
        [known[source] for source in call.args[0]] if all(one in known for one in call.args[0]) else None
        for call in calls
    ]


def checked_engine_call(given: Sequence[Given]) -> Callable[..., list[torch.Tensor]]:
    """As `engine_call`, where something is known of all inputs before each call."""
    known: Callable[[], Any] = _no_engine
    otherwise = engine_call()

    def call(
        inputs: list[torch.Tensor], sizes: list[int], plan: torch.Tensor, manifest: str
    ) -> list[torch.Tensor]:
        nonlocal known
        engine = known()
        if engine is not None and engine.last_plan() is plan:
            usual: list[torch.Tensor] | None = engine.fast_checked(inputs, sizes)
            if usual is not None:
                return usual
        outputs = otherwise(inputs, sizes, plan, manifest)
        if engine is None and are_plain(inputs):
            found = resolve(manifest, plan)
            if _are_those_of(found.manifest, given):
                known = weakref.ref(found)
        return outputs

    return call


def _are_those_of(manifest: EngineManifest, given: Sequence[Given]) -> bool:
    """Whether inputs that are known to be so are right for an engine."""
    static = is_static(manifest)
    return len(given) == len(manifest.inputs) and all(
        dtype is binding.dtype and (not static or shape == tuple(binding.shape))
        for (dtype, shape), binding in zip(given, manifest.inputs)
    )


def engine_call() -> Callable[..., list[torch.Tensor]]:
    """`execute_engine` for one place in a graph: remembers the engine, and asks it first for its usual call.

    The op itself is for what the dispatcher would unwrap or materialise, and for frames that Dynamo found by itself.
    """
    known: Callable[[], Any] = _no_engine

    def call(
        inputs: list[torch.Tensor], sizes: list[int], plan: torch.Tensor, manifest: str
    ) -> list[torch.Tensor]:
        nonlocal known
        if _is_compiling():
            return execute_engine(inputs, sizes, plan, manifest)  # type: ignore[no-any-return]
        engine = known()
        if engine is not None and engine.last_plan() is plan:
            usual: list[torch.Tensor] | None = engine.fast(inputs, sizes)
            if usual is not None:
                return usual
        if not are_plain(inputs):
            return execute_engine(inputs, sizes, plan, manifest)  # type: ignore[no-any-return]
        outputs = execute(inputs, sizes, plan, manifest)
        known = weakref.ref(resolve(manifest, plan))
        return outputs

    return call


_is_compiling = torch.compiler.is_compiling


def _no_engine() -> None:
    """Before the first call."""
