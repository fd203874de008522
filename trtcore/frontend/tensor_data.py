"""What a model does to tensors themselves and not to their numbers, which torch.export does not record.

``x.data`` that is taken would be a tensor from nowhere, and one that is set would go on as it was, without a word. An
input that is another at the end (``x.unsqueeze_(0)``) fails in torch with an error that names nothing, and so does a
mask of no dims (``x[y > 0]`` where `y` is a number).
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from trtcore.errors import ExportError
from trtcore.ir.torch_private import FakeTensor, storage_id

_GET: Any = torch.Tensor.data.__get__  # type: ignore[attr-defined]
_SET: Any = torch.Tensor.data.__set__  # type: ignore[attr-defined]


_RESHAPE_IN_PLACE = frozenset(
    [
        "as_strided_",
        "resize_",
        "resize_as_",
        "set_",
        "squeeze_",
        "swapaxes_",
        "swapdims_",
        "t_",
        "transpose_",
        "unsqueeze_",
    ]
)


class TensorData(TorchFunctionMode):
    """While a model is traced: ``x.data`` is ``x.detach()``, which is in the same memory, and is not set; inputs keep
    their shapes and their memory."""

    def __init__(self) -> None:
        super().__init__()
        self._changes: list[tuple[torch.Tensor, str, str | None]] = []
        self._before: list[tuple[Any, ...] | None] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if torch.compiler.is_dynamo_compiling():
            return func(*args, **(kwargs or {}))
        if func in (_GET, _SET) and isinstance(args[0], FakeTensor):
            if func == _GET:
                return args[0].detach()
            _refuse()
        if func in (torch.Tensor.__getitem__, torch.Tensor.__setitem__):
            return func(*_with_masks_of_one(args), **(kwargs or {}))
        name = str(getattr(func, "__name__", "")).partition(".")[0]
        if name not in _RESHAPE_IN_PLACE or not args or not isinstance(args[0], torch.Tensor):
            return func(*args, **(kwargs or {}))
        self._changes.append((args[0], name, _line(_frame(beyond_torch=True))))
        try:
            return func(*args, **(kwargs or {}))
        except RuntimeError as error:
            if "modify sizes" not in str(error):  # of a tensor whose sizes vary
                raise
            raise ExportError(
                f"{name} gives a tensor whose size varies another shape in place, which torch.export cannot follow",
                where=self._changes[-1][2],
                advice="make a new tensor: x.reshape(...) for the same numbers, x[:n] for fewer, torch.empty(...) for "
                "others; or give its Input this one size as min, opt and max",
            ) from error

    @contextmanager
    def inputs_of(self, model: torch.nn.Module, names: Sequence[str]) -> Iterator[TensorData]:
        """While the model is traced, its inputs are at its end what they were.

        Args:
            names: of the leaves of its arguments.

        Raises:
            ExportError: one is not, from within the trace.
        """
        hooks = [
            model.register_forward_pre_hook(self._remember, with_kwargs=True, prepend=True),
            model.register_forward_hook(
                lambda _model, args, kwargs, _result: self._compare(args, kwargs, names), with_kwargs=True
            ),
        ]
        try:
            with self:
                yield self
        finally:
            for hook in hooks:
                hook.remove()

    def _remember(self, _: torch.nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        self._before = [_layout(leaf) for leaf in pytree.tree_leaves((args, dict(kwargs)))]

    def _compare(self, args: tuple[Any, ...], kwargs: Mapping[str, Any], names: Sequence[str]) -> None:
        if not self._changes:
            return
        leaves = pytree.tree_leaves((args, dict(kwargs)))
        for index, (leaf, before) in enumerate(zip(leaves, self._before)):
            if _layout(leaf) == before:
                continue
            for tensor, op, where in self._changes:
                if tensor is leaf:
                    name = names[index] if len(names) == len(leaves) else f"number {index}"
                    raise _changed(op, name, where)


def _with_masks_of_one(args: tuple[Any, ...]) -> tuple[Any, ...]:
    """The arguments of ``x[index]`` or ``x[index] = value`` without a mask of no dims, whose value torch would ask for.

    It is a mask of one element along a new dim of one, as it is in torch.
    """
    tensor, index, *value = args
    if not isinstance(tensor, torch.Tensor):
        return args
    items = list(index) if isinstance(index, tuple) else [index]
    for dim, item in enumerate(items):
        if isinstance(item, torch.Tensor) and item.dtype == torch.bool and not item.dim():
            items[dim] = item.unsqueeze(0)
            return tensor.unsqueeze(dim), tuple(items), *value
        if not isinstance(item, slice):  # it may take no dim, or several
            break
    return args


def _layout(leaf: Any) -> tuple[Any, ...] | None:
    """What an input may not lose; sizes that vary count as their text, since to compare them would be a condition."""
    if not isinstance(leaf, torch.Tensor) or leaf.layout != torch.strided:
        return None
    shape = tuple(str(size) for size in (*leaf.shape, *leaf.stride(), leaf.storage_offset()))
    return leaf.dim(), shape, storage_id(leaf)


def _changed(op: str, name: str, where: str | None) -> ExportError:
    if op in ("set_", "resize_", "resize_as_", "as_strided_"):
        advice = "make a new tensor in forward and use it in the place of the input"
    else:
        call = op.rstrip("_")
        advice = f"write x = x.{call}(...) in forward, which gives a view in the same memory"
    return ExportError(
        f"{op} changes the shape or the memory of the input {name!r} in place, which a compiled model cannot do to the "
        "tensor that its caller has",
        where=where,
        advice=f"{advice}; or compile with torch.compile(model, backend='trtcore'), which leaves that to torch",
    )


def _frame(beyond_torch: bool = False) -> FrameType | None:
    """The frame that calls torch: None where torch's own code does, unless that is to be looked past."""
    frame: FrameType | None = sys._getframe(2)
    while frame is not None:
        of_torch = str(frame.f_globals.get("__name__")).partition(".")[0] == "torch"
        if frame.f_code.co_name != "__torch_function__" and not (beyond_torch and of_torch):  # other modes'
            return None if of_torch else frame
        frame = frame.f_back
    return None


def _line(frame: FrameType | None) -> str | None:
    return None if frame is None else f"{frame.f_code.co_filename}:{frame.f_lineno} in {frame.f_code.co_name}"


def _refuse() -> None:
    """Raise where a model's own code sets a tensor's data; torch's tracers do so, too."""
    frame = _frame()
    if frame is None:
        return
    raise ExportError(
        "the model sets the data of a tensor, which gives it other memory for good; a graph of ops has no such thing",
        where=_line(frame),
        advice="write the new values into the tensor: under torch.no_grad(), x.copy_(new); or use the new tensor",
    )
