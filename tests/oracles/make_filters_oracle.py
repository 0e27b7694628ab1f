"""What datatrove's four filter families say about made-up documents; writes filters_en.jsonl.xz, filters_zh.jsonl.xz.

requirements: datatrove==0.10.1 spacy==3.8.18 jieba==0.42.1 nltk
run: python tests/oracles/make_filters_oracle.py   (some minutes)

From a pool of spoilt documents (filter_documents.py) the record takes, for every rule of every preset, those nearest to
its limit on both sides, some that fire, and a few at random; and it adds documents whose length is adjusted with spaces
until a share of characters meets the limit to the last bit. A line of a file: {"text", preset.family.reason, value}.
"""

import json
import lzma
import random
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent / "data"), str(HERE.parent.parent / "benchmarks" / "peers")]

from datatrove_filters import PRESETS, judge_all  # noqa: E402
from filter_documents import NOTHING, spoilt  # noqa: E402
from filter_grids import grid  # noqa: E402
from made_up_text import chinese, english  # noqa: E402

POOL, NEAREST, FIRING, OTHERS = 5000, 2, 3, 150

# family → value → (setting, datatrove's published limit); of an n-gram rule the pair of its n.
LIMITS: dict[str, dict[str, tuple[str, float]]] = {
    "gopher_quality": {
        "words": ("min_doc_words", 50),
        "mean_word_length": ("min_avg_word_length", 3),
        "hashes": ("max_symbol_word_ratio", 0.1),
        "ellipses": ("max_symbol_word_ratio", 0.1),
        "bullets": ("max_bullet_lines_ratio", 0.9),
        "ellipsis_lines": ("max_ellipsis_lines_ratio", 0.3),
        "alphabetic": ("max_non_alpha_words_ratio", 0.8),
        "stop_words": ("min_stop_words", 2),
    },
    "gopher_repetition": {
        "dup_para_frac": ("dup_para_frac", 0.3),
        "dup_para_char_frac": ("dup_para_char_frac", 0.2),
        "dup_line_frac": ("dup_line_frac", 0.3),
        "dup_line_char_frac": ("dup_line_char_frac", 0.2),
        **{f"top_{n}_gram": ("top_n_grams", t) for n, t in ((2, 0.2), (3, 0.18), (4, 0.16))},
        **{f"duplicated_{n}_n_grams": ("dup_n_grams", round(0.2 - n / 100, 2)) for n in range(5, 11)},
    },
    "c4": {"sentences": ("min_num_sentences", 5)},
    "fineweb": {
        "line_punct_ratio": ("line_punct_thr", 0.12),
        "short_line_ratio": ("short_line_thr", 0.67),
        "char_dup_ratio": ("char_duplicates_ratio", 0.01),
        "list_ratio": ("new_line_ratio", 0.3),
    },
}


def limits_of(preset: str) -> dict[str, float]:
    """{family.value: limit} of a preset. (The upper limits of mean length and words are met by the grids.)"""
    found = {}
    for family, arguments in PRESETS[preset]:
        for value, (setting, published) in LIMITS[family].items():
            limit = arguments.get(setting, published)
            if isinstance(limit, list):
                limit = next((most for n, most in limit if f"_{n}_" in value), published)
            if limit:
                found[f"{family}.{value}"] = limit
    return found


def nearest(pool: list[dict[str, Any]]) -> set[int]:
    """For every limit the documents nearest to it below, above and at it; and some for every reason."""
    chosen: set[int] = set()
    firing: dict[tuple[str, str], list[int]] = defaultdict(list)
    for preset in PRESETS:
        for name, limit in limits_of(preset).items():
            key = f"{preset}.{name}"
            told = sorted((abs(row[key] - limit), i) for i, row in enumerate(pool) if key in row)
            for side in (-1, 0, 1):
                same = [i for _, i in told if (pool[i][key] > limit) - (pool[i][key] < limit) == side]
                chosen.update(same[:NEAREST])
        for i, row in enumerate(pool):
            for family, _ in PRESETS[preset]:
                firing[f"{preset}.{family}", row[f"{preset}.{family}.reason"]].append(i)
    for found in firing.values():
        chosen.update(found[:FIRING])
    return chosen


def adjusted(pool: list[dict[str, Any]], code: str) -> list[dict[str, Any]]:
    """Documents with spaces at their end so that a share of characters is the limit exactly, and one space to either
    side of that."""
    made = []
    for preset in ("en", "zh"):
        for name, limit in limits_of(preset).items():
            if not name.endswith(("char_frac", "_gram", "_grams", "char_dup_ratio")):
                continue
            key, left = f"{preset}.{name}", 2
            for row in pool:
                text = row["text"]
                whole = len(text.replace("\n", "")) if "fineweb" in name else len(text)
                part = round(row.get(key, 0.0) * whole)
                wanted = round(part / limit)
                if part and 0 < wanted - whole < 300 and part / wanted == limit:
                    rows = [judge_padded(text + " " * (wanted - whole + more), code) for more in (-1, 0, 1)]
                    if rows[1].get(key) == limit:  # unless the spaces made a line another one
                        made += rows
                        left -= 1
                if not left:
                    break
    return made


def judge_padded(text: str, code: str) -> dict[str, Any]:
    return {"text": text} | judge_all(text, code)


def record(code: str) -> list[dict[str, Any]]:
    rng = random.Random(f"filters {code}")
    paragraph = english if code == "en" else chinese
    texts = list(NOTHING)
    for _ in range(POOL):
        lines = [paragraph(rng, rng.randrange(1, 4)) for _ in range(rng.choice((1, 2, 3, 4, 5, 6, 8, 10)))]
        texts.append(spoilt(rng, lines, code))
    pool = [{"text": text} | judge_all(text, code) for text in texts]
    chosen = nearest(pool) | set(range(len(NOTHING))) | set(rng.sample(range(len(pool)), OTHERS))
    crafted = [{"text": text} | judge_all(text, code) for text in grid(code)]
    return [*(pool[i] for i in sorted(chosen)), *adjusted(pool, code), *crafted]


def main() -> None:
    for code in ("en", "zh"):
        rows = record(code)
        target = HERE / f"filters_{code}.jsonl.xz"
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        target.write_bytes(lzma.compress(lines.encode(), preset=9 | lzma.PRESET_EXTREME))
        print(target.name, len(rows), "documents", target.stat().st_size, "bytes")


if __name__ == "__main__":
    main()
