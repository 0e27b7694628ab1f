"""`qwill serve --speculate`: replies are those without, and /metrics counts what was drafted and what came."""

import json
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from serving import Server, serving
from tests.engine.tiny import byte_tokenizer, redrawn

import qwill.cli.serve as serve_command
from qwill.base.errors import ConfigError
from qwill.cli.main import qwill
from qwill.engine.engine_settings import DraftSpec, MtpSpec, NgramSpec
from qwill.model.config import ModelConfig
from qwill.model.files import save_model
from qwill.serve.engine_process import EngineOptions, load_engine

sys.path.insert(0, str(Path(__file__).parents[1] / "engine"))

COUNTED = ("vllm:spec_decode_num_draft_tokens_total", "vllm:spec_decode_num_accepted_tokens_total")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A hybrid model with a head that is right now and then, the same without one, and one that drafts for them."""
    from test_ahead import CONFIGS, knowing

    place, tokenizer = tmp_path_factory.mktemp("models"), byte_tokenizer()
    model = knowing("hybrid", tokenizer.padded_vocab_size, noise=0.1)
    headless = redrawn(CONFIGS["hybrid"].with_(mtp_layers=0, vocab_size=tokenizer.padded_vocab_size), 1)
    headless.load_state_dict({k: v for k, v in model.state_dict().items() if not k.startswith("mtp.")})
    for name, made in (("model", model), ("headless", headless)):
        save_model(made, place / name, tokenizer)
    with torch.no_grad():
        for p in headless.layers.parameters():
            p.mul_(0.9)
    save_model(headless, place / "small", tokenizer)
    return {name: place / name for name in ("model", "headless", "small")}


@pytest.fixture(scope="module")
def server(folders: dict[str, Path]) -> Iterator[Server]:
    ways = {"plain": None, "ngram": NgramSpec(), "draft": DraftSpec(str(folders["small"])), "mtp": MtpSpec()}
    models = {
        name: partial(
            load_engine,
            EngineOptions(str(folders["model"]), threads=1, engine={"memory": 8 << 20, "speculate": spec}),
        )
        for name, spec in ways.items()
    }
    with serving(models=models) as running:
        yield running


def counted(server: Server, model: str) -> list[float]:
    lines = server.client.get("/metrics").text.splitlines()
    for name in COUNTED:
        assert f"# TYPE {name} counter" in lines
    starts = [f'{name}{{model_name="{model}"' for name in COUNTED]
    return [float(line.split()[-1]) for start in starts for line in lines if line.startswith(start)]


@pytest.mark.parametrize("way", ["ngram", "draft", "mtp"])
def test_replies_are_those_without_and_drafts_are_counted(server: Server, way: str) -> None:
    body = {"prompt": "abcabcabc", "max_tokens": 60, "temperature": 0, "stop": ["@@"], "logprobs": 1}
    before, replies = counted(server, way), {}
    for model in ("plain", way):
        for prompt in ("abcabcabc", "once upon a time, once upon a", "abcabcabc, again"):
            answer = server.post("/v1/completions", {**body, "model": model, "prompt": prompt})
            assert answer.status_code == 200, answer.text
            replies.setdefault(model, []).append((answer.json()["choices"][0], answer.json()["usage"]))
    for (plain, used), (got, usage) in zip(replies["plain"], replies[way], strict=True):
        assert (got["text"], got["finish_reason"]) == (plain["text"], plain["finish_reason"])
        assert usage["completion_tokens"] == used["completion_tokens"]
        for a, b in zip(got["logprobs"]["token_logprobs"], plain["logprobs"]["token_logprobs"], strict=True):
            assert abs(a - b) < 1e-4
    drafted, accepted = (now - then for now, then in zip(counted(server, way), before, strict=True))
    assert drafted >= accepted > 20
    assert counted(server, "plain") == [0, 0]


def test_counters_go_on_when_an_engine_is_started_again() -> None:
    from types import SimpleNamespace

    from qwill.engine.request import EngineStats
    from qwill.serve.metrics import Metrics

    metrics, client = Metrics(), SimpleNamespace(stats=EngineStats(drafted=5), restarts=0, process_id=1)
    told = []
    for restarts, drafted in ((0, 5), (0, 5), (0, 9), (1, 0), (1, 12), (1, 3)):
        client.restarts, client.stats = restarts, EngineStats(drafted=drafted)
        text = metrics.text([SimpleNamespace(name="a", client=client, in_flight=0)]).decode()
        told.append(next(float(line.split()[-1]) for line in text.splitlines() if line.startswith(COUNTED[0])))
    assert told == [5, 5, 9, 9, 21, 24]


def test_the_command_passes_on_who_drafts(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {}
    monkeypatch.setattr(serve_command, "start", lambda makers, *_: given.update(makers) or 0)
    small = str(folders["small"])
    for more, spec in (
        ([], None),
        (["--speculate", "ngram"], NgramSpec()),
        (["--speculate", "mtp"], MtpSpec()),
        (["--speculate", "mtp", "--speculate-tokens", "2"], MtpSpec(2)),
        (["--speculate", small, "--speculate-tokens", "6"], DraftSpec(small, 6)),
    ):
        result = CliRunner().invoke(qwill, ["serve", str(folders["model"]), *more])
        assert result.exit_code == 0, result.output
        (maker,) = given.values()
        assert maker.args[0].args[0].engine["speculate"] == spec


def test_a_model_without_a_head_is_a_sentence(folders: dict[str, Path]) -> None:
    config = ModelConfig.from_hf(json.loads((folders["headless"] / "config.json").read_text()))
    assert config.has_linear and not config.mtp_layers
    with pytest.raises(ConfigError, match=r"speculation by mtp needs a multi-token-prediction head"):
        load_engine(EngineOptions(str(folders["headless"]), engine={"speculate": MtpSpec()}))
