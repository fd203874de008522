"""Weights that an op in torch reads and an engine has as well: a call with two values of one weight is no call."""

from __future__ import annotations

import torch
from torch.fx import GraphModule, Node

from trtcore.errors import InputError
from trtcore.ir.graphs import attribute, written_memory
from trtcore.ir.op_rules import STATISTICS
from trtcore.ir.provenance import describe
from trtcore.ir.schema import node_arguments
from trtcore.ir.torch_private import version
from trtcore.runtime.plans import engines_of
from trtcore.runtime.sharing import is_held
from trtcore.runtime.weight_watch import WeightWatch

OTHER_WEIGHTS = (
    "give the engines other weights with trtcore.dynamo.refit_module_weights(compiled, exported_program), or compile "
    "with trtcore.MutableModule, which follows its model"
)


class KeptWeights:
    """The tensors of a hybrid graph that have to stay what they are.

    Attributes:
        names: dotted, in the graph.
    """

    def __init__(self, module: GraphModule, names: tuple[str, ...]) -> None:
        self.names = names
        self.settle(module)

    @classmethod
    def of_graph(cls, module: GraphModule) -> KeptWeights | None:
        """Those of a hybrid graph; None where no weight is in an engine and in torch."""
        written = written_memory(module.graph.nodes)
        read = [node for node in module.graph.find_nodes(op="get_attr") if is_held(module, node)]
        names = dict.fromkeys(str(node.target) for node in read if node not in written)
        if not names:
            return None
        held = {weight.name for engine in engines_of(module) for weight in engine.manifest.weights}
        kept = tuple(name for name in names if name in held)
        _refuse_statistics(module, kept)
        return cls(module, kept) if kept else None

    def __deepcopy__(self, memo: object) -> KeptWeights:
        """A copied module makes its own."""
        return self

    def settle(self, module: GraphModule) -> None:
        """What the module has now is right: it was made so."""
        self._tensors = [attribute(module, name) for name in self.names]
        self._watch = WeightWatch(self._tensors, self.names)
        self._values = [_sample(tensor) for tensor in self._tensors]
        self._places = self._where()

    def _where(self) -> tuple[list[int], list[int]]:
        return [one.data_ptr() for one in self._tensors], [version(one) for one in self._tensors]

    def moved(self, module: GraphModule) -> None:
        """The module's tensors are others now, as after ``.to(device)``: right where their values are the same."""
        now = [attribute(module, name) for name in self.names]
        if all(_is_like(_sample(tensor), value) for tensor, value in zip(now, self._values)):
            self.settle(module)

    def check(self, module: GraphModule) -> None:
        """Refuse a call with a weight that is another now.

        Raises:
            InputError: there is one.
        """
        for name, tensor in zip(self.names, self._tensors):
            if attribute(module, name) is not tensor:
                raise InputError(f"{fixed(name)}; an op in torch would read another", advice=OTHER_WEIGHTS)
        if changed := self._watch.change(self._tensors):
            (places, versions), (known, counted) = self._where(), self._places
            if places != known and versions == counted:  # sent to a process: torch puts it into shared memory
                self.moved(module)
                changed = self._watch.change(self._tensors)
        if changed:
            name = changed.split()[0]
            raise InputError(
                f"{fixed(name)}; an op in torch would read another: {changed}", advice=OTHER_WEIGHTS
            )


def _refuse_statistics(module: GraphModule, kept: tuple[str, ...]) -> None:
    """Raise where an op in torch moves running statistics that an engine has as a weight."""
    for node in module.graph.nodes:
        schema = getattr(node.target, "_schema", None)
        told = STATISTICS.get(schema.name.partition("::")[2]) if schema is not None else None
        arguments = {} if told is None else node_arguments(node)
        if told is None or not arguments.get(told):
            continue
        for source in (arguments.get("running_mean"), arguments.get("running_var")):
            if isinstance(source, Node) and source.op == "get_attr" and str(source.target) in kept:
                raise InputError(
                    f"{node.target} runs in torch and writes to {source.target}, which an engine reads as a weight",
                    where=describe(node),
                    advice="leave the op to TensorRT, or what reads the running statistics to torch as well "
                    "(torch_executed_ops), or call model.eval() first",
                )


def _sample(tensor: torch.Tensor) -> torch.Tensor | None:
    """Some of a tensor's elements on the host; None of one that has none anywhere."""
    if tensor.is_meta or tensor.layout is not torch.strided:
        return None
    flat = tensor.detach().reshape(-1)
    step = max(flat.numel() // _SAMPLED, 1) | 1
    return flat[::step].cpu().clone()


_SAMPLED = 256


def _is_like(one: torch.Tensor | None, other: torch.Tensor | None) -> bool:
    if one is None or other is None:
        return one is other
    return one.dtype is other.dtype and torch.equal(one.nan_to_num(), other.nan_to_num())


def fixed(name: str) -> str:
    """What is told of a weight that somebody wants to be another."""
    return f"{name} is a weight in the engines of this module, and they keep what it was at the compile"
