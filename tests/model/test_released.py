"""Folders as released ones are, read as transformers 5.23.0 reads them: half precision and mixed, shards, experts each
or fused, a text model inside a vision model; and the multi-token-prediction head, which transformers leaves out and the
record rebuilds from its modules (make_released_oracle.py)."""

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from qwill.base.artifact import content_id
from qwill.model import ops
from qwill.model.batch import Batch
from qwill.model.cache import KVCache
from qwill.model.config import ModelConfig
from qwill.model.files import load_model, save_model
from qwill.model.transformer import Transformer

from .parity import FORWARD, apart, gradient_differences

RECORD = Path(__file__).parent.parent / "oracles" / "released"
CASES = sorted(p.name for p in RECORD.iterdir() if p.is_dir())
AHEAD = [c for c in CASES if "mtp" in c]

pytestmark = pytest.mark.filterwarnings("ignore:.*vision tower.*")
both = pytest.mark.parametrize("native", [False, True], ids=["pytorch", "native"])


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    ops.use_native(True)


def said(case: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    return load_file(RECORD / case / "said.safetensors.bin"), json.loads((RECORD / case / "record.json").read_text())


@both
@pytest.mark.parametrize("case", CASES)
def test_the_folder_gives_transformers_logits(case: str, native: bool) -> None:
    ops.use_native(native)
    reference, _ = said(case)
    with torch.no_grad():
        assert apart(load_model(RECORD / case).logits(reference["tokens"]), reference["logits"]) <= FORWARD


@pytest.mark.parametrize("case", CASES)
def test_what_is_saved_of_it_is_read_by_transformers(case: str, tmp_path: Path) -> None:
    """The identity of the folder in which transformers missed nothing and found nothing unexpected."""
    model = load_model(RECORD / case)
    save_model(model, tmp_path)
    assert content_id(tmp_path)[0] == said(case)[1]["reads_our_folder"]
    again = load_model(tmp_path)
    assert again.config == model.config
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))


@pytest.mark.parametrize("case", CASES)
def test_half_precision_survives_reading_and_saving(case: str, tmp_path: Path) -> None:
    dtype = said(case)[1]["dtype"].removeprefix("torch.")
    save_model(load_model(RECORD / case, dtype=dtype), tmp_path, shard_bytes=2e4)
    exact, through = load_model(RECORD / case), load_model(tmp_path)
    for (name, a), b in zip(exact.named_parameters(), through.parameters(), strict=True):
        assert torch.equal(a, b), name  # all drawn values fit the half type, also those stored wider


@pytest.mark.parametrize("outer", [True, False, None])
@pytest.mark.parametrize("inner", [True, False])
def test_the_text_part_says_whether_the_head_is_the_embedding(outer: bool | None, inner: bool) -> None:
    """transformers 5.23.0's text model reads text_config alone (asked of it with this folder, all six)."""
    raw = json.loads((RECORD / "qwen3_5_mtp_bf16" / "config.json").read_text())
    raw["text_config"]["tie_word_embeddings"] = inner
    raw |= {"tie_word_embeddings": outer}
    assert ModelConfig.from_hf(raw).tie_word_embeddings == inner


def ahead(model: Transformer, tokens_BT: Tensor) -> Tensor:
    """Hidden states [B, T − 1, D] of the head: row t has seen tokens 0 … t + 1."""
    b, t = tokens_BT.shape
    hidden_ND = model(Batch.rows(tokens_BT[:, :-1])).hidden_ND
    return model.predict_ahead(hidden_ND, Batch.rows(tokens_BT[:, 1:])).hidden_ND.view(b, t - 1, -1)


@both
@pytest.mark.parametrize("case", AHEAD)
def test_the_head_that_predicts_ahead(case: str, native: bool) -> None:
    ops.use_native(native)
    (reference, record), model = said(case), load_model(RECORD / case)
    tokens_BT = reference["tokens"]
    hidden_BTD = ahead(model, tokens_BT)
    logits_BTV = (hidden_BTD.flatten(0, 1) @ model.head_weight_VD.T).view(*hidden_BTD.shape[:2], -1)
    assert apart(hidden_BTD, reference["mtp_hidden"]) <= FORWARD
    assert apart(logits_BTV, reference["mtp_logits"]) <= FORWARD
    loss = torch.nn.functional.cross_entropy(logits_BTV[:, :-1].flatten(0, 1), tokens_BT[:, 2:].flatten())
    assert abs(loss.item() - record["mtp_loss"]) <= 1e-6 * record["mtp_loss"]
    loss.backward()
    assert list(gradient_differences(model, reference)) == []


@pytest.mark.parametrize("case", AHEAD)
def test_the_head_with_a_cache_in_chunks(case: str) -> None:
    model, tokens_T = load_model(RECORD / case), said(case)[0]["tokens"][0]
    with torch.no_grad():
        whole_TD = ahead(model, tokens_T[None])[0]
        trunk, head = (KVCache(c, 2, 40) for c in (model.config, model.config.mtp_config))
        parts, start = [], 0
        for n in (1, 7, 1, 12, 9):
            batch = Batch.pack([tokens_T[start : start + n]], starts=[start])
            following = Batch.pack([tokens_T[start + 1 : start + n + 1]], starts=[start])
            hidden_ND = model(batch, trunk.place([[1]], [start])).hidden_ND
            parts.append(model.predict_ahead(hidden_ND, following, head.place([[0]], [start])).hidden_ND)
            start += n
    assert apart(torch.cat(parts), whole_TD) <= FORWARD


class NoNorm(nn.Module):
    """In the place of the trunk's last norm."""

    def after_adding(self, x_ND: Tensor, delta_ND: Tensor) -> tuple[Tensor, Tensor]:
        return x_ND + delta_ND, x_ND + delta_ND


def bugs(model: Transformer) -> dict[str, tuple[Any, str, Any]]:
    """Name → (object, attribute, wrong value)."""
    mtp = model.mtp
    assert mtp is not None
    halves = torch.cat(mtp.fc.weight.chunk(2, dim=1)[::-1], dim=1)
    return {
        "hidden state before the embedding": (mtp.fc, "weight", nn.Parameter(halves)),
        "hidden state from before the last norm": (model, "norm", NoNorm()),
        "embedding normalised as the hidden state": (mtp, "pre_fc_norm_embedding", mtp.pre_fc_norm_hidden),
        "hidden state not normalised": (mtp, "pre_fc_norm_hidden", nn.Identity()),
        "the trunk's norm at the end": (mtp, "norm", model.norm),
        "norm not zero-centred": (mtp.norm, "zero_centred", False),
        "norm of the embedding not zero-centred": (mtp.pre_fc_norm_embedding, "zero_centred", False),
        "norm of the hidden state not zero-centred": (mtp.pre_fc_norm_hidden, "zero_centred", False),
        "eps": (mtp.pre_fc_norm_hidden, "eps", 0.0105),
    }


@pytest.mark.parametrize("case", AHEAD)
def test_seeded_bugs_in_the_head_are_caught(case: str) -> None:
    ops.use_native(False)
    reference = said(case)[0]
    tokens_BT, expected = reference["tokens"], reference["mtp_hidden"]
    good = load_model(RECORD / case)
    for name in bugs(good):
        model = copy.deepcopy(good)
        thing, attribute, wrong = bugs(model)[name]
        setattr(thing, attribute, wrong)
        with torch.no_grad():
            assert not apart(ahead(model, tokens_BT), expected) <= FORWARD, name
    batch, following = Batch.rows(tokens_BT[:, :-1]), Batch.rows(tokens_BT[:, 1:])
    stretched = Batch(following.tokens_N, 2 * following.positions_N, following.cu_seqlens, following.row_length)
    with torch.no_grad():
        hidden_ND = good(batch).hidden_ND
        for name, wrong in {"the same token, not the next": batch, "positions": stretched}.items():
            got = good.predict_ahead(hidden_ND, wrong).hidden_ND.view_as(expected)
            assert not apart(got, expected) <= FORWARD, name
