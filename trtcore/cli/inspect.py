"""`trtcore inspect`: what a file holds, without running it: a compiled module, an engine, a request, a plain plan."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from trtcore.errors import printable

if TYPE_CHECKING:
    from trtcore.artifact.engine_file import EngineArtifact
    from trtcore.artifact.manifest import EngineManifest


@click.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--layers", is_flag=True, help="Every layer, with the node that it comes from.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON; it has every layer and weight.")
def inspect(file: Path, layers: bool, as_json: bool) -> None:
    """Say what FILE holds: bindings, profiles, layers, weights, packs, versions, sizes.

    FILE is what `trtcore compile`, trtcore.save, EngineArtifact.to_file or trtcore.Debugger wrote, or a plan of
    TensorRT's. Nothing of it is run.
    """
    found = describe(file)
    if as_json:
        click.echo(json.dumps({"schema": 1, **found}, indent=2))
        return
    for line in _lines(found, layers):
        click.echo(printable(line, keep=""))


def describe(path: Path) -> dict[str, Any]:
    """What a file holds, as plain values.

    Raises:
        ArtifactError: it is damaged, or of no kind that is known here.
    """
    from trtcore.archive import is_saved_module
    from trtcore.engine.request_file import is_request
    from trtcore.errors import ArtifactError

    about = {"file": str(path), "bytes": path.stat().st_size}
    if is_saved_module(path):
        return {**about, "kind": "compiled module", **_module(path)}
    if is_request(path):
        return {**about, "kind": "request", **_request(path)}
    with path.open("rb") as file:
        head = file.read(8)
    if head[1:4] == b"trt":  # "ftrt" of TensorRT, "vtrt" of TensorRT-RTX
        return {**about, "kind": "TensorRT plan", **_plan(path)}
    try:
        return {**about, "kind": "engine", "engines": [_engine(_artifact(path))]}
    except ArtifactError as error:
        raise ArtifactError(
            f"{path} is no compiled module, engine or request of trtcore's, and no plan: {error.message}",
            advice="an exported program is looked at with `trtcore explain`",
        ) from error


def _artifact(path: Path) -> EngineArtifact:
    from trtcore.artifact.engine_file import EngineArtifact

    return EngineArtifact.from_file(path)


def _module(path: Path) -> dict[str, Any]:
    import torch

    import trtcore
    from trtcore.artifact.engine_file import EngineArtifact
    from trtcore.ir.graphs import attribute, is_getitem

    module = trtcore.load(path, packs="ignore", runtime="saved")
    engines, in_torch = [], Counter[str]()
    for node in module.graph.nodes:
        if node.op != "call_function" or is_getitem(node):
            continue
        if node.target is torch.ops.trtcore.execute_engine.default:
            engines.append(_engine(EngineArtifact.from_tensor(attribute(module, str(node.args[2].target)))))
        else:
            in_torch[str(node.target)] += 1
    report = getattr(module, "report", None)
    return {
        "model": report.model if report is not None else "",
        "summary": report.summary().splitlines()[0] if report is not None else "",
        "torch_ops": dict(in_torch.most_common()),
        "engines": engines,
    }


def _engine(artifact: EngineArtifact) -> dict[str, Any]:
    manifest = artifact.manifest
    layers = [{"name": one.name, "type": one.type, "metadata": one.metadata} for one in artifact.layers()]
    return {
        "name": manifest.name,
        "plan_bytes": artifact.plan.numel(),
        "backend": f"{manifest.backend} {manifest.backend_version}",
        "target": dict(manifest.target),
        "runtime": manifest.runtime,
        "versions": {"trtcore": manifest.trtcore_version, "torch": manifest.torch_version},
        "inputs": [_binding(one) for one in manifest.inputs],
        "sizes": [{"name": one.name, "range": [one.min, one.opt, one.max]} for one in manifest.sizes],
        "outputs": [_binding(one) for one in manifest.outputs],
        "conditions": list(manifest.conditions),
        "layers": layers,
        "weights": _weights(manifest),
        "packs": [dict(one) for one in manifest.packs],
        "plugins": [dict(one) for one in manifest.plugins],
    }


def _binding(one: Any) -> dict[str, Any]:
    return {
        "name": one.name,
        "dtype": str(one.dtype).removeprefix("torch."),
        "shape": list(one.shape),
        "profiles": [[list(dims) for dims in profile] for profile in one.all_profiles],
    }


def _weights(manifest: EngineManifest) -> list[dict[str, Any]]:
    return [
        {"name": one.name, "constant": one.constant, "made": one.transform[0]} for one in manifest.weights
    ]


def _request(path: Path) -> dict[str, Any]:
    from trtcore.engine.request_file import describe_request

    return describe_request(path)


def _plan(path: Path) -> dict[str, Any]:
    import hashlib

    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return {
        "sha256": digest.hexdigest(),
        "note": "a plan says what is in it to its own version of TensorRT alone",
    }


# -- as text ------------------------------------------------------------------------------------------


def _lines(found: Mapping[str, Any], layers: bool) -> Sequence[str]:
    from trtcore.report.text import format_bytes

    lines = [f"{found['file']}: {found['kind']}, {format_bytes(found['bytes'])}"]
    lines += [f"  {line}" for line in found.get("summary", "").splitlines()]
    if found.get("torch_ops"):
        lines.append(
            "  in torch: " + ", ".join(f"{count} x {op}" for op, count in found["torch_ops"].items())
        )
    for key in (
        "name",
        "backend",
        "target",
        "settings",
        "ranges",
        "conditions",
        "weights_bytes",
        "sha256",
        "note",
    ):
        if found.get(key):
            lines.append(f"  {key.replace('_', ' ')}: {found[key]}")
    for node in found.get("nodes", ()):
        lines.append(
            f"    {node['name']} = {node['op']}" + (f"  [{node['converter']}]" if node["converter"] else "")
        )
    for engine in found.get("engines", ()):
        lines += _engine_lines(engine, layers)
    return lines


def _engine_lines(engine: Mapping[str, Any], layers: bool) -> list[str]:
    from trtcore.report.text import format_bytes

    kinds = Counter(one["type"] for one in engine["layers"])
    counts = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
    derived = sum(one["made"] == "derived" for one in engine["weights"])
    lines = [
        "",
        f"{engine['name']}: plan of {format_bytes(engine['plan_bytes'])}, {engine['backend']}, "
        f"runs on the {engine['runtime']} runtime",
        *(f"  input   {_binding_text(one)}" for one in engine["inputs"]),
        *(f"  size    {one['name']} {one['range'][0]}..{one['range'][2]}" for one in engine["sizes"]),
        *(f"  output  {_binding_text(one)}" for one in engine["outputs"]),
        f"  layers  {len(engine['layers'])}: {counts}"
        if kinds
        else "  layers  unknown: it was saved without its network",
        f"  weights {len(engine['weights'])}, {derived} of them computed from the model's",
        "  packs   " + ", ".join(f"{p['distribution']}:{p['name']} {p['version']}" for p in engine["packs"]),
        "  made by " + ", ".join(f"{name} {version}" for name, version in engine["versions"].items()),
    ]
    if engine["plugins"]:
        lines.append("  plugins " + ", ".join(one["name"] for one in engine["plugins"]))
    if layers:
        lines += [f"    {one['type']:<18} {one['name']}" for one in engine["layers"]]
    return lines


def _binding_text(one: Mapping[str, Any]) -> str:
    text = f"{one['name']}: {one['dtype']}[{', '.join(map(str, one['shape']))}]"
    spans = ["..".join("x".join(map(str, dims)) for dims in (p[0], p[2])) + f" (opt {'x'.join(map(str, p[1]))})"
             for p in one["profiles"]]  # fmt: skip
    return text + ("  " + "; ".join(spans) if spans else "")
