"""A model's weights off the GPU while its engines are built (``offload_module_to_cpu``)."""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import torch
from torch.fx import GraphModule, Node

from trtcore.ir.aliases import storage
from trtcore.ir.graphs import attribute, set_attribute, written_by


def offload(graph_module: GraphModule) -> None:
    """Move the weights of a graph from the GPU to the CPU, in place: the model's own tensors are there from then on.

    What the graph writes to stays. Warns where nothing is on a GPU.
    """
    written = {
        memory for node in graph_module.graph.nodes for one in written_by(node) if (memory := storage(one))
    }
    moved: dict[tuple[torch.device, int], torch.UntypedStorage] = {}
    found = False
    for node, tensor in _weights(graph_module):
        if tensor.device.type == "cpu":
            continue
        found = True
        if storage(node) in written:
            continue
        whole = tensor.untyped_storage()
        key = whole.device, whole.data_ptr()
        if key not in moved:
            moved[key] = whole.cpu()  # type: ignore[no-untyped-call]
        place = tensor.storage_offset(), tensor.shape, tensor.stride()
        tensor.data = torch.empty(0, dtype=tensor.dtype).set_(moved[key], *place)
    if not found:
        warnings.warn(
            "offload_module_to_cpu=True changes nothing: the model is on the CPU already",
            UserWarning,
            stacklevel=4,
        )


def back_on_device(graph_module: GraphModule) -> None:
    """Put the weights that torch ops of the hybrid graph read where these compute; copies, not the model's own."""
    for node, tensor in _weights(graph_module):
        value = node.meta.get("val")
        if isinstance(value, torch.Tensor) and value.device != tensor.device and value.device.type != "cpu":
            there = tensor.detach().to(value.device)
            is_parameter = isinstance(tensor, torch.nn.Parameter)
            made = torch.nn.Parameter(there, tensor.requires_grad) if is_parameter else there
            set_attribute(graph_module, str(node.target), made)


def _weights(graph_module: GraphModule) -> Iterator[tuple[Node, torch.Tensor]]:
    for node in graph_module.graph.find_nodes(op="get_attr"):
        value = attribute(graph_module, str(node.target))
        if isinstance(value, torch.Tensor):
            yield node, value
