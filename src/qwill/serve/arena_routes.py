"""The arena over HTTP: two models answer, a person votes without knowing who is who, and votes become ratings.

    GET    /qwill/arena → {models, model_count, votes, voted, prompts: {en, zh}, consent: {en, zh}}
    POST   /qwill/arena/battles {prompt | messages, language} → 201 {id, streams: ["a", "b"], language}
    GET    /qwill/arena/battles/ID → {id, language, turns: [{asked, replies: {a, b}}], vote}: what a page shows again;
           a reply is {content, reasoning, finish_reason} or null while it isn't whole, vote as below or null
    GET    /qwill/arena/battles/ID/a (and /b) → the reply as events: chat completion chunks without `model`
    POST   /qwill/arena/battles/ID/turns {prompt, turn: 2, …} → {id, turn}: ask on, both replies being there, before the
           vote; each model goes on with its own replies
    POST   /qwill/arena/battles/ID/votes {outcome: a|b|tie|both_bad, consent}
           → 201 {id, model_a, model_b, outcome, counted, why, changes: {model: {before, after}}, repeated}
             (200 when the same vote was there already)
    GET    /qwill/arena/leaderboard?category=all&style=false → {ratings: [{model, rank, rating, lower, upper, votes,
           wins, ties, losses}], matrix: {models, points, battles}, categories: {name: votes}, set_aside, suspicions,
           style, style_effects, notes: [{en, zh}], …}
    GET    /qwill/arena/history → {points: [{votes, time, ratings: {model: {rating, lower, upper}}}]}
    DELETE /qwill/arena/votes/mine → {erased}: the voter's votes and prompts are gone, and ratings do without them

Times are Unix seconds. Errors have OpenAI's shape, with `code`: unknown_battle 404, not_yours 403, not_finished and
already_voted and other_turn 409, rate_limit_exceeded 429.
"""

from __future__ import annotations

import asyncio
import secrets
from typing import TYPE_CHECKING, Annotated, Any, Literal

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field

from qwill.base.state import State
from qwill.evaluate.arena_categories import language_of
from qwill.evaluate.arena_standings import ALL
from qwill.serve import arena_log
from qwill.serve.access import caller_of, service_of, tenant_of
from qwill.serve.arena_board import Board
from qwill.serve.arena_log import Side, VoteRefused
from qwill.serve.arena_marks import marks_of
from qwill.serve.arena_replies import Running, conversation, reply_stream
from qwill.serve.arena_voters import PATH, Turnstile, Voter, fingerprint, remember, voter_of
from qwill.serve.arena_words import CONSENT, PROMPTS
from qwill.serve.chat_schema import ChatMessage
from qwill.serve.errors import ApiError
from qwill.serve.page_routes import Identity
from qwill.serve.routes import failures, new_router
from qwill.serve.settings import ArenaSettings

if TYPE_CHECKING:
    import numpy as np

LONGEST = 100_000  # characters of what is asked, all messages together
STATUS = {"unknown_battle": 404, "not_yours": 403, "not_finished": 409, "already_voted": 409, "other_turn": 409}
MOST_TURNS = 50


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class NewBattle(_Body):
    prompt: str | None = Field(None, max_length=LONGEST)
    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=200)] | None = None
    language: Literal["en", "zh", "other"] | None = None


class NewTurn(_Body):
    prompt: str = Field(max_length=LONGEST)
    turn: int = Field(ge=2, le=MOST_TURNS)


class NewVote(_Body):
    outcome: Literal["a", "b", "tie", "both_bad"]
    consent: bool = False


class Arena(BaseModel):
    """What the arena offers, and what this voter has done."""

    models: list[str]
    model_count: int
    votes: int
    voted: int
    prompts: dict[str, list[str]]
    consent: dict[str, str]


class Battle(BaseModel):
    id: str
    streams: list[str]
    language: str


class Change(BaseModel):
    before: float | None
    after: float | None


class VoteAnswer(BaseModel):
    """The vote, and only now who was who."""

    model_config = ConfigDict(protected_namespaces=())

    id: str
    model_a: str
    model_b: str
    outcome: str
    counted: bool
    why: str | None
    changes: dict[str, Change]
    repeated: bool


class BegunTurn(BaseModel):
    id: str
    turn: int


class WholeReply(BaseModel):
    content: str
    reasoning: str
    finish_reason: str


class Turn(BaseModel):
    asked: str
    replies: dict[str, WholeReply | None]


class BattleNow(BaseModel):
    """A battle as far as it has come, without names before the vote."""

    id: str
    language: str
    turns: list[Turn]
    vote: VoteAnswer | None


class Standing(BaseModel):
    model: str
    rank: int | None
    rating: float | None
    lower: float | None
    upper: float | None
    votes: int
    wins: int
    ties: int
    losses: int


class Matrix(BaseModel):
    models: list[str]
    points: list[list[float]]
    battles: list[list[int]]


class Suspected(BaseModel):
    """Voters who seem to act together: how many, for or against which model, and how unlikely it is by chance."""

    kind: str
    model: str
    direction: str
    voters: int
    votes: int
    share: float
    expected: float
    chance: float


class Leaderboard(BaseModel):
    category: str
    ratings: list[Standing]
    matrix: Matrix
    votes: int
    categories: dict[str, int]
    set_aside: dict[str, int]
    notes: list[dict[str, str]]
    style: bool
    style_effects: dict[str, float]
    suspicions: list[Suspected]
    through: int


class HistoryPoint(BaseModel):
    votes: int
    time: float
    ratings: dict[str, dict[str, float]]


class History(BaseModel):
    points: list[HistoryPoint]
    through: int


class Erased(BaseModel):
    erased: int


def arena_routes(state: State, settings: ArenaSettings) -> APIRouter:
    """The routes above on `state`."""
    router = new_router(prefix=PATH, tags=["arena"], responses=failures())
    secret = arena_log.server_secret(state)
    boards: dict[str, Board] = {}
    running: Running = {}
    battles = Turnstile(settings.battles, "New battles of one voter")
    votes = Turnstile(settings.votes, "Votes of one voter")
    addresses = Turnstile(settings.address, "Battles and votes from one address")

    def generator() -> np.random.Generator:
        import numpy as np

        return np.random.default_rng(secrets.randbits(128))

    def board_of(request: Request) -> Board:
        tenant = tenant_of(request)
        return boards.setdefault(tenant, Board(state, tenant, settings.prior, settings.leave_out))

    def enter(request: Request, gate: Turnstile) -> Voter:
        voter = voter_of(request, secret)
        addresses.enter(voter.address)
        gate.enter(voter.id)
        return voter

    @router.get("", response_model=Arena)
    async def about(request: Request, response: Response) -> Any:
        voter, names = voter_of(request, secret), service_of(request).names
        remember(response, request, voter)
        votes = await asyncio.to_thread(board_of(request).count)
        voted = await asyncio.to_thread(arena_log.votes_of, state, tenant_of(request), voter.id)
        return {
            "models": sorted(names), "model_count": len(names), "votes": votes, "voted": voted, "prompts": PROMPTS,
            "consent": CONSENT,
        }  # fmt: skip

    @router.post("/battles", status_code=201, response_model=Battle)
    async def begin(request: Request, response: Response, body: NewBattle) -> Any:
        messages = conversation(body.prompt, body.messages)
        if sum(len(str(message["content"])) for message in messages) > LONGEST:
            raise ApiError(400, f"The messages have more than {LONGEST:,} characters; shorten them.", "messages")
        names = service_of(request).names
        if len(names) < 2:
            raise ApiError(503, "The arena needs at least two models, and this server has one.", code="one_model")
        voter = enter(request, battles)
        remember(response, request, voter)
        return await asyncio.to_thread(_begin, request, voter, names, messages, body.language)

    def _begin(request: Request, voter: Voter, names: list[str], messages: list[Any], language: str | None) -> Any:
        a, b = board_of(request).next_pair(names, generator())
        tongue = language or language_of("\n\n".join(str(m["content"]) for m in messages if m["role"] == "user"))
        battle = arena_log.new_battle(state, tenant_of(request), voter.id, tongue, messages, a, b)
        return {"id": battle["id"], "streams": list(arena_log.SIDES), "language": tongue}

    @router.get("/battles/{identity}", response_model=BattleNow)
    def battle_now(request: Request, identity: Identity) -> Any:
        voter = voter_of(request, secret)
        battle = battle_of(request, identity, voter)
        vote = arena_log.find_vote(state, tenant_of(request), identity, voter.id)
        said: list[dict[str, Any]] = [
            {"asked": asked, "replies": {side: None for side in arena_log.SIDES}}
            for asked in arena_log.asked_in(battle)[-arena_log.turn_of(battle) :]
        ]
        for side in arena_log.SIDES:
            for turn, reply in zip(said, arena_log.replies_of(battle, side), strict=False):
                turn["replies"][side] = reply
        shown = None if vote is None else answer_of(request, battle, vote, True)
        return {"id": identity, "language": battle["language"], "turns": said, "vote": shown}

    @router.post("/battles/{identity}/turns", response_model=BegunTurn)
    def turn(request: Request, identity: Identity, body: NewTurn) -> Any:
        conversation(body.prompt, None)
        voter = enter(request, battles)
        battle = battle_of(request, identity, voter)
        whole = [*arena_log.said_to(battle, "a"), *arena_log.said_to(battle, "b")]
        if sum(len(str(message["content"])) for message in whole) / 2 + len(body.prompt) > LONGEST:
            raise ApiError(400, f"The battle has more than {LONGEST:,} characters; begin a new one.", "prompt")
        try:
            begun = arena_log.next_turn(state, tenant_of(request), identity, voter.id, body.turn, body.prompt)
        except VoteRefused as error:
            raise refused(error) from error
        return {"id": identity, "turn": arena_log.turn_of(begun)}

    @router.get("/battles/{identity}/{side}", response_class=Response)
    async def stream(request: Request, identity: Identity, side: Side) -> Any:
        battle = await asyncio.to_thread(battle_of, request, identity, voter_of(request, secret))
        service, caller = service_of(request), caller_of(request)
        return await reply_stream(service, state, battle, side, running, caller, settings.max_tokens)

    def battle_of(request: Request, identity: str, voter: Voter) -> Any:
        try:
            return arena_log.find_battle(state, tenant_of(request), identity, voter.id)
        except VoteRefused as error:
            raise refused(error) from error

    @router.post("/battles/{identity}/votes", status_code=201, response_model=VoteAnswer)
    def vote(request: Request, identity: Identity, body: NewVote) -> Any:
        voter, tenant = enter(request, votes), tenant_of(request)
        names = service_of(request).names
        battle = battle_of(request, identity, voter)
        marks = marks_of(battle, names)
        asked = fingerprint(secret, arena_log.asked_in(battle))
        kept = {**marks, "consent": body.consent, "address": voter.address, "prompt": asked}
        try:
            cast = arena_log.cast_vote(state, tenant, identity, voter.id, body.outcome, kept)
        except VoteRefused as error:
            raise refused(error) from error
        answer = answer_of(request, cast.battle, cast.vote, cast.repeated)
        return JSONResponse(answer, 200 if cast.repeated else 201)

    def answer_of(request: Request, battle: Any, vote: Any, repeated: bool) -> dict[str, Any]:
        leaked = bool(vote["body"]["leaks"])
        return {
            "id": vote["id"], "model_a": battle["model_a"], "model_b": battle["model_b"], "outcome": vote["outcome"],
            "counted": not leaked, "why": "leak" if leaked else None,
            "changes": board_of(request).changes(vote["id"]), "repeated": repeated,
        }  # fmt: skip

    @router.get("/leaderboard", response_model=Leaderboard)
    def leaderboard(request: Request, category: Annotated[str, Query(max_length=64)] = ALL, style: bool = False) -> Any:
        return board_of(request).leaderboard(sorted(service_of(request).names), category, style)

    @router.get("/history", response_model=History)
    def over_time(request: Request) -> Any:
        return board_of(request).history()

    @router.delete("/votes/mine", response_model=Erased)
    def forget(request: Request) -> Any:
        return {"erased": arena_log.erase(state, tenant_of(request), voter_of(request, secret).id)}

    return router


def refused(error: VoteRefused) -> ApiError:
    return ApiError(STATUS[error.code], str(error), code=error.code)
