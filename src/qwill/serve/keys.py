"""API keys: made, found, listed, revoked. Each belongs to a tenant, whose rows in the state database it reaches.

A secret is `qwk_`, 256 random bits and a checksum (both in base 62): recognisable to people and secret scanners, and a
mistyped one is refused without a look into the database; GitHub's tokens have that form ("Behind GitHub's new
authentication token formats", 2021). At rest there is only its SHA-256. A slow, salted hash is for passwords, which can
be guessed; a random secret of at least 112 bits may be kept under any approved one-way function (NIST SP 800-63B,
section 5.1.2.2), and a quick one lets every request be checked.
"""

from __future__ import annotations

import getpass
import hashlib
import hmac
import os
import secrets
import time
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any
from weakref import WeakKeyDictionary

import sqlalchemy as sa

from qwill.base.errors import ConfigError
from qwill.base.state import State, reading, writing
from qwill.base.state_rows import Transaction, delete, insert, table, unstorable
from qwill.serve.limits import Limits

LOCAL = "local"  # the tenant of a server without keys
PREFIX = "qwk_"
REVOCATION_SECONDS = 5.0  # a key that another process has revoked is refused after this time at the latest
_DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_SECRET_DIGITS, _CHECK_DIGITS = 43, 6  # 62**43 > 2**256, 62**6 > 2**32
_MOST_SEEN = 10_000

api_keys = table(
    "api_keys",
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("start", sa.String(20), nullable=False),
    sa.Column("digest", sa.String(64), nullable=False, unique=True),
    sa.Column("limits", sa.JSON, nullable=False),
    sa.Column("expires", sa.BigInteger),
)

audit = table(
    "audit",
    sa.Column("event", sa.Text, nullable=False),
    sa.Column("subject", sa.String(36), nullable=False),
    sa.Column("actor", sa.Text, nullable=False),
    sa.Column("details", sa.JSON, nullable=False),
)


@dataclass(frozen=True)
class Key:
    """start: the secret's first characters, to tell keys apart. Times: Unix seconds, None for never."""

    id: str
    tenant: str
    name: str
    start: str
    limits: Limits
    created: float
    expires: float | None
    revoked: float | None


# Keys found a short while ago: database → digest of the secret → (when, key).
_seen: WeakKeyDictionary[State, dict[str, tuple[float, Key]]] = WeakKeyDictionary()


def create_key(
    state: State, tenant: str, name: str, limits: Limits | None = None, expires: float | None = None
) -> tuple[Key, str]:
    """A new key and its secret, which can't be had again. expires: Unix seconds; ConfigError where that is past."""
    for what, value in (("tenant", tenant), ("name", name)):
        if not value.strip() or len(value) > 200 or not value.isprintable() or unstorable(value):
            raise ConfigError(f"{what}: {value[:50]!r} won't do; expected 1 to 200 printable characters.")
    if expires is not None and expires <= time.time():
        raise ConfigError("expires: that time has passed; give one to come.")
    secret = _with_checksum(PREFIX + _base62(secrets.randbits(256), _SECRET_DIGITS))
    values = {
        "name": name, "start": secret[:8], "digest": _digest(secret), "limits": asdict(limits or Limits()),
        "expires": None if expires is None else round(expires * 1000),
    }  # fmt: skip
    with writing(state) as db:
        key = _key(insert(db, api_keys, tenant, values))
        _note(db, "key.created", key)
    return key, secret


def find_key(state: State, secret: str, now: float | None = None) -> Key | None:
    """The living key with this secret; None for one that is unknown, revoked or expired.

    A key once found is believed for REVOCATION_SECONDS, unless this process has revoked it. now: Unix seconds.
    """
    moment = time.time() if now is None else now
    if not looks_like_a_key(secret):
        return None
    digest = _digest(secret)
    seen = _seen.setdefault(state, {})
    when, key = seen.get(digest, (0.0, None))
    if key is None or not 0 <= moment - when < REVOCATION_SECONDS:
        seen.pop(digest, None)
        with reading(state) as connection:
            found = connection.execute(
                api_keys.select().where(api_keys.c.digest == digest, api_keys.c.deleted.is_(None))
            ).one_or_none()
        # The database has compared with its own means; this comparison takes the same time wherever two digests differ.
        if found is None or not hmac.compare_digest(found.digest, digest):
            return None
        key = _key(found._mapping)
        if len(seen) >= _MOST_SEEN:
            seen.clear()
        seen[digest] = moment, key
    return key if key.expires is None or moment < key.expires else None


def list_keys(state: State, tenant: str | None = None, revoked: bool = False) -> list[Key]:
    """The keys of a tenant (None: of all), oldest first; `revoked` ones too on request, expired ones always."""
    query = api_keys.select().order_by(api_keys.c.id)
    if tenant is not None:
        query = query.where(api_keys.c.tenant == tenant)
    if not revoked:
        query = query.where(api_keys.c.deleted.is_(None))
    with reading(state) as connection:
        return [_key(found._mapping) for found in connection.execute(query)]


def revoke_key(state: State, reference: str) -> Key:
    """Revoke the living key with this id, name or secret, or whose id begins so; requests that run go on to their end.

    Raises ConfigError when there is no such key, or more than one.
    """
    keys = list_keys(state)
    digest = _digest(reference)
    with reading(state) as connection:
        by_secret = connection.execute(sa.select(api_keys.c.id).where(api_keys.c.digest == digest)).scalar_one_or_none()
    found = [key for key in keys if reference in (key.id, key.name) or key.id == by_secret]
    found = found or [key for key in keys if len(reference) >= 8 and key.id.startswith(reference)]
    if len(found) != 1:
        shown = f"{reference[:8]}…" if reference.startswith(PREFIX) else repr(reference[:50])
        raise ConfigError(
            f"{len(found)} keys are called {shown}; give the id of one." if found
            else f"{shown}: no such key; `qwill serve keys ls` shows those there are."
        )  # fmt: skip
    key = found[0]
    with writing(state) as db:
        if delete(db, api_keys, key.tenant, key.id):
            _note(db, "key.revoked", key)
    seen = _seen.get(state, {})
    for digest, (_, other) in list(seen.items()):
        if other.id == key.id:
            seen.pop(digest, None)
    return next(known for known in list_keys(state, key.tenant, revoked=True) if known.id == key.id)


def has_keys(state: State) -> bool:
    """Whether any key is there that is not revoked."""
    with reading(state) as connection:
        query = sa.select(api_keys.c.id).where(api_keys.c.deleted.is_(None)).limit(1)
        return connection.execute(query).one_or_none() is not None


def looks_like_a_key(secret: str) -> bool:
    """Whether the form and the checksum are right."""
    body = secret[:-_CHECK_DIGITS]
    return (
        len(secret) == len(PREFIX) + _SECRET_DIGITS + _CHECK_DIGITS
        and secret.startswith(PREFIX)
        and secret.isascii()
        and secret == _with_checksum(body)
    )


def _key(row: Mapping[Any, Any]) -> Key:
    def seconds(milliseconds: int | None) -> float | None:
        return None if milliseconds is None else milliseconds / 1000

    return Key(
        id=row["id"], tenant=row["tenant"], name=row["name"], start=row["start"], limits=Limits(**row["limits"]),
        created=row["created"] / 1000, expires=seconds(row["expires"]), revoked=seconds(row["deleted"]),
    )  # fmt: skip


def _note(db: Transaction, what: str, key: Key) -> None:
    """Who changed a key, in the transaction that does."""
    try:
        actor = getpass.getuser()
    except (KeyError, OSError):
        actor = f"uid {os.getuid()}"  # a container's user may have no name
    details = {"name": key.name, "start": key.start, "limits": asdict(key.limits), "expires": key.expires}
    insert(db, audit, key.tenant, {"event": what, "subject": key.id, "actor": actor, "details": details})


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode(errors="surrogatepass")).hexdigest()


def _with_checksum(body: str) -> str:
    return body + _base62(zlib.crc32(body.encode(errors="surrogatepass")), _CHECK_DIGITS)


def _base62(number: int, digits: int) -> str:
    text = ""
    for _ in range(digits):
        number, digit = divmod(number, 62)
        text = _DIGITS[digit] + text
    return text
