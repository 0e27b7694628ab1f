"""Both executors against the model's definition, and the native one's promise: a row never depends on the others."""

import dataclasses
import shutil

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import redrawn, tiny_model

from qwill.base.errors import ModelError
from qwill.engine import native
from qwill.engine.generate import generate
from qwill.engine.sampler import Sampling
from qwill.engine.slots import NativeSlots, SlotExecutor, executor_for
from qwill.model.config import ModelConfig
from qwill.model.rope import RopeScaling

# Without a C compiler only the model's own executor is there to be tested.
NATIVE = [NativeSlots] if native.library() else []
EXECUTORS = [*NATIVE, SlotExecutor]

BASE = tiny_model("dense").config
VARIANTS = {
    "dense tied": BASE,
    "dense untied": dataclasses.replace(
        BASE, tie_word_embeddings=False, hidden_size=37, intermediate_size=53
    ),
    "llama with biases": dataclasses.replace(
        BASE, model_type="llama", attention_bias=True, num_key_value_heads=4
    ),
    "moe": tiny_model("moe").config,
    "moe not renormalised": dataclasses.replace(
        tiny_model("moe").config, norm_topk_prob=False, num_experts_per_tok=3
    ),
    "moe, every second layer": dataclasses.replace(
        tiny_model("moe").config, num_hidden_layers=4, decoder_sparse_step=2, moe_intermediate_size=17
    ),
    "one key head, many queries": dataclasses.replace(BASE, num_attention_heads=7, num_key_value_heads=1),
    "qwen2": dataclasses.replace(BASE, model_type="qwen2", qkv_bias=True),
    "moe, stretched by YaRN": dataclasses.replace(
        tiny_model("moe").config, rope_theta=300.0, rope_scaling=RopeScaling("yarn", 4.0, 16)
    ),
    "wide heads": dataclasses.replace(
        BASE, head_dim=80, num_attention_heads=2, num_key_value_heads=1, vocab_size=130
    ),
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
    ("kind", "name"), [(k, n) for k in EXECUTORS for n in VARIANTS] + [(SlotExecutor, n) for n in OTHERS]
)
@torch.inference_mode()
def test_logits_are_those_of_the_definition(kind, name):
    model = redrawn((VARIANTS | OTHERS)[name], seed=1)
    ids = ids_like(0, 40, model.config.vocab_size)
    expected = model.logits(torch.tensor([ids]))[0]
    assert float(expected.std()) >= 1
    executor = kind(model, slots=3, capacity=40)
    executor.prefill([ids[:33], ids[:5]], [2, 0])
    steps = [executor.prefill([ids[33:34], ids[5:6]], [2, 0])[[1, 0]]]
    executor.copy(2, [1], 34)
    steps += [executor.step(torch.tensor([ids[i], ids[28 + i]])).clone() for i in range(6, 11)]
    for i, got in enumerate(steps):
        difference = (got - expected[[5 + i, 33 + i]]).abs().max()
        assert float(difference) <= 1e-5 * float(expected.abs().max())


@pytest.mark.parametrize("name", ["moe", *OTHERS])
def test_a_slot_comes_back_to_its_prompt(name):
    """Rewound, copied from its mark, moved: it goes on as a sequence that was never longer."""
    model = redrawn((VARIANTS | OTHERS)[name], seed=3)
    executor = executor_for(model, slots=4, capacity=40)
    assert isinstance(executor, NativeSlots) == (bool(NATIVE) and name == "moe")
    ids = ids_like(1, 30, model.config.vocab_size)
    with torch.inference_mode():
        whole = model.logits(torch.tensor([ids]))[0]
        executor.prefill([ids[:20]], [0])
        executor.mark([0])
        for i in (3, 4, 5):
            executor.step(torch.tensor([i]))
        executor.copy(0, [2, 3], 20)
        executor.move([3], [1])
        executor.rewind(0, 20)
        executor.grow(50)
        for i in range(20, 30):
            got = executor.step(torch.tensor([ids[i]] * 3))
            assert float((got - whole[i]).abs().max()) <= 1e-5 * float(whole.abs().max())
        if model.config.has_linear:
            with pytest.raises(ModelError, match="cannot go back to 25 tokens"):
                executor.rewind(0, 25)


@pytest.mark.parametrize("name", OTHERS)
def test_samples_of_one_prompt_share_its_state(name):
    """Fewer slots than samples, so that slots are rewound, copied and moved: every sample is the greedy reply."""
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
    name = data.draw(
        st.sampled_from(["dense untied", "moe", "moe not renormalised", "one key head, many queries"])
    )
    model = redrawn(VARIANTS[name], seed=2)
    sizes = data.draw(st.lists(st.integers(1, 30), min_size=1, max_size=9))
    prompts = [ids_like(i, size, model.config.vocab_size) for i, size in enumerate(sizes)]
    threads = torch.get_num_threads()
    with torch.inference_mode():
        try:
            torch.set_num_threads(data.draw(st.integers(1, 2)))
            together = kind(model, len(prompts), 31)
            slots = data.draw(st.permutations(range(len(prompts))))
            first = together.prefill(prompts, slots)
            next_B = torch.tensor([7] * len(prompts))
            second = together.step(next_B).clone()
        finally:
            torch.set_num_threads(threads)
        for i, prompt in enumerate(prompts):
            alone = kind(model, 1, 31)
            logits = [alone.prefill([[token]], [0]) for token in prompt][-1]
            assert torch.equal(logits[0], first[i])
            assert torch.equal(alone.step(next_B[:1])[0], second[slots[i]])


@pytest.mark.parametrize("kind", EXECUTORS)
@torch.inference_mode()
def test_growing_and_moving_keep_what_is_cached(kind):
    model = tiny_model("moe")
    ids = ids_like(3, 30, 97)
    expected = model.logits(torch.tensor([ids]))[0]
    executor = kind(model, 3, 20)
    executor.prefill([ids[:18], ids[:4]], [2, 1])
    executor.move([2], [0])
    assert executor.lengths.tolist() == [18, 4, 0]
    executor.grow(40)
    assert executor.capacity >= 40
    got = executor.step(torch.tensor([ids[18], ids[4]])).clone()
    torch.testing.assert_close(got, expected[[18, 4]], atol=3e-5, rtol=0)
    executor.lengths[0] = 9  # cut off and go on
    got = executor.step(torch.tensor([ids[9], ids[5]])).clone()
    torch.testing.assert_close(got, expected[[9, 5]], atol=3e-5, rtol=0)


def test_what_it_can_not_run_goes_to_the_definition():
    odd: ModelConfig = dataclasses.replace(BASE, head_dim=6)
    models = [redrawn(odd, seed=0), tiny_model("dense").double(), tiny_model("dense").bfloat16()]
    for model in models:
        assert isinstance(executor_for(model, 2, 20), SlotExecutor)
    assert isinstance(executor_for(tiny_model("dense"), 2, 20), EXECUTORS[0])
