"""The packs in contrib/ as their users have them: wheels, installed beside trtcore's wheel in a fresh environment.

The environment is made without the network: torch and everything else that trtcore needs come from the environment
that runs the tests, through a .pth file. Beside the packs lie one that cannot be imported, one for another trtcore,
and two that tie.
"""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import textwrap
import venv
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from packaging.version import Version

ROOT = Path(__file__).parent.parent.parent
CONTRIB = sorted(path.parent for path in (ROOT / "contrib").glob("*/pyproject.toml"))
#: Those that contribute; the others are interfaces before trtcore's own.
INTERFACES = ("trtcore-contrib-diffusers", "trtcore-contrib-torch-tensorrt")
PACKS = [project for project in CONTRIB if project.name not in INTERFACES]
#: Scripts that were written for Torch-TensorRT.
SCRIPTS = sorted((ROOT / "contrib" / "trtcore-contrib-torch-tensorrt" / "examples").glob("*.py"))

PYPROJECT = """
    [build-system]
    requires = ["hatchling>=1.24"]
    build-backend = "hatchling.build"

    [project]
    name = "{name}"
    version = "{version}"
    dependencies = ["trtcore{range}"]

    [project.entry-points.trtcore]
    {module} = "{module}"

    [tool.hatch.build.targets.wheel]
    packages = ["{module}.py"]
"""

TIED = """
    import sys
    import torch
    from trtcore.pack import converter, converters_in, hookimpl

    @converter(torch.ops.aten.logaddexp.default, supports_dynamic_shapes=True)
    def logaddexp(ctx, x, y):
        exponentials = [ctx.unary(value, "EXP") for value in ctx.promote(x, y)]
        return ctx.unary(ctx.elementwise(*exponentials, "SUM"), "LOG")

    @hookimpl
    def converters():
        return converters_in(sys.modules[__name__])
"""

# name -> (version, range of trtcore, source)
NEIGHBOURS = {
    "trtcore-broken": ("3.1", ">=0.1", "import a_module_that_nobody_has"),
    "trtcore-late": ("9.0", ">=9,<10", "raise AssertionError('imported, though it fits another trtcore')"),
    "acme-logaddexp": ("1.0", ">=0.1", TIED),
    "zeta-logaddexp": ("1.0", ">=0.1", TIED),
}


@dataclass(frozen=True)
class Environment:
    """A virtual environment."""

    folder: Path

    @property
    def python(self) -> Path:
        return self.folder / ("Scripts" if os.name == "nt" else "bin") / "python"

    @classmethod
    def make(cls, folder: Path, wheels: Sequence[Path]) -> Environment:
        """With `wheels` installed in order, in two halves, and with what the running environment has installed."""
        venv.EnvBuilder(with_pip=False, symlinks=os.name != "nt").create(folder)
        made = cls(folder)
        code = "import sysconfig; print(sysconfig.get_path('purelib'))"
        site = Path(made.run("-c", code).stdout.strip())
        # A path in a .pth file comes after the environment's own packages, and .pth files in it are not read:
        # that is how an editable trtcore stays out.
        shared = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
        (site / "shared.pth").write_text("\n".join(shared) + "\n")
        options = ["--no-deps", "--no-index", "--quiet", "--force-reinstall", "--disable-pip-version-check"]
        middle = len(wheels) // 2
        for half in (wheels[:middle], wheels[middle:]):
            check(sys.executable, "-m", "pip", "--python", made.python, "install", *options, *half)
        return made

    def without_folder(self, text: str) -> str:
        """`text` with paths from the environment's folder on: what two environments have in common."""
        return text.replace(f"{self.folder}/", "")

    def run(self, *arguments: Any, **options: Any) -> subprocess.CompletedProcess[str]:
        return check(self.python, *arguments, **options)


def check(*command: Any, cwd: Path | None = None, code: int = 0) -> subprocess.CompletedProcess[str]:
    """Run a command, without the trtcore settings and the paths of this process."""
    dropped = ("TRTCORE_", "PYTHONPATH", "PYTEST_")
    kept = ("TRTCORE_CACHE_DIR",)  # what the builder said when it was asked
    environment = {k: v for k, v in os.environ.items() if k in kept or not k.startswith(dropped)}
    run = subprocess.run(
        [str(part) for part in command],
        env={**environment, "OMP_NUM_THREADS": environment.get("OMP_NUM_THREADS", "2")},
        cwd=cwd or ROOT.anchor,
        capture_output=True,
        text=True,
        timeout=1800,
        check=False,
    )
    assert run.returncode == code, f"{' '.join(map(str, command))}\n{run.stdout}\n{run.stderr}"
    return run


def build_wheels(folder: Path) -> list[Path]:
    """trtcore's wheel and those of all packs, each built from its project."""
    projects = [ROOT, *CONTRIB]
    for name, (version, versions, source) in NEIGHBOURS.items():
        module = name.replace("-", "_")
        project = folder / "projects" / name
        project.mkdir(parents=True)
        text = PYPROJECT.format(name=name, version=version, range=versions, module=module)
        (project / "pyproject.toml").write_text(textwrap.dedent(text))
        (project / f"{module}.py").write_text(textwrap.dedent(source))
        projects.append(project)

    def build(project: Path) -> Path:
        target = folder / "wheels" / project.name
        check(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", target, cwd=project)
        (wheel,) = target.glob("*.whl")
        return wheel

    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(build, projects))


def once(folder: Path, make: Callable[[], object]) -> None:
    """Call `make`, which fills the folder, in one of a run's workers; the others wait for it."""
    with FileLock(f"{folder}.lock"):
        if not (folder / "made").exists():
            make()
            (folder / "made").touch()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheels; made once for all workers of a run, as the environments below."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "contrib"
    once(folder, lambda: build_wheels(folder))
    return folder


def environment_of(made: Path, name: str, order: int) -> Environment:
    wheels = sorted(made.glob("wheels/*/*.whl"))[::order]
    once(made / name, lambda: Environment.make(made / name, wheels))
    return Environment(made / name)


@pytest.fixture(scope="module")
def environment(made: Path) -> Environment:
    """Where all packs are installed."""
    return environment_of(made, "forward", 1)


@pytest.fixture(scope="module")
def reversed_environment(made: Path) -> Environment:
    """Where they were installed in the opposite order."""
    return environment_of(made, "backward", -1)


def test_every_project_in_contrib_is_a_pack_or_an_interface() -> None:
    names = [project.name for project in CONTRIB]
    assert names == [
        "trtcore-contrib-diffusers",
        "trtcore-contrib-example",
        "trtcore-contrib-llm",
        "trtcore-contrib-modelopt",
        "trtcore-contrib-torch-tensorrt",
        "trtcore-contrib-vision",
    ]
    for project in CONTRIB:
        text = (project / "pyproject.toml").read_text()
        assert f'name = "{project.name}"' in text
        assert 'dependencies = ["trtcore>=0.1,<0.2"]' in text
        assert ("[project.entry-points.trtcore]" in text) == (project in PACKS)
        assert (project / "README.md").is_file()
        assert list((project / "tests").glob("test_*.py"))


@pytest.mark.parametrize("which", ["not slow", pytest.param("slow", marks=pytest.mark.slow)])
def test_the_packs_own_tests_pass_where_they_are_installed(
    environment: Environment, tmp_path: Path, which: str
) -> None:
    """Without the checkout on the path, and beside packs that are broken, too new, or tied."""
    for project in CONTRIB:
        shutil.copytree(project / "tests", tmp_path / project.name / "tests")
        shutil.copy(project / "README.md", tmp_path / project.name)
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers =\n    slow: longer tests\n")
    names = ["trtcore", *(project.name.replace("-", "_") for project in CONTRIB)]
    code = f"import {', '.join(names)}; print(*(m.__file__ for m in [{', '.join(names)}]))"
    for place in environment.run("-c", code).stdout.split():
        assert environment.folder in Path(place).parents
    run = environment.run(
        "-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider", "--import-mode=importlib", "--trtcore-require-backend",
        "-m", which, tmp_path,
        cwd=tmp_path,
    )  # fmt: skip
    assert "passed" in run.stdout
    skips = [line for line in run.stdout.splitlines() if line.startswith("SKIPPED")]
    optional = re.compile(r"could not import '(torchvision|diffusers|peft)'|ModelOpt is not installed")
    assert all(optional.search(line) for line in skips), run.stdout


OLD_NAME = """
    import warnings
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        import trtcore.compat.torch_tensorrt.impl.unary as old_unary
        from trtcore.compat import torch_tensorrt as old
        from trtcore.compat.torch_tensorrt.converter_utils import get_trt_tensor
    import trtcore_contrib_torch_tensorrt as new
    assert old is new and old_unary is new.impl.unary
    assert get_trt_tensor is new.converter_utils.get_trt_tensor
    print([str(one.message) for one in caught if one.category is DeprecationWarning])
"""


def test_the_old_name_of_the_torch_tensorrt_package_means_the_package(environment: Environment) -> None:
    (told,) = ast.literal_eval(environment.run("-c", textwrap.dedent(OLD_NAME)).stdout.splitlines()[-1])
    assert "goes away in trtcore 0.3: import trtcore_contrib_torch_tensorrt" in told


def test_the_old_name_says_what_to_install() -> None:
    code = """
        import sys
        sys.modules["trtcore_contrib_torch_tensorrt"] = None  # as where it is not installed
        import trtcore.compat.torch_tensorrt
    """
    run = check(sys.executable, "-c", textwrap.dedent(code), code=1)
    assert "ImportError: trtcore.compat.torch_tensorrt is the package" in run.stderr
    assert (
        "pip install trtcore-contrib-torch-tensorrt, and import trtcore_contrib_torch_tensorrt" in run.stderr
    )
    assert Version(metadata.version("trtcore")) < Version("0.3"), "remove trtcore/compat"


FOREIGN = {
    "pyproject.toml": """
        [build-system]
        requires = ["hatchling>=1.24"]
        build-backend = "hatchling.build"

        [project]
        name = "torch-tensorrt"
        version = "99.0"

        [project.entry-points.torch_dynamo_backends]
        tensorrt = "torch_tensorrt:backend"

        [tool.hatch.build.targets.wheel]
        packages = ["torch_tensorrt.py"]
    """,
    "torch_tensorrt.py": """
        from torch._dynamo.backends.registry import register_backend

        def backend(gm, inputs, **options):
            return gm.forward

        register_backend(backend, name="torch_tensorrt")
    """,
}
WHOSE_BACKENDS = """
    import sys
    for name in sys.argv[1].split(","):
        __import__(name)
    from torch._dynamo.backends.registry import lookup_backend
    print(*(lookup_backend(name).__module__ for name in sys.argv[2].split(",")))
"""
A_SCRIPT = """
    import torch
    import trtcore_contrib_torch_tensorrt as torch_tensorrt
    model = torch.nn.Sequential(torch.nn.Linear(8, 4), torch.nn.ReLU()).eval()
    x = torch.randn(2, 8)
    fast = torch.compile(model, backend="torch_tensorrt", options={"min_block_size": 1, "use_python_runtime": False})
    torch.testing.assert_close(fast(x), model(x))
    ahead = torch_tensorrt.compile(model, ir="dynamo", inputs=[torch_tensorrt.Input((2, 8))], min_block_size=1)
    torch.testing.assert_close(ahead(x), model(x))
    assert ahead.report.converted
"""


@pytest.mark.slow
def test_a_script_for_torch_tensorrt_runs_from_the_wheel(environment: Environment, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(A_SCRIPT))
    environment.run(script)
    both = "torch_tensorrt,tensorrt"
    printed = environment.run(
        "-c", textwrap.dedent(WHOSE_BACKENDS), "trtcore_contrib_torch_tensorrt", both
    ).stdout
    assert printed.split() == ["trtcore_contrib_torch_tensorrt.dynamo.backend.backends"] * 2


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_a_migrated_script_runs_from_the_wheel(
    environment: Environment, tmp_path: Path, script: Path
) -> None:
    """Whole scripts in that style; nothing but the import is this package's."""
    text = script.read_text()
    assert "\nimport trtcore_contrib_torch_tensorrt as torch_" in text
    assert "import trtcore\n" not in text
    environment.run(script, cwd=tmp_path)


def test_the_page_has_the_names_that_are_tested(environment: Environment, tmp_path: Path) -> None:
    page = ROOT / "docs" / "coming-from-torch-tensorrt.md"
    copy = shutil.copy(page, tmp_path)
    environment.run("-m", "trtcore_contrib_torch_tensorrt.names", copy)
    assert Path(copy).read_text() == page.read_text(), (
        "python -m trtcore_contrib_torch_tensorrt.names docs/coming-from-torch-tensorrt.md"
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "imports",
    ["trtcore_contrib_torch_tensorrt,torch_tensorrt", "torch_tensorrt,trtcore_contrib_torch_tensorrt"],
)
def test_beside_torch_tensorrt_the_backends_names_are_its_own(
    made: Path, tmp_path: Path, imports: str
) -> None:
    """Whichever is imported first, and by whichever way it tells torch of its backends."""
    project = tmp_path / "foreign"
    project.mkdir()
    for name, text in FOREIGN.items():
        (project / name).write_text(textwrap.dedent(text))
    check(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", tmp_path / "wheels", cwd=project)
    names = ("trtcore", "trtcore-contrib-torch-tensorrt")
    own = [wheel for wheel in sorted(made.glob("wheels/*/*.whl")) if wheel.parent.name in (ROOT.name, *names)]
    assert len(own) == 2
    beside = Environment.make(tmp_path / "beside", [*own, *(tmp_path / "wheels").glob("*.whl")])
    script = textwrap.dedent(WHOSE_BACKENDS)
    printed = beside.run("-c", script, imports, "torch_tensorrt,tensorrt,trtcore").stdout.split()
    assert printed == ["torch_tensorrt", "torch_tensorrt", "trtcore.jit.backend"]


ANSWERS = """
    import json, torch, trtcore, warnings
    from trtcore.packs.listing import describe_packs
    from trtcore.packs.loading import build_registry
    from trtcore.ir.ops import target_name
    from trtcore.settings import CompilationSettings
    from trtcore_contrib_example.ops import squared_relu

    class Model(torch.nn.Module):
        def forward(self, x):
            return squared_relu(torch.logaddexp(x, x + 1))

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(2):  # a pack is told about once
            compiled = trtcore.compile(Model(), [torch.randn(2, 4)], min_block_size=1, require_full_compilation=True)
    x = torch.randn(2, 4)
    torch.testing.assert_close(compiled(x), Model()(x))
    registry = build_registry(CompilationSettings())
    print(json.dumps({
        "warnings": [str(one.message) for one in caught if one.category.__name__ == "PackWarning"],
        "winners": {node.op: node.candidates[0].pack for node in compiled.report.converted},
        "packs": describe_packs(),
        "candidates": {target_name(op): [str(one) for one in registry.candidates(op)] for op in registry.targets},
        "passes": [one.name for one in registry.lowering_passes],
        "ties": [str(tie) for tie in registry.ties],
    }))
"""


def asked(environment: Environment) -> dict[str, Any]:
    """What an environment says of its packs, and of a compile."""
    printed = environment.run("-c", textwrap.dedent(ANSWERS)).stdout.splitlines()[-1]
    found: dict[str, Any] = json.loads(environment.without_folder(printed))
    return found


@pytest.fixture(scope="module")
def answers(environment: Environment) -> dict[str, Any]:
    return asked(environment)


def test_the_others_work_on_beside_a_broken_pack_and_one_for_another_trtcore(
    answers: dict[str, Any],
) -> None:
    told, winners = answers["warnings"], answers["winners"]
    (broken,) = [text for text in told if "trtcore-broken:trtcore_broken 3.1" in text]
    assert "a_module_that_nobody_has" in broken
    (late,) = [text for text in told if "trtcore-late:trtcore_late 9.0" in text]
    assert "<10,>=9" in late
    assert "trtcore 0.1.0" in late
    assert len(told) == 2
    assert winners["trtcore_example.squared_relu.default"] == "trtcore-contrib-example:example 0.1.0"
    assert winners["aten.logaddexp.default"] == "acme-logaddexp:acme_logaddexp 1.0"


def test_a_tie_is_reported_with_the_winner(answers: dict[str, Any]) -> None:
    (tie,) = [tie for tie in answers["ties"] if "aten.logaddexp.default" in tie]
    assert "acme-logaddexp:acme_logaddexp goes before zeta-logaddexp:zeta_logaddexp only by its name" in tie


@pytest.mark.slow  # tests/test_same_everywhere.py asks it of folders on the path
def test_the_order_of_installation_changes_nothing(
    answers: dict[str, Any], reversed_environment: Environment
) -> None:
    others = asked(reversed_environment)
    for part in ("packs", "candidates", "passes", "ties", "winners", "warnings"):
        assert answers[part] == others[part], part


def test_trtcore_packs_lists_them_all(environment: Environment, answers: dict[str, Any]) -> None:
    printed = check(environment.python.with_name("trtcore"), "packs", "--json").stdout
    listed = json.loads(environment.without_folder(printed))["packs"]
    for pack, same in zip(listed, answers["packs"], strict=True):
        for one in (pack, same):
            one["gives"].pop(
                "decompositions", None
            )  # torch's own table grows with what a process has imported
        assert pack == same
    status = {pack["distribution"]: pack["status"] for pack in listed}
    assert status["trtcore-broken"] == "failed"
    assert status["trtcore-late"] == "incompatible"
    assert {status[project.name] for project in PACKS} == {"loaded"}
