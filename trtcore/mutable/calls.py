"""The calls of a mutable module: which compiled module fits the model as it is now, and what a change makes of it."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.export import ExportedProgram
from torch.utils import _pytree as pytree

from trtcore.artifact.engine_file import EngineArtifact
from trtcore.backend.base import Backend
from trtcore.compiler import compile_program, make_context
from trtcore.engine.config import is_refittable
from trtcore.engine.refit import Donors
from trtcore.errors import InputError
from trtcore.frontend.export import trace
from trtcore.frontend.program import program_from_exported
from trtcore.ir.aliases import storage
from trtcore.ir.graphs import written_by
from trtcore.mutable.looking import Look, Looker, Same
from trtcore.refit import engines_of
from trtcore.report.data import Report
from trtcore.runtime.module import CompiledModule
from trtcore.runtime.weight_watch import WeightWatch
from trtcore.settings import CompilationSettings

KEPT = 8
"""Compiled modules of one mutable module, the latest used."""


class _Watched:
    """Tensors by name, and whether they are still those, with the values that they had."""

    def __init__(self, tensors: Mapping[str, torch.Tensor]) -> None:
        self._watch = WeightWatch(list(tensors.values()), list(tensors))
        self._names = tuple(tensors)

    def change(self, tensors: Mapping[str, torch.Tensor]) -> str | None:
        """What has changed, as a sentence; None for nothing."""
        now = [tensors[name] for name in self._names]
        if not self._watch.watches(now):
            return "a weight is another tensor"
        return self._watch.change(now)


class _Weights:
    """The weights of a build. Buffers of modules in training are watched one by one: the program may turn out to write
    to them."""

    def __init__(self, model: nn.Module, tensors: Mapping[str, torch.Tensor]) -> None:
        self._tensors = tensors
        alone = {name for name in tensors if model.get_submodule(name.rpartition(".")[0]).training}
        self._together = _Watched({name: one for name, one in tensors.items() if name not in alone})
        self._alone = {name: _Watched({name: tensors[name]}) for name in alone}

    def leave_out(self, name: str) -> torch.Tensor:
        """Watch a tensor no more."""
        del self._alone[name]
        return self._tensors[name]

    def change(self, tensors: Mapping[str, torch.Tensor]) -> str | None:
        """As `_Watched.change`."""
        changes = (one.change(tensors) for one in (self._together, *self._alone.values()))
        return next(filter(None, changes), None)


@dataclass
class _Build:
    """The model, captured and compiled in one state for calls of one kind.

    Attributes:
        structure: of the model.
        call: of calls; None where the compiled module's own check says what it takes.
        exported, inputs: the capture, and the inputs that it was for.
        written: buffers that the program writes to: what is in them is in the next call, too.
    """

    structure: Any
    call: Any
    exported: ExportedProgram
    inputs: tuple[Any, Any]
    written: Mapping[str, torch.Tensor]
    weights: _Weights
    loose: _Watched
    module: CompiledModule

    def takes(self, call: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        """Whether it is for such a call."""
        if self.call is not None:
            return bool(self.call == call)
        check = self.module._input_check
        if check is None:
            return False
        try:
            check.check(args, kwargs)
        except InputError:
            return False
        return True

    def change(self, look: Look) -> str | None:
        """Which weight is another one now."""
        for name, tensor in self.written.items():
            if look.tensors[name] is not tensor:
                return f"{name} is another tensor"
        return self.weights.change(look.tensors)


class Calls:
    """What a mutable module does when it is called. Threads may call at once; changes are the caller's to order.

    Attributes:
        model: the model.
        settings, arg_inputs, kwarg_inputs: those of the mutable module.
        spare: engines from a file, which captures take where they fit.
        report: of the latest compile or refit; None before the first.
        told: warnings that were given.
    """

    def __init__(
        self,
        model: nn.Module,
        settings: CompilationSettings,
        arg_inputs: Any = None,
        kwarg_inputs: Any = None,
    ) -> None:
        self.model, self.settings = model, settings
        self.arg_inputs, self.kwarg_inputs = arg_inputs, kwarg_inputs
        self.spare: list[EngineArtifact] = []
        self.report: Report | None = None
        self.told: set[str] = set()
        self._builds: list[_Build] = []
        self._looker = Looker()
        self._lock = threading.RLock()
        self._settled: CompilationSettings | None = None

    def expect(self, arg_inputs: Any, kwarg_inputs: Any) -> None:
        """Other ranges for the next captures."""
        with self._lock:
            self.arg_inputs, self.kwarg_inputs = arg_inputs, kwarg_inputs
            self._builds = [build for build in self._builds if build.call is not None]

    def engines(self) -> list[EngineArtifact]:
        """All engines that there are, each once."""
        found = [engine for build in self._builds for engine in engines_of(build.module)]
        return list({engine.manifest.id: engine for engine in (*found, *self.spare)}.values())

    def __call__(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return self._module_for(args, kwargs)(*args, **kwargs)

    def _module_for(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> CompiledModule:
        look = self._looker.look_at(self.model)
        call = _call_of(args, kwargs)
        with self._lock:
            build = self._find(look, call, args, kwargs)
            if build is None:
                build = self._captured(look, call, args, kwargs)
            elif build.change(look) is not None:
                build = self._refitted(build, look)
            self._builds = [build, *(one for one in self._builds if one is not build)][:KEPT]
            return build.module

    def _find(self, look: Look, call: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> _Build | None:
        """The build for the model as it is, whatever its weights are."""
        for build in list(self._builds):
            if build.structure != look.structure or not build.takes(call, args, kwargs):
                continue
            if build.loose.change(look.loose) is None:
                return build
            self._builds.remove(build)  # the capture holds such a tensor as it was
            self.spare += engines_of(build.module)
        return None

    # ---- making one -----------------------------------------------------------------------------------------

    def _captured(self, look: Look, call: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> _Build:
        loose = _Watched(look.loose)
        for ranges in (True, False):
            inputs = (self.arg_inputs, self.kwarg_inputs) if ranges else (args, kwargs)
            if ranges and self.arg_inputs is None and self.kwarg_inputs is None:
                continue
            exported = trace(self.model, arg_inputs=inputs[0], kwarg_inputs=inputs[1])
            build = self._compiled(look, None if ranges else call, exported, inputs, loose, self.engines())
            if build.takes(call, args, kwargs):
                break
            self._builds.append(build)  # for other calls
        self.spare = []
        return build

    def _refitted(self, old: _Build, look: Look) -> _Build:
        """The capture with the model's weights as they are, in the old engines where these take them."""
        for known in (old.exported.state_dict, old.exported.constants):
            for name in known:
                if name in look.tensors:
                    known[name] = look.tensors[name]
        build = self._compiled(
            look, old.call, old.exported, old.inputs, old.loose, engines_of(old.module), old.module
        )
        self._builds.remove(old)
        return build

    def _compiled(
        self,
        look: Look,
        call: Any,
        exported: ExportedProgram,
        inputs: tuple[Any, Any],
        loose: _Watched,
        engines: Sequence[EngineArtifact],
        old: CompiledModule | None = None,
    ) -> _Build:
        program = program_from_exported(exported, *inputs)
        names = written_buffers(program.graph_module)
        written = {name: look.tensors[name] for name in names if name in look.tensors}
        # Before anything is read: what changes while engines are built is noticed at the next call.
        weights = _Weights(self.model, {n: t for n, t in look.tensors.items() if n not in written})
        donors = Donors([one for one in engines if one.has_snapshot])
        with warnings.catch_warnings():
            if old is not None:
                warnings.simplefilter("ignore", UserWarning)  # said when it was compiled first
            module = compile_program(
                program, self._chosen(), donors=donors, again=old.recipe if old is not None else None
            )
        self.report = module.report
        for name in written_buffers(module) - written.keys():  # statistics of normalisations in training
            written[name] = weights.leave_out(name)
        return _Build(look.structure, call, exported, inputs, written, weights, loose, module)

    def _chosen(self) -> CompilationSettings:
        """The settings, with plans that take other weights where the backend builds such."""
        if self._settled is None:
            self._settled = self.settings
            if "immutable_weights" not in self.settings.explicit:
                ctx, wanted = make_context(self.settings), self.settings.replace(immutable_weights=False)
                backend: Backend | None = ctx.backend
                if (
                    backend is not None
                    and ctx.target is not None
                    and is_refittable(backend, wanted, ctx.target)
                ):
                    self._settled = wanted
        return self._settled


def written_buffers(module: torch.fx.GraphModule) -> set[str]:
    """The names of the weights that a captured graph writes to, itself or through views."""
    memory = {
        storage(source)
        for node in module.graph.nodes
        for source in written_by(node)
        if storage(source) is not None
    }
    return {str(node.target) for node in module.graph.find_nodes(op="get_attr") if storage(node) in memory}


def _call_of(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Equal for calls that one capture is for."""
    leaves, spec = pytree.tree_flatten((args, dict(sorted(kwargs.items()))))
    return tuple(map(_leaf, leaves)), spec, torch.get_default_dtype()


def _leaf(leaf: Any) -> Any:
    if isinstance(leaf, torch.Tensor):
        return (
            type(leaf),
            leaf.dtype,
            leaf.device,
            leaf.shape,
            leaf.stride() if leaf.layout is torch.strided else None,
        )
    if isinstance(leaf, float):
        return repr(leaf)
    return (type(leaf), leaf) if isinstance(leaf, (bool, int, str, type(None))) else Same(leaf)
