"""`trtcore doctor`: what is installed, what works here, and the commands that fix what does not."""

from __future__ import annotations

import json
import os
import platform
import re
import sys
import warnings
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from trtcore.errors import TrtcoreError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from trtcore.backend.base import Backend

_VERDICTS = {"failed": "could not be loaded", "incompatible": "does not fit this version of trtcore"}
_DISTRIBUTIONS = ("trtcore", "torch", "triton", "numpy", "safetensors", "pluggy", "transformers")


@dataclass(frozen=True)
class BackendCheck:
    """One backend: whether it loads, whether its engines run here, and what it can do for `target`."""

    name: str
    usable: bool
    version: str = ""
    reason: str = ""
    fix: str = ""
    distributions: tuple[tuple[str, str], ...] = ()
    chosen: bool = False
    native: bool = False
    native_reason: str = ""
    target: str = ""
    features: dict[str, tuple[bool, str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Problem:
    """Something wrong, and the command or step that helps. `fatal`: no engine can be built."""

    what: str
    fix: str = ""
    fatal: bool = False


@dataclass(frozen=True)
class Checkup:
    """What `trtcore doctor` found; ``asdict`` of it, with a schema number, is its JSON."""

    python: str
    platform: str
    versions: dict[str, str]
    gpus: tuple[str, ...]
    no_gpu_reason: str
    backends: tuple[BackendCheck, ...]
    cache_dir: str
    cache_writable: bool
    packs: tuple[dict[str, str], ...]
    problems: tuple[Problem, ...]

    @property
    def healthy(self) -> bool:
        """Whether engines can be built here."""
        return not any(problem.fatal for problem in self.problems)


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--verbose", "-v", is_flag=True, help="TensorRT's own words on what a backend cannot do.")
@click.option("--features", is_flag=True, help="Every feature of the backend, with TensorRT's message.")
@click.option(
    "--quick", is_flag=True, help="Do not ask the backends what they can do (each answer is a small build)."
)
@click.pass_context
def doctor(ctx: click.Context, as_json: bool, verbose: bool, features: bool, quick: bool) -> None:
    """Say whether engines can be built here, how to fix what is wrong, and what is installed.

    Exits with 1 when no TensorRT backend can be used.
    """
    checkup = examine(probe=not quick)
    if as_json:
        click.echo(json.dumps({"schema": 1, "healthy": checkup.healthy, **asdict(checkup)}, indent=2))
    else:
        _print(checkup, verbose=verbose, features=features)
    if not checkup.healthy:
        ctx.exit(1)


# -- looking ------------------------------------------------------------------------------------------


def examine(*, probe: bool = True) -> Checkup:
    """Look at everything; never raises for what it finds.

    Args:
        probe: ask each usable backend for every feature it knows (small builds; cached).
    """
    from trtcore.backend.base import no_gpu_reason
    from trtcore.packs.loading import build_registry
    from trtcore.settings import CompilationSettings

    problems: list[Problem] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a failed pack becomes a problem below
        registry = build_registry(CompilationSettings())
    backends = _backends(registry.backends, problems, probe=probe)
    folder, writable = _cache(problems)
    packs = []
    for pack in registry.packs:
        packs.append(
            {"name": pack.id, "version": pack.version, "status": pack.status, "error": pack.error or ""}
        )
        if pack.status in _VERDICTS:
            problems.append(
                Problem(
                    f"the pack {pack} {_VERDICTS[pack.status]}: {pack.error}",
                    f"upgrade it (pip install -U {pack.distribution}), or turn it off: "
                    f"TRTCORE_DISABLE_PACKS={pack.id}",
                )
            )
    return Checkup(
        python=platform.python_version(),
        platform=platform.platform(),
        versions={name: version for name in _DISTRIBUTIONS if (version := _version(name))},
        gpus=_gpus(),
        no_gpu_reason=no_gpu_reason(),
        backends=backends,
        cache_dir=str(folder),
        cache_writable=writable,
        packs=tuple(packs),
        problems=tuple(problems),
    )


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _gpus() -> tuple[str, ...]:
    import torch

    if not torch.cuda.is_available():
        return ()
    return tuple(
        f"cuda:{index} {properties.name}, compute capability {properties.major}.{properties.minor}"
        for index in range(torch.cuda.device_count())
        for properties in [torch.cuda.get_device_properties(index)]
    )


def _backends(
    backends: Sequence[Backend], problems: list[Problem], *, probe: bool
) -> tuple[BackendCheck, ...]:
    from trtcore.backend.base import resolve_backend

    chosen = None
    try:
        chosen = resolve_backend("auto", backends)
    except TrtcoreError as error:
        problems.append(Problem(error.message, error.advice or "", fatal=True))
    return tuple(_backend(backend, backend is chosen, probe=probe) for backend in backends)


def _backend(backend: Backend, chosen: bool, *, probe: bool) -> BackendCheck:
    from trtcore.settings import CompilationSettings

    available = backend.availability()
    if not available.ok:
        return BackendCheck(
            backend.name,
            False,
            reason=available.reason,
            fix=available.fix,
            distributions=_distributions(backend),
        )
    native = backend.native_runtime()
    features: dict[str, tuple[bool, str]] = {}
    target = backend.default_target(CompilationSettings())
    if probe and chosen:
        with _silent_stderr():
            for feature in backend.features():
                capability = backend.can(feature, target)
                features[feature] = (capability.ok, capability.message)
    return BackendCheck(
        backend.name,
        True,
        version=str(backend.version),
        distributions=_distributions(backend),
        chosen=chosen,
        native=native.ok,
        native_reason=native.message,
        target=target.name,
        features=features,
    )


def _distributions(backend: Backend) -> tuple[tuple[str, str], ...]:
    try:
        return backend.distributions()
    except Exception:  # somebody's unreadable metadata must not hide whether the backend loads
        return ()


@contextmanager
def _silent_stderr() -> Iterator[None]:
    """Keep out what TensorRT's libraries write to the process's stderr themselves when a probe is refused."""
    sys.stderr.flush()
    saved = os.dup(2)
    null = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(null, 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(null)


def _cache(problems: list[Problem]) -> tuple[Path, bool]:
    from trtcore.paths import cache_directory

    folder = cache_directory()
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    writable = existing.is_dir() and os.access(existing, os.W_OK)
    if not writable:
        problems.append(
            Problem(
                f"the cache folder {folder} cannot be written: every process asks the backends anew",
                "export TRTCORE_CACHE_DIR=/some/folder/you/can/write",
            )
        )
    return folder, writable


# -- printing -----------------------------------------------------------------------------------------


def _print(checkup: Checkup, *, verbose: bool, features: bool) -> None:
    from rich.console import Console
    from rich.markup import escape

    console = Console(highlight=False, soft_wrap=True)

    def line(name: str, text: str) -> None:
        console.print(f"  {name:<12} {escape(text)}")

    _print_verdict(console, checkup)
    console.print("\n[bold]Installed[/bold]")
    line("python", f"{checkup.python} on {checkup.platform}")
    for name, version in checkup.versions.items():
        line(name, version)
    line("GPU", "; ".join(checkup.gpus) or f"none: {checkup.no_gpu_reason}")
    line("cache", checkup.cache_dir + ("" if checkup.cache_writable else " (cannot be written)"))
    console.print("\n[bold]Backends[/bold]")
    for backend in checkup.backends:
        _print_backend(console, backend, verbose=verbose, features=features)
    if not checkup.backends:
        console.print("  none: no pack contributes one")
    console.print("\n[bold]Packs[/bold]")
    for pack in checkup.packs:
        line(
            pack["status"],
            f"{pack['name']} {pack['version']}" + (f": {pack['error']}" if pack["error"] else ""),
        )


def _print_backend(console: Any, backend: BackendCheck, *, verbose: bool, features: bool) -> None:
    from rich.markup import escape

    if not backend.usable:
        console.print(f"  [red]no[/red]   {backend.name}: {escape(backend.reason)}")
        if backend.fix:
            console.print(f"       fix: {escape(backend.fix)}")
        return
    used = ", what backend='auto' takes" if backend.chosen else ""
    console.print(f"  [green]yes[/green]  {backend.name} {backend.version}, target {backend.target}{used}")
    for name, version in backend.distributions:
        console.print(f"       {name} {version}")
    if backend.native:
        console.print("       runtime: native, its engines run on this machine's GPU")
    else:
        console.print(
            f"       runtime: reference, its engines do not run here: {escape(backend.native_reason)}"
        )
    if features:
        for name, (ok, message) in backend.features.items():
            verdict = "[green]can[/green]   " if ok else "[yellow]cannot[/yellow]"
            console.print(f"       {verdict} {escape(name)}" + (f": {escape(message)}" if not ok else ""))
    elif backend.features:
        _print_features(console, *summarise_features(backend.features), verbose=verbose)


def _print_features(console: Any, can: list[str], cannot: Mapping[str, str], *, verbose: bool) -> None:
    from rich.markup import escape

    console.print(f"       can: {escape(', '.join(can))}")
    if not verbose:
        console.print(f"       cannot: {escape(', '.join(cannot) or 'nothing that trtcore uses')}")
        console.print("       (why not: trtcore doctor --verbose; every dtype and variant: --features)")
        return
    for name, message in cannot.items():
        console.print(f"       [yellow]cannot[/yellow] {escape(name)}: {escape(message)}")


def summarise_features(features: Mapping[str, tuple[bool, str]]) -> tuple[list[str], dict[str, str]]:
    """What a backend can and cannot do, a name for each layer instead of one for each of its variants.

    Returns:
        names, with the variants in brackets where only some work; and name -> message, shortened.
    """
    variants: dict[str, list[str]] = {}
    for name, (ok, _) in features.items():
        base, variant = _parts(name)
        variants.setdefault(base, [])
        if ok:
            variants[base].append(variant)
    can, cannot = [], {}
    for base, working in variants.items():
        title = base.removeprefix("layer:add_")
        if "" in working:
            can.append(title)
        elif working:
            can.append(f"{title} (only {', '.join(working)})")
        else:
            cannot[title] = _short(
                next(text for name, (_, text) in features.items() if _parts(name)[0] == base)
            )
    return can, cannot


def _parts(feature: str) -> tuple[str, str]:
    """("layer:add_topk", "int32") of "layer:add_topk:int32"; other features have no variants."""
    if not feature.startswith("layer:"):
        return feature, ""
    layer, _, variant = feature.removeprefix("layer:").partition(":")
    return f"layer:{layer}", variant


def _short(message: str, limit: int = 120) -> str:
    """The first line without TensorRT's prefix, cut at `limit` characters."""
    lines = message.strip().splitlines() or ["no reason given"]
    text = re.sub(r"^I?\w+::\w+: Error Code \d+: ", "", lines[0])
    return text if len(text) <= limit else text[: limit - 3] + "..."


def _print_verdict(console: Any, checkup: Checkup) -> None:
    from rich.markup import escape

    if not checkup.problems:
        console.print("[green]Everything that engines need is here.[/green]")
        return
    can = "can" if checkup.healthy else "cannot"
    console.print(f"[bold]What is wrong[/bold] (engines {can} be built here)")
    for problem in checkup.problems:
        console.print(f"  [red]-[/red] {escape(problem.what)}")
        if problem.fix:
            console.print(f"    fix: {escape(problem.fix)}")
