"""The engine cache: a second compile of the same model builds nothing, and neither does one with other weights."""

from __future__ import annotations

import tempfile
import time

import torch

import trtcore


def model(seed: int) -> torch.nn.Module:
    torch.manual_seed(seed)
    layers = [torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.GELU()) for _ in range(8)]
    return torch.nn.Sequential(*layers).eval().requires_grad_(False)


def main() -> None:
    x = torch.randn(4, 64)
    with tempfile.TemporaryDirectory() as folder:
        cache: trtcore.SettingsDict = {
            "cache_built_engines": True,
            "reuse_cached_engines": True,
            "engine_cache_dir": folder,  # or a URL: s3://bucket/engines
            # engines that take other weights; on the native runtime they need a GPU at build
            "immutable_weights": False,
            "runtime": "reference",
        }
        for name, seed in (("first", 0), ("again", 0), ("other weights", 1)):
            net = model(seed)
            began = time.perf_counter()
            compiled = trtcore.compile(net, inputs=[x], **cache)
            seconds = time.perf_counter() - began
            (engine,) = compiled.report.engines
            difference = (compiled(x) - net(x)).abs().max()
            print(
                f"{name}: {'from the cache' if engine.cached else 'built'}, {seconds:.2f} s, "
                f"largest difference from eager {difference:.1e}"
            )


if __name__ == "__main__":
    main()
