"""A compiled module as a package of AOTInductor: the torch ops as machine code, the engines as calls of trtcore's op.

Such a package is run by ``torch._inductor.aoti_load_package`` in a process that has imported trtcore. It is machine
code, which `trtcore.load` does not open.
"""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import torch
from torch.fx import GraphModule

from trtcore.errors import ArtifactError, ExportError
from trtcore.ir.torch_private import compile_and_package, lacks_compiler
from trtcore.paths import TemporaryFolder
from trtcore.runtime.contract import check_to_json
from trtcore.runtime.input_check import InputCheck, _Tensor
from trtcore.runtime.op import fit
from trtcore.runtime.requirement import of_tensors

if TYPE_CHECKING:
    from torch.export import ExportedProgram

NAME = "aot_inductor"


def check_name(path: Path) -> None:
    """torch writes and reads packages by names that end in .pt2 alone.

    Raises:
        ArtifactError: the name is another.
    """
    if path.suffix != ".pt2":
        raise ArtifactError(
            f"a package of AOTInductor cannot be named {path.name!r}: torch reads files named *.pt2 alone",
            advice=f"save it as {path.with_suffix('.pt2').name!r}",
        )


def with_checks(portable: GraphModule, check: InputCheck | None) -> None:
    """Let the graph look at its inputs first: compiled code reads memory by the sizes that it was compiled for.

    What the package does not pass on (numbers, None, names) is not looked at.
    """
    placeholders = [node for node in portable.graph.nodes if node.op == "placeholder"]
    leaves = () if check is None else check.leaves
    pairs = [(node, leaf) for node, leaf in zip(placeholders, leaves) if isinstance(leaf, _Tensor)]
    if check is None or not pairs:
        return
    contract = json.dumps(check_to_json(of_tensors(check, tuple(leaf for _, leaf in pairs))))
    with portable.graph.inserting_after(placeholders[-1]):
        fits = portable.graph.call_function(fit, ([node for node, _ in pairs], contract))
    with portable.graph.inserting_after(fits):
        portable.graph.call_function(torch.ops.aten._assert_async.msg, (fits, "inputs do not fit"))
    portable.recompile()


def write(file: BinaryIO, exported: ExportedProgram) -> None:
    """Compile a program with AOTInductor, and write the package.

    Raises:
        ExportError: AOTInductor refuses the program, or there is no C++ compiler.
    """
    with TemporaryFolder() as folder:
        package = folder / "model.pt2"
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                compile_and_package(exported, package)
        except Exception as error:
            advice = (
                "AOTInductor needs a C++ compiler: install one (g++), or name it in the environment variable CXX"
                if lacks_compiler(error)
                else 'save it with output_format="exported_program", which trtcore.load and torch.export.load read'
            )
            raise ExportError(
                f"AOTInductor could not compile the module: {str(error).strip()}", advice=advice
            ) from error
        with package.open("rb") as source:
            shutil.copyfileobj(source, file, 1 << 24)
