"""A small soak of a real server in processes of its own, and a kill of its engine (benchmarks/serve_soak.py)."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from serve_models import write_adapters, write_random
from serve_process import Server, serving
from serve_soak import CONTEXT, KINDS, adapter_options, blocks_lost, kill, soak


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("soak")
    write_random(folder / "base", CONTEXT)
    return folder


@pytest.fixture(scope="module")
def adapters(place: Path) -> dict[str, Path]:
    return {f"adapter-{i}": path for i, path in enumerate(write_adapters(place / "base", place, 2))}


@pytest.fixture(scope="module")
def server(place: Path, adapters: dict[str, Path]) -> Iterator[Server]:
    with serving(place / "base", *adapter_options(adapters)) as running:
        yield running


def test_nothing_is_wrong_stuck_or_lost(server: Server, adapters: dict[str, Path]) -> None:
    tally = asyncio.run(soak(server, adapters, requests=200, clients=12, replies=6))
    assert not tally.wrong and not tally.stuck
    assert sum(tally.done.values()) == 200 and len(tally.done) == len(KINDS)
    assert server.becomes_idle() and blocks_lost(server) == 0


def test_a_killed_engine_is_told_and_restarted(server: Server) -> None:
    found = asyncio.run(kill(server, 4))
    assert found["told"] == found["open"] == 8
