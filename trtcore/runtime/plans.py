"""The engines' bytes in a hybrid graph: plain attributes, not buffers."""

from __future__ import annotations

import torch
from torch.fx import Node

from trtcore.ir.graphs import attribute
from trtcore.runtime.engine import Engine, resolve
from trtcore.runtime.op import execute_engine


def plans_of(module: torch.fx.GraphModule) -> dict[str, torch.Tensor]:
    """The plan tensors of a hybrid graph, by their dotted names."""
    targets = {
        str(node.args[2].target)
        for node in module.graph.nodes
        if node.op == "call_function" and node.target is execute_engine and isinstance(node.args[2], Node)
    }
    return {target: attribute(module, target) for target in sorted(targets)}


def engines_of(module: torch.fx.GraphModule) -> list[Engine]:
    """The engines of a hybrid graph, in the order of their calls."""
    plans = plans_of(module)
    return [
        resolve(str(node.args[3]), plans[str(node.args[2].target)])
        for node in module.graph.nodes
        if node.op == "call_function" and node.target is execute_engine and isinstance(node.args[2], Node)
    ]


def keep_plans_plain(module: torch.fx.GraphModule) -> None:
    """Turn the plans from buffers, which GraphModule makes of tensors, into plain attributes.

    So they follow no ``.to(device)``, and are no part of the ``state_dict``.
    """
    for target, plan in plans_of(module).items():
        path, _, last = target.rpartition(".")
        owner = module.get_submodule(path)
        owner._buffers.pop(last, None)
        owner._non_persistent_buffers_set.discard(last)
        setattr(owner, last, plan)
