"""What the frontend hands to the rest of the compiler, whichever way the model was captured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import sympy
import torch
from torch.utils import _pytree as pytree

from trtcore.ir.facts import Rewrite
from trtcore.ir.graphs import attribute
from trtcore.ir.guards import Guard
from trtcore.ir.signature import Parameters

InputKind = Literal["tensor", "constant", "symint"]


@dataclass(frozen=True)
class SymbolRange:
    """The values a size symbol may take: min <= opt <= max, all finite.

    `opt` is the value that engines are tuned for.

    Attributes:
        profiles: with several optimisation profiles, (min, opt, max) in each of them, all symbols of a program
            equally many; then min and max span them all, and opt is that of the first. Else empty.
    """

    name: str
    min: int
    opt: int
    max: int
    profiles: tuple[tuple[int, int, int], ...] = ()


def profile_ranges(symbols: Mapping[str, SymbolRange]) -> tuple[Mapping[str, SymbolRange], ...]:
    """The symbols' ranges in each optimisation profile; one, `symbols` itself, where there are not several."""
    count = max((len(symbol.profiles) for symbol in symbols.values()), default=0)
    if count == 0:
        return (symbols,)
    return tuple(
        {name: SymbolRange(name, *symbol.profiles[index]) for name, symbol in symbols.items()}
        for index in range(count)
    )


@dataclass(frozen=True)
class InputSpec:
    """One flattened input of a program, in the order of the graph's placeholders.

    Attributes:
        name: what the user calls it: ``input_ids``, ``x[0]['y']``.
        placeholder: name of the fx placeholder node.
        kind: "tensor"; "constant", a plain value that was fixed at capture; "symint", an int that may vary.
        dtype, device, shape: of a tensor; shape holds ints and sympy expressions over the program's symbols.
        value: of a constant; for a symint its sympy expression.
        stride: of a tensor whose layout decides what the program computes, because it looks into memory as
            ``as_strided`` does; ints and expressions as in `shape`. None where any layout does.
        storage_offset: likewise, where the program counts from the start of the storage.
    """

    name: str
    placeholder: str
    kind: InputKind
    dtype: torch.dtype | None = None
    shape: tuple[sympy.Expr | int, ...] | None = None
    device: torch.device | None = None
    value: Any = None
    stride: tuple[sympy.Expr | int, ...] | None = None
    storage_offset: sympy.Expr | int | None = None


@dataclass(frozen=True)
class Program:
    """A captured model: one flat graph and how the user calls it.

    Attributes:
        graph_module: one placeholder per flattened user input, in order; parameters, buffers and tensor
            constants are ``get_attr`` nodes with their fully qualified names, tied ones the same tensor
            object; plain codegen; the output is the flat tuple of outputs. Nodes keep ``val`` (FakeTensors),
            ``nn_module_stack`` and ``stack_trace``. What the model mutates (buffers, inputs) is mutated by
            nodes in the graph.
        inputs: one per placeholder, in order.
        in_spec: pytree spec of ``(args, kwargs)``; None for a flat call (torch.compile).
        out_spec: pytree spec of the outputs; None when the output is the flat tuple itself.
        arg_names: names of the positional arguments, then of the keyword arguments, as in `in_spec`.
        parameters: of the model's forward, also those that no argument was given for.
        dict_order_matters: whether a dict among the arguments must have its keys in the order of the capture.
        symbols: range of every size symbol that occurs in `inputs`, by name.
        data_sizes: range of every size that data decide (a ``nonzero``, an ``item``) and the program bounds, by name.
        guards: conditions on input sizes that the graph relies on, beyond `symbols` and `inputs`.
        model_name: class of the model where it is known, for names and messages.
        weight_names: the model's name of each weight, by the address of its storage: passes make new constants on it.
        failed: converters that failed for a node, by the node's name: the converter's ``str`` -> why.
        rewrites: what lowering's rules have put other nodes for, in order.
    """

    graph_module: torch.fx.GraphModule
    inputs: tuple[InputSpec, ...]
    in_spec: pytree.TreeSpec | None
    out_spec: pytree.TreeSpec | None
    arg_names: tuple[str, ...] = ()
    parameters: Parameters = ()
    dict_order_matters: bool = True
    symbols: Mapping[str, SymbolRange] = field(default_factory=dict)
    data_sizes: Mapping[str, SymbolRange] = field(default_factory=dict)
    guards: tuple[Guard, ...] = ()
    model_name: str = "model"
    weight_names: Mapping[int, str] = field(default_factory=dict)
    failed: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    rewrites: tuple[Rewrite, ...] = ()

    def with_weight_names(self) -> Program:
        """The program as it was captured, with the names of its weights; tied ones have the first."""
        names: dict[int, str] = {}
        for node in self.graph_module.graph.find_nodes(op="get_attr"):
            value = attribute(self.graph_module, str(node.target))
            if isinstance(value, torch.Tensor) and type(value) in (torch.Tensor, torch.nn.Parameter):
                names.setdefault(value.untyped_storage().data_ptr(), str(node.target))
        return replace(self, weight_names=names)

    @property
    def ranges(self) -> Mapping[str, SymbolRange]:
        """The range of every size symbol that has one."""
        return {**self.symbols, **self.data_sizes}

    @property
    def conditions(self) -> tuple[str, ...]:
        """The guards, as `trtcore.ir.expressions.parse_condition` reads them."""
        return tuple(guard.expression for guard in self.guards)
