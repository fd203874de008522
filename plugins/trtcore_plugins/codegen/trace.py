"""From functions and fx nodes to programs."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch.fx import Graph, Node

from trtcore_plugins.codegen.calls import Call, HomeDevice, Ref, Size, Spec, map_references
from trtcore_plugins.codegen.domain import Step, find_domain
from trtcore_plugins.codegen.program import Program, ProgramError, encode
from trtcore_plugins.codegen.rules import MAY_ALIAS, POINTWISE, REDUCTIONS, ROW_NORMS, VIEWS, Unsupported
from trtcore_plugins.codegen.source import scalars
from trtcore_plugins.torch_private import decompositions, python_dispatcher

_DROPPED = ("layout", "pin_memory", "non_blocking")


def program_of(function: Callable[..., Any], *inputs: torch.Tensor) -> Program:
    """The program of a function of tensors that returns a tensor or several.

    Args:
        function: written in torch ops; what the tables do not know is decomposed.
        inputs: examples. Their dims of size 1 are dims of size 1; other sizes are free.

    Raises:
        Unsupported: it is not one kernel; says why.
    """
    from torch.fx.experimental.proxy_tensor import make_fx

    # One example given twice would be traced as one input.
    inputs = tuple(map(_alike, inputs))
    with torch.no_grad():
        traced = make_fx(lambda *args: _flat(function(*args)), tracing_mode="fake", pre_dispatch=True)(
            *inputs
        )
    traced.graph.eliminate_dead_code()
    expand(traced.graph)
    outputs = next(node for node in reversed(traced.graph.nodes) if node.op == "output").args[0]
    nodes = [node for node in traced.graph.nodes if node.op == "call_function"]
    placeholders = [node for node in traced.graph.nodes if node.op == "placeholder"]
    return assemble(nodes, outputs, placeholders)[0]


def _flat(result: Any) -> Any:
    return tuple(result) if isinstance(result, (list, tuple)) else (result,)


def _alike(x: Any) -> Any:
    """Another tensor of the same shape, strides and dtype."""
    if not isinstance(x, torch.Tensor):
        return x
    return torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device=x.device)


def known(node: Node) -> bool:
    """Whether the tables know a node's op."""
    return any(node.target in table for table in (POINTWISE, REDUCTIONS, ROW_NORMS, VIEWS))


def expand(graph: Graph) -> None:
    """Decompose, in place, the nodes of a graph that the tables do not know and torch knows how to decompose."""
    for node in list(graph.nodes):
        if node.op == "call_function" and node.target is not operator.getitem and not known(node):
            pieces = decomposed(node)
            if pieces is not None:
                paste(graph, node, pieces)


def decomposed(node: Node) -> Graph | None:
    """A node as a graph of ops that the tables know; None if torch has no such decomposition.

    The node's arguments are the graph's placeholders, in the order of ``node.all_input_nodes``.
    """
    from torch.fx.experimental.proxy_tensor import make_fx

    target: Any = node.target
    if not isinstance(target, torch._ops.OpOverload) or target._schema.is_mutable:
        return None
    if torch.Tag.nondeterministic_seeded in target.tags:
        return None
    sources = node.all_input_nodes
    values: list[Any] = [source.meta.get("val") for source in sources]
    mode = next((one.fake_mode for one in values if hasattr(one, "fake_mode")), None)
    table: dict[Any, Callable[..., Any]] = {
        op: function for op, function in decompositions().items() if op not in _TABLES
    }

    def call(*given: Any) -> Any:
        env = dict(zip(sources, given))
        args, kwargs = torch.fx.map_arg((node.args, dict(node.kwargs)), lambda one: env[one])
        return _flat(target(*args, **kwargs))

    def trace(function: Callable[..., Any]) -> Graph:
        return make_fx(function, decomposition_table=table, _allow_non_fake_inputs=True)(*values).graph

    try:
        with mode or nullcontext(), python_dispatcher(), torch.no_grad():
            values = list(map(_alike, values))  # nodes pasted from one trace share their values
            graph = trace(call)
            if any(one.op == "call_function" and _writes(one) for one in graph.nodes):
                graph = trace(torch.func.functionalize(call, remove="mutations_and_views"))
    except Exception:  # a decomposition that fails here is none
        return None
    graph.eliminate_dead_code()
    calls = [one for one in graph.nodes if one.op in ("call_function", "get_attr")]
    if not calls or not all(known(one) or one.target is operator.getitem for one in calls):
        return None
    return graph


def _writes(node: Node) -> bool:
    return bool(getattr(getattr(node.target, "_schema", None), "is_mutable", False))


_TABLES = frozenset({*POINTWISE, *REDUCTIONS, *ROW_NORMS, *VIEWS})


def paste(graph: Graph, node: Node, pieces: Graph) -> list[Node]:
    """Put a decomposition in a node's place; returns the new nodes."""
    env: dict[Node, Node] = dict(
        zip((one for one in pieces.nodes if one.op == "placeholder"), node.all_input_nodes)
    )
    made: list[Node] = []
    results: Any = ()
    with graph.inserting_before(node):
        for one in pieces.nodes:
            if one.op == "output":
                results = torch.fx.map_arg(one.args[0], lambda n: env[n])
            elif one.op != "placeholder":
                env[one] = graph.node_copy(one, lambda n: env[n])
                env[one].meta = {**node.meta, "val": one.meta.get("val")}
                env[one].meta.pop("tensor_meta", None)
                made.append(env[one])
    if isinstance(node.meta.get("val"), (tuple, list)):
        for user in list(node.users):
            user.replace_all_uses_with(results[user.args[1]])
            graph.erase_node(user)
    else:
        node.replace_all_uses_with(results[0])
    graph.erase_node(node)
    return made


def assemble(
    nodes: Sequence[Node], outputs: Sequence[Node], inputs: Sequence[Node] | None = None
) -> tuple[Program, list[Node], list[Node]]:
    """The program of a group of nodes.

    Args:
        nodes: calls of ops in the tables, and getitems of their results, in order; with FakeTensors.
        outputs: those whose values are wanted.
        inputs: tensors from outside, in the order wanted; found if None.

    Returns:
        the program, and the nodes of its inputs and of its sizes.

    Raises:
        Unsupported: it is not one kernel; says why.
    """
    return _Assembler(nodes, inputs).assemble(outputs)


class _Assembler:
    def __init__(self, nodes: Sequence[Node], inputs: Sequence[Node] | None) -> None:
        self.nodes = nodes
        inside = set(nodes)
        outside = dict.fromkeys(one for node in nodes for one in node.all_input_nodes if one not in inside)
        self.sizes = [one for one in outside if isinstance(one.meta.get("val"), (int, torch.SymInt))]
        found = [one for one in outside if isinstance(one.meta.get("val"), torch.Tensor)]
        if len(found) + len(self.sizes) < len(outside):
            raise Unsupported("an operand that is neither a tensor nor an int")
        self.inputs = list(inputs) if inputs is not None else found
        self.number: dict[Node, Any] = {node: Ref(at) for at, node in enumerate(self.inputs)}
        self.number.update((node, Size(at)) for at, node in enumerate(self.sizes))
        self.values: list[torch.Tensor] = [node.meta["val"] for node in self.inputs]
        self.steps: list[Step] = []
        self.several: dict[Node, list[Ref]] = {}

    def assemble(self, outputs: Sequence[Node]) -> tuple[Program, list[Node], list[Node]]:
        for node in self.nodes:
            if node.target is operator.getitem:
                self.number[node] = self.several[node.args[0]][node.args[1]]  # type: ignore[index]
            else:
                self._step(node)
        if not self.inputs:
            raise Unsupported("no tensor comes in")
        self._check_tensors()
        results = [self._output(node) for node in outputs]
        domain = find_domain([tuple(map(_size, v.shape)) for v in self.values], self.steps, results)
        specs = [Spec(value.dtype, axes) for value, axes in zip(self.values, domain.axes)]
        calls = tuple(
            Call(
                str(step.op),
                step.args,
                tuple(sorted(step.kwargs.items())),
                tuple(specs[n] for n in step.results),
            )
            for step in self.steps
        )
        program = Program(
            tuple(specs[: len(self.inputs)]),
            calls,
            tuple(results),
            domain.rank,
            domain.reduced,
            len(self.sizes),
        )
        try:
            program = Program.from_text(program.text)
        except ProgramError as error:
            raise Unsupported(str(error)) from error
        scalars(program)
        return program, self.inputs, self.sizes

    def _output(self, node: Node) -> int:
        if node in self.inputs:
            raise Unsupported("a result that is an input")
        producer = node.args[0] if node.target is operator.getitem else node
        if producer.target in MAY_ALIAS:  # type: ignore[union-attr]
            raise Unsupported("a result that is a view")
        return int(self.number[node].index)

    def _step(self, node: Node) -> None:
        if not known(node):
            raise Unsupported(f"generated kernels have no rule for {node.target}")
        value = node.meta.get("val")
        results: list[Any] = list(value) if isinstance(value, (list, tuple)) else [value]
        if not all(isinstance(one, torch.Tensor) for one in results):
            raise Unsupported(f"{node.target} has a result that is no tensor")
        first = len(self.values)
        numbers = tuple(range(first, first + len(results)))
        self.values.extend(results)
        args = tuple(self._argument(argument) for argument in node.args)
        kwargs = {
            name: self._keyword(name, argument)
            for name, argument in node.kwargs.items()
            if name not in _DROPPED
        }
        self.steps.append(Step(node.target, args, kwargs, numbers))
        if isinstance(value, (list, tuple)):
            self.several[node] = [Ref(number) for number in numbers]
        else:
            self.number[node] = Ref(first)

    def _keyword(self, name: str, argument: Any) -> Any:
        if name == "device" and argument is not None:
            if torch.device(argument).type != self.values[0].device.type:
                raise Unsupported("a copy to another device")
            return HomeDevice()
        return self._argument(argument)

    def _argument(self, argument: Any) -> Any:
        if isinstance(argument, Node):
            if argument not in self.number:
                raise Unsupported("a result that is used whole")
            return self.number[argument]
        if isinstance(argument, (list, tuple)):
            return tuple(self._argument(one) for one in argument)
        if isinstance(argument, torch.SymInt):
            raise Unsupported("a size that is not a node of the graph")
        try:
            encode(argument)
        except ProgramError as error:
            raise Unsupported(str(error)) from error
        return argument

    def _check_tensors(self) -> None:
        device = self.values[0].device
        for value in self.values:
            if value.layout is not torch.strided or value.dtype.is_complex:
                raise Unsupported(f"a {value.layout} tensor of {value.dtype}")
            if value.device != device and value.dim():
                raise Unsupported("tensors on several devices")
            try:
                encode(value.dtype)
            except ProgramError:
                raise Unsupported(f"a tensor of {value.dtype}") from None
        for value in self.values[: len(self.inputs)]:
            if value.device != device:
                raise Unsupported("tensors on several devices")


def _size(size: Any) -> Any:
    """A size to compare: an int, or the expression of a symbolic one."""
    if isinstance(size, torch.SymInt):
        expression = size.node.expr
        return int(expression) if expression.is_Integer else expression
    return int(size)


__all__ = ["assemble", "decomposed", "expand", "known", "map_references", "paste", "program_of"]
