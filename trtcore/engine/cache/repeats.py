"""What of a plan stands in its engine's file a second time: constants, which TensorRT keeps as they are where it can.

Who has compared the constants with a model's weights need not hash these parts of the plan: to compare them with the
constants takes a sixth of the time. Nothing is assumed of a plan's format. What repeats is looked for when an entry is
written, and named by the entry's sealed facts; every other byte of the plan is hashed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence

import torch

from trtcore.ir.tensor_bytes import bytes_of, have_same_bytes, on_threads

Repeats = tuple[tuple[int, str], ...]
"""(a place in the plan, the name of the constant whose bytes stand there), in order and apart."""

_WORD = 8  # bytes: a constant may begin at each of a plan's words
_LINE = 8  # words, the first of which is looked at
_LEAST = 64 << 10  # bytes of a constant that is worth a look
_CHUNK = 16 << 20
_SEARCHED = 64 << 20  # bytes of a plan at once
_MANY = 64  # places that look like one constant: then its bytes say too little
_TABLE = 1 << 16


def repeats_of(plan: torch.Tensor, constants: Mapping[str, torch.Tensor]) -> Repeats:
    """Where whole constants stand in a plan.

    Args:
        plan: uint8, shape (bytes,), on the CPU.
        constants: contiguous tensors on the CPU, by name.
    """
    marks = _marks({name: tensor for name, tensor in constants.items() if tensor.nbytes >= _LEAST})
    if not marks:
        return ()
    found: list[tuple[int, str]] = []
    end = 0
    for start, names in sorted(_candidates(plan, marks).items()):
        for name in names:
            size = constants[name].nbytes
            if end <= start <= plan.numel() - size and have_same_bytes(
                plan[start : start + size], constants[name]
            ):
                found.append((start, name))
                end = start + size
                break
    return tuple(found)


def rest_sha256(plan: torch.Tensor, constants: Mapping[str, torch.Tensor], repeats: Repeats) -> str:
    """A hash of what `repeats` leaves of a plan, and of where it is: that of its pieces' hashes.

    Raises:
        ValueError: the places are none of this plan.
    """
    pieces = list(_rest(plan, constants, repeats))
    return hashlib.sha256(b"".join(on_threads(_digest, pieces))).hexdigest()


def is_intact(plan: torch.Tensor, constants: Mapping[str, torch.Tensor], repeats: Repeats, rest: str) -> bool:
    """Whether a plan has the bytes that it had when these repeats and the hash of the rest were taken.

    It says nothing of the constants, but that those which repeat are as they were if the plan is.

    Raises:
        KeyError, ValueError: the places are none of this plan.
    """

    def repeated(place: tuple[int, str]) -> bool:
        start, constant = place[0], constants[place[1]]
        return have_same_bytes(plan[start : start + constant.nbytes], constant)

    return rest_sha256(plan, constants, repeats) == rest and all(on_threads(repeated, repeats))


def _digest(piece: torch.Tensor) -> bytes:
    return hashlib.sha256(bytes_of(piece)).digest()


def _rest(
    plan: torch.Tensor, constants: Mapping[str, torch.Tensor], repeats: Repeats
) -> Iterator[torch.Tensor]:
    """The plan without the repeats, in pieces that do not depend on who asks."""
    end = 0
    for start, name in (*repeats, (plan.numel(), None)):
        if not end <= start <= plan.numel():
            raise ValueError(f"a constant cannot be at byte {start} of a plan of {plan.numel()}")
        for place in range(end, start, _CHUNK):
            yield plan[place : min(place + _CHUNK, start)]
        end = start if name is None else start + constants[name].nbytes
    if end > plan.numel():
        raise ValueError(f"a constant cannot end at byte {end} of a plan of {plan.numel()}")


# ---- the search ---------------------------------------------------------------------------------------------


def _marks(constants: Mapping[str, torch.Tensor]) -> dict[int, list[tuple[str, int]]]:
    """Words that tell each constant from others, one of which is at the first place of a line wherever the constant
    begins: word -> (the constant's name, the word's place in bytes)."""
    found: dict[int, list[tuple[str, int]]] = {}
    for name, tensor in constants.items():
        lines = _lines(tensor.reshape(-1).view(torch.uint8)[:_LEAST])
        telling = (lines != 0) & (lines != lines[0, 0])
        for column in range(_LINE):
            if telling[:, column].any():
                line = int(telling[:, column].nonzero()[0])
                place = (line * _LINE + column) * _WORD
                found.setdefault(int(lines[line, column]), []).append((name, place))
    return found


def _candidates(plan: torch.Tensor, marks: Mapping[int, Sequence[tuple[str, int]]]) -> dict[int, list[str]]:
    """Where constants may begin: place -> their names."""
    wanted = torch.tensor(list(marks))
    is_wanted = torch.zeros(_TABLE, dtype=torch.bool)
    is_wanted[_folded(wanted)] = True
    places: dict[int, list[int]] = {}
    for begin in range(0, plan.numel(), _SEARCHED):
        words = _lines(plan[begin : begin + _SEARCHED])[:, 0].contiguous()
        lines = is_wanted[_folded(words)].nonzero().flatten()
        lines = lines[torch.isin(words[lines], wanted)]
        for line, word in zip(lines.tolist(), words[lines].tolist()):
            places.setdefault(word, []).append(begin + line * _LINE * _WORD)
    found: dict[int, list[str]] = {}
    for word, at in places.items():
        for place in at if len(at) <= _MANY else ():
            for name, offset in marks[word]:
                found.setdefault(place - offset, []).append(name)
    return found


def _lines(data: torch.Tensor) -> torch.Tensor:
    """Bytes as int64, shape (lines, words)."""
    whole = data[: data.numel() // (_LINE * _WORD) * (_LINE * _WORD)]
    if whole.storage_offset() % _WORD:
        whole = whole.clone()
    return whole.view(torch.int64).view(-1, _LINE)


def _folded(words: torch.Tensor) -> torch.Tensor:
    return (words ^ (words >> 32)) & (_TABLE - 1)
