"""The module that a compile returns: called exactly as the model was, and strict about what it is given."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar, cast

import torch
from torch.fx.graph import _PyTreeInfo
from torch.utils import _pytree as pytree

from trtcore.errors import InputError
from trtcore.ir.torch_private import (
    has_global_hooks,
    has_global_pre_hooks,
    is_traced_by_jit,
    keep_sources,
    ops_are_watched,
)
from trtcore.report.data import Report
from trtcore.runtime.calling import FlatCodeGen
from trtcore.runtime.devices import tell_other_device
from trtcore.runtime.direct import DirectForward
from trtcore.runtime.first_calls import FirstCalls
from trtcore.runtime.input_check import InputCheck
from trtcore.runtime.kept_weights import OTHER_WEIGHTS, KeptWeights, fixed
from trtcore.runtime.pickling import ModuleState, restored, state_of
from trtcore.runtime.plans import keep_plans_plain, plans_of
from trtcore.runtime.recipe import Recipe
from trtcore.runtime.requirement import add_requirement
from trtcore.runtime.sharing import Sharing

if TYPE_CHECKING:
    from trtcore.ir.program import Program


class CompiledModule(torch.fx.GraphModule):
    """Engines and torch ops in one fx graph, with the model's own signature, inputs and outputs.

    Made by `assemble`. Wrong inputs raise ``InputError`` before anything runs; nothing is cast or clamped.

    Attributes:
        report: what the compile did; an empty one where a file has none.
        recipe: what it was made with, for other weights; None where it cannot take any.
    """

    report: Report = Report()
    recipe: Recipe | None = None
    _direct: ClassVar[DirectForward]
    _input_check: InputCheck | None = None
    _sharing: Sharing | None = None
    _kept: KeptWeights | None = None
    _usual: Callable[[Sequence[Any]], bool] | None = None
    _first: FirstCalls | None = None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Check the arguments and run; by way of ``torch.nn.Module`` only where hooks or a trace want to know."""
        state = self.__dict__  # an attribute of a torch.nn.Module takes three times as long
        usual = None if kwargs or _watched(state) or ops_are_watched() else state["_usual"]
        if usual is not None and usual(args):
            try:
                return type(self)._direct.of_checked(self, state, state["_input_check"])(self, *args)
            except RuntimeError as error:
                tell_other_device(self, args, kwargs, error)
                raise
        if torch.is_autocast_enabled("cpu") or torch.is_autocast_enabled("cuda"):
            with captured_dtypes():
                return self(*args, **kwargs)
        check = self._input_check
        if torch.compiler.is_dynamo_compiling():
            list(kwargs)  # Dynamo guards the order of a dict that is looked at, and of no other
            return super().__call__(*args, **kwargs)
        if check is None:
            return super().__call__(*args, **kwargs)
        if _watched(state) or torch.compiler.is_compiling():
            return self._watched_call(check, args, kwargs)
        values, first = check.check(args, kwargs), self._first
        self.refuse_changed_weights()
        if self._sharing is not None:
            self._sharing.check(self, *check.named_leaves(values))
        elif first is None and self._kept is None:
            self._usual = check.usual
        if ops_are_watched():
            return self.forward(*args, **kwargs)
        try:
            results = self._direct.of(self)(self, *args, **kwargs)
        except RuntimeError as error:
            tell_other_device(self, args, kwargs, error)
            raise
        if first is not None:
            first.look((args, kwargs), results)
            self._first = first if first.left else None
        return results

    def __setattr__(self, name: str, value: Any) -> None:
        """As for any module, but for what an engine has and nothing else reads: it would be left aside without a word.

        So ``torch.func.functional_call`` with other weights is refused, too.
        """
        recipe = self.recipe
        known = isinstance(value, torch.Tensor) and recipe is not None and name in recipe.weights
        if known and name not in self._parameters and name not in self._buffers:
            raise InputError(fixed(name), advice=OTHER_WEIGHTS)
        super().__setattr__(name, value)

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: Any,
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        """Nothing is loaded where a weight would be another in torch than in the engines."""
        kept = () if self._kept is None else self._kept.names
        own = {**dict(self.named_parameters()), **dict(self.named_buffers())}
        changed = [name for name in kept if _is_other(state_dict.get(prefix + name), own[name])]
        if changed:
            error_msgs += [f"{fixed(name)}. What to do: {OTHER_WEIGHTS}" for name in changed]
            state_dict.update({prefix + name: value for name, value in own.items()})
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> CompiledModule:
        """``.to(device)`` and its like: the weights that ops in torch read are elsewhere, and the same.

        Raises:
            InputError: `fn` gives another dtype: engines compute in those that were captured.
        """
        self.refuse_changed_weights()
        for dtype in {one.dtype for one in (*self.parameters(), *self.buffers())}:
            given = fn(torch.zeros(1, dtype=dtype)).dtype
            if given is not dtype:
                raise InputError(
                    f"a compiled module computes in the dtypes that were captured, and this would make {given} of what "
                    f"is {dtype}",
                    advice="change the model (model.half(), model.to(dtype)) and compile it again; "
                    "enable_autocast=True compiles a float32 model for another precision",
                )
        module = cast(CompiledModule, super()._apply(fn, recurse))  # type: ignore[no-untyped-call]
        if self._kept is not None:
            self._kept.moved(self)
        return module

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """As of any module.

        Raises:
            InputError: a weight that engines have as well is not what it was: what is written would be neither.
        """
        self.refuse_changed_weights()
        return super().state_dict(*args, **kwargs)

    def refuse_changed_weights(self) -> None:
        """Raise for a weight that is another in torch than in the engines; nothing is made from such a module."""
        if self._kept is not None:
            self._kept.check(self)

    def _watched_call(self, check: InputCheck, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A call that hooks or a trace want to see: as any module's, with the check behind the last pre-hook."""
        tracer = tracer_of(args, kwargs)
        if tracer is not None:
            path = tracer.path_of_module(self)
            return tracer.create_proxy("call_module", path, args, kwargs)
        if self._check_is_hook():
            return super().__call__(*args, **kwargs)
        check(self, args, kwargs)
        return super().__call__(*args, **kwargs)

    def _check_is_hook(self) -> bool:
        """Let the check be a pre-hook, the last one, while there are others: these may change the arguments."""
        with _hook_lock:
            hooks, check = self._forward_pre_hooks, self._input_check
            others = [key for key, hook in hooks.items() if hook is not check]
            globally = has_global_pre_hooks()
            last = next(reversed(hooks.values()), None)
            if (others or globally) and last is check:
                return True
            for key in [key for key, hook in hooks.items() if hook is check]:
                del hooks[key]
                self._forward_pre_hooks_with_kwargs.pop(key, None)
            if others or globally:
                self.register_forward_pre_hook(check, with_kwargs=True)  # type: ignore[arg-type]
            return bool(others or globally)

    def recompile(self) -> Any:
        """Generate the code anew after a change of the graph, as any GraphModule does."""
        code = super().recompile()
        kind = type(self)  # fx makes a class per module, for its forward
        kind._direct = DirectForward(kind.forward, self._code)
        if "__call__" in vars(kind):  # fx wraps every call, for the sake of tracebacks
            del kind.__call__
        keep_sources(self)
        return code

    def __reduce__(self) -> Any:
        """Pickles hold the graph as data, the engines' files and the check of the arguments."""
        return rebuilt, (state_of(self, self._input_check, self.report, self.recipe),)

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.__reduce__()

    def __deepcopy__(self, memo: dict[int, Any]) -> CompiledModule:
        self.refuse_changed_weights()
        for plan in plans_of(self).values():
            memo[id(plan)] = plan  # immutable, and what keeps the engine alive: shared, not copied
        for value in self.__dict__.values():
            if isinstance(value, pytree.TreeSpec):
                memo[id(value)] = value
        copied = cast(CompiledModule, super().__deepcopy__(memo))
        copied._finish(self.report, self._input_check)
        copied.recipe = self.recipe
        copied.train(self.training)
        return copied

    def __copy__(self) -> CompiledModule:
        self.refuse_changed_weights()
        copied = CompiledModule(self, self.graph, class_name=type(self).__name__)
        copied.meta = self.meta
        copied._finish(self.report, self._input_check)
        copied.recipe = self.recipe
        copied.train(self.training)
        return copied

    def _finish(self, report: Report, check: InputCheck | None) -> None:
        keep_plans_plain(self)
        keep_sources(self)
        self.report = report
        self._input_check = check
        self._sharing = Sharing.of_graph(self)
        self._kept = KeptWeights.of_graph(self)
        if self._kept is not None:
            self.register_load_state_dict_post_hook(settle_weights)  # type: ignore[no-untyped-call]
        self._usual = None
        self._first = FirstCalls.of(report)
        for key in [key for key, hook in self._forward_pre_hooks.items() if isinstance(hook, InputCheck)]:
            del self._forward_pre_hooks[key]  # a copy's, of the check that it was copied with
            self._forward_pre_hooks_with_kwargs.pop(key, None)


def settle_weights(module: CompiledModule, *_: Any) -> None:
    """The weights that ops in torch read have been loaded or moved, and are what they were."""
    if module._kept is not None:
        module._kept.settle(module)


def _is_other(given: Any, own: torch.Tensor) -> bool:
    if not isinstance(given, torch.Tensor):
        return False
    with torch.no_grad():
        return given.shape != own.shape or not torch.equal(given.to(own.device, own.dtype), own)


@contextmanager
def captured_dtypes() -> Iterator[None]:
    """Without autocast, which would cast again what was captured with its casts, or without any."""
    with torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
        yield


def rebuilt(state: ModuleState) -> CompiledModule:
    """A compiled module from what its pickle holds."""
    module = module_of(restored(state), state.class_name, Report.from_json(state.report), state.check)
    module.recipe = state.recipe
    return module.train(state.training)


def module_of(
    graph_module: torch.fx.GraphModule, name: str, report: Report, check: InputCheck | None
) -> CompiledModule:
    """A hybrid graph that has its calling convention already, as a compiled module."""
    module = CompiledModule(graph_module, graph_module.graph, class_name=name)
    module._finish(report, check)
    return module.eval()


_module_call = torch.nn.Module.__call__  # traces put another in its place
_hook_lock = threading.Lock()


def tracer_of(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The tracer of torch.fx whose proxies are among the arguments, or None."""
    for leaf in pytree.tree_leaves((args, kwargs)):
        if isinstance(leaf, torch.fx.Proxy):
            return leaf.tracer
    return None


_is_dynamo_compiling = torch.compiler.is_dynamo_compiling


def _watched(state: dict[str, Any]) -> Any:
    """Something true where somebody besides ourselves wants to see a module's call. It is asked before every call.

    Args:
        state: the module's attributes.
    """
    return (
        _is_dynamo_compiling()
        or torch.nn.Module.__call__ is not _module_call
        or state["_forward_pre_hooks"]
        or state["_forward_hooks"]
        or state["_backward_hooks"]
        or state["_backward_pre_hooks"]
        or is_traced_by_jit()
        or has_global_hooks()
    )


def assemble(
    program: Program, graph_module: torch.fx.GraphModule, report: Report | None = None
) -> CompiledModule:
    """Give a compiled graph the calling convention of the program it came from.

    Args:
        program: what was compiled.
        graph_module: one placeholder per input of `program`, in order, and the flat tuple of its outputs.
        report: becomes ``.report``.
    """
    placeholders = sum(node.op == "placeholder" for node in graph_module.graph.nodes)
    if placeholders != len(program.inputs):
        raise AssertionError(f"{placeholders} placeholders for {len(program.inputs)} inputs")
    module = CompiledModule(graph_module, graph_module.graph, class_name=f"Compiled{program.model_name}")
    module.meta.update(graph_module.meta)
    check = None
    if program.in_spec is not None:
        info = _PyTreeInfo(list(program.arg_names), program.in_spec, program.out_spec)
        check = InputCheck.of_program(program)
        add_requirement(module, check)
        module.graph.set_codegen(FlatCodeGen(info, program.parameters, check))
        module.recompile()
    module._finish(report or Report(), check)
    return module.eval()
