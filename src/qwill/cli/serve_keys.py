"""`qwill serve keys`: API keys made, listed and revoked."""

from __future__ import annotations

import json
import re
import time
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from qwill.base.errors import ConfigError
from qwill.base.state import close_state, open_state
from qwill.serve.keys import Key, create_key, list_keys, revoke_key
from qwill.serve.limits import Limits

_SECONDS = {"h": 3600, "d": 86400, "w": 7 * 86400}


def create(
    name: str, tenant: str, requests_per_minute: int | None, tokens_per_minute: int | None, concurrent: int | None,
    expires: str | None, state: str | None, as_json: bool,
) -> int:  # fmt: skip
    limits = Limits(requests_per_minute, tokens_per_minute, concurrent)
    opened = open_state(state)
    key, secret = create_key(opened, tenant, name, limits, None if expires is None else when(expires))
    close_state(opened)
    if as_json:
        print(json.dumps(_shown(key) | {"secret": secret}, indent=2, ensure_ascii=False))
    else:
        print(f"key {key.name} of tenant {key.tenant} ({key.id}); this is the only time its secret is shown:")
        print(secret)
    return 0


def ls(tenant: str | None, every: bool, state: str | None, as_json: bool) -> int:
    opened = open_state(state)
    keys = list_keys(opened, tenant, revoked=every)
    close_state(opened)
    if as_json:
        print(json.dumps({"keys": [_shown(key) for key in keys]}, indent=2, ensure_ascii=False))
        return 0
    if not keys:
        print("no keys; `qwill serve keys create` makes one.")
    for key in keys:
        limits = ", ".join(f"{value:,} {what.replace('_', ' ')}" for what, value in asdict(key.limits).items() if value)
        print(f"{key.id}  {key.start}…  {key.tenant}  {key.name}  {limits or 'no limits'}  {_life(key)}")
    return 0


def revoke(reference: str, state: str | None, as_json: bool) -> int:
    opened = open_state(state)
    key = revoke_key(opened, reference)
    close_state(opened)
    if as_json:
        print(json.dumps(_shown(key), indent=2, ensure_ascii=False))
    else:
        print(f"key {key.name} of tenant {key.tenant} is revoked; servers that run refuse it within 5 seconds.")
    return 0


def when(text: str) -> float:
    """Unix seconds of `30d` (h, d, w from now) or of the end of a day such as 2027-01-31, in UTC."""
    if found := re.fullmatch(r"([1-9][0-9]{0,4})([hdw])", text):
        return time.time() + int(found[1]) * _SECONDS[found[2]]
    try:
        day = datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=UTC)
    except ValueError:
        raise ConfigError(f"expires: {text[:30]!r}; expected such as 12h, 30d, 4w or 2027-01-31.") from None
    return day.timestamp() + 86400


def _life(key: Key) -> str:
    if key.revoked is not None:
        return f"revoked {_day(key.revoked)}"
    if key.expires is None:
        return f"since {_day(key.created)}"
    return f"{'expired' if key.expires <= time.time() else 'until'} {_day(key.expires)}"


def _day(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")


def _shown(key: Key) -> dict[str, Any]:
    def text(seconds: float | None) -> str | None:
        return None if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")

    times = {"created": text(key.created), "expires": text(key.expires), "revoked": text(key.revoked)}
    return asdict(key) | times
