import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qwill.serve.logs import log_to

log = logging.getLogger("qwill.serve")


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    before = {name: (logging.getLogger(name).handlers, logging.getLogger(name).level, logging.getLogger(name).propagate)
              for name in ("qwill", "uvicorn", "asyncio")}  # fmt: skip
    written = io.StringIO()
    log_to(written)
    yield written
    for name, (handlers, level, propagate) in before.items():
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = handlers, propagate
        logger.setLevel(level)


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_request_is_a_line(stream: io.StringIO) -> None:
    log.info("request", extra={"fields": {"id": "req_1", "key": None, "status": 200, "seconds": 0.5}})
    (line,) = lines(stream)
    assert line.pop("time").endswith("+00:00")
    assert line == {"level": "info", "event": "request", "id": "req_1", "key": None, "status": 200, "seconds": 0.5}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(st.text(), st.text() | st.floats() | st.binary(), max_size=3), st.text())
def test_whatever_is_in_it_stays_one_line_and_its_own_fields(
    stream: io.StringIO, fields: dict[str, Any], event: str
) -> None:
    stream.seek(0)
    stream.truncate()
    log.warning("%s", event, extra={"fields": fields})
    assert stream.getvalue().isascii() and stream.getvalue().count("\n") == 1
    (line,) = lines(stream)
    assert line["event"] == event and line["level"] == "warning"
    assert set(fields) <= set(line)


def test_what_json_cannot_show_costs_the_fields_and_not_the_line(stream: io.StringIO) -> None:
    round_and_round: list[Any] = []
    round_and_round.append(round_and_round)
    log.info("odd", extra={"fields": {"value": round_and_round}})
    assert lines(stream)[0]["fields"] == "can't be shown"


def test_a_bug_brings_its_traceback_on_the_same_line(stream: io.StringIO) -> None:
    try:
        raise ValueError("inside")
    except ValueError:
        log.exception("request")
    (line,) = lines(stream)
    assert line["level"] == "error" and "ValueError: inside" in line["traceback"]


def test_warnings_of_the_libraries_come_in_the_same_form_and_their_chatter_does_not(stream: io.StringIO) -> None:
    logging.getLogger("uvicorn.error").info("Started server process")
    logging.getLogger("uvicorn.error").warning("Invalid HTTP request received.")
    (line,) = lines(stream)
    assert line["logger"] == "uvicorn.error" and line["event"] == "Invalid HTTP request received."


def test_setting_it_up_twice_writes_each_line_once(stream: io.StringIO) -> None:
    again = io.StringIO()
    log_to(again)
    log.info("once")
    assert stream.getvalue() == "" and len(lines(again)) == 1


@pytest.mark.parametrize("asked", [False, True])
def test_prompts_and_replies_are_in_the_log_only_when_asked_for(stream: io.StringIO, asked: bool) -> None:
    from serving import serving

    from qwill.serve.settings import ServeSettings

    body = {"model": "tiny", "messages": [{"role": "user", "content": "a secret word"}], "max_tokens": 4}
    with serving(ServeSettings(log_prompts=asked)) as server:
        said = server.post("/v1/chat/completions", body).json()
        streamed = server.events("/v1/chat/completions", {**body, "stream": True})
    found = {line["id"]: line for line in lines(stream) if line["event"] == "exchange"}
    assert ("a secret word" in stream.getvalue()) is asked
    assert set(found) == ({said["id"], streamed[0]["id"]} if asked else set())
    if asked:
        assert "a secret word" in found[said["id"]]["prompt"] and len(found[said["id"]]["replies"]) == 1
        content = said["choices"][0]["message"]["content"]
        assert found[said["id"]]["replies"][0].strip() == content.strip()
