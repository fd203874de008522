"""From layers to an fx graph: each layer's evaluator is asked for its values, in an order that fits.

A loop becomes one call of `control.run_loop`, with the body's own graph module as an operand.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import fx

from trtcore.pack import ConversionError, LayerSnapshot, NetworkSnapshot
from trtcore_reference.control import run_loop
from trtcore_reference.emit import Emitter, Evaluator
from trtcore_reference.recurrent import cell_of, run_layer
from trtcore_reference.region import Engine, Region
from trtcore_reference.schedule import Loop, schedule
from trtcore_reference.values import ADVICE, Const

Table = Mapping[str, Evaluator]


def compile_snapshot(snapshot: NetworkSnapshot, evaluators: Table) -> fx.GraphModule:
    """Compile a snapshot to one fx graph module: (*inputs) -> tuple of outputs, both in the snapshot's order.

    It runs on the device of its inputs: the first that is not on the CPU decides, and constants are copied
    there on the first call (`module.constants`, see `staging.Constants`). Shapes are computed on the CPU.
    Outputs are on that device too, contiguous, and share memory with no input or constant. Inputs are
    trusted: whoever calls checks dtypes and ranges.

    Raises:
        ConversionError: a layer, or an attribute of it, that has no evaluator; the message names the layer.
    """
    engine = Engine(snapshot)
    region = Region(engine)
    region.open(snapshot.inputs)
    write(region, snapshot.layers, evaluators)
    inputs = [region.value(tensor, False) for tensor in snapshot.inputs]
    region.close([region.value(tensor, False) for tensor in snapshot.outputs], inputs)
    object.__setattr__(region.root, "constants", engine.constants)
    with torch.no_grad():
        module = fx.GraphModule(region.root, region.graph, class_name="ReferenceEngine")
    object.__setattr__(module, "constants", engine.constants)  # neither parameter, buffer nor submodule
    return module


def write(region: Region, layers: Sequence[LayerSnapshot], table: Table) -> None:
    """Write `layers` into the region's graph, in the order of their data dependencies."""
    for item in schedule(layers, region.engine.conditions):
        if isinstance(item, Loop):
            _write_loop(region, item, table)
        else:
            _write_layer(region, item, table)


def _write_layer(region: Region, layer: LayerSnapshot, table: Table) -> None:
    evaluator = table.get(layer.type)
    if evaluator is None:
        raise ConversionError(
            f"the reference runtime has no evaluator for layer {layer.name!r} of type {layer.type}",
            advice=ADVICE,
        )
    host = any(tensor in region.engine.host for tensor in layer.outputs)
    results = evaluator(Emitter(region, layer, host))
    if isinstance(results, (fx.Node, Const)):
        results = (results,)
    for tensor, value in zip(layer.outputs, results):
        region.define(tensor, value, host=host)


def _write_loop(region: Region, loop: Loop, table: Table) -> None:
    """Write a loop as one call of `run_loop`.

    The body becomes a graph module (staged constants, *states, *iterated slices, *captured values) ->
    (*next states, *values to collect), the conditions of the next iteration another.
    """
    where = loop.boundary[0].name
    counts = [limit for limit in loop.limits if limit.attributes["kind"] == "COUNT"]
    whiles = [limit for limit in loop.limits if limit.attributes["kind"] == "WHILE"]
    if not loop.limits:
        raise ConversionError(f"the loop of layer {where!r} has no trip limit")
    collected = [x for x in loop.outputs if x.attributes["kind"] != "LAST_VALUE"]
    nexts = [*(_input(x, 1) for x in loop.recurrences), *(_input(x, 0) for x in collected)]
    step, captured = _body(region, loop, nexts, table)
    test: fx.Node | None = None
    test_captured: list[fx.Node] = []
    if whiles:
        checks, test_captured = _body(region, loop, [_input(x, 0) for x in whiles], table)
        test = region.submodule(checks)
    iterators = [
        (_operand(region, _input(x, 0), host=False), x.attributes["axis"], x.attributes["reverse"])
        for x in loop.iterators
    ]
    lengths = [
        _operand(region, x.inputs[1], host=True) if len(x.inputs) > 1 and x.inputs[1] is not None else None
        for x in collected
    ]
    layer = None
    if test is None and not captured and len(iterators) == len(collected) == len(counts) == 1:
        layer = _write_layer_of(region, loop, step, iterators[0], collected[0], lengths[0])
    outputs = layer or region.add(
        run_loop,
        (
            region.submodule(step),
            test,
            region.stage_node,
            tuple(_operand(region, _input(x, 0), host=True) for x in counts),
            tuple(_operand(region, _input(x, 0), host=False) for x in loop.recurrences),
            tuple(iterators),
            tuple((x.attributes["kind"], x.attributes["axis"]) for x in collected),
            tuple(lengths),
            tuple(captured),
            tuple(test_captured),
        ),
        {},
        loop.boundary[0],
    )
    _define_outputs(region, loop, collected, outputs)


def _write_layer_of(
    region: Region,
    loop: Loop,
    step: fx.GraphModule,
    iterator: tuple[fx.Node, int, bool],
    collected: LayerSnapshot,
    length: fx.Node | None,
) -> fx.Node | None:
    """A loop that is a recurrent layer, as one call; None where it is something else."""
    product, axis, reverse = iterator
    cell = cell_of(step, len(loop.recurrences)) if product.target is F.linear else None
    if cell is None:
        return None
    x, of_x, *bias = product.args
    of_h, of_bias, *projection = (slot if slot is None else region.staged_item(slot) for slot in cell.weights)
    bias = [one for one in bias if one is not None]
    if bool(bias) != (of_bias is not None):
        return None
    weights = (of_x, of_h, *((bias[0], of_bias) if bias else ()), *projection)
    return region.add(
        run_layer,
        (
            cell.kernel, x, weights, bool(bias), region.submodule(step), region.stage_node,
            _operand(region, _input(loop.limits[0], 0), host=True),
            tuple(_operand(region, _input(one, 0), host=False) for one in loop.recurrences),
            axis, reverse, (collected.attributes["kind"], collected.attributes["axis"]), length,
        ),
        {},
        loop.boundary[0],
    )  # fmt: skip


def _body(
    region: Region, loop: Loop, results: Sequence[int], table: Table
) -> tuple[fx.GraphModule, list[fx.Node]]:
    """The loop's layers as a graph module that returns `results`, and what it captures of `region`."""
    inner = Region(region.engine, region)
    inner.open_body([x.outputs[0] for x in (*loop.recurrences, *loop.iterators)])
    write(inner, loop.body, table)
    inner.close([inner.value(tensor, False) for tensor in results])
    return fx.GraphModule(inner.root, inner.graph), inner.captured


def _define_outputs(region: Region, loop: Loop, collected: Sequence[LayerSnapshot], outputs: fx.Node) -> None:
    """Say which of `run_loop`'s results is which of the loop's outputs."""
    places = {x.outputs[0]: position for position, x in enumerate(loop.recurrences)}
    for layer in loop.outputs:
        place = places.get(_input(layer, 0))
        if layer.attributes["kind"] != "LAST_VALUE":
            place = len(loop.recurrences) + collected.index(layer)
        elif place is None:
            raise ConversionError(f"loop output {layer.name!r} is the last value of no recurrence")
        region.define(layer.outputs[0], region.add(operator.getitem, (outputs, place), {}, layer), host=False)


def _input(layer: LayerSnapshot, index: int) -> int:
    found = layer.inputs[index] if index < len(layer.inputs) else None
    if found is None:
        raise ConversionError(f"layer {layer.name!r} of a loop lacks input {index}")
    return found


def _operand(region: Region, tensor: int | None, *, host: bool) -> fx.Node:
    assert tensor is not None
    value = region.value(tensor, host)
    return region.staged(value, host) if isinstance(value, Const) else value
