"""Asking our engine and servers: the same questions, letters with their probabilities, and what goes wrong."""

import json
import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.engine.tiny import chat_model
from tests.serve.serving import serving, tiny_build

from qwill.base.errors import ArtifactError, ConfigError, SourceError
from qwill.evaluate import ask_url
from qwill.evaluate.ask import Asking, engine_asker, respondent
from qwill.evaluate.judge import LETTERS, Pair, judge_pairs

TALK = [[{"role": "user", "content": text}] for text in ("Hello", "你好", "Which one is better?")]


def test_our_engine_gives_letters_with_their_probabilities() -> None:
    lm = chat_model()
    answers = engine_asker(lm)(TALK, Asking(letters=LETTERS))
    for talk, answer in zip(TALK, answers, strict=True):
        assert answer.text in LETTERS and answer.error is None
        logits_V = lm.model.logits(torch.tensor([lm.prompt(talk)]))[0, -1, : lm.tokenizer.vocab_size]
        own_V = lm.model.logits(torch.tensor([lm.prompt(talk)]))[0, -1].log_softmax(0)
        ids = {letter: lm.tokenizer.encode(letter)[0] for letter in LETTERS}
        assert answer.text == max(LETTERS, key=lambda letter: logits_V[ids[letter]])
        for letter, value in answer.letters.items():
            assert value == pytest.approx(own_V[ids[letter]].item(), abs=1e-4)
        assert answer.letters


def test_the_same_question_has_the_same_answer_in_any_company() -> None:
    ask = engine_asker(chat_model())
    many = [[{"role": "user", "content": f"{i} " * (i % 7 + 1)}] for i in range(12)]
    together = ask(many, Asking(max_tokens=8, slots=5))
    alone = [ask([one], Asking(max_tokens=8, slots=5))[0] for one in many]
    assert [answer.text for answer in together] == [answer.text for answer in alone]
    letters = ask(many, Asking(letters=LETTERS, slots=3))
    assert [answer.text for answer in letters] == [answer.text for answer in ask(many, Asking(letters=LETTERS))]


def test_a_letter_can_come_after_thinking() -> None:
    (answer,) = engine_asker(chat_model())(TALK[:1], Asking(max_tokens=5, thinking=True, letters=LETTERS))
    assert answer.text in LETTERS and answer.error is None


def test_a_letter_that_was_only_thought_of_is_not_the_verdict() -> None:
    from qwill.engine.request import Event, TokenLogprob
    from qwill.evaluate.ask import _answer

    lm = chat_model()
    ids = {letter: lm.tokenizer.encode(letter)[0] for letter in LETTERS}
    tokens = [
        TokenLogprob(ids["A"], -0.1, 0.0, [(ids["A"], -0.1)]),
        TokenLogprob(ids["B"], -0.2, 0.0, [(ids["B"], -0.2), (ids["C"], -1.5)]),
    ]
    event = Event("0", 0, [ids["A"], ids["B"]], "<think>A</think>\n\nB", tokens, "stop")
    answer = _answer(lm, [1], event, Asking(letters=LETTERS, thinking=True), None)  # type: ignore[arg-type]
    assert answer.text == "B" and answer.letters == {"B": -0.2, "C": -1.5}


def test_what_is_too_long_is_told_and_the_rest_answered() -> None:
    long = [[{"role": "user", "content": "x" * 500}], TALK[0]]
    first, second = engine_asker(chat_model(context=200))(long, Asking(letters=LETTERS))
    assert "context is 200" in (first.error or "") and second.text in LETTERS


def test_our_server_and_our_engine_are_asked_alike() -> None:
    asking = Asking(max_tokens=6)
    ours = engine_asker(chat_model())(TALK, asking)
    with serving(models={"tiny": tiny_build}) as server:
        one = respondent(f"{server.url}/v1")
        theirs = one.ask(TALK, asking)
        judged = judge_pairs(one, [Pair("1", "Say something.", "x", "y"), Pair("2", "说点什么。", "x", "y", "zh")])
    assert one.name == "tiny" and [answer.text for answer in ours] == [answer.text for answer in theirs]
    assert all(judgement.error is None for pair in judged for judgement in (pair.first, pair.second))


class Script(BaseHTTPRequestHandler):
    """Answers in the order of `server.script`; keeps what it was asked."""

    def log_message(self, format: str, *args: Any) -> None: ...

    def do_GET(self) -> None:
        self._say(200, {"data": [{"id": name} for name in self.server.names]})  # type: ignore[attr-defined]

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append((dict(self.headers), body))  # type: ignore[attr-defined]
        self._say(*self.server.answer(body))  # type: ignore[attr-defined]

    def _say(self, status: int, body: Any) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


@contextmanager
def scripted(answer: Any, names: tuple[str, ...] = ("m",)) -> Iterator[Any]:
    server: Any = ThreadingHTTPServer(("127.0.0.1", 0), Script)
    server.answer, server.names, server.asked = answer, names, []
    server.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


def said(text: str, tops: list[dict[str, float]] | None = None) -> tuple[int, Any]:
    tokens = [
        {
            "token": max(top, key=lambda token: top[token]),
            "logprob": max(top.values()),
            "top_logprobs": [{"token": token, "logprob": value} for token, value in top.items()],
        }
        for top in tops or []
    ]
    choice = {"message": {"role": "assistant", "content": text}, "logprobs": {"content": tokens} if tops else None}
    return 200, {"choices": [choice]}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ask_url, "WAIT", 0.0)


def test_probabilities_of_a_server_are_read() -> None:
    tops = [
        {"C": -0.1, "A": -5.0},
        {"\n": -0.1, "A": -5.0},
        {"A": math.log(0.5), " A": math.log(0.1), "B": math.log(0.2), "The": -3.0},
    ]
    with scripted(lambda body: said("<think>hm A</think>\nA", tops)) as server:
        (answer,) = respondent(server.url, "secret").ask(TALK[:1], Asking(letters=LETTERS))
        headers, body = server.asked[0]
    assert answer.text == "A"
    assert answer.letters == pytest.approx({"A": math.log(0.6), "B": math.log(0.2)})
    assert headers["Authorization"] == "Bearer secret" and body["top_logprobs"] == 20 and body["temperature"] == 0
    assert body["messages"] == TALK[0] and body["model"] == "m"


def test_what_a_server_refuses_is_left_out_for_good() -> None:
    def answer(body: Any) -> tuple[int, Any]:
        for name in ("chat_template_kwargs", "seed"):
            if name in body:
                return 400, {"error": {"message": f"Unrecognized request argument: {name}"}}
        return said("B")

    with scripted(answer) as server:
        judge = respondent(server.url)
        assert [a.text for a in judge.ask(TALK, Asking(letters=LETTERS, slots=1))] == ["B"] * 3
        assert len(server.asked) == 3 + 2
        assert server.asked[-1][1]["logprobs"] is True


def test_a_question_that_a_server_refuses_is_told() -> None:
    refusal = (400, {"error": {"message": "This model's maximum context length is 10 tokens."}})
    with scripted(lambda body: refusal if "你好" in body["messages"][0]["content"] else said("A")) as server:
        answers = respondent(server.url).ask(TALK, Asking(letters=LETTERS, slots=1))
    assert [answer.text for answer in answers] == ["A", "", "A"]
    assert "maximum context length is 10 tokens" in (answers[1].error or "")


def test_a_busy_server_is_tried_again_and_a_broken_one_given_up() -> None:
    trouble = [(429, {}), (503, {"error": "loading"}), said("C")]
    with scripted(lambda body: trouble.pop(0)) as server:
        assert respondent(server.url).ask(TALK[:1], Asking())[0].text == "C"
    for answer, words in (
        ((500, {"error": {"message": "boom"}}), "failed 5 times (500: boom); run the same command again"),
        ((200, b"<html>"), "no chat completion"),
        ((401, {"error": {"message": "no key"}}), "answers 401: no key"),
    ):
        with scripted(lambda body, answer=answer: answer) as server, pytest.raises(SourceError) as failure:
            respondent(server.url).ask(TALK[:1], Asking())
        assert words in str(failure.value)


def test_references_that_name_nobody_are_refused(tmp_path: Path) -> None:
    with scripted(lambda body: said("A"), names=("one", "two")) as server:
        with pytest.raises(ConfigError, match="has 2 models"):
            respondent(server.url)
        gone = server.url
    with pytest.raises(SourceError, match="can't be reached"):
        respondent(gone)
    with pytest.raises(ArtifactError):
        respondent(str(tmp_path / "nothing"))
