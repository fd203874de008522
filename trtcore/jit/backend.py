"""The torch.compile backend: ``torch.compile(model, backend="trtcore", options={...})``.

Dynamo hands over a torch-level graph whose placeholders are the model's parameters and buffers, the inputs,
and ints for dynamic sizes. It is traced to ATen on Dynamo's own FakeTensors, so that any new assumption about
a size becomes one of Dynamo's guards. Parameters and buffers become weights of the engines, which are built
again when a weight has changed (see `trtcore.jit.weights`).

What was compiled, and why, is in `reports`.
"""

from __future__ import annotations

import itertools
import re
import threading
import warnings
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

import torch
from torch.fx import Graph, GraphModule, Node
from torch.fx._lazy_graph_module import _LazyGraphModule

from trtcore.errors import ExportError, SettingsError
from trtcore.frontend.unlift import set_tensor
from trtcore.ir.program import InputSpec, Program, SymbolRange
from trtcore.ir.schema import normalise_arguments
from trtcore.ir.symbols import expression_of
from trtcore.jit.aliases import Outputs, mutated_placeholders
from trtcore.jit.weights import WeightWatch
from trtcore.settings import CompilationSettings

if TYPE_CHECKING:
    from trtcore.context import Observer
    from trtcore.report.data import Report
    from trtcore.runtime.module import CompiledModule

__all__ = ["GraphReport", "dynamo_backend", "reports"]

_GROWTH = 4


@dataclass(frozen=True)
class GraphReport:
    """One compile of one graph that torch.compile handed over.

    Attributes:
        graph: which graph, counted from 0 in this process. Graph breaks, and calls that Dynamo's guards refuse,
            make new graphs.
        reason: "new graph"; or why engines were built again, such as "fc.weight was changed in place".
        report: what `trtcore.compile` gives as ``.report``.
    """

    graph: int
    reason: str
    report: Report

    def __str__(self) -> str:
        return f"torch.compile graph {self.graph}: {self.reason}\n{self.report}"


def reports() -> tuple[GraphReport, ...]:
    """Every compile that ``torch.compile(backend="trtcore")`` made in this process, oldest first.

    The latest 1,000 are kept; ``torch._dynamo.reset()`` forgets them.
    """
    return tuple(_reports)


_reports: deque[GraphReport] = deque(maxlen=1000)
_numbers = itertools.count()


def dynamo_backend(
    gm: GraphModule, example_inputs: Sequence[Any], *, options: Mapping[str, Any] | None = None, **kwargs: Any
) -> Callable[..., Any]:
    """Compile a graph of Dynamo's. Found by torch through the ``torch_dynamo_backends`` entry point.

    A dynamic size that Dynamo does not bound is compiled for up to four times the size that came first,
    rounded up to a power of two; a larger one compiles again with a larger bound.
    ``torch._dynamo.mark_dynamic(x, dim, min=, max=)`` sets the bounds. A changed weight compiles again at the
    next call.

    Args:
        gm, example_inputs: from Dynamo.
        options: fields of ``CompilationSettings``, and ``observers`` as `trtcore.compile` takes them.

    Raises:
        SettingsError: an option that does not exist or has a wrong value.
        ExportError: gradients would be needed.
        TrtcoreError: as `trtcore.compile`. Dynamo wraps what is raised here in its ``BackendCompilerFailed``,
            which has our text, and the error itself as ``inner_exception``.
    """
    settings, observers = _settings({**dict(options or {}), **kwargs})
    _refuse_gradients(gm)
    _fix_floats_of_modules(gm)
    return _CompiledGraph(_to_aten(gm), list(example_inputs), settings, observers)


def _reset() -> None:
    _reports.clear()


dynamo_backend.reset = _reset  # type: ignore[attr-defined]  # torch._dynamo.reset calls it


def _settings(options: dict[str, Any]) -> tuple[CompilationSettings, tuple[Observer, ...]]:
    if "mode" in options:
        raise SettingsError(
            f"torch.compile(mode={options['mode']!r}) means nothing to the backend trtcore",
            advice="leave mode out, and give settings in options={...}",
        )
    observers = options.pop("observers", ())
    if not isinstance(observers, (list, tuple)) or not all(map(callable, observers)):
        raise SettingsError(f"observers={observers!r}: it must be a list of functions of one Event")
    return CompilationSettings.from_kwargs(**options), tuple(observers)


@dataclass(frozen=True)
class _Bound:
    """The sizes that a symbol was compiled for, and where a call's size is read from."""

    name: str
    place: _Place
    where: str
    low: int
    high: int


@dataclass(frozen=True)
class _Build:
    """One compile of the graph: for these very weights, and for sizes within bounds."""

    module: CompiledModule
    inputs: tuple[int, ...]
    watch: WeightWatch
    bounds: tuple[_Bound, ...]

    def obstacle(self, args: Sequence[Any], weights: Sequence[torch.Tensor]) -> str | None:
        """Why this build, which is for these weights, cannot take a call; None if it can."""
        for bound in self.bounds:
            size = _size(args, bound.place)
            if not bound.low <= size <= bound.high:
                return f"{bound.where} is {size}, outside of {bound.low}..{bound.high}"
        return self.watch.change(weights)


class _CompiledGraph:
    """What Dynamo calls. Compiles again when a weight has changed or a size is out of bounds.

    Dynamo may use one graph for several modules of one class: there is one build for each module's weights.
    Threads may call it at the same time.
    """

    def __init__(
        self,
        graph_module: GraphModule,
        example_inputs: Sequence[Any],
        settings: CompilationSettings,
        observers: Sequence[Observer] = (),
    ) -> None:
        self._source = graph_module
        self._settings = settings
        self._observers = observers
        self._number = next(_numbers)
        self._lock = threading.RLock()
        self._outputs = Outputs(graph_module)
        self._weights = _weight_places(graph_module, example_inputs)
        self._places = _symbol_places(graph_module)
        self._builds: tuple[_Build, ...] = ()
        self._build_for(example_inputs)

    def __call__(self, *args: Any) -> Any:
        build = self._build_for(args)
        with torch.no_grad():
            results = build.module(*[args[index] for index in build.inputs])
            return self._outputs.restore(args, results)

    def _build_for(self, args: Sequence[Any]) -> _Build:
        weights = [args[index] for index in self._weights]
        build, obstacle = self._find(args, weights)
        if build is not None and obstacle is None:
            return build
        with self._lock:
            build, obstacle = self._find(args, weights)
            if build is not None and obstacle is None:
                return build
            new = self._compile(args, weights, build, obstacle or self._reason())
            self._builds = (*(b for b in self._builds if b is not build and b.watch.alive()), new)
            return new

    def _find(self, args: Sequence[Any], weights: Sequence[torch.Tensor]) -> tuple[_Build | None, str | None]:
        """The build for these weights, if there is one, and what is against using it."""
        for build in self._builds:
            if build.watch.watches(weights):
                return build, build.obstacle(args, weights)
        return None, None

    def _reason(self) -> str:
        return "the graph is called with another module's weights" if self._builds else "new graph"

    def _compile(
        self, args: Sequence[Any], weights: Sequence[torch.Tensor], old: _Build | None, reason: str
    ) -> _Build:
        from trtcore.compiler import compile_program

        sizes = {name: _size(args, place) for name, place in self._places.items()}
        known = {bound.name: (bound.low, bound.high) for bound in old.bounds} if old is not None else {}
        placeholders = self._source.graph.find_nodes(op="placeholder")
        # Before anything is read: what changes while the engines are built is noticed at the next call.
        watch = WeightWatch(weights, [placeholders[index].meta["trtcore_source"] for index in self._weights])
        program, inputs = _program(
            self._source,
            args,
            self._weights,
            _symbol_ranges(placeholders, sizes, known),
            self._outputs.results,
        )
        program = replace(program, model_name=f"Graph{self._number}")
        module = compile_program(program, self._settings, observers=self._observers)
        assert module.report is not None
        _reports.append(GraphReport(self._number, reason, module.report))
        if module.report.backend is None:
            warnings.warn(
                "torch.compile(backend='trtcore'): the graph runs in torch, because no engine can be built: "
                + module.report.no_backend_reason,
                RuntimeWarning,
                stacklevel=2,
            )
        bounds = [
            _Bound(
                name, place, _where(placeholders, place), program.symbols[name].min, program.symbols[name].max
            )
            for name, place in self._places.items()
            if name in program.symbols
        ]
        return _Build(module, tuple(inputs), watch, tuple(bounds))


# --- capture ------------------------------------------------------------------------------------------------


def _refuse_gradients(gm: GraphModule) -> None:
    """Raise if an output of the graph would have a gradient function."""
    if not torch.is_grad_enabled():
        return
    (outputs,) = gm.graph.output_node().args
    if not any(_needs_gradient(node) for node in cast("Sequence[Any]", outputs)):
        return
    sources = [node for node in gm.graph.find_nodes(op="placeholder") if _requires_grad(node)]
    what = f"{_source_name(sources[0])} requires them" if sources else "the result requires them"
    raise ExportError(
        f"gradients are on and {what}, but engines have no backward pass",
        advice="call the model under torch.no_grad() or torch.inference_mode(), or use "
        "model.requires_grad_(False)",
    )


def _needs_gradient(node: Any) -> bool:
    return isinstance(node, Node) and node.op != "placeholder" and _requires_grad(node)


def _requires_grad(node: Node) -> bool:
    value = node.meta.get("example_value")
    return isinstance(value, torch.Tensor) and value.requires_grad


def _fix_floats_of_modules(gm: GraphModule) -> None:
    """With ``dynamic=True`` Dynamo makes inputs of the floats it meets, even of ``math.pi`` and ``self.scale``.

    Here those that are no arguments become constants again (under a guard), as ints on modules are: Dynamo
    starts the frame again, as it does for its own compiler.
    """
    from torch._dynamo.exc import TensorifyScalarRestartAnalysis
    from torch._dynamo.symbolic_convert import TensorifyState

    found = False
    for node in gm.graph.find_nodes(op="placeholder"):
        number = getattr(node.meta.get("example_value"), "item_memo", None)
        source = getattr(getattr(node.meta.get("grapharg"), "source", None), "base", None)
        if not isinstance(number, torch.SymFloat) or source is None:
            continue
        symbol = number.node._expr
        is_argument = re.fullmatch(r"L\['\w+'\](\[[^\]]+\])*", _source_text(source))
        if not is_argument and symbol.is_Symbol and not TensorifyState.should_specialize(symbol.name):
            TensorifyState.specialize(symbol.name)
            found = True
    if found:
        raise TensorifyScalarRestartAnalysis


def _to_aten(gm: GraphModule) -> GraphModule:
    """The graph at ATen level, traced on Dynamo's FakeTensors; placeholders stay in order."""
    from torch._subclasses.fake_tensor import FakeTensor
    from torch.fx.experimental.proxy_tensor import make_fx
    from torch.fx.traceback import preserve_node_meta

    placeholders = gm.graph.find_nodes(op="placeholder")
    values = [node.meta["example_value"] for node in placeholders]

    def run(*args: Any) -> Any:
        return torch.fx.Interpreter(gm).run(*args)

    # Autocast acts below the level of pre_dispatch: there its casts would be missing from the graph.
    whole_ops = not _uses_autocast(gm)
    # In the inputs' own fake mode, so that tensors which the graph makes are fake too.
    examples = (node.meta.get("example_value") for node in gm.graph.nodes)
    fake_mode = next((v.fake_mode for v in examples if isinstance(v, FakeTensor)), nullcontext())
    with torch.no_grad(), preserve_node_meta(), fake_mode:
        traced = make_fx(run, tracing_mode="real", pre_dispatch=whole_ops)(*values)
        _ask_for_sizes(traced)
    for node in list(traced.graph.nodes):
        if node.target is torch._C._set_grad_enabled:
            traced.graph.erase_node(node)  # there are no gradients here
    for node, source in zip(traced.graph.find_nodes(op="placeholder"), placeholders):
        node.meta.setdefault("val", source.meta["example_value"])
        node.meta["trtcore_source"] = _source_name(source)
        node.meta["trtcore_static"] = _is_static(source)
    for node in traced.graph.nodes:
        if "nn_module_stack" in node.meta:
            node.meta["nn_module_stack"] = _plain_stack(node.meta["nn_module_stack"])
    return traced


_SIZED = {
    torch.ops.aten._transformer_encoder_layer_fwd.default: ("src",),
    torch.ops.aten._native_multi_head_attention.default: ("query", "key", "value"),
}
"""Kernels whose last dim must be ``embed_dim``, and whose FakeTensors do not say so -> the inputs meant."""


def _ask_for_sizes(traced: GraphModule) -> None:
    """Let Dynamo guard on sizes that kernels need, as it does for those that ops ask for when they are traced."""
    for node in traced.graph.nodes:
        if node.target in _SIZED:
            given = normalise_arguments(node.target, node.args, node.kwargs)
            for name in _SIZED[node.target]:
                bool(given[name].meta["val"].shape[-1] == given["embed_dim"])


def _uses_autocast(gm: GraphModule) -> bool:
    return any(map(torch.is_autocast_enabled, ("cpu", "cuda"))) or any(
        node.target is torch.amp.autocast_mode._enter_autocast for node in gm.graph.nodes
    )


def _is_static(node: Node) -> bool:
    """Whether Dynamo marked the placeholder as a parameter, a buffer, or another tensor of a module."""
    return (node.meta.get("tensor_dict") or {}).get("_dynamo_static_input_type") is not None


def _source_name(node: Node) -> str:
    """``x`` for ``L['x']``, ``encoder.weight`` for a parameter of the model."""
    text = _source_text(getattr(node.meta.get("grapharg"), "source", None))
    if not text:
        return node.name
    parts = re.findall(r"(?:_modules|_parameters|_buffers)\['([^']+)'\]", text)
    if parts:
        return ".".join(parts)
    return re.sub(r"^L\['([^']+)'\]", r"\1", text)


def _source_text(source: Any) -> str:
    """Dynamo's expression for where a value came from; "" if there is none."""
    name = getattr(source, "name", None)
    text = name() if callable(name) else name
    return text if isinstance(text, str) else ""


def _plain_stack(stack: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    """Dynamo's module stack as torch.export writes it: ``(path below the model, class name)``."""
    plain = {}
    for key, (path, kind) in stack.items():
        names = re.findall(r"\['([^']+)'\]|\.(\w+)", re.sub(r"^L\['[^']*'\]", "", path))
        below = [a or b for a, b in names if b not in ("_modules", "_parameters", "_buffers")]
        name = kind if isinstance(kind, str) else f"{kind.__module__}.{kind.__qualname__}"
        plain[key] = (".".join(below), name)
    return plain


# --- program ------------------------------------------------------------------------------------------------


def _weight_places(gm: GraphModule, args: Sequence[Any]) -> list[int]:
    """Indices of the placeholders that become weights: static tensors that the graph does not change."""
    mutated = mutated_placeholders(gm)
    return [
        index
        for index, node in enumerate(gm.graph.find_nodes(op="placeholder"))
        if node.meta["trtcore_static"] and isinstance(args[index], torch.Tensor) and node not in mutated
    ]


def _program(
    gm: GraphModule,
    args: Sequence[Any],
    weights: Sequence[int],
    symbols: Mapping[str, SymbolRange],
    results: Sequence[Any],
) -> tuple[Program, list[int]]:
    """A Program that computes `results` of the traced graph, and which of Dynamo's arguments are its inputs."""
    root = torch.nn.Module()
    graph = Graph()
    copied: dict[Node, Node] = {}
    placeholders = gm.graph.find_nodes(op="placeholder")
    static = set(weights)
    inputs = [index for index in range(len(placeholders)) if index not in static]
    for index in inputs:
        node = placeholders[index]
        name = re.sub(r"\W+", "_", node.meta["trtcore_source"]).strip("_")
        copied[node] = graph.placeholder(name if name.isidentifier() else f"input_{name}")
        copied[node].target = copied[node].name  # fx made the name unique, and no keyword
        copied[node].meta = dict(node.meta)
    taken: dict[str, int] = {}
    for index in weights:
        node = placeholders[index]
        if not node.users:
            continue
        name = _attribute_name(node, taken)
        set_tensor(root, name, args[index])
        attribute = graph.create_node("get_attr", name, name=node.name)
        attribute.meta = dict(node.meta)
        copied[node] = attribute
    for node in gm.graph.nodes:
        if node.op in ("placeholder", "output"):
            continue
        if node.op == "get_attr":
            value = getattr(gm, cast(str, node.target))
            if isinstance(value, torch.Tensor):
                set_tensor(root, cast(str, node.target), value)
            else:
                root.add_module(cast(str, node.target), value)
        copied[node] = graph.node_copy(node, copied.__getitem__)
    graph.output(tuple(copied[item] if isinstance(item, Node) else item for item in results))
    graph.eliminate_dead_code()
    nodes = [copied[placeholders[index]] for index in inputs]
    program = Program(
        graph_module=_LazyGraphModule(root, graph),
        inputs=tuple(map(_input_spec, nodes)),
        in_spec=None,
        out_spec=None,
        arg_names=tuple(node.name for node in nodes),
        symbols=symbols,
    )
    return program, inputs


def _attribute_name(node: Node, taken: dict[str, int]) -> str:
    name = node.meta["trtcore_source"]
    if not re.fullmatch(r"[\w]+(\.[\w]+)*", name):
        name = node.name
    taken[name] = taken.get(name, 0) + 1
    return name if taken[name] == 1 else f"{name.replace('.', '_')}_{taken[name]}"


def _input_spec(node: Node) -> InputSpec:
    value: Any = node.meta["val"]
    name = node.meta["trtcore_source"]
    if type(value) is torch.SymInt:
        return InputSpec(name, node.name, "symint", value=value.node.expr)
    if isinstance(value, torch.Tensor):
        shape = tuple(expression_of(dim) for dim in value.shape)
        return InputSpec(name, node.name, "tensor", value.dtype, shape, value.device)
    return InputSpec(name, node.name, "constant", value=value)


def _symbol_ranges(
    nodes: Sequence[Node], sizes: Mapping[str, int], known: Mapping[str, tuple[int, int]]
) -> dict[str, SymbolRange]:
    """Ranges of the size symbols.

    Args:
        nodes: the placeholders.
        sizes: the symbols' values in the call that made this compile necessary.
        known: what an earlier compile was for, which stays allowed.
    """
    ranges: dict[str, SymbolRange] = {}
    for node in nodes:
        value: Any = node.meta["val"]
        for dim in value.shape if isinstance(value, torch.Tensor) else (value,):
            if type(dim) is torch.SymInt and dim.node.expr.is_Symbol:
                name = dim.node.expr.name
                ranges[name] = _symbol_range(dim, sizes.get(name, dim.node.hint), known.get(name))
    return ranges


def _symbol_range(dim: torch.SymInt, size: int, known: tuple[int, int] | None) -> SymbolRange:
    symbol = dim.node.expr
    interval = dim.node.shape_env.var_to_range[symbol]
    low = min(max(_finite(interval.lower, 1), 1), size)
    if known is not None and size <= known[1]:
        high = known[1]
    else:
        high = _finite(interval.upper, 1 << (_GROWTH * max(size, 1) - 1).bit_length())
    return SymbolRange(symbol.name, min(low, known[0]) if known is not None else low, size, max(high, size))


def _finite(bound: Any, otherwise: int) -> int:
    """A bound as an int; infinite ones, and what torch uses for "any size", are replaced."""
    value = int(bound) if bound.is_Integer else None
    return value if value is not None and abs(value) < torch.iinfo(torch.int32).max else otherwise


# --- calls --------------------------------------------------------------------------------------------------

_Place = tuple[int, int | None]


def _symbol_places(gm: GraphModule) -> dict[str, _Place]:
    """Where each symbol's value can be read from the arguments: ``(index, dimension)``, or an int itself."""
    places: dict[str, _Place] = {}
    for index, node in enumerate(gm.graph.find_nodes(op="placeholder")):
        value: Any = node.meta["val"]
        if type(value) is torch.SymInt and value.node.expr.is_Symbol:
            places[value.node.expr.name] = (index, None)
        elif isinstance(value, torch.Tensor):
            for dim, expression in enumerate(map(expression_of, value.shape)):
                if not isinstance(expression, int) and expression.is_Symbol:
                    places.setdefault(expression.name, (index, dim))
    return places


def _where(placeholders: Sequence[Node], place: _Place) -> str:
    """``x dimension 0``, or the name that Dynamo gives the int."""
    index, dim = place
    name = placeholders[index].meta["trtcore_source"]
    if dim is not None:
        return f"{name} dimension {dim}"
    return re.sub(r"\.size\(\)\[(\d+)\]$", r" dimension \1", name)


def _size(args: Sequence[Any], place: _Place) -> int:
    index, dim = place
    size = args[index] if dim is None else args[index].shape[dim]
    # While Dynamo compiles, sizes are SymInts, and int() would add the guard that they never change.
    return int(size.node.hint) if isinstance(size, torch.SymInt) else int(size)
