"""Stage `rejection`: a model answers problems many times, and what is right becomes conversations to fine-tune on.

Qwen3 makes the thinking half of its fusion data so (arXiv 2505.09388 §4.3). Each problem has a random stream of its
own, so that what is kept does not depend on how problems are batched or where a run was cut off.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

from qwill.align.format_rewards import ENABLED
from qwill.align.prompts import Mode, problems, prompt_ids, with_room
from qwill.align.rejection_settings import RejectionConfig
from qwill.align.replies import as_messages
from qwill.align.rewards import Rewards
from qwill.align.rule_rewards import Made, check_rows
from qwill.base.errors import DataError
from qwill.base.files import read_jsonl, write_json, write_jsonl
from qwill.base.stage import StageContext
from qwill.engine.generate import generate
from qwill.engine.language_model import LanguageModel, load
from qwill.engine.sampler import Sampling
from qwill.evaluate.tasks import verify
from qwill.text.parse import parse_reply
from qwill.text.surrogates import all_without_surrogates
from qwill.text.thinking import OUT_OF_TIME, asked_to_think, thinking_budget, well_formed

Row = dict[str, Any]


def run(config: RejectionConfig, ctx: StageContext) -> dict[str, Any]:
    """Fill `ctx.out` with train.jsonl, heldout.jsonl, problems.jsonl (how often each was solved) and account.json.

    Every batch of problems is kept in `ctx.work` once it is answered. Raises DataError naming file, line and field for
    problems that are malformed, and when not one reply was right.
    """
    lm = load(ctx.inputs["sft"])
    if config.thinking and not lm.thinks:
        raise DataError(f"{ctx.inputs['sft']} has no <think> in its tokenizer; set rejection.thinking to false.")
    verified = not config.rewards or any(part.kind == "verifier" for part in config.rewards)
    rows = _chosen(problems(ctx.inputs["tasks"], verified), config.problems)
    check_rows(rows, config.rewards, ctx.inputs["tasks"])
    asked = len(rows)
    modes = [Mode(config.thinking)]
    rows = with_room(rows, lm.tokenizer, lm.model, config.max_tokens, config.too_long, ctx, modes=modes)
    batches = [range(i, min(i + config.batch, len(rows))) for i in range(0, len(rows), config.batch)]
    judged: list[Row] = []
    with (
        Rewards(config.rewards, ctx.display.say) if config.rewards else nullcontext() as rewards,
        ctx.display.stage("rejection", len(rows), "problem", budget_s=ctx.budget_s) as bar,
    ):
        for number, places in enumerate(batches):
            done = ctx.work / f"{number:06d}.jsonl"
            if not done.is_file():
                write_jsonl(done, _answer(lm, rows, places, config, ctx.seed, rewards))
            judged += [row for _, row in read_jsonl(done)]
            bar.update(len(judged), kept=sum(len(row["kept"]) for row in judged))
    if not any(row["kept"] for row in judged):
        raise DataError(
            f"rejection: none of {len(rows) * config.samples} replies was right, so there is nothing to train on; "
            "raise samples or max_tokens, or start from a better model."
        )
    for name, chosen in _split(judged, config.heldout_share).items():
        write_jsonl(ctx.out / f"{name}.jsonl", (talk for row in chosen for talk in row["kept"]))
    write_jsonl(ctx.out / "problems.jsonl", ({k: v for k, v in row.items() if k != "kept"} for row in judged))
    account = {language: _account(judged, language, config.samples) for language in _languages(judged)}
    write_json(ctx.out / "account.json", account)
    counts: dict[str, Any] = {}
    for language, numbers in account.items():
        counts |= {f"{name}_{language}": numbers[name] for name in ("kept", "right", "always_solved", "never_solved")}
    return counts | ({"prompts_too_long": asked - len(rows)} if asked > len(rows) else {})


def _chosen(rows: list[Row], most: int) -> list[Row]:
    """The first `most` rows of each language."""
    if not most:
        return rows
    return [row for language in _languages(rows) for row in [r for r in rows if r["language"] == language][:most]]


def _languages(rows: Sequence[Row]) -> list[str]:
    return sorted({str(row["language"]) for row in rows})


def _answer(
    lm: LanguageModel, rows: Sequence[Row], places: range, config: RejectionConfig, seed: int, rewards: Rewards | None
) -> list[Row]:
    """One row a problem: how many replies were right, and the conversations that are kept."""
    prompts = [prompt_ids(rows[i]["prompt"], lm.tokenizer, config.thinking) for i in places]
    sampling = Sampling(config.max_tokens, config.temperature, top_k=config.top_k, top_p=config.top_p)
    budget = None if config.thinking_budget is None else thinking_budget(lm.tokenizer, config.thinking_budget)
    groups = generate(
        lm.model, prompts, sampling, n=config.samples, slots=len(prompts) * config.samples,
        stop_ids=lm.tokenizer.stop_ids, seed=seed, streams=list(places), vocab_size=lm.tokenizer.vocab_size,
        budget=budget, in_place=True,
    )  # fmt: skip
    every = [
        Made(rows[i] | {ENABLED: config.thinking}, lm.tokenizer.decode(c.token_ids), c.finish_reason == "stop",
             len(c.token_ids), config.max_tokens)
        for i, group in zip(places, groups, strict=True) for c in group
    ]  # fmt: skip
    right = accepted(every, config, rewards)
    made = []
    for number, i in enumerate(places):
        row, own = rows[i], slice(number * config.samples, (number + 1) * config.samples)
        found = [(one.reply, one.tokens) for one, good in zip(every[own], right[own], strict=True) if good]
        kept = choose(found, config, random.Random(f"{seed}/rejection/{row['id']}"))
        made.append({
            "id": row["id"], "language": row["language"], "right": len(found), "samples": config.samples,
            "tokens": [one.tokens for one in every[own]],
            "kept": [_conversation(row, text, place) for place, text in enumerate(kept)],
        })  # fmt: skip
    return made


def accepted(every: Sequence[Made], config: RejectionConfig, rewards: Rewards | None) -> list[bool]:
    """Of each reply, whether it ended by itself, has the form of its mode and the model's own words only, and is
    right."""
    formed = [one for one in every if one.ended and _well_formed(one, config.thinking)]
    if rewards is None:
        good = {id(one): verify(one.row, one.reply) for one in formed}
    else:
        earned = zip(formed, rewards.of_all(formed), strict=True)
        good = {id(one): rewards.total(parts) >= config.least for one, parts in earned}
    return [good.get(id(one), False) for one in every]


def _well_formed(one: Made, thinking: bool) -> bool:
    thinks = asked_to_think(as_messages(one.row["prompt"]), thinking)
    return well_formed(one.reply, thinks, thinking) and OUT_OF_TIME.strip() not in one.reply


def choose(right: Sequence[tuple[str, int]], config: RejectionConfig, rng: random.Random) -> list[str]:
    """At most `keep` different texts of (text, tokens), the shortest or drawn at random."""
    different = list(dict(right).items())
    rng.shuffle(different)
    if config.choose == "shortest":
        different.sort(key=lambda found: found[1])
    return [text for text, _ in different[: config.keep]]


def _conversation(row: Row, text: str, number: int) -> Row:
    messages = [*as_messages(row["prompt"]), parse_reply(text).message()]
    # A call's arguments may have been said with half a pair: \ud83d in JSON.
    messages = all_without_surrogates(messages)
    talk = {"id": f"{row['id']}/{number}", "source": "rejection", "language": row["language"], "messages": messages}
    return talk | ({"family": row["family"]} if "family" in row else {})


def _split(rows: Sequence[Row], share: float) -> dict[str, list[Row]]:
    """By problem, so that no prompt is on both sides; at least one problem is held out where two have replies."""
    solved = [row for row in rows if row["kept"]]
    names = sorted({_prompt(row) for row in solved}, key=lambda name: hashlib.sha256(name.encode()).digest())
    heldout = set(names[: min(max(round(share * len(names)), 1), len(names) - 1)])
    return {
        "train": [row for row in solved if _prompt(row) not in heldout],
        "heldout": [row for row in solved if _prompt(row) in heldout],
    }


def _prompt(row: Row) -> str:
    return repr(row["kept"][0]["messages"][:-1])


def _account(rows: Sequence[Row], language: str, samples: int) -> dict[str, int | float]:
    own = [row for row in rows if row["language"] == language]
    return {
        "problems": len(own),
        "samples": len(own) * samples,
        "right": sum(row["right"] for row in own),
        "kept": sum(len(row["kept"]) for row in own),
        "always_solved": sum(row["right"] == samples for row in own),
        "never_solved": sum(row["right"] == 0 for row in own),
        "tokens_mean": round(sum(sum(row["tokens"]) for row in own) / (len(own) * samples), 1),
    }
