"""From an ExportedProgram to a flat graph: weights become attributes, mutations ``copy_`` nodes.

``ExportedProgram.module()`` does that too, but deep-copies, adds guards as nodes and takes a multiple of the time.
Here the graph is copied once and every weight stays the tensor object it was. Nothing but facts about the graph is
looked at: what a user asks for beside it is `trtcore.frontend.program`'s.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, OutputKind
from torch.fx import Graph, GraphModule, Node
from torch.utils import _pytree as pytree

from trtcore.errors import ArtifactError, ExportError
from trtcore.ir.aliases import find_unsaid
from trtcore.ir.attribute_names import plain_attribute_names
from trtcore.ir.autocast import cast_as_captured
from trtcore.ir.expressions import to_text
from trtcore.ir.graphs import asserted_conditions, module_of, mutates, set_attribute
from trtcore.ir.guards import Guard, SizeText, input_sources, parse_guards
from trtcore.ir.inputs import input_name, leaf_paths
from trtcore.ir.layouts import layouts_of, seen_in_memory
from trtcore.ir.program import InputSpec, Program
from trtcore.ir.provenance import describe
from trtcore.ir.ranges import InputRange, asserted_bounds, data_ranges, symbol_ranges
from trtcore.ir.signature import dict_order_matters, parameters_of
from trtcore.ir.symbols import expression_of
from trtcore.ir.torch_private import (
    expression,
    guards_code,
    is_derivative_call,
    is_differentiated,
)

_LIFTED_KINDS = (InputKind.PARAMETER, InputKind.BUFFER, InputKind.CONSTANT_TENSOR)
_MUTATION_KINDS = (
    OutputKind.BUFFER_MUTATION,
    OutputKind.USER_INPUT_MUTATION,
    *([OutputKind.PARAMETER_MUTATION] if hasattr(OutputKind, "PARAMETER_MUTATION") else []),
)


def program_of(ep: ExportedProgram) -> Program:
    """The Program of an ExportedProgram, with the ranges and the usual sizes that `ep` itself has.

    `ep` is not changed, and its weights are shared, not copied.

    Raises:
        InputError: a dimension has no upper bound.
        ExportError: `ep` holds something that can't be compiled (script objects, effect tokens).
    """
    return with_ranges(flat_program(ep), ep)


def flat_program(ep: ExportedProgram) -> Program:
    """The Program of an ExportedProgram, without ranges yet (`with_ranges`).

    Raises:
        ExportError: `ep` holds something that can't be compiled (script objects, effect tokens).
    """
    in_spec = ep.call_spec.in_spec
    assert in_spec is not None
    if (node := derivatives_in(ep)) is not None:
        raise ExportError(
            "the program holds what torch.func.grad or its kin differentiate, which torch.export has made a constant",
            where=describe(node),
            advice="give the nn.Module to trtcore.compile or trtcore.dynamo.trace, which capture it in another way",
        )
    arg_names = argument_names(ep)
    graph_module = unlifted_module(ep)
    cast_as_captured(graph_module)
    paths = leaf_paths(in_spec)
    placeholders = graph_module.graph.find_nodes(op="placeholder")
    specs = tuple(map(_input_spec, (input_name(path, arg_names) for path in paths), placeholders))
    if any(map(mutates, graph_module.graph.nodes)):
        find_unsaid(graph_module.graph)
    return Program(
        graph_module=graph_module,
        inputs=_with_layouts(specs, placeholders, graph_module.graph, layouts_of(ep)),
        in_spec=in_spec,
        out_spec=ep.call_spec.out_spec,
        arg_names=tuple(arg_names),
        parameters=parameters_of(ep, arg_names),
        dict_order_matters=dict_order_matters(ep),
        guards=_guards(ep, specs, guards_code(ep)),
        model_name=_model_name(ep),
    )


def guards_of(ep: ExportedProgram, code: Sequence[str] | None = None) -> tuple[Guard, ...]:
    """The conditions on sizes that an ExportedProgram was captured under; or those in `code`, some of its own text."""
    assert ep.call_spec.in_spec is not None
    names = argument_names(ep)
    paths = (input_name(path, names) for path in leaf_paths(ep.call_spec.in_spec))
    specs = tuple(map(_input_spec, paths, user_placeholders(ep)))
    return _guards(ep, specs, guards_code(ep) if code is None else code)


def user_placeholders(ep: ExportedProgram) -> list[Node]:
    """The placeholders of the user's inputs, in order; not those of weights."""
    nodes = ep.graph.find_nodes(op="placeholder")
    return [n for n, spec in zip(nodes, ep.graph_signature.input_specs) if spec.kind is InputKind.USER_INPUT]


def derivatives_in(ep: ExportedProgram) -> Node | None:
    """A node of a program that belongs to a derivative (``torch.func.grad``), of which torch.export lost the rest."""
    for node in ep.graph.nodes:
        value = node.meta.get("val")
        if is_derivative_call(node.target) or (isinstance(value, torch.Tensor) and is_differentiated(value)):
            return node  # type: ignore[no-any-return]
    return None


def _guards(ep: ExportedProgram, specs: Sequence[InputSpec], code: Sequence[str]) -> tuple[Guard, ...]:
    assert ep.call_spec.in_spec is not None
    sources = input_sources(leaf_paths(ep.call_spec.in_spec), argument_names(ep))
    return parse_guards(code, sources, _size_text(specs))


def _size_text(specs: Sequence[InputSpec]) -> SizeText:
    def text(index: int, dim: int | None) -> str:
        spec = specs[index]
        if dim is not None and spec.shape is not None:
            return to_text(spec.shape[dim])
        if dim is None and spec.kind != "tensor":
            return to_text(spec.value)
        raise ArtifactError(f"it reads input {spec.name} otherwise than as a size")

    return text


def with_ranges(
    program: Program, ep: ExportedProgram, asked: Sequence[InputRange | None] | None = None
) -> Program:
    """`program` with the range of every size symbol: that of `ep`, cut by what was asked for per input.

    Raises:
        InputError: a dimension has no upper bound; what was asked for leaves the range of `ep`, or contradicts itself.
    """
    placeholders = program.graph_module.graph.find_nodes(op="placeholder")
    wanted = [None] * len(program.inputs) if asked is None else asked
    symbols = symbol_ranges(program.inputs, placeholders, ep.range_constraints, wanted)
    asserted = asserted_bounds(asserted_conditions(program.graph_module.graph))
    return replace(program, symbols=symbols, data_sizes=data_ranges(ep.range_constraints, symbols, asserted))


# --- the graph ----------------------------------------------------------------------------------------------


def unlifted_module(ep: ExportedProgram) -> GraphModule:
    """The graph of `ep`, copied once, with its weights as attributes and its mutations as ``copy_`` nodes.

    A weight of a tensor subclass (torchao's) of which the graph reads the plain tensors inside is these.
    """
    root = torch.nn.Module()
    graph = Graph()
    copied: dict[Node, Node] = {}
    copier = _Copier(graph, root, _is_plain_region)
    lifted = _copy_placeholders(ep, graph, root, copied)
    parts: dict[Node, tuple[str, torch.Tensor]] = {}
    for node, target in lifted:
        if node.users and all(map(_reads_part, node.users)):
            parts[node] = target, _lifted_tensor(ep, target)
        elif node.users:
            attribute = graph.create_node("get_attr", target, name=node.name)
            attribute.meta = dict(node.meta)
            copied[node] = attribute
    for node in ep.graph.nodes:
        if node.op == "output":
            outputs = _copy_mutations(ep, graph, node, copied)
            graph.output(outputs).meta = dict(node.meta)
        elif _reads_part(node) and node.args[0] in parts:
            _copy_part(node, graph, root, copied, parts)
        elif node.op != "placeholder":
            copier.copy(node, ep.graph_module, copied)
    plain_attribute_names(root, graph)
    return module_of(graph, root, _model_name(ep))


def _copy_placeholders(
    ep: ExportedProgram, graph: Graph, root: torch.nn.Module, copied: dict[Node, Node]
) -> list[tuple[Node, str]]:
    """Copy the user's placeholders, put the lifted tensors on `root`; the lifted nodes with their names."""
    lifted = []
    placeholders = [node for node in ep.graph.nodes if node.op == "placeholder"]
    for node, spec in zip(placeholders, ep.graph_signature.input_specs):
        if spec.kind is InputKind.USER_INPUT:
            new = graph.create_node("placeholder", node.name, name=node.name, type_expr=node.type)
            new.meta = dict(node.meta)
            copied[node] = new
        elif spec.kind in _LIFTED_KINDS:
            assert spec.target is not None
            if not (node.users and all(map(_reads_part, node.users))):
                set_tensor(root, spec.target, _lifted_tensor(ep, spec.target))
            lifted.append((node, spec.target))
        elif spec.kind is InputKind.CUSTOM_OBJ:
            raise ExportError(
                f"the exported program holds the script object {spec.target!r} "
                f"({type(ep.constants.get(str(spec.target))).__name__}), which is not supported",
                advice="take the custom class out of forward, or compile the submodules around it",
            )
        else:
            raise ExportError(
                f"the exported program has an input of kind {spec.kind.name} ({node.name}), "
                "which is not supported",
                advice="compile the program that torch.export.export returned, before run_decompositions()",
            )
    return lifted


def _reads_part(node: Node) -> bool:
    """Whether a node reads a tensor inside of a tensor subclass, as torch.export writes it."""
    return node.op == "call_function" and str(node.target) == "export.access_subclass_inner_tensor.default"


def _copy_part(
    node: Node,
    graph: Graph,
    root: torch.nn.Module,
    copied: dict[Node, Node],
    parts: dict[Node, tuple[str, torch.Tensor]],
) -> None:
    """A tensor inside of a weight, as an attribute; a subclass inside of it waits for those who read inside of that."""
    whole, name = node.args[0], str(node.args[1])
    assert isinstance(whole, Node)
    target, tensor = parts[whole]
    part, target = getattr(tensor, name), f"{target}_{name}"
    if node.users and all(map(_reads_part, node.users)):
        parts[node] = target, part
        return
    set_tensor(root, target, part)
    copied[node] = graph.create_node("get_attr", target, name=node.name)
    copied[node].meta = dict(node.meta)


def _lifted_tensor(ep: ExportedProgram, target: str) -> torch.Tensor:
    tensor = ep.state_dict.get(target)
    if tensor is None:
        tensor = ep.constants.get(target)
    if not isinstance(tensor, torch.Tensor):
        raise ExportError(f"the exported program has no tensor for its own weight {target!r}")
    return tensor


def set_tensor(root: torch.nn.Module, name: str, tensor: torch.Tensor) -> None:
    """Put a tensor at a dotted name below `root`, making plain containers on the way."""
    *parents, last = name.split(".")
    module = root
    for parent in parents:
        child = module._modules.get(parent)
        if child is None:
            child = torch.nn.Module()
            module._modules[parent] = child
        module = child
    if isinstance(tensor, torch.nn.Parameter):
        module._parameters[last] = tensor
    else:
        module.register_buffer(last, tensor)


@dataclass(frozen=True)
class _Copier:
    """Copies nodes into a graph of its own.

    Attributes:
        graph: where they go.
        root: what the copies of get_attr nodes read.
        is_plain: whether a node is a region whose body takes its place.
    """

    graph: Graph
    root: torch.nn.Module
    is_plain: Callable[[Node], bool]

    def copy(self, node: Node, source: torch.nn.Module, copied: dict[Node, Any]) -> None:
        """Copy a node of a graph that reads `source`; `copied` has what its arguments became, and then it, too."""
        if node.op == "get_attr":
            if node.users and all(map(self.is_plain, node.users)):
                return  # the body of regions that are written out where they are called
            copied[node] = self.graph.node_copy(node)
            copied[node].target = _copy_attribute(source, self.root, cast(str, node.target))
        elif self.is_plain(node):
            self._write_out(node, source, copied)
        else:
            copied[node] = self.graph.node_copy(node, copied.__getitem__)

    def _write_out(self, region: Node, source: torch.nn.Module, copied: dict[Node, Any]) -> None:
        index = next(i for i, argument in enumerate(region.args) if isinstance(argument, Node))
        body_node, *operands = region.args[index:]
        assert isinstance(body_node, Node)
        body = getattr(source, cast(str, body_node.target))
        inner: dict[Node, Any] = {
            placeholder: copied[operand] if isinstance(operand, Node) else operand
            for placeholder, operand in zip((n for n in body.graph.nodes if n.op == "placeholder"), operands)
        }
        for inner_node in body.graph.nodes:
            if inner_node.op == "output":
                result = torch.fx.map_arg(inner_node.args[0], inner.__getitem__)
            elif inner_node.op != "placeholder":
                self.copy(inner_node, body, inner)
        for user in region.users:
            # The region returns a tuple; only getitem nodes read it.
            assert user.target is operator.getitem
            copied[user] = result[user.args[1]]
        copied[region] = result


def _copy_attribute(source: torch.nn.Module, root: torch.nn.Module, wanted: str) -> str:
    """Bring what a get_attr reads to the new root; subgraphs as copies, as passes will change them.

    Returns:
        the name that it has there: regions of regions may have the same.
    """
    value = operator.attrgetter(wanted)(source)
    target, count = wanted, 0
    while isinstance(value, GraphModule) and hasattr(root, target):
        count += 1
        target = f"{wanted}_{count}"
    if isinstance(value, GraphModule):
        root.add_module(target, _copy_subgraph(value))
    elif isinstance(value, pytree.TreeSpec):  # of a function that `flat_apply` calls
        set_attribute(root, target, value)
    elif isinstance(value, torch.Tensor):
        set_tensor(root, target, value)
    else:
        raise ExportError(
            f"the exported program reads {target!r}, a {type(value).__name__}, which is not supported"
        )
    return target


def _copy_subgraph(source: GraphModule) -> GraphModule:
    root = torch.nn.Module()
    graph = Graph()
    copied: dict[Node, Node] = {}
    copier = _Copier(graph, root, _is_grad_mode_region)
    for node in source.graph.nodes:
        copier.copy(node, source, copied)
    return GraphModule(root, graph)


def _is_grad_mode_region(node: Node) -> bool:
    """A ``with torch.no_grad():`` region of the model; it changes nothing at inference."""
    return node.op == "call_function" and getattr(node.target, "__name__", "") == "wrap_with_set_grad_enabled"


def _is_plain_region(node: Node) -> bool:
    """A region that changes nothing where no other is around it: that, or one in which autocast is off."""
    name = getattr(node.target, "__name__", "") if node.op == "call_function" else ""
    return _is_grad_mode_region(node) or (name == "wrap_with_autocast" and node.args[2] is False)


def _copy_mutations(
    ep: ExportedProgram, graph: Graph, output: Node, copied: dict[Node, Node]
) -> tuple[Any, ...]:
    """Write back what a functionalised program mutates; the outputs that the user sees."""
    by_name = {node.name: node for node in copied}
    attributes = {node.target: node for node in graph.nodes if node.op == "get_attr"}
    written: dict[Node, Node] = {}
    results = []
    for value, spec in zip(cast("Sequence[Any]", output.args[0]), ep.graph_signature.output_specs):
        new = torch.fx.map_arg(value, copied.__getitem__)
        if spec.kind not in _MUTATION_KINDS:
            results.append(new)
            continue
        if spec.kind is OutputKind.USER_INPUT_MUTATION:
            destination = copied[by_name[cast(str, spec.target)]]
        else:
            destination = attributes.get(cast(str, spec.target)) or _late_attribute(
                ep, graph, cast(str, spec.target)
            )
        copy = graph.call_function(torch.ops.aten.copy_.default, (destination, new))
        copy.meta["val"] = destination.meta["val"]
        written[new] = copy
    return tuple(written.get(result, result) if isinstance(result, Node) else result for result in results)


def _late_attribute(ep: ExportedProgram, graph: Graph, target: str) -> Node:
    """A get_attr for a buffer that is written but never read."""
    specs = zip((node for node in ep.graph.nodes if node.op == "placeholder"), ep.graph_signature.input_specs)
    (placeholder,) = (node for node, spec in specs if spec.target == target)
    attribute = graph.create_node("get_attr", target, name=placeholder.name)
    attribute.meta = dict(placeholder.meta)
    return attribute


# --- the inputs ---------------------------------------------------------------------------------------------


def _input_spec(name: str, placeholder: Node) -> InputSpec:
    value: Any = placeholder.meta.get("val")
    if isinstance(value, torch.Tensor):
        return InputSpec(
            name,
            placeholder.name,
            "tensor",
            dtype=value.dtype,
            shape=tuple(expression_of(dim) for dim in value.shape),
            device=value.device,
        )
    if type(value) is torch.SymInt:
        return InputSpec(name, placeholder.name, "symint", value=expression(value))
    if type(value) in (torch.SymFloat, torch.SymBool):
        raise ExportError(f"input {name} is a dynamic {type(value).__name__}, which is not supported")
    return InputSpec(name, placeholder.name, "constant", value=value)


def _with_layouts(
    specs: tuple[InputSpec, ...], placeholders: Sequence[Node], graph: Graph, known: Container[int]
) -> tuple[InputSpec, ...]:
    """The specs with the layout of the inputs whose memory the program looks into; `known` are some of their places."""
    seen, absolute = seen_in_memory(graph)
    seen.update(node for place, node in enumerate(placeholders) if place in known)

    def with_layout(spec: InputSpec, placeholder: Node) -> InputSpec:
        value: Any = placeholder.meta.get("val")
        if (
            placeholder not in seen
            or not isinstance(value, torch.Tensor)
            or value.layout is not torch.strided
        ):
            return spec
        offset = expression_of(value.storage_offset()) if absolute else None
        return replace(spec, stride=tuple(map(expression_of, value.stride())), storage_offset=offset)

    return tuple(map(with_layout, specs, placeholders))


def argument_names(ep: ExportedProgram) -> list[str]:
    """Names of the arguments in the order of the call's pytree spec: positional, then keyword."""
    in_spec = ep.call_spec.in_spec
    assert in_spec is not None
    positional = in_spec.child(0).num_children
    keywords = [str(key) for key in in_spec.child(1).context or []]
    signature = ep.module_call_graph[0].signature if ep.module_call_graph else None
    names = list(getattr(signature, "forward_arg_names", None) or [])
    if len(names) == positional + len(keywords):
        return [*names[:positional], *keywords]
    return [*(f"arg_{index}" for index in range(positional)), *keywords]


def _model_name(ep: ExportedProgram) -> str:
    for node in ep.graph.nodes:
        stack = node.meta.get("nn_module_stack")
        if stack:
            kind = next(iter(stack.values()))[1]
            name = kind if isinstance(kind, str) else kind.__qualname__
            name = name.rpartition(".")[2]
            # Nodes without a module get a stack that only names torch's own hook.
            if name.isidentifier() and not name.startswith("_empty_nn_module_stack"):
                return cast(str, name)
    return "model"
