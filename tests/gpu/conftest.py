"""Records what the tests marked `gpu` covered: a table at the end, and ``$OUT/cuda.json`` if OUT is set.

``python -m pytest -m gpu tests/gpu tests``: tests/gpu must be an argument of its own, so that this file is read
before the run starts. A test adds a row with the `gpu_row` fixture. Works under pytest-xdist too: what a worker
finds travels in its test reports.
"""

from __future__ import annotations

import inspect
import json
import os
import pathlib
import platform
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import torch

HERE = pathlib.Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent / "models"), str(HERE.parent / "benchmarks")]


def bindings() -> dict[str, Any]:
    """Name -> code object of every function of the module that calls TensorRT."""
    from trtcore.runtime.native import bindings

    found = {}
    for name, value in vars(bindings).items():
        if inspect.isfunction(value) and value.__module__ == bindings.__name__:
            found[name] = value.__code__
        if inspect.isclass(value) and value.__module__ == bindings.__name__ and value.__name__ == "TensorRT":
            for method, function in vars(value).items():
                if inspect.isfunction(function):
                    found[f"{name}.{method}"] = function.__code__
    return found


class Recorder:
    """Collects results of gpu tests; a plugin of its own, so that it sees those of other folders too."""

    def __init__(self) -> None:
        self.tests: list[dict[str, Any]] = []
        self.models: list[dict[str, Any]] = []
        self.native: set[str] = set()
        self.device = ""

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        if item.get_closest_marker("gpu"):  # the keywords of a report have "gpu" for the folder's name too
            item.user_properties.append(("gpu_test", True))

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Iterator[None]:
        if item.get_closest_marker("gpu"):
            name = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
            item.user_properties.append(("gpu_device", name))
            stop = watch(bindings())
            try:
                return (yield)
            finally:
                item.user_properties.append(("gpu_native", stop()))
        return (yield)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        properties = dict(report.user_properties)
        if "gpu_test" not in properties or (report.when != "call" and report.passed):
            return
        test = {"id": report.nodeid, "outcome": report.outcome, "seconds": round(report.duration, 1)}
        if report.skipped and isinstance(report.longrepr, tuple):
            test["reason"] = str(report.longrepr[2]).removeprefix("Skipped: ")[:200]
        if report.failed:
            crash = getattr(report.longrepr, "reprcrash", None)
            test["reason"] = str(getattr(crash, "message", report.longrepr)).splitlines()[0][:300]
        self.tests.append(test)
        if properties.get("gpu_row"):
            self.models.append({**properties["gpu_row"], "outcome": report.outcome})
        self.native.update(properties.get("gpu_native", ()))
        self.device = properties.get("gpu_device", self.device)

    def run(self) -> dict[str, Any]:
        import transformers

        commit = subprocess.run(
            ["git", "-C", str(HERE), "rev-parse", "--short", "HEAD"], capture_output=True, text=True
        )
        return {
            "device": self.device,
            "versions": {
                "torch": torch.__version__,
                "transformers": transformers.__version__,
                "python": platform.python_version(),
            },
            "commit": commit.stdout.strip(),
            "models": sorted(self.models, key=lambda r: (r["model"], r["shapes"], r["precision"])),
            "tests": sorted(self.tests, key=lambda test: test["id"]),
            "native": {name: name in self.native for name in sorted(bindings())},
        }

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        if not any(test["outcome"] != "skipped" for test in self.tests):
            return
        import table

        found = self.run()
        terminalreporter.write_line("\n" + table.models_table(found["models"]))
        out = os.environ.get("OUT")
        if out:
            path = pathlib.Path(out) / "cuda.json"
            path.write_text(json.dumps(found, indent=1) + "\n")
            terminalreporter.write_line(f"written: {path}")


def watch(codes: dict[str, Any]) -> Any:
    """Start noting which functions are called; returns what stops it and gives their names.

    Python before 3.12 has no `sys.monitoring`: nothing is noted there.
    """
    monitoring = getattr(sys, "monitoring", None)
    if monitoring is None:
        return list
    names = {code: name for name, code in codes.items()}
    seen: set[str] = set()
    tool = monitoring.PROFILER_ID
    monitoring.use_tool_id(tool, "trtcore gpu coverage")

    def started(code: Any, _: int) -> None:
        seen.add(names[code])

    monitoring.register_callback(tool, monitoring.events.PY_START, started)
    for code in names:
        monitoring.set_local_events(tool, code, monitoring.events.PY_START)

    def stop() -> list[str]:
        for code in names:
            monitoring.set_local_events(tool, code, 0)
        monitoring.register_callback(tool, monitoring.events.PY_START, None)
        monitoring.free_tool_id(tool)
        return sorted(seen)

    return stop


def pytest_configure(config: pytest.Config) -> None:
    if not config.pluginmanager.has_plugin("gpu-recorder"):
        config.pluginmanager.register(Recorder(), "gpu-recorder")


@pytest.fixture
def gpu_row(request: pytest.FixtureRequest) -> dict[str, Any]:
    """A dict to fill: it becomes a row of the table of models, also when the test fails half-way."""
    row: dict[str, Any] = {}
    request.node.user_properties.append(("gpu_row", row))
    return row


@pytest.fixture
def full_precision() -> Iterator[None]:
    """No TF32, and sums of 16-bit products in float32, for eager and for the reference runtime alike."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    names = [
        (matmul, "allow_fp16_reduced_precision_reduction"),
        (matmul, "allow_bf16_reduced_precision_reduction"),
    ]
    before = [getattr(owner, name) for owner, name in names]
    tf32 = matmul.allow_tf32
    for owner, name in names:
        setattr(owner, name, False)
    matmul.allow_tf32 = False
    with cudnn.flags(enabled=True, allow_tf32=False):
        yield
    for (owner, name), value in zip(names, before):
        setattr(owner, name, value)
    matmul.allow_tf32 = tf32
