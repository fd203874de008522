"""Whole compiled modules as CUDA graphs: engines and torch ops of a call as one launch, recorded per shape."""

from __future__ import annotations

import threading
import warnings
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch.utils import _pytree as pytree

from trtcore.artifact.manifest import EngineManifest
from trtcore.errors import InputError, TrtcoreError
from trtcore.ir.graphs import written_memory
from trtcore.ir.torch_private import copy_all, overlaps_itself
from trtcore.runtime.module import CompiledModule
from trtcore.runtime.native.cuda import own_stream
from trtcore.runtime.op import execute_engine
from trtcore.runtime.profiles import chosen

_WARM_UPS = 2
_HOST_TAGS = frozenset({torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape})


def enable_cudagraphs(
    module: CompiledModule, *, max_graphs: int = 8, copy_outputs: bool = True
) -> GraphedModule:
    """A compiled module whose calls are replays of CUDA graphs.

    The first call of each combination of shapes, dtypes and other arguments records a graph of the whole call, engines
    and torch ops alike; later ones copy their inputs into the graph's own, and launch it. Works with both runtimes,
    and with buffers and inputs that the model writes to: a recording leaves them as one call does.

    A call that no graph can hold runs as it would without: inputs that are not all on one GPU; within a capture or a
    trace of somebody else; where TensorRT or torch must wait for the GPU to know a size, which is told once, by a
    warning.

    Args:
        module: what a compile, or `trtcore.load`, returned.
        max_graphs: how many graphs are kept; beyond, the one that was used longest ago goes.
        copy_outputs: whether results are copies. Without, they are the graph's own memory, which the next call of these
            shapes overwrites: a few microseconds less.

    Returns:
        a callable with the module's signature; also a context manager, which gives its graphs back at the end.

    Raises:
        InputError: `module` is no compiled module, or `max_graphs` no number from 1.

    Example:
        >>> graphed = trtcore.runtime.enable_cudagraphs(compiled)  # doctest: +SKIP
        >>> graphed(x)  # doctest: +SKIP
    """
    if not isinstance(module, CompiledModule):
        raise InputError(
            f"enable_cudagraphs takes what trtcore.compile or trtcore.load returned, not a {type(module).__name__}",
            advice="torch.cuda.make_graphed_callables takes any module that contains compiled ones",
        )
    if type(max_graphs) is not int or max_graphs < 1:
        raise InputError(f"max_graphs is a number from 1, not {max_graphs!r}")
    return GraphedModule(module, max_graphs, copy_outputs, TorchGraphs())


class Graph(Protocol):
    """A recorded graph."""

    def replay(self) -> None: ...
    def reset(self) -> None: ...


class Graphs(Protocol):
    """What `GraphedModule` needs of CUDA."""

    def takes(self, device: torch.device) -> bool: ...
    def capturing(self) -> bool: ...
    def warm_up(self, run: Callable[[], Any]) -> None: ...
    def record(self, run: Callable[[], Any]) -> tuple[Graph, Any]: ...
    def join(self, device: torch.device) -> None: ...
    def wait(self) -> None: ...


class TorchGraphs:
    """torch's CUDA graphs, those of one module in one memory pool: they are replayed one after the other."""

    def __init__(self) -> None:
        self._pool: Any = None
        self._last: torch.cuda.Stream | None = None

    def takes(self, device: torch.device) -> bool:
        """Whether work on this device can be in a graph."""
        return device.type == "cuda"

    def capturing(self) -> bool:
        """Whether the current stream is being captured already."""
        return torch.cuda.is_available() and torch.cuda.is_current_stream_capturing()

    def warm_up(self, run: Callable[[], Any]) -> None:
        """What libraries do in a first call is no part of a graph."""
        current = torch.cuda.current_stream()
        side = own_stream(
            current.device
        )  # one per device: libraries keep a workspace for each that they have seen
        side.wait_stream(current)
        with torch.cuda.stream(side):
            for _ in range(_WARM_UPS):
                run()
        current.wait_stream(side)

    def record(self, run: Callable[[], Any]) -> tuple[Graph, Any]:
        """The graph of a call, which is not executed, and its results, in the graph's memory."""
        if self._pool is None:
            self._pool = torch.cuda.graph_pool_handle()
        graph = torch.cuda.CUDAGraph()
        # Other threads may go on: only this one's forbidden calls count.
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            result = run()
        return graph, result

    def join(self, device: torch.device) -> None:
        """Let the current stream come after the one of the latest replay: the graphs share memory."""
        current = torch.cuda.current_stream(device)
        if self._last is not None and self._last != current:
            current.wait_stream(self._last)
        self._last = current

    def wait(self) -> None:
        """Until the latest replay is done."""
        if self._last is not None:
            self._last.synchronize()


@dataclass(frozen=True)
class _Recorded:
    """A graph, the inputs that it reads, and where its results are."""

    graph: Graph
    inputs: tuple[torch.Tensor, ...]
    results: tuple[Any, ...]
    spec: pytree.TreeSpec
    held: tuple[int, ...]
    state: frozenset[int]
    """The module's own tensors by identity: a result that is one stays it."""

    def replay(self, given: Sequence[torch.Tensor], written: Sequence[int], copy: bool) -> Any:
        pairs = [(own, new) for own, new in zip(self.inputs, given) if own is not new]
        if pairs:
            copy_all([own for own, _ in pairs], [new for _, new in pairs])
        self.graph.replay()
        for place in written:
            if given[place] is not self.inputs[place]:
                given[place].copy_(self.inputs[place])
        # By identity: a tensor that is returned twice is one tensor, and an input that is returned is the caller's.
        known = {id(own): new for own, new in zip(self.inputs, given)}
        results = []
        for one in self.results:
            if id(one) not in known:
                fresh = copy and isinstance(one, torch.Tensor) and id(one) not in self.state
                known[id(one)] = one.clone() if fresh else one
            results.append(known[id(one)])
        return pytree.tree_unflatten(results, self.spec)


class GraphedModule:
    """See `enable_cudagraphs`.

    Threads may call it at the same time: their calls are queued one after the other.

    Attributes:
        module: the compiled module.
    """

    def __init__(self, module: CompiledModule, max_graphs: int, copy_outputs: bool, graphs: Graphs) -> None:
        self.module = module
        self._most, self._copy, self._cuda = max_graphs, copy_outputs, graphs
        self._graphs: OrderedDict[Hashable, _Recorded] = OrderedDict()
        self._refused: dict[Hashable, str] = {}
        self._lock = threading.RLock()
        self._attributes = _attributes(module)
        written = written_memory(module.graph.nodes)
        inputs = module.graph.find_nodes(op="placeholder")
        self._written_inputs = [place for place, node in enumerate(inputs) if node in written]
        targets = {str(node.target) for node in written if node.op == "get_attr"}
        self._written_state = [place for target, place in self._attributes.items() if target in targets]
        self._obstacle = _obstacle(module)
        for owner, name in self._written_state:
            if not graphs.takes(owner[name].device):
                self._obstacle = f"the model writes to {name}, which is on {owner[name].device}"

    def __len__(self) -> int:
        """How many graphs there are now."""
        return len(self._graphs)

    def __enter__(self) -> GraphedModule:
        return self

    def __exit__(self, *exception: object) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget all graphs; waits until the latest replay is done."""
        with self._lock:
            self._cuda.wait()
            for one in self._graphs.values():
                one.graph.reset()
            self._graphs.clear()
            self._refused.clear()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """As the module's own call, by a graph where one can be."""
        if torch.compiler.is_compiling() or self._cuda.capturing():
            return self.module(*args, **kwargs)
        leaves, spec = pytree.tree_flatten((args, kwargs))
        tensors = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]
        if not self._can_be_graphed(tensors):
            return self.module(*args, **kwargs)
        key = (spec, chosen(), *map(_key, leaves))
        with self._lock, torch.no_grad():
            found = self._found(key, leaves, spec, tensors)
            if found is not None:
                written = self._check_written(args, kwargs, tensors)
                self._cuda.join(tensors[0].device)
                return found.replay(tensors, written, self._copy)
        return self.module(*args, **kwargs)

    def _can_be_graphed(self, tensors: Sequence[torch.Tensor]) -> bool:
        if self._obstacle:
            self._tell("", self._obstacle)
            return False
        if not tensors or not self._cuda.takes(tensors[0].device):
            return False
        return all(type(one) in _PLAIN and one.device == tensors[0].device for one in tensors)

    def _check_written(self, args: Any, kwargs: Any, tensors: Sequence[torch.Tensor]) -> list[int]:
        """The places among the tensors of those that the model writes to; they may share memory with no other."""
        check, sharing = self.module._input_check, self.module._sharing
        if sharing is None or check is None:
            return []
        leaves, names = check.named_leaves(check.binding.bind(args, kwargs))
        sharing.check(self.module, leaves, names)
        order = [id(tensor) for tensor in tensors]
        return [order.index(id(leaves[place])) for place in self._written_inputs]

    # ---- recording ----------------------------------------------------------------------------------

    def _found(
        self, key: Hashable, leaves: Sequence[Any], spec: pytree.TreeSpec, tensors: Sequence[torch.Tensor]
    ) -> _Recorded | None:
        """The graph for a call, recorded if need be; None where there can be none."""
        held = tuple(_address(owner[name]) for owner, name in self._attributes.values())
        found = self._graphs.get(key)
        if found is not None and found.held == held:
            self._graphs.move_to_end(key)
            return found
        if found is not None:  # the module's tensors are elsewhere now
            self._drop(key)
        if key in self._refused:
            return None
        return self._recorded(key, leaves, spec, tensors, held)

    def _recorded(
        self,
        key: Hashable,
        leaves: Sequence[Any],
        spec: pytree.TreeSpec,
        tensors: Sequence[torch.Tensor],
        held: tuple[int, ...],
    ) -> _Recorded | None:
        own = [_copy(tensor) for tensor in tensors]
        before = [_copy(tensor) for tensor in own] if self._written_inputs else []
        replaced = iter(own)
        args, kwargs = pytree.tree_unflatten(
            [next(replaced) if isinstance(leaf, torch.Tensor) else leaf for leaf in leaves], spec
        )
        state = [owner[name] for owner, name in self._written_state]
        kept = [tensor.clone() for tensor in state]

        def restore() -> None:
            for tensor, value in zip([*state, *own], [*kept, *before]):
                tensor.copy_(value)

        def run() -> Any:
            return self.module(*args, **kwargs)

        try:
            self._cuda.warm_up(run)
            restore()
            graph, result = self._cuda.record(run)
        except InputError:
            restore()
            raise
        except (RuntimeError, TrtcoreError) as error:
            restore()
            self._tell(key, str(error).splitlines()[0])
            return None
        results, out_spec = pytree.tree_flatten(result)
        while len(self._graphs) >= self._most:
            self._drop(next(iter(self._graphs)))
        state_ids = frozenset(id(owner[name]) for owner, name in self._attributes.values())
        self._graphs[key] = _Recorded(graph, tuple(own), tuple(results), out_spec, held, state_ids)
        return self._graphs[key]

    def _drop(self, key: Hashable) -> None:
        self._cuda.wait()
        self._graphs.pop(key).graph.reset()

    def _tell(self, key: Hashable, reason: str) -> None:
        if key not in self._refused:
            self._refused[key] = reason
            warnings.warn(
                f"{type(self.module).__name__} runs without a CUDA graph: {reason}", UserWarning, stacklevel=4
            )


_PLAIN = (torch.Tensor, torch.nn.Parameter, torch.nn.Buffer)


def _key(leaf: Any) -> Hashable:
    if isinstance(leaf, torch.Tensor):
        return leaf.shape, leaf.dtype, leaf.device, leaf.stride()
    return type(leaf), leaf


def _copy(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor of the same strides, where no elements share memory."""
    with torch.inference_mode(False):
        dense = not overlaps_itself(tensor)
        own = torch.empty_strided(
            tensor.shape,
            tensor.stride() if dense else torch.empty(tensor.shape, device="meta").stride(),
            dtype=tensor.dtype,
            device=tensor.device,
        )
        return own.copy_(tensor.detach())


def _address(value: Any) -> int:
    """Where a tensor is; engines' files and what has no memory by their identity."""
    return value.data_ptr() or id(value) if isinstance(value, torch.Tensor) else id(value)


_Place = tuple[dict[str, Any], str]


def _attributes(module: CompiledModule) -> dict[str, _Place]:
    """Where the module keeps what its graph reads, by the dotted names."""
    found: dict[str, _Place] = {}
    for target in dict.fromkeys(str(node.target) for node in module.graph.find_nodes(op="get_attr")):
        path, _, name = target.rpartition(".")
        owner = module.get_submodule(path)
        places: tuple[Any, ...] = (owner._parameters, owner._buffers, owner.__dict__)
        found[target] = next(place for place in places if name in place), name
    return found


def _obstacle(module: CompiledModule) -> str:
    """Why no call of this module can be in a graph; "" where nothing speaks against it."""
    for node in module.graph.nodes:
        if node.target is execute_engine:
            manifest = EngineManifest.from_json(node.args[3])
            if manifest.output_symbols:
                return f"{manifest.name} has outputs whose sizes depend on data"
        elif node.target is torch.ops.higher_order.cond:
            return f"{node.name} chooses a branch by data"
        elif isinstance(node.target, torch._ops.OpOverload) and _HOST_TAGS.intersection(node.target.tags):
            return f"{node.name} ({node.target}) needs its data on the host"
    return ""
