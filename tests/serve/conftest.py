import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.browser import Browser
from tests.serve.page_server import PageServer

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))


@pytest.fixture(scope="session")
def server() -> Iterator["Server"]:  # noqa: F821
    from serving import serving

    with serving() as running:
        yield running


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    made = Browser()
    yield made
    made.close()


@pytest.fixture
def browser(chromium: Browser) -> Iterator[Browser]:
    """One browser for all tests; a test's pages are closed after it."""
    yield chromium
    for page in list(chromium.pages.values()):
        page.close()


@pytest.fixture
def scripted() -> Iterator[PageServer]:
    """The page's server with scripted replies."""
    with PageServer(files=HERE) as made:
        yield made
