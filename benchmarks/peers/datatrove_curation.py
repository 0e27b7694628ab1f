"""datatrove's side of curation_speed.py: its filters and its four MinHash stages, by LocalPipelineExecutor.

requirements: datatrove==0.10.1 spacy==3.8.18 jieba==0.42.1 nltk
run by the benchmark: python datatrove_curation.py whole FOLDER CODE WORKERS | filters FILE CODE

whole: FOLDER/input holds one JSONL file a worker; for each line on standard input everything is made anew, and the
answer is {"seconds", "kept": ids, "filtered": how many the filters left, "steps": seconds by stage}. The workers are
forked from this process, which has loaded the tokenizers: that spares datatrove what its default (a fork server, begun
for each of the five stages) costs. filters: every filter on every document, in this process.
"""

import json
import shutil
import sys
import time
from functools import lru_cache
from pathlib import Path
from typing import Any

import datatrove.utils.text as words
from datatrove.data import Document
from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.dedup import MinhashDedupCluster, MinhashDedupFilter, MinhashDedupSignature
from datatrove.pipeline.dedup.minhash import MinhashConfig, MinhashDedupBuckets
from datatrove.pipeline.readers import JsonlReader
from datatrove.pipeline.writers.jsonl import JsonlWriter
from datatrove.utils.hashing import HashConfig
from datatrove.utils.word_tokenizers import load_word_tokenizer
from datatrove_filters import FILTERS, PRESETS, TOKENIZERS
from loguru import logger

# datatrove_filters.py makes datatrove remember more than it does.
words.split_into_parts = lru_cache(5)(words.split_into_parts.__wrapped__)


def filters(code: str) -> list[Any]:
    return [FILTERS[family](**arguments, language=TOKENIZERS[code]) for family, arguments in PRESETS[code]]


def whole(folder: Path, code: str, workers: int) -> dict[str, Any]:
    out = folder / "datatrove"
    shutil.rmtree(out, ignore_errors=True)
    config = MinhashConfig(
        hash_config=HashConfig(precision=64, hash_fc="xxhash"), num_buckets=14, hashes_per_bucket=8, n_grams=5
    )
    left = JsonlReader(f"{out}/filtered", glob_pattern="*.jsonl")
    plain = {"output_filename": "${rank}.jsonl", "compression": None}
    stages = {
        "filters": ([JsonlReader(f"{folder}/input"), *filters(code), JsonlWriter(f"{out}/filtered", **plain)], workers),
        "signatures": (
            [left, MinhashDedupSignature(f"{out}/signatures", config=config, language=TOKENIZERS[code])], workers),
        "buckets": ([MinhashDedupBuckets(f"{out}/signatures", f"{out}/buckets", config=config)], config.num_buckets),
        "clusters": ([MinhashDedupCluster(f"{out}/buckets", f"{out}/remove", config=config)], 1),
        "removal": ([left, MinhashDedupFilter(f"{out}/remove"), JsonlWriter(f"{out}/kept", **plain)], workers),
    }  # fmt: skip
    began, steps = time.perf_counter(), {}
    for name, (pipeline, tasks) in stages.items():
        now = time.perf_counter()
        LocalPipelineExecutor(
            pipeline, tasks=tasks, workers=min(workers, tasks), logging_dir=f"{out}/logs/{name}", start_method="fork"
        ).run()
        steps[name] = time.perf_counter() - now
    seconds = time.perf_counter() - began
    kept = [json.loads(line)["id"] for path in sorted((out / "kept").glob("*.jsonl")) for line in path.open()]
    filtered = sum(1 for path in (out / "filtered").glob("*.jsonl") for _ in path.open())
    return {"seconds": seconds, "steps": steps, "kept": sorted(kept), "filtered": filtered}


def only_filters(texts: list[str], code: str) -> dict[str, Any]:
    kept = []
    began = time.perf_counter()
    for number, text in enumerate(texts):
        document = Document(text=text, id=str(number))
        if all(step.filter(document) is True for step in chain):
            kept.append(number)
    return {"seconds": time.perf_counter() - began, "kept": kept}


what, where, code = sys.argv[1:4]
logger.remove()
load_word_tokenizer(TOKENIZERS[code]).word_tokenize("begin 开始")
chain = filters(code)
lines = Path(where).read_text(encoding="utf-8").split("\n") if what == "filters" else []
texts = [json.loads(line)["text"] for line in lines if line]
print("{}", flush=True)
for _ in sys.stdin:
    told = only_filters(texts, code) if what == "filters" else whole(Path(where), code, int(sys.argv[4]))
    print(json.dumps(told), flush=True)
