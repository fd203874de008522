"""Saving a compiled module to one file and loading it again.

The file is torch's own ``.pt2`` archive of an ExportedProgram in which every engine is an
``execute_engine`` call whose plan tensor is a self-contained engine container (plan, manifest and snapshot,
no pickle; `trtcore.artifact.engine_file`). So ``torch.export.load`` reads it too, once `trtcore.runtime.op` is
imported, with torch's own trust rules. `load` does not trust: it vets the archive before torch opens it.
"""

from __future__ import annotations

import importlib.metadata
import io
import json
import keyword
import os
import re
import tempfile
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.fx import GraphModule, Node
from torch.utils import _pytree as pytree

from trtcore.artifact.manifest import EngineManifest
from trtcore.errors import ArtifactError, BackendUnavailableError, ExportError, SettingsError, TrtcoreError
from trtcore.ir.expressions import parse
from trtcore.ir.graphs import attribute, set_attribute
from trtcore.ir.signature import KINDS, PLAIN, Binding, Parameter, Parameters
from trtcore.runtime.op import execute_engine

if TYPE_CHECKING:
    from torch.export import ExportedProgram

    from trtcore.ir.program import Program
    from trtcore.runtime.input_check import InputCheck
    from trtcore.runtime.module import CompiledModule

FORMAT = 1
_EXTRA = "trtcore.json"
_MAX_MEMBERS = 1_000_000
_MAX_JSON = 1 << 30
_CHUNK = 16 << 20

# What an archive of ours holds, below its one root folder. Anything else (custom objects, pickled tensors,
# compiled code) is refused.
_MEMBERS = re.compile(
    r"archive_format|archive_version|byteorder|\.data/(version|serialization_id)|models/model\.json"
    r"|data/weights/(weight_\d+|model_weights_config\.json)"
    r"|data/constants/(tensor_\d+|model_constants_config\.json)"
    r"|data/sample_inputs/model\.pt|extra/trtcore\.json"
)
_NEEDED = ("models/model.json", "archive_format", f"extra/{_EXTRA}")


# ---- saving -----------------------------------------------------------------------------------------


def save(
    module: torch.nn.Module,
    path: str | os.PathLike[str],
    inputs: Sequence[Any] | None = None,
    *,
    kwarg_inputs: Mapping[str, Any] | None = None,
    output_format: str = "exported_program",
    reference: bool = True,
) -> None:
    """Save a compiled module to a file that `load` reads, in another process too.

    Args:
        module: what `trtcore.compile` or `trtcore.dynamo.compile` returned.
        path: the file, usually ``*.pt2``. Written in one step: an old file stays whole until the new one is.
        inputs, kwarg_inputs: example arguments for torch.export; not needed, made from the compiled shapes.
            They are not stored.
        output_format: "exported_program" is the only one.
        reference: False leaves the networks out: a smaller file, which only TensorRT on a GPU can run.

    Dynamic dims stay dynamic, with the ranges that the module was compiled for.

    Raises:
        SettingsError: another output_format; the message says what to use.
        ArtifactError: `module` is not a compiled module, or the file cannot be written.
        InputError: `inputs` do not fit the module.
        ExportError: torch.export cannot capture the compiled module.
    """
    _check_format(output_format)
    target = Path(path)
    if not target.parent.is_dir():
        raise ArtifactError(f"{target} cannot be written: there is no folder {target.parent}")
    compiled = _compiled(module)
    exported = _export(compiled, inputs, kwarg_inputs, reference)
    extra = {"format": FORMAT, "check": _check_to_json(compiled._input_check), "report": _report(compiled)}
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}-", suffix=".pt2")
    os.close(handle)
    try:
        torch.export.save(exported, name, extra_files={_EXTRA: json.dumps(extra)})
        os.replace(name, target)
    except OSError as error:
        raise ArtifactError(f"{target} cannot be written: {error}") from error
    finally:
        with suppress(OSError):
            os.unlink(name)


def _check_format(output_format: str) -> None:
    if output_format == "exported_program":
        return
    advice = {
        "torchscript": 'TorchScript cannot hold these engines; use output_format="exported_program"',
        "aot_inductor": "save as an exported program and call "
        "torch._inductor.aoti_compile_and_package on torch.export.load of it",
    }.get(output_format, 'use output_format="exported_program"')
    raise SettingsError(f"output_format={output_format!r} is not offered", advice=advice)


def _compiled(module: Any) -> CompiledModule:
    from trtcore.runtime.module import CompiledModule

    if isinstance(module, CompiledModule):
        return module
    raise ArtifactError(
        f"trtcore.save takes what trtcore.compile returned, not {type(module).__name__}",
        advice="compile it first; an ExportedProgram that is not compiled is saved with torch.export.save",
    )


def _report(module: CompiledModule) -> str | None:
    return None if module.report is None else module.report.to_json(indent=None)


def _export(
    module: CompiledModule,
    inputs: Sequence[Any] | None,
    kwarg_inputs: Mapping[str, Any] | None,
    reference: bool,
) -> ExportedProgram:
    """The module as an ExportedProgram whose plans are engine containers, without example inputs."""
    plain = _portable(module, reference)
    args, kwargs, dynamic_shapes = _example_call(module, inputs, kwarg_inputs)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            exported = torch.export.export(plain, args, kwargs, dynamic_shapes=dynamic_shapes, strict=False)
    except (KeyboardInterrupt, TrtcoreError):
        raise
    except Exception as error:
        raise ExportError(
            f"torch.export could not capture the compiled module: {error}",
            advice="pass typical `inputs` to trtcore.save; if that does not help, please report it",
        ) from error
    if module._input_check is not None:
        _set_ranges(exported, module._input_check)
    exported._example_inputs = None  # the user's data has no place in the file
    return exported


def _portable(module: CompiledModule, reference: bool) -> GraphModule:
    """A copy of the graph, without hooks, with containers for plans. Weights are shared."""
    from trtcore.runtime.engine import resolve
    from trtcore.runtime.plans import keep_plans_plain

    root = torch.nn.Module()
    graph = torch.fx.Graph()
    copied: dict[Node, Node] = {}
    result = graph.graph_copy(module.graph, copied)
    if result is not None:
        graph.output(result)
    graph.set_codegen(module.graph._codegen)
    plans: set[str] = set()
    for node in module.graph.nodes:
        if node.op != "call_function" or node.target is not execute_engine:
            continue
        manifest, target = EngineManifest.from_json(node.args[3]), str(node.args[2].target)
        artifact = resolve(node.args[3], attribute(module, target)).artifact.with_manifest(manifest)
        set_attribute(root, target, artifact.container if reference else artifact.to_tensor(reference=False))
        plans.add(target)
    for node in module.graph.nodes:
        if node.op == "get_attr" and node.target not in plans:
            _share(root, str(node.target), attribute(module, str(node.target)))
    portable = GraphModule(root, graph, class_name="CompiledModel")
    keep_plans_plain(portable)
    return portable


def _share(root: torch.nn.Module, target: str, value: Any) -> None:
    """Put an attribute into `root`; tensors become parameters or buffers, so that mutation is captured."""
    set_attribute(root, target, value)
    if isinstance(value, torch.Tensor) and not isinstance(value, torch.nn.Parameter):
        path, _, last = target.rpartition(".")
        owner = root.get_submodule(path)
        delattr(owner, last)
        owner.register_buffer(last, value)


def example_inputs(module: CompiledModule) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """(args, kwargs) of a call that fits a compiled or loaded module: zeros of a typical size, its constants.

    Raises:
        ArtifactError: the module has no input signature.
    """
    args, kwargs, _ = _example_call(module, None, None)
    return args, kwargs


def _example_call(
    module: CompiledModule, inputs: Sequence[Any] | None, kwarg_inputs: Mapping[str, Any] | None
) -> tuple[tuple[Any, ...], dict[str, Any], Any]:
    """(args, kwargs, dynamic_shapes) for torch.export."""
    check = module._input_check
    if check is None:
        if inputs is None:
            raise ArtifactError("this module has no input signature: give trtcore.save example inputs")
        return tuple(inputs), dict(kwarg_inputs or {}), None
    if inputs is not None or kwarg_inputs is not None:
        check(module, tuple(inputs or ()), dict(kwarg_inputs or {}))
        leaves = pytree.tree_leaves([*check.binding.bind(tuple(inputs or ()), dict(kwarg_inputs or {}))])
        leaves = [leaf.to("meta") if isinstance(leaf, torch.Tensor) else leaf for leaf in leaves]
    else:
        leaves = [None] * len(check.leaves)
    placeholders = [node for node in module.graph.nodes if node.op == "placeholder"]
    made = _examples(check, placeholders, leaves)
    shapes = [_dynamic_dims(leaf) for leaf in check.leaves]
    positions = iter(range(len(made)))
    places = [spec.unflatten([next(positions) for _ in range(spec.num_leaves)]) for spec in check.specs]
    values = [pytree.tree_map(lambda i: made[i], place) for place in places]
    dims = [pytree.tree_map(lambda i: shapes[i], place) for place in places]
    split = check.binding.positional
    kwargs = dict(zip(check.binding.names[split:], values[split:]))
    dynamic = dict(zip(check.binding.names, dims)) if any(shape is not None for shape in shapes) else None
    return tuple(values[:split]), kwargs, dynamic


def _examples(check: InputCheck, placeholders: Sequence[Node], given: Sequence[Any]) -> list[Any]:
    """A value per leaf: zeros of a typical size. Sizes of 0 and 1 would be taken as fixed by torch.export."""
    from trtcore.runtime.input_check import _Constant, _Number

    made: list[Any] = []
    for leaf, node, example in zip(check.leaves, placeholders, given):
        value = node.meta.get("val")
        if isinstance(leaf, _Constant):
            made.append(leaf.value)
        elif isinstance(leaf, _Number):
            made.append(max(2, leaf.min) if example is None else example)
        elif isinstance(value, torch.Tensor):
            shape = [_hint(dim) for dim in (value.shape if example is None else example.shape)]
            made.append(torch.zeros(shape, dtype=value.dtype, device=value.device))
        else:
            raise ArtifactError(f"input {leaf.name} has no recorded shape: give trtcore.save example inputs")
    return made


def _hint(dim: Any) -> int:
    return max(2, int(dim.node.hint)) if isinstance(dim, torch.SymInt) else int(dim)


def _dynamic_dims(leaf: Any) -> Any:
    from trtcore.runtime.input_check import _Number, _Tensor

    if isinstance(leaf, _Number):
        return torch.export.Dim.DYNAMIC
    if not isinstance(leaf, _Tensor):
        return None
    dims: dict[int, Any] = {}
    for dim in leaf.linear:
        # torch.export finds which dims are equal or related; the true ranges are set afterwards.
        dims[dim.index] = torch.export.Dim.AUTO
    for index, _ in leaf.derived:
        dims[index] = torch.export.Dim.AUTO
    return dims or None


def _set_ranges(exported: ExportedProgram, check: InputCheck) -> None:
    """Give the exported symbols the ranges that the module was compiled for."""
    from torch.utils._sympy.value_ranges import ValueRanges

    from trtcore.ir.symbols import solve_linear
    from trtcore.runtime.input_check import _Tensor

    names = set(exported.graph_signature.user_inputs)
    nodes = [n for n in exported.graph.nodes if n.op == "placeholder" and n.name in names]
    for leaf, node in zip(check.leaves, nodes):
        value = node.meta.get("val")
        if not isinstance(leaf, _Tensor) or not isinstance(value, torch.Tensor):
            continue
        for dim in leaf.linear:
            found = solve_linear(value.shape[dim.index])
            if found is None:
                raise ExportError(
                    f"torch.export fixed dim {dim.index} of input {leaf.name}, which is dynamic "
                    f"({dim.min}..{dim.max})",
                    advice="pass `inputs` with a typical size there, neither 0 nor 1",
                )
            name, scale, offset = found
            low, high = -(-(dim.min - offset) // scale), (dim.max - offset) // scale
            for symbol in exported.range_constraints:
                if symbol.name == name:
                    known = exported.range_constraints[symbol]
                    low, high = max(low, 0), min(high, _finite(known.upper, high))
                    exported.range_constraints[symbol] = ValueRanges(low, high)


def _finite(bound: Any, otherwise: int) -> int:
    try:
        return int(bound)
    except (TypeError, ValueError, OverflowError, AttributeError):
        return otherwise


# ---- loading ----------------------------------------------------------------------------------------


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
    try:
        file = source.open("rb")
    except OSError as error:
        raise ArtifactError(f"{source} cannot be read: {error}") from error
    with file:
        extra, model = _vet(source, file)
        if packs == "check":
            _check_packs(source, _manifests(model))
        _register_ops(source, _targets(model))
        file.seek(0)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                exported = torch.export.load(file)
        except (KeyboardInterrupt, TrtcoreError):
            raise
        except Exception as error:
            raise ArtifactError(
                f"{source}: torch.export cannot read it: {error}",
                advice=f"it may have been saved with another torch than {torch.__version__}",
            ) from error
    return _restore(source, exported, extra, runtime)


def is_saved_module(path: str | os.PathLike[str]) -> bool:
    """Whether `save` wrote a file, to go by the names of its members; `load` says whether it can be used."""
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith(f"/extra/{_EXTRA}") for name in archive.namelist())
    except (OSError, zipfile.BadZipFile):
        return False


def _restore(
    source: Path, exported: ExportedProgram, extra: Mapping[str, Any], runtime: str
) -> CompiledModule:
    from trtcore.ir.exported import program_of
    from trtcore.report.data import Report
    from trtcore.runtime.module import assemble

    try:
        program = _with_parameters(program_of(exported), extra.get("check"))
        graph_module = program.graph_module
        for node in list(graph_module.graph.nodes):
            if node.op == "call_function" and node.target is execute_engine:
                _restore_engine(graph_module, node, runtime)
        graph_module.recompile()
        report = extra.get("report")
        module = assemble(program, graph_module, None if report is None else Report.from_json(report))
        check = _check_from_json(module._input_check, extra.get("check"))
    except TrtcoreError as error:
        if isinstance(error, BackendUnavailableError):
            raise
        raise ArtifactError(f"{source}: {error.message}", advice=error.advice) from error
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise ArtifactError(f"{source} is damaged: {error!r}") from error
    module._finish(module.report, check)
    return module


def _restore_engine(module: GraphModule, node: Node, runtime: str) -> None:
    """Check an engine against its call, and choose its runtime."""
    from trtcore.artifact.engine_file import EngineArtifact
    from trtcore.runtime.engine import with_runtime

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


# ---- vetting ----------------------------------------------------------------------------------------


def _vet(source: Path, file: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Refuse everything that `save` does not write, before torch sees it.

    Returns:
        what `save` added, and torch's own description of the graph.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            members = _members(source, archive)
            for name in ("weights", "constants"):
                _vet_payload(source, archive, members, f"data/{name}/model_{name}_config.json")
            _vet_examples(source, archive, members)
            model = _json_member(source, archive, members["models/model.json"])
            extra = _json_member(source, archive, members[f"extra/{_EXTRA}"])
            _vet_sums(archive)
    except (zipfile.BadZipFile, EOFError, OSError, RuntimeError, NotImplementedError) as error:
        raise ArtifactError(
            f"{source} is truncated, damaged, or not a module that trtcore saved: {error}"
        ) from error
    version = extra.get("format")
    if version != FORMAT or isinstance(version, bool):
        raise ArtifactError(
            f"{source} has format {version!r}; this trtcore reads format {FORMAT}",
            advice="install the trtcore that wrote it, or compile and save again",
        )
    return extra, model


def _targets(model: Mapping[str, Any]) -> tuple[str, ...]:
    """The ops that a saved graph calls."""
    try:
        nodes = model["graph_module"]["graph"]["nodes"]
        return tuple(dict.fromkeys(str(node["target"]) for node in nodes))
    except (KeyError, TypeError):
        return ()  # torch.export says what is wrong with it


def _manifests(model: Mapping[str, Any]) -> list[EngineManifest]:
    """The engines' manifests, from a saved graph's calls."""
    try:
        calls = [
            n for n in model["graph_module"]["graph"]["nodes"] if n["target"] == f"torch.ops.{execute_engine}"
        ]
        texts = [call["inputs"][3]["arg"]["as_string"] for call in calls]
    except (KeyError, TypeError, IndexError):
        return []  # torch.export, or the check of each call, says what is wrong with it
    return [EngineManifest.from_json(text) for text in texts]


def _check_packs(source: Path, manifests: Sequence[EngineManifest]) -> None:
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
            fixes.append(f"'{distribution}>={version}'")
    if problems:
        raise ArtifactError(
            f"{source} needs packs: {'; '.join(problems)}",
            advice=f"pip install {' '.join(fixes)}; or, if they bring converters alone, trtcore.load(..., "
            'packs="ignore")',
        )


def _pack_problem(distribution: str, version: str) -> str:
    """Why a pack's distribution does not do; "" if it does. Packs of a process cannot be asked for."""
    from packaging.version import InvalidVersion, Version

    from trtcore.packs.loading import IN_PROCESS

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


def _register_ops(source: Path, ops: Sequence[str]) -> None:
    """See that every custom op of a saved graph exists: packs register theirs when they are loaded."""
    from trtcore.packs.loading import load_packs

    if any(not _exists(op) for op in ops):
        load_packs()
    missing = [op for op in ops if not _exists(op)]
    if missing:
        raise ArtifactError(
            f"{source} calls {', '.join(missing)}, and no torch op of that name is registered here",
            advice="import what registers it, or install the pack that brings it, before loading",
        )


def _exists(target: str) -> bool:
    """Whether the torch op of a saved node exists; what is no torch op is for torch.export to judge."""
    parts = target.split(".")
    if parts[:2] != ["torch", "ops"] or len(parts) != 5:
        return True
    packet = getattr(getattr(torch.ops, parts[2]), parts[3], None)
    return packet is not None and hasattr(packet, parts[4])


def _members(source: Path, archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    infos = archive.infolist()
    size = os.fstat(archive.fp.fileno()).st_size if archive.fp is not None else 0
    if len(infos) > _MAX_MEMBERS:
        raise ArtifactError(f"{source} has {len(infos)} members")
    members: dict[str, zipfile.ZipInfo] = {}
    roots = set()
    for info in infos:
        root, _, name = info.filename.partition("/")
        roots.add(root)
        if not _MEMBERS.fullmatch(name):
            raise ArtifactError(
                f"{source} holds {info.filename!r}, which trtcore.save does not write; it was not opened",
                advice="if you trust where it comes from, torch.export.load reads plain ExportedPrograms",
            )
        if (
            name in members
            or info.compress_type != zipfile.ZIP_STORED
            or info.file_size != info.compress_size
        ):
            raise ArtifactError(f"{source}: its member {info.filename!r} is there twice, or compressed")
        members[name] = info
    missing = [name for name in _NEEDED if name not in members]
    if missing or len(roots) != 1 or sum(info.file_size for info in infos) > size:
        raise ArtifactError(
            f"{source} is not a module that trtcore saved"
            + (f": it lacks {', '.join(missing)}" if missing else ""),
            advice="it must be written by trtcore.save; torch.export.load reads plain ExportedPrograms",
        )
    return members


def _vet_payload(
    source: Path, archive: zipfile.ZipFile, members: Mapping[str, zipfile.ZipInfo], name: str
) -> None:
    """Weights and constants must be raw tensors: torch unpickles the others without asking."""
    if name not in members:
        return
    config: Any = _json_member(source, archive, members[name]).get("config")
    folder = name.rpartition("/")[0]
    for key, entry in (config if isinstance(config, dict) else {"": {}}).items():
        raw = isinstance(entry, dict) and entry.get("use_pickle") is False
        if not raw or f"{folder}/{entry.get('path_name')}" not in members:
            raise ArtifactError(f"{source}: tensor {key!r} is pickled or missing; it was not opened")


def _vet_examples(source: Path, archive: zipfile.ZipFile, members: Mapping[str, zipfile.ZipInfo]) -> None:
    """torch falls back to a full unpickling where the safe one fails, so the safe one must not fail."""
    info = members.get("data/sample_inputs/model.pt")
    if info is None or not info.file_size:
        return
    try:
        torch.load(io.BytesIO(archive.read(info)), weights_only=True)
    except Exception as error:
        raise ArtifactError(
            f"{source}: its example inputs hold more than plain data ({error}); it was not opened"
        ) from None


def _vet_sums(archive: zipfile.ZipFile) -> None:
    """Read every member, which raises BadZipFile where one is not what was written: torch looks at no checksum, and a
    changed byte in a weight or a plan would be a wrong number."""
    for info in archive.infolist():
        with archive.open(info) as member:
            while member.read(_CHUNK):
                pass


def _json_member(source: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> dict[str, Any]:
    if info.file_size > _MAX_JSON:
        raise ArtifactError(f"{source}: {info.filename} has {info.file_size} bytes")
    try:
        value = json.loads(archive.read(info))
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"{source}: {info.filename} is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise ArtifactError(f"{source}: {info.filename} is not an object")
    return value


# ---- the input check as data ------------------------------------------------------------------------


def _check_to_json(check: InputCheck | None) -> Any:
    """Names, ranges and guards: what an ExportedProgram does not keep of the check."""
    if check is None:
        return None
    from trtcore.runtime.input_check import _Number, _Tensor

    leaves: list[Any] = []
    for leaf in check.leaves:
        if isinstance(leaf, _Tensor):
            dims = [[d.index, d.symbol, d.scale, d.offset, d.min, d.max] for d in leaf.linear]
            layout = [] if leaf.stride is None else [[list(leaf.stride), leaf.storage_offset]]
            fixed, derived = [list(f) for f in leaf.fixed], [list(d) for d in leaf.derived]
            leaves.append(["tensor", leaf.name, fixed, dims, derived, *layout])
        elif isinstance(leaf, _Number):
            leaves.append(["number", leaf.name, leaf.symbol, leaf.min, leaf.max])
        else:
            leaves.append(["constant", leaf.name])
    guards = [[guard.text, guard.expression] for guard in check.guards]
    saved: dict[str, Any] = {
        "leaves": leaves,
        "guards": guards,
        "model_name": check.binding.model,
        "parameters": [_parameter_to_json(one) for one in check.binding.parameters],
    }
    if check.profiles:
        saved["profiles"] = [[list(symbol) for symbol in profile] for profile in check.profiles]
    return saved


def _check_from_json(check: InputCheck | None, saved: Any) -> InputCheck | None:
    if check is None or saved is None:
        return check
    from trtcore.ir.guards import Guard
    from trtcore.runtime.input_check import _LinearDim, _Number, _Tensor

    if len(saved["leaves"]) != len(check.leaves):
        raise ArtifactError("the saved input check has another number of inputs than the program")
    leaves: list[Any] = []
    for leaf, (kind, name, *rest) in zip(check.leaves, saved["leaves"]):
        if kind == "tensor" and isinstance(leaf, _Tensor):
            fixed, linear, derived, *layout = rest
            leaves.append(
                replace(
                    leaf,
                    name=str(name),
                    fixed=tuple((int(i), int(n)) for i, n in fixed),
                    linear=tuple(_LinearDim(int(i), str(s), *map(int, rest)) for i, s, *rest in linear),
                    derived=tuple((int(i), str(text)) for i, text in derived),
                    **_layout_from_json(leaf.rank, layout),
                )
            )
        elif kind == "number" and isinstance(leaf, _Number):
            symbol, low, high = rest
            leaves.append(_Number(str(name), str(symbol), int(low), int(high)))
        elif kind == "constant":
            leaves.append(replace(leaf, name=str(name)))
        else:
            raise ArtifactError(
                f"the saved input check says {kind!r} for {name!r}, the program says otherwise"
            )
    guards = tuple(Guard.from_text(expression, text) for text, expression in saved["guards"])
    known = {dim.symbol for leaf in leaves if isinstance(leaf, _Tensor) for dim in leaf.linear}
    known |= {leaf.symbol for leaf in leaves if isinstance(leaf, _Number)}
    for guard in guards:
        if unknown := set(guard.symbols) - known:
            raise ArtifactError(
                f"the saved condition {guard.text!r} is about {', '.join(sorted(unknown))}, sizes of no input"
            )
    profiles = tuple(
        tuple((str(name), int(low), int(high)) for name, low, high in profile)
        for profile in saved.get("profiles", ())
    )
    _check_profile_names(leaves, profiles)
    return replace(
        check,
        leaves=tuple(leaves),
        guards=guards,
        profiles=profiles,
        binding=_binding_from_json(check, saved),
    )


def _parameter_to_json(one: Parameter) -> list[Any]:
    """A default that is no plain value is left out: such a parameter must be given to the loaded module."""
    plain = one.has_default and isinstance(one.default, PLAIN)
    return [one.name, one.kind, *([one.default] if plain else [])]


def _with_parameters(program: Program, saved: Any) -> Program:
    """The program under the model's own signature, before code is made of it."""
    return program if saved is None else replace(program, parameters=_parameters_from_json(saved))


def _binding_from_json(check: InputCheck, saved: Mapping[str, Any]) -> Binding:
    model = saved["model_name"]
    if not isinstance(model, str):
        raise ArtifactError(f"the saved name of the model is {model!r}")
    return replace(check.binding, parameters=_parameters_from_json(saved), model=model)


def _parameters_from_json(saved: Mapping[str, Any]) -> Parameters:
    parameters = []
    for name, kind, *default in saved["parameters"]:
        named = isinstance(name, str) and name.isidentifier() and not keyword.iskeyword(name)
        if not named or kind not in KINDS or len(default) > 1:
            raise ArtifactError(f"the saved parameter {name!r} makes no sense")
        if default and type(default[0]) not in PLAIN:
            raise ArtifactError(f"the saved default of the parameter {name!r} is no plain value")
        parameters.append(Parameter(name, kind, bool(default), default[0] if default else None))
    return tuple(parameters)


def _layout_from_json(rank: int, saved: Sequence[Any]) -> dict[str, Any]:
    """The layout that an input must have, if any."""
    if not saved:
        return {"stride": None, "storage_offset": None}
    ((stride, offset),) = saved
    texts = [str(text) for text in (*stride, *([] if offset is None else [offset]))]
    for text in texts:
        parse(text)
    if len(stride) != rank:
        raise ArtifactError(f"the saved strides {stride!r} are not those of {rank} dimensions")
    return {"stride": tuple(texts[:rank]), "storage_offset": None if offset is None else texts[-1]}


def _check_profile_names(leaves: Sequence[Any], profiles: Sequence[Any]) -> None:
    from trtcore.runtime.input_check import _Tensor

    used = {dim.symbol for leaf in leaves if isinstance(leaf, _Tensor) for dim in leaf.linear}
    for profile in profiles:
        missing = used - {name for name, _, _ in profile}
        if missing:
            raise ArtifactError(f"a saved optimisation profile has no range of {', '.join(sorted(missing))}")
