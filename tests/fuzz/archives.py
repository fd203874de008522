"""Damaged and hostile archives by the thousand: what `trtcore.load` makes of each.

    python tests/fuzz/archives.py --count 10000            seeds 0 to 9,999
    python tests/fuzz/archives.py --first 37 --count 1 -v  one of them, with what was changed
    python tests/fuzz/archives.py --make-seeds S           the good files alone, where there is a TensorRT;
    python tests/fuzz/archives.py --seeds S --workers 16   then the others elsewhere

A seed is one change to one of a few good files: to the bytes, to a record of the zip, or to a value somewhere in the JSON
of a member (of an engine file in it, of the manifest or the network in that), as it is or with sums made to fit. A file
with a wrong sum must be refused, or be the module that it was. One whose sums fit may be another program. Whatever it
is: no code of it runs, no file is written, nothing is imported by its word, and what is raised by `load` is an
ArtifactError. Work is done in child processes: a crash is one more failure. Exits with 1 if there were any.
"""

from __future__ import annotations

import argparse
import functools
import io
import json
import os
import random
import re
import signal
import struct
import subprocess
import sys
import tempfile
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

EXTRA = "extra/trtcore.json"
SECONDS_A_FILE = 60
MOST_MEMORY = 2 << 30
"""What one file may add to the memory of a process."""


# ---- good files ---------------------------------------------------------------------------------------------


def make_seeds(folder: Path) -> None:
    """Save the modules that the files are made from, with a call of each."""
    import torch

    import trtcore

    torch.manual_seed(0)
    apart = {torch.ops.aten.erfinv.default, torch.ops.aten.div.Tensor_mode}
    for name, (model, args, kwargs, shapes, call) in _models(torch).items():
        exported = torch.export.export(model.eval(), args, kwargs, dynamic_shapes=shapes)
        compiled = trtcore.dynamo.compile(exported, min_block_size=1, torch_executed_ops=apart)
        trtcore.save(compiled, folder / f"{name}.pt2")
        args, named = call
        torch.save(
            (args, named, torch.utils._pytree.tree_leaves(compiled(*args, **named))), folder / f"{name}.call"
        )


def _models(torch: Any) -> dict[str, Any]:
    nn = torch.nn

    class Nested(nn.Module):
        """Nested and keyword inputs, torch ops between engines, a buffer that is written, a guard."""

        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(4, 6), nn.Linear(6, 4)
            self.register_buffer("calls", torch.zeros(1))

        def forward(self, x: Any, *, extra: Any, mode: Any = None) -> Any:
            self.calls.add_(1)
            y = torch.erfinv(torch.sigmoid(self.first(x + extra["bias"])) - 0.5)
            y = torch.div(y, 2.0, rounding_mode="floor") if mode is None else y
            if x.shape[0] % 2 == 0:
                y = y + 1
            return {"out": self.second(y) * extra["scale"], "sizes": [x.shape[0] + 1]}

    class Plain(nn.Module):
        """One engine, one input, nothing dynamic."""

        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(2, 3, 3)

        def forward(self, x: Any) -> Any:
            return torch.relu(self.conv(x)).mean((2, 3))

    class Branch(nn.Module):
        """A graph in a graph."""

        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 4)

        def forward(self, x: Any) -> Any:
            y = self.linear(x)
            return torch.cond(y.sum() > 0, lambda t: t.sin(), lambda t: t.cos(), (y,))

    extra = {"extra": {"bias": torch.ones(4), "scale": 2}}
    x, image, row = torch.randn(6, 4), torch.randn(1, 2, 5, 5), torch.randn(2, 4)
    some = {"x": {0: torch.export.Dim.DYNAMIC(min=2, max=16)}, "extra": {"bias": None, "scale": None}}
    return {
        "nested": (Nested(), (x,), extra, some, ((x,), extra)),
        "plain": (Plain(), (image,), {}, None, ((image,), {})),
        "branch": (Branch(), (row,), {}, None, ((row,), {})),
    }


# ---- archives in parts --------------------------------------------------------------------------------------


def members_of(content: bytes) -> dict[str, bytes]:
    """The members of an archive below its root folder."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}


def archive_of(members: dict[str, bytes], fit: bool) -> bytes:
    """An archive as `trtcore.save` lays it out; `fit`: the sums in it are made to fit."""
    from trtcore.archive.members import ArchiveWriter

    buffer = io.BytesIO()
    writer, sums = ArchiveWriter(buffer, "fuzz"), {}
    for name, data in members.items():
        if name != EXTRA:
            sums[name] = writer.add(name, data)
    if EXTRA in members:
        extra = members[EXTRA]
        if fit:
            try:
                document = json.loads(extra)
                document["sums"] = sums
                extra = json.dumps(document).encode()
            except (ValueError, TypeError):
                pass
        writer.add(EXTRA, extra)
    writer.close()
    return buffer.getvalue()


# ---- changes ------------------------------------------------------------------------------------------------


def hostile(trap: str) -> list[Any]:
    """Values that something might run, open, believe or choke on."""
    code = f"__import__('os').mkdir({trap!r})"
    return [
        code, f"[{code}, s0][1]", f"x=__import__('os').mkdir({trap!r})", f"self):\n  {code}\n  def f(", f"x\n{code}", trap,
        f"/proc/self/../../{trap}", "../../../etc/passwd", "__class__", "__init__", "__dict__", "forward", "_parameters",
        "training", "self", "", " ", "a.b.c", "é", "\x00", "\ud800", "x" * 5000, "None", "nan", "1e999", "lambda: 0",
        "s0**63**63", "((((s0**63)**63)**63)**63)**63", "2**2**2**40", "(s0+s1+s2+s3)**40", "*".join(["(s0+1)"] * 60), "9" * 5000,
        "{0.__class__.__init__.__globals__}", "%s%n" * 9, "$(touch x)", "'; touch x; '", "--index-url=x", "\x1b]0;x\x07", "\uff53elf",
        "s0 if s0 else 1", "[*s0]", "s0.real", "f'{s0}'", "(s0:=3)", "await s0", "1_000", "0x10", "1e3", "\u202ex", "NaN", "Infinity", "Max(" * 200 + "s0" + ")" * 200, "s0//0", "-s0", "True", "yield",
        "aten.from_file.default", "aten.save.default", "aten.set_.source_Tensor", "aten._print.default",
        "aten.resize_.default", "prims._sink_tokens.default", "os.system.default", "aten.linear.default",
        "aten.relu.default", "trtcore.execute_engine.default", "profiler._record_function_enter.default",
        "inductor.resize_storage_bytes_.default", "debugprims.load_tensor.default", "builtins.eval", "operator.pow",
        "float64", "int64", "quint8", "bits8", "meta", "cuda:0", "cuda:999", "xla", "sparse_coo",
        "collections.defaultdict", "collections.OrderedDict", "builtins.dict", "builtins.namedtuple",
        0, 1, -1, 2, 3, 7, 64, 255, 1 << 31, 1 << 32, (1 << 40) + 1, 1 << 62, 1 << 63, 1 << 64, -(1 << 63), 10**400,
        0.5, -0.0, 1e308, True, False, None, [], {}, [[]], [0], ["node", "x"], ["node", "output"], ["op", "aten.add.Tensor"],
        ["function", "operator.getitem"], ["higher_order", "cond"], ["tuple"], ["list", 1, 2], ["dict", ["a", 1]],
        ["slice", 0, 1, 2], ["float", "inf"], ["float", "nan"], ["complex", "1", "inf"], ["dtype", "float32"],
        ["device", "cuda:0"], ["memory_format", "channels_last"], {"a": 1}, {"map": {}}, {"float": "nan"},
        {"dtype": "int8"}, [1 << 60] * 8, [-1], [[]] * 50, functools.reduce(lambda v, _: [v], range(200), 0),
    ]  # fmt: skip


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Paths to everything in a document."""
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from places(item, (*path, key))


def change_document(document: Any, source: random.Random, trap: str) -> tuple[Any, str]:
    """One change somewhere in JSON."""
    every = list(places(document))
    path = source.choice(every)
    if not path:
        return source.choice(hostile(trap)), "the whole"
    holder = functools.reduce(lambda value, key: value[key], path[:-1], document)
    key, kind = (
        path[-1],
        source.choice(("hostile", "hostile", "near", "near", "gone", "twice", "swap", "rename")),
    )
    old = holder[key]
    if kind == "gone":
        del holder[key]
    elif kind == "twice" and isinstance(holder, list):
        holder.insert(key, json.loads(json.dumps(old)))
    elif kind == "swap":
        other = source.choice(every)
        holder[key] = json.loads(
            json.dumps(functools.reduce(lambda value, step: value[step], other, document))
        )
    elif kind == "rename" and isinstance(holder, dict):
        holder[source.choice([v for v in hostile(trap) if isinstance(v, str)])] = holder.pop(key)
    elif kind == "near":
        holder[key] = near(old, source)
    else:
        holder[key] = source.choice(hostile(trap))
    return document, f"{kind} at {'/'.join(map(str, path))}: {repr(old)[:60]}"


def near(value: Any, source: random.Random) -> Any:
    """A value like this one."""
    if isinstance(value, bool) or value is None:
        return not value
    if isinstance(value, int):
        return source.choice(
            (value + 1, value - 1, -value, value * 2, value << 32, float(value), str(value), [value])
        )
    if isinstance(value, float):
        return source.choice((value * 2, -value, int(value)))
    if isinstance(value, str) and value:
        at = source.randrange(len(value))
        letter = source.choice("ax0_.(){}[],:'\"\\\n \x00é;=*-")
        return source.choice(
            (value[:at] + letter + value[at + 1 :], value[:at] + letter + value[at:], value[:at], value * 2)
        )
    if isinstance(value, list):
        return source.choice((value[::-1], value[:-1], value * 2, dict(enumerate(map(str, value)))))
    if isinstance(value, dict):
        return source.choice((list(value), list(value.values()), {}))
    return [value]


def change_json(data: bytes, source: random.Random, trap: str) -> tuple[bytes, str]:
    """A member that is JSON; documents in strings of it (manifests, reports) are changed too."""
    if source.random() < 0.05:
        return change_text(data, source)
    document = json.loads(data)
    inner = [
        path
        for path in places(document)
        if isinstance(text := functools.reduce(lambda v, k: v[k], path, document), str)
        and text[:1] in "{["
        and len(text) > 2
    ]
    if inner and source.random() < 0.5:
        path = source.choice(inner)
        holder = functools.reduce(lambda value, key: value[key], path[:-1], document)
        changed, what = change_document(json.loads(holder[path[-1]]), source, trap)
        holder[path[-1]] = dumps(changed)
        return dumps(document).encode("utf-8", "surrogatepass"), f"{'/'.join(map(str, path))} > {what}"
    document, what = change_document(document, source, trap)
    return dumps(document).encode("utf-8", "surrogatepass"), what


def change_text(data: bytes, source: random.Random) -> tuple[bytes, str]:
    """JSON with what no document can hold: a name twice, numbers that are no numbers, brackets without an end."""
    text = data.decode()
    names = [found.start() for found in re.finditer(r'"[^"\\]{1,40}":', text)]
    numbers = list(re.finditer(r"(?<=[:,\[])-?\d+(?=[,\]}])", text))
    kind = source.choice(("twice", "number", "number", "deep"))
    if kind == "twice" and names:
        at = source.choice(names)
        name = text[at : text.index(":", at) + 1]
        other = source.choice(("1", "null", "[]", "{}", '"x"'))
        return f"{text[:at]}{name}{other},{text[at:]}".encode(), f"{name} twice"
    if kind == "number" and numbers:
        found = source.choice(numbers)
        new = source.choice(("NaN", "Infinity", "-Infinity", "1e999", "-0", "1.0", "9" * 5000, "1e5", "true"))
        return f"{text[: found.start()]}{new}{text[found.end() :]}".encode(), f"{found[0]}: {new[:20]}"
    at = source.choice(names or [0])
    return (text[:at] + "[" * 100_000 + text[at:]).encode(), "deep"


def dumps(value: Any) -> str:
    """JSON, with what is no JSON (a NaN) as Python writes it."""
    return json.dumps(value, separators=(",", ":"))


def change_engine(data: bytes, source: random.Random, trap: str) -> tuple[bytes, str]:
    """An engine's file: its header, the manifest or the network in it, or the header's length."""
    (length,) = struct.unpack("<Q", data[:8])
    header, body = data[8 : 8 + length], data[8 + length :]
    kind = source.random()
    if kind < 0.1:
        wrong = source.choice((0, 1, length - 8, length + 8, len(data), 1 << 40, (1 << 64) - 1))
        return struct.pack("<Q", wrong) + header + body, f"a header of {wrong} bytes"
    if kind < 0.15:
        return data[: source.randrange(len(data))], "cut"
    if kind < 0.2:
        return data + b"x" * source.randrange(1, 100), "longer"
    changed, what = change_json(header, source, trap)
    if source.random() < 0.5:
        changed += b" " * (-len(changed) % 8)
    return struct.pack("<Q", len(changed)) + changed + body, what


def change_member(members: dict[str, bytes], source: random.Random, trap: str) -> str:
    """One member: its JSON, its bytes, its name, or whether it is there."""
    weights = {
        name: 12 if name == EXTRA else 6 if is_engine(data) else 2 if is_json(name) else 1
        for name, data in members.items()
    }
    name = source.choices(list(weights), list(weights.values()))[0]
    data = members[name]
    if source.random() < 0.1:
        kind = source.choice(("gone", "renamed", "added", "emptied"))
        if kind in ("gone", "renamed"):
            del members[name]
        if kind in ("renamed", "added"):
            other = source.choice(("data/weights/weight_99", "data/constants/custom_obj_0", "../x", "models/model.json",
                                   "data/constants/tensor_1", "data/sample_inputs/model.pt", "extra/x", "code/x.py"))  # fmt: skip
            members[other] = data
        if kind == "emptied":
            members[name] = b""
        return f"{name} {kind}"
    change: Callable[..., tuple[bytes, str]] = (
        change_engine if is_engine(data) else change_json if is_json(name) else change_bytes
    )
    try:
        members[name], what = change(data, source, trap)
    except (ValueError, RecursionError, struct.error):  # an earlier change has left no JSON there
        members[name], what = change_bytes(data, source)
    return f"{name}: {what}"


def is_json(name: str) -> bool:
    """Whether a member is JSON."""
    return name.endswith(".json")


def is_engine(data: bytes) -> bool:
    """Whether a member is an engine's file."""
    return len(data) > 16 and data[8:9] == b"{" and b'"__metadata__"' in data[:64]


def change_bytes(data: bytes, source: random.Random, trap: str = "") -> tuple[bytes, str]:
    """Bits, bytes and pieces of anything."""
    if not data:
        return b"x", "a byte"
    at, kind = (
        source.randrange(len(data)),
        source.choice(("bit", "bit", "byte", "cut", "gone", "twice", "more", "zeros")),
    )
    end = min(len(data), at + source.randrange(1, 200))
    return {
        "bit": data[:at] + bytes([data[at] ^ 1 << source.randrange(8)]) + data[at + 1 :],
        "byte": data[:at] + bytes([source.randrange(256)]) + data[at + 1 :],
        "cut": data[:at],
        "gone": data[:at] + data[end:],
        "twice": data[:end] + data[at:end] + data[end:],
        "more": data[:at] + source.randbytes(source.randrange(1, 64)) + data[at:],
        "zeros": data[:at] + b"\0" * (end - at) + data[end:],
    }[kind], f"{kind} at {at}"


# What a record of a zip holds: (offset in it, bytes).
_LOCAL = ((0, 4), (4, 2), (6, 2), (8, 2), (10, 4), (14, 4), (18, 4), (22, 4), (26, 2), (28, 2), (30, 1))
_CENTRAL = (
    (0, 4), (4, 2), (6, 2), (8, 2), (10, 2), (16, 4), (20, 4), (24, 4), (28, 2), (30, 2), (32, 2), (34, 2), (36, 2),
    (38, 4), (42, 4), (46, 1),
)  # fmt: skip
_END = ((0, 4), (4, 2), (6, 2), (8, 2), (10, 2), (12, 4), (16, 4), (20, 2))


def change_zip(content: bytes, source: random.Random, trap: str) -> tuple[bytes, str]:
    """A number in one of the zip's records, a second directory, something before, between or after."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        locals_ = [info.header_offset for info in archive.infolist()]
        start = archive.start_dir
    end = len(content) - 22
    central = [at for at in range(start, end) if content[at : at + 4] == b"PK\x01\x02"]
    kinds = ("prefix", "suffix", "gap", "directory", "comment", "swap", "deflated", "link", "zip64")
    kind = source.choice(("number",) * 8 + kinds)
    if kind == "number":
        records = [(at, _LOCAL) for at in locals_] + [(at, _CENTRAL) for at in central] + [(end, _END)] * 8
        at, fields = source.choice(records)
        offset, size = source.choice(fields)
        old = int.from_bytes(content[at + offset : at + offset + size], "little")
        top = 1 << 8 * size
        value = (
            source.choice((0, 1, old + 1, old - 1, old ^ 1 << source.randrange(8 * size), top - 1, top // 2))
            % top
        )
        where = at + offset
        return content[:where] + value.to_bytes(size, "little") + content[
            where + size :
        ], f"zip {fields is _END} {offset}: {value}"
    if kind in ("deflated", "link", "zip64"):
        return rewritten(content, source, kind), kind
    directory = content[start:end]
    junk = source.randbytes(source.randrange(1, 80))
    if kind == "comment":
        return content[:-2] + struct.pack("<H", len(junk)) + junk, kind
    if kind == "directory":  # two directories: one before the end record, one where that points
        other = directory.replace(b"weight_0", b"weight_9")
        return content[:end] + other + content[end:], kind
    if kind == "swap":  # two members' entries point at each other
        (a, b) = source.sample(central, 2)
        swapped = bytearray(content)
        swapped[a + 42 : a + 46], swapped[b + 42 : b + 46] = (
            content[b + 42 : b + 46],
            content[a + 42 : a + 46],
        )
        return bytes(swapped), kind
    return {
        "prefix": junk + content, "suffix": content + junk, "gap": content[:start] + junk + content[start:],
    }[kind], kind  # fmt: skip


def rewritten(content: bytes, source: random.Random, kind: str) -> bytes:
    """The archive as Python's zipfile writes it: a member compressed (64 MiB of zeros, maybe), a link, or in zip64."""
    members = members_of(content)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        chosen = source.choice(list(members))
        for name, data in members.items():
            info = zipfile.ZipInfo(f"fuzz/{name}")
            if name == chosen and kind == "deflated":
                info.compress_type = source.choice((zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA))
                data = source.choice((data, b"\0" * (64 << 20)))
            if name == chosen and kind == "link":
                info.external_attr, data = 0o120777 << 16, source.choice((data, b"/etc/passwd"))
            with archive.open(info, "w", force_zip64=name == chosen and kind == "zip64") as file:
                file.write(data)
    return buffer.getvalue()


def mutated(content: bytes, source: random.Random, trap: str) -> tuple[bytes, str, bool]:
    """(the bytes of another file, what was changed, whether its sums fit: then it may be another program)."""
    kind = source.random()
    if kind < 0.12:
        changed, what = change_bytes(content, source)
        return changed, what, False
    if kind < 0.3:
        changed, what = change_zip(content, source, trap)
        return changed, what, False
    members = members_of(content)
    fit = source.random() < 0.9
    what = change_member(members, source, trap)
    for _ in range(source.choice((0, 0, 0, 1))):
        what += " AND " + change_member(members, source, trap)
    return archive_of(members, fit), what, fit or EXTRA in what


# ---- what becomes of it -------------------------------------------------------------------------------------


class Watch:
    """Sees what must not happen, by Python's audit hooks."""

    def __init__(self) -> None:
        self.on = False
        self.seen: list[str] = []
        sys.addaudithook(self._hook)

    def _hook(self, event: str, args: tuple[Any, ...]) -> None:
        if not self.on:
            return
        if event == "open" and isinstance(args[0], (str, bytes)) and _writes(args[1], args[2]):
            self.seen.append(f"open for writing: {args[0]!r}")
        elif event in _FORBIDDEN or event.startswith(("socket.", "shutil.", "ctypes.dlopen", "webbrowser.")):
            self.seen.append(f"{event} {repr(args)[:100]}")


_FORBIDDEN = {
    "os.system", "os.exec", "os.fork", "os.posix_spawn", "os.spawn", "os.mkdir", "os.remove", "os.rename", "os.rmdir",
    "os.chmod", "os.link", "os.symlink", "os.truncate", "subprocess.Popen", "pickle.find_class", "os.putenv", "os.kill",
}  # fmt: skip


def _writes(mode: Any, flags: Any) -> bool:
    return bool(isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC))


def work(folder: Path, first: int, count: int, verbose: bool) -> None:
    """A child: one line of JSON per file."""
    import resource

    import torch

    import trtcore
    from trtcore.errors import ArtifactError

    torch.set_num_threads(1)
    seeds = sorted(folder.glob("*.pt2"))
    calls = {path: torch.load(path.with_suffix(".call")) for path in seeds}
    for path in seeds:  # what is imported at the first load and call is not the files' doing
        trtcore.load(path)(*calls[path][0], **calls[path][1])
    watch = Watch()
    signal.signal(signal.SIGALRM, _late)
    with tempfile.TemporaryDirectory() as place:
        file, trap = Path(place) / "fuzz.pt2", str(Path(place) / "trap")
        for seed in range(first, first + count):
            source = random.Random(seed)
            good = source.choice(seeds)
            content, what, fits = mutated(good.read_bytes(), source, trap)
            file.write_bytes(content)
            print(json.dumps({"seed": seed, "begins": what if verbose else what[:100]}), flush=True)
            before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
            problem, outcome = "", "refused"
            signal.alarm(SECONDS_A_FILE)
            watch.on = True
            try:
                module = trtcore.load(file)
            except ArtifactError as error:
                str(error)
            except BaseException as error:
                problem = f"{type(error).__name__}: {str(error)[:300]}"
            else:
                outcome = "loaded"
                problem, called = _called(torch, module, calls[good], fits)
                outcome += f", {called}"
            watch.on = False
            signal.alarm(0)
            if watch.seen or set(os.listdir(place)) != {"fuzz.pt2"}:
                problem = f"{watch.seen[:3]} {os.listdir(place)}"
                watch.seen.clear()
            grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
            if grown << 10 > MOST_MEMORY:
                problem = problem or f"{grown >> 10} MiB more memory"
            row = {"seed": seed, "what": what, "outcome": outcome, "problem": problem, "fits": fits}
            print(json.dumps({**row, "seconds": round(time.monotonic() - began, 2)}), flush=True)


def _late(*_: Any) -> None:
    raise TimeoutError(f"{SECONDS_A_FILE} seconds")


def _called(torch: Any, module: Any, call: Any, fits: bool) -> tuple[str, str]:
    """(what is wrong, what the call did). Only a file whose sums did not fit must be the module that it was."""
    args, kwargs, wanted = call
    try:
        found = torch.utils._pytree.tree_leaves(module(*args, **kwargs))
        same = len(found) == len(wanted) and all(_same(torch, a, b) for a, b in zip(found, wanted))
    except TimeoutError:
        raise
    except Exception as error:
        kind = f"{type(error).__name__} at the call"
        return ("" if fits else f"{kind}: {error}"), kind
    return ("" if same or fits else "another result"), "the same" if same else "another program"


def _same(torch: Any, a: Any, b: Any) -> bool:
    if isinstance(b, torch.Tensor):
        return (
            isinstance(a, torch.Tensor)
            and a.shape == b.shape
            and a.dtype == b.dtype
            and torch.allclose(a, b, atol=1e-5)
        )
    return type(a) is type(b) and a == b


# ---- the parent ---------------------------------------------------------------------------------------------


def batch(folder: Path, first: int, count: int, verbose: bool = False) -> list[dict[str, Any]]:
    """The rows of some seeds; a child that dies is begun again behind the file that killed it."""
    rows: list[dict[str, Any]] = []
    at = first
    while at < first + count:
        command = [
            sys.executable,
            __file__,
            "--worker",
            str(folder),
            "--first",
            str(at),
            "--count",
            str(first + count - at),
        ]
        child = subprocess.run(
            [*command, *(["-v"] if verbose else [])], capture_output=True, text=True, errors="replace"
        )
        lines = [
            json.loads(line)
            for line in child.stdout.splitlines()
            if line.startswith('{"seed"') and line[-1] == "}"
        ]
        rows += [line for line in lines if "outcome" in line]
        if child.returncode == 0:
            break
        last = lines[-1] if lines else {"seed": at, "begins": "nothing"}
        problem = f"the process ended with {child.returncode}: {child.stderr[-600:]}"
        if "begins" not in last:
            raise RuntimeError(problem)
        rows.append({"seed": last["seed"], "what": last["begins"], "outcome": "crash", "problem": problem})
        at = last["seed"] + 1
    return rows


def main() -> int:
    """Run what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="how many at a time")
    parser.add_argument(
        "--make-seeds", type=Path, help="only save the good files into this folder, which needs TensorRT"
    )
    parser.add_argument("--seeds", type=Path, help="a folder of --make-seeds: for a machine without TensorRT")
    parser.add_argument("-v", "--verbose", action="store_true", help="print every file")
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker:
        work(given.worker, given.first, given.count, given.verbose)
        return 0
    if given.make_seeds:
        given.make_seeds.mkdir(parents=True, exist_ok=True)
        make_seeds(given.make_seeds)
        return 0
    began, size = time.monotonic(), min(250, max(10, given.count // (4 * given.workers)))
    outcomes: Counter[str] = Counter()
    failed = 0
    with tempfile.TemporaryDirectory() as name, ThreadPoolExecutor(given.workers) as pool:
        folder = given.seeds or Path(name)
        if not given.seeds:
            make_seeds(folder)
        last = given.first + given.count
        jobs = [
            pool.submit(batch, folder, first, min(size, last - first), given.verbose)
            for first in range(given.first, last, size)
        ]
        for job in as_completed(jobs):
            for row in job.result():
                outcomes[row["outcome"]] += 1
                failed += bool(row["problem"])
                if row["problem"] or given.verbose:
                    print(
                        f"seed {row['seed']} ({row['what']}): {row['outcome']}; {row['problem']}", flush=True
                    )
    print(f"{sum(outcomes.values())} files, {failed} failed, {time.monotonic() - began:.0f} s")
    for outcome, count in outcomes.most_common():
        print(f"  {count:6d} {outcome}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
