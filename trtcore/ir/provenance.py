"""Where in the user's model an fx node comes from: module path, op, file and line."""

from __future__ import annotations

import inspect
import os
import re
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch.fx import Node

from trtcore.ir.ops import op_name

__all__ = [
    "Source",
    "code_line",
    "describe",
    "module_path",
    "op_name",
    "plain_path",
    "source_line",
]

_TORCH = os.path.dirname(torch.__file__) + os.sep
_TESTING = (
    os.path.join(os.path.dirname(os.path.dirname(__file__)), "testing") + os.sep
)  # what it wraps functions in is not the user's
_GENERATED = "<eval_with_key>"  # code of an fx graph, as of the branches of a torch.cond
_FRAME = re.compile(r'File "(?P<file>[^"]+)", line (?P<line>\d+)(?:, in (?P<function>\S+))?')


@dataclass(frozen=True)
class Source:
    """An op of the captured graph that another node stands for.

    Attributes:
        name: of its fx node.
        op: ``aten.mul.Tensor``.
        line: ``file:line`` in the user's model; "" if unknown.
    """

    name: str
    op: str
    line: str = ""

    def __str__(self) -> str:
        return f"{self.name} ({self.op})"


def module_path(node: Node) -> str:
    """Dotted path of the innermost module whose forward made the node; "" if unknown or the root."""
    stack = node.meta.get("nn_module_stack")
    if not stack:
        return ""
    return plain_path(str(next(reversed(stack.values()))[0]))


@lru_cache(maxsize=4096)
def plain_path(text: str) -> str:
    """A module's path as export or Dynamo writes it, as ``nn.Module.get_submodule`` takes it.

    Example:
        >>> plain_path("L['self'].layers[0]"), plain_path("L['self']._modules['layers']._modules['0']")
        ('layers.0', 'layers.0')
    """
    text = re.sub(r"^L\[['\"]self['\"]\]\.?|^L__self___?", "", text)
    if "[" in text:
        text = re.sub(r"\._modules\b|^_modules\b", "", text)
        text = re.sub(r"\[['\"]?([^\]'\"]+)['\"]?\]", r".\1", text)
    return text.lstrip(".")


def source_line(node: Node) -> str:
    """``file:line`` of the innermost statement outside of torch that made the node; "" if unknown."""
    found = _FRAME.finditer(node.meta.get("stack_trace") or "")
    frames = [frame for frame in found if not frame["file"].startswith((_TESTING, _GENERATED))]
    own = [frame for frame in frames if not frame["file"].startswith(_TORCH)] or frames
    return f"{own[-1]['file']}:{own[-1]['line']}" if own else ""


def describe(node: Node) -> str:
    """``encoder.layer.0: aten.gelu.default (node gelu_3), model.py:12``."""
    path, line = module_path(node), source_line(node)
    text = f"{op_name(node.target)} (node {node.name})"
    if path:
        text = f"{path}: {text}"
    return f"{text}, {line}" if line else text


def code_line(function: Callable[..., Any], error: BaseException | None = None) -> str:
    """``file:line`` where `error` left the file of `function`, or of the function's definition; "" if unknown."""
    code = getattr(inspect.unwrap(getattr(function, "func", function)), "__code__", None)
    if code is None:
        return ""
    frames = traceback.walk_tb(error.__traceback__ if error is not None else None)
    lines = [line for frame, line in frames if frame.f_code.co_filename == code.co_filename]
    return f"{code.co_filename}:{lines[-1] if lines else code.co_firstlineno}"
