"""datatrove's side of html_speed.py: Trafilatura, its filters and its four MinHash stages, by LocalPipelineExecutor.

requirements: datatrove==0.10.1 trafilatura==2.3.1 spacy==3.8.18 jieba==0.42.1 nltk orjson xxhash==3.8.2
run by the benchmark: python datatrove_html.py extract|whole FOLDER CODE WORKERS

FOLDER/input holds one JSONL file a task; for each line on standard input everything is made anew. The answer is
{"seconds", "kept": ids}; `extract` leaves what it extracted in FOLDER/datatrove/extracted. The workers are forked from
this process, which has loaded the tokenizers.
"""

import json
import shutil
import sys
import time
from functools import lru_cache
from pathlib import Path
from typing import Any

import datatrove.utils.text as words
from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.dedup import MinhashDedupCluster, MinhashDedupFilter, MinhashDedupSignature
from datatrove.pipeline.dedup.minhash import MinhashConfig, MinhashDedupBuckets
from datatrove.pipeline.extractors import Trafilatura
from datatrove.pipeline.readers import JsonlReader
from datatrove.pipeline.writers.jsonl import JsonlWriter
from datatrove.utils.hashing import HashConfig
from datatrove.utils.word_tokenizers import load_word_tokenizer
from datatrove_filters import FILTERS, PRESETS, TOKENIZERS
from loguru import logger

# datatrove_filters.py makes datatrove remember more than it does.
words.split_into_parts = lru_cache(5)(words.split_into_parts.__wrapped__)
TIMEOUT = 30  # seconds a page; the default of 1 would make what is kept depend on how busy the machine is


def run(what: str, folder: Path, code: str, workers: int) -> dict[str, Any]:
    out = folder / "datatrove"
    shutil.rmtree(out, ignore_errors=True)
    tasks = len(list((folder / "input").glob("*.jsonl")))
    plain = {"output_filename": "${rank}.jsonl", "compression": None}
    beginning = [JsonlReader(f"{folder}/input"), Trafilatura(timeout=TIMEOUT)]
    hashing = HashConfig(precision=64, hash_fc="xxhash")
    config = MinhashConfig(hash_config=hashing, num_buckets=14, hashes_per_bucket=8, n_grams=5)
    left = JsonlReader(f"{out}/filtered", glob_pattern="*.jsonl")
    chain = [FILTERS[family](**arguments, language=TOKENIZERS[code]) for family, arguments in PRESETS[code]]
    if what == "extract":
        stages = [([*beginning, JsonlWriter(f"{out}/extracted", **plain)], tasks)]
    else:
        stages = [
            ([*beginning, *chain, JsonlWriter(f"{out}/filtered", **plain)], tasks),
            ([left, MinhashDedupSignature(f"{out}/signatures", config=config, language=TOKENIZERS[code])], workers),
            ([MinhashDedupBuckets(f"{out}/signatures", f"{out}/buckets", config=config)], config.num_buckets),
            ([MinhashDedupCluster(f"{out}/buckets", f"{out}/remove", config=config)], 1),
            ([left, MinhashDedupFilter(f"{out}/remove"), JsonlWriter(f"{out}/kept", **plain)], workers),
        ]
    began = time.perf_counter()
    for number, (pipeline, count) in enumerate(stages):
        LocalPipelineExecutor(
            pipeline, tasks=count, workers=min(workers, count), logging_dir=f"{out}/logs/{number}", start_method="fork"
        ).run()
    seconds = time.perf_counter() - began
    paths = sorted((out / ("extracted" if what == "extract" else "kept")).glob("*.jsonl"))
    return {"seconds": seconds, "kept": sorted(json.loads(line)["id"] for path in paths for line in path.open())}


what, where, code, workers = sys.argv[1:5]
logger.remove()
load_word_tokenizer(TOKENIZERS[code]).word_tokenize("begin 开始")
print("{}", flush=True)
for _ in sys.stdin:
    print(json.dumps(run(what, Path(where), code, int(workers))), flush=True)
