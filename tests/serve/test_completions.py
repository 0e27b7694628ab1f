"""/v1/completions, /v1/embeddings, /tokenize: what lm-eval and OpenAI's clients read from them."""

import base64
import struct

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from serving import Server, counts, serving
from tiny import chat_model

from qwill.engine.engine import Engine, EngineSettings
from qwill.engine.language_model import LanguageModel
from qwill.model.batch import Batch
from qwill.serve.completions import Completion
from qwill.serve.engine_process import model_info
from qwill.text.tokenizer import Tokenizer
from qwill.text.vocabulary import ended

PATH = "/v1/completions"
LM = chat_model()


def body(**fields: object) -> dict:
    return {"model": "tiny", "prompt": "Once", "max_tokens": 20, "seed": 3, **fields}


def test_a_stream_adds_up_to_the_whole(server: Server) -> None:
    fields = body(prompt=["Once", "Twice"], n=2, logprobs=1, echo=True)
    whole = server.post(PATH, fields).json()
    Completion.model_validate(whole)
    assert [choice["index"] for choice in whole["choices"]] == [0, 1, 2, 3]
    *chunks, done = server.events(PATH, fields | {"stream": True, "stream_options": {"include_usage": True}})
    assert done == "[DONE]" and counts(chunks[-1]["usage"]) == counts(whole["usage"])
    for choice in whole["choices"]:
        got = [c for chunk in chunks for c in chunk["choices"] if c["index"] == choice["index"]]
        assert "".join(c["text"] for c in got) == choice["text"]
        assert got[-1]["finish_reason"] == choice["finish_reason"] is not None
        for name, values in choice["logprobs"].items():
            assert [x for c in got for x in (c["logprobs"] or {}).get(name, [])] == values
        assert choice["text"].startswith(["Once", "Twice"][choice["index"] // 2])


def test_scores_of_a_prompt_are_the_models_own(server: Server) -> None:
    """As lm-eval's local-completions asks: token ids, echo, logprobs, and no or one new token."""
    encode = LM.tokenizer.encode
    ids = [*encode("The quick brown fox"), LM.tokenizer.special("<|im_end|>"), *encode("好")]
    want = LM.model.logits(torch.tensor([ids]))[0].log_softmax(-1)
    for more in (0, 1):
        choice = server.post(PATH, body(prompt=[ids], max_tokens=more, echo=True, logprobs=1)).json()["choices"][0]
        logprobs = choice["logprobs"]
        assert len(logprobs["token_logprobs"]) == len(ids) + more and logprobs["token_logprobs"][0] is None
        for i, token in enumerate(ids[1:], start=1):
            assert logprobs["token_logprobs"][i] == pytest.approx(float(want[i - 1, token]), abs=1e-5)
            top = logprobs["top_logprobs"][i]
            is_greedy = logprobs["tokens"][i] == max(top, key=top.get)
            assert is_greedy == (int(want[i - 1].argmax()) == token)


def test_scoring_alone_generates_nothing(server: Server) -> None:
    found = server.post(PATH, body(max_tokens=0, echo=True)).json()
    assert found["choices"][0]["text"] == "Once" and found["usage"]["completion_tokens"] == 0
    assert server.post(PATH, body(max_tokens=0)).json()["choices"][0]["text"] == ""


def test_every_form_of_prompt_gives_the_same(server: Server) -> None:
    ids = LM.tokenizer.encode("Once")
    texts = [server.post(PATH, body(prompt=p)).json()["choices"][0]["text"] for p in ("Once", ["Once"], ids, [ids])]
    assert len(set(texts)) == 1


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"suffix": "end"}, "suffix"),
        ({"prompt": []}, "prompt"),
        ({"prompt": [[1], []]}, "prompt[1]"),
        ({"prompt": [1, "a"]}, "prompt[1]"),
        ({"prompt": [99999]}, "prompt"),
        ({"prompt": "x" * 3000}, "prompt"),
        ({"prompt": ["a", "x" * 3000]}, "prompt[1]"),
        ({"n": 3, "best_of": 2}, "best_of"),
        ({"best_of": 2, "stream": True}, "best_of"),
        ({"logprobs": 99}, "logprobs"),
        ({"logprobs": True}, "logprobs"),
        ({"guided_regex": "("}, "guided_regex"),
        ({"guided_json": {"type": "object", "unheardOf": 1}}, "guided_json"),
    ],
)
def test_bad_input(server: Server, fields: dict, param: str) -> None:
    answer = server.post(PATH, body(**fields))
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["param"] == param, answer.text


def test_tokens_come_back_as_the_text_they_were(server: Server) -> None:
    @given(st.text(max_size=40) | st.sampled_from(["<|im_end|>", "a<|im_start|>b", "<think>"]))
    def check(text: str) -> None:
        found = server.post("/tokenize", {"prompt": text, "return_token_strs": True}).json()
        assert found["count"] == len(found["tokens"]) == len(found["token_strs"])
        back = server.post("/detokenize", {"tokens": found["tokens"]}).json()["prompt"]
        same = server.post("/tokenize", {"prompt": back}).json()["tokens"]
        assert same == found["tokens"]

    check()


def test_special_tokens_are_read_in_prompts_and_spelt_in_conversations(server: Server) -> None:
    end = LM.tokenizer.special("<|im_end|>")
    assert server.post("/tokenize", {"prompt": "<|im_end|>"}).json()["tokens"] == [end]
    said = server.post("/tokenize", {"messages": [{"role": "user", "content": "<|im_end|>"}]}).json()["tokens"]
    assert said.count(end) == 1


def test_tokenizer_info(server: Server) -> None:
    found = server.client.get("/tokenizer_info").json()
    assert found["eos_token"] == "<|im_end|>" and "{%" in found["chat_template"]
    assert server.client.get("/tokenizer_info?model=none").status_code == 404


def test_embeddings_have_length_one_in_both_encodings(server: Server) -> None:
    ask = {"model": "tiny", "input": ["one", "two", "three"] * 4}
    plain = server.post("/v1/embeddings", ask).json()
    packed = server.post("/v1/embeddings", ask | {"encoding_format": "base64"}).json()
    assert [row["index"] for row in plain["data"]] == list(range(12))
    for row, code in zip(plain["data"], packed["data"], strict=True):
        raw = base64.b64decode(code["embedding"])
        assert struct.unpack(f"<{len(raw) // 4}f", raw) == pytest.approx(row["embedding"])
        assert sum(x * x for x in row["embedding"]) == pytest.approx(1, abs=1e-5)
    with torch.no_grad():
        hidden = LM.model(Batch.rows(torch.tensor([LM.tokenizer.encode("two")]))).hidden_ND[-1]
    assert plain["data"][1]["embedding"] == pytest.approx((hidden / hidden.norm()).tolist(), abs=1e-5)
    assert plain["usage"] == {"prompt_tokens": 44, "total_tokens": 44}
    few = server.post("/v1/embeddings", ask | {"dimensions": 8}).json()["data"][0]["embedding"]
    assert len(few) == 8 and sum(x * x for x in few) == pytest.approx(1, abs=1e-5)
    for wrong in ({"input": ""}, {"input": []}, {"dimensions": 10**6}, {"input": [["a"]]}, {"input": "x" * 3000}):
        assert server.post("/v1/embeddings", ask | wrong).status_code == 400


def test_a_text_gets_the_end_that_its_tokenizer_gives_it() -> None:
    """Qwen3-Embedding's post-processor puts `<|endoftext|>` behind a text; ids are taken as they are."""
    document, end = LM.tokenizer._document, LM.tokenizer.special("<|endoftext|>")
    processor = ended(document["post_processor"], "<|endoftext|>", end)
    lm = LanguageModel(LM.model, Tokenizer(document | {"post_processor": processor}))

    def build() -> tuple[Engine, object]:
        return Engine(lm.model, lm.tokenizer, EngineSettings(memory=64 << 20)), model_info(lm, None)

    ids = LM.tokenizer.encode("two")
    with serving(models={"tiny": build}) as server:
        for given, wanted in (("two", [*ids, end]), (ids, ids), (["one", "two"], [*ids, end]), ([ids], ids)):
            answer = server.post("/v1/embeddings", {"model": "tiny", "input": given}).json()
            with torch.no_grad():
                hidden = lm.model(Batch.rows(torch.tensor([wanted]))).hidden_ND[-1]
            found = answer["data"][-1]["embedding"]
            assert found == pytest.approx((hidden / hidden.norm()).tolist(), abs=1e-5)
            assert answer["usage"]["prompt_tokens"] == len(wanted) * len(answer["data"])
        for add, wanted in ((True, [*ids, end]), (False, ids)):
            asked = {"model": "tiny", "prompt": "two", "add_special_tokens": add}
            assert server.post("/tokenize", asked).json()["tokens"] == wanted
