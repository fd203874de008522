"""GATHER, SCATTER, ONE_HOT, NON_ZERO, NMS, REVERSE_SEQUENCE, KV_CACHE_UPDATE and ROTARY_EMBEDDING."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from trtcore.pack import InputError
from trtcore_reference.emit import Emitter, Evaluator
from trtcore_reference.values import Const, Value

# -- gather ---------------------------------------------------------------------------------------


def gather(e: Emitter) -> Value:
    """Negative indices count from the end; an index outside gives 0."""
    a = e.attributes
    batch = a["num_elementwise_dims"]
    data, indices = e.value(0), e.value(1)
    if a["mode"] == "ELEMENT":
        return e.call(gather_elements, data, indices, a["axis"])
    if a["mode"] == "ND":
        return e.call(gather_tuples, data, indices, batch)
    if a["mode"] != "DEFAULT":
        raise e.unsupported("mode")
    axis = a["axis"]
    if batch:
        return e.call(gather_batched, data, indices, axis, batch)
    length = e.info().shape[axis]
    if isinstance(indices, Const) and length > 0 and indices.tensor.numel():
        low, high = (int(v) for v in indices.tensor.aminmax())
        if -length <= low and high < length:
            if indices.tensor.dim() == 0:
                return e.call(torch.select, data, axis, low % length)
            plain = e.const(torch.where(indices.tensor < 0, indices.tensor + length, indices.tensor))
            if plain.tensor.dim() == 1:
                return e.call(torch.index_select, data, axis, plain)
    return e.call(gather_axis, data, indices, axis)


def wrap_indices(indices: Tensor, length: int) -> tuple[Tensor, Tensor | None]:
    """(indices to read, where they are outside); the latter None if all are inside.

    On a GPU, and where Inductor traces it, that is never None: looking would wait for the device.
    """
    looks = indices.device.type == "cpu" and not torch.compiler.is_compiling()
    if looks:
        if not indices.numel():
            return indices, None
        low, high = (int(v) for v in indices.aminmax())
        if low >= 0 and high < length:
            return indices, None
    wrapped = torch.where(indices < 0, indices + length, indices)
    outside = (wrapped < 0) | (wrapped >= length)
    if looks and not bool(outside.any()):
        return wrapped, None
    return wrapped.clamp(0, max(length - 1, 0)), outside


def gather_axis(x: Tensor, indices: Tensor, axis: int) -> Tensor:
    """Mode DEFAULT: the indices' dims replace `axis`."""
    length = x.shape[axis]
    flat, outside = wrap_indices(indices.reshape(-1), length)
    shape = (*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :])
    if length == 0:
        return x.new_zeros(shape)
    y = x.index_select(axis, flat)
    if outside is not None:
        y = y.masked_fill(outside.view([-1 if i == axis else 1 for i in range(x.dim())]), 0)
    return y.reshape(shape)


def gather_batched(x: Tensor, indices: Tensor, axis: int, batch: int) -> Tensor:
    """Mode DEFAULT with `batch` leading dims shared by data and indices."""
    lead = [max(n, m) for n, m in zip(x.shape[:batch], indices.shape[:batch])]
    x, indices = x.expand(*lead, *x.shape[batch:]), indices.expand(*lead, *indices.shape[batch:])
    rows = math.prod(lead)
    items = [
        gather_axis(one, index, axis - batch)
        for one, index in zip(
            x.reshape(rows, *x.shape[batch:]).unbind(), indices.reshape(rows, *indices.shape[batch:]).unbind()
        )
    ]
    if not items:
        shape = (*x.shape[batch:axis], *indices.shape[batch:], *x.shape[axis + 1 :])
        return x.new_zeros(*lead, *shape)
    return torch.stack(items).reshape(*lead, *items[0].shape)


def gather_elements(x: Tensor, indices: Tensor, axis: int) -> Tensor:
    """Mode ELEMENT: out[i, j, k] = x[i, indices[i, j, k], k]."""
    index, outside = wrap_indices(indices, x.shape[axis])
    y = torch.gather(x, axis, index.long())
    return y if outside is None else y.masked_fill(outside, 0)


def gather_tuples(x: Tensor, indices: Tensor, batch: int) -> Tensor:
    """Mode ND: the last dim of `indices` holds tuples that index x's dims after the `batch` shared ones."""
    width = indices.shape[-1]
    selectors: list[Tensor] = []
    for dim in range(batch):
        shape = [-1 if i == dim else 1 for i in range(indices.dim() - 1)]
        selectors.append(torch.arange(x.shape[dim], device=x.device).view(shape))
    beyond = None
    for place in range(width):
        index, outside = wrap_indices(indices[..., place], x.shape[batch + place])
        selectors.append(index.long())
        if outside is not None:
            beyond = outside if beyond is None else beyond | outside
    y = x[tuple(selectors)]
    if beyond is not None:
        y = y.masked_fill(beyond.reshape(*beyond.shape, *[1] * (y.dim() - beyond.dim())), 0)
    return y


# -- scatter --------------------------------------------------------------------------------------


def scatter(e: Emitter) -> Value:
    """Negative indices count from the end; outside is undefined and raises. Which duplicate wins is not
    promised.
    """
    a = e.attributes
    if a["mode"] == "ELEMENT":
        return e.call(scatter_elements, e.value(0), e.value(1), e.value(2), a["axis"])
    if a["mode"] == "ND":
        return e.call(scatter_tuples, e.value(0), e.value(1), e.value(2))
    raise e.unsupported("mode")


def _inside(indices: Tensor, length: int) -> Tensor:
    if (
        indices.is_cuda
    ):  # to look would be to wait for the GPU: there torch's own kernels assert, as for eager calls
        return torch.where(indices < 0, indices + length, indices).long()
    index, outside = wrap_indices(indices, length)
    if outside is not None and bool(outside.any()):
        raise InputError(f"a Scatter layer has an index outside an axis of {length} elements")
    return index.long()


def scatter_elements(x: Tensor, indices: Tensor, updates: Tensor, axis: int) -> Tensor:
    return x.scatter(axis, _inside(indices, x.shape[axis]), updates)


def scatter_tuples(x: Tensor, indices: Tensor, updates: Tensor) -> Tensor:
    """The last dim of `indices` holds tuples that index x's first dims."""
    selectors = tuple(_inside(indices[..., place], x.shape[place]) for place in range(indices.shape[-1]))
    return x.index_put(selectors, updates)


# -- one-hot, non-zero ----------------------------------------------------------------------------


def one_hot(e: Emitter) -> Value:
    """values[1] at the index, values[0] elsewhere; negative indices count from the end, outside is all
    off.
    """
    depth = e.ints(2)
    given = depth[0] if depth is not None else e.value(2, host=True)
    return e.call(hot, e.value(0), e.value(1), given, e.attributes["axis"])


def hot(indices: Tensor, values: Tensor, depth: Tensor | int, axis: int) -> Tensor:
    count = int(depth)
    axis = axis % (indices.dim() + 1)
    wrapped = torch.where(indices < 0, indices + count, indices).unsqueeze(axis)
    places = torch.arange(count, device=indices.device, dtype=indices.dtype)
    on = wrapped == places.view([-1 if i == axis else 1 for i in range(wrapped.dim())])
    return torch.where(on, values[1], values[0])


def non_zero(e: Emitter) -> Value:
    """Indices [rank, count] of what is not 0, in row-major order; NaN counts."""
    return e.call(nonzero_columns, e.value(), e.out().dtype)


def nonzero_columns(x: Tensor, dtype: torch.dtype) -> Tensor:
    return x.nonzero().mT.to(dtype)


# -- nms ------------------------------------------------------------------------------------------


def nms(e: Emitter) -> Sequence[Value]:
    """Greedy non-maximum suppression: rows (batch, class, box), by batch and falling score; and their
    number.
    """
    threshold = [e.value(i, host=True) if e.has(i) else 0.0 for i in (3, 4)]
    return e.calls(
        2,
        suppress,
        e.value(0),
        e.value(1),
        e.value(2, host=True),
        *threshold,
        e.attributes["bounding_box_format"],
        e.attributes["topk_box_limit"],
        e.out(0).dtype,
    )


def suppress(
    boxes: Tensor,
    scores: Tensor,
    limit: Tensor,
    overlap: Tensor | float,
    threshold: Tensor | float,
    form: str,
    candidates: int,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:
    """See `nms`. A box is kept if its score is above the threshold and its overlap with every kept box
    small enough.
    """
    device = boxes.device
    boxes, scores = boxes.detach().float().cpu(), scores.detach().float().cpu()
    if boxes.dim() == 3:
        boxes = boxes.unsqueeze(2)
    if form == "CENTER_SIZES":
        half = boxes[..., 2:] / 2
        boxes = torch.cat((boxes[..., :2] - half, boxes[..., :2] + half), -1)
    elif form != "CORNER_PAIRS":
        raise NotImplementedError(f"bounding box format {form}")
    lower, upper = (
        torch.minimum(boxes[..., :2], boxes[..., 2:]),
        torch.maximum(boxes[..., :2], boxes[..., 2:]),
    )
    rows = []
    for batch in range(scores.shape[0]):
        kept: list[tuple[float, int, int]] = []
        for label in range(scores.shape[2]):
            place = min(label, boxes.shape[2] - 1)
            found = _greedy(
                lower[batch, :, place],
                upper[batch, :, place],
                scores[batch, :, label],
                int(limit),
                float(overlap),
                float(threshold),
                candidates,
            )
            kept += [(float(scores[batch, box, label]), label, box) for box in found]
        kept.sort(key=lambda item: -item[0])
        rows += [(batch, label, box) for _, label, box in kept]
    selected = torch.tensor(rows, dtype=dtype, device=device).reshape(-1, 3)
    return selected, torch.tensor(len(rows), dtype=torch.int32, device=device)


def _greedy(
    lower: Tensor,
    upper: Tensor,
    scores: Tensor,
    limit: int,
    overlap: float,
    threshold: float,
    candidates: int,
) -> list[int]:
    order = [i for i in torch.argsort(scores, descending=True, stable=True).tolist() if scores[i] > threshold]
    if candidates > 0:
        order = order[:candidates]
    area = (upper - lower).prod(-1)
    kept: list[int] = []
    for box in order:
        if len(kept) >= limit:
            break
        if kept:
            sides = torch.minimum(upper[box], upper[kept]) - torch.maximum(lower[box], lower[kept])
            shared = sides.clamp_min(0).prod(-1)
            union = area[box] + area[kept] - shared
            if bool((shared / union.clamp_min(torch.finfo(torch.float32).tiny) > overlap).any()):
                continue
        kept.append(box)
    return kept


# -- sequences ------------------------------------------------------------------------------------


def reverse_sequence(e: Emitter) -> Value:
    """Reverse the first lengths[i] elements of slice i."""
    return e.call(
        reverse_prefixes, e.value(0), e.value(1), e.attributes["batch_axis"], e.attributes["sequence_axis"]
    )


def reverse_prefixes(x: Tensor, lengths: Tensor, batch_axis: int, sequence_axis: int) -> Tensor:
    steps = torch.arange(x.shape[sequence_axis], device=x.device)
    source = torch.where(steps < lengths[:, None], lengths[:, None] - 1 - steps, steps)  # [batch, sequence]
    if batch_axis > sequence_axis:
        source = source.mT
    shape = [n if i in (batch_axis, sequence_axis) else 1 for i, n in enumerate(x.shape)]
    return torch.gather(x, sequence_axis, source.reshape(shape).expand(x.shape).long())


def kv_cache_update(e: Emitter) -> Value:
    """The cache [B, H, max, D] with `update` [B, H, S, D] written from place indices[b] on."""
    if e.attributes["cache_mode"] != "LINEAR":
        raise e.unsupported("cache_mode")
    if e.attributes.get("update_form") not in (None, "PADDED_BHND"):
        raise e.unsupported("update_form")
    return e.call(update_cache, e.value(0), e.value(1), e.value(2))


def update_cache(cache: Tensor, update: Tensor, indices: Tensor) -> Tensor:
    places = indices.long()[:, None] + torch.arange(update.shape[2], device=cache.device)
    if cache.device.type == "cpu" and places.numel():
        low, high = (int(v) for v in places.aminmax())
        if low < 0 or high >= cache.shape[2]:
            raise InputError(
                f"a KVCacheUpdate layer writes places {low} to {high} of a cache of length {cache.shape[2]}"
            )
    return cache.scatter(2, places[:, None, :, None].expand(update.shape), update)


def rotary_embedding(e: Emitter) -> Value:
    """Rotate pairs of the first `rotary_embedding_dim` features (0: all) by the given cosines and sines."""
    a = e.attributes
    positions = e.value(3) if e.has(3) else None
    # Calls of their own: the layers of a model share their cosines and sines.
    angles = [e.call(angle_of_rows, e.value(index), positions) for index in (1, 2)]
    return e.call(rotate, e.value(0), *angles, a["interleaved"], a["rotary_embedding_dim"])


def angle_of_rows(table: Tensor, positions: Tensor | None) -> Tensor:
    """Cosines or sines [B, S, D/2], or [max, D/2] with positions [B, S], as float32 [B, 1, S, D/2]."""
    rows = table if positions is None else gather_axis(table, positions, 0)
    return rows.float().unsqueeze(1)


def rotate(x: Tensor, cos: Tensor, sin: Tensor, interleaved: bool, width: int) -> Tensor:
    """x [B, H, S, D]; cos and sin as `angle_of_rows` gives them. In float32, rounded once.

    Pairs are (2i, 2i+1) if interleaved, else (i, i + width/2): y1 = x1 cos - x2 sin, y2 = x1 sin + x2 cos.
    """
    width = width or x.shape[-1]
    part, rest = x[..., :width].float(), x[..., width:]
    if interleaved:
        one, two = part[..., 0::2], part[..., 1::2]
    else:
        one, two = part[..., : width // 2], part[..., width // 2 :]
    first = torch.addcmul(one * cos, two, sin, value=-1)
    second = torch.addcmul(one * sin, two, cos)
    if interleaved:
        turned = torch.stack((first, second), -1).flatten(-2)
    else:
        turned = torch.cat((first, second), -1)
    turned = turned.to(x.dtype)
    return torch.cat((turned, rest), -1) if rest.shape[-1] else turned


TABLE: Mapping[str, Evaluator] = {
    "GATHER": gather,
    "SCATTER": scatter,
    "ONE_HOT": one_hot,
    "NON_ZERO": non_zero,
    "NMS": nms,
    "REVERSE_SEQUENCE": reverse_sequence,
    "KV_CACHE_UPDATE": kv_cache_update,
    "ROTARY_EMBEDDING": rotary_embedding,
}
