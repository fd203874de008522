"""Conversion: the nodes of one segment, in order, each by its converter, into one TensorRT network."""

from __future__ import annotations

import itertools
import json
import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NoReturn

import torch
from torch.fx import Node

from trtcore.artifact.manifest import Profile, SizeBinding, SymbolSource, TensorBinding
from trtcore.artifact.snapshot import NetworkSnapshot
from trtcore.conversion.context import ConversionContext
from trtcore.conversion.intact import GraphRecord, NetworkRecord, WeightsRecord
from trtcore.conversion.readback import LAYER_CLASSES, LayerReader, take_snapshot
from trtcore.conversion.weights import WeightStore
from trtcore.errors import ArtifactError, ConversionError, PackError, TrtcoreError, shown
from trtcore.ir.expressions import parse, to_text
from trtcore.ir.graphs import attribute, is_size
from trtcore.ir.program import profile_ranges
from trtcore.ir.provenance import code_line, describe, module_path, op_name, source_line
from trtcore.ir.schema import node_arguments, parameters_of
from trtcore.ir.symbols import bounds, expression_of, free_symbols, solve_linear
from trtcore.ir.torch_private import LazyGraphModule
from trtcore.packs.model import Scope
from trtcore.partition.segment import Segment

if TYPE_CHECKING:
    from trtcore.context import CompileContext
    from trtcore.ir.program import SymbolRange
    from trtcore.packs.model import Converter
    from trtcore.packs.selection import Selection

_MOST_SIZES = 8192  # some 0.1 s
_NAME_LIMIT = 4000  # TensorRT drops names and metadata of 4096 characters and more


class NodeConversionError(ConversionError):
    """A ConversionError that knows its node, so that the node can be quarantined.

    Attributes:
        node: the fx node's name in the lowered graph.
        others: the errors of further nodes of the segment.
    """

    def __init__(
        self, message: str, *, node: str, others: Sequence[NodeConversionError] = (), **parts: Any
    ) -> None:
        super().__init__(message, **parts)
        self.node = node
        self.others = tuple(others)


class _Spoiled(ConversionError):
    """A converter changed what others rely on: nothing more can be converted into this network."""


_LEAVE_ALONE = (
    "a converter leaves the graph, the network's inputs and the layers of other converters as they are: have it add "
    "layers of its own; until then leave the op to torch with torch_executed_ops, or choose another converter with "
    "pins or converters="
)
_OF_ALL = ("net", "trt", "backend", "target", "settings", "compile_context")
"""Attributes of the context that are the same for all converters."""


@dataclass(frozen=True)
class Conversion:
    """What a segment became, as data: how its engine is called, and its network read back.

    Attributes:
        inputs, sizes, outputs: bindings in network order (inputs, then sizes).
        symbols: how to solve each symbol from a call's inputs and sizes.
        snapshot: the network, read back.
        num_layers: of the network.
        node_of_layer: fx node name by layer name.
    """

    inputs: tuple[TensorBinding, ...]
    sizes: tuple[SizeBinding, ...]
    outputs: tuple[TensorBinding, ...]
    symbols: Mapping[str, SymbolSource]
    snapshot: NetworkSnapshot
    num_layers: int
    node_of_layer: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class LiveNetwork:
    """TensorRT's objects, which the build needs, and what must stay alive until it has ended.

    Attributes:
        network, builder, logger: accepted layer by layer; the builder reports to the logger.
        store: the weights behind the network.
    """

    network: Any
    builder: Any
    logger: Any
    store: WeightStore


def convert_segment(
    segment: Segment,
    ctx: CompileContext,
    selections: Mapping[str, Selection],
    ranges: Mapping[str, SymbolRange],
    before_node: Callable[[str], object] | None = None,
) -> tuple[Conversion, LiveNetwork]:
    """Run every node's converter.

    Args:
        selections: by node name; every call_function node of the segment but getitem has a chosen converter.
        ranges: of the symbols in the segment's shapes.
        before_node: told the name of each node whose converter is about to run, and "" after the last.

    Raises:
        NodeConversionError: a converter raised, returned nonsense, or added a layer that TensorRT refuses. The nodes
            behind it are converted all the same, on inputs in the place of its results, so that one error has all.
            Or a converter changed the graph or what another one had made.
    """
    run = _Interpreter(segment, ctx, selections, ranges, before_node)
    try:
        result = run.run()
        run.refuse_changed_weights()
        changed = run.changed()
    except (KeyboardInterrupt, PackError):
        raise
    except BaseException:
        run.refuse_changed_weights()
        changed = run.changed()
        if not changed:
            raise
    if not changed:
        return result
    run.restore()
    module = LazyGraphModule(segment.graph_module, run.graph.rebuilt(), class_name=segment.name)
    again = replace(segment, graph_module=module)
    _Interpreter(again, ctx, selections, ranges, before_node, watchful=True).run()
    raise ConversionError(
        f"a converter of {segment.name} changed {changed}, and not when it was called a second time",
        advice="turn off packs one by one with disabled_packs to find it: a converter leaves the graph, the network's "
        "inputs and the layers of other converters as they are",
    )


class _Interpreter:
    """One conversion.

    Attributes:
        watchful: look after each converter whether all is as it was, which takes quadratic time.
    """

    def __init__(
        self,
        segment: Segment,
        ctx: CompileContext,
        selections: Mapping[str, Selection],
        ranges: Mapping[str, SymbolRange],
        before_node: Callable[[str], object] | None,
        *,
        watchful: bool = False,
    ) -> None:
        assert ctx.backend is not None
        self.watchful = watchful
        self.graph = GraphRecord(segment.graph_module.graph)
        self.subgraphs: list[GraphRecord] = []
        self.before_node = before_node
        self.segment, self.compile_context, self.selections, self.ranges = segment, ctx, selections, ranges
        self.profiles = profile_ranges(ranges)
        self.backend = ctx.backend
        self.trt: Any = self.backend.trt
        self.logger = self.backend.make_logger()
        self.builder = self.backend.make_builder(self.logger)
        self.network = self.backend.create_network(self.builder)
        self.network.name = segment.name
        self.store = WeightStore(self.backend)
        chosen = (one.chosen for one in selections.values() if one.chosen is not None)
        self.foreign = dict.fromkeys(str(one) for one in chosen if one.scope is not Scope.BUILT_IN)
        reader = LayerReader(self.trt, self.network, self.store.of_layer) if self.foreign else None
        self.record = NetworkRecord(self.network, reader)
        module = segment.graph_module
        read = {str(node.target) for node in self.graph.nodes if node.op == "get_attr"}
        values = {name: attribute(module, name) for name in sorted(read)}
        self.weights = WeightsRecord(
            {name: value for name, value in values.items() if isinstance(value, torch.Tensor)},
            bytewise=bool(self.foreign),
        )
        self.ctx = ConversionContext(ctx, self.network, self.store)
        self.ctx._inliner = self._inline
        self._given = {name: getattr(self.ctx, name) for name in _OF_ALL}
        self.env: dict[Node, Any] = {}
        self.inputs: list[TensorBinding] = []
        self.sizes: list[SizeBinding] = []
        self.symbols: dict[str, SymbolSource] = {}
        self.node_of_layer: dict[str, str] = {}
        self.tensors: set[Any] = set()
        self._names: set[str] = set()
        self.failures: list[NodeConversionError] = []

    def changed(self) -> str:
        """What of the graph or of the network is not as it was, or ""."""
        graphs = (record.difference() for record in (self.graph, *self.subgraphs))
        return next(filter(None, graphs), "") or self.record.difference()

    def restore(self) -> None:
        """Give the graph's nodes their fields again, and the FakeTensors that they share with the lowered graph."""
        for record in (self.graph, *self.subgraphs):
            record.restore()

    def run(self) -> tuple[Conversion, LiveNetwork]:
        nodes = self.graph.nodes
        placeholders = [node for node in nodes if node.op == "placeholder"]
        for node in placeholders:
            if not is_size(node):
                self._add_input(node)
        self._add_sizes([node for node in placeholders if is_size(node)])
        self.record.settle()
        outputs: tuple[TensorBinding, ...] = ()
        for node in nodes:
            if node.op == "placeholder" and is_size(node):
                self.env[node] = _Symbolic(expression_of(node.meta["val"]))
            elif node.op == "get_attr":
                self.env[node] = attribute(self.segment.graph_module, str(node.target))
            elif node.op == "call_function":
                self.env[node] = self._convert(node)
            elif node.op == "output" and not self.failures:
                outputs = self._mark_outputs(node)
        if self.failures:
            self._raise_failures()
        if self.before_node is not None:
            self.before_node("")
        snapshot = take_snapshot(self.trt, self.network, self.store.of_layer)
        converted = Conversion(
            tuple(self.inputs), tuple(self.sizes), outputs, dict(self.symbols), snapshot, self.network.num_layers,
            self.node_of_layer,
        )  # fmt: skip
        return converted, LiveNetwork(self.network, self.builder, self.logger, self.store)

    # ---- inputs -----------------------------------------------------------------------------------

    def _add_input(self, node: Node) -> None:
        value: torch.Tensor = node.meta["val"]
        dims = [expression_of(dim) for dim in value.shape]
        static = tuple(dim if isinstance(dim, int) else -1 for dim in dims)
        tensor = self.network.add_input(node.name, self.backend.trt_dtype(value.dtype), static)
        if tensor is None:
            raise ConversionError(
                f"TensorRT refused the input {node.name} of shape {static} and {value.dtype}",
                tensorrt=self.logger.since(0),
            )
        self.env[node] = tensor
        profiles = [_profile(dims, ranges) for ranges in self.profiles] if -1 in static else []
        index = len(self.inputs)
        shape = tuple(dim if isinstance(dim, int) else to_text(dim) for dim in dims)
        self.inputs.append(TensorBinding.of_profiles(node.name, value.dtype, shape, profiles))
        for axis, dim in enumerate(dims):
            found = solve_linear(dim)
            if found is not None:
                name, scale, offset = found
                self.symbols.setdefault(name, ("input", index, axis, scale, offset))
                self.ctx.bind_symbol(name, self._symbol_of_input(tensor, axis, scale, offset))

    def _symbol_of_input(self, tensor: Any, axis: int, scale: int, offset: int) -> Callable[[], Any]:
        def make() -> Any:
            value = self.ctx.dim(tensor, axis)
            if offset:
                value = self.ctx.dim_op(value, offset, "SUB")
            return self.ctx.dim_op(value, scale, "FLOOR_DIV") if scale != 1 else value

        return make

    def _add_sizes(self, nodes: Sequence[Node]) -> None:
        """Symbols that no tensor input's shape gives become int64 shape tensors of shape (1,)."""
        used = free_symbols(node.meta["val"] for node in nodes if isinstance(node.meta["val"], torch.SymInt))
        for output in self.segment.outputs:
            value = output.meta.get("val")
            if isinstance(value, torch.Tensor):
                used.extend(free_symbols(value.shape))
        for name in dict.fromkeys(used):
            if name in self.symbols:
                continue
            known = self.ranges[name]
            tensor = self.network.add_input(f"size_{name}", self.trt.DataType.INT64, (1,))
            self.symbols[name] = ("size", len(self.sizes))
            self.sizes.append(
                SizeBinding(f"size_{name}", name, known.min, known.opt, known.max, known.profiles)
            )
            self.ctx.bind_symbol(name, lambda tensor=tensor: tensor)  # type: ignore[misc]

    # ---- nodes ------------------------------------------------------------------------------------

    def _convert(self, node: Node) -> Any:
        if node.target is operator.getitem:
            source, index = node.args
            assert isinstance(source, Node)
            return self.env[source][index]
        converter = self.selections[node.name].chosen
        assert converter is not None, f"{node.name} has no converter"
        mark, first = self.logger.mark(), self.network.num_layers
        bound = self.network.num_inputs
        vars(self.ctx).update(self._given, node=node)
        self.ctx.notes.clear()
        if self.before_node is not None:
            self.before_node(node.name)
        try:
            arguments = self._arguments(node)
            result = _call(converter, self.ctx, arguments, node.target)
            self._check_bindings(bound)
            self._check_others(bound)
            self._bind_weights(first)
            self._check_layers(first)
            result = self._check_result(node, result)
        except KeyboardInterrupt:
            raise
        except BaseException as raised:  # also SystemExit: a converter must not end a compile
            error = self._spoiled(raised, bound)
            failure = self._failure(node, converter, error, mark, first)
            failure.__cause__ = error
            self.failures.append(failure)
            if isinstance(error, _Spoiled):
                self._raise_failures()
            self.store.settle()
            stand_in = self._stand_in(node)
            self.record.settle()
            return stand_in
        self.record.settle()
        self._name_layers(node, first)
        return result

    def _stand_in(self, node: Node) -> Any:
        """Network inputs in the place of what a failed node would have given.

        They are what the nodes behind it get when it runs in torch, so that what fails on them fails then too. This
        network is not built.
        """
        value = node.meta.get("val")
        if isinstance(value, (list, tuple)):
            return [self._input_like(f"{node.name}_{index}", item) for index, item in enumerate(value)]
        return self._input_like(node.name, value)

    def _input_like(self, name: str, value: Any) -> Any:
        if not isinstance(value, torch.Tensor):
            return None
        dims = [expression_of(dim) for dim in value.shape]
        static = tuple(dim if isinstance(dim, int) else -1 for dim in dims)
        try:
            tensor = self.network.add_input(f"{name} (failed)", self.backend.trt_dtype(value.dtype), static)
        except TrtcoreError:
            tensor = None
        if tensor is None:
            self._raise_failures()
        self.ctx.know(tensor, dims)
        return tensor

    def _raise_failures(self) -> NoReturn:
        first, *others = self.failures
        first.others = tuple(others)
        raise first

    def _inline(self, graph_module: torch.fx.GraphModule, inputs: Sequence[Any]) -> Any:
        """A subgraph's nodes, inside the converter of the node that was given it; see `ConversionContext.inline`."""
        given, outer = iter(inputs), self.ctx.node
        result: Any = None
        record = GraphRecord(GraphRecord(graph_module.graph).rebuilt())  # it is the lowered graph's own
        self.subgraphs.append(record)
        for node in record.nodes:
            if node.op == "placeholder":
                self.env[node] = next(given)
                self._bind_carried(node)
            elif is_size(node) or node.target in _COMPARISONS:
                self.env[node] = self._size(node)
            elif node.op == "get_attr":
                self.env[node] = attribute(graph_module, str(node.target))
            elif node.op == "output":
                result = torch.fx.map_arg(node.args[0], self._value)
            elif node.target is operator.getitem:
                source, index = node.args
                assert isinstance(source, Node)
                self.env[node] = self.env[source][index]
            else:
                self.ctx.node = node
                self.env[node] = self._inlined(node)
        self.ctx.node = outer
        return result

    def _inlined(self, node: Node) -> Any:
        selection = self.compile_context.registry.select(node, self.compile_context)
        if selection.chosen is None:
            raise ConversionError(f"in its subgraph, {describe(node)}: {selection.reason}")
        result = _call(selection.chosen, self.ctx, self._arguments(node), node.target)
        return self._check_result(node, result)

    def _bind_carried(self, placeholder: Node) -> None:
        """An int that a loop carries is a symbol of its own in the loop's graphs."""
        value = placeholder.meta.get("val")
        if isinstance(value, torch.SymInt) and getattr(expression_of(value), "is_Symbol", False):
            self.ctx.bind_symbol(str(expression_of(value)), lambda: self.env[placeholder])

    def _size(self, node: Node) -> Any:
        """A size or a condition on sizes that a subgraph computes."""
        value = node.meta.get("val")
        if isinstance(value, torch.SymInt):
            return _Symbolic(expression_of(value))
        if isinstance(value, (int, float, bool)):
            return value
        if node.target not in _COMPARISONS:
            raise ConversionError(f"in its subgraph, {describe(node)}: it is computed on the host")
        compared, negated = _COMPARISONS[node.target]
        operands: list[Any] = [self._value(arg) if isinstance(arg, Node) else arg for arg in node.args]
        result = self.ctx.elementwise(operands[0], operands[1], compared)
        return self.ctx.unary(result, "NOT") if negated else result

    def _value(self, node: Node) -> Any:
        value = self.env[node]
        return self.ctx.symbolic(value.expression) if isinstance(value, _Symbolic) else value

    def _arguments(self, node: Node) -> dict[str, Any]:
        def value_of(item: Any) -> Any:
            if isinstance(item, Node):
                return self._value(item)
            if isinstance(item, (list, tuple)):
                return type(item)(value_of(part) for part in item)
            return item

        return {name: value_of(value) for name, value in node_arguments(node).items()}

    def _bind_weights(self, first: int) -> None:
        for index in range(first, self.network.num_layers):
            layer = self.network.get_layer(index)
            type_name = self.trt.ILayer.type.fget(layer).name  # some layer classes shadow `type`
            if type_name in WeightStore.ROLES:
                layer.__class__ = getattr(self.trt, LAYER_CLASSES[type_name])
                self.store.bind(index, layer, type_name)
        self.store.settle()

    def _check_layers(self, first: int) -> None:
        """TensorRT's type and shape errors appear only when an output's shape is read."""
        for index in range(first, self.network.num_layers):
            layer = self.network.get_layer(index)
            for output in range(layer.num_outputs):
                tensor = layer.get_output(output)
                if tensor is not None:
                    _ = tensor.shape, tensor.dtype
                    self.tensors.add(tensor)

    def _is_of_network(self, tensor: Any) -> bool:
        """Whether a tensor is one of this network; TensorRT ends the process where another's is used."""
        if tensor not in self.tensors:
            net = self.network
            self.tensors.update(net.get_input(i) for i in range(net.num_inputs))
            layers = (net.get_layer(i) for i in range(net.num_layers))
            self.tensors.update(layer.get_output(i) for layer in layers for i in range(layer.num_outputs))
        return tensor in self.tensors

    def _check_bindings(self, inputs: int) -> None:
        """A network's inputs and outputs are the segment's. What a converter marks is taken back.

        Args:
            inputs: how many there were.
        """
        network = self.network
        marked = [network.get_output(i) for i in range(network.num_outputs)]
        for tensor in marked:
            network.unmark_output(tensor)
        if marked:
            raise ConversionError("the converter marked an output of the network; it returns its results")
        if network.num_inputs > inputs:
            raise ConversionError("the converter added an input to the network; its inputs are its arguments")
        changed = [name for name, value in self._given.items() if getattr(self.ctx, name, None) is not value]
        if changed:
            raise ConversionError(f"the converter set ctx.{changed[0]}, which other converters use as well")

    def _check_others(self, inputs: int) -> None:
        """The graph, the network's inputs and the layers of other converters are as they were."""
        changed = "the network's inputs" if self.network.num_inputs < inputs else ""
        if not changed and self.watchful:
            changed = self.changed()
        if changed:
            self.restore()
            raise _Spoiled(f"the converter changed {changed}", advice=_LEAVE_ALONE)

    def refuse_changed_weights(self) -> None:
        """Raise where a converter wrote to a weight of the model, which nobody can take back."""
        if name := self.weights.difference():
            who = f"one of the converters {', '.join(self.foreign)}" if self.foreign else "a converter"
            raise PackError(
                f"{who} wrote into the model's weight {name} while {self.segment.name} was converted: the model is "
                "not what it was, and nothing is compiled from it",
                advice="load the model's weights anew; and have the converter compute on a copy (weight.clone()), or "
                "leave its op to torch with torch_executed_ops",
            )

    def _spoiled(self, error: BaseException, inputs: int) -> BaseException:
        """What a converter raised, or that it has changed what others rely on."""
        if isinstance(error, _Spoiled):
            return error
        try:
            self._check_others(inputs)
        except _Spoiled as spoiled:
            return spoiled
        return error

    def _check_result(self, node: Node, result: Any) -> Any:
        expected = node.meta.get("val")
        if isinstance(expected, (list, tuple)):
            if not isinstance(result, (list, tuple)) or len(result) != len(expected):
                raise ConversionError(
                    f"the op returns {len(expected)} values, its converter returned {_what(result)}"
                )
            used = {user.args[1] for user in node.users if user.target is operator.getitem}
            return [
                self._check_tensor(f"output {i}", want, got) if got is not None or i in used else None
                for i, (want, got) in enumerate(zip(expected, result))
            ]
        return self._check_tensor("the output", expected, result)

    def _check_tensor(self, which: str, expected: Any, got: Any) -> Any:
        if isinstance(got, torch.Tensor):
            got = self.ctx.constant(got)
        if not self.ctx.is_tensor(got):
            raise ConversionError(f"the converter returned {_what(got)} for {which}, not a trt.ITensor")
        if not self._is_of_network(got):
            raise ConversionError(
                f"the converter returned a tensor of another network for {which}",
                advice="make tensors in each call: one that a converter keeps belongs to a network that is gone",
            )
        if not isinstance(expected, torch.Tensor):
            return got
        dtype, shape = self.ctx.dtype(got), self.ctx.shape(got)
        if dtype != expected.dtype:
            raise ConversionError(f"the converter made {which} {dtype}, the op gives {expected.dtype}")
        traced = [expression_of(dim) for dim in expected.shape]
        wanted = tuple(dim if isinstance(dim, int) else -1 for dim in traced)
        if len(shape) != len(wanted) or any(a != b for a, b in zip(shape, wanted) if a != -1 and b != -1):
            raise ConversionError(f"the converter made {which} of shape {shape}, the op gives {wanted}")
        for dim, (got_dim, size) in enumerate(zip(shape, traced)):
            if got_dim != -1 and not isinstance(size, int) and not self._is_fixed(size, got_dim):
                raise ConversionError(
                    f"the converter fixed dim {dim} of {which} to {got_dim}, and the op gives {size}, which varies",
                    advice="compute it from the inputs' shapes (ctx.shape, ctx.shape_of), or leave out "
                    "supports_dynamic_shapes=True",
                )
        self.ctx.know(got, traced)
        return got

    def _is_fixed(self, size: Any, value: int) -> bool:
        """Whether a symbolic size has this one value in its whole range: by its bounds, or at each of its sizes, where
        they are few. After a pad to a multiple of 8, ``n // (n // 8)`` is 8, which no bounds say."""
        if bounds(size, self.ranges)[::2] == (value, value):
            return True
        spans = {name: self.ranges[name] for name in free_symbols([size])}
        if math.prod(span.max - span.min + 1 for span in spans.values()) > _MOST_SIZES:
            return False
        expression = parse(to_text(size))
        sizes = itertools.product(*(range(span.min, span.max + 1) for span in spans.values()))
        try:
            return all(expression.evaluate(dict(zip(spans, at))) == value for at in sizes)
        except ArtifactError:  # a division by zero at one of them
            return False

    def _failure(
        self, node: Node, converter: Converter, error: BaseException, mark: int, first: int
    ) -> NodeConversionError:
        said = (
            error.tensorrt if isinstance(error, TrtcoreError) and error.tensorrt else self.logger.since(mark)
        )
        what = (
            error.message
            if isinstance(error, TrtcoreError)
            else f"{type(error).__name__}: {shown(error, str)}"
        )
        code = code_line(converter.implementation, error)
        return NodeConversionError(
            f"the converter {converter.name} of {op_name(node.target)} failed: {what}",
            node=node.name,
            where=describe(node),
            pack=converter.source_version,
            code=code,
            tensorrt=said,
            layers=[self._layer_text(index) for index in range(first, self.network.num_layers)],
            advice=(error.advice if isinstance(error, TrtcoreError) and error.advice else None)
            or f"correct it{f' at {code}' if code else ''}; until then leave the op to torch with "
            "torch_executed_ops, or choose another converter with pins or converters=",
        )

    def _layer_text(self, index: int) -> str:
        """``ELEMENTWISE -> float32[2, 3]``; "refused" where TensorRT gives no shape."""
        layer = self.network.get_layer(index)
        results = []
        for output in range(layer.num_outputs):
            tensor = layer.get_output(output)
            try:
                results.append(f"{tensor.dtype.name.lower()}{list(tensor.shape)}")
            except Exception:  # what is wrong with it stands in TensorRT's own lines
                results.append("refused")
        return f"{self.trt.ILayer.type.fget(layer).name} -> {', '.join(results)}"

    def _name_layers(self, node: Node, first: int) -> None:
        last = self.network.num_layers
        path = module_path(node) or "model"
        base = f"{path}/{op_name(node.target)}/{node.name}"[:_NAME_LIMIT]
        said = {"note": "; ".join(self.ctx.notes)} if self.ctx.notes else {}
        metadata = json.dumps({"node": node.name, "module": path, "source": source_line(node), **said})
        for index in range(first, last):
            layer = self.network.get_layer(index)
            name = base if last - first == 1 else f"{base}/{index - first}"
            while name in self._names:
                name += "'"
            self._names.add(name)
            layer.name = name
            if hasattr(layer, "metadata"):
                layer.metadata = metadata if len(metadata) < _NAME_LIMIT else node.name[:_NAME_LIMIT]
            self.node_of_layer[name] = node.name

    # ---- outputs ----------------------------------------------------------------------------------

    def _mark_outputs(self, node: Node) -> tuple[TensorBinding, ...]:
        bindings: list[TensorBinding] = []
        taken = {
            self.env[source] for source in self.env if source.op == "placeholder" and not is_size(source)
        }
        for source in node.args[0]:  # type: ignore[union-attr]
            assert isinstance(source, Node)
            tensor = self.env[source]
            first = self.network.num_layers
            if tensor in taken or not _made_by_layer(tensor):
                tensor = self.ctx.output(self.network.add_identity(tensor))
                self._name_layers(source, first)
            taken.add(tensor)
            value: torch.Tensor = source.meta["val"]
            name = source.name if source.name not in {b.name for b in self.inputs} else f"{source.name}_out"
            tensor.name = name
            self.network.mark_output(tensor)
            shape = tuple(
                d if isinstance(d := expression_of(dim), int) else to_text(d) for dim in value.shape
            )
            bindings.append(TensorBinding(name, value.dtype, shape, None))
        return tuple(bindings)


def _profile(dims: Sequence[Any], ranges: Mapping[str, SymbolRange]) -> Profile:
    """A shape at (min, opt, max) of the symbols' ranges."""
    rows = [bounds(dim, ranges) for dim in dims]
    low, opt, high = (tuple(row[index] for row in rows) for index in range(3))
    return low, opt, high


_COMPARISONS: Mapping[Any, tuple[str, bool]] = {
    operator.lt: ("LESS", False),
    operator.gt: ("GREATER", False),
    operator.le: ("GREATER", True),
    operator.ge: ("LESS", True),
    operator.eq: ("EQUAL", False),
    operator.ne: ("EQUAL", True),
}
"""A comparison of sizes -> the operation, and whether its answer is negated."""


@dataclass(frozen=True)
class _Symbolic:
    expression: Any


def _call(converter: Converter, ctx: ConversionContext, arguments: dict[str, Any], target: Any) -> Any:
    """Call a converter as the op is called: positional arguments, keyword-only ones by name."""
    parameters = parameters_of(target)
    if parameters is None:  # no signature: positional arguments are named by their numbers
        by_name = {name for name in arguments if not name.isdigit()}
    else:
        by_name = {parameter.name for parameter in parameters if parameter.keyword_only}
    positional = [value for name, value in arguments.items() if name not in by_name]
    keywords = {name: value for name, value in arguments.items() if name in by_name}
    try:
        return converter.implementation(ctx, *positional, **keywords)
    except TypeError as error:
        if error.__traceback__ is None or error.__traceback__.tb_next is not None:  # raised inside of it
            raise
        names = [name for name in arguments if name not in by_name]
        call = ", ".join(["ctx", *names, *(f"{name}=" for name in keywords)])
        raise ConversionError(f"{error}: it is called as the op, with ({call})") from error


def _made_by_layer(tensor: Any) -> bool:
    return not tensor.is_network_input


def _what(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return f"a {type(value).__name__} of {len(value)}"
    return f"{type(value).__name__} {value!r}"[:120]
