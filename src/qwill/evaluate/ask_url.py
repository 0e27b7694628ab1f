"""Conversations put to an OpenAI-compatible server."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from qwill.base.errors import ConfigError, SourceError
from qwill.evaluate.ask import LETTER_TOKENS, Answer, Asker, Asking, Conversation, Respondent

if TYPE_CHECKING:
    import httpx

TIMEOUT = 600.0  # seconds for one reply
TRIES = 5
WAIT = 1.0  # seconds before the second try, doubled each time
TOP = 20  # alternatives beside a token, the most that OpenAI's API gives
# What some servers refuse: each is left out for good once a request without it is taken.
OPTIONAL = ("chat_template_kwargs", "seed", "top_logprobs")


def url_respondent(reference: str, api_key: str | None = None, seconds: float | None = None) -> Respondent:
    """URL or URL#MODEL; without a model the server must have exactly one. `api_key` goes into the header
    Authorization. `seconds`: for one conversation, all tries together. Raises SourceError where the server can't be
    reached or refuses."""
    import httpx

    url, _, model = reference.partition("#")
    url = url.rstrip("/")
    headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
    try:
        client = httpx.Client(base_url=url, headers=headers, timeout=httpx.Timeout(TIMEOUT, connect=10.0))
    except (httpx.InvalidURL, ValueError) as error:
        raise ConfigError(f"{url} is no URL ({error}); expected one such as http://127.0.0.1:8000/v1.") from None
    model = model or _only_model(client, url)
    return Respondent(model, f"{url}#{model}", _asker(client, url, model, seconds))


def _only_model(client: httpx.Client, url: str) -> str:
    answer = _send(client, url, "GET", "/models")
    try:
        names = [str(model["id"]) for model in answer.json()["data"]]
    except (ValueError, KeyError, TypeError):
        raise SourceError(f"{url}/models holds no list of models; is this an OpenAI-compatible server?") from None
    if len(names) != 1:
        raise ConfigError(f"{url} has {len(names)} models ({', '.join(names[:8])}); name one as {url}#MODEL.")
    return names[0]


def _asker(client: httpx.Client, url: str, model: str, seconds: float | None) -> Asker:
    left_out: set[str] = set()

    def one(conversation: Conversation, asking: Asking) -> Answer:
        answer = None
        end = None if seconds is None else time.monotonic() + seconds
        for more in (None, *OPTIONAL):
            missing = left_out | (set(OPTIONAL[: OPTIONAL.index(more) + 1]) if more else set())
            answer = _send(client, url, "POST", "/chat/completions", _body(model, conversation, asking, missing), end)
            if answer.status_code not in (400, 422):
                left_out.update(missing)
                break
        assert answer is not None
        if answer.status_code in (400, 413, 422):
            return Answer(error=f"{url} refused: {_said(answer)}")
        return _read(answer, url, asking)

    def ask(conversations: Sequence[Conversation], asking: Asking) -> list[Answer]:
        with ThreadPoolExecutor(max_workers=asking.slots) as pool:
            return list(pool.map(lambda conversation: one(conversation, asking), conversations))

    return ask


def _body(model: str, conversation: Conversation, asking: Asking, missing: set[str]) -> dict[str, Any]:
    tokens = asking.max_tokens
    if asking.letters:
        tokens = asking.max_tokens + LETTER_TOKENS if asking.thinking else LETTER_TOKENS
    body: dict[str, Any] = {
        "model": model,
        "messages": [dict(message) for message in conversation],
        "max_tokens": tokens,
        "temperature": asking.temperature,
        "seed": asking.seed,
        "chat_template_kwargs": {"enable_thinking": asking.thinking},
    }
    if asking.letters:
        body |= {"logprobs": True, "top_logprobs": TOP}
    if "top_logprobs" in missing:
        body.pop("logprobs", None)
    return {name: value for name, value in body.items() if name not in missing}


def _send(
    client: httpx.Client,
    url: str,
    method: str,
    path: str,
    body: dict[str, Any] | None = None,
    end: float | None = None,
) -> httpx.Response:
    """The answer, when it is one about this request: a server that is busy or away is tried again, until `end` of the
    monotonic clock."""
    import httpx

    trouble, wait, timeout = "no time was left", WAIT, httpx.Timeout(TIMEOUT, connect=10.0)
    for attempt in range(TRIES):
        if attempt:
            if end is not None and time.monotonic() + wait >= end:
                break
            time.sleep(wait)
            wait *= 2
        if end is not None:
            if (left := end - time.monotonic()) <= 0:
                break
            timeout = httpx.Timeout(min(TIMEOUT, left), connect=min(10.0, left))
        try:
            answer = client.request(method, path, json=body, timeout=timeout)
        except httpx.ConnectError as error:
            raise SourceError(f"{url} can't be reached ({error}); is the server running?") from None
        except httpx.HTTPError as error:
            trouble = str(error) or type(error).__name__
            continue
        if answer.status_code in (401, 403, 404):
            raise SourceError(f"{url}{path} answers {answer.status_code}: {_said(answer)}; check URL, model and key.")
        if answer.status_code != 429 and answer.status_code < 500:
            return answer
        trouble = f"{answer.status_code}: {_said(answer)}"
    if end is not None:
        raise SourceError(f"{url} gave no answer in its time ({trouble}).")
    raise SourceError(f"{url} failed {TRIES} times ({trouble}); run the same command again to go on.")


def _said(answer: httpx.Response) -> str:
    try:
        found = answer.json()["error"]
        return str(found["message"] if isinstance(found, dict) else found)[:300].rstrip(".")
    except (ValueError, KeyError, TypeError):
        return answer.text[:300].strip() or answer.reason_phrase


def _read(answer: httpx.Response, url: str, asking: Asking) -> Answer:
    try:
        choice = answer.json()["choices"][0]
        text = choice["message"].get("content") or ""
        tokens = (choice.get("logprobs") or {}).get("content") or []
        letters = _letters(tokens, asking.letters) if asking.letters else {}
    except (ValueError, KeyError, TypeError, IndexError, AttributeError):
        raise SourceError(f"{url} answered {answer.text[:120]!r}, which is no chat completion.") from None
    # Some servers leave the thinking in the content.
    return Answer(text.rpartition("</think>")[2].strip(), letters)


def _letters(tokens: Sequence[dict[str, Any]], letters: Sequence[str]) -> dict[str, float]:
    """At the last token that is a letter: each letter's log-probability, all its spellings (with a space) together."""
    place = [token for token in tokens if token["token"].strip() in letters]
    if not place:
        return {}
    chances: dict[str, float] = {}
    seen = set()
    for top in [*(place[-1].get("top_logprobs") or []), place[-1]]:
        letter, value = top["token"].strip(), float(top["logprob"])
        if letter in letters and top["token"] not in seen and math.isfinite(value):
            seen.add(top["token"])
            chances[letter] = chances.get(letter, 0.0) + math.exp(value)
    return {letter: math.log(chance) for letter, chance in chances.items() if chance > 0}
