"""What curation is worth: at equal tokens, small models trained on the curated corpus against the raw one.

    .venv/bin/python benchmarks/curation_gain.py --work FOLDER [--steps 700] [--threads 2]

The input of both arms is one messy crawl: HTML pages as they are (LibreOffice's help and the kernel's documentation,
English and Chinese, of Debian) and plain texts of the registry, 20 % of all documents planted a second time and 10 % a
second time with a line of their own. Raw: every document as it was found, HTML source and all. Curated: what
`qwill.data.curate` makes of it. One tokenizer for both, trained on as many bytes of each arm and language. Same model,
steps, tokens, rows a step and seeds; a pair of runs begins with the same weights.

Held out whole, of another origin: Wikipedia (quac, wiki_demo) and a Chinese dictionary's explanations (jionlp); texts
that share 13 units in a row with the crawl are left out. Measured: bits per byte, and how often a real sentence is more
likely than the same one corrupted (2,000 pairs a language, curation_gain_data.py). Runs that are done are kept in
FOLDER, an interrupted one goes on: about 3 minutes each on two quiet cores.
"""

from __future__ import annotations

import argparse
import shutil
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from compare import verdict, write_section
from curation_gain_data import HeldOut, crawled, hold_out, share, write_crawl

from qwill.base.files import read_json, write_json
from qwill.base.progress import Display
from qwill.base.stage import StageContext
from qwill.data import curate
from qwill.data.packing import RowLoader
from qwill.data.token_shards import TokenStore, open_token_shards, tokenize_corpus
from qwill.evaluate.bits_per_byte import over_seeds, paired_gain
from qwill.evaluate.statistics import mean_interval
from qwill.model.size import count
from qwill.model.text_bits import text_bits
from qwill.text.tokenizer import Tokenizer
from qwill.text.train_tokenizer import train as train_tokenizer
from qwill.train.proxy import train_proxy
from qwill.train.settings import ProxyConfig

ARMS = ("curated", "raw")
MODEL = ProxyConfig(depth=3, batch_rows=8, row_tokens=256)
VOCABULARY, SAMPLE_BYTES = 8192, 1_000_000
HELD_OUT_BYTES = 150_000
NAMES = {"en": "English", "zh": "Chinese"}


def prepare(work: Path, threads: int) -> tuple[Tokenizer, dict[str, TokenStore], HeldOut]:
    """The crawl, both corpora, the tokenizer, token stores and what is held out; what is there is read back."""
    if not (work / "crawl").is_dir():
        write_crawl(work / "crawl")
    if not (work / "raw").is_dir():
        write_raw(work / "raw", crawled(work / "crawl"))
    if not (work / "curated" / "qwill.json").is_file():
        curate(curation(work / "crawl", threads), work / "curated", Display())
    if not (work / "tokenizer").is_dir():
        texts = [text for arm in ARMS for own in sample(work / arm / "train.parquet").values() for text in own]
        train_tokenizer(texts, VOCABULARY).save(work / "tokenizer")
    tokenizer = Tokenizer.load(work / "tokenizer")
    stores = {}
    for arm in ARMS:
        folder = work / f"tokens-{arm}"
        done = (folder / "index.json").exists()
        stores[arm] = open_token_shards(folder) if done else tokenize_corpus(
            work / arm / "train.parquet", tokenizer, folder
        )  # fmt: skip
    kept = work / "heldout.json"
    if not kept.exists():
        write_json(kept, vars(hold_out(work / "crawl", HELD_OUT_BYTES)))
    return tokenizer, stores, HeldOut(**read_json(kept))


def curation(crawl: Path, threads: int) -> dict[str, Any]:
    """The configuration of `qwill curate`: every default, the crawl's parts as sources."""
    sources = []
    for language in sorted(path.name for path in crawl.iterdir()):
        for path in sorted((crawl / language).iterdir()):
            register = "reference" if path.is_dir() else "review" if path.stem.startswith("reviews") else "web"
            sources.append({"name": path.stem, "path": str(path), "register": register})
    return {"sources": sources, "heldout": {"share": 0.01, "min_bytes": 20_000}, "workers": threads}


def write_raw(folder: Path, documents: Iterable[tuple[str, str]]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder.mkdir(parents=True, exist_ok=True)
    languages, texts = zip(*documents, strict=True)
    table = pa.table({"text": pa.array(texts, pa.large_string()), "language": list(languages)})
    pq.write_table(table, folder / "train.parquet", row_group_size=512, compression="zstd")


def sample(parquet: Path) -> dict[str, list[str]]:
    """About SAMPLE_BYTES of each language, the documents with the lowest hashes; the last one is cut to fit."""
    import pyarrow.parquet as pq

    table = pq.read_table(parquet, columns=["text", "language"])
    rows = zip(table["language"].to_pylist(), table["text"].to_pylist(), strict=True)
    left, out = dict.fromkeys(NAMES, SAMPLE_BYTES), dict[str, list[str]]()
    for language, text in sorted(rows, key=lambda row: share(row[1], "tokenizer")):
        if left.get(language, 0) > 0:
            out.setdefault(language, []).append(text.encode()[: left[language]].decode("utf-8", "ignore"))
            left[language] -= len(out[language][-1].encode())
    return out


def run_one(
    arm: str, seed: int, steps: int, work: Path, tokenizer: Tokenizer, store: TokenStore, heldout: HeldOut
) -> dict[str, Any]:
    """Train, score; what is scored already is read back."""
    done = work / f"{arm}-{seed}-{steps}.json"
    if done.exists():
        return dict(read_json(done))
    folder = work / f"run-{arm}-{seed}-{steps}"
    ctx = StageContext(folder, folder, {}, seed, torch.get_num_threads(), Display(quiet=True), None, folder / "m")
    loader = RowLoader(store, MODEL.row_tokens, MODEL.batch_rows, seed)
    started = time.perf_counter()
    model = train_proxy(MODEL, steps, tokenizer, lambda step: loader.step(step), seed, ctx, folder)
    trained = time.perf_counter() - started
    result: dict[str, Any] = {"parameters": count(model.config).total, "seconds": trained, "texts": {}, "pairs": {}}
    result["epochs"] = steps / loader.steps_per_epoch
    for language, texts in heldout.texts.items():
        result["texts"][language] = text_bits(model, tokenizer, texts, MODEL.row_tokens).tolist()
        both = [text for real, corrupted, _ in heldout.pairs[language] for text in (real, corrupted)]
        result["pairs"][language] = text_bits(model, tokenizer, both, MODEL.row_tokens).tolist()
    write_json(done, result)
    shutil.rmtree(folder)
    return result


def analyse(heldout: HeldOut, results: dict[str, list[dict[str, Any]]]) -> dict[str, dict[str, Any]]:
    """language → bits per byte and pair accuracy of both arms, and what curation gained with its intervals."""
    out: dict[str, dict[str, Any]] = {}
    for language, texts in heldout.texts.items():
        sizes = np.array([len(text.encode()) for text in texts], dtype=np.float64)
        bits = {arm: np.array([run["texts"][language] for run in results[arm]]) for arm in ARMS}
        right = {arm: np.array([_right(run["pairs"][language]) for run in results[arm]]) for arm in ARMS}
        gain = paired_gain(bits["curated"], bits["raw"], sizes)
        better_SP = right["curated"] - right["raw"]
        over_pairs = mean_interval(better_SP.mean(0))
        out[language] = {
            "documents": len(texts), "bytes": int(sizes.sum()), "pairs": better_SP.shape[1],
            "bits_per_byte": {arm: float(bits[arm].mean(0).sum() / sizes.sum()) for arm in ARMS},
            "gain": [gain.gain, gain.lower, gain.upper], "gain_seeds": [gain.seeds_lower, gain.seeds_upper],
            "accuracy": {arm: float(right[arm].mean()) for arm in ARMS},
            "better": [over_pairs.mean, over_pairs.lower, over_pairs.upper],
            "better_seeds": list(over_seeds(better_SP.mean(1).tolist())),
            "by_way": _by_way(heldout.pairs[language], right),
        }  # fmt: skip
    return out


def _right(bits: list[float]) -> np.ndarray:
    """1 where the real sentence of a pair is the more likely one, 0.5 where both are equally likely."""
    real, corrupted = np.array(bits).reshape(-1, 2).T
    return (real < corrupted) + 0.5 * (real == corrupted)


def _by_way(pairs: list[tuple[str, str, str]], right: dict[str, np.ndarray]) -> dict[str, dict[str, float]]:
    ways = np.array([way for _, _, way in pairs])
    return {w: {arm: float(right[arm][:, ways == w].mean()) for arm in ARMS} for w in dict.fromkeys(ways.tolist())}


def section(
    found: dict[str, dict[str, Any]], results: dict[str, list[dict[str, Any]]], stores: dict[str, TokenStore],
    heldout: HeldOut, steps: int,
) -> str:  # fmt: skip
    """The section of RESULTS.md."""
    tokens = steps * MODEL.batch_rows * MODEL.row_tokens
    first = {arm: results[arm][0] for arm in ARMS}
    lines = [
        f"Qwen3, depth {MODEL.depth}, {first['raw']['parameters'] / 1e6:.1f} M parameters, {tokens / 1e6:.2f} M tokens "
        f"in {steps} steps, {len(results['raw'])} seeds. The raw corpus has {_million(stores['raw'])} tokens "
        f"({first['raw']['epochs']:.2f} epochs), the curated one {_million(stores['curated'])} "
        f"({first['curated']['epochs']:.2f}). Raw: HTML source as found, 20 % of the documents planted twice and "
        "10 % with a line more. Held out whole: Wikipedia (quac, wiki_demo) and a Chinese dictionary's explanations "
        f"(jionlp), {sum(heldout.dropped.values())} of their texts left out for sharing 13 units in a row with the "
        "crawl.",
        "",
        "| | raw | curated | gain | 95 % over documents or pairs | 95 % over seeds |",
        "|---|---|---|---|---|---|",
    ]
    for language, row in found.items():
        name, bits, right = NAMES[language], row["bits_per_byte"], row["accuracy"]
        gain, better = row["gain"], [100 * x for x in row["better"]]
        seeds, better_seeds = row["gain_seeds"], [100 * x for x in row["better_seeds"]]
        lines += [
            f"| {name}, bits per byte ({row['documents']} documents) | {bits['raw']:.3f} | {bits['curated']:.3f} | "
            f"{gain[0]:.3f} | {gain[1]:.3f} to {gain[2]:.3f} | {seeds[0]:.3f} to {seeds[1]:.3f} |",
            f"| {name}, real before corrupted ({row['pairs']} pairs) | {100 * right['raw']:.1f} % | "
            f"{100 * right['curated']:.1f} % | {better[0]:+.1f} | {better[1]:+.1f} to {better[2]:+.1f} | "
            f"{better_seeds[0]:+.1f} to {better_seeds[1]:+.1f} |",
        ]
    lines += ["", "Real before corrupted by what was done to the sentence, raw and curated: " + "; ".join(
        f"{NAMES[language]} " + ", ".join(
            f"{way} {100 * own['raw']:.0f} and {100 * own['curated']:.0f} %" for way, own in row["by_way"].items()
        )
        for language, row in found.items()
    ) + "."]  # fmt: skip
    met = all(row["gain"][1] > 0 and row["better"][1] > 0 for row in found.values())
    sure = all(row["gain_seeds"][0] > 0 and row["better_seeds"][0] > 0 for row in found.values())
    lines += ["", verdict("that curated beats raw in every row, over documents and pairs", met)
              + f" Over {len(results['raw'])} seeds as well: {'yes' if sure else 'not in every row'}."]  # fmt: skip
    return "\n".join(lines)


def _million(store: TokenStore) -> str:
    return f"{len(store.tokens) / 1e6:.1f} M"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for crawl, corpora and finished runs")
    parser.add_argument("--steps", type=int, default=700)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--prepare", action="store_true", help="make the corpora and stop")
    parser.add_argument("--dry", action="store_true", help="print, but leave RESULTS.md alone")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    arguments.work.mkdir(parents=True, exist_ok=True)
    tokenizer, stores, heldout = prepare(arguments.work, arguments.threads)
    for arm in ARMS:
        print(f"{arm}: {_million(stores[arm])} tokens in {len(stores[arm].offsets) - 1} documents", flush=True)
    if arguments.prepare:
        return
    results: dict[str, list[dict[str, Any]]] = {arm: [] for arm in ARMS}
    for seed in range(arguments.seeds):
        for arm in ARMS:
            result = run_one(arm, seed, arguments.steps, arguments.work, tokenizer, stores[arm], heldout)
            results[arm].append(result)
            print(f"{arm}, seed {seed}: {result['seconds']:.0f} s", flush=True)
    found = analyse(heldout, results)
    write_json(arguments.work / "result.json", found)
    body = section(found, results, stores, heldout, arguments.steps)
    print(body)
    if not arguments.dry:
        write_section("What curation is worth", body)


if __name__ == "__main__":
    main()
