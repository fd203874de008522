"""In which number formats an engine's products are given to TensorRT, read from its network."""

from __future__ import annotations

from collections.abc import Mapping

from trtcore.artifact.snapshot import LayerSnapshot, NetworkSnapshot

#: Layers whose work is products, and how many operands they multiply (ATTENTION_INPUT: query, key, value).
_PRODUCTS = {
    "CONVOLUTION": 2,
    "DECONVOLUTION": 2,
    "MATRIX_MULTIPLY": 2,
    "EINSUM": 2,
    "ATTENTION_INPUT": 3,
}
_THROUGH = frozenset({"SHUFFLE", "IDENTITY", "SQUEEZE", "UNSQUEEZE"})
_NAMES = {
    "float8_e4m3fn": "float8",
    "float4_e2m1fn_x2": "float4",
}


def precisions(network: NetworkSnapshot) -> dict[int, str]:
    """For each layer of products, by its index: the format of what it multiplies.

    ``float32`` where nothing is quantised; ``int8`` where a dequantise layer of int8 makes every operand;
    ``float16, weights int4`` where only constants are quantised; ``float32, inputs int8`` where only those are.
    """
    made_by = {output: layer for layer in network.layers for output in layer.outputs}
    return {
        layer.index: _of_layer(layer, network, made_by)
        for layer in network.layers
        if layer.type in _PRODUCTS and layer.outputs
    }


def _of_layer(layer: LayerSnapshot, network: NetworkSnapshot, made_by: Mapping[int, LayerSnapshot]) -> str:
    operands = [one for one in layer.inputs[: _PRODUCTS[layer.type]] if one is not None]
    found = [_operand(one, network, made_by) for one in operands]
    if "kernel" in layer.constants:
        found.append(("weights", ""))
    formats = {name for _, name in found}
    plain = _name(network.tensors[operands[0]].dtype)
    if len(formats) == 1:
        return formats.pop() or plain
    quantised = dict.fromkeys(f"{kind} {name}" for kind, name in found if name)
    return ", ".join([plain, *quantised])


def _operand(tensor: int, network: NetworkSnapshot, made_by: Mapping[int, LayerSnapshot]) -> tuple[str, str]:
    """Whether an operand is "weights" or "inputs", and the format that it is dequantised from; "" where it is not."""
    maker = _maker(tensor, made_by)
    name, stored = "", maker
    if maker is not None and maker.type == "DEQUANTIZE" and maker.inputs[0] is not None:
        name = _name(network.tensors[maker.inputs[0]].dtype)
        stored = _maker(maker.inputs[0], made_by)
    return "weights" if stored is not None and stored.type == "CONSTANT" else "inputs", name


def _maker(tensor: int | None, made_by: Mapping[int, LayerSnapshot]) -> LayerSnapshot | None:
    """What makes a tensor, looking through layers that only view it."""
    layer = made_by.get(tensor) if tensor is not None else None
    while layer is not None and layer.type in _THROUGH and layer.inputs:
        tensor = layer.inputs[0]
        layer = made_by.get(tensor) if tensor is not None else None
    return layer


def _name(dtype: object) -> str:
    name = str(dtype).removeprefix("torch.")
    return _NAMES.get(name, name)
