"""What other processes run in test_cache.py: entries written, read and dropped, without torch.

python cache_worker.py FOLDER ENTRY NAMES ROUNDS LIMIT: NAMES names in turn; prints a line per round.
"""

from __future__ import annotations

import random
import sys
from pathlib import Path

from trtcore.engine.cache.entry import engine_of
from trtcore.engine.cache.stores import FolderStore


def main(folder: str, entry: str, names: str, rounds: str, limit: str) -> None:
    """Write, read back what is there, check it, and make room."""
    store, data, pick = FolderStore(Path(folder)), Path(entry).read_bytes(), random.Random()
    key = Path(entry).stem
    for _ in range(int(rounds)):
        name = f"{pick.randrange(int(names)):064x}"
        store.write(name, [memoryview(data)[:-100], data[-100:]])
        found = store.read(f"{pick.randrange(int(names)):064x}")
        if found is not None:
            engine_of(memoryview(found), key, None)
        store.shrink(int(limit))
        print("round", flush=True)


if __name__ == "__main__":
    assert "torch" not in sys.modules
    main(*sys.argv[1:])
