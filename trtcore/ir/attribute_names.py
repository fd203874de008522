"""Names of weights that a graph module can have: torch.fx makes code of them, and has names of its own.

A model may call a buffer ``graph``, ``class`` or ``a-b``. In a program such a weight has another name, the same one for
every capture of the model.
"""

from __future__ import annotations

import keyword
import re
from collections.abc import Iterable, Mapping

import torch
from torch.fx import Graph, GraphModule

from trtcore.ir.graphs import attribute, set_attribute

_OWN = frozenset(
    {
        "report",
        "recipe",
        "_direct",
        "_input_check",
        "_sharing",
        "_kept",
        "_usual",
        "_finish",
        "_watched_call",
        "_check_is_hook",
        "refuse_changed_weights",
        "_in_spec",
        "_out_spec",
        "_first",
        "self",
        "torch",
    }
)
"""What a compiled module has beside what a GraphModule has, and names that generated code uses."""

_TAKEN = frozenset({*dir(GraphModule(torch.nn.Module(), Graph())), *_OWN})
_OF_ENGINES = re.compile(r"engine_\d+")


def plain_attribute_names(root: torch.nn.Module, graph: Graph) -> None:
    """Give the attributes that a graph reads names that a graph module can have, on `root` and in the graph."""
    nodes = graph.find_nodes(op="get_attr")
    for name, plain in plain_names(str(node.target) for node in nodes).items():
        value = attribute(root, name)
        set_attribute(root, plain, value)
        for node in nodes:
            if node.target == name:
                node.target = plain


def plain_names(names: Iterable[str]) -> Mapping[str, str]:
    """Another name for each of the names that a graph module cannot have."""
    known = set(names)
    found: dict[str, str] = {}
    for name in sorted(known):
        if not _is_plain(name):
            plain = _plain(name)
            while plain in known:
                plain += "_"
            known.add(plain)
            found[name] = plain
    return found


def _is_plain(name: str) -> bool:
    first, *rest = name.split(".")
    return (
        _is_code(name)
        and first not in _TAKEN
        and not _OF_ENGINES.fullmatch(first)
        and "plan" not in (first, *rest)
    )


def _is_code(name: str) -> bool:
    """Whether generated code can have this path of attributes. How long it is, is a matter of files."""
    return all(
        re.fullmatch("[A-Za-z0-9_]+", part) and not part.startswith("__") and not keyword.iskeyword(part)
        for part in name.split(".")
    )


def _plain(name: str) -> str:
    parts = [re.sub(r"[^A-Za-z0-9_]", "_", part) or "_" for part in name.split(".")]
    safe = [part if _is_plain(f"x.{part}") else f"w_{part.strip('_')}" for part in parts]
    return ".".join(safe if _is_plain(safe[0]) else [f"w_{safe[0].strip('_')}", *safe[1:]])
