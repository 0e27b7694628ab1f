"""Both executors against the model's definition, and the native one's promise: a row never depends on the others."""

import dataclasses
import shutil

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from paged import Paged
from tiny import redrawn, tiny_model

from qwill.engine import native
from qwill.engine.engine import Engine, EngineSettings
from qwill.engine.executor import TorchExecutor
from qwill.engine.generate import generate
from qwill.engine.sampler import Sampling
from qwill.model.config import ModelConfig
from qwill.model.rope import RopeScaling

# Without a C compiler only the model's own executor is there to be tested.
NATIVE = [native.NativeExecutor] if native.library() else []
EXECUTORS = [*NATIVE, TorchExecutor]

BASE = tiny_model("dense").config
VARIANTS = {
    "dense tied": BASE,
    "dense untied": dataclasses.replace(BASE, tie_word_embeddings=False, hidden_size=37, intermediate_size=53),
    "llama with biases": dataclasses.replace(BASE, model_type="llama", attention_bias=True, num_key_value_heads=4),
    "moe": tiny_model("moe").config,
    "moe not renormalised": dataclasses.replace(tiny_model("moe").config, norm_topk_prob=False, num_experts_per_tok=3),
    "moe, every second layer": dataclasses.replace(
        tiny_model("moe").config, num_hidden_layers=4, decoder_sparse_step=2, moe_intermediate_size=17
    ),
    "one key head, many queries": dataclasses.replace(BASE, num_attention_heads=7, num_key_value_heads=1),
    "qwen2": dataclasses.replace(BASE, model_type="qwen2", qkv_bias=True),
    "moe, stretched by YaRN": dataclasses.replace(
        tiny_model("moe").config, rope_theta=300.0, rope_scaling=RopeScaling("yarn", 4.0, 16)
    ),
    "wide heads": dataclasses.replace(BASE, head_dim=80, num_attention_heads=2, num_key_value_heads=1, vocab_size=130),
}

# What the native executor can't run goes to the model's own, which has no promise of equal bits to keep.
SHARED = {"shared_expert_intermediate_size": 20}
LINEAR = {
    "num_hidden_layers": 3, "layer_types": ("linear_attention", "full_attention", "linear_attention"),
    "partial_rotary_factor": 0.25, "linear_num_key_heads": 2, "linear_num_value_heads": 4,
    "linear_key_head_dim": 8, "linear_value_head_dim": 12, "linear_conv_kernel_dim": 4,
}  # fmt: skip
OTHERS = {
    "qwen2_moe": dataclasses.replace(tiny_model("moe").config, model_type="qwen2_moe", qkv_bias=True, **SHARED),
    "qwen3_next": dataclasses.replace(tiny_model("moe").config, model_type="qwen3_next", **SHARED, **LINEAR),
    "qwen3_5_text": dataclasses.replace(BASE, model_type="qwen3_5_text", tie_word_embeddings=False, **LINEAR),
}


def ids_like(seed: int, count: int, vocab: int) -> list[int]:
    return torch.randint(0, vocab, (count,), generator=torch.Generator().manual_seed(seed)).tolist()


def test_there_is_a_native_executor_where_there_is_a_compiler():
    assert bool(NATIVE) == (shutil.which("cc") is not None or shutil.which("gcc") is not None)


@pytest.mark.parametrize(
    ("kind", "name"), [(k, n) for k in EXECUTORS for n in VARIANTS] + [(TorchExecutor, n) for n in OTHERS]
)
@torch.inference_mode()
def test_logits_are_those_of_the_definition(kind, name):
    """Of three sequences, one a copy of another made half way, in a cache that grows."""
    model = redrawn((VARIANTS | OTHERS)[name], seed=1)
    ids = ids_like(0, 40, model.config.vocab_size)
    expected = model.logits(torch.tensor([ids]))[0]
    assert float(expected.std()) >= 1
    paged = Paged(kind, model, sequences=3, capacity=40)
    paged.append({2: ids[:33], 0: ids[:5]})
    got = [paged.append({0: ids[5:6], 2: ids[33:34]})]
    paged.copy(2, 1)
    paged.executor.grow(2 * paged.executor.blocks)
    got += [paged.append({0: [ids[i]], 1: [ids[28 + i]]}) for i in range(6, 11)]
    for i, row in enumerate(got):
        difference = (row - expected[[5 + i, 33 + i]]).abs().max()
        assert float(difference) <= 1e-5 * float(expected.abs().max())


@settings(deadline=None, max_examples=40)
@given(data=st.data())
def test_states_are_those_behind_the_drafted_tokens_that_count(data):
    """Wrong and right drafts, of some sequences in any company: states, and all that is computed from them, are those
    of an executor that never computed any other token. Up to a pass's end they are those before the drafts."""
    model = redrawn(OTHERS[data.draw(st.sampled_from(["qwen3_next", "qwen3_5_text"]))], seed=1)
    if data.draw(st.booleans()):
        model = model.double()
    count, vocab = data.draw(st.integers(1, 4)), model.config.vocab_size
    true = [ids_like(i, 60, vocab) for i in range(count)]
    drafting, plain = (Paged(TorchExecutor, model, count, 60, block_size=4) for _ in range(2))
    for turn in range(data.draw(st.integers(1, 4))):
        chosen = data.draw(st.lists(st.integers(0, count - 1), min_size=1, unique=True))
        pieces, drafts, taken = {}, {}, {}
        for i in chosen:
            start, own = drafting.lengths[i], data.draw(st.sampled_from([1, 1, 3]))
            drafts[i] = data.draw(st.integers(0, 5))
            taken[i] = data.draw(st.integers(0, drafts[i]))
            wrong = ids_like(99 + turn, drafts[i] - taken[i], vocab)
            pieces[i] = true[i][start : start + own + taken[i]] + wrong
        got = drafting.append(pieces, drafts)
        before = {i: true[i][plain.lengths[i] : drafting.lengths[i]] for i in chosen}
        plain.append(before)
        held = [paged.executor._cache for paged in (drafting, plain)]

        def apart(held=held):
            kinds = [(kind[n][:count].double() for kind in (c.states, c.inputs) for n in c.states) for c in held]
            return max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(*kinds, strict=True))

        assert apart() <= 1e-5
        if any(taken.values()):
            drafting.settle(taken)
            plain.append({i: true[i][plain.lengths[i] : drafting.lengths[i]] for i in chosen if taken[i]})
        assert apart() <= 1e-5 and drafting.lengths == plain.lengths
        with torch.inference_mode():
            for row, i in zip(got, chosen, strict=True):
                whole = true[i][: drafting.lengths[i]] + pieces[i][len(pieces[i]) - drafts[i] + taken[i] :]
                expected = model.logits(torch.tensor([whole]))[0, -1]
                assert float((row - expected).abs().max()) <= 1e-4 * float(expected.abs().max())


@pytest.mark.parametrize("name", OTHERS)
def test_samples_of_one_prompt_share_its_state(name):
    """Fewer slots than samples, so that some start from a snapshot of the prompt: every one is the greedy reply."""
    model = redrawn(OTHERS[name], seed=5)
    prompts = [ids_like(i, size, model.config.vocab_size) for i, size in enumerate((3, 30, 1, 11))]
    stops = ids_like(9, 8, model.config.vocab_size)
    groups = generate(model, prompts, Sampling(max_tokens=9, temperature=0), n=3, slots=4, stop_ids=stops)
    for prompt, group in zip(prompts, groups, strict=True):
        ids = list(prompt)
        with torch.inference_mode():
            while len(ids) < len(prompt) + 9 and (len(ids) == len(prompt) or ids[-1] not in stops):
                ids.append(int(model.logits(torch.tensor([ids]))[0, -1].argmax()))
        assert [c.token_ids for c in group] == [ids[len(prompt) :]] * 3


@pytest.mark.parametrize("kind", NATIVE)
@settings(deadline=None, max_examples=20)
@given(data=st.data())
def test_a_row_is_the_same_to_the_last_bit_in_any_company(kind, data):
    name = data.draw(st.sampled_from(["dense untied", "moe", "moe not renormalised", "one key head, many queries"]))
    model = redrawn(VARIANTS[name], seed=2)
    sizes = data.draw(st.lists(st.integers(1, 30), min_size=1, max_size=9))
    prompts = [ids_like(i, size, model.config.vocab_size) for i, size in enumerate(sizes)]
    threads = torch.get_num_threads()
    with torch.inference_mode():
        try:
            torch.set_num_threads(data.draw(st.integers(1, 2)))
            together = Paged(kind, model, len(prompts), 31)
            order = data.draw(st.permutations(range(len(prompts))))
            first = together.append({i: prompts[i] for i in order})
            second = together.append({i: [7] for i in range(len(prompts))})
        finally:
            torch.set_num_threads(threads)
        for place, i in enumerate(order):
            alone = Paged(kind, model, 1, 31)
            logits = [alone.append({0: [token]}) for token in prompts[i]][-1]
            assert torch.equal(logits[0], first[place])
            assert torch.equal(alone.append({0: [7]})[0], second[i])


def test_what_it_can_not_run_goes_to_the_definition():
    odd: ModelConfig = dataclasses.replace(BASE, head_dim=6)
    models = [redrawn(odd, seed=0), tiny_model("dense").double(), tiny_model("dense").bfloat16()]
    small = EngineSettings(blocks=4, max_running=2)
    for model in models:
        assert isinstance(Engine(model, None, small).executor, TorchExecutor)
    assert isinstance(Engine(tiny_model("dense"), None, small).executor, EXECUTORS[0])
