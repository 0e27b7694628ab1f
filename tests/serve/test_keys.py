import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.base.databases import KINDS, database

from qwill.base.errors import ConfigError
from qwill.base.state import State, close_state, open_state, reading
from qwill.base.state_rows import changes
from qwill.cli.main import main
from qwill.cli.serve_keys import when
from qwill.serve import keys
from qwill.serve.keys import (
    REVOCATION_SECONDS,
    audit,
    create_key,
    find_key,
    has_keys,
    list_keys,
    looks_like_a_key,
    revoke_key,
)
from qwill.serve.limits import Limits


@pytest.fixture(params=KINDS)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    yield from database(request.param, tmp_path)


@pytest.fixture
def state(url: str) -> Iterator[State]:
    opened = open_state(url)
    yield opened
    close_state(opened)


def test_a_key_is_found_by_its_secret_alone(state: State) -> None:
    assert not has_keys(state)
    limits = Limits(60, 1000, 2)
    key, secret = create_key(state, "acme", "ci", limits)
    other, _ = create_key(state, "other", "ci")
    assert find_key(state, secret) == key
    assert (key.tenant, key.name, key.limits, key.expires, key.revoked) == ("acme", "ci", limits, None, None)
    assert secret.startswith(key.start) and len(key.start) == 8
    assert list_keys(state) == [key, other] and list_keys(state, "acme") == [key]
    assert has_keys(state)


def test_nothing_at_rest_tells_the_secret(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = open_state(str(tmp_path / "state.db"))
    key, secret = create_key(state, "acme", "ci")
    assert secret not in repr(key)
    with reading(state) as connection:
        told = repr(changes(connection))
    stored = b"".join(path.read_bytes() for path in tmp_path.iterdir()) + told.encode()
    body = secret[len(keys.PREFIX) :]
    assert key.id.encode() in stored
    assert all(body[i : i + 8].encode() not in stored for i in range(len(body) - 8))


def test_each_secret_is_another_and_has_256_bits(state: State) -> None:
    secrets = {create_key(state, "acme", "ci")[1] for _ in range(20)}
    assert len(secrets) == 20
    assert all(re.fullmatch(r"qwk_[0-9A-Za-z]{49}", secret) for secret in secrets)
    assert 62**43 > 2**256


@given(st.integers(0, 2**256 - 1), st.integers(4, 52), st.sampled_from(keys._DIGITS))
def test_a_mistyped_secret_is_seen_without_the_database(number: int, place: int, typed: str) -> None:
    secret = keys._with_checksum(keys.PREFIX + keys._base62(number, 43))
    assert looks_like_a_key(secret)
    mistyped = secret[:place] + typed + secret[place + 1 :]
    assert looks_like_a_key(mistyped) == (mistyped == secret)


@pytest.mark.parametrize("wrong", ["", "qwk_", "sk-1234", "qwk_" + "a" * 49, "密钥" * 26 + "x", "\ud800" * 53, "a\0b"])
def test_nonsense_is_no_key(state: State, wrong: str) -> None:
    assert find_key(state, wrong) is None


def test_a_well_formed_secret_that_nobody_made_is_no_key(state: State) -> None:
    create_key(state, "acme", "ci")
    assert find_key(state, keys._with_checksum(keys.PREFIX + keys._base62(7, 43))) is None


def test_an_expired_key_is_refused_to_the_second(state: State) -> None:
    now = time.time()
    key, secret = create_key(state, "acme", "ci", expires=now + 100)
    assert key.expires == pytest.approx(now + 100, abs=0.001)
    assert find_key(state, secret, now=now + 99) == key
    assert find_key(state, secret, now=now + 100.5) is None  # though it is still believed to be there
    assert find_key(state, secret, now=now + 1000) is None
    with pytest.raises(ConfigError, match="expires: that time has passed"):
        create_key(state, "acme", "ci", expires=now - 1)


def test_a_revoked_key_is_refused_at_once_here_and_soon_in_another_process(url: str) -> None:
    here, there = open_state(url), open_state(url)
    key, secret = create_key(here, "acme", "ci")
    now = time.time()
    assert find_key(here, secret, now) == find_key(there, secret, now) == key
    revoked = revoke_key(here, key.id)
    assert revoked.revoked is not None and find_key(here, secret, now) is None
    assert find_key(there, secret, now + REVOCATION_SECONDS - 0.01) == key  # the promise is not stricter than that
    assert find_key(there, secret, now + REVOCATION_SECONDS) is None
    assert find_key(there, secret, now + 0.1) is None  # and what was noticed stays noticed
    assert list_keys(here) == [] and list_keys(here, revoked=True) == [revoked]
    assert not has_keys(here)


def test_a_clock_put_back_does_not_make_a_key_believed_for_longer(url: str) -> None:
    here, there = open_state(url), open_state(url)
    key, secret = create_key(here, "acme", "ci")
    assert find_key(there, secret, 5000.0) == key
    revoke_key(here, key.id)
    assert find_key(there, secret, 10.0) is None


def test_the_memory_of_keys_is_bounded(state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys, "_MOST_SEEN", 3)
    made = [create_key(state, "acme", "ci") for _ in range(10)]
    for key, secret in made:
        assert find_key(state, secret) == key
        assert len(keys._seen[state]) <= 3


def test_changes_of_keys_are_written_down_with_who_made_them(state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGNAME", "mei")
    key, secret = create_key(state, "acme", "ci", Limits(60))
    revoke_key(state, secret)
    with reading(state) as connection:
        told = [row._mapping for row in connection.execute(audit.select().order_by(audit.c.id))]
    assert [(row["event"], row["subject"], row["tenant"], row["actor"]) for row in told] == [
        ("key.created", key.id, "acme", "mei"), ("key.revoked", key.id, "acme", "mei"),
    ]  # fmt: skip
    assert told[0]["details"]["limits"]["requests_per_minute"] == 60


def test_what_is_revoked_must_be_one_key(state: State) -> None:
    first, _ = create_key(state, "acme", "ci")
    second, secret = create_key(state, "acme", "ci")
    with pytest.raises(ConfigError, match="2 keys are called 'ci'; give the id"):
        revoke_key(state, "ci")
    with pytest.raises(ConfigError, match="no such key"):
        revoke_key(state, "cd")
    with pytest.raises(ConfigError) as caught:
        revoke_key(state, keys._with_checksum(keys.PREFIX + keys._base62(7, 43)))
    assert len(str(caught.value)) < 100  # a secret isn't repeated whole
    assert revoke_key(state, first.id[:35]).id in (first.id, second.id)
    assert revoke_key(state, "ci").revoked is not None
    assert find_key(state, secret) is None or list_keys(state) == []


@pytest.mark.parametrize("name", ["", "  ", "x" * 201, "a\nb", "a\0", "\ud800"])
def test_names_that_no_list_can_show_are_refused(state: State, name: str) -> None:
    with pytest.raises(ConfigError, match="expected 1 to 200 printable"):
        create_key(state, "acme", name)
    with pytest.raises(ConfigError, match="tenant"):
        create_key(state, name, "ci")


def test_the_command_makes_lists_and_revokes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("QWILL_HOME", str(tmp_path))
    monkeypatch.delenv("QWILL_STATE", raising=False)

    def said(*words: str) -> str:
        assert main(["serve", "keys", *words]) == 0
        return capsys.readouterr().out

    secret = said("create").splitlines()[-1]
    options = ["--tenant", "acme", "--tokens-per-minute", "900", "--expires", "2d", "--json"]
    made = json.loads(said("create", "ci", *options))
    assert made["limits"] == {"requests_per_minute": None, "tokens_per_minute": 900, "concurrent": None}
    state = open_state()
    found = find_key(state, secret)
    assert found is not None and (found.tenant, found.name) == ("local", "default")
    assert find_key(state, made["secret"]) is not None
    listed = said("ls")
    assert "900 tokens per minute" in listed and "no limits" in listed and secret not in listed
    assert [key["id"] for key in json.loads(said("ls", "--tenant", "acme", "--json"))["keys"]] == [made["id"]]
    assert "is revoked" in said("revoke", "ci")
    assert made["id"] not in said("ls") and "revoked" in said("ls", "--all")
    assert main(["serve", "keys", "revoke", "ci"]) == 2
    assert "no such key" in capsys.readouterr().err
    assert main(["serve", "keys", "ls", "--state", "mysql://x/y"]) == 2
    assert "neither a file nor PostgreSQL" in capsys.readouterr().err


def test_a_process_that_serves_sees_what_another_has_made_and_revoked(tmp_path: Path) -> None:
    state = open_state(str(tmp_path / "state.db"))
    command = [sys.executable, "-m", "qwill.cli.main", "serve", "keys"]
    environment = os.environ | {"QWILL_HOME": str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path)}
    environment.pop("QWILL_STATE", None)
    done = subprocess.run([*command, "create", "--json"], capture_output=True, text=True, env=environment, check=True)
    secret, now = json.loads(done.stdout)["secret"], time.time()
    assert find_key(state, secret, now) is not None
    subprocess.run([*command, "revoke", "default"], capture_output=True, env=environment, check=True)
    assert find_key(state, secret, now + REVOCATION_SECONDS) is None


def test_times_as_people_write_them() -> None:
    assert when("12h") == pytest.approx(time.time() + 12 * 3600, abs=5)
    assert when("4w") == pytest.approx(time.time() + 28 * 86400, abs=5)
    assert when("2027-01-31") == 1801440000  # the first second of 1 February, UTC
    for wrong in ("", "0d", "-1d", "3y", "2027-02-30", "soon", "31.1.2027"):
        with pytest.raises(ConfigError, match="expires: "):
            when(wrong)
