"""Which ops keep NaN, infinities and signed zeros: PyTorch's samples with such numbers put in, against eager.

    python tests/conformance/strict.py                    every operator, as converters are without strict numerics
    python tests/conformance/strict.py --op relu,clamp    some
    python tests/conformance/strict.py --strict           with strict_numerics=True: what is in an engine must be right
    python tests/conformance/strict.py --publish          converters/trtcore_converters/strict_ops.py from what is known

Results are lines of JSON in build/strict; operators that are there are not run again.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import sys
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch.utils import _pytree as pytree

from trtcore.testing.opinfo import OpSample, SampleResult, check, operators, samples

ROOT = Path(__file__).resolve().parents[2]
TABLE = ROOT / "converters" / "trtcore_converters" / "strict_ops.py"
STRANGE = (math.inf, -math.inf, -0.0, 0.0, math.nan)
LEFT_OUT = re.compile(
    r"rand|multinomial|dropout|normal|bernoulli|exponential|geometric|cauchy|rrelu|uniform|empty|jiterator|nested|sparse"
    r"|linalg|fft|svd|cholesky|lu_|ormqr|geqrf|lstsq|^qr$|eig|stft|pinverse|chalf|complex|as_strided"
)
"""Random, without values, or of decompositions that no engine gets."""


ALLOWED = {
    *("aten.scalar_tensor.default", "aten.full.default", "aten.full_like.default", "aten.new_full.default"),
    *("aten.zeros.default", "aten.ones.default", "aten.zeros_like.default", "aten.ones_like.default"),
    *("aten.detach.default", "aten.alias.default", "aten.lift_fresh_copy.default"),
    *("aten.addmm.default", "aten.conv1d.default", "aten.conv1d.padding"),
    *("aten.conv2d.default", "aten.conv2d.padding", "aten.conv3d.default", "aten.conv3d.padding"),
    *("aten.to.dtype", "aten._to_copy.default"),
}
"""Made of constants; or wrong in the sign of a zero that is a sum of no products, or where torch promises nothing: what no
integer can be, as one."""


def poisoned(sample: OpSample, dense: bool) -> OpSample:
    """The sample with strange numbers in every second place, or in every third without NaN but one."""
    tensors = []
    for number, tensor in enumerate(sample.tensors):
        if tensor.dtype.is_floating_point and tensor.numel():
            flat = tensor.detach().clone().contiguous().reshape(-1)
            for place in range(flat.numel()):
                turn = (place * 7 + number * 3) % (9 if dense else 13)
                if turn < len(STRANGE) - (not dense):
                    flat[place] = STRANGE[(turn + number) % (len(STRANGE) - (not dense))]
            if not dense and flat.numel() > 10:
                flat[flat.numel() // 2] = math.nan
            tensor = flat.reshape(tensor.shape)
        tensors.append(tensor)
    return sample.with_tensors(tensors)


def difference(want: Any, got: Any) -> str:
    """What differs of NaN, infinities, zeros and their signs; "" for nothing. Finite numbers may round."""
    for a, b in zip(pytree.tree_leaves(want), pytree.tree_leaves(got), strict=True):
        if not isinstance(a, torch.Tensor):
            continue
        if a.shape != b.shape or a.dtype != b.dtype:
            return "another shape or dtype"
        if not a.dtype.is_floating_point:
            if not torch.equal(a, b):
                return "other integers"
            continue
        for name, test in (("NaN", torch.isnan), ("inf", torch.isposinf), ("-inf", torch.isneginf)):
            if not torch.equal(test(a), test(b)):
                return f"{name} elsewhere: {int(test(a).sum())} in eager, {int(test(b).sum())} here"
        zero = a == 0
        if not torch.equal(zero, b == 0):
            return "zeros elsewhere"
        if not torch.equal(a.signbit()[zero], b.signbit()[zero]):
            return "another sign of zero"
        finite = a.isfinite()
        if not torch.allclose(a[finite], b[finite], rtol=1e-3, atol=1e-4):
            return "other numbers"
    return ""


def run(names: Iterable[str], strict: bool, limit: int = 3) -> Iterator[SampleResult]:
    """Results of the operators' samples in float32."""
    for name in names:
        try:
            found = list(samples(name, torch.float32, limit=limit))
        except Exception:  # an operator of a library that is not there
            continue
        for dense in (True, False):
            strange = [poisoned(one, dense) for one in found]
            settings = {"strict_numerics": True} if strict else {}
            yield from check(
                strange, settings=settings, compare=lambda _, want, got: difference(want, got), batch=4
            )


def publish(rows: list[dict[str, Any]]) -> None:
    """The table of ops that were right in every sample, in one with several elements."""
    from trtcore_converters import strict
    from trtcore_converters.decompositions import decompositions
    from trtcore_converters.pack import converters

    right: Counter[str] = Counter()
    wrong: set[str] = set()
    for row in rows:
        if len(row["traced"]) != 1:
            continue
        (op,) = row["traced"]
        if row["outcome"] == "failed":
            wrong.add(op)
        elif row["outcome"] == "passed" and re.search(r"float32\[(?!\])(?!\d\])(?!0)", row["call"]):
            right[op] += 1
    found = list(converters())
    converted = {str(one.target) for one in found}
    decomposed = {str(op) for op in decompositions()} - converted
    same = {one.implementation for one in found if str(one.target) in set(right) - wrong}
    alike = {
        str(one.target) for one in found if one.implementation in same
    } - wrong  # add.Scalar as add.Tensor
    alike |= {
        name for name in converted if name.startswith("aten.convolution.")
    }  # what conv1d and others become
    names = sorted(((set(right) - wrong) | alike | ALLOWED) - {str(op) for op in strict.TABLE})
    text = ['"""Made by ``python tests/conformance/strict.py --publish``: see `strict`."""\n']
    for title, among in (("CONVERTED", converted), ("DECOMPOSED", decomposed)):
        lines = "".join(f'        "{name}",\n' for name in names if name in among)
        text.append(f"{title} = frozenset(\n    {{\n{lines}    }}\n)\n")
    TABLE.write_text("\n".join(text))


def main() -> int:
    """Run what the command line says. 1 if something is wrong in an engine under strict numerics."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--op", default="")
    parser.add_argument("--strict", action="store_true")
    parser.add_argument("--publish", action="store_true")
    parser.add_argument("--results", type=Path, default=ROOT / "build" / "strict")
    options = parser.parse_args()
    options.results.mkdir(parents=True, exist_ok=True)
    path = options.results / ("strict.jsonl" if options.strict else "plain.jsonl")
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    if options.publish:
        publish(rows)
        return 0
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    done = {row["op"] for row in rows}
    names = options.op.split(",") if options.op else sorted({name for name, _ in operators()} - done)
    wrong = 0
    with path.open("a") as file:
        for name in names:
            if LEFT_OUT.search(name) and not options.op:
                continue
            for result in run([name], options.strict):
                file.write(json.dumps(asdict(result)) + "\n")
                wrong += result.outcome == "failed"
                if result.outcome == "failed":
                    print(result, flush=True)
            file.flush()
    return int(options.strict and wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
