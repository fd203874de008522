"""trtcore.save and trtcore.load: what comes back, in which process, and what is refused."""

from __future__ import annotations

import copy
import io
import json
import pickle
import subprocess
import sys
import zipfile
from importlib.metadata import version

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import trtcore
from trtcore.artifact.manifest import EngineManifest
from trtcore.errors import ArtifactError, BackendUnavailableError, InputError, SettingsError
from trtcore.ir.graph_json import node_from_json
from trtcore.runtime import op
from trtcore.runtime.plans import plans_of


class Model(torch.nn.Module):
    """Nested and keyword inputs, a torch op between two engines, a buffer that counts calls."""

    def __init__(self):
        super().__init__()
        self.first, self.second = torch.nn.Linear(8, 16), torch.nn.Linear(16, 4)
        self.register_buffer("calls", torch.zeros(1))

    def forward(self, x, *, extra):
        self.calls.add_(1)
        y = torch.relu(self.first(x + extra["bias"]))
        y = torch.erfinv(torch.sigmoid(y) - 0.5)
        return {"out": self.second(y) * extra["scale"], "calls": self.calls.clone()}


def arguments(rows=3):
    generator = torch.Generator().manual_seed(rows)
    return (torch.randn(rows, 8, generator=generator),), {"extra": {"bias": torch.ones(8), "scale": 2}}


@pytest.fixture(scope="module")
def compiled():
    torch.manual_seed(0)
    model = Model().eval()
    x = trtcore.Input(min_shape=(1, 8), opt_shape=(4, 8), max_shape=(16, 8))
    return trtcore.compile(
        model,
        arg_inputs=[x],
        kwarg_inputs=arguments()[1],
        min_block_size=1,
        torch_executed_ops={torch.ops.aten.erfinv.default},
    )


@pytest.fixture(scope="module")
def saved(compiled, tmp_path_factory):
    path = tmp_path_factory.mktemp("saved") / "model.pt2"
    trtcore.save(compiled, path)
    return path


def engines(module):
    return [n for n in module.graph.nodes if n.op == "call_function" and n.target is op.execute_engine]


def test_what_comes_back_is_the_module(compiled, saved):
    loaded = trtcore.load(saved)
    assert len(engines(loaded)) == len(engines(compiled)) == 2
    before = loaded(*arguments()[0], **arguments()[1])["calls"].item()
    for rows in (1, 3, 16):
        args, kwargs = arguments(rows)
        assert torch.equal(loaded(*args, **kwargs)["out"], compiled(*args, **kwargs)["out"])
    assert loaded(*args, **kwargs)["calls"].item() == before + 4
    assert str(loaded.report) == str(compiled.report)


def test_inputs_are_checked_as_before(saved):
    loaded = trtcore.load(saved)
    args, kwargs = arguments(17)
    with pytest.raises(InputError, match=r"input x .*17.*1\.\.16"):
        loaded(*args, **kwargs)
    args, kwargs = arguments()
    with pytest.raises(InputError, match="scale"):
        loaded(*args, extra={**kwargs["extra"], "scale": 3})
    with pytest.raises(InputError, match="float64"):
        loaded(args[0].double(), **kwargs)


def test_plans_are_no_state_and_follow_no_move(compiled, saved):
    for module in (compiled, trtcore.load(saved), copy.deepcopy(compiled), copy.copy(compiled)):
        assert not [name for name in module.state_dict() if "plan" in name]
        assert {"calls"} == {name for name, _ in module.named_buffers()}
        assert len(plans_of(module)) == 2
        assert all(plan.device.type == "cpu" for plan in plans_of(copy.copy(module).to("meta")).values())


def test_a_deep_copy_shares_the_plans(compiled):
    twin = copy.deepcopy(compiled)
    for plan, other in zip(plans_of(compiled).values(), plans_of(twin).values()):
        assert plan is other


def test_saving_again_what_was_loaded(compiled, saved, tmp_path):
    again = tmp_path / "again.pt2"
    trtcore.save(trtcore.load(saved), again)
    args, kwargs = arguments()
    assert torch.equal(trtcore.load(again)(*args, **kwargs)["out"], compiled(*args, **kwargs)["out"])


def test_another_process(compiled, saved, tmp_path):
    args, kwargs = arguments()
    torch.save((args, kwargs), tmp_path / "call.pt")
    code = (
        "import sys, torch, trtcore\n"
        "args, kwargs = torch.load(sys.argv[2])\n"
        "torch.save(trtcore.load(sys.argv[1])(*args, **kwargs)['out'].detach(), sys.argv[3])\n"
    )
    command = [sys.executable, "-c", code, str(saved), str(tmp_path / "call.pt"), str(tmp_path / "out.pt")]
    subprocess.run(command, check=True)
    assert torch.equal(torch.load(tmp_path / "out.pt"), compiled(*args, **kwargs)["out"])


def test_plain_torch_export(compiled, saved, tmp_path):
    """torch.export.load of what trtcore.save wrote, and of what torch.export.save did, in another process."""
    x, extra = torch.ones(5, 8), {"bias": torch.ones(8), "scale": 2}
    exported = torch.export.export(compiled, (x,), {"extra": extra})
    torch.export.save(exported, tmp_path / "plain.pt2")
    code = (
        "import sys, torch, trtcore.runtime.op\n"
        "for path in sys.argv[1:]:\n"
        "    module = torch.export.load(path).module()\n"
        "    print(module(torch.ones(5, 8), extra={'bias': torch.ones(8), 'scale': 2})['out'].sum().item())\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "plain.pt2"), str(saved)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    want = compiled(x, extra=extra)["out"].sum().item()
    assert [float(line) for line in done.stdout.split()] == pytest.approx([want, want], rel=1e-6)


def test_runtimes(saved):
    texts = {
        runtime: [
            EngineManifest.from_json(n.args[3]).runtime for n in engines(trtcore.load(saved, runtime=runtime))
        ]
        for runtime in ("auto", "saved", "native", "reference")
    }
    assert texts["native"] == ["native"] * 2
    assert texts["reference"] == ["reference"] * 2
    with pytest.raises(SettingsError, match="'python'"):
        trtcore.load(saved, runtime="python")


@pytest.mark.skipif(torch.cuda.is_available(), reason="native may run here")
def test_without_the_networks_only_tensorrt_runs_it(compiled, saved, tmp_path):
    path = tmp_path / "native.pt2"
    trtcore.save(compiled, path, reference=False)
    assert path.stat().st_size < saved.stat().st_size
    args, kwargs = arguments()
    with pytest.raises(BackendUnavailableError, match="cannot run natively here"):
        trtcore.load(path)(*args, **kwargs)
    with pytest.raises(ArtifactError, match="without its network"):
        trtcore.load(path, runtime="reference")


def test_inputs_given_are_used_and_not_stored(compiled, tmp_path):
    path = tmp_path / "model.pt2"
    args, kwargs = arguments()
    secret = torch.full((5, 8), 123456.75)
    trtcore.save(compiled, path, [secret], kwarg_inputs=kwargs)
    assert secret.numpy().tobytes()[:64] not in path.read_bytes()
    assert trtcore.load(path)(torch.ones(9, 8), **kwargs)["out"].shape == (9, 4)
    with pytest.raises(InputError):
        trtcore.save(compiled, path, [torch.ones(3, 7)], kwarg_inputs=kwargs)
    assert trtcore.load(path)(*args, **kwargs)["out"].shape == (3, 4)  # the old file is whole


def test_what_cannot_be_saved(compiled, tmp_path):
    with pytest.raises(SettingsError, match="torchscript") as caught:
        trtcore.save(compiled, tmp_path / "a.pt2", output_format="torchscript")
    assert "exported_program" in caught.value.advice
    with pytest.raises(ArtifactError, match="not Linear"):
        trtcore.save(torch.nn.Linear(2, 2), tmp_path / "a.pt2")
    with pytest.raises(ArtifactError, match="No such file or directory"):
        trtcore.save(compiled, tmp_path / "no" / "a.pt2")
    assert not list(tmp_path.iterdir())


# ---- ops that write to their arguments --------------------------------------------------------------


@torch.library.custom_op("archive_test::stamp_", mutates_args=("cache",))
def stamp_(cache: torch.Tensor, x: torch.Tensor, at: int, how: str | None = None) -> None:
    cache[at] = x.flip(0) if how == "flip" else x


class Writes(torch.nn.Module):
    """Its graph has ``auto_functionalized(archive_test.stamp_, ...)`` between two engines."""

    def __init__(self, how=None):
        super().__init__()
        self.a, self.b, self.how = torch.nn.Linear(8, 8), torch.nn.Linear(8, 8), how

    def forward(self, x):
        cache = torch.zeros(3, 2, 8)
        torch.ops.archive_test.stamp_(cache, self.a(x).relu(), 1, self.how)
        return self.b(cache + 0.5).relu()


def writing(how=None):
    torch.manual_seed(0)
    model = Writes(how).eval()
    return model, trtcore.compile(copy.deepcopy(model), inputs=[torch.randn(2, 8)], min_block_size=1)


def called_by_a_node(module):
    """Ops that the graph's nodes are given as arguments."""
    given = (argument for node in module.graph.nodes for argument in node.args)
    return [argument for argument in given if isinstance(argument, torch._ops.OpOverload)]


@torch.no_grad()
def test_an_op_that_writes_comes_back_by_either_way(tmp_path):
    model, compiled = writing()
    path = tmp_path / "writes.pt2"
    trtcore.save(compiled, path)
    x = torch.randn(2, 8)
    for back in (trtcore.load(path), pickle.loads(pickle.dumps(compiled))):
        assert called_by_a_node(back) == [torch.ops.archive_test.stamp_.default]
        assert engines(back)
        torch.testing.assert_close(back(x), model(x))


def test_an_op_that_a_node_is_given_is_judged_as_one_that_it_calls(tmp_path):
    """Its texts too, and nothing but the node that calls it may be given one."""
    _, compiled = writing(how="flip")
    path = tmp_path / "text.pt2"
    trtcore.save(compiled, path)
    with pytest.raises(
        ArtifactError, match=r"stamp_\.default is not torch's own and is given the text 'flip'"
    ):
        trtcore.load(path)

    def node(target, *args):
        return ["call_function", "n", target, ["tuple", *args], ["dict"], None, None, []]

    writes, stamp = ["higher_order", "auto_functionalized"], ["op", "archive_test.stamp_.default"]
    assert node_from_json(node(writes, stamp)).args == (torch.ops.archive_test.stamp_.default,)
    for refused, message in (
        (node(writes, ["op", "aten.from_file.default"]), "reaches beyond its arguments"),
        (node(writes, ["op", "archive_test.none.default"]), "no torch op of that name"),
        (node(writes, ["op", 1]), "a node calls 1"),
        (node(writes, ["op", "os", "system"]), "has not 1 parts"),
        (node(writes, stamp, stamp), "which it may not call"),
        (node(writes, ["list", stamp]), "which it may not call"),
        (node(["higher_order", "cond"], stamp), "which it may not call"),
        (node(["op", "aten.relu.default"], stamp), "which it may not call"),
    ):
        with pytest.raises(ArtifactError, match=message):
            node_from_json(refused)


# ---- what is refused --------------------------------------------------------------------------------


def rewrite(source, target, changes, compression=zipfile.ZIP_STORED):
    """A copy of an archive with members replaced (None: left out) or added."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", compression) as new:
        root = old.namelist()[0].partition("/")[0]
        seen = set()
        for info in old.infolist():
            name = info.filename.partition("/")[2]
            seen.add(name)
            data = changes.get(name, old.read(info))
            if data is not None:
                new.writestr(info.filename, data)
        for name in changes.keys() - seen:
            new.writestr(f"{root}/{name}", changes[name])
    return target


class Exploit:
    """Unpickling this makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_an_unchanged_copy_loads(saved, tmp_path):
    assert engines(trtcore.load(rewrite(saved, tmp_path / "copy.pt2", {})))


def test_nothing_of_a_foreign_archive_is_executed(saved, tmp_path):
    trap, path = tmp_path / "trap", tmp_path / "bad.pt2"
    evil = io.BytesIO()
    torch.save(Exploit(trap), evil)
    cases = {
        "not those that were saved": {"data/sample_inputs/model.pt": evil.getvalue()},
        "was not opened": {"data/constants/custom_obj_0": pickle.dumps(Exploit(trap))},
        "does not write": {"data/aotinductor/model/x.so": b"\x7fELF"},
    }
    for words, changes in cases.items():
        with pytest.raises(ArtifactError, match=words):
            trtcore.load(rewrite(saved, path, changes))
        assert not trap.exists()


def member(path, name):
    with zipfile.ZipFile(path) as archive:
        return archive.read(f"{archive.namelist()[0].partition('/')[0]}/{name}")


@pytest.mark.parametrize(
    "changes",
    [
        {"models/model.json": b"{}"},
        {"models/model.json": b"not json"},
        {"models/model.json": None},
        {"extra/trtcore.json": None},
        {"extra/trtcore.json": b'{"format": 2}'},
        {"extra/trtcore.json": b'{"format": 3}'},
        {"extra/trtcore.json": b"[]"},
        {"data/weights/../../x": b""},
        {"data/weights/weight_0": None},
        {"data/constants/tensor_0": b"\x00" * 100},
    ],
)
def test_damaged_parts(saved, tmp_path, changes):
    with pytest.raises(ArtifactError):
        trtcore.load(rewrite(saved, tmp_path / "bad.pt2", changes))


def test_a_changed_byte_of_an_engine_or_a_weight(saved, tmp_path):
    content = saved.read_bytes()
    with zipfile.ZipFile(saved) as archive:
        sizes = {info: info.file_size for info in archive.infolist() if "/constants/tensor_" in info.filename}
    assert sizes
    for info, size in sizes.items():
        changed = bytearray(content)
        changed[info.header_offset + 200 + size // 2] ^= 1
        (tmp_path / "changed.pt2").write_bytes(changed)
        with pytest.raises(ArtifactError, match=r"changed\.pt2 is damaged: its member .*has changed"):
            trtcore.load(tmp_path / "changed.pt2")


def test_a_damaged_report_is_told_with_the_file(saved, tmp_path):
    extra = json.loads(member(saved, "extra/trtcore.json"))
    extra["report"] = "no report"
    bad = rewrite(saved, tmp_path / "bad.pt2", {"extra/trtcore.json": json.dumps(extra)})
    with pytest.raises(ArtifactError, match=r"bad\.pt2: this is not a trtcore report"):
        trtcore.load(bad)


def test_a_tampered_check_or_engine(saved, tmp_path):
    extra = json.loads(member(saved, "extra/trtcore.json"))
    extra["check"]["guards"] = [["evil", "__import__('os').getcwd()"]]
    with pytest.raises(ArtifactError):
        trtcore.load(rewrite(saved, tmp_path / "bad.pt2", {"extra/trtcore.json": json.dumps(extra)}))
    extra["check"] = {"leaves": [], "guards": []}
    with pytest.raises(ArtifactError):
        trtcore.load(rewrite(saved, tmp_path / "bad.pt2", {"extra/trtcore.json": json.dumps(extra)}))
    model = member(saved, "models/model.json").replace(b"float32", b"float16")
    with pytest.raises(ArtifactError):
        trtcore.load(rewrite(saved, tmp_path / "bad.pt2", {"models/model.json": model}))


def test_compressed_foreign_and_missing(saved, tmp_path):
    with pytest.raises(ArtifactError, match="compressed"):
        trtcore.load(rewrite(saved, tmp_path / "bad.pt2", {}, zipfile.ZIP_DEFLATED))
    with pytest.raises(ArtifactError, match="cannot be read"):
        trtcore.load(tmp_path / "missing.pt2")
    with pytest.raises(ArtifactError):
        trtcore.load(tmp_path)
    for content in (b"", b"PK", b"\x80\x02}q\x00.", b"x" * 5000):
        (tmp_path / "foreign.pt2").write_bytes(content)
        with pytest.raises(ArtifactError):
            trtcore.load(tmp_path / "foreign.pt2")
    exported = torch.export.export(torch.nn.ReLU(), (torch.ones(2),))
    torch.export.save(exported, tmp_path / "plain.pt2")
    with pytest.raises(ArtifactError, match=r"not a module that trtcore saved|not where it should be"):
        trtcore.load(tmp_path / "plain.pt2")


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(fraction=st.floats(0, 0.999))
def test_truncated_anywhere(saved, tmp_path, fraction):
    content = saved.read_bytes()
    path = tmp_path / "truncated.pt2"
    path.write_bytes(content[: int(len(content) * fraction)])
    with pytest.raises(ArtifactError):
        trtcore.load(path)


# -- packs -----------------------------------------------------------------------------------------------------


@pytest.fixture
def with_packs(saved, tmp_path):
    """The module as an environment with other packs would have saved it."""

    def save(*packs):
        path = tmp_path / "packs.pt2"
        path.write_bytes(saved.read_bytes())
        add_packs(
            path, [{"distribution": d, "version": v, "name": "p", "role": "converter"} for d, v in packs]
        )
        return path

    return save


def add_packs(path, added):
    """Put packs into the manifests of a saved graph, which are all that is read before an engine is."""
    with zipfile.ZipFile(path) as archive:
        members = {info.filename: archive.read(info) for info in archive.infolist()}
    (name,) = [name for name in members if name.endswith("extra/trtcore.json")]
    saved = json.loads(members[name])
    for node in saved["module"]["graph"]["nodes"]:
        if node[2] == ["op", "trtcore.execute_engine.default"]:
            manifest = json.loads(node[3][4])
            manifest["packs"] += added
            node[3][4] = json.dumps(manifest)
    members[name] = json.dumps(saved).encode()
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for member, data in members.items():
            archive.writestr(member, data)


def test_missing_and_too_old_packs_are_named_as_pip_does_before_an_engine_is_touched(with_packs, monkeypatch):
    path = with_packs(("acme-ops", "1.2"), ("torch", "999.0"), ("numpy", "1.0"), ("in-process", "0"))
    monkeypatch.setattr(
        "trtcore.archive.loading._graph_module", lambda *_: pytest.fail("the program was opened")
    )
    with pytest.raises(ArtifactError) as caught:
        trtcore.load(path)
    said = str(caught.value)
    assert "acme-ops 1.2 took part in engine_0, engine_1, and it is not installed here" in said
    assert (
        f"torch 999.0 took part in engine_0, engine_1, and here it is {version('torch')}, which is older"
        in said
    )
    assert "pip install 'acme-ops>=1.2' 'torch>=999.0'" in said
    assert "numpy" not in said
    assert "in-process" not in said


def test_a_saved_module_names_the_packs_that_took_part(saved):
    for node in engines(trtcore.load(saved, packs="ignore")):
        packs = EngineManifest.from_json(node.args[3]).packs
        assert {pack["distribution"] for pack in packs} == {"trtcore"}
        assert {pack["role"]: pack["name"] for pack in packs} == {
            "converter": "aten", "backend": "backends", "runtime": "reference",
        }  # fmt: skip


def test_packs_takes_two_words(saved):
    with pytest.raises(SettingsError, match="packs='maybe' is neither 'check' nor 'ignore'"):
        trtcore.load(saved, packs="maybe")


@pytest.mark.parametrize("limit", [100, 20_000, 60_000])
def test_larger_than_the_small_records_of_a_zip(limit, tmp_path, monkeypatch):
    """As from 2 GiB on: the file's offsets, the sizes of some members, or both are in records of their own."""
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", limit)
    model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU()).eval()
    x = torch.randn(2, 64)
    compiled = trtcore.compile(model, [x], min_block_size=1)
    path = tmp_path / "large.pt2"
    trtcore.save(compiled, path)
    assert b"PK\x06\x07" in path.read_bytes()[-42:]
    with torch.no_grad():
        expected = model(x)
    assert torch.allclose(trtcore.load(path)(x), expected, atol=1e-5)
    assert torch.allclose(torch.export.load(path).module()(x), expected, atol=1e-5)
    damaged = bytearray(path.read_bytes())
    damaged[-42 - 56 + 40] ^= 1  # of the larger record: how many bytes the directory has
    path.write_bytes(damaged)
    with pytest.raises(ArtifactError, match="not where its end says"):
        trtcore.load(path)


def test_examples_are_given_as_to_compile(small, tmp_path):
    x = torch.ones(3, 4)
    for named in ({"inputs": [x, 3.0]}, {"arg_inputs": [x, 3.0]}, {}):
        trtcore.save(small, tmp_path / "m.pt2", **named)
        assert trtcore.load(tmp_path / "m.pt2")(x, 3.0).shape == (3, 4)
    with pytest.raises(InputError, match="both inputs and arg_inputs"):
        trtcore.save(small, tmp_path / "m.pt2", [x, 3.0], arg_inputs=[x, 3.0])


def test_a_layer_of_a_sequential_that_runs_in_torch(tmp_path):
    """Its weights are named by a number first."""
    model, x = (
        torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.ReLU(), torch.nn.Linear(4, 4)).eval(),
        torch.ones(2, 4),
    )
    compiled = trtcore.compile(model, inputs=[x], min_block_size=1, torch_executed_modules=["2"])
    trtcore.save(compiled, tmp_path / "m.pt2")
    assert torch.equal(trtcore.load(tmp_path / "m.pt2")(x), compiled(x))


class Variadic(torch.nn.Module):
    def forward(self, x, *rest, y, **named):
        return x + sum(rest) * 2 + y * 3 + named["z"] * 4


@pytest.mark.parametrize("by_name", [False, True])
def test_dynamic_sizes_of_what_is_in_args_and_kwargs(by_name, tmp_path):
    rows, path = trtcore.Input(min_shape=(2, 4), opt_shape=(4, 4), max_shape=(8, 4)), tmp_path / "m.pt2"
    kwargs = {"y": rows, "z": rows} if by_name else {}
    model = Variadic() if by_name else Stacked()
    trtcore.save(trtcore.compile(model, inputs=[rows] * 3, kwarg_inputs=kwargs, min_block_size=1), path)
    for again in (trtcore.load(path), torch.export.load(path).module()):
        for size in (2, 5, 8):
            args = [torch.randn(size, 4) for _ in range(3)]
            named = {name: torch.randn(size, 4) for name in kwargs}
            torch.testing.assert_close(again(*args, **named), model(*args, **named))


class Stacked(torch.nn.Module):
    def forward(self, *inputs):
        return torch.cat(inputs, 1) + inputs[1].sum()


def test_a_size_that_is_one_or_two(tmp_path):
    """For which torch.export has no range of its own."""
    model = torch.nn.Linear(4, 3).eval()
    rows = trtcore.Input(min_shape=(1, 4), opt_shape=(1, 4), max_shape=(2, 4))
    trtcore.save(trtcore.compile(model, [rows], min_block_size=1), tmp_path / "two.pt2")
    loaded = trtcore.load(tmp_path / "two.pt2")
    for count in (1, 2):
        x = torch.randn(count, 4)
        torch.testing.assert_close(loaded(x), model(x))
    with pytest.raises(InputError, match=r"1\.\.2"):
        loaded(torch.randn(3, 4))
    with pytest.raises((InputError, AssertionError, RuntimeError)):
        torch.export.load(tmp_path / "two.pt2").module()(torch.randn(3, 4))
