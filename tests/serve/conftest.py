import os
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

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


# -- before vLLM: a stand-in for it, and with QWILL_TEST_VLLM=PATH of a `vllm` command or QWILL_TEST_RAY_SERVE=PATH of
# a `serve` command the real ones too, which take minutes to start.
VLLM, RAY = os.environ.get("QWILL_TEST_VLLM"), os.environ.get("QWILL_TEST_RAY_SERVE")


@pytest.fixture(scope="session")
def reciting(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a model that thinks, talks and calls tools, by heart."""
    sys.path.insert(0, str(HERE.parents[1] / "benchmarks"))
    from serve_models import write_reciting

    return write_reciting(tmp_path_factory.mktemp("models") / "recite", 1024)


@pytest.fixture(scope="session")
def vllm(reciting: Path) -> Iterator["Running"]:  # noqa: F821
    from before_vllm import Running

    running = Running(reciting)
    yield running
    running.stop()


@pytest.fixture(scope="session")
def ours(reciting: Path) -> Iterator["Server"]:  # noqa: F821
    from serving import serving

    from qwill.serve.engine_process import EngineOptions, load_engine

    with serving(models={"tiny": partial(load_engine, EngineOptions(str(reciting), threads=1))}) as server:
        yield server


@pytest.fixture(scope="session", params=["fake", *["real"] * bool(VLLM), *["ray"] * bool(RAY)])
def theirs(
    request: pytest.FixtureRequest, reciting: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator["Server"]:  # noqa: F821
    from before_vllm import SMALL, through
    from ray_serve import ray_serving

    from qwill.serve.vllm_process import VllmOptions

    if request.param == "fake":
        with through(VllmOptions(reciting, "tiny", request.getfixturevalue("vllm").url)) as server:
            yield server
    elif request.param == "ray":
        with (
            ray_serving(Path(str(RAY)), reciting, tmp_path_factory.mktemp("ray")) as url,
            through(VllmOptions(reciting, "tiny", url)) as server,
        ):
            yield server
    else:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("PATH", str(Path(str(VLLM)).parent), prepend=os.pathsep)
            with through(VllmOptions(reciting, "tiny", None, "float32", SMALL)) as server:
                yield server


@pytest.fixture(scope="session")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a command `vllm`, the fake one."""
    script = tmp_path_factory.mktemp("bin") / "vllm"
    paths = os.pathsep.join(filter(None, sys.path))
    script.write_text(f'#!/bin/sh\nPYTHONPATH="{paths}" exec "{sys.executable}" "{HERE / "fake_vllm.py"}" "$@"\n')
    script.chmod(0o755)
    return script.parent


@pytest.fixture(params=["fake", *["real"] * bool(VLLM)])
def startable(request: pytest.FixtureRequest, program: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Options of a `vllm` which this machine can start, made as `VllmOptions` are."""
    from before_vllm import SMALL

    from qwill.serve.vllm_process import VllmOptions

    real = request.param == "real"
    monkeypatch.setenv("PATH", str(Path(str(VLLM)).parent if real else program), prepend=os.pathsep)
    return partial(VllmOptions, **({"dtype": "float32", "more": SMALL} if real else {}))
