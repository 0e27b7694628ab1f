"""Prompts are not kept for ever: battles that nobody voted on are forgotten after a while, on a running server too."""

from __future__ import annotations

import asyncio
import logging
import time

from qwill.base.errors import QwillError
from qwill.base.state import State
from qwill.serve.arena_log import purge

log = logging.getLogger("qwill.serve")
DAY = 86_400_000  # milliseconds
EVERY = 3600.0  # seconds


def purge_older(state: State, days: float, tenant: str | None = None) -> int:
    """Forget battles without a vote in which nothing has happened for so many days; returns how many."""
    return purge(state, round(time.time() * 1000 - days * DAY), tenant)


async def keep_purging(state: State, days: float) -> None:
    """Every hour, from now on, until cancelled; a database that is away for a while is asked again later."""
    while True:
        try:
            count = await asyncio.to_thread(purge_older, state, days)
            if count:
                log.info("arena: forgot battles without a vote", extra={"fields": {"battles": count, "days": days}})
        except QwillError as error:
            log.warning("arena: battles without a vote could not be forgotten", extra={"fields": {"error": str(error)}})
        await asyncio.sleep(EVERY)
