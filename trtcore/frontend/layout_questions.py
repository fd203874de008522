"""What a model makes of the layout of its inputs, which torch.export takes as it comes.

``x.contiguous()`` of a contiguous tensor leaves nothing in a trace, but of another one it is a copy, and a write to
either is then seen by one alone. ``x.is_contiguous()`` and ``x.stride()`` are answered once, and branches on them are
taken for good.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from types import FrameType
from typing import Any

import torch
from torch.export import ExportedProgram
from torch.overrides import TorchFunctionMode

from trtcore.frontend.comparing import operations
from trtcore.ir.aliases import find_unsaid
from trtcore.ir.exported import unlifted_module
from trtcore.ir.graphs import mutates
from trtcore.ir.layouts import drop_nothings, layouts_of, remember_layouts, seen_in_memory

_QUESTIONS = frozenset(
    {
        torch.Tensor.is_contiguous,
        torch.Tensor.stride,
        torch.Tensor.storage_offset,
        torch.Tensor.dim_order,
        torch.Tensor.is_set_to,
    }
)

Layout = Callable[[torch.Tensor], torch.Tensor]
Capture = Callable[[Sequence[Any]], ExportedProgram]


class LayoutQuestions(TorchFunctionMode):
    """While a model is traced: leaves every ``contiguous`` in the graph, and notes whether the model asks for layouts.

    Attributes:
        asked: it did. Torch's own functions, which compute the same for every layout, and ours do not count.
    """

    def __init__(self) -> None:
        super().__init__()
        self.asked = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if torch.compiler.is_dynamo_compiling():  # the branches of a torch.cond
            return func(*args, **kwargs)
        if func is torch.Tensor.contiguous:
            return torch.ops.aten.contiguous.default(*args, **kwargs)
        if func in _QUESTIONS and not isinstance(args[0], torch.nn.Parameter) and not _others_ask():
            self.asked = True
        return func(*args, **kwargs)


def _others_ask() -> bool:
    """Whether a method of a tensor was called by torch's own code (its tracers, and layers that want to be fast) or by
    ours, and not by the model."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code.co_name == "__torch_function__":  # other modes'
        frame = frame.f_back
    return frame is not None and str(frame.f_globals.get("__name__")).partition(".")[0] in (
        "torch",
        "trtcore",
    )


def settled(examples: Sequence[Any], capture: Capture) -> ExportedProgram:
    """A captured program with the inputs whose layout decides what it computes (`trtcore.ir.layouts.layouts_of`).

    Args:
        examples: the flat inputs.
        capture: exports the model with such inputs.
    """
    with LayoutQuestions() as questions:
        ep = capture(examples)
    if questions.asked and _depends(ep, examples, capture):
        remember_layouts(ep, _tensors(examples))
    if any(map(mutates, ep.graph_module.graph.nodes)):
        # Of the ``contiguous`` that are about to leave, too; a copy of the graph has what aliases leave unsaid.
        graph = unlifted_module(ep).graph
        find_unsaid(graph)
        seen, _ = seen_in_memory(graph)
        places = enumerate(graph.find_nodes(op="placeholder"))
        remember_layouts(ep, frozenset(place for place, node in places if node in seen))
    drop_nothings(ep)
    return ep


def with_layouts_of_another(
    ep: ExportedProgram, examples: Sequence[Any], capture: Capture
) -> ExportedProgram:
    """A program that Dynamo captured, which looks at no mode, with the layouts of what `capture` makes of the model.

    Where that fails, a program that writes to anything wants all inputs as they were.
    """
    places = _tensors(examples) if any(map(mutates, ep.graph_module.graph.nodes)) else frozenset()
    with suppress(Exception):
        places = layouts_of(settled(examples, capture))
    remember_layouts(ep, places)
    return ep


def _tensors(examples: Sequence[Any]) -> frozenset[int]:
    return frozenset(place for place, example in enumerate(examples) if isinstance(example, torch.Tensor))


def _depends(ep: ExportedProgram, examples: Sequence[Any], capture: Capture) -> bool:
    """Whether the model becomes another graph when it gets inputs in other layouts."""
    known = _computed(ep)
    for laid_out in _other_layouts(examples):
        with suppress(Exception):  # the model does not work then; eager says so, too
            with LayoutQuestions():
                other = _computed(capture(laid_out))
            if other == known:
                continue
        return True
    return False


def _computed(ep: ExportedProgram) -> list[Any]:
    """What the graph computes, without the copies that only change a layout where nothing is written."""
    writes = any(map(mutates, ep.graph_module.graph.nodes))
    copies = () if writes else (torch.ops.aten.contiguous.default, torch.ops.aten.clone.default)
    return operations(ep, {}, through=copies)


def _other_layouts(examples: Sequence[Any]) -> Iterator[list[Any]]:
    """The examples as they are not: contiguous, with steps between elements, turned round, and channels last."""
    seen = [_strides(examples)]
    for layout in (_plain, _channels_last, _turned, _stepped):
        made = [layout(one) if isinstance(one, torch.Tensor) and one.dim() else one for one in examples]
        if _strides(made) not in seen:
            seen.append(_strides(made))
            yield made


def _strides(examples: Sequence[Any]) -> list[Any]:
    return [(one.stride(), one.storage_offset()) for one in examples if isinstance(one, torch.Tensor)]


def _plain(example: torch.Tensor) -> torch.Tensor:
    return example.clone(memory_format=torch.contiguous_format)


def _channels_last(example: torch.Tensor) -> torch.Tensor:
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    return example.clone(memory_format=formats.get(example.dim(), torch.contiguous_format))


def _turned(example: torch.Tensor) -> torch.Tensor:
    return example.transpose(0, -1).clone(memory_format=torch.contiguous_format).transpose(0, -1)


def _stepped(example: torch.Tensor) -> torch.Tensor:
    """Every second element of a tensor, from the second on."""
    return torch.stack([example, example], -1)[..., 1]
