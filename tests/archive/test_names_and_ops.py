"""What a file says is data: names are names, sizes are parsed, and an op is one of a reviewed set."""

from __future__ import annotations

import copy
import json
import struct
import subprocess
import sys

import pytest
import torch

import trtcore
from trtcore.errors import ArtifactError
from trtcore.ir import op_rules
from trtcore.ir.graph_data import NodeData, OpRef
from trtcore.ir.graph_json import find_op, node_from_json, node_to_json

X = torch.ones(3, 4)


def nodes(extra, op="call_function"):
    return [node for node in extra["module"]["graph"]["nodes"] if node[0] == op]


def refused(path, match=None):
    with pytest.raises(ArtifactError, match=match):
        trtcore.load(path)


def code(trap):
    return f"__import__('pathlib').Path({str(trap)!r}).touch()"


def test_a_forged_file_that_says_the_same_loads(forged):
    x = torch.ones(3, 4)
    assert trtcore.load(forged(lambda extra, members: None))(x, 3.0).shape == (3, 4)


PLACES = {
    "a node's name": lambda extra, text: nodes(extra)[0].__setitem__(1, text),
    "an input's name": lambda extra, text: nodes(extra, "placeholder")[0].__setitem__(1, text),
    "an input's target": lambda extra, text: nodes(extra, "placeholder")[0].__setitem__(2, text),
    "a function": lambda extra, text: nodes(extra)[0].__setitem__(2, ["function", text]),
    "an op": lambda extra, text: nodes(extra)[0].__setitem__(2, ["op", text]),
    "a higher-order op": lambda extra, text: nodes(extra)[0].__setitem__(2, ["higher_order", text]),
    "a keyword": lambda extra, text: nodes(extra)[0].__setitem__(4, ["dict", [text, 1]]),
    "an input's size": lambda extra, text: nodes(extra, "placeholder")[0][5][2].__setitem__(0, text),
    "an input's stride": lambda extra, text: nodes(extra, "placeholder")[0][5][3].__setitem__(0, text),
    "an input's dtype": lambda extra, text: nodes(extra, "placeholder")[0][5].__setitem__(1, text),
    "an attribute": lambda extra, text: extra["module"]["graph"]["attributes"].__setitem__(
        text, next(iter(extra["module"]["graph"]["attributes"].values()))
    ),
    "the class": lambda extra, text: extra["module"].__setitem__("name", text),
    "an argument": lambda extra, text: extra["module"]["names"].__setitem__(0, text),
    "a symbol": lambda extra, text: extra["module"]["ranges"].__setitem__(text, [1, 2, 3]),
    "a structure": lambda extra, text: extra["module"].__setitem__("in_spec", text),
    "a parameter": lambda extra, text: extra["check"]["parameters"][0].__setitem__(0, text),
    "a parameter's kind": lambda extra, text: extra["check"]["parameters"][0].__setitem__(1, text),
    "a default": lambda extra, text: extra["check"]["parameters"][1].__setitem__(2, ["float", text]),
    "a condition": lambda extra, text: extra["check"]["guards"].append(["x", text]),
    "a leaf's kind": lambda extra, text: extra["check"]["leaves"][0].__setitem__(0, text),
    "a leaf's dtype": lambda extra, text: extra["check"]["leaves"][0].__setitem__(2, text),
    "a constant": lambda extra, text: extra["check"]["leaves"][1].__setitem__(2, ["dtype", text]),
    "the report": lambda extra, text: extra.__setitem__("report", text),
    "an engine's manifest": lambda extra, text: next(
        node for node in nodes(extra) if "execute_engine" in str(node[2])
    )[3].__setitem__(4, text),
}  # fmt: skip


@pytest.mark.parametrize("place", PLACES)
def test_code_in_a_text_is_refused_and_not_run(forged, tmp_path, place):
    trap = tmp_path / "trap"
    call = code(trap)
    for text in (
        call,
        f"[{call}, s0][1]",
        f"x={call}",
        f"x):\n    {call}\n    def f(",
        "a b",
        "é",
        "\x00",
        "\ud800",
        "x" * 5000,
    ):
        refused(forged(lambda extra, members, text=text: PLACES[place](extra, text)))
        assert not trap.exists()


def test_texts_that_may_be_anything_are_only_texts(forged, tmp_path):
    """A default that is a text, the words of a condition, a stack trace: they end up in code as literals, if at all."""
    trap = tmp_path / "trap"
    call = f'\' + {code(trap)} + \'"""\n'

    def change(extra, members):
        extra["check"]["parameters"][1][2] = call
        extra["check"]["leaves"][1][1] = call
        extra["check"]["leaves"][1][2] = call
        extra["check"]["guards"].append([call, f"{nodes(extra, 'placeholder')[0][5][2][0]} > 0"])
        for node in nodes(extra):
            node[6] = call

    module = trtcore.load(forged(change))
    module(torch.ones(3, 4), call)
    torch.export.export(module, (torch.ones(3, 4), call))
    assert not trap.exists()


@pytest.mark.parametrize(
    "name",
    [
        "aten.from_file.default", "aten.from_file.out", "aten.save.default", "aten.set_.source_Storage",
        "aten.set_.source_Tensor", "aten.shallow_copy_data_.default", "aten.resize_.default", "aten.manual_seed.default", "aten.set_grad_enabled.default",
        "aten._print.default", "aten.warn.default", "aten.record_stream.default", "aten.requires_grad_.default",
        "aten._cufft_set_plan_cache_max_size.default", "aten._reshape_alias.default", "aten.fbgemm_linear_fp16_weight.default",
        "aten.max_pool2d_with_indices_backward.default", "aten.pin_memory.default", "aten.wait.default", "aten.format.default",
        "aten.percentFormat.default", "aten._backward.default", "prim.Print.default", "prims._make_token.default",
        "inductor.resize_storage_bytes_.default", "inductor._alloc_from_pool.default", "debugprims.load_tensor.default",
        "profiler._record_function_enter.default", "quantized.linear.default", "static_runtime.reshape_copy.default",
        "c10d.send.default", "_c10d_functional.all_reduce.default", "builtins.eval.default", "os.system.default", "aten.add",
        "aten.add.Tensor.x", "trtcore.no.default",
    ],
)  # fmt: skip
def test_ops_that_reach_beyond_their_arguments(forged, name):
    def change(extra, members):
        next(node for node in nodes(extra) if "erfinv" in str(node[2]))[2] = ["op", name]

    refused(forged(change))


def test_no_op_is_given_a_path(forged, tmp_path):
    def change(extra, members):
        node = next(node for node in nodes(extra) if "erfinv" in str(node[2]))
        node[2], node[3] = ["op", "aten.from_file.default"], ["tuple", str(tmp_path / "trap"), True, 16]

    refused(forged(change), "from_file")
    assert not (tmp_path / "trap").exists()


# ---- the rule ------------------------------------------------------------------------------------------------


def every_op():
    schemas = {(s.name, s.overload_name) for s in torch._C._jit_get_all_schemas()}
    schemas |= {tuple(name.partition(".")[::2]) for name in torch._C._dispatch_get_all_op_names()}
    for name, overload in sorted(schemas):
        namespace, _, packet = name.partition("::")
        if (op := find_op(f"{namespace}.{packet}.{overload or 'default'}")) is not None:
            yield op


def test_every_op_of_torch_is_decided():
    """What may be called takes and makes values, and where it takes no tensor, a text, or is private, was reviewed."""
    seen = {"allowed": 0, "refused": 0}
    for op in every_op():
        if op.namespace not in ("aten", "prims"):
            continue
        why = op_rules.refuse_op(op)
        seen["refused" if why else "allowed"] += 1
        if why:
            assert str(op) in why
            continue
        packet, schema = op._schema.name.partition("::")[2], op._schema
        types = [str(argument.type) for argument in schema.arguments]
        assert all(op_rules.is_plain(value.type) for value in (*schema.arguments, *schema.returns)), str(op)
        assert packet not in op_rules.REFUSED
        assert any("Tensor" in kind for kind in types) or packet in op_rules.FACTORIES, str(op)
        assert not packet.startswith("_") or packet in op_rules.PRIVATE or packet.startswith("_foreach_"), (
            str(op)
        )
        if any("str" in kind for kind in types) and packet not in op_rules.TEXTS:
            assert op_rules.refuse_op(op, ["/tmp/x"]), str(op)
    assert seen["allowed"] > 2000
    assert seen["refused"] > 500


def test_every_reviewed_name_is_an_op():
    """A misspelled name in the rule would leave an op undecided."""
    known = {op._schema.name.partition("::")[2] for op in every_op() if op.namespace in ("aten", "prims")}
    absent = (op_rules.REFUSED | op_rules.FACTORIES | op_rules.TEXTS | op_rules.PRIVATE) - known
    assert absent <= {
        "_upsample_lanczos2d_aa",
        "_fused_rms_norm",
        "_reshape_from_tensor",
        "_pad_packed_sequence",
        "shallow_copy_data_",
    }, absent


def test_every_namespace_of_torch_is_decided():
    """In a process that has imported what torch has, and nothing else."""
    script = (
        "import torch, torch.distributed, torch._inductor, torch.ao.quantization.fx._decomposed, torch.profiler\n"
        "import torch.ao.nn.quantized, torch.fx.experimental.proxy_tensor, torch._prims, torch._export\n"
        "names = {s.name for s in torch._C._jit_get_all_schemas()} | set(torch._C._dispatch_get_all_op_names())\n"
        "print(*sorted({name.split('::')[0] for name in names}))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    undecided = set(done.stdout.split()) - op_rules.TORCH - op_rules.REFUSED_NAMESPACES
    assert not undecided


@pytest.fixture
def library():
    made = torch.library.Library("acme_rule", "FRAGMENT")
    yield made
    made._destroy()


def test_ops_of_others_make_or_change_a_value_and_are_given_no_text(library):
    library.define("twice(Tensor x) -> Tensor")
    library.define("write_(Tensor(a!) x) -> ()")
    library.define("note(Tensor x) -> ()")
    library.define("read(Tensor x, str path) -> Tensor")
    ops = torch.ops.acme_rule
    assert not op_rules.refuse_op(ops.twice.default)
    assert not op_rules.refuse_op(ops.write_.default)
    assert "makes nothing" in op_rules.refuse_op(ops.note.default)
    assert "is given the text" in op_rules.refuse_op(ops.read.default, ["/etc/passwd"])


@pytest.mark.parametrize(
    "name", ["aten.from_file.default", "aten.set_.source_Tensor", "aten._reshape_alias.default"]
)
def test_what_load_would_refuse_is_refused_by_save(name):
    data = NodeData("call_function", "odd", OpRef(name, ""), (), {}, None, None, ())
    with pytest.raises(ArtifactError, match="the node odd cannot be saved"):
        node_to_json(data)


def test_an_engine_is_its_own_files(small, small_file, forged):
    """A file that gives another network the id of an engine changes nothing for the modules that have that engine."""

    def other_weights(extra, members):
        for name, data in members.items():
            if data[8:9] != b"{" or b"__metadata__" not in data[:64]:
                continue
            (length,) = struct.unpack("<Q", data[:8])
            header = json.loads(data[8 : 8 + length])
            first, last = next(
                v["data_offsets"]
                for k, v in header.items()
                if k not in ("__metadata__", "plan") and v["dtype"] == "F32"
            )
            at = 8 + length + first
            members[name] = data[:at] + bytes(last - first) + data[at + last - first :]

    for order in ((0, 1), (1, 0)):
        modules = [trtcore.load(small_file), trtcore.load(forged(other_weights))]
        results = {}
        for _ in range(2):
            for which in order:
                results[which] = modules[which](X, 3.0)
        assert torch.equal(results[0], small(X, 3.0))
        assert not torch.allclose(results[0], results[1])
        del modules


def test_an_engine_in_a_branch_is_vetted(forged):
    """Such a call is looked at as every other: its plan is an engine's file, and the runtime is the one that was chosen."""

    def nested(extra, members):
        graph = extra["module"]["graph"]
        (call,) = [node for node in graph["nodes"] if node[2] == ["op", "trtcore.execute_engine.default"]]
        inner = {"nodes": [*copy.deepcopy(graph["nodes"])], "attributes": copy.deepcopy(graph["attributes"])}
        (found,) = [node for node in inner["nodes"] if node[1] == call[1]]
        found[3][4] = found[3][4].replace('"id":"', '"id":"0')
        graph["attributes"]["branch"] = ["module", inner]

    with pytest.raises(ArtifactError, match="is not the one that the program calls"):
        trtcore.load(forged(nested))


@pytest.mark.parametrize("size", ["(a+b+c+d+e+f+g+h)**9", "*".join(["(a+b+c)"] * 30), "((a*b+c)**31+d)**31"])
def test_sizes_that_are_endless_when_they_are_multiplied_out(size):
    with pytest.raises(ArtifactError, match="too many terms"):
        node_from_json(
            [
                "placeholder",
                "x",
                "x",
                ["tuple"],
                ["dict"],
                ["tensor", "float32", [size], [1], "cpu"],
                None,
                [],
            ]
        )


def test_advice_is_nothing_that_a_shell_runs(forged):
    def packs(extra, members):
        for node in extra["module"]["graph"]["nodes"]:
            if node[2] == ["op", "trtcore.execute_engine.default"]:
                manifest = json.loads(node[3][4])
                for name in ("x'; touch trap; '", "--index-url=http://nowhere", "good-name"):
                    manifest["packs"].append(
                        {"distribution": name, "version": "1", "name": "n", "role": "converter"}
                    )
                node[3][4] = json.dumps(manifest)

    with pytest.raises(ArtifactError) as caught:
        trtcore.load(forged(packs))
    assert caught.value.advice.startswith("pip install 'good-name>=1'; or,")
    assert "\x1b" not in str(caught.value)
