"""``pytest -k gelu`` selects the tests of gelu, also those that try many ops in one compile.

One compile of thirty ops takes as long as one of two, so that tests of a family try its ops together. Their ids cannot
have all the names; here the ops of a test, as its code names them, become keywords of it for ``-k``.
"""

from __future__ import annotations

import pytest
from ops_by_name import FOLDER, ops_of


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if isinstance(item, pytest.Function) and item.path.parent == FOLDER:
            item.extra_keyword_matches.update(ops_of(item.path, item.originalname))
