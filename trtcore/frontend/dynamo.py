"""The torch.compile backend: ``torch.compile(model, backend="trtcore", options={...})``.

Dynamo hands over a torch-level graph whose placeholders are the model's parameters and buffers, the inputs,
and ints for dynamic sizes. It is traced to ATen on Dynamo's own FakeTensors, so that any new assumption about
a size becomes one of Dynamo's guards. Parameters and buffers become weights of the engines.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import torch
from torch.fx import Graph, GraphModule, Node

from trtcore.errors import ExportError
from trtcore.frontend.program import InputSpec, Program, SymbolRange
from trtcore.frontend.unlift import set_tensor
from trtcore.settings import CompilationSettings
from trtcore.symbols import expression_of

_GROWTH = 4


def dynamo_backend(
    gm: GraphModule, example_inputs: Sequence[Any], *, options: Mapping[str, Any] | None = None, **kwargs: Any
) -> Callable[..., Any]:
    """Compile a graph of Dynamo's. Found by torch through the ``torch_dynamo_backends`` entry point.

    A dynamic size that Dynamo does not bound is compiled for up to four times the size that came first,
    rounded up to a power of two; a larger one compiles again with a larger bound.
    ``torch._dynamo.mark_dynamic(x, dim, min=, max=)`` sets the bounds. A weight that was changed in place
    (``load_state_dict``, an optimizer) compiles again at the next call; ``.data`` writes are not seen.

    Args:
        gm, example_inputs: from Dynamo.
        options: fields of ``CompilationSettings``.

    Raises:
        SettingsError: an option that does not exist or has a wrong value.
        ExportError: gradients would be needed.
    """
    settings = CompilationSettings.from_kwargs(**{**dict(options or {}), **kwargs})
    _refuse_gradients(gm)
    return _CompiledGraph(_to_aten(gm), list(example_inputs), settings)


class _CompiledGraph:
    """What Dynamo calls: the compiled graph, compiled again when a weight or a size outgrows it."""

    def __init__(
        self, graph_module: GraphModule, example_inputs: Sequence[Any], settings: CompilationSettings
    ) -> None:
        self._source = graph_module
        self._settings = settings
        self._lock = threading.RLock()
        self._weights = _weight_places(graph_module, example_inputs)
        self._compile(example_inputs, {})

    def __call__(self, *args: Any) -> Any:
        if self._is_stale(args):
            with self._lock:
                if self._is_stale(args):
                    self._compile(args, self._sizes(args))
        module, inputs = self._compiled
        return module(*[args[index] for index in inputs])

    def _is_stale(self, args: Sequence[Any]) -> bool:
        if any(_version(args[index]) != version for index, version in self._versions):
            return True
        return any(not low <= _size(args, place) <= high for place, low, high in self._bounds)

    def _sizes(self, args: Sequence[Any]) -> dict[str, int]:
        return {name: _size(args, place) for name, place in self._places.items()}

    def _compile(self, args: Sequence[Any], sizes: Mapping[str, int]) -> None:
        from trtcore.compiler import compile_program

        program, inputs = _program(self._source, args, self._weights, sizes)
        self._places = _symbol_places(self._source)
        self._bounds = [
            (place, program.symbols[name].min, program.symbols[name].max)
            for name, place in self._places.items()
            if name in program.symbols
        ]
        self._versions = [(index, _version(args[index])) for index in self._weights]
        self._compiled = compile_program(program, self._settings), inputs

    @property
    def report(self) -> Any:
        """Report of the latest compile."""
        return self._compiled[0].report


# --- capture ------------------------------------------------------------------------------------------------


def _refuse_gradients(gm: GraphModule) -> None:
    if not torch.is_grad_enabled():
        return
    for node in gm.graph.find_nodes(op="placeholder"):
        value = node.meta.get("example_value")
        if isinstance(value, torch.Tensor) and value.requires_grad:
            raise ExportError(
                f"gradients are on and {_source_name(node)} requires them, but engines have no backward pass",
                advice="call the model under torch.no_grad() or torch.inference_mode(), or use "
                "model.requires_grad_(False)",
            )


def _to_aten(gm: GraphModule) -> GraphModule:
    """The graph at ATen level, traced on Dynamo's FakeTensors; placeholders stay in order."""
    from torch.fx.experimental.proxy_tensor import make_fx
    from torch.fx.traceback import preserve_node_meta

    placeholders = gm.graph.find_nodes(op="placeholder")
    values = [node.meta["example_value"] for node in placeholders]

    def run(*args: Any) -> Any:
        return torch.fx.Interpreter(gm).run(*args)

    with torch.no_grad(), preserve_node_meta():
        traced = make_fx(run, tracing_mode="real", pre_dispatch=True)(*values)
    for node, source in zip(traced.graph.find_nodes(op="placeholder"), placeholders):
        node.meta.setdefault("val", source.meta["example_value"])
        node.meta["trtcore_source"] = _source_name(source)
        node.meta["trtcore_static"] = _is_static(source)
    for node in traced.graph.nodes:
        if "nn_module_stack" in node.meta:
            node.meta["nn_module_stack"] = _plain_stack(node.meta["nn_module_stack"])
    return traced


def _is_static(node: Node) -> bool:
    """Whether Dynamo marked the placeholder as a parameter, a buffer, or another tensor of a module."""
    return (node.meta.get("tensor_dict") or {}).get("_dynamo_static_input_type") is not None


def _source_name(node: Node) -> str:
    """``x`` for ``L['x']``, ``encoder.weight`` for a parameter of the model."""
    source = getattr(node.meta.get("grapharg"), "source", None)
    name = getattr(source, "name", None)
    text = name() if callable(name) else name
    if not isinstance(text, str):
        return node.name
    parts = re.findall(r"(?:_modules|_parameters|_buffers)\['([^']+)'\]", text)
    if parts:
        return ".".join(parts)
    return re.sub(r"^L\['([^']+)'\]", r"\1", text)


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
    mutated = _mutated_placeholders(gm)
    return [
        index
        for index, node in enumerate(gm.graph.find_nodes(op="placeholder"))
        if node.meta["trtcore_static"] and isinstance(args[index], torch.Tensor) and node not in mutated
    ]


def _mutated_placeholders(gm: GraphModule) -> set[Node]:
    """Placeholders that are written, themselves or through a view."""
    roots: dict[Node, set[Node]] = {}
    mutated: set[Node] = set()
    for node in gm.graph.nodes:
        if node.op == "placeholder":
            roots[node] = {node}
            continue
        schema = getattr(node.target, "_schema", None)
        if schema is None:
            # A higher-order op or getitem: what comes out may be a view of anything that went in.
            roots[node] = set().union(*(roots.get(source, set()) for source in node.all_input_nodes))
            continue
        aliased: set[Node] = set()
        for position, argument in enumerate(schema.arguments):
            if argument.alias_info is None:
                continue
            value = node.kwargs.get(argument.name, node.args[position] if position < len(node.args) else None)
            for source in (
                [value] if isinstance(value, Node) else value if isinstance(value, (list, tuple)) else []
            ):
                found = roots.get(source, set())
                aliased |= found
                if argument.alias_info.is_write:
                    mutated |= found
        # reshape, contiguous and the like have no alias annotation, but may return their input.
        if _is_composite(node.target):
            aliased = aliased.union(*(roots.get(source, set()) for source in node.all_input_nodes))
        roots[node] = aliased
    return mutated


def _is_composite(target: Any) -> bool:
    check = getattr(target, "_can_decompose", None)
    return bool(check is not None and check())


def _program(
    gm: GraphModule, args: Sequence[Any], weights: Sequence[int], sizes: Mapping[str, int]
) -> tuple[Program, list[int]]:
    """A Program of the traced graph, and which of Dynamo's arguments are its inputs."""
    root = torch.nn.Module()
    graph = Graph()
    copied: dict[Node, Node] = {}
    placeholders = gm.graph.find_nodes(op="placeholder")
    static = set(weights)
    inputs = [index for index in range(len(placeholders)) if index not in static]
    for index in inputs:
        copied[placeholders[index]] = graph.node_copy(placeholders[index])
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
        if node.op == "placeholder":
            continue
        if node.op == "get_attr":
            value = getattr(gm, cast(str, node.target))
            if isinstance(value, torch.Tensor):
                set_tensor(root, cast(str, node.target), value)
            else:
                root.add_module(cast(str, node.target), value)
        copied[node] = graph.node_copy(node, copied.__getitem__)
        if node.op == "output":
            _flatten_output(copied[node])
    nodes = [placeholders[index] for index in inputs]
    program = Program(
        graph_module=GraphModule(root, graph),
        inputs=tuple(map(_input_spec, nodes)),
        in_spec=None,
        out_spec=None,
        arg_names=tuple(node.name for node in nodes),
        symbols=_symbol_ranges(nodes, sizes),
        model_name="graph",
    )
    return program, inputs


def _flatten_output(output: Node) -> None:
    (value,) = output.args
    output.args = (tuple(value) if isinstance(value, (list, tuple)) else (value,),)


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


def _symbol_ranges(nodes: Sequence[Node], sizes: Mapping[str, int]) -> dict[str, SymbolRange]:
    """Ranges of the size symbols; `sizes` are their values in the call that made this compile necessary."""
    ranges: dict[str, SymbolRange] = {}
    for node in nodes:
        value: Any = node.meta["val"]
        for dim in value.shape if isinstance(value, torch.Tensor) else (value,):
            if type(dim) is torch.SymInt and dim.node.expr.is_Symbol:
                name = dim.node.expr.name
                ranges[name] = _symbol_range(dim, sizes.get(name, dim.node.hint))
    return ranges


def _symbol_range(dim: torch.SymInt, size: int) -> SymbolRange:
    symbol = dim.node.expr
    interval = dim.node.shape_env.var_to_range[symbol]
    low = min(max(_finite(interval.lower, 1), 1), size)
    high = _finite(interval.upper, 1 << (_GROWTH * max(size, 1) - 1).bit_length())
    return SymbolRange(symbol.name, low, size, max(high, size))


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


def _size(args: Sequence[Any], place: _Place) -> int:
    index, dim = place
    return int(args[index] if dim is None else args[index].shape[dim])


def _version(tensor: torch.Tensor) -> tuple[int, int]:
    """Changes when the tensor is written in place or replaced; inference tensors have no version."""
    version = 0 if tensor.is_inference() else tensor._version
    return tensor.data_ptr(), version
