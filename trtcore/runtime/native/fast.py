"""The usual call of an engine as straight-line code, generated for it.

What a call must be is compared with constants, everything else is what the first call of these shapes on this stream
left in a context. Per call: one lookup, an allocation per output and one for scratch, an address where it changed, one
execute; no lock, no event, no device guard. What is not as usual gives None: then `Engine.run` does it, with its
messages.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any

import torch

from trtcore.artifact.manifest import EngineManifest
from trtcore.runtime.native.cuda import Ambient
from trtcore.runtime.profiles import Chosen, chosen
from trtcore.runtime.usual import arguments, is_static, made, shape_key

Fast = Callable[[Sequence[torch.Tensor], Sequence[int]], "list[torch.Tensor] | None"]

Ready = dict[Hashable, list[Any]]
"""Idle contexts by what they have run: (device, stream), then what `shape_key` has. A key's list is never another's."""


def ready_key(
    manifest: EngineManifest,
    index: int,
    stream: int,
    inputs: Sequence[torch.Tensor],
    sizes: Sequence[int],
    wanted: Chosen,
) -> Hashable:
    """The key of a call, as the generated code makes it."""
    if is_static(manifest):
        return index, stream
    return (index, stream, *(tensor.shape for tensor in inputs), *sizes, wanted)


def make_fast(
    manifest: EngineManifest,
    ready: Ready,
    ambient: Ambient,
    alignment: int,
    refused: Any,
    *,
    checked: bool = False,
) -> Fast:
    """The usual call of a native engine.

    Args:
        manifest: what the engine takes and gives.
        ready: contexts to take; the engine's other calls put them there.
        ambient: torch.
        alignment: of inputs, in bytes.
        refused: makes the error of what TensorRT refused, from a text.
        checked: see `arguments`.

    Returns:
        (inputs, sizes) -> new outputs, or None for a call that is not usual.
    """
    inputs, outputs = range(len(manifest.inputs)), range(len(manifest.outputs))
    if not inputs:
        return lambda inputs, sizes: None  # which device it is, the call does not tell
    lines = [
        *arguments(manifest, ("is_contiguous()",), checked=checked),
        "device = a0.get_device()",
        "if device != current_device() or capturing():",
        "    return None",
        *(f"p{i} = a{i}.data_ptr()" for i in inputs),
        f"if ({' | '.join(f'p{i}' for i in inputs)}) & {alignment - 1}:",
        "    return None",
        f"pool = ready.get((device, raw_stream(device){shape_key(manifest)}))",
        "if not pool:",
        "    return None",
        "try:",
        "    e = pool.pop()",
        "except IndexError:",  # another thread was faster
        "    return None",
        *(f"if p{i} != e.p{i}:\n    set_input(e, {i}, p{i})" for i in inputs),
        *(line for i in outputs for line in _output(manifest, i)),
        "size = e.scratch",
        "if size:",
        "    scratch = empty((size,), (1,), uint8)",
        "    w = scratch.data_ptr()",
        "    if w != e.scratch_address:",
        "        e.set_memory(w, size)",
        "        e.scratch_address = w",
        "if not e.execute(e.stream):",
        "    raise refused('to run')",
        "pool.append(e)",
        f"return [{', '.join(f'o{i}' for i in outputs)}]",
    ]

    def set_input(context: Any, index: int, address: int) -> None:
        context._address(f"p{index}", manifest.inputs[index].name, address)

    def set_output(context: Any, index: int, address: int) -> None:
        context._address(f"q{index}", manifest.outputs[index].name, address)

    names = {
        "ready": ready,
        "current_device": ambient.current_device,
        "raw_stream": ambient.raw_stream,
        "capturing": ambient.capturing,
        "empty": ambient.empty,
        "uint8": torch.uint8,
        "refused": refused,
        "chosen": chosen,
        "set_input": set_input,
        "set_output": set_output,
        **{f"r{i}": manifest.outputs[i].dtype for i in outputs},
    }
    call: Fast = made(f"{manifest.name}, native", lines, manifest, names)
    return call


def _output(manifest: EngineManifest, index: int) -> list[str]:
    static = manifest.static_outputs[index]
    shape = f"e.s{index}, e.t{index}" if static is None else f"{static!r}, {_strides(static)!r}"
    return [
        f"o{index} = empty({shape}, r{index})",
        f"q = o{index}.data_ptr()",
        f"if q != e.q{index}:\n    set_output(e, {index}, q)",
    ]


def _strides(shape: Sequence[int]) -> tuple[int, ...]:
    strides, step = [], 1
    for dim in reversed(shape):
        strides.append(step)
        step *= max(dim, 1)
    return tuple(reversed(strides))
