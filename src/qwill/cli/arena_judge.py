"""`qwill arena judge`: a model judges two others on given prompts."""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from qwill.base.errors import ConfigError
from qwill.cli.groups import examples

if TYPE_CHECKING:
    from qwill.evaluate.judge_inputs import Prompt

WIDTH = 20


@dataclass(frozen=True)
class JudgeOptions:
    limit: int
    human: Path | None
    names: str | None
    explain: bool
    thinking: bool
    weighted: bool
    bootstrap: int
    max_tokens: int
    temperature: float
    slots: int
    seed: int
    key_env: str | None
    out: Path | None


@click.command(
    epilog=examples(
        "qwill arena judge runs/demo/sft runs/demo/aligned --prompts prompts.jsonl --judge smollm2",
        "qwill arena judge a.jsonl b.jsonl --prompts prompts.jsonl --judge http://127.0.0.1:8000/v1#qwen3",
        "qwill arena judge a.jsonl b.jsonl --prompts prompts.jsonl --judge runs/judge --human votes.jsonl --json",
    )
)
@click.argument("model_a", metavar="A")
@click.argument("model_b", metavar="B")
@click.option("--prompts", type=click.Path(path_type=Path), required=True, metavar="FILE", help="JSON lines: prompt.")
@click.option(
    "--judge", required=True, metavar="MODEL|URL", help="A model, or URL#MODEL of an OpenAI-compatible server."
)
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="Only the first N prompts.")
@click.option("--human", type=click.Path(path_type=Path), metavar="VOTES.jsonl", help="Votes of people to agree with.")
@click.option("--names", metavar="A,B", help="What the two are called.  [default: their folder, file or model]")
@click.option("--explain", is_flag=True, help="The judge compares in words first; slower, for a large judge.")
@click.option("--thinking", is_flag=True, help="The judge thinks before its verdict, if it can.")
@click.option("--weighted", is_flag=True, help="Count a win by the judge's probability, as AlpacaEval 2 does.")
@click.option("--bootstrap", type=click.IntRange(min=2), metavar="N", help="Also intervals from N resamples.")
@click.option("--max-tokens", type=click.IntRange(min=1), default=512, show_default=True, help="Of a reply of A and B.")
@click.option("--temperature", type=click.FloatRange(min=0), default=0.0, show_default=True, help="Of A and B.")
@click.option("--slots", type=click.IntRange(1, 1024), default=16, show_default=True, help="Conversations at once.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of replies and resamples.")
@click.option("--key-env", metavar="NAME", help="The environment variable that holds the key for the URLs.")
@click.option("--out", type=click.Path(path_type=Path), metavar="FOLDER", help="[default: runs/judge/A-B]")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def judge(
    model_a: str, model_b: str, prompts: Path, judge: str, limit: int | None, human: Path | None, names: str | None,
    explain: bool, thinking: bool, weighted: bool, bootstrap: int | None, max_tokens: int, temperature: float,
    slots: int, seed: int, key_env: str | None, out: Path | None, as_json: bool,
) -> int:  # fmt: skip
    """Let a model judge the replies of A and B, each pair in both orders.

    A and B are models, URL#MODEL of servers, or files of JSON lines with their replies (prompt or id, reply). The
    folder gets every reply and judgement, votes.jsonl for `qwill arena rate`, and summary.json; the same command again
    goes on where it was stopped.
    """
    options = JudgeOptions(
        limit or 0, human, names, explain, thinking, weighted, bootstrap or 0, max_tokens, temperature, slots, seed,
        key_env, out,
    )  # fmt: skip
    return run_judge(model_a, model_b, prompts, judge, options, as_json)


def run_judge(a: str, b: str, prompts: Path, judge: str, options: JudgeOptions, as_json: bool) -> int:
    """Replies, judgements, votes and summary; prints the summary."""
    from qwill.base.files import write_json, write_jsonl
    from qwill.base.progress import Display
    from qwill.evaluate.ask import Asking, respondent
    from qwill.evaluate.judge import judge_pairs, vote_rows
    from qwill.evaluate.judge_inputs import make_pairs, read_human, read_prompts, votes_on
    from qwill.evaluate.judge_summary import summarise

    asked = read_prompts(prompts, options.limit)
    key = _key(options.key_env)
    names = _names(a, b, options.names)
    votes = read_human(options.human, asked, *names) if options.human else None
    who = respondent(judge, key)
    out = options.out or Path("runs") / "judge" / "-".join(re.sub(r"[^\w.]+", "_", name) for name in names)
    if out.exists() and not out.is_dir():
        raise ConfigError(f"{out} is a file; give the name of a folder with --out.")
    out.mkdir(parents=True, exist_ok=True)
    display = Display()
    asking = Asking(options.max_tokens, options.temperature, False, (), options.seed, options.slots)
    replies: list[dict[str, str]] = []
    failed: dict[str, str] = {}
    for side, reference, name in (("a", a, names[0]), ("b", b, names[1])):
        made, wrong = _replies(reference, name, asked, asking, key, out / f"replies-{side}.jsonl", display)
        replies.append(made)
        failed |= wrong
    pairs = make_pairs(asked, *replies)
    if not pairs:
        raise ConfigError(f"no prompt was answered by both models ({next(iter(failed.values()))}).")
    human, others = votes_on(pairs, votes) if votes is not None else (None, 0)
    with display.stage(f"judge {who.name}", 2 * len(pairs), "judgement") as bar:
        judged = judge_pairs(
            who,
            pairs,
            kept=out / "judgements.jsonl",
            explain=options.explain,
            thinking=options.thinking,
            slots=options.slots,
            progress=lambda done: bar.update(done),
        )
    summary = summarise(
        judged, *names, who.name, human=human, weighted=options.weighted, resamples=options.bootstrap, seed=options.seed
    ) | {"not_answered": failed, "votes_on_other_replies": others}
    write_jsonl(out / "votes.jsonl", vote_rows(judged, *names, who.name))
    write_json(out / "summary.json", summary)
    if as_json:
        print(json.dumps(summary | {"folder": str(out)}, ensure_ascii=False, indent=2))
    else:
        print("\n".join(told(summary)))
        print(f"\n{out}: replies, judgements.jsonl, votes.jsonl (qwill arena rate {out / 'votes.jsonl'}), summary.json")
    return 0


def told(summary: dict[str, Any]) -> list[str]:
    """The summary in lines for people."""
    a, b, percent = summary["model_a"], summary["model_b"], f"{summary['confidence']:.0%} interval"
    rate, controlled = summary["win_rate"], summary["length_controlled"]
    lines = [
        f"{a} against {b}: {summary['judged']} of {summary['pairs']} pairs judged by {summary['judge']}, "
        "each in both orders",
        _line("win rate", f"{_share(rate, percent)}; {summary['wins']} wins, {summary['ties']} ties, "
              f"{summary['losses']} losses"),
    ]  # fmt: skip
    if controlled["win_rate"] is not None:
        text = f"{controlled['win_rate']:.1%} as alpaca_eval has it"
        if controlled["unpenalised"] is not None:
            within = controlled["interval"]
            text += (
                f"; without its penalty {controlled['unpenalised']:.1%} ({percent} {within['lower']:.1%} to "
                f"{within['upper']:.1%})"
            )
        lines.append(_line("length-controlled", text))
    if controlled["reason"]:
        lines.append(_line("" if controlled["win_rate"] is not None else "length-controlled", controlled["reason"]))
    better = summary["better"]
    lines.append(_line("better", better or "can't be said: the interval of the win rate holds 50 %."))
    alike, lean = summary["position"]["consistent"], summary["position"]["lean"]
    text = f"{alike['mean']:.0%} ({alike['lower']:.0%} to {alike['upper']:.0%}) judged alike in both orders; "
    text += f"shown first wins {100 * lean['mean']:+.1f} points more often than shown second"
    if lean["lower"] is not None:
        text += f" ({100 * lean['lower']:+.1f} to {100 * lean['upper']:+.1f})"
    lines.append(_line("position", text))
    for language, rates in summary["languages"].items():
        count = rates["wins"] + rates["ties"] + rates["losses"]
        lines.append(_line(language, f"{_share(rates['win_rate'], percent)}; {count} pairs"))
    for name, found in summary.get("agreement", {}).items():
        text = "has no value" if found["kappa"] is None else f"{found['kappa']:.2f}"
        if found["interval"]:
            text += f" ({percent} {found['interval']['lower']:.2f} to {found['interval']['upper']:.2f})"
        text += f" with people on {found['n']} pairs"
        if name == "kappa":
            text += f"; the same verdict on {found['share']:.0%}"
        lines.append(_line("κ" if name == "kappa" else "κ, weighted", text))
        if name == "kappa":
            shares = zip(found["categories"], found["prevalence"], strict=True)
            lines.append(_line("", "of all verdicts " + ", ".join(f"{share:.0%} {what}" for what, share in shares)))
            lines += [_line("", note) for note in found["notes"]]
    if others := summary.get("votes_on_other_replies"):
        lines.append(_line("", f"{others} votes were on other replies to the same prompts and are left out"))
    for why, count in summary["no_verdict"].items():
        lines.append(_line("no verdict", f"{count}: {why}"))
    if (unreadable := summary["unreadable"])["replies"]:
        text = f"{unreadable['replies']} of {unreadable['of']} replies of the judge, such as "
        text += repr(unreadable["examples"][0])
        lines.append(_line("unreadable", text))
    if summary.get("not_answered"):
        why = next(iter(summary["not_answered"].values()))
        lines.append(_line("not answered", f"{len(summary['not_answered'])} prompts, such as: {why}"))
    return lines


def _line(name: str, text: str) -> str:
    return f"{name:<{WIDTH}}{text}"


def _share(rate: dict[str, Any], percent: str) -> str:
    if rate["lower"] is None:
        return f"{rate['mean']:.1%}"
    return f"{rate['mean']:.1%} ({percent} {rate['lower']:.1%} to {rate['upper']:.1%})"


def _key(variable: str | None) -> str | None:
    if variable is None:
        return None
    if not (key := os.environ.get(variable)):
        raise ConfigError(f"--key-env names {variable}, but there is no such environment variable; set it.")
    return key


def _names(a: str, b: str, given: str | None) -> tuple[str, str]:
    if given is not None:
        one, comma, other = (part.strip() for part in given.partition(","))
        if not comma or not one or not other or "," in other:
            raise ConfigError(f"--names is {given!r}, expected two names with a comma between, such as sft,aligned.")
    else:
        one, other = _name(a), _name(b)
    if one == other:
        raise ConfigError(f"both models are called {one!r}: a judge compares two; give two, or --names A,B.")
    return one, other


def _name(reference: str) -> str:
    if reference.startswith(("http://", "https://")):
        return reference.rpartition("#")[2] if "#" in reference else reference
    path = Path(reference)
    return (path.stem if _is_file(reference) else path.name) or reference


def _is_file(reference: str) -> bool:
    return reference.endswith((".jsonl", ".json"))


def _replies(
    reference: str, name: str, prompts: list[Prompt], asking: Any, key: str | None, kept: Path, display: Any
) -> tuple[dict[str, str], dict[str, str]]:
    from qwill.evaluate.ask import respondent
    from qwill.evaluate.judge_inputs import make_replies, read_replies

    if _is_file(reference):
        return read_replies(Path(reference), prompts), {}
    model = respondent(reference, key)
    with display.stage(f"replies {name}", len(prompts), "reply") as bar:
        return make_replies(model, prompts, asking, kept, lambda done: bar.update(done))
