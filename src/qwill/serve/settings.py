"""How a server is run: what `qwill serve` takes on its command line."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

from qwill.base.errors import ConfigError


@dataclass(frozen=True)
class ArenaSettings:
    """`prior`: of the leaderboard's ratings (fit_ratings); 0 leaves models that can't be compared unrated. `battles`,
    `votes`: the most of one voter in a minute, `address` of both that come from one address; None: no limit.
    `max_tokens` of a reply; None: as many as the models' own settings say. `leave_out`: votes of voters who seem to act
    together don't count in ratings. `keep_days`: battles that nobody voted on are forgotten after so many days; None:
    never."""

    prior: float = 0.1
    battles: int | None = 20
    votes: int | None = 30
    address: int | None = 240
    max_tokens: int | None = None
    leave_out: bool = True
    keep_days: float | None = 30.0


@dataclass(frozen=True)
class ServeSettings:
    """`waiting`: requests beyond those running that may stand in the queue of a model. `seconds`: the longest that one
    request may take. `drain`: what running streams get to end by themselves when the server stops. `origins`: sites
    whose pages may call this server (CORS). `log_prompts`: prompts and replies go into the log. `adapter_loading`:
    clients may load adapters from folders of this machine. `arena`: the models meet in battles (arena_routes.py)."""

    host: str = "127.0.0.1"
    port: int = 8000
    api_key_required: bool = False
    state: str | None = None
    thinking: bool = False
    body_bytes: int = 16 << 20
    waiting: int = 256
    seconds: float = 900.0
    upload_seconds: float = 60.0
    drain: float = 10.0
    origins: tuple[str, ...] = ()
    log_prompts: bool = False
    page: bool = True
    adapter_loading: bool = False
    arena: ArenaSettings | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.port < 65536:
            raise ConfigError(f"port is {self.port}: it must be from 0 (any that is free) to 65535")
        for name in ("body_bytes", "waiting", "seconds", "upload_seconds"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"{name} is {getattr(self, name)}: it must be above 0")

    @property
    def local(self) -> bool:
        """Whether only programs on this machine can reach the server."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    @property
    def needs_key(self) -> bool:
        """Keys are asked for when told so, and always when others than this machine can reach the server."""
        return self.api_key_required or not self.local
