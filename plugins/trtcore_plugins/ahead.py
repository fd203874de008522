"""Triton kernels compiled ahead of time: PTX for a GPU that need not be here, with the parameters TensorRT gives.

TensorRT launches a plugin's kernel with the tensor inputs, then 32-bit integers, then the outputs. The kernel
is therefore compiled inside a wrapper of that order, in which everything that does not depend on a dynamic size
is a constant. Triton adds parameters at the end of every kernel, pointers to scratch memory (two of them in
Triton 3.4 and later). A plugin has outputs there, so it declares as many small outputs that nobody reads; a
kernel that would use the memory is refused. What the compiled kernel's parameters are is read from its PTX.
"""

from __future__ import annotations

import functools
import hashlib
import linecache
import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from trtcore.pack import ConversionError
from trtcore_plugins.launching import KernelDeclaration, LaunchPlan, Role, compilable

MAX_SHARED_BYTES = 48 << 10
"""What a kernel may use without a launch attribute that raises the limit, which a plugin cannot set."""

# Lowest PTX version that knows the target, so that the oldest drivers take it; at least that of CUDA 12.0.
_PTX_VERSIONS = ((100, 80), (103, 86), (110, 88), (120, 90), (121, 87), (1000, 88))

_POINTERS: Mapping[torch.dtype, str] = {
    torch.float32: "*fp32",
    torch.float16: "*fp16",
    torch.bfloat16: "*bf16",
    torch.float64: "*fp64",
    torch.float8_e4m3fn: "*fp8e4nv",
    torch.float8_e5m2: "*fp8e5",
    torch.int64: "*i64",
    torch.int32: "*i32",
    torch.int16: "*i16",
    torch.int8: "*i8",
    torch.uint8: "*u8",
    torch.bool: "*i1",
}
_lock = threading.Lock()


@dataclass(frozen=True)
class CompiledKernel:
    """A kernel for TensorRT to launch.

    Attributes:
        name: its name in the PTX.
        ptx: the code.
        threads: threads of a block.
        shared_bytes: shared memory of a block.
        scratch_parameters: how many pointers Triton added at the end.
        compute_capability: (major, minor) of the GPUs it is for.
    """

    name: str
    ptx: str
    threads: int
    shared_bytes: int
    scratch_parameters: int
    compute_capability: tuple[int, int]


def compile_kernel(
    plugin: KernelDeclaration, plan: LaunchPlan, compute_capability: tuple[int, int]
) -> CompiledKernel:
    """Compile a plugin's kernel for one launch plan; needs no GPU. Remembered per process.

    Raises:
        ConversionError: Triton is missing or interprets, it refuses the kernel, or the result is something that
            TensorRT cannot launch: scratch memory, a cluster, more shared memory than a block has, or parameters
            other than the wrapper's.
    """
    key = (id(plugin), plan, compute_capability)
    with _lock:
        if key not in _compiled:
            _compiled[key] = (plugin, _compile(plugin, plan, compute_capability))
        return _compiled[key][1]


# The plugin is kept beside its kernel: an id is its own only as long as the object lives.
_compiled: dict[Any, tuple[KernelDeclaration, CompiledKernel]] = {}


def _compile(
    plugin: KernelDeclaration, plan: LaunchPlan, compute_capability: tuple[int, int]
) -> CompiledKernel:
    kernel = compilable(plugin)
    source = _wrapped(plugin, kernel, plan)
    major, minor = compute_capability
    options = {"ptx_version": plugin.ptx_version or ptx_version(compute_capability), **plugin.options}
    built = _triton_compile(source, major * 10 + minor, options, plugin.name)
    metadata = built.metadata
    ptx = built.asm["ptx"]
    parameters = read_parameters(ptx)
    outputs = len(plan.aliased) + len(plan.dtypes)
    expected = [".u64"] * len(plan.inputs) + [".u32"] * len(plan.sizes) + [".u64"] * outputs
    scratch = scratch_parameters()
    if parameters != expected + [".u64"] * scratch:
        raise ConversionError(
            f"{plugin.name}: Triton {_version()} gave the kernel the parameters {' '.join(parameters)}, and TensorRT "
            f"would give it {' '.join(expected)} and {scratch} pointers",
            advice="trtcore knows the calling convention of Triton 3.6 to 3.9",
        )
    _check_metadata(plugin.name, metadata, ptx)
    return CompiledKernel(
        metadata.name, ptx, metadata.num_warps * 32, metadata.shared, scratch, compute_capability
    )


def ptx_version(compute_capability: tuple[int, int]) -> int:
    """The PTX version to compile with for a GPU, 80 for 8.0: the lowest that knows it, and at least CUDA 12.0's."""
    major, minor = compute_capability
    return next(version for below, version in _PTX_VERSIONS if major * 10 + minor < below)


def read_parameters(ptx: str) -> list[str]:
    """The types of a PTX kernel's parameters, in order: ``".u64"`` for a pointer, ``".u32"`` for an int32.

    Raises:
        ConversionError: there is not exactly one kernel in it.
    """
    entries = re.findall(r"\.entry\s+[\w$]+\s*\(([^)]*)\)", ptx)
    if len(entries) != 1:
        raise ConversionError(f"the PTX has {len(entries)} kernels, not one")
    types = []
    for parameter in filter(None, (line.strip() for line in entries[0].split(","))):
        found = re.match(r"\.param\s+(?:\.align\s+\d+\s+)?(\.\w+)", parameter)
        types.append((found[1] if found else parameter) + ("[]" if "[" in parameter else ""))
    return [re.sub(r"^\.[bs](?=\d+$)", ".u", kind) for kind in types]


@functools.cache
def scratch_parameters() -> int:
    """How many pointers this Triton adds at the end of every kernel, read from a kernel without parameters."""
    kernel = _jit_function("trtcore_empty", "def trtcore_empty():\n    pass\n", {})
    built = _triton_compile(_source(kernel, {}, {}), 80, {"ptx_version": 80}, "an empty kernel")
    parameters = read_parameters(built.asm["ptx"])
    if set(parameters) - {".u64"}:
        raise ConversionError(
            f"Triton {_version()} gives kernels the extra parameters {' '.join(parameters)}",
            advice="trtcore knows the calling convention of Triton 3.6 to 3.9",
        )
    return len(parameters)


def _check_metadata(name: str, metadata: Any, ptx: str) -> None:
    """Refuse what a plugin's launch parameters cannot say."""
    for field, what in (
        ("global_scratch_size", "bytes of global scratch memory"),
        ("profile_scratch_size", "bytes of scratch memory for profiling"),
        ("tmem_size", "columns of tensor memory"),
    ):
        if getattr(metadata, field, 0):
            raise ConversionError(
                f"{name}: the kernel needs {getattr(metadata, field)} {what}, which TensorRT has not"
            )
    if metadata.shared > MAX_SHARED_BYTES:
        raise ConversionError(
            f"{name}: the kernel needs {metadata.shared} bytes of shared memory, a plugin has {MAX_SHARED_BYTES}",
            advice="use a smaller block or fewer stages",
        )
    if getattr(metadata, "num_ctas", 1) != 1:
        raise ConversionError(f"{name}: the kernel runs in clusters of {metadata.num_ctas} blocks")
    for field in ("launch_cooperative_grid", "launch_pdl"):
        if getattr(metadata, field, False):
            raise ConversionError(
                f"{name}: the kernel wants the launch attribute {field}, which a plugin cannot set"
            )
    threads = re.search(r"\.(?:req|max)ntid\s+(\d+)", ptx)
    if threads and int(threads[1]) != metadata.num_warps * 32:
        raise ConversionError(
            f"{name}: the kernel wants {threads[1]} threads, not {metadata.num_warps} warps"
        )


# ---- the wrapper ----------------------------------------------------------------------------------------


def _wrapped(plugin: KernelDeclaration, kernel: Any, plan: LaunchPlan) -> Any:
    """The kernel behind the parameters that TensorRT gives: inputs, sizes, outputs; constants are compiled in."""
    signature: dict[str, str] = {}
    for i, dtype in enumerate(plan.inputs):
        signature[f"in{i}"] = _pointer(plugin.name, dtype)
    for i in range(len(plan.sizes)):
        signature[f"size{i}"] = "i32"
    for i, dtype in enumerate(plan.aliased):
        signature[f"aliased{i}"] = _pointer(plugin.name, dtype)
    for i, dtype in enumerate(plan.dtypes):
        signature[f"out{i}"] = _pointer(plugin.name, dtype)
    constants: dict[str, Any] = {}
    given = []
    for i, (_, role) in enumerate(plan.roles):
        text, value = _argument(role, f"constant{i}")
        given.append(text)
        if role.kind in ("number", "constant"):
            signature[f"constant{i}"] = "constexpr"
            constants[f"constant{i}"] = value
    name = f"{re.sub(r'[^0-9A-Za-z_]', '_', plugin.name)}_plugin"
    parameters = ", ".join(f"{p}: tl.constexpr" if p in constants else p for p in signature)
    text = f"def {name}({parameters}):\n    kernel({', '.join(given)})\n"
    return _source(_jit_function(name, text, {"kernel": kernel}), signature, constants)


def _argument(role: Role, constant: str) -> tuple[str, Any]:
    """How the wrapper writes a kernel's argument, and the constant in it."""
    if role.kind in ("input", "output", "size"):
        return f"{ {'input': 'in', 'output': 'out', 'size': 'size'}[role.kind] }{role.value}", None
    if role.kind == "constant":
        return constant, role.value
    # Scalars have the type that Triton gives them in a launch from Python, and so the same promotion.
    kind = "int1" if isinstance(role.value, bool) else "float32" if isinstance(role.value, float) else "int32"
    if kind == "int32" and not -(2**31) <= role.value < 2**31:
        kind = "int64"
    return f"tl.full((), {constant}, tl.{kind})", role.value


def _pointer(name: str, dtype: torch.dtype) -> str:
    if dtype not in _POINTERS:
        raise ConversionError(f"{name}: Triton has no {dtype}")
    return _POINTERS[dtype]


def _jit_function(name: str, text: str, names: Mapping[str, Any]) -> Any:
    """A `triton.jit` function from its text (Triton reads the source of what it compiles)."""
    import triton
    import triton.language as tl

    file = f"<trtcore {name} {hashlib.sha256(text.encode()).hexdigest()[:16]}>"
    linecache.cache[file] = (len(text), None, text.splitlines(keepends=True), file)
    namespace: dict[str, Any] = {"tl": tl, **names}
    exec(compile(text, file, "exec"), namespace)
    return triton.jit(namespace[name])


def _source(kernel: Any, signature: Mapping[str, str], constants: Mapping[str, Any]) -> Any:
    from triton.compiler import ASTSource

    return ASTSource(kernel, dict(signature), constexprs=dict(constants))


def _triton_compile(source: Any, capability: int, options: Mapping[str, Any], what: str) -> Any:
    import triton
    from triton.backends.compiler import GPUTarget

    try:
        return triton.compile(source, target=GPUTarget("cuda", capability, 32), options=dict(options))
    except Exception as error:  # a CompilationError, ptxas, or an assertion of a pass
        raise ConversionError(
            f"{what}: Triton {_version()} cannot compile it for compute capability {capability / 10}: {_reason(error)}"
        ) from error


def _reason(error: BaseException) -> str:
    """The line of a Triton error that says what is wrong: its innermost cause, without the source around it."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip(" ^")]
    return lines[-1] if lines else repr(error)


def _version() -> str:
    import triton

    return str(triton.__version__)
