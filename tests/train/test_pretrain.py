"""Pretraining: how much is held out, what the baselines learn from, and that all its figures are of one model."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.engine.tiny import byte_tokenizer
from tests.train.tiny_training import Killed, context
from torch.nn.functional import cross_entropy

from qwill.base.artifact import content_id
from qwill.base.errors import ConfigError
from qwill.base.files import read_json
from qwill.data.packing import RowLoader, TokenStore, tokenize_corpus
from qwill.evaluate import compression, kneser_ney
from qwill.evaluate.bits_per_byte import Compression, bits_per_byte
from qwill.model.config import ModelConfig
from qwill.model.files import load_model, save_model
from qwill.model.initial import init_weights
from qwill.model.rope import RopeScaling
from qwill.model.transformer import Transformer
from qwill.text.tokenizer import Tokenizer
from qwill.train import pretrain
from qwill.train.pretrain import compare, heldout_texts
from qwill.train.settings import OptimizerConfig, PretrainConfig, YarnConfig
from qwill.train.step import StepData

END = 0


def write_corpus(folder: Path, part: str, documents: Sequence[tuple[str, str]]) -> Path:
    folder.mkdir(exist_ok=True, parents=True)
    columns = {"language": [d[0] for d in documents], "text": [d[1] for d in documents]}
    pq.write_table(pa.table(columns), folder / f"{part}.parquet")
    return folder


@given(
    documents=st.lists(st.tuples(st.sampled_from(["zh", "en"]), st.text("aé字", min_size=1, max_size=8)), max_size=20),
    limit=st.integers(1, 60),
)
def test_heldout_texts_are_whole_documents_up_to_the_limit(
    tmp_path_factory: pytest.TempPathFactory, documents: list[tuple[str, str]], limit: int
) -> None:
    folder = write_corpus(tmp_path_factory.getbasetemp() / "corpus", "heldout", documents or [("en", "a")])
    found = heldout_texts(folder, limit)
    assert list(found) == sorted({language for language, _ in documents or [("en", "a")]})
    for language, texts in found.items():
        every = [text for name, text in documents or [("en", "a")] if name == language]
        sizes = [len(text.encode()) for text in texts]
        assert texts == every[: len(texts)]
        assert sum(sizes[:-1]) < limit  # the last one may reach over it
        assert sum(sizes) >= limit or texts == every


# -- what the baselines learn from


class Numbered:
    """Stands in for a tokenizer: a token's bytes are its own number, so that bytes say which token they are."""

    vocab_size = 1 << 16

    def token_bytes(self, token: int) -> bytes:
        return token.to_bytes(4, "big")

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        return [[1] for _ in texts]


def numbered_store(lengths: Sequence[int]) -> TokenStore:
    """Documents whose token ids are their places, each led by END."""
    offsets = np.cumsum([0, *lengths])
    tokens = np.arange(offsets[-1])
    tokens[offsets[:-1]] = END
    return TokenStore(tokens, offsets, np.ones(len(lengths)), np.zeros(len(lengths)), ["en"], END)


class Learned:
    """Stands in for the n-gram model and notes what it was to learn from."""

    def __init__(self) -> None:
        self.sequences: list[list[np.ndarray]] = []

    def fit(self, sequences: list[np.ndarray], order: int, alphabet: int) -> Learned:
        self.sequences.append(sequences)
        return self

    def symbol_bits(self, sequences: list[np.ndarray]) -> np.ndarray:
        return np.ones(1)


@given(
    lengths=st.lists(st.integers(2, 40), min_size=4, max_size=20),
    steps=st.integers(1, 12),
    rows=st.integers(1, 2),
    seed=st.integers(0, 9),
)
def test_baselines_learn_from_the_bytes_that_were_targets_and_no_others(
    tmp_path_factory: pytest.TempPathFactory, lengths: list[int], steps: int, rows: int, seed: int
) -> None:
    store = numbered_store([*lengths, 16, 16])
    loader = RowLoader(store, 8, rows, seed)
    config = PretrainConfig(steps=steps, baselines=["xz", "kneser_ney_byte5"])
    final = {"en": Compression(np.array([8.0]), np.array([1.0]))}
    learned, archives = Learned(), list[bytes]()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kneser_ney, "KneserNey", learned)
        patch.setattr(compression, "xz_bits_per_byte", lambda train, _: archives.append(train) or 3.0)
        result = compare(
            config, config.steps or 0, context(tmp_path_factory.getbasetemp() / "compare"), loader, store,
            cast(Tokenizer, Numbered()), {"en": ["a"]}, final,
        )  # fmt: skip
    pieces = [np.frombuffer(p.tobytes(), ">u4").tolist() for p in learned.sequences[0]]
    taught = [token for piece in pieces for token in piece]
    targets = {int(t) for step in range(steps) for t in loader.step(step).targets_N} - {END}
    assert sorted(taught) == sorted(targets), "each byte once, however many epochs there were"
    # A piece is text as it stands, cut nowhere but where something was not read.
    assert all(b == a + 1 for piece in pieces for a, b in pairwise(piece))
    assert all(b[0] > a[-1] + 1 for a, b in pairwise(sorted(pieces)))
    assert np.frombuffer(archives[0], ">u4").tolist() == taught
    assert result["bytes_consumed"] == 4 * len(taught)
    assert result["xz"] == {"en": 3.0} and result["model"] == {"en": 8.0} and result["heldout_bytes"] == {"en": 1}


def test_the_token_ngram_learns_from_the_whole_corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the report says of it."""
    store = numbered_store([9, 30, 3])
    learned = Learned()
    monkeypatch.setattr(kneser_ney, "KneserNey", learned)
    config = PretrainConfig(steps=1, baselines=["kneser_ney_token5"])
    final = {"en": Compression(np.array([8.0]), np.array([4.0]))}
    loader = RowLoader(store, 8, 1, 0)
    result = compare(config, 1, context(tmp_path), loader, store, cast(Tokenizer, Numbered()), {"en": ["abcd"]}, final)
    assert [s.tolist() for s in learned.sequences[0]] == [list(range(1, 9)), list(range(10, 39)), [40, 41]]
    assert result["kneser_ney_token5"] == {"en": 0.25}


# -- the stage


def documents(count: int, seed: int) -> Iterator[tuple[str, str]]:
    rng = random.Random(seed)
    for i in range(count):
        words = rng.choices(["the", "river", "was", "old", "and", "long"], k=12)
        han = rng.choices("山水很老长又高天", k=14)
        yield ("en", " ".join(words) + ".") if i % 2 else ("zh", "".join(han) + "。")


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pretrain")
    write_corpus(folder / "corpus", "train", list(documents(60, 1)))
    write_corpus(folder / "corpus", "heldout", list(documents(12, 2)))
    byte_tokenizer().save(folder / "tokenizer")
    return {"corpus": folder / "corpus", "tokenizer": folder / "tokenizer"}


CONFIG = PretrainConfig(
    depth=1, experts=2, experts_per_token=1, steps=7, batch_rows=2, row_tokens=32, context=64,
    optimizer=OptimizerConfig(learning_rate=0.01), validations=2, validation_bytes=100, heldout_bytes=10_000,
)  # fmt: skip


def test_the_figures_of_a_run_are_all_of_the_model_that_it_leaves(tmp_path: Path, inputs: dict[str, Path]) -> None:
    ctx = context(tmp_path, inputs)
    metrics = pretrain.run(CONFIG, ctx)
    training, comparison = read_json(ctx.out / "training.json"), read_json(ctx.out / "compression.json")
    model, tokenizer = load_model(ctx.out), Tokenizer.load(ctx.out)
    heldout = heldout_texts(inputs["corpus"], CONFIG.heldout_bytes)
    scored = {k: bits_per_byte(model, tokenizer, v, CONFIG.row_tokens) for k, v in heldout.items()}
    final = {k: c.bits_per_byte for k, c in scored.items()}
    assert comparison["model"] == training["validation"][-1]["bits_per_byte"] == pytest.approx(final, rel=1e-6)
    assert metrics["bits_per_byte"] == {k: round(v, 4) for k, v in comparison["model"].items()}
    assert metrics["bits_per_byte_stderr"] == pytest.approx({k: c.stderr for k, c in scored.items()}, abs=1e-4)
    assert comparison["heldout_bytes"] == {k: sum(len(t.encode()) for t in v) for k, v in heldout.items()}
    for name in CONFIG.baselines:
        assert metrics[name] == {k: round(v, 4) for k, v in comparison[name].items()}
    assert [v["step"] for v in training["validation"]] == [2, 4, 6, 7]
    assert metrics["tokens"] == training["tokens"] == 7 * 2 * 32
    assert len(training["curve"]) == 7 and training["curve"][-1]["loss"] < training["curve"][0]["loss"]
    assert all(v < 8 for v in final.values()), "no better than guessing bytes"


def test_validation_during_training_and_at_the_end_measure_the_same(
    tmp_path: Path, inputs: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the same bytes to score, a validation right before the end that is not trained on gives the end's figures:
    a step with a rate of nothing in between."""
    monkeypatch.setattr("qwill.train.loop.rate_factor", lambda step, steps, schedule: 0.0 if step >= 6 else 1.0)
    ctx = context(tmp_path, inputs)
    pretrain.run(replace(CONFIG, validation_bytes=10_000), ctx)
    *_, before, end = read_json(ctx.out / "training.json")["validation"]
    assert before["step"] == 6 and before["bits_per_byte"] == end["bits_per_byte"]


def test_interrupted_after_training_it_goes_on_to_the_same_content(
    tmp_path: Path, inputs: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    straight = context(tmp_path / "straight", inputs)
    metrics = pretrain.run(CONFIG, straight)

    def killed(*_: object) -> Any:
        raise Killed

    monkeypatch.setattr(pretrain, "_score", killed)
    cut = context(tmp_path / "cut", inputs)
    with pytest.raises(Killed):
        pretrain.run(CONFIG, cut)
    monkeypatch.undo()
    again = replace(cut, out=tmp_path / "again")
    again.out.mkdir()
    monkeypatch.setattr(RowLoader, "step", killed)  # nothing is left to train
    assert pretrain.run(CONFIG, again) == metrics
    assert content_id(again.out) == content_id(straight.out)


def test_a_step_weighs_its_tokens_alike_and_is_named_by_its_rows(
    tmp_path: Path, inputs: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[StepData] = []

    def look(model: Any, steps: int, step_data: Callable[[int], StepData], *_: object, **__: object) -> None:
        made.append(step_data(3))
        raise Killed

    monkeypatch.setattr(pretrain, "train", look)
    with pytest.raises(Killed):
        pretrain.run(CONFIG, context(tmp_path, inputs))
    (data,) = made
    assert data.source.startswith("rows [") and data.source.endswith("of the corpus")
    assert data.weight_N.tolist() == [1 / 64] * 64 and len(data.targets_N) == 64


def test_training_goes_on_from_a_model_with_a_longer_context(tmp_path: Path, inputs: dict[str, Path]) -> None:
    first = context(tmp_path / "first", inputs)
    pretrain.run(CONFIG, first)
    start = inputs | {"start": first.out}
    own = {"temperature": 0.6, "eos_token_id": [5]}
    (first.out / "generation_config.json").write_text(json.dumps(own))
    longer = replace(
        CONFIG, depth=3, row_tokens=96, context=100, yarn=YarnConfig(4.0, 32),
        steps=1, optimizer=replace(CONFIG.optimizer, learning_rate=1e-12, matrix_rate=1e-12),
    )  # fmt: skip
    second = context(tmp_path / "second", start)
    pretrain.run(longer, second)
    before, after = load_model(first.out), load_model(second.out)
    assert after.config == before.config.with_(
        max_position_embeddings=128, rope_scaling=RopeScaling("yarn", 4.0, 32), router_aux_loss_coef=longer.balance
    )
    for (name, a), b in zip(before.named_parameters(), after.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-9), name
    kept = read_json(second.out / "generation_config.json")
    assert kept == own | {"eos_token_id": [5, *Tokenizer.load(first.out).stop_ids]}
    # What it was trained with is what the file says: the loss of its first step is that of the stretched model.
    tokenizer = Tokenizer.load(first.out)
    store = tokenize_corpus(inputs["corpus"] / "train.parquet", tokenizer, tmp_path / "tokens")
    rows = RowLoader(store, 96, 2, second.seed).step(0)
    losses = []
    for config in (before.config, after.config):
        before.config = config
        hidden = before(rows.batch).hidden_ND
        losses.append(float(cross_entropy(hidden @ before.head_weight_VD.T, rows.targets_N).detach()))
    trained = read_json(second.out / "training.json")["curve"][0]["loss"]
    assert trained == pytest.approx(losses[1], rel=1e-5) and abs(losses[0] - losses[1]) > 1e-4


def test_going_on_from_a_model_of_another_vocabulary_is_refused(tmp_path: Path, inputs: dict[str, Path]) -> None:
    other = Transformer(ModelConfig.from_depth(1, 64, experts=0))
    init_weights(other, torch.Generator().manual_seed(0))
    (tmp_path / "other").mkdir()
    save_model(other, tmp_path / "other")
    with pytest.raises(ConfigError, match=r"the tokenizer has \d+ tokens and the model .*other knows 64; name"):
        pretrain.run(CONFIG, context(tmp_path, inputs | {"start": tmp_path / "other"}))


@pytest.mark.parametrize(("factor", "trained", "said"), [(1.0, None, "factor is 1.0"), (4.0, 0, "trained is 0")])
def test_a_stretch_that_makes_no_sense_is_refused(factor: float, trained: int | None, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        YarnConfig(factor, trained)


@pytest.mark.parametrize("experts", [0, 3])
def test_a_hybrid_is_trained_and_read_back(tmp_path: Path, inputs: dict[str, Path], experts: int) -> None:
    config = replace(CONFIG, hybrid=True, depth=2, experts=experts, experts_per_token=2)
    ctx = context(tmp_path, inputs)
    metrics = pretrain.run(config, ctx)
    model = load_model(ctx.out)
    assert model.config.layer_types == ("linear_attention", "full_attention")
    assert model.config.model_type == ("qwen3_next" if experts else "qwen3_5_text")
    untrained = Transformer(model.config)
    init_weights(untrained, torch.Generator().manual_seed(0))
    assert all(bool((p != q).any()) for p, q in zip(model.parameters(), untrained.parameters(), strict=True))
    texts = heldout_texts(inputs["corpus"], config.heldout_bytes)
    scored = bits_per_byte(model, Tokenizer.load(ctx.out), texts["en"], config.row_tokens)
    assert scored.bits_per_byte == pytest.approx(metrics["bits_per_byte"]["en"], abs=1e-3)


@given(depth=st.integers(1, 12), experts=st.sampled_from([0, 8]))
def test_a_hybrid_of_any_depth_is_a_model_that_files_can_hold(depth: int, experts: int) -> None:
    config = ModelConfig.from_depth(depth, 512, experts=experts, hybrid=True)
    read = ModelConfig.from_hf(config.to_hf())
    assert read == (config if experts else config.with_(norm_topk_prob=False))  # nothing to renormalise
    assert not config.is_linear(depth - 1)
