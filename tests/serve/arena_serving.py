"""A server with an arena of tiny random models, and a voter that goes through a battle."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
from serving import Server, build_with, serving

from qwill.base.state import close_state, open_state
from qwill.serve.settings import ArenaSettings, ServeSettings

FREE = ArenaSettings(battles=None, votes=None, address=None, max_tokens=6)


@contextmanager
def arena(
    where: str | Path, arena: ArenaSettings = FREE, models: dict[str, Any] | None = None, **more: Any
) -> Iterator[Server]:
    state = open_state(str(where))
    builds = models or {f"tiny-{i}": build_with(seed=i) for i in (1, 2, 3)}
    with serving(replace(ServeSettings(**more), arena=arena), builds, state=state) as server:
        yield server
    close_state(state)


class Person:
    """Someone with a browser of their own: cookies are kept."""

    def __init__(self, server: Server, **headers: str) -> None:
        self.client = httpx.Client(base_url=server.url, timeout=60, headers=headers)

    def begin(self, prompt: str = "Why is the sky blue?", **more: Any) -> str:
        answer = self.client.post("/qwill/arena/battles", json={"prompt": prompt, **more})
        assert answer.status_code == 201, answer.text
        assert answer.json()["streams"] == ["a", "b"]
        return str(answer.json()["id"])

    def read(self, battle: str, side: str) -> list[Any]:
        answer = self.client.get(f"/qwill/arena/battles/{battle}/{side}")
        assert answer.status_code == 200, answer.text
        lines = [line[6:] for line in answer.text.split("\n") if line.startswith("data: ")]
        assert lines[-1] == "[DONE]"
        return [json.loads(line) for line in lines[:-1]]

    def battle(self, prompt: str = "Why is the sky blue?") -> str:
        made = self.begin(prompt)
        for side in "ab":
            self.read(made, side)
        return made

    def vote(self, battle: str, outcome: str = "a", consent: bool = True) -> httpx.Response:
        body = {"outcome": outcome, "consent": consent}
        return self.client.post(f"/qwill/arena/battles/{battle}/votes", json=body)

    def get(self, path: str) -> Any:
        answer = self.client.get("/qwill/arena" + path)
        assert answer.status_code == 200, answer.text
        return answer.json()


def text_of(events: list[Any]) -> str:
    return "".join(event["choices"][0]["delta"].get("content", "") for event in events)
