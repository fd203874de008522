"""The engine cache: an engine is found again by what it is, and never is a wrong or damaged one."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import random
import signal
import struct
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import trtcore
from trtcore.artifact.engine_file import EngineArtifact
from trtcore.engine.cache.builder import CachedBuilder, OpenedEntry
from trtcore.engine.cache.entry import DamagedEntryError, engine_of, facts_of, name_of, read_facts
from trtcore.engine.cache.stores import FolderStore, RemoteStore, store_at
from trtcore.engine.key import sample_hash
from trtcore.errors import ArtifactError, SettingsError
from trtcore.ir.tensor_bytes import have_same_bytes
from trtcore.settings import CompilationSettings

pytestmark = pytest.mark.usefixtures("trt_backend")

X = torch.linspace(-1, 1, 24).reshape(3, 8)
BATCH = trtcore.Input(min_shape=(1, 8), opt_shape=(2, 8), max_shape=(6, 8))


class Net(nn.Module):
    """One engine; what its layer is called does not count."""

    def __init__(self, scale: float = 1.0, name: str = "first") -> None:
        super().__init__()
        layer = nn.Linear(8, 4)
        with torch.no_grad():
            layer.weight.copy_(torch.linspace(-scale, scale, 32).reshape(4, 8))
            layer.bias.fill_(0.25)
        self.add_module(name, layer)
        self.name = name

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(getattr(self, self.name)(x)) + 1


def compiled(model: nn.Module, place: Any, *, read: bool = True, write: bool = True, **options: Any) -> bool:
    """Compile, check the numbers, and say whether the engine came from the cache."""
    if place is not None:
        options["engine_cache_dir"] = str(place)
    module = trtcore.compile(
        model.eval(),
        [BATCH],
        min_block_size=1,
        reuse_cached_engines=read,
        cache_built_engines=write,
        **options,
    )
    with torch.no_grad():
        for batch in (X, X[:1], torch.cat([X, X])):
            torch.testing.assert_close(module(batch), model(batch))
    (engine,) = module.report.engines
    assert engine.layers
    assert (engine.build_seconds is None) == engine.cached
    return engine.cached


def entry_files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.engine"))


# ---- hits and misses ----------------------------------------------------------------------------------------


def test_an_engine_is_built_once(tmp_path: Path) -> None:
    assert [compiled(Net(), tmp_path) for _ in range(2)] == [False, True]
    assert not compiled(Net(scale=2.0), tmp_path)
    assert compiled(Net(), tmp_path, optimization_level=1) is False
    assert len(entry_files(tmp_path)) == 3


def test_each_half_by_itself(tmp_path: Path) -> None:
    assert not compiled(Net(), tmp_path, write=False)
    assert not entry_files(tmp_path)
    assert [compiled(Net(), tmp_path, read=False) for _ in range(2)] == [False, False]
    assert compiled(Net(), tmp_path, write=False)


def test_a_program_with_other_names_finds_it_and_has_its_own(tmp_path: Path) -> None:
    compiled(Net(), tmp_path)
    model = Net(name="a_layer_of_a_name_that_is_so_long_that_the_header_has_no_room_for_it" * 8)
    settings = {"reuse_cached_engines": True, "engine_cache_dir": str(tmp_path)}
    module = trtcore.compile(model.eval(), [BATCH], min_block_size=1, **settings)
    assert module.report.engines[0].cached
    artifact = engine_in(module)
    assert {record.name.partition(".")[0] for record in artifact.manifest.weights if record.name} == {
        model.name
    }
    assert EngineArtifact.from_tensor(artifact.container).manifest.weights == artifact.manifest.weights
    artifact.verify()
    torch.testing.assert_close(module(X), model(X))


def engine_in(module: Any) -> EngineArtifact:
    from trtcore.artifact.manifest import EngineManifest
    from trtcore.runtime.engine import get_engine

    (node,) = (n for n in module.graph.nodes if "execute_engine" in str(n.target))
    engine = get_engine(EngineManifest.from_json(node.args[3]).id)
    assert engine is not None
    return engine.artifact


def test_two_modules_of_one_entry_are_two_engines(tmp_path: Path) -> None:
    options = {"cache_built_engines": True, "reuse_cached_engines": True, "engine_cache_dir": tmp_path}
    modules = [trtcore.compile(Net().eval(), [BATCH], min_block_size=1, **options) for _ in range(3)]
    assert len({engine_in(module).manifest.id for module in modules}) == 3
    trtcore.save(modules[2], tmp_path / "net.pt2")
    torch.testing.assert_close(trtcore.load(tmp_path / "net.pt2")(X), modules[0](X))


def test_several_engines_and_a_model_in_which_one_is_twice(tmp_path: Path) -> None:
    class Twice(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            for _ in range(2):
                x = torch.special.bessel_j0(x.relu() + 1)
            return x.exp()

    options = {"cache_built_engines": True, "reuse_cached_engines": True, "engine_cache_dir": tmp_path}
    for expected in (0, 3):
        module = trtcore.compile(Twice(), [X], min_block_size=1, **options)
        assert sum(engine.cached for engine in module.report.engines) == expected
        assert len(module.report.engines) == 3
        torch.testing.assert_close(module(X), Twice()(X))
    stages = [stage.name for stage in module.report.stages]
    assert "cache" in stages
    assert "build" not in stages


def test_the_plain_plan_of_a_program_goes_through_it(tmp_path: Path) -> None:
    exported = trtcore.dynamo.trace(Net().eval(), [X])
    plans = [
        trtcore.dynamo.convert_exported_program_to_serialized_trt_engine(
            exported, [X], min_block_size=1, cache_built_engines=True, reuse_cached_engines=True,
            engine_cache_dir=tmp_path,
        )
        for _ in range(2)
    ]  # fmt: skip
    assert plans[0] == plans[1]
    assert len(entry_files(tmp_path)) == 1


RESTARTED = """
import sys, torch, trtcore
import test_cache as t
model = t.Net().eval()
options = {"min_block_size": 1, "cache_built_engines": True, "reuse_cached_engines": True, "engine_cache_dir": sys.argv[1]}
with torch.no_grad():
    torch.testing.assert_close(torch.compile(model, backend="trtcore", options=options)(t.X), model(t.X))
from trtcore.jit.backend import reports
(graph,) = reports()
print([engine.cached for engine in graph.report.engines])
"""


def test_torch_compile_finds_it_after_a_restart(tmp_path: Path) -> None:
    """Of what this process has put there; Dynamo's names and AOT's are no matter."""
    model = Net().eval()
    options = {
        "min_block_size": 1, "cache_built_engines": True, "reuse_cached_engines": True, "engine_cache_dir": str(tmp_path),
    }  # fmt: skip
    with torch.no_grad():
        torch.testing.assert_close(torch.compile(model, backend="trtcore", options=options)(X), model(X))
    assert len(entry_files(tmp_path)) == 1
    done = in_a_new_process(RESTARTED, str(tmp_path))
    assert done.splitlines()[-1] == "[True]"


def in_a_new_process(code: str, *arguments: str) -> str:
    here = os.path.dirname(__file__)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, *arguments],
        capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": here},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_engines_that_can_be_refitted_serve_other_weights(tmp_path: Path) -> None:
    """One entry; what is folded, joined or cast is made of the new weights by converting again, and nothing is built."""
    options = {"immutable_weights": False, "runtime": "reference"}
    assert not compiled(Net(), tmp_path, **options)
    for scale in (2.0, 0.5, 1.0):
        assert compiled(Net(scale=scale, name="another"), tmp_path, **options)
    assert len(entry_files(tmp_path)) == 1
    assert not compiled(Net(scale=2.0), tmp_path)


class Large(nn.Module):
    """One engine with weights of which only samples are looked at first."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(8, 4096), nn.Linear(4096, 8)
        with torch.no_grad():
            for layer in (self.first, self.second):
                count = layer.weight.numel()
                layer.weight.copy_(torch.linspace(-1, 1, count).reshape(layer.weight.shape) / 16)
                layer.bias.fill_(0.25)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.relu(self.first(x)))


def changed_in_one_place(place: int) -> Large:
    model = Large()
    with torch.no_grad():
        model.second.weight.view(-1)[place] += 1
    return model


_UNSEEN = 300  # an element that is in no sample
_SEEN = 10


def test_weights_that_differ_where_no_sample_was_taken_are_others(tmp_path: Path) -> None:
    weights = [model.second.weight for model in (Large(), changed_in_one_place(_UNSEEN))]
    assert len(set(map(sample_hash, weights))) == 1
    assert len({sample_hash(weights[0]), sample_hash(changed_in_one_place(_SEEN).second.weight)}) == 2
    models = [Large(), changed_in_one_place(_UNSEEN), changed_in_one_place(_UNSEEN + 1)]
    assert [compiled(model, tmp_path) for model in models] == [False, False, False]
    assert len(entry_files(tmp_path)) == 3
    assert [compiled(model, tmp_path) for model in models] == [True, True, True]


class Alike(nn.Module):
    """Two weights of the same bytes."""

    def __init__(self, changed: int | None = None) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(8, 96), nn.Linear(96, 96), nn.Linear(96, 96))
        with torch.no_grad():
            self.layers[0].weight.copy_(torch.linspace(-1, 1, 96 * 8).reshape(96, 8))
            for layer in self.layers[1:]:
                layer.weight.copy_(torch.linspace(-1, 1, 96 * 96).reshape(96, 96) / 96)
            for layer in self.layers:
                layer.bias.zero_()
            if changed is not None:
                self.layers[changed].weight.view(-1)[_UNSEEN] += 1

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


def test_each_of_several_weights_of_the_same_bytes_counts(tmp_path: Path) -> None:
    weights = [Alike(changed=1).layers[1].weight, Alike().layers[1].weight]
    assert sample_hash(weights[0]) == sample_hash(weights[1])
    models = [Alike(), Alike(changed=1), Alike(changed=2)]
    assert [compiled(model, tmp_path) for model in models] == [False, False, False]
    assert [compiled(model, tmp_path) for model in models] == [True, True, True]


def test_entries_that_were_only_written_do_not_replace_each_other(tmp_path: Path) -> None:
    models = [Large(), changed_in_one_place(_UNSEEN)]
    assert [compiled(model, tmp_path, read=False) for model in models] == [False, False]
    assert [compiled(model, tmp_path) for model in models] == [True, True]


def test_a_weight_that_changes_back_is_found_though_its_quick_name_is_another_s(tmp_path: Path) -> None:
    compiled(Large(), tmp_path)
    compiled(changed_in_one_place(_UNSEEN), tmp_path)
    first = next(file for file in entry_files(tmp_path) if file_key(file) != file.stem)
    first.unlink()  # as the least recently used entries go
    assert compiled(changed_in_one_place(_UNSEEN), tmp_path)
    assert not compiled(Large(), tmp_path)
    assert compiled(Large(), tmp_path)


def file_key(file: Path) -> str:
    return facts_of(memoryview(file.read_bytes()), None).key


@pytest.mark.parametrize("share", [0.2, 0.4, 0.6, 0.8, 0.97])
def test_a_damaged_weight_of_an_entry_is_not_used(tmp_path: Path, share: float) -> None:
    """Constants are compared with the weights, the plan and the rest are hashed."""
    compiled(Large(), tmp_path)
    (file,) = entry_files(tmp_path)
    data = bytearray(file.read_bytes())
    data[int(len(data) * share)] ^= 4
    file.write_bytes(data)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a constant that differs is another model's
        assert not compiled(Large(), tmp_path)
    assert compiled(Large(), tmp_path)


class Wide(nn.Module):
    """A weight that is large enough to be looked for in the plan."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 4096, bias=False)
        with torch.no_grad():
            self.layer.weight.copy_(torch.linspace(-1, 1, 8 * 4096).reshape(4096, 8))

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


@pytest.mark.parametrize("where", ["plan", "constant", "both"])
@pytest.mark.parametrize("key", [None, b"ours"], ids=["open", "sealed"])
def test_a_damaged_weight_in_the_plan_is_not_used(tmp_path: Path, where: str, key: bytes | None) -> None:
    """What of the plan are constants is compared with them, and they with the model's weights."""
    options = {} if key is None else {"engine_cache_key": key}
    compiled(Wide(), tmp_path, **options)
    (file,) = entry_files(tmp_path)
    data = bytearray(file.read_bytes())
    facts, engine = engine_of(memoryview(data), facts_of(memoryview(data), key).key, key)
    artifact = EngineArtifact.from_tensor(torch.frombuffer(engine, dtype=torch.uint8))
    ((start, name),) = facts.repeats
    _, constant = artifact.hashed_constants()[name]
    element = constant.numel() // 2
    whole = artifact.plan.untyped_storage().data_ptr()
    if where != "constant":
        data[artifact.plan.data_ptr() - whole + start + 4 * element] ^= 4
    if where != "plan":
        data[constant.data_ptr() - whole + 4 * element] ^= 4
    file.write_bytes(data)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a constant that differs is another model's
        assert not compiled(Wide(), tmp_path, **options)
    assert compiled(Wide(), tmp_path, **options)


def test_with_a_secret_all_weights_are_hashed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def sampled(_: torch.Tensor) -> str:
        raise AssertionError("a weight was sampled")

    monkeypatch.setattr("trtcore.engine.key.sample_hash", sampled)
    settings = {"engine_cache_key": b"ours"}
    assert [compiled(Large(), tmp_path, **settings) for _ in range(2)] == [False, True]


def test_the_same_bytes_whatever_their_dtype_and_place() -> None:
    x = torch.randn(6, 5)
    x[0, 0] = float("nan")
    assert have_same_bytes(x, x.clone())
    assert have_same_bytes(x.t(), x.t().contiguous())
    assert not have_same_bytes(x, x.t())
    assert have_same_bytes(x, x.view(torch.int32).reshape(-1))
    assert have_same_bytes(torch.zeros(3)[:0], torch.zeros(0, dtype=torch.int8))
    assert not have_same_bytes(torch.zeros(1), torch.zeros(2))
    assert not have_same_bytes(torch.tensor([0.0]), torch.tensor([-0.0]))
    room = torch.zeros(125, dtype=torch.uint8)
    room[5:125] = x.view(torch.uint8).reshape(-1)
    assert have_same_bytes(room[5:], x)
    room[124] ^= 1
    assert not have_same_bytes(room[5:], x)


@pytest.mark.parametrize(
    "dtype", [torch.float16, torch.bool, torch.float8_e4m3fn, torch.complex64, torch.float64]
)
def test_samples_of_every_dtype_and_layout(dtype: torch.dtype) -> None:
    x = torch.randint(0, 2, (64, 80, 4, 3)).to(dtype)
    looks = (
        lambda x: x,
        lambda x: x.to(memory_format=torch.channels_last),
        lambda x: x.transpose(0, 1),
        lambda x: x[:, ::2],
        lambda x: x[:1].expand(64, -1, -1, -1),
    )
    for look in looks:
        assert sample_hash(look(x)) == sample_hash(look(x.clone()))
    other = x.clone()
    other[0, 0, 0, 0] = 1 - int(x[0, 0, 0, 0].to(torch.float32).real)
    assert sample_hash(x) != sample_hash(other)


# ---- damage -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def entry(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of one entry."""
    folder = tmp_path_factory.mktemp("entry")
    with trtcore.scoped_registry():
        compiled(Net(), folder)
    (file,) = entry_files(folder)
    return file


def opened(data: bytes, key: str) -> EngineArtifact:
    """What a compile does with an entry's bytes."""
    entry = OpenedEntry.of(memoryview(bytearray(data)), key, None)
    entry.verify()
    return entry.artifact


@settings(max_examples=150)
@given(data=st.data())
def test_no_flipped_bit_goes_unseen(entry: Path, data: Any) -> None:
    whole = bytearray(entry.read_bytes())
    place = data.draw(
        st.one_of(st.integers(0, len(whole) - 1), st.integers(len(whole) - 2000, len(whole) - 1))
    )
    whole[place] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises((DamagedEntryError, ArtifactError)):
        opened(bytes(whole), entry.stem)


@settings(max_examples=60)
@given(data=st.data())
def test_nor_does_a_cut_or_an_addition(entry: Path, data: Any) -> None:
    whole = entry.read_bytes()
    count = data.draw(st.integers(0, len(whole) - 1))
    for changed in (whole[:count], whole[count:][: len(whole) - 1], whole + whole[:7], whole + whole[count:]):
        if changed not in (whole, whole + whole):
            with pytest.raises((DamagedEntryError, ArtifactError)):
                opened(changed, entry.stem)


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[: len(data) // 2],
        lambda data: b"",
        lambda data: data[:3000] + bytes([data[3000] ^ 1]) + data[3001:],
        lambda data: (
            data[: len(data) // 2] + bytes([data[len(data) // 2] ^ 255]) + data[len(data) // 2 + 1 :]
        ),
    ],
    ids=["cut", "empty", "header", "middle"],
)
def test_a_damaged_entry_is_told_and_built_again(
    entry: Path, tmp_path: Path, damage: Callable[[bytes], bytes]
) -> None:
    file = tmp_path / entry.name
    file.write_bytes(damage(entry.read_bytes()))
    with pytest.warns(RuntimeWarning, match="engine_0 in the engine cache .* is not used"):
        assert not compiled(Net(), tmp_path)
    assert compiled(Net(), tmp_path)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"layers": "many"}, "layers is str"),
        ({"symbols": "abc"}, "symbols is str"),
        ({"name": None}, "name is NoneType"),
        ({"repeats": [["x", "y"]]}, "invalid literal"),
        ({"repeats": [[1]]}, "not enough values"),
        ({"more": 1}, "unexpected keyword"),
        ({"format": 1}, "it has the format 1"),
    ],
)
def test_facts_that_are_none_are_damage(entry: Path, changes: dict[str, Any], text: str) -> None:
    """Without a secret anybody can seal them."""
    facts = facts_of(memoryview(entry.read_bytes()), None)
    made = json.dumps({**dataclasses.asdict(facts), **changes}).encode()
    sealed = made + struct.pack("<32sQ8s", hashlib.sha256(made).digest(), len(made), b"TRTEC\x00\x00\x01")
    with pytest.raises(DamagedEntryError, match=text):
        read_facts(sealed, None)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="a file system without pipes")
@pytest.mark.parametrize("kind", ["pipe", "link to a pipe"])
def test_what_is_no_file_keeps_no_reader(entry: Path, tmp_path: Path, kind: str) -> None:
    """Who may write into a shared folder could make others wait or read for ever."""
    file, pipe = tmp_path / entry.name, tmp_path / "pipe"
    os.mkfifo(pipe if "link" in kind else file)
    if "link" in kind:
        file.symlink_to(pipe)
    store = FolderStore(tmp_path)
    assert (store.read(entry.stem), store.end(entry.stem, 48)) == (b"", b"")
    with pytest.warns(RuntimeWarning, match="is not used"):
        assert not compiled(Net(), tmp_path)
    assert compiled(Net(), tmp_path)


def test_no_link_in_a_shared_folder_is_written_through(entry: Path, tmp_path: Path) -> None:
    """It could lead to any file of who writes."""
    theirs = tmp_path / "theirs"
    theirs.write_text("precious")
    (tmp_path / entry.name).symlink_to(theirs)
    with pytest.warns(RuntimeWarning, match="is not used"):
        assert not compiled(Net(), tmp_path)
    (tmp_path / ".lock").symlink_to(theirs)
    with pytest.raises(OSError, match="symbolic link"):
        FolderStore(tmp_path).shrink(0)
    assert theirs.read_text() == "precious"
    assert not (tmp_path / entry.name).is_symlink()
    assert compiled(Net(), tmp_path)


def test_an_entry_under_another_name_is_not_taken(entry: Path, tmp_path: Path) -> None:
    compiled(Net(scale=3.0), tmp_path)
    (other,) = entry_files(tmp_path)
    other.write_bytes(entry.read_bytes())
    with pytest.warns(RuntimeWarning, match="belongs to another request"):
        assert not compiled(Net(scale=3.0), tmp_path)


def worker(*arguments: Any) -> subprocess.Popen[str]:
    script = os.path.join(os.path.dirname(__file__), "cache_worker.py")
    return subprocess.Popen([sys.executable, script, *map(str, arguments)], stdout=subprocess.PIPE, text=True)


def test_a_killed_writer_leaves_whole_entries(entry: Path, tmp_path: Path) -> None:
    pick = random.Random(0)
    for _ in range(6):
        process = worker(tmp_path, entry, 3, 100_000, 1 << 40)
        assert process.stdout is not None
        process.stdout.readline()  # it writes
        time.sleep(pick.random() * 0.05)
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        found = entry_files(tmp_path)
        assert found
        for file in found:
            opened(file.read_bytes(), entry.stem)


def test_eight_processes_write_read_and_make_room(entry: Path, tmp_path: Path) -> None:
    """With room for three of five entries: each worker checks every entry that it reads."""
    limit = 3 * entry.stat().st_size
    processes = [worker(tmp_path, entry, 5, 25, limit) for _ in range(8)]
    for process in processes:
        output, _ = process.communicate()
        assert process.returncode == 0
        assert output.count("round") == 25
    store = FolderStore(tmp_path)
    assert sum(one.size for one in store.entries()) <= limit
    for file in entry_files(tmp_path):
        opened(file.read_bytes(), entry.stem)
    assert not list(tmp_path.glob(".trtcore-*"))


def test_eight_threads_compile_at_once(tmp_path: Path) -> None:
    exported = [trtcore.dynamo.trace(Net(scale=1.0 + number % 2).eval(), [X]) for number in range(8)]

    def one(number: int) -> tuple[Tensor, Any]:
        options = {"cache_built_engines": True, "reuse_cached_engines": True, "engine_cache_dir": tmp_path}
        module = trtcore.dynamo.compile(exported[number], [X], min_block_size=1, **options)
        return module(X), module.report

    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(one, range(8)))
    for number, (result, _) in enumerate(results):
        torch.testing.assert_close(result, Net(scale=1.0 + number % 2)(X))
    assert len(entry_files(tmp_path)) == 2


@pytest.mark.slow
def test_eight_processes_compile_at_once(tmp_path: Path) -> None:
    """One has to die in the middle of it; the others' numbers are right."""
    code = (
        "import sys, test_cache as t; print(t.compiled(t.Net(scale=1.0 + int(sys.argv[2]) % 2), sys.argv[1]))"
    )
    environment = {**os.environ, "PYTHONPATH": os.path.dirname(__file__)}
    processes = [
        subprocess.Popen([sys.executable, "-c", code, str(tmp_path), str(number)], env=environment)
        for number in range(8)
    ]
    while not entry_files(tmp_path) and any(process.poll() is None for process in processes):
        time.sleep(0.01)
    processes[0].kill()
    assert all(process.wait() == 0 for process in processes[1:])
    assert compiled(Net(), tmp_path)
    assert compiled(Net(scale=2.0), tmp_path)


# ---- room ---------------------------------------------------------------------------------------------------


@pytest.fixture(params=["folder", "memory", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A folder, and two file systems of fsspec; S3 is moto's, served on loopback."""
    if request.param == "folder":
        yield str(tmp_path / "not there yet")
    elif request.param == "memory":
        yield f"memory://{tmp_path.name}/engines"
    else:
        server = pytest.importorskip(
            "moto.server", reason="S3 is served by moto: pip install 'trtcore[services]'"
        )
        pytest.importorskip("s3fs")
        served = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0)
        served.start()
        yield from s3_bucket(served, request.getfixturevalue("monkeypatch"), tmp_path.name)


def s3_bucket(served: Any, monkeypatch: pytest.MonkeyPatch, folder: str) -> Iterator[str]:
    import s3fs

    host, port = served.get_host_and_port()
    for name, value in {
        "AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing", "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://{host}:{port}", "FSSPEC_S3_ENDPOINT_URL": f"http://{host}:{port}",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()
    s3fs.S3FileSystem(endpoint_url=f"http://{host}:{port}").makedirs("shared", exist_ok=True)
    try:
        yield f"s3://shared/{folder}/engines"
    finally:
        s3fs.S3FileSystem.clear_instance_cache()
        served.stop()


def test_every_place_keeps_engines_and_drops_the_least_recently_used(
    place: str, entry: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = entry.stat().st_size
    assert [compiled(Net(), place) for _ in range(2)] == [False, True]
    compiled(Net(scale=2.0), place)
    time.sleep(0.02)
    assert compiled(Net(), store_again(place))  # used last, by what might be another process
    time.sleep(0.02)
    compiled(Net(scale=3.0), place, engine_cache_size=int(2.5 * size))
    assert len(store_at(place).entries()) == 2
    assert compiled(Net(), place)
    assert not compiled(Net(scale=2.0), place, write=False)


def store_again(place: str) -> str:
    """Forget what fsspec knows of a file system's listing."""
    if isinstance(store := store_at(place), RemoteStore):
        store._system.invalidate_cache()
    return place


def test_a_large_entry_goes_through_a_file(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trtcore.engine.cache.stores._SMALL", 100)
    assert [compiled(Net(), place) for _ in range(2)] == [False, True]


def test_an_engine_larger_than_the_cache_is_told(tmp_path: Path) -> None:
    with pytest.warns(RuntimeWarning, match="engine_cache_size is 100"):
        compiled(Net(), tmp_path, engine_cache_size=100)
    assert not entry_files(tmp_path)


# ---- who may read -------------------------------------------------------------------------------------------


def test_a_key_makes_what_others_wrote_invisible(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # invisible, not damaged
        compiled(Net(), tmp_path)
        assert not compiled(Net(), tmp_path, engine_cache_key="ours")
        assert compiled(Net(), tmp_path, engine_cache_key=b"ours")
        assert not compiled(Net(), tmp_path, engine_cache_key="theirs")
        assert compiled(Net(), tmp_path)
        monkeypatch.setenv("TRTCORE_ENGINE_CACHE_KEY", "ours")
        assert compiled(Net(), tmp_path)
    assert len(entry_files(tmp_path)) == 3


def test_an_entry_that_another_put_under_our_name_is_not_taken(entry: Path, tmp_path: Path) -> None:
    """Who can write into the folder and has read the name from it still has no key."""
    (tmp_path / f"{name_of(entry.stem, b'ours')}.engine").write_bytes(entry.read_bytes())
    with pytest.warns(RuntimeWarning, match="another key has sealed it"):
        assert not compiled(Net(), tmp_path, engine_cache_key="ours")


def test_nobody_is_shown_the_key() -> None:
    chosen = CompilationSettings(reuse_cached_engines=True, engine_cache_key="do not tell")
    assert "do not tell" not in f"{chosen} {chosen!r} {chosen.changed()}"
    assert chosen.replace(min_block_size=1).engine_cache_key == chosen.engine_cache_key
    from trtcore.engine.request import portable_settings

    assert portable_settings(chosen).engine_cache_key is None


# ---- a cache of the user's own, and what goes wrong ---------------------------------------------------------


class Own:
    """A `trtcore.EngineCache`."""

    def __init__(self) -> None:
        self.kept: dict[str, bytes] = {}

    def save(self, hash: str, blob: bytes) -> None:
        self.kept[hash] = blob

    def load(self, hash: str) -> bytes | None:
        return self.kept.get(hash)


def test_a_custom_cache() -> None:
    own = Own()
    assert [compiled(Net(), None, custom_engine_cache=own) for _ in range(2)] == [False, True]
    (name,) = own.kept
    own.kept[name] = own.kept[name][:-1]
    with pytest.warns(RuntimeWarning, match="the engine cache Own is not used"):
        assert not compiled(Net(), None, custom_engine_cache=own)


def test_a_custom_cache_that_returns_no_bytes_is_told() -> None:
    own = Own()
    own.load = lambda hash: "text"  # type: ignore[assignment,return-value]
    with pytest.warns(RuntimeWarning, match=r"load\(hash\) returned str, and must return bytes"):
        assert not compiled(Net(), None, custom_engine_cache=own)


class Broken(Own):
    def __init__(self, what: str) -> None:
        super().__init__()
        self.what = what

    def save(self, hash: str, blob: bytes) -> None:
        if self.what == "save":
            raise ConnectionResetError("gone")

    def load(self, hash: str) -> bytes | None:
        if self.what == "load":
            raise ConnectionResetError("gone")
        return None


@pytest.mark.parametrize(("what", "text"), [("save", "written"), ("load", "read")])
def test_a_cache_that_fails_stops_no_compile(what: str, text: str) -> None:
    with pytest.warns(RuntimeWarning, match=f"the engine cache Broken cannot be {text} for engine_0.*gone"):
        assert not compiled(Net(), None, custom_engine_cache=Broken(what))


def test_a_folder_that_cannot_be_one(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.warns(RuntimeWarning, match="cannot be read"):
        assert not compiled(Net(), tmp_path / "file")


def test_a_converter_without_a_key_is_told(tmp_path: Path) -> None:
    strange = object()

    def relu(ctx: Any, x: Any) -> Any:
        assert strange
        return ctx.activation(x, "RELU")

    with pytest.warns(RuntimeWarning, match="does not go through the engine cache: it has no key"):
        assert not compiled(
            Net(), tmp_path, converters={"aten.relu.default": relu}, assume_dynamic_shape_support=True
        )


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"engine_cache_dir": "/x"}, "engine_cache_dir has no effect without"),
        ({"engine_cache_size": 5}, "engine_cache_size has no effect without"),
        ({"reuse_cached_engines": True, "engine_cache_size": 5}, "where the engine cache is only read"),
        (
            {"cache_built_engines": True, "custom_engine_cache": Own(), "engine_cache_size": 5},
            "looks after its own size",
        ),
        ({"custom_engine_cache": Own()}, "custom_engine_cache has no effect without"),
        ({"cache_built_engines": True, "custom_engine_cache": Own}, "give an object of the class"),
        ({"engine_cache_key": "k"}, "engine_cache_key has no effect without"),
        ({"reuse_cached_engines": True, "custom_engine_cache": 3}, "save\\(hash, blob\\)"),
        ({"reuse_cached_engines": True, "engine_cache_key": ""}, "non-empty"),
        (
            {"reuse_cached_engines": True, "custom_engine_cache": Own(), "engine_cache_dir": "x"},
            "two engine caches",
        ),
    ],
)
def test_settings_that_would_do_nothing_are_refused(options: dict[str, Any], text: str) -> None:
    with pytest.raises(SettingsError, match=text):
        CompilationSettings(**options)


def test_a_file_system_that_nobody_knows() -> None:
    chosen = CompilationSettings(reuse_cached_engines=True, engine_cache_dir="nosuch://bucket")
    with pytest.raises(SettingsError, match="engine_cache_dir='nosuch://bucket'") as caught:
        CachedBuilder(chosen, None, None)  # type: ignore[arg-type]
    assert "fsspec" in str(caught.value)


@pytest.mark.parametrize("url", ["file://{}", "local://{}", "{}"])
def test_a_folder_by_its_url(url: str, tmp_path: Path) -> None:
    store = store_at(url.format(tmp_path))
    assert isinstance(store, FolderStore)
    assert store.folder == tmp_path
