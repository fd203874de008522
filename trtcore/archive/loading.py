"""Reading a compiled module from a file: as data, without asking torch, running nothing of what it says."""

from __future__ import annotations

import importlib.metadata
import os
import re
import struct
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.fx import Graph, GraphModule, Node
from torch.fx.graph import _PyTreeInfo

from trtcore.archive.members import EXTRA, FORMAT, Archive, TooManyMembersError
from trtcore.artifact.engine_file import EngineArtifact
from trtcore.artifact.manifest import EngineManifest
from trtcore.errors import ArtifactError, BackendUnavailableError, SettingsError, TrtcoreError
from trtcore.ir.graph_data import FakeValues, add_node
from trtcore.ir.graph_json import UnknownOpError, is_identifier, is_path, node_from_json, torch_value
from trtcore.ir.graphs import attribute, set_attribute
from trtcore.ir.torch_private import forgetting_traces
from trtcore.packs.loading import IN_PROCESS, load_packs
from trtcore.report.data import Report
from trtcore.runtime.calling import FlatCodeGen
from trtcore.runtime.contract import check_from_json, ranges_from_json, spec_from_json
from trtcore.runtime.engine import with_runtime
from trtcore.runtime.input_check import InputCheck
from trtcore.runtime.module import CompiledModule, module_of
from trtcore.runtime.op import execute_engine
from trtcore.runtime.recipe import Recipe
from trtcore.runtime.requirement import read_requirement, require

# What an archive of ours holds, below its one root folder. Anything else (custom objects, pickled tensors,
# compiled code) is refused.
_MEMBERS = re.compile(
    r"archive_format|archive_version|byteorder|version|\.format_version|\.storage_alignment"
    r"|\.data/(version|serialization_id)|models/model\.json"
    r"|data/weights/(weight_\d+|model_weights_config\.json)"
    r"|data/constants/(tensor_\d+|model_constants_config\.json)"
    r"|data/sample_inputs/model\.pt|extra/trtcore\.json"
)
_PACKAGED = "data/aotinductor/"
_MAX_NODES = 1 << 20
_TAIL = 1 << 20  # bytes at the end of a file, where the name of the last member is
_DISTRIBUTION = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,200}[A-Za-z0-9])?\Z")
_VERSION = re.compile(r"[A-Za-z0-9.!+_]{1,200}\Z")


def load(path: str | os.PathLike[str], *, runtime: str = "auto", packs: str = "check") -> CompiledModule:
    """Load what `save` wrote.

    Args:
        path: the file.
        runtime: "auto": native where the engines can run here, else reference; "saved": as it was compiled;
            "native" or "reference".
        packs: "check": every pack that took part in an engine must be installed, at least in the version that did;
            "ignore": not so, which does for packs of converters alone (an engine without kernels of a pack's own
            runs without the pack).

    Returns:
        the compiled module, called as the model was, with `.report`.

    Raises:
        ArtifactError: no such file, truncated, damaged, foreign, of a newer format, or with content that
            `save` does not write; nothing of it has been executed. Or packs are missing or too old; the message
            has what to install.
        BackendUnavailableError: a backend that the engines need is not known here.
        SettingsError: an unknown runtime, or an unknown word for `packs`.
    """
    if runtime not in ("auto", "saved", "native", "reference"):
        raise SettingsError(f"runtime={runtime!r} is none of 'auto', 'saved', 'native', 'reference'")
    if packs not in ("check", "ignore"):
        raise SettingsError(f"packs={packs!r} is neither 'check' nor 'ignore'")
    source = Path(path)
    archive = _opened(source)
    _vet(source, archive)
    description = archive.json(EXTRA)
    _check_format(source, description)
    archive.check()
    try:
        with forgetting_traces():
            return _restored(source, archive, description, runtime, packs)
    except BackendUnavailableError:
        raise
    except TrtcoreError as error:
        raise ArtifactError(f"{source}: {error.message}", advice=error.advice) from error
    except (
        KeyError, TypeError, ValueError, AttributeError, IndexError, AssertionError, OverflowError, RuntimeError,
        RecursionError, SyntaxError, MemoryError,
    ) as error:  # fmt: skip
        raise ArtifactError(f"{source} is damaged: {type(error).__name__}: {error}") from error


def is_saved_module(path: str | os.PathLike[str]) -> bool:
    """Whether `save` wrote a file, to go by the names of its members; `load` says whether it can be used."""
    try:
        if not os.path.isfile(path):  # opening a pipe would wait for a writer
            return False
        with open(path, "rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL))
            return f"/{EXTRA}".encode() in file.read() and zipfile.is_zipfile(path)
    except (OSError, ValueError):
        return False


_FOREIGN = "it must be written by trtcore.save; torch.export.load reads plain ExportedPrograms"


def _opened(source: Path) -> Archive:
    """The archive; one that is sound, and of somebody else's layout, is called foreign and not damaged."""
    try:
        return Archive(source)
    except ArtifactError as error:
        if isinstance(error.__cause__, TooManyMembersError):
            raise
        is_zip = error.advice is None and source.is_file() and zipfile.is_zipfile(source)
        if is_zip and _is_package(source):
            raise ArtifactError(
                f"{source} is a package of AOTInductor: machine code, which trtcore.load does not execute",
                advice="if you trust where it comes from, torch._inductor.aoti_load_package runs it after "
                "`import trtcore`",
            ) from error
        if is_zip and not is_saved_module(source):
            raise ArtifactError(f"{source} is not a module that trtcore saved", advice=_FOREIGN) from error
        raise


def _is_package(source: Path) -> bool:
    """Whether an archive that is not of our layout has what AOTInductor writes."""
    try:
        with zipfile.ZipFile(source) as archive:
            names = [name.partition("/")[2] for name in archive.namelist()]
    except (OSError, ValueError, RuntimeError, struct.error, zipfile.BadZipFile):
        return False
    return any(name.startswith(_PACKAGED) for name in names) and EXTRA not in names


def _vet(source: Path, archive: Archive) -> None:
    strangers = [name for name in archive.members if not _MEMBERS.fullmatch(name)]
    if strangers:
        raise ArtifactError(
            f"{source} holds {strangers[0]!r}, which trtcore.save does not write; it was not opened",
            advice="if you trust where it comes from, torch.export.load reads plain ExportedPrograms",
        )
    if EXTRA not in archive.members:
        raise ArtifactError(
            f"{source} is not a module that trtcore saved",
            advice=_FOREIGN,
        )


def _check_format(source: Path, description: Mapping[str, Any]) -> None:
    version = description.get("format")
    if version != FORMAT or isinstance(version, bool):
        raise ArtifactError(
            f"{source} has format {version!r}; this trtcore reads format {FORMAT}",
            advice="install the trtcore that wrote it, or compile and save again",
        )


def _restored(
    source: Path, archive: Archive, description: Mapping[str, Any], runtime: str, packs: str
) -> CompiledModule:
    sums = {name: member.crc for name, member in archive.members.items() if name != EXTRA}
    if sums != description["sums"]:
        raise ArtifactError("its members are not those that were saved together")
    saved = description["module"]
    if packs == "check":
        _check_packs(_manifests(saved["graph"]))
    check = None if description["check"] is None else check_from_json(description["check"])
    graph_module = _graph_module(archive, saved, runtime)
    if saved["in_spec"] is not None:
        graph_module.graph.set_codegen(_codegen(saved, check))
        graph_module.recompile()
    report = description["report"]
    recipe = description.get("recipe")
    module = module_of(
        graph_module, _name(saved["name"]), Report() if report is None else Report.from_json(report), check
    )
    module.recipe = None if recipe is None else Recipe.from_json(recipe)
    return module


def _codegen(saved: Mapping[str, Any], check: InputCheck | None) -> FlatCodeGen:
    names = [_name(name) for name in saved["names"]]
    in_spec, out_spec = spec_from_json(saved["in_spec"]), spec_from_json(saved["out_spec"])
    assert in_spec is not None  # `saved["in_spec"]` is given
    parameters = () if check is None else check.binding.parameters
    return FlatCodeGen(_PyTreeInfo(names, in_spec, out_spec), parameters, check)


def _graph_module(archive: Archive, saved: Mapping[str, Any], runtime: str) -> GraphModule:
    values = FakeValues(ranges_from_json(saved["ranges"]))
    return _graph_of(archive, saved["graph"], values, runtime)


def _graph_of(
    archive: Archive, saved: Mapping[str, Any], values: FakeValues, runtime: str, depth: int = 0
) -> GraphModule:
    if depth > 16 or len(saved["nodes"]) > _MAX_NODES:
        raise ArtifactError("its graph is too large")
    graph, root, made = Graph(), torch.nn.Module(), dict[str, Node]()
    for name, (kind, *place) in saved["attributes"].items():
        if not is_path(name):
            raise ArtifactError(f"an attribute is named {name!r}")
        if kind == "module":
            set_attribute(root, name, _graph_of(archive, place[0], values, runtime, depth + 1))
        else:
            _set_tensor(root, name, kind, _tensor(archive, place))
    for item in saved["nodes"]:
        data = _node(item)
        if data.op == "get_attr" and data.target not in saved["attributes"]:
            raise ArtifactError(f"its graph reads {data.target}, which it does not have")
        add_node(graph, data, data.target, made, values)
    _ = graph.output_node()
    graph.lint()
    graph_module = GraphModule(root, graph)
    for node in graph.nodes:
        if node.op == "call_function" and node.target is execute_engine:
            _restore_engine(graph_module, node, runtime)
        elif node.op == "call_function" and node.target is require:
            _ = read_requirement(node.args[1])
    return graph_module


def _node(item: Any) -> Any:
    """A node; a custom op's pack is loaded where that is what is missing."""
    try:
        return node_from_json(item)
    except UnknownOpError:
        load_packs()
        return node_from_json(item)


def _set_tensor(root: torch.nn.Module, name: str, kind: str, tensor: torch.Tensor) -> None:
    if kind == "parameter":
        set_attribute(root, name, torch.nn.Parameter(tensor, requires_grad=False))
    elif kind == "buffer":
        set_attribute(root, name, None)
        path, _, last = name.rpartition(".")
        owner = root.get_submodule(path)
        delattr(owner, last)
        owner.register_buffer(last, tensor)
    elif kind == "constant":
        set_attribute(root, name, tensor)
    else:
        raise ArtifactError(f"the attribute {name} is of the kind {kind!r}")


def _tensor(archive: Archive, place: Sequence[Any]) -> torch.Tensor:
    """A tensor where it lies in the file; on its device, where there is one."""
    member, dtype, offset, shape, stride, device = place
    dtype, device = torch_value("dtype", dtype), torch_value("device", device)
    numbers = [offset, *shape, *stride]
    if (
        len(shape) != len(stride)
        or len(shape) > 64
        or not all(type(n) is int and 0 <= n < 1 << 48 for n in numbers)
    ):
        raise ArtifactError(f"a tensor has the shape {shape}, strides {stride} and offset {offset}")
    data = archive.bytes_of(member)
    last = offset + sum((n - 1) * s for n, s in zip(shape, stride)) + 1 if 0 not in shape else 0
    if last * dtype.itemsize > data.numel():
        raise ArtifactError(f"a tensor reaches beyond its {data.numel()} bytes")
    whole = data[: data.numel() - data.numel() % dtype.itemsize].view(dtype)
    if device.type != "cuda" or not torch.cuda.is_available():
        return whole.as_strided(shape, stride, whole.storage_offset() + offset)
    # What it reaches over and no more: of one number, spread by strides of 0, a copy could be of any size.
    return whole[offset : max(offset, last)].to(device).as_strided(shape, stride)


def _name(name: Any) -> str:
    if not is_identifier(name):
        raise ArtifactError(f"{name!r} is no name")
    return str(name)


def _restore_engine(module: GraphModule, node: Node, runtime: str) -> None:
    """Check an engine against its call, and choose its runtime."""
    plan_node, text = node.args[2], node.args[3]
    if not isinstance(plan_node, Node) or plan_node.op != "get_attr" or not isinstance(text, str):
        raise ArtifactError(f"{node.name} is not a call of an engine that trtcore saved")
    plan = attribute(module, str(plan_node.target))
    artifact = EngineArtifact.from_tensor(plan)
    manifest = EngineManifest.from_json(text)
    if not artifact.manifest.is_of(manifest):
        raise ArtifactError(f"{manifest.name}: the engine in the file is not the one that the program calls")
    chosen = _choose(manifest, artifact.has_snapshot, runtime)
    node.args = (*node.args[:3], with_runtime(manifest, chosen).to_json())


def _choose(manifest: EngineManifest, has_network: bool, runtime: str) -> Any:
    if runtime == "saved":
        return manifest.runtime
    if runtime == "reference":
        if not has_network:
            raise ArtifactError(
                f"{manifest.name} was saved without its network (reference=False): only TensorRT can run it"
            )
        return "reference"
    if manifest.plan == "none":
        if runtime == "native":
            raise ArtifactError(
                f"{manifest.name} has weights that its plan could not take: only the reference runtime can run it",
                advice='compile the model with these weights on a machine with a GPU, or load with runtime="reference"',
            )
        return "reference"
    if runtime == "native" or not has_network:
        return "native"  # where that is impossible, the first call says why and what to do
    from trtcore.runtime.native.bindings import connect

    try:
        connect(manifest).check()
    except BackendUnavailableError:
        return "reference"
    capability = manifest.target.get("compute_capability")
    if capability is not None and tuple(capability) != torch.cuda.get_device_capability():
        return "reference"
    return "native"


def _manifests(graph: Mapping[str, Any]) -> list[EngineManifest]:
    """The engines' manifests, from a saved graph's calls."""
    calls = [node for node in graph["nodes"] if node[2] == ["op", str(execute_engine)]]
    return [EngineManifest.from_json(call[3][4]) for call in calls]


def _check_packs(manifests: Sequence[EngineManifest]) -> None:
    """See that the packs that took part are here, in no older version.

    Raises:
        ArtifactError: some are not; it names them as pip does, and the engines that they took part in.
    """
    needed: dict[tuple[str, str], list[str]] = {}
    for manifest in manifests:
        for pack in manifest.packs:
            engines = needed.setdefault((pack["distribution"], pack["version"]), [])
            if manifest.name not in engines:
                engines.append(manifest.name)
    problems, fixes = [], []
    for (distribution, version), engines in sorted(needed.items()):
        problem = _pack_problem(distribution, version)
        if problem:
            problems.append(f"{distribution} {version} took part in {', '.join(engines)}, and {problem}")
            if _DISTRIBUTION.match(distribution) and _VERSION.match(
                version
            ):  # it is to be pasted into a shell
                fixes.append(f"'{distribution}>={version}'")
    if problems:
        install = (
            f"pip install {' '.join(fixes)}"
            if fixes
            else "install them, if these names mean something to you"
        )
        raise ArtifactError(
            f"it needs packs: {'; '.join(problems)}",
            advice=f'{install}; or, if they bring converters alone, trtcore.load(..., packs="ignore")',
        )


def _pack_problem(distribution: str, version: str) -> str:
    """Why a pack's distribution does not do; "" if it does. Packs of a process cannot be asked for."""
    from packaging.version import InvalidVersion, Version

    if distribution == IN_PROCESS:
        return ""
    try:
        installed = importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "it is not installed here"
    try:
        older = Version(installed) < Version(version)
    except InvalidVersion:
        older = installed != version
    return f"here it is {installed}, which is older" if older else ""
