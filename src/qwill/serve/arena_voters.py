"""Who votes: pseudonyms for people and addresses, and how much each may do in a minute.

A voter is an API key where keys are asked for, else a random cookie. The log knows both only under a hash with a secret
of the database (HMAC-SHA256), so that nobody who reads it can find out whose a vote is, nor try out addresses; an
address gets another pseudonym each day.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import re
import secrets
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from fastapi import Request, Response

from qwill.serve.access import caller_of
from qwill.serve.errors import ApiError
from qwill.serve.limits import Limits, Meter, check, finish

COOKIE = "qwill_voter"
PATH = "/qwill/arena"
YEAR = 365 * 86400
_COOKIE = re.compile(r"[A-Za-z0-9_-]{32}")
_MOST_METERS = 20_000

clock = time.monotonic_ns


@dataclass(frozen=True)
class Voter:
    """`id` and `address` are pseudonyms; `cookie` is one that the answer must set, None where there is no need."""

    id: str
    address: str
    cookie: str | None


def voter_of(request: Request, secret: bytes, now: float | None = None) -> Voter:
    """Who sends a request. now: Unix seconds; decides the day of the address's pseudonym."""
    caller, cookie = caller_of(request), None
    if caller is not None:
        who = f"key:{caller.key.id}"
    else:
        sent = request.cookies.get(COOKIE, "")
        cookie = None if _COOKIE.fullmatch(sent) else secrets.token_urlsafe(24)
        who = f"cookie:{cookie or sent}"
    day = int((time.time() if now is None else now) // 86400)
    return Voter("v_" + _hash(secret, who), "n_" + _hash(secret, f"{day}:{network_of(request)}"), cookie)


def remember(response: Response, request: Request, voter: Voter) -> None:
    """Give the browser the cookie that it didn't have. No script can read it, and no other site's page sends it."""
    if voter.cookie is not None:
        response.set_cookie(
            COOKIE, voter.cookie, max_age=YEAR, path=PATH, httponly=True, samesite="strict",
            secure=request.url.scheme == "https",
        )  # fmt: skip


def fingerprint(secret: bytes, asked: Sequence[str]) -> str:
    """What was asked under the secret's hash, capitals and white space apart: the same for all who asked it."""
    said = [" ".join(text.casefold().split()) for text in asked]
    return "p_" + _hash(secret, "prompt:" + "\n".join(said))


def network_of(request: Request) -> str:
    """The address of the sender, of IPv6 the /64 that one customer has; headers that anybody can write don't count."""
    host = request.client.host if request.client else ""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    return host if address.version == 4 else str(ipaddress.ip_network((address, 64), strict=False))


@dataclass
class Turnstile:
    """Counts what voters and addresses do against a limit a minute; None: without limit. Any thread may use it."""

    per_minute: int | None
    what: str
    meters: dict[str, Meter] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def enter(self, who: str) -> None:
        """Raises ApiError 429 with the seconds to wait."""
        if self.per_minute is None:
            return
        with self.lock:
            now = clock()
            if len(self.meters) >= _MOST_METERS:
                self._forget(now)
            meter = self.meters.setdefault(who, Meter(Limits(requests_per_minute=self.per_minute)))
            wait = check(meter, 0, now)
            if wait is None:
                finish(meter, 0, 0, now)  # it is counted by the minute, not while it runs
        if wait is not None:
            text = f"{self.what}: at most {self.per_minute} a minute here; try again in {wait} s."
            raise ApiError(429, text, code="rate_limit_exceeded", retry_after=wait)

    def _forget(self, now: int) -> None:
        """Drop the meters that are full again: a new one would be the same."""
        rested = now - 60_000_000_000
        self.meters = {who: meter for who, meter in self.meters.items() if (meter.at_ns or 0) > rested}


def _hash(secret: bytes, text: str) -> str:
    return hmac.new(secret, text.encode(), hashlib.sha256).hexdigest()[:32]
