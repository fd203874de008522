"""Weights that an op in torch reads and an engine has as well: a call with two values of one weight is no call."""

from __future__ import annotations

from torch.fx import GraphModule

from trtcore.errors import InputError
from trtcore.ir.graphs import attribute, written_memory
from trtcore.ir.torch_private import version
from trtcore.runtime.plans import engines_of
from trtcore.runtime.sharing import is_held

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
        return cls(module, kept) if kept else None

    def settle(self, module: GraphModule) -> None:
        """What the module has now is right: it was made so, or moved to another device."""
        self._seen = [(name, tensor := attribute(module, name), version(tensor)) for name in self.names]

    def check(self, module: GraphModule) -> None:
        """Refuse a call with a weight that is another now.

        Raises:
            InputError: there is one.
        """
        for name, tensor, was in self._seen:
            now = attribute(module, name)
            if now is not tensor or version(now) != was:
                raise InputError(f"{fixed(name)}; an op in torch would read another", advice=OTHER_WEIGHTS)


def fixed(name: str) -> str:
    """What is told of a weight that somebody wants to be another."""
    return f"{name} is a weight in the engines of this module, and they keep what it was at the compile"
