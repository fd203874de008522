"""Generated code for the usual call of an engine: the part that both runtimes have in common.

Dtype, shape and kind of every input are compared inline with constants of the manifest; a call of shapes that have
been checked before is found by them. Nothing else is decided here: what is not as usual gives None, and `Engine.run`
then looks closely. The texts are made of numbers and names of our own, never of anything that a file says.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from trtcore.artifact.manifest import EngineManifest

_NEGATED = (torch.float16, torch.float32, torch.float64)  # parts of complex tensors may be lazily negated


def is_static(manifest: EngineManifest) -> bool:
    """Whether no input's size varies, and no size is passed."""
    return not manifest.sizes and all(
        all(isinstance(dim, int) for dim in binding.shape) for binding in manifest.inputs
    )


def arguments(manifest: EngineManifest, also: Sequence[str] = (), *, checked: bool = False) -> list[str]:
    """Lines that take `inputs` apart into a0, a1, ..., and return None where one is not as usual.

    Args:
        also: what else must be true of each tensor, as the end of ``a0.``.
        checked: whether the caller has found out already that the inputs are strided tensors of the manifest's dtypes
            and static shapes, as `accepts` does.
    """
    names = [f"a{index}" for index in range(len(manifest.inputs))]
    tests = [f"len(inputs) != {len(names)}", f"len(sizes) != {len(manifest.sizes)}"]
    lines = [] if checked else [f"if {' or '.join(tests)}:", "    return None"]
    if names:
        lines.append(f"{', '.join(names)}, = inputs")
    static = is_static(manifest)
    for index, (name, binding) in enumerate(zip(names, manifest.inputs)):
        wanted = [] if checked else _plain_tensor(index, tuple(binding.shape) if static else None)
        wanted += [f"{name}.{test}" for test in also]
        refused = [f"{name}.requires_grad"] if checked else [f"{name}.requires_grad", f"{name}.is_meta"]
        if binding.dtype in _NEGATED:
            refused.append(f"{name}.is_neg()")
        if index:
            refused.append(f"{name}.get_device() != a0.get_device()")
        unusual = [f"not ({' and '.join(wanted)})"] if wanted else []
        lines += [f"if {' or '.join([*unusual, *refused])}:", "    return None"]
    return lines


def shape_key(manifest: EngineManifest) -> str:
    """The end of a tuple's text: shapes, sizes and the profile that is wanted; nothing for a static engine."""
    if is_static(manifest):
        return ""
    shapes = "".join(f", a{index}.shape" for index in range(len(manifest.inputs)))
    return f"{shapes}{', *sizes' if manifest.sizes else ''}, chosen()"


def accepts(tensors: Sequence[tuple[torch.dtype, tuple[int, ...] | None, str]], accepted: set[Any]) -> Any:
    """The usual call of a module: ``call(args)``, True for arguments that need no closer look.

    Args:
        tensors: of each argument the dtype, the shape (None where it may vary), and a name for those that must be on
            one device.
        accepted: shapes of those that may vary, of calls that were found right.
    """
    names = [f"a{index}" for index in range(len(tensors))]
    first, varying = dict[str, str](), list[str]()
    lines = ["def call(args):", f"    if len(args) != {len(names)}:", "        return False"]
    for index, (name, (_, shape, group)) in enumerate(zip(names, tensors)):
        tests = [*_plain_tensor(index, shape), f"not {name}.is_meta"]
        if shape is None:
            varying.append(f"{name}.shape")
        if first.setdefault(group, name) != name:
            tests.append(f"{name}.get_device() == {first[group]}.get_device()")
        lines += [
            f"    {name} = args[{index}]",
            f"    if not ({' and '.join(tests)}):",
            "        return False",
        ]
    lines.append(f"    return ({', '.join(varying)},) in accepted" if varying else "    return True")
    dtypes = [dtype for dtype, _, _ in tensors]
    return _function("a module", "\n".join(lines), dtypes, {"accepted": accepted})


def made(title: str, lines: Sequence[str], manifest: EngineManifest, names: Mapping[str, Any]) -> Any:
    """The function ``call(inputs, sizes)`` of these lines.

    Args:
        title: for tracebacks.
        names: what the lines use besides the manifest's dtypes.
    """
    body = "\n".join(lines).replace("\n", "\n    ")
    dtypes = [binding.dtype for binding in manifest.inputs]
    return _function(title, f"def call(inputs, sizes):\n    {body}\n", dtypes, names)


def _plain_tensor(index: int, shape: Sequence[Any] | None) -> list[str]:
    """What is true of argument ``a{index}`` if it is a strided tensor of its dtype, and of a shape that is given."""
    name = f"a{index}"
    tests = [f"type({name}) is Tensor", f"{name}.dtype is d{index}", f"{name}.layout is strided"]
    return tests if shape is None else [*tests, f"{name}.shape == {tuple(map(int, shape))!r}"]


def _function(title: str, source: str, dtypes: Sequence[torch.dtype], names: Mapping[str, Any]) -> Any:
    """``call`` of a source, for which d0, d1, ... are dtypes."""
    scope: dict[str, Any] = {
        "Tensor": torch.Tensor,
        "strided": torch.strided,
        **{f"d{index}": dtype for index, dtype in enumerate(dtypes)},
        **names,
    }
    exec(compile(source, f"<trtcore: the usual call of {title}>", "exec"), scope)
    return scope["call"]
