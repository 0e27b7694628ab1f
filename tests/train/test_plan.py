"""The plan: properties that any estimate must have, and what is published of two large trainings."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwill.base.errors import ConfigError
from qwill.model.shipped import find_config, shipped_names
from qwill.model.size import count
from qwill.train.plan import Job, best, duration, duration_at, evaluate, peak_memory, rank_meshes, schedules
from qwill.train.plan_gpus import GPUS, find_gpu
from qwill.train.plan_memory import RECOMPUTE, State, kept_values, sharers, stages, weights_of_rank
from qwill.train.plan_mesh import Mesh, meshes
from qwill.train.plan_serve import PRECISIONS, servings, weight_bytes
from qwill.train.plan_time import AXES, Assumptions, Schedule, step_time

A, STATE = Assumptions(), State()
NAMES = ("qwen3-0.6b", "qwen3-8b", "qwen3-30b-a3b", "qwen3-next-80b-a3b", "qwen3.5-27b", "qwen1.5-moe-a2.7b")


def config_of(name: str):
    return find_config(name)[1]


# What is published: GPU-hours of pretraining, tokens, and the share of the bf16 peak.
# DeepSeek-V3: arXiv 2412.19437 table 1 and §4.2 (4,096 tokens, 15,360 sequences a step, 2,048 H800); arXiv 2505.09343
# table 4 (MFU, causal: 38.94 %). Llama 3.1 405B: its model card (30.84 M H100-hours); arXiv 2407.21783 table 4 (41 %
# with 16,384 GPUs, TP 8, PP 16, DP 128, 8,192 tokens, 16 M a step), §3 (15.6 T tokens).
DEEPSEEK = Job(2048, find_gpu("h800"), 4096, 15360, 14.8e12)
LLAMA = Job(16384, find_gpu("h100"), 8192, 2048, 15.6e12)


def test_deepseek_v3_at_its_published_utilisation() -> None:
    config = config_of("deepseek-v3-like")
    assert count(config).total == pytest.approx(671e9, rel=0.001)
    assert count(config).active == pytest.approx(37e9, rel=0.02)
    assert duration_at(config, DEEPSEEK, 0.3894).gpu_hours == pytest.approx(2.664e6, rel=0.3)


def test_llama_3_1_at_its_published_utilisation() -> None:
    assert duration_at(config_of("llama-3.1-405b"), LLAMA, 0.41).gpu_hours == pytest.approx(30.84e6, rel=0.3)


def test_llama_3_1_without_being_told() -> None:
    """The published mesh with this package's own assumptions."""
    estimate = best(config_of("llama-3.1-405b"), Mesh(fsdp=128, tp=8, pp=16), LLAMA, STATE, A)
    assert estimate.fits
    assert estimate.utilisation == pytest.approx(0.41, rel=0.3)
    assert duration(LLAMA, estimate.times.step, A.goodput).gpu_hours == pytest.approx(30.84e6, rel=0.3)


def test_durations_agree() -> None:
    config = config_of("qwen3-8b")
    job = Job(64, find_gpu("h100"), 4096, 1024, 1e12)
    estimate = best(config, Mesh(fsdp=64), job, STATE, A)
    given_ = duration_at(config, job, estimate.utilisation)
    assert given_ == pytest.approx(duration(job, estimate.times.step, 1.0)) or given_.days == pytest.approx(
        duration(job, estimate.times.step, 1.0).days
    )
    assert given_.gpu_hours == pytest.approx(given_.days * 24 * 64)
    assert given_.tokens_a_day * given_.days == pytest.approx(1e12)


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(NAMES), st.sampled_from([1, 2, 4, 8, 16, 32]), st.data())
def test_ranks_hold_the_model_together(name: str, ranks: int, data: st.DataObject) -> None:
    """All ranks' weights and optimisers, shards of one replica added up, are the model's; vectors are copied on tp."""
    config = config_of(name)
    mesh = data.draw(st.sampled_from(list(meshes(config, ranks, 4096, 64, 8))))
    copied = weights = 0.0
    for stage in stages(config, mesh.pp, 4096):
        rest, experts = weights_of_rank(stage, mesh)
        shared_rest, shared_experts = sharers(mesh)
        copied += (mesh.tp - 1) * (stage.size.router + stage.size.vectors)
        weights += mesh.tp * (rest + experts * mesh.ep)
        assert mesh.dp * mesh.tp * mesh.pp * shared_rest == ranks and shared_rest == shared_experts * mesh.ep
    tied_twice = config.vocab_size * config.hidden_size if config.tie_word_embeddings and mesh.pp > 1 else 0
    last_norm = config.hidden_size
    assert weights - copied - tied_twice + last_norm == pytest.approx(count(config).total, rel=1e-9)


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(NAMES), st.data())
def test_sharing_never_needs_more_memory(name: str, data: st.DataObject) -> None:
    config, job = config_of(name), Job(8, find_gpu("h100"), 4096, 64, 1e9)
    small = data.draw(st.sampled_from(list(meshes(config, 8, 4096, 64, 8))))
    schedule = Schedule(2, 4096 / small.cp, data.draw(st.booleans()), data.draw(st.sampled_from(RECOMPUTE)))
    alone = peak_memory(config, small, schedule, job.context, STATE, A)
    wider = peak_memory(config, replace(small, fsdp=2 * small.fsdp), schedule, job.context, STATE, A)
    assert wider.optimizer == pytest.approx(alone.optimizer / 2)
    assert wider.weights + wider.gradients <= alone.weights + alone.gradients
    assert wider.activations == alone.activations
    assert all(part >= 0 for part in vars(alone).values()) and alone.total == pytest.approx(sum(vars(alone).values()))


@pytest.mark.parametrize("name", NAMES)
def test_less_is_kept_the_more_is_done_again(name: str) -> None:
    config = config_of(name)
    for layer in range(config.num_hidden_layers):
        kept = [kept_values(config, layer, again) for again in RECOMPUTE]
        assert kept[0] > kept[1] > kept[2] == config.hidden_size


@pytest.mark.parametrize("pp", [1, 3, 4, 5, 36])
def test_stages_cut_the_layers(pp: int) -> None:
    config = config_of("qwen3-8b")
    found = stages(config, pp, 4096)
    assert len(found) == pp and sum(s.layers for s in found) == 36
    assert max(s.layers for s in found) - min(s.layers for s in found) <= 1
    table = config.vocab_size * config.hidden_size
    assert [s.embedding for s in found] == [table, *[0] * (pp - 1)]
    assert [s.head for s in found] == [*[0] * (pp - 1), table]


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(NAMES), st.sampled_from([8, 16, 32]), st.data())
def test_times_of_a_step(name: str, ranks: int, data: st.DataObject) -> None:
    config, gpu = config_of(name), find_gpu("h100")
    mesh = data.draw(st.sampled_from(list(meshes(config, ranks, 4096, 64, 8))))
    job = Job(ranks, gpu, 4096, 64, 1e9)
    schedule = data.draw(st.sampled_from(schedules(config, mesh, job, A)))
    estimate = evaluate(config, mesh, schedule, job, STATE, A)
    # Nothing is faster than the products alone at the highest share of the peak.
    assert 0 < estimate.utilisation <= max(A.products, A.experts, A.attention, A.delta)
    times = estimate.times
    assert times.step == times.compute + times.bubble + times.exposed + times.update
    assert (times.bubble > 0) == (mesh.pp > 1)
    shared = mesh.fsdp * mesh.ep * mesh.cp > 1
    used = {"dp": mesh.dp > 1, "fsdp": shared, **{axis: getattr(mesh, axis) > 1 for axis in ("ep", "tp", "cp", "pp")}}
    assert {axis: times.sent[axis] > 0 for axis in AXES} == used
    # A quicker machine is quicker, slower networks are not.
    quicker = step_time(config, mesh, schedule, 4096, replace(gpu, tflops=2 * gpu.tflops), STATE, A).step
    slower = step_time(config, mesh, schedule, 4096, replace(gpu, link=25, network=2), STATE, A).step
    assert quicker <= times.step * (1 + 1e-9) <= slower * (1 + 1e-8)


def test_volumes_by_hand() -> None:
    """One micro-batch of 4,096 tokens of Qwen3-8B (36 layers, width 4,096, 8 key/value heads of 128), bfloat16."""
    config, gpu = config_of("qwen3-8b"), find_gpu("h100")
    hidden = 4096 * 4096 * 2

    def sent(mesh: Mesh, hold: bool = True) -> dict[str, float]:
        return step_time(config, mesh, Schedule(1, 4096 / mesh.cp, hold, "none"), 4096, gpu, STATE, A).sent

    total = count(config).total - config.hidden_size
    assert sent(Mesh(tp=2))["tp"] == 36 * 8 * hidden / 2
    assert sent(Mesh(cp=2))["cp"] == 36 * 3 * 2048 * 2 * 8 * 128 * 2
    assert sent(Mesh(dp=2))["dp"] == pytest.approx(2 * 4 * total / 2)
    assert sent(Mesh(fsdp=4))["fsdp"] == pytest.approx((2 + 4) * total * 3 / 4)
    assert sent(Mesh(fsdp=4), hold=False)["fsdp"] == pytest.approx((2 + 2 + 4) * total * 3 / 4)
    assert sent(Mesh(pp=2))["pp"] == 2 * hidden
    interleaved = Schedule(1, 4096, True, "none", parts=4)
    assert step_time(config, Mesh(pp=2), interleaved, 4096, gpu, STATE, A).sent["pp"] == 4 * 2 * hidden
    sparse, each = config_of("qwen3-30b-a3b"), 4096 * 2048 * 2
    found = step_time(sparse, Mesh(ep=2), Schedule(1, 4096, True, "none"), 4096, gpu, STATE, A).sent
    assert found["ep"] == 48 * 4 * 8 * each / 2


def test_ranking() -> None:
    config, job = config_of("qwen3-30b-a3b"), Job(16, find_gpu("h100"), 4096, 256, 1e12)
    fitting, others = rank_meshes(config, job, STATE, A)
    room = A.usable * 80e9
    assert all(e.fits and e.memory.total <= room for e in fitting) and all(e.memory.total > room for e in others)
    steps = [e.times.step for e in fitting]
    assert all(b >= a * 0.998 for a, b in itertools.pairwise(steps))
    assert {e.mesh for e in fitting + others} == set(meshes(config, 16, 4096, 256, 8))
    # Each is the quickest of its ways that fit.
    for e in fitting[:5]:
        ways = [evaluate(config, e.mesh, s, job, STATE, A) for s in schedules(config, e.mesh, job, A)]
        assert e.times.step <= 1.001 * min(w.times.step for w in ways if w.fits)
    with pytest.raises(ConfigError, match="no mesh of that many ranks fits") as caught:
        rank_meshes(config, replace(job, ranks=10007), STATE, A)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", shipped_names())
def test_serving(name: str) -> None:
    config, gpu = config_of(name), find_gpu("h100")
    found = {s.precision: s for s in servings(config, gpu, 4096)}
    total = count(config).total
    assert list(found) == list(PRECISIONS)
    assert found["bf16"].weights == 2 * total and found["int4"].weights > total / 2
    for s in found.values():
        assert s.requests >= 1 and s.gpus * 0.9 * gpu.memory * 1e9 > s.weights
    assert found["int4"].gpus <= found["int8"].gpus == found["fp8"].gpus <= found["bf16"].gpus
    assert weight_bytes(config, "bf16")[1] <= 2 * count(config).active


def test_a_dense_model_reads_all_but_the_embedding() -> None:
    config = config_of("qwen3-8b")
    assert weight_bytes(config, "bf16")[1] == 2 * (count(config).total - config.vocab_size * config.hidden_size)


def test_gpus() -> None:
    assert find_gpu("RTX 4090") is GPUS["4090"] and find_gpu("H100") is GPUS["h100"]
    assert all(gpu.source for gpu in GPUS.values())
    with pytest.raises(ConfigError, match="not in the table; expected one of h100") as caught:
        find_gpu("h1000")
    assert "did you mean h100?" in str(caught.value) and "\n" not in str(caught.value)


def test_every_assumption_is_said_in_words() -> None:
    sentences = A.sentences()
    assert len(sentences) == len(A.__dataclass_fields__)
    for name in A.__dataclass_fields__:  # a changed number changes a sentence
        assert replace(A, **{name: 2 * getattr(A, name)}).sentences() != sentences
