"""Who may come in, with what, and what is answered to those who may not."""

import json
import logging
import time

import httpx
import pytest
from serving import Server, serving

from qwill.serve.settings import ServeSettings

ASK = {"model": "tiny", "messages": [{"role": "user", "content": "x"}], "max_tokens": 2}
CHAT = "/v1/chat/completions"


def error_of(answer: httpx.Response) -> dict:
    found = answer.json()["error"]
    assert set(found) == {"message", "type", "param", "code"}
    return found


def test_request_ids_are_the_clients_where_they_are_harmless(server: Server) -> None:
    assert server.client.get("/health", headers={"x-request-id": "mine-1"}).headers["x-request-id"] == "mine-1"
    for bad in ("a b", "x" * 200, "{}"):
        made = server.client.get("/health", headers={"x-request-id": bad}).headers["x-request-id"]
        assert made != bad and made.startswith("req_")


@pytest.mark.parametrize("body", [b"{", b'{"model": NaN}', b"\xff", b"[" * 100_000, b"", b"null", b"[1]", b'"x"'])
def test_what_is_no_json_object_is_400(server: Server, body: bytes) -> None:
    answer = server.client.post(CHAT, content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 400
    error_of(answer)


def test_other_content_types_are_refused(server: Server) -> None:
    """A page of another site can send text/plain without asking; it must not reach the model."""
    text = json.dumps(ASK)
    for kind in ("text/plain", "application/x-www-form-urlencoded"):
        assert server.client.post(CHAT, content=text, headers={"content-type": kind}).status_code == 415


def test_names_that_are_not_this_machines_are_refused_without_keys(server: Server) -> None:
    answer = server.client.get("/v1/models", headers={"host": "evil.example:8000"})
    assert answer.status_code == 421
    error_of(answer)
    assert server.client.get("/v1/models", headers={"host": "localhost:1"}).status_code == 200


def test_unknown_routes_and_methods_have_the_shape(server: Server) -> None:
    assert error_of(server.client.get("/v1/nothing"))["type"] == "not_found_error"
    answer = server.client.get(CHAT)
    assert answer.status_code == 405 and answer.headers["allow"] == "POST"
    error_of(answer)


def test_no_other_site_is_let_in_by_default(server: Server) -> None:
    asked = {"origin": "https://other.example", "access-control-request-method": "POST"}
    assert "access-control-allow-origin" not in server.client.options(CHAT, headers=asked).headers
    assert "access-control-allow-origin" not in server.client.get("/v1/models", headers=asked).headers


def test_sites_that_are_named_are_let_in_and_large_bodies_are_not() -> None:
    with serving(ServeSettings(origins=("https://mine.example",), body_bytes=5000)) as server:
        asked = {"origin": "https://mine.example", "access-control-request-method": "POST"}
        assert server.client.options(CHAT, headers=asked).headers["access-control-allow-origin"] == asked["origin"]
        long = dict(ASK, messages=[{"role": "user", "content": "x" * 6000}])
        answer = server.post(CHAT, long)
        assert answer.status_code == 413 and "5,000" in error_of(answer)["message"]

        def pieces():
            for _ in range(100):
                yield b" " * 100

        answer = server.client.post(CHAT, content=pieces(), headers={"content-type": "application/json"})
        assert answer.status_code == 413, "a body without a length is counted as it comes"
        assert server.post(CHAT, ASK).status_code == 200


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory):
    from qwill.base.state import open_state

    state = open_state(f"sqlite:///{tmp_path_factory.mktemp('state') / 'state.db'}")
    with serving(ServeSettings(api_key_required=True), state=state) as server:
        yield server


def key(server: Server, **limits: int) -> dict[str, str]:
    from qwill.serve.keys import create_key
    from qwill.serve.limits import Limits

    _, secret = create_key(server.state, "acme", "test", Limits(**limits))
    return {"authorization": f"Bearer {secret}"}


def test_without_a_right_key_only_health_answers(guarded: Server) -> None:
    for path in ("/v1/models", "/metrics", "/tokenizer_info", "/qwill/stats", "/v1/nothing"):
        assert guarded.client.get(path).status_code == 401
    wrong = guarded.client.get("/v1/models", headers={"authorization": "Bearer qwk_wrong"})
    assert wrong.status_code == 401 and error_of(wrong)["code"] == "invalid_api_key"
    assert wrong.headers["www-authenticate"] == "Bearer"
    assert guarded.post("/v1/messages", {}).json()["error"]["type"] == "authentication_error"
    assert guarded.client.get("/health").status_code == 200
    assert guarded.post(CHAT, ASK, headers=key(guarded)).status_code == 200
    secret = key(guarded)["authorization"].removeprefix("Bearer ")
    assert guarded.client.get("/v1/models", headers={"x-api-key": secret}).status_code == 200


def test_a_keys_limits_are_kept(guarded: Server) -> None:
    headers = key(guarded, requests_per_minute=2)
    assert [guarded.post(CHAT, ASK, headers=headers).status_code for _ in range(3)] == [200, 200, 429]
    refused = guarded.post(CHAT, ASK, headers=headers)
    assert 1 <= int(refused.headers["retry-after"]) <= 60 and error_of(refused)["type"] == "rate_limit_error"
    small = key(guarded, tokens_per_minute=50)
    answer = guarded.post(CHAT, ASK | {"max_tokens": 500}, headers=small)
    assert answer.status_code == 400 and error_of(answer)["code"] == "tokens_per_minute"


def test_what_was_reserved_and_not_used_is_given_back(guarded: Server) -> None:
    ids = [1, 2, 3]
    headers = key(guarded, tokens_per_minute=100, concurrent=1)
    ask = {"model": "tiny", "prompt": ids, "max_tokens": 60, "stop": [chr(0x10FFFF)], "temperature": 0}
    one = {"model": "tiny", "prompt": ids, "max_tokens": 1}
    statuses = [guarded.post("/v1/completions", one, headers=headers).status_code for _ in range(8)]
    assert statuses == [200] * 8, "8 requests of 4 tokens fit, one after the other"
    assert guarded.post("/v1/completions", ask, headers=headers).status_code == 200


def test_the_log_says_who_asked_what_and_never_the_prompt(guarded: Server, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "qwill.serve"):
        guarded.post("/v1/completions", {"model": "tiny", "prompt": "sesame", "max_tokens": 1}, headers=key(guarded))
        # The line is written once the answer is out, by the server's thread.
        end = time.monotonic() + 20
        while not (lines := [r.fields for r in caplog.records if r.getMessage() == "request"]):
            assert time.monotonic() < end, "nothing was logged"
            time.sleep(0.01)
    assert lines[-1]["status"] == 200 and lines[-1]["path"] == "/v1/completions" and lines[-1]["key"]
    assert "sesame" not in str(lines)


def test_metrics_count(server: Server) -> None:
    def value(name: str) -> float:
        lines = server.client.get("/metrics").text.splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name + "{"))

    before = [
        value(n) for n in ("vllm:prompt_tokens_total", "vllm:generation_tokens_total", "vllm:request_success_total")
    ]
    used = server.post(CHAT, ASK).json()["usage"]
    after = [
        value(n) for n in ("vllm:prompt_tokens_total", "vllm:generation_tokens_total", "vllm:request_success_total")
    ]
    want = [used["prompt_tokens"], used["completion_tokens"], 1]
    assert [b - a for a, b in zip(before, after, strict=True)] == want
    assert value("vllm:num_requests_running") == 0
    assert server.client.get("/qwill/stats").json()["tokens_per_second"] > 0


def test_models_are_listed_and_found(server: Server) -> None:
    (model,) = server.client.get("/v1/models").json()["data"]
    assert model["id"] == "tiny" and model["max_model_len"] == 2000 and model["parent"] is None
    assert server.client.get("/v1/models/tiny").json() == model
    assert server.client.get("/v1/models/none").status_code == 404
