"""What a user is told when a model cannot be captured: whose fault it is, where, in few lines, and what to do."""

from __future__ import annotations

import os
import re
import stat
import tempfile
import traceback
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from trtcore.errors import ExportError, InputError, TrtcoreError
from trtcore.frontend.quiet import can_run, run
from trtcore.ir.inputs import Input, InputTree, describe
from trtcore.ir.torch_private import hint

_LINES, _WIDTH = 8, 200
_KEPT = 20
"""Files with all of an error that stay in the folder of temporary files."""
_TEXT = re.compile(r"trtcore-export-\w+\.txt")
_NOISE = ("For ", "The error above occurred", "Caused by", "If you suspect the guard was triggered")


def capture_error(
    model: torch.nn.Module, tree: InputTree, examples: Sequence[Any], error: Exception, strict: bool
) -> TrtcoreError:
    """The error to raise for what torch.export raised: InputError where the model itself fails with these inputs."""
    if can_run(model):
        try:
            run(model, *tree.unflatten(examples))
        except Exception as failure:
            return _model_fails(model, tree, examples, failure)
    name = f"torch.export could not capture {type(model).__name__}"
    return ExportError(
        "\n    ".join([f"{name}: {type(error).__name__}", *_shown(error)]),
        where=_user_line(error),
        advice=_of_packed(error) or _advice(tree, str(error), strict),
    )


def refuse_foreign_dtypes(model: torch.nn.Module, tree: InputTree, examples: Sequence[Any]) -> None:
    """Run the model once where a floating-point input has a dtype that none of its weights has.

    A trace computes nothing, and takes pairs of dtypes that torch's kernels refuse.

    Raises:
        InputError: the model fails on these inputs.
    """
    weights = {one.dtype for one in (*model.parameters(), *model.buffers()) if one.is_floating_point()}
    given = {one.dtype for one in examples if isinstance(one, torch.Tensor) and one.is_floating_point()}
    if not weights or given <= weights or not can_run(model):
        return
    try:
        run(model, *tree.unflatten(examples))
    except Exception as failure:
        raise _model_fails(model, tree, examples, failure) from failure


def refuse_mixed_dtypes(
    model: torch.nn.Module, tree: InputTree, examples: Sequence[Any], captured: torch.export.ExportedProgram
) -> None:
    """Run the model once where an op got operands of several dtypes that its kernel may refuse, and a trace does not.

    Raises:
        InputError: the model fails on these inputs.
    """
    seen: set[Any] = set()
    for node in captured.graph.nodes:
        op = node.target
        if isinstance(op, torch._ops.OpOverload) and not _computes(node, op, seen):
            if can_run(model):
                try:
                    run(model, *tree.unflatten(examples))
                except Exception as failure:
                    raise _model_fails(model, tree, examples, failure) from failure
            return


def _computes(node: torch.fx.Node, op: torch._ops.OpOverload, seen: set[Any]) -> bool:
    """Whether an op of torch's computes on zeros of its operands' dtypes, where these differ; True where that is known,
    and where it writes to one of them, which casts."""
    given = [one.meta.get("val") for one in node.all_input_nodes]
    tensors = [one for one in given if isinstance(one, torch.Tensor)]
    kind = (op, *((one.dtype, one.dim()) for one in tensors))
    of_torch = op.namespace == "aten" and not op._schema.is_mutable
    if not of_torch or len({one.dtype for one in tensors}) < 2 or kind in seen:
        return True
    seen.add(kind)
    return any(_runs(node, op, most) for most in (_SMALL, None))


_SMALL = 8
"""Sizes that dtypes do not depend on: larger ones cost time, and are tried where an op wants them."""


def _runs(node: torch.fx.Node, op: torch._ops.OpOverload, most: int | None) -> bool:
    small: dict[int, int] = {}

    def zeros_of(one: torch.fx.Node) -> Any:
        value = one.meta.get("val")
        if isinstance(value, (torch.SymInt, torch.SymFloat, torch.SymBool)):
            return hint(value)  # type: ignore[arg-type]
        if not isinstance(value, torch.Tensor):
            return value
        sizes = [size if isinstance(size, int) else hint(size) or 0 for size in value.shape]
        if most is not None:
            sizes = [size if size <= most else small.setdefault(size, most + len(small)) for size in sizes]
        return torch.zeros((), dtype=value.dtype).expand(sizes)  # without their memory

    try:
        with torch.no_grad():
            args, kwargs = torch.fx.map_arg((node.args, node.kwargs), zeros_of)
            op(*args, **kwargs)
    except Exception:  # for whatever reason: the model itself is asked then
        return False
    return True


def _model_fails(
    model: torch.nn.Module, tree: InputTree, examples: Sequence[Any], failure: Exception
) -> InputError:
    given = [
        f"{name}: {describe(example)}"
        for name, example in zip(tree.names, examples)
        if isinstance(example, torch.Tensor)
    ]
    first = (
        f"{type(model).__name__} itself fails with these inputs, in plain torch too: {type(failure).__name__}"
    )
    return InputError(
        "\n    ".join([first, *_shown(failure), *given]),
        where=_user_line(failure),
        advice="give inputs for which model(*inputs) works; a tensor is described by trtcore.Input(shape, dtype=...)",
    )


def _shown(error: Exception) -> list[str]:
    """The first lines of an error, and the file that has all of it where that is more."""
    graph = getattr(error, "partial_fx_graph", "")
    every = str(error).splitlines()
    useful = [line for line in every if line.strip() and not line.strip().startswith(_NOISE)]
    shown = [line if len(line) <= _WIDTH else f"{line[:_WIDTH]} ..." for line in useful[:_LINES]]
    if graph or len(useful) > _LINES or any(len(line) > _WIDTH for line in useful):
        path = _write("\n".join([*every, "", "What was traced before it:" if graph else "", str(graph)]))
        if path is not None:
            shown.append(f"all of it: {path}")
    return shown


def _write(text: str) -> str | None:
    try:
        with tempfile.NamedTemporaryFile(
            "w", prefix="trtcore-export-", suffix=".txt", delete=False, encoding="utf-8"
        ) as file:
            file.write(text)
        _keep_newest(Path(file.name).parent)
    except OSError:  # a full disk must not hide the error
        return None
    return file.name


def _keep_newest(folder: Path) -> None:
    """Remove the user's own texts but the newest `_KEPT`."""
    ours = []
    for entry in os.scandir(folder):
        if _TEXT.fullmatch(entry.name):
            with suppress(FileNotFoundError):  # another process removes it, too
                status = entry.stat(follow_symlinks=False)
                if stat.S_ISREG(status.st_mode) and status.st_uid == getattr(os, "geteuid", lambda: 0)():
                    ours.append((status.st_mtime_ns, entry.path))
    for _, path in sorted(ours)[:-_KEPT]:
        with suppress(OSError):
            os.unlink(path)


def _of_packed(error: BaseException) -> str:
    """Advice where the model packs sequences, whose lengths torch.export takes for no numbers; "" elsewhere."""
    files = {frame.filename for frame in traceback.extract_tb(error.__traceback__)}
    packing, layer = (os.path.join("torch", "nn", part, "rnn.py") for part in ("utils", "modules"))
    packs = any(file.endswith(packing) for file in files)
    if not packs and not ("got FakeTensor" in str(error) and any(file.endswith(layer) for file in files)):
        return ""
    return (
        "torch.export captures no packed sequences. Give the layer the padded batch, and set what it puts out behind "
        "each length to zero; the last state of one direction is the output at length - 1. Two directions need a layer "
        "each, the second one on sequences that are turned around within their lengths"
    )


def fixes_a_size(error: object) -> bool:
    """Whether torch.export stops (`error`, or its text) because a model fixes a size that was to vary."""
    text = str(error)
    return "Constraints violated" in text or "user-specified" in text


def _advice(tree: InputTree, text: str, strict: bool) -> str:
    if "inference tensor" in text:
        return "the weights were made under torch.inference_mode(): call model.requires_grad_(False) first"
    dynamic = [
        f"{name} dimension {index} ({dim})"
        for name, leaf in zip(tree.names, tree.leaves)
        if isinstance(leaf, Input)
        for index, dim in enumerate(leaf.dims)
        if dim.dynamic
    ]
    if dynamic and fixes_a_size(text):
        advice = (
            f"dynamic here are {', '.join(dynamic)}. Where the model fixes a size, give the Input this "
            "size as min, opt and max; where two inputs must agree, make both dynamic with equal opt sizes"
        )
        other = "; trtcore.dynamo.trace(model, inputs, strict=True) fixes fewer sizes, of associative_scan for one"
        return advice + ("" if strict else other)
    advice = (
        "torch.export.draft_export(model, args) lists everything that stands in the way; "
        f"torch.export.export(model, args, strict={not strict}) captures in another way, and trtcore.dynamo.compile "
        "takes what it returns; control flow on tensor values needs torch.cond"
    )
    if dynamic:
        advice += f"; or make some of the dynamic dimensions static: {', '.join(dynamic)}"
    return advice


def _user_line(error: BaseException) -> str | None:
    """The innermost line of the traceback that belongs neither to torch nor to trtcore."""
    own = (os.path.dirname(torch.__file__) + os.sep, os.path.dirname(os.path.dirname(__file__)) + os.sep)
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        for frame in reversed(traceback.extract_tb(error.__traceback__)):
            # The first frames are of whoever called trace(); the model's own come from a forward or below it.
            if not frame.filename.startswith((*own, "<")) and _below_export(error, frame):
                return f"{frame.filename}:{frame.lineno} in {frame.name}: {frame.line}"
        error = error.__cause__ or error.__context__  # type: ignore[assignment]
    return None


def _below_export(error: BaseException, frame: traceback.FrameSummary) -> bool:
    torch_directory = os.path.dirname(torch.__file__) + os.sep
    for outer in traceback.extract_tb(error.__traceback__):
        if outer is frame or (outer.filename, outer.lineno) == (frame.filename, frame.lineno):
            return False
        if outer.filename.startswith(torch_directory):
            return True
    return False
