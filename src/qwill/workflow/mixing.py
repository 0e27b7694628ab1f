"""Stage `mixing`: which mixture of a corpus's parts small models learn most from, and what that is worth.

Tiny models are trained on drawn mixtures, a fit learns held-out bits per byte of each language from the shares, a
mixture is proposed (mixing_fit.py), and then it is put to the test: larger runs on the proposed and on the natural
mixture, the same seeds and tokens for both, compared document by document. What it gained is reported as it is.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from qwill.base.config import need_positive
from qwill.base.errors import ConfigError, DataError
from qwill.base.files import read_json, write_json
from qwill.base.stage import StageContext
from qwill.train.settings import ProxyConfig

if TYPE_CHECKING:
    from qwill.data.packing import Piece, TrainingRows
    from qwill.data.token_shards import TokenStore
    from qwill.evaluate.bits_per_byte import Gain
    from qwill.text.tokenizer import Tokenizer

Floats = NDArray[np.float64]
Label = Literal["language", "register", "source"]
REST = "rest"


@dataclass(frozen=True)
class MixingConfig:
    """labels: documents that agree in all of these are a group, whose share is sought; groups that fill fewer than
    `least_rows` rows are one group, `rest`. runs: drawn mixtures (the natural one is tried as well), each for `steps`.
    importance: of each held-out language in the sum that is made small; those that are left out count 1. max_repeats:
    no mixture reads a group's text more often than this in a run. confirm_seeds, confirm_steps: of the comparison.
    heldout_bytes: scored of each language."""

    labels: list[Label] = field(default_factory=lambda: ["language", "source"])
    least_rows: int = 40
    runs: int = 24
    steps: int = 120
    confirm_seeds: int = 3
    confirm_steps: int = 300
    max_repeats: float = 4.0
    importance: dict[str, float] = field(default_factory=dict)
    heldout_bytes: int = 60_000
    model: ProxyConfig = field(default_factory=ProxyConfig)

    def __post_init__(self) -> None:
        need_positive(self, "least_rows", "steps", "confirm_steps", "max_repeats", "heldout_bytes")
        if not self.labels or len(set(self.labels)) < len(self.labels):
            raise ConfigError(f"labels is {self.labels}; expected some of language, register and source, each once.")
        if self.runs < 4 or self.confirm_seeds < 2:
            raise ConfigError(
                f"runs is {self.runs} and confirm_seeds {self.confirm_seeds}; expected at least 4 and 2: a fit and an "
                "interval need that many."
            )


@dataclass(frozen=True)
class Groups:
    """The parts of a corpus: their `names`, the rows of each, and the `natural` share of each."""

    names: list[str]
    rows: list[list[list[Piece]]]
    natural: Floats

    def most(self, row_count: int, repeats: float) -> Floats:
        """The largest share of each group in a run of `row_count` rows."""
        return np.array([len(rows) for rows in self.rows]) * repeats / row_count


def run(config: MixingConfig, ctx: StageContext) -> dict[str, Any]:
    """Write mixing.json: groups, every run, the fits, the proposed mixture, what it gained with intervals, and which of
    the two to `use`.

    Raises DataError for a corpus with fewer than two groups or too little text for one run."""
    from qwill.data.token_shards import tokenize_corpus
    from qwill.text.tokenizer import Tokenizer
    from qwill.workflow.mixing_fit import draw_mixtures, fit, hold_down, propose

    tokenizer = Tokenizer.load(ctx.inputs["tokenizer"])
    parquet = ctx.inputs["corpus"] / "train.parquet"
    store = tokenize_corpus(parquet, tokenizer, ctx.work / "tokens")
    groups = find_groups(store, group_names(parquet, config.labels), config.model.row_tokens, config.least_rows)
    heldout = heldout_sample(ctx.inputs["corpus"], config.heldout_bytes, ctx.seed)
    _check(config, groups, heldout, parquet)
    runs = _Runs(config, ctx, tokenizer, store, groups, heldout)

    drawn_rows = config.steps * config.model.batch_rows
    most = groups.most(drawn_rows, config.max_repeats)
    shares_RG = np.stack([hold_down(groups.natural, most), *draw_mixtures(groups.natural, most, config.runs, ctx.seed)])
    losses: dict[str, list[float]] = {language: [] for language in heldout}
    with ctx.display.stage("mixtures", len(shares_RG), "runs", ctx.budget_s) as bar:
        for i, shares in enumerate(shares_RG):
            # One seed for all: what differs between two runs is the mixture.
            scored = runs.scored(f"mixture-{i:03d}", shares, config.steps, ctx.seed)
            for language, bits in scored.items():
                losses[language].append(float(sum(bits) / runs.bytes[language].sum()))
            bar.update(i + 1, **{k: v[-1] for k, v in losses.items()})
    fits = {language: fit(shares_RG, np.array(own)) for language, own in losses.items()}
    importance = {language: config.importance.get(language, 1.0) for language in heldout}
    # The longer runs of the comparison reach the limit of repeats sooner.
    long_rows = config.confirm_steps * config.model.batch_rows
    most = np.minimum(most, groups.most(long_rows, config.max_repeats))
    proposed = propose(fits, importance, groups.natural, most, ctx.seed)
    gains = _confirm(config, ctx, runs, proposed, hold_down(groups.natural, most))
    gains["all"] = _weighted(gains, importance)
    use = advice(gains["all"])
    ctx.display.say(told(gains["all"], use))

    write_json(ctx.out / "mixing.json", {
        "labels": config.labels,
        "groups": {name: {"rows": len(rows)} for name, rows in zip(groups.names, groups.rows, strict=True)},
        "natural": _named(groups, groups.natural),
        "proposed": _named(groups, proposed),
        "runs": [
            {"shares": _named(groups, shares), "bits_per_byte": {k: v[i] for k, v in losses.items()}}
            for i, shares in enumerate(shares_RG)
        ],
        "fits": {
            language: {
                "form": f.form, "penalty": f.penalty, "prediction_error": f.left_out, "explained": f.explained,
                "intercept": f.intercept, "slopes": _named(groups, f.slopes),
            }
            for language, f in fits.items()
        },
        "gain": {language: asdict(gain) for language, gain in gains.items()},
        "use": use,
    })  # fmt: skip
    return {
        "use": use,
        "gain_bits_per_byte": {k: round(g.gain, 4) for k, g in sorted(gains.items())},
        "groups": len(groups.names),
        "runs": len(shares_RG),
        "explained": {k: round(f.explained, 3) for k, f in fits.items()},
        "gain_interval": {k: [round(g.lower, 4), round(g.upper, 4)] for k, g in gains.items()},
        "gain_interval_over_seeds": {k: [round(g.seeds_lower, 4), round(g.seeds_upper, 4)] for k, g in gains.items()},
    }


def advice(gain: Gain) -> Literal["proposed", "natural"]:
    """The mixture to train on: the proposed one only where its gain is beyond chance, over documents and over seeds."""
    return "proposed" if min(gain.lower, gain.seeds_lower) > 0 else "natural"


def told(gain: Gain, use: Literal["proposed", "natural"]) -> str:
    """The outcome in one sentence."""
    figure = f"the proposed mixture gains {gain.gain:+.4f} bits per byte over the natural one"
    intervals = (
        f"95 %: {gain.lower:+.4f} to {gain.upper:+.4f} over documents, {gain.seeds_lower:+.4f} to "
        f"{gain.seeds_upper:+.4f} over seeds"
    )
    end = "beyond chance, so use it" if use == "proposed" else "not beyond chance, so keep the natural one"
    return f"{figure} ({intervals}): {end}."


def heldout_sample(corpus: Path, limit_bytes: int, seed: int) -> dict[str, list[str]]:
    """Held-out documents of each language, drawn until there are `limit_bytes` (the file is sorted by source, so its
    beginning would be one source)."""
    import pyarrow.parquet as pq

    table = pq.read_table(corpus / "heldout.parquet", columns=["text", "language"])
    texts, languages = table["text"].to_pylist(), table["language"].to_pylist()
    out: dict[str, list[str]] = {}
    size: dict[str, int] = {}
    for i in np.random.default_rng(seed).permutation(len(texts)).tolist():
        language = languages[i]
        if size.get(language, 0) < limit_bytes:
            out.setdefault(language, []).append(texts[i])
            size[language] = size.get(language, 0) + len(texts[i].encode())
    return dict(sorted(out.items()))


def group_names(parquet: Path, labels: Sequence[str]) -> list[str]:
    """The group of each document that a token store of this file has, such as `en/wiki`."""
    import pyarrow.parquet as pq

    names = pq.read_schema(parquet).names
    copies = ["copies"] if "copies" in names else []
    columns = pq.read_table(parquet, columns=[*labels, *copies]).to_pydict()
    joined = ["/".join(values) for values in zip(*(columns[label] for label in labels), strict=True)]
    if copies:
        joined = [name for name, count in zip(joined, columns["copies"], strict=True) if count > 0]
    return joined


def find_groups(store: TokenStore, names: Sequence[str], width: int, least_rows: int) -> Groups:
    """The rows of each group; a document's copies count once here, since how often it is read is what is sought."""
    from qwill.data.packing import Piece, pack_rows

    lengths, name_D = np.diff(store.offsets), np.asarray(names, dtype=str)
    size = {name: int(lengths[name_D == name].sum()) for name in sorted(set(names))}
    small = [name for name, tokens in size.items() if tokens < least_rows * width]
    name_D = np.where(np.isin(name_D, small), REST, name_D)
    kept, rows = list[str](), list[list[list[Piece]]]()
    for name in sorted(set(name_D.tolist())):
        own = name_D == name
        packed = pack_rows(lengths[own].tolist(), store.offsets[:-1][own].tolist(), width)
        if packed:
            kept.append(name)
            rows.append(packed)
    tokens = np.array([len(own) for own in rows], dtype=np.float64)
    return Groups(kept, rows, tokens / max(tokens.sum(), 1.0))


def row_order(groups: Groups, shares: Floats, count: int, seed: int) -> list[tuple[int, int]]:
    """(group, row) of the `count` rows of a run: at every point each group has had its share to within one row, and its
    rows come in an order drawn from (seed, group, pass), the same for every mixture."""
    given = np.zeros(len(shares))
    orders: dict[tuple[int, int], list[int]] = {}
    out = list[tuple[int, int]]()
    for place in range(count):
        group = int(np.argmax(shares * (place + 1) - given))
        turn, at = divmod(int(given[group]), len(groups.rows[group]))
        if (group, turn) not in orders:
            rng = np.random.default_rng([seed, group, turn])
            orders[group, turn] = rng.permutation(len(groups.rows[group])).tolist()
        out.append((group, orders[group, turn][at]))
        given[group] += 1
    return out


@dataclass
class _Runs:
    config: MixingConfig
    ctx: StageContext
    tokenizer: Tokenizer
    store: TokenStore
    groups: Groups
    heldout: dict[str, list[str]]

    @property
    def bytes(self) -> dict[str, Floats]:
        return {k: np.array([len(t.encode()) for t in v], dtype=np.float64) for k, v in self.heldout.items()}

    def scored(self, name: str, shares: Floats, steps: int, seed: int) -> dict[str, list[float]]:
        """Bits of each held-out document after a run on this mixture; what an earlier attempt finished is kept."""
        from qwill.data.packing import assemble
        from qwill.model.text_bits import text_bits
        from qwill.train.proxy import train_proxy

        done = self.ctx.work / f"{name}.json"
        if done.exists():
            return dict(read_json(done))
        model_config = self.config.model
        size = model_config.batch_rows
        order = row_order(self.groups, shares, steps * size, seed)
        ends = set(self.store.offsets[1:].tolist())

        def rows(step: int) -> TrainingRows:
            taken = order[step * size : (step + 1) * size]
            pieces = [piece for group, row in taken for piece in self.groups.rows[group][row]]
            return assemble(self.store, pieces, ends, model_config.row_tokens)

        work = self.ctx.work / name
        model = train_proxy(model_config, steps, self.tokenizer, rows, seed, self.ctx, work)
        result = {
            k: text_bits(model, self.tokenizer, v, model_config.row_tokens).tolist() for k, v in self.heldout.items()
        }
        write_json(done, result)
        shutil.rmtree(work)
        return result


def _confirm(
    config: MixingConfig, ctx: StageContext, runs: _Runs, proposed: Floats, natural: Floats
) -> dict[str, Gain]:
    """What the proposed mixture gains over the natural one in each language."""
    from qwill.evaluate.bits_per_byte import paired_gain

    bits: dict[str, dict[str, list[list[float]]]] = {}
    with ctx.display.stage("proposed against natural", 2 * config.confirm_seeds, "runs", ctx.budget_s) as bar:
        for number in range(config.confirm_seeds):
            for name, shares in (("proposed", proposed), ("natural", natural)):
                # Seeds that no drawn mixture was trained with: the proposal must not have been fitted to them.
                scored = runs.scored(f"{name}-{number}", shares, config.confirm_steps, ctx.seed + 1 + number)
                for language, own in scored.items():
                    bits.setdefault(language, {}).setdefault(name, []).append(own)
                bar.update(2 * number + 1 + (name == "natural"))
    sizes = runs.bytes
    return {k: paired_gain(np.array(v["proposed"]), np.array(v["natural"]), sizes[k]) for k, v in bits.items()}


def _weighted(gains: Mapping[str, Gain], importance: Mapping[str, float]) -> Gain:
    """The languages' gains, weighted as the sum that was made small: their documents are independent, their seeds are
    the same."""
    from qwill.evaluate.bits_per_byte import Gain, over_seeds

    share = {k: importance[k] / sum(importance[k] for k in gains) for k in gains}
    gain = sum(share[k] * g.gain for k, g in gains.items())
    half = sum((share[k] * (g.upper - g.gain)) ** 2 for k, g in gains.items()) ** 0.5
    each = (np.array([g.of_each_seed for g in gains.values()]).T @ np.array(list(share.values()))).tolist()
    return Gain(gain, gain - half, gain + half, *over_seeds(each), each)


def _named(groups: Groups, values: Floats) -> dict[str, float]:
    return {name: round(float(value), 6) for name, value in zip(groups.names, values, strict=True)}


def _check(config: MixingConfig, groups: Groups, heldout: dict[str, list[str]], parquet: Path) -> None:
    if len(groups.names) < 2:
        found = ", ".join(groups.names) or "none"
        raise DataError(
            f"{parquet}: has one group by {' and '.join(config.labels)} ({found}), and a mixture needs two; name other "
            "labels, add sources or lower least_rows."
        )
    for language in config.importance:
        if language not in heldout:
            raise ConfigError(f"mixing.importance names {language!r}; the corpus holds out {', '.join(heldout)}.")
    wanted = max(config.steps, config.confirm_steps) * config.model.batch_rows
    room = sum(len(rows) for rows in groups.rows) * config.max_repeats
    if wanted > room:
        raise DataError(
            f"{parquet}: fills {sum(len(rows) for rows in groups.rows)} rows, and {wanted} are wanted with at most "
            f"{config.max_repeats} repeats; lower steps or raise max_repeats."
        )
