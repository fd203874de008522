"""Run every benchmark that docs/performance.md has a place for, and write there what it prints.

``python tests/benchmarks/run.py [NAME ...]``: all of them, or ``stages``, ``nodes``, ``selection``, ``memory``,
``import``. Each runs in a process of its own; its table replaces the one between the markers
``<!-- NAME -->`` and ``<!-- /NAME -->``. The others (``llm``, ``serving``, ... on a GPU) are run by themselves.
"""

from __future__ import annotations

import pathlib
import re
import subprocess
import sys

HERE = pathlib.Path(__file__).parent
PAGE = HERE.parent.parent / "docs" / "performance.md"


def names() -> list[str]:
    """The benchmarks whose table is in the page."""
    page = PAGE.read_text()
    found = (path.stem.removeprefix("bench_") for path in HERE.glob("bench_*.py"))
    return sorted(name for name in found if f"<!-- {name} -->" in page)


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
        page = re.sub(
            rf"<!-- {name} -->.*?<!-- /{name} -->", lambda _, block=block: block, page, flags=re.DOTALL
        )
        PAGE.write_text(page)
    return 0


if __name__ == "__main__":
    sys.exit(main())
