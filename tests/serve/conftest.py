import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="session")
def server() -> Iterator["Server"]:  # noqa: F821
    from serving import serving

    with serving() as running:
        yield running
