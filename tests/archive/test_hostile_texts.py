"""Names and texts in a file that a terminal would obey: `trtcore inspect`, `run`, errors and reports escape them."""

from __future__ import annotations

import json

import pytest
import torch
from click.testing import CliRunner

import trtcore
from trtcore.cli.app import main
from trtcore.errors import ArtifactError, InputError, printable

HOSTILE = "\x1b]0;owned\x07\x1b[2J\x00\nforged line\r\u202egnp\x9b\ud800"


def harmless(text):
    return all(c.isprintable() or c in "\n\t" for c in text)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain, größer, 日本", "plain, größer, 日本"),
        ("a\nb\tc", "a\nb\tc"),
        ("\x1b[2J", "\\x1b[2J"),
        ("\x00\r\x9b\x7f", "\\x00\\r\\x9b\\x7f"),
        ("\u202eabc\u2028", "\\u202eabc\\u2028"),
        ("\ud800", "\\ud800"),
        ("ab\n" + "x" * 5000, "ab\n" + "x" * 4000 + "... (5000 characters)"),
    ],
)
def test_printable(text, shown):
    assert printable(text) == shown
    assert "\n" not in printable("a\nb", keep="")
    assert str(InputError(text)) == shown


def in_report(extra):
    report = json.loads(extra["report"])
    report["model"] = HOSTILE
    for record in report["nodes"]:
        record["op"] = record["name"] = HOSTILE
    extra["report"] = json.dumps(report)


def in_manifest(extra):
    for node in extra["module"]["graph"]["nodes"]:
        if node[2] == ["op", "trtcore.execute_engine.default"]:
            manifest = json.loads(node[3][4])
            for pack in manifest["packs"]:
                pack["version"] = HOSTILE
            manifest["name"] = HOSTILE
            node[3][4] = json.dumps(manifest)


def in_contract(extra):
    extra["check"]["model"] = extra["check"]["leaves"][0][1] = HOSTILE
    extra["check"]["guards"].append([HOSTILE, "s77 < 0"])


PLACES = {"report": in_report, "manifest": in_manifest, "contract": in_contract}


@pytest.fixture(params=PLACES)
def hostile_file(forged, request):
    return forged(lambda extra, members: PLACES[request.param](extra))


@pytest.mark.parametrize("command", [["inspect", "--layers"], ["run", "--input", "2,4"]])
def test_commands(hostile_file, command):
    result = CliRunner().invoke(main, [command[0], str(hostile_file), *command[1:]])
    assert result.exception is None or isinstance(result.exception, SystemExit)
    assert harmless(result.output)
    assert result.exit_code or "\nforged line" not in result.output


def test_reports_and_errors(hostile_file):
    def use():
        module = trtcore.load(hostile_file, packs="ignore")
        assert harmless(module.report.text(verbose=True) + module.report.summary())
        module(torch.zeros(3), HOSTILE)

    with pytest.raises((ArtifactError, InputError)) as caught:
        use()
    assert harmless(str(caught.value))
