"""What `import trtcore` costs over `import torch`. ``python tests/benchmarks/bench_import.py``."""

from __future__ import annotations

import subprocess
import sys
import time

ROUNDS = 11


def seconds(statement: str) -> float:
    """Wall clock of a fresh interpreter that runs one statement."""
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", statement], check=True)
    return time.perf_counter() - began


def main() -> None:
    seconds("import torch, trtcore")  # writes the .pyc files
    both = [
        (seconds("import torch"), seconds("import torch, trtcore")) for _ in range(ROUNDS)
    ]  # side by side
    torch_only, with_trtcore = (min(times) for times in zip(*both))
    print("| import torch | import torch, trtcore | ratio |")
    print("|---|---|---|")
    print(f"| {torch_only:.2f} s | {with_trtcore:.2f} s | {with_trtcore / torch_only:.3f} |")


if __name__ == "__main__":
    main()
