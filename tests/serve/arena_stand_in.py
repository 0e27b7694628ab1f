"""The arena's routes with scripted replies, for the page's tests: a prompt's first word says what comes.

`votes` holds the bodies of votes; `refuse` is a status that the next battle or vote gets, once; `broken` ends the next
stream of side b in the middle, once. Ratings are made up, those of `table` shown as they are.
"""

import time
import uuid
from dataclasses import dataclass, field
from typing import Any

from tests.serve import page_server

from qwill.serve.arena_words import CONSENT, PROMPTS

NAMES = ("zebra-7b", "okapi-3b")
SUSPICION = {"kind": "crowd", "model": "okapi-3b", "direction": "for", "voters": 11, "votes": 97, "share": 0.97,
             "expected": 0.42, "chance": 1e-7}  # fmt: skip


def standing(model: str, rank: int | None, rating: float | None, half: float, votes: int) -> dict[str, Any]:
    lower, upper = (None, None) if rating is None else (rating - half, rating + half)
    counts = {"votes": votes, "wins": votes // 2, "ties": 0, "losses": votes - votes // 2}
    return {"model": model, "rank": rank, "rating": rating, "lower": lower, "upper": upper, **counts}


def table() -> dict[str, Any]:
    """Two models apart from each other, a third between that the votes can't tell from the first, one without votes."""
    rows = [
        standing("zebra-7b", 1, 1062.4, 18.0, 240),
        standing("tapir-1b", 1, 1041.0, 20.0, 130),
        standing("okapi-3b", 3, 961.2, 20.0, 210),
        standing("new-model-with-a-long-name-0.6b-instruct", None, None, 0, 0),
    ]
    battles = [[0, 80, 160], [80, 0, 0], [160, 0, 0]]
    points = [[0, 50.5, 120], [29.5, 0, 0], [40, 0, 0]]
    matrix = {"models": ["zebra-7b", "tapir-1b", "okapi-3b"], "points": points, "battles": battles}
    notes = [{"en": "Three votes were set aside.", "zh": "有三票未计入。"}]
    more = {"style": False, "style_effects": {}, "suspicions": [SUSPICION], "set_aside": {"leak": 3, "coordinated": 0}}
    return {"ratings": rows, "matrix": matrix, "notes": notes, "votes": 290, **more}


def without_style(found: dict[str, Any]) -> dict[str, Any]:
    """Ratings nearer to each other, with wider intervals."""
    rows = [standing(row["model"], row["rank"], row["rating"] and 500 + row["rating"] / 2, 30, row["votes"])
            for row in found["ratings"]]  # fmt: skip
    return found | {"ratings": rows, "style": True, "style_effects": {"length": 0.405, "headers": 0.0, "bold": -0.105}}


def over_time() -> list[dict[str, Any]]:
    points = []
    for n in range(1, 11):
        half = 60 / n**0.5
        ratings = {"zebra-7b": 1000 + 6 * n, "okapi-3b": 1000 - 4 * n}
        if n > 4:
            ratings["tapir-1b"] = 1041.0
        found = {name: {"rating": r, "lower": r - half, "upper": r + half} for name, r in ratings.items()}
        points.append({"votes": 29 * n, "time": 1.8e9 + n, "ratings": found})
    return points


@dataclass
class Arena:
    """One arena; hand it to a PageServer as `arena`."""

    battles: dict[str, dict[str, Any]] = field(default_factory=dict)
    votes: list[dict[str, Any]] = field(default_factory=list)
    refuse: int = 0
    broken: bool = False
    leak: bool = False
    points: list[dict[str, Any]] = field(default_factory=over_time)

    def answer(self, handler: Any, parts: list[str], query: dict[str, list[str]], body: dict[str, Any]) -> None:
        """One request below /qwill/arena."""
        if self.refuse and handler.command == "POST":
            status, self.refuse = self.refuse, 0
            handler.error(status, "at most 30 a minute here", Retry_After="7")
        elif not parts:
            about = {
                "models": sorted(NAMES),
                "model_count": 2,
                "votes": 290 + len(self.votes),
                "voted": len(self.votes),
            }
            handler.send(200, {**about, "prompts": PROMPTS, "consent": CONSENT})
        elif parts == ["battles"]:
            identity = str(uuid.uuid4())
            sides = NAMES if len(self.battles) % 2 == 0 else NAMES[::-1]
            self.battles[identity] = {
                "prompt": body["prompt"],
                "sides": dict(zip("ab", sides, strict=True)),
                "whole": set(),
                "turns": [{"asked": body["prompt"], "replies": {"a": None, "b": None}}],
                "vote": None,
            }
            handler.send(201, {"id": identity, "streams": ["a", "b"], "language": "en"})
        elif parts[0] == "battles" and len(parts) == 2:
            if (battle := self.battles.get(parts[1])) is None:
                handler.error(404, "no such battle")
                return
            handler.send(200, {"id": parts[1], "language": "en", "turns": battle["turns"], "vote": battle["vote"]})
        elif parts[0] == "battles" and parts[2] == "turns":
            battle = self.battles[parts[1]]
            if battle["whole"] != {"a", "b"} or battle["vote"] or body["turn"] != len(battle["turns"]) + 1:
                handler.error(409, "The replies are not whole yet.")
                return
            battle["whole"] = set()
            battle["prompt"] = body["prompt"]
            battle["turns"].append({"asked": body["prompt"], "replies": {"a": None, "b": None}})
            handler.send(200, {"id": parts[1], "turn": body["turn"]})
        elif parts[0] == "battles" and parts[2] in ("a", "b"):
            self.stream(handler, self.battles[parts[1]], parts[2])
        elif parts[0] == "battles":
            self.vote(handler, self.battles[parts[1]], body)
        elif parts == ["leaderboard"]:
            category = query.get("category", ["all"])[0]
            found = table()
            if category != "all":
                found["ratings"] = [row for row in found["ratings"] if row["model"] != "tapir-1b"]
            if query.get("style", ["false"])[0] == "true":
                found = without_style(found)
            handler.send(
                200, {**found, "category": category, "categories": {"all": 290, "en": 200, "zh": 90, "code": 41}}
            )
        elif parts == ["history"]:
            handler.send(200, {"points": self.points})
        elif parts == ["votes", "mine"] and handler.command == "DELETE":
            count = len(self.votes)
            self.votes.clear()
            handler.send(200, {"erased": count})
        else:
            handler.error(404, "no such thing")

    def stream(self, handler: Any, battle: dict[str, Any], side: str) -> None:
        app = handler.app
        handler.send_response(200)
        handler.send_header("Content-Type", "text/event-stream")
        handler.send_header("Connection", "close")
        handler.end_headers()
        handler.close_connection = True
        prompt = battle["prompt"]
        reply = {"content": "", "reasoning": "", "finish_reason": "stop"}
        said = {"model": f"Side {side}", "messages": [{"role": "user", "content": prompt}]}
        try:
            for n, (delta, finish) in enumerate(page_server.script(said, (prompt.split() or [""])[0].lower())):
                if n >= app.before:
                    app.gate.wait()
                time.sleep(app.pace)
                if n == 2 and side == "b" and self.broken:
                    self.broken = False
                    return
                reply["content"] += delta.get("content") or ""
                reply["reasoning"] += delta.get("reasoning_content") or ""
                if finish:
                    battle["whole"].add(side)
                    battle["turns"][-1]["replies"][side] = reply | {"finish_reason": finish}
                handler.event({"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]})
            handler.wfile.write(b"data: [DONE]\n\n")
        except OSError:
            app.stopped += 1

    def vote(self, handler: Any, battle: dict[str, Any], body: dict[str, Any]) -> None:
        if battle["whole"] != {"a", "b"}:
            handler.error(409, "The replies are not whole yet.")
            return
        self.votes.append(body)
        a, b = battle["sides"]["a"], battle["sides"]["b"]
        changes = {a: {"before": 1000.0, "after": 1008.25}, b: {"before": 1000.0, "after": 991.75}}
        counted = {"counted": not self.leak, "why": "leak" if self.leak else None}
        answer = {"id": "vote", "model_a": a, "model_b": b, "outcome": body["outcome"], "repeated": False, **counted}
        battle["vote"] = {**answer, "changes": {} if self.leak else changes}
        handler.send(201, battle["vote"])
