"""Run every benchmark and write what it prints into docs/performance.md.

``python tests/benchmarks/run.py [NAME ...]``: all of them, or ``stages``, ``nodes``, ``selection``, ``memory``,
``import``. Each runs in a process of its own; its table replaces the one between the markers
``<!-- NAME -->`` and ``<!-- /NAME -->``.
"""

from __future__ import annotations

import pathlib
import re
import subprocess
import sys

HERE = pathlib.Path(__file__).parent
PAGE = HERE.parent.parent / "docs" / "performance.md"


def names() -> list[str]:
    return sorted(path.stem.removeprefix("bench_") for path in HERE.glob("bench_*.py"))


def run(name: str) -> str:
    """What the benchmark prints; its errors go to the terminal."""
    command = [sys.executable, str(HERE / f"bench_{name}.py")]
    printed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()
    return printed if printed.startswith("|") else f"```text\n{printed}\n```"


def main() -> int:
    chosen = sys.argv[1:] or names()
    unknown = set(chosen) - set(names())
    if unknown:
        print(
            f"no benchmark named {', '.join(sorted(unknown))}; there are {', '.join(names())}",
            file=sys.stderr,
        )
        return 2
    for name in chosen:
        print(f"\n## {name}", flush=True)
        table = run(name)
        print(table, flush=True)
        page = PAGE.read_text()
        block = f"<!-- {name} -->\n{table}\n<!-- /{name} -->"
        page, count = re.subn(
            rf"<!-- {name} -->.*?<!-- /{name} -->", lambda _, block=block: block, page, flags=re.DOTALL
        )
        if not count:
            print(f"docs/performance.md has no place for {name}", file=sys.stderr)
            return 1
        PAGE.write_text(page)
    return 0


if __name__ == "__main__":
    sys.exit(main())
