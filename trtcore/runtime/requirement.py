"""What calls are held to where no call of a compiled module is made: a torch op at the start of its graph.

    require(Tensor[] inputs, str contract) -> Tensor

`CompiledModule.__call__` checks its arguments. torch.export, Dynamo and whoever runs the graph pass that by, and what
they record are ops: sizes become conditions of theirs (`trtcore.runtime.conditions`), but strides, memory that two
tensors share, and ranges that no engine looks at do not. Where a graph relies on such, it says so by this op and an
assertion on its result, which nobody may leave out. Calls that were checked go without (`trtcore.runtime.direct`).

Importing this module registers the op.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import torch
from torch.fx import GraphModule, Node
from torch.utils import _pytree as pytree

from trtcore.errors import ArtifactError
from trtcore.ir.signature import Binding, Parameter
from trtcore.runtime.contract import check_from_json, check_to_json
from trtcore.runtime.input_check import InputCheck, _Tensor
from trtcore.runtime.sharing import Sharing, first_shared, shared_memory

_library: Any = torch.library.Library("trtcore", "FRAGMENT")  # type: ignore[no-untyped-call]

_NAME, _ASSERTION = "require_inputs", "assert_inputs"

REQUIREMENT = re.compile(
    rf"^ +{_NAME}(?: : [^=\n]+)? = torch\.ops\.trtcore\.require\.default\(.*\n"
    rf" +{_ASSERTION}(?: : [^=\n]+)? = torch\.ops\.aten\._assert_async\.msg\(.*\n",
    re.MULTILINE,
)
"""The two lines in generated code."""


@dataclass(frozen=True)
class _Requirement:
    check: InputCheck
    attributes: tuple[str, ...]
    written: tuple[int, ...]


@lru_cache(maxsize=256)
def read_requirement(contract: str) -> _Requirement:
    """Read the op's contract.

    Raises:
        ArtifactError: it makes no sense.
    """
    try:
        document = json.loads(contract)
        check = check_from_json(document["check"])
        attributes = tuple(str(name) for name in document["attributes"])
        places = range(len(check.leaves) + len(attributes))
        written = tuple(document["written"])
        if not all(type(place) is int and place in places for place in written):
            raise ArtifactError("a requirement of inputs names a tensor that it is not given")
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise ArtifactError("a requirement of inputs makes no sense") from error
    return _Requirement(check, attributes, written)


def _require(inputs: Sequence[torch.Tensor] | None, contract: str) -> torch.Tensor:
    """See that tensors are what a graph was captured for. AOTInductor's packages pass None for an empty list.

    Args:
        inputs: the inputs that the contract knows, and then tensors that the module holds.
        contract: JSON: `check_to_json` of the inputs, names of the other tensors, places of those that are written to.

    Returns:
        True, on the CPU.

    Raises:
        InputError: one is not.
    """
    one, tensors = read_requirement(contract), list(inputs or ())
    count = len(one.check.leaves)
    one.check.check(tensors[:count], {})
    found = first_shared(tensors, one.written) if one.written else None
    if found is not None:
        raise shared_memory(found, [leaf.name for leaf in one.check.leaves], one.attributes)
    return torch.ones((), dtype=torch.bool)


def check_op(name: str, check: Callable[[Any, str], torch.Tensor]) -> Any:
    """Register ``trtcore::name(Tensor[] inputs, str contract) -> Tensor``, which gives a bool of rank 0, or raises."""
    _library.define(f"{name}(Tensor[] inputs, str contract) -> Tensor", tags=(torch.Tag.pt2_compliant_tag,))
    _library.impl(name, check, "CompositeExplicitAutograd")
    _library.impl(name, torch.library.fallthrough_kernel, "Autograd")
    torch.library.register_fake(
        f"trtcore::{name}", lambda inputs, contract: torch.empty((), dtype=torch.bool), lib=_library
    )
    return getattr(torch.ops.trtcore, name).default


require = check_op("require", _require)
"""``require(Tensor[] inputs, str contract) -> Tensor``: raises where tensors are not what a graph relies on."""

torch.fx.node.has_side_effect(require)


def add_requirement(module: GraphModule, check: InputCheck) -> None:
    """Let a hybrid graph look at its inputs first, where it relies on what whoever traces it would not see."""
    pairs = _tensors(module, check)
    sharing = Sharing.of_graph(module)
    if (
        sharing is None
        and not any(leaf.stride is not None for _, leaf in pairs)
        and not _unseen(module, pairs)
    ):
        return
    attributes = () if sharing is None else sharing.attributes
    written = () if sharing is None else _written(module, sharing, [node for node, _ in pairs])
    contract = json.dumps(
        {
            "check": check_to_json(of_tensors(check, tuple(leaf for _, leaf in pairs))),
            "attributes": attributes,
            "written": written,
        },
        separators=(",", ":"),
    )
    graph = module.graph
    first = next(node for node in graph.nodes if node.op != "placeholder")
    with graph.inserting_before(first):
        held = [graph.get_attr(name) for name in attributes]
        fits = graph.create_node(
            "call_function", require, ([node for node, _ in pairs] + held, contract), name=_NAME
        )
        graph.create_node(
            "call_function", torch.ops.aten._assert_async.msg, (fits, "inputs do not fit"), name=_ASSERTION
        )


def _tensors(module: GraphModule, check: InputCheck) -> list[tuple[Node, _Tensor]]:
    """The tensor inputs that the graph uses."""
    placeholders = module.graph.find_nodes(op="placeholder")
    return [
        (node, leaf)
        for node, leaf in zip(placeholders, check.leaves, strict=True)
        if isinstance(leaf, _Tensor) and node.users
    ]


def _unseen(module: GraphModule, pairs: Sequence[tuple[Node, _Tensor]]) -> bool:
    """Whether there is a size with a range that no engine sees at an input."""
    symbols = {node: {dim.symbol for dim in leaf.linear} for node, leaf in pairs}
    wanted = set().union(*symbols.values())
    if not wanted:
        return False
    for call in module.graph.find_nodes(op="call_function", target=torch.ops.trtcore.execute_engine.default):
        for node in call.args[0]:
            wanted -= symbols.get(node, set())
    return bool(wanted)


def _written(module: GraphModule, sharing: Sharing, nodes: Sequence[Node]) -> tuple[int, ...]:
    """Places of what is written to, among `nodes` and then the attributes."""
    placeholders = list(module.graph.find_nodes(op="placeholder"))
    places = {node: place for place, node in enumerate(nodes)}
    count = len(sharing.inputs)
    return tuple(
        places[placeholders[sharing.inputs[place]]] if place < count else len(nodes) + place - count
        for place in sharing.written
    )


def of_tensors(check: InputCheck, leaves: tuple[_Tensor, ...]) -> InputCheck:
    """The part of a check that is about tensors, which come one by one."""
    names = tuple(leaf.name for leaf in leaves)
    parameters = tuple(Parameter(f"tensor_{index}") for index in range(len(names)))
    leaf = pytree.tree_structure(0)
    return replace(
        check,
        binding=Binding(parameters, names, len(names), check.binding.model),
        specs=(leaf,) * len(names),
        leaves=leaves,
        _flat=True,
        _memo={},
    )
