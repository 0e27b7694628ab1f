"""The peer of quantised_quality.py: what llama.cpp makes of a GGUF file of floats, and how well that predicts tokens.

One job as JSON on the command line: `source` (F32 GGUF), `folder`, `kinds` (names as in llama-quantize; F32: as it is),
`windows` (a file with a JSON list of lists of token ids). One line of JSON for each kind: the sum of −log p, in float64
from float32 logits, over all tokens but each window's first, and the file that it read. Keys and values are float16, as
llama.cpp has them unless told otherwise.
"""

import ctypes
import json
import os
import sys
from pathlib import Path

import llama_cpp
import numpy as np


def quantised(source: str, folder: str, kind: str) -> str:
    if kind == "F32":
        return source
    settings = llama_cpp.llama_model_quantize_default_params()
    settings.ftype, settings.nthread = getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{kind}"), 2
    target = str(Path(folder) / f"{kind}.gguf")
    assert llama_cpp.llama_model_quantize(source.encode(), target.encode(), ctypes.byref(settings)) == 0
    return target


def lost(path: str, windows: list[list[int]]) -> float:
    longest = max(map(len, windows))
    model = llama_cpp.Llama(path, n_ctx=longest, n_batch=longest, n_ubatch=longest, logits_all=True, verbose=False)
    total = 0.0
    for ids in windows:
        model.reset()
        model.eval(ids)
        logits_TV = np.array(model.scores[: len(ids) - 1], dtype=np.float64)
        best_T = logits_TV.max(1)
        norm_T = np.log(np.exp(logits_TV - best_T[:, None]).sum(1)) + best_T
        total += float((norm_T - logits_TV[np.arange(len(ids) - 1), ids[1:]]).sum())
    return total


def main() -> None:
    job = json.loads(sys.argv[1])
    windows = json.loads(Path(job["windows"]).read_text())
    for kind in job["kinds"]:
        path = quantised(job["source"], job["folder"], kind)
        said = {"kind": kind, "lost": lost(path, windows), "file": path, "bytes": os.path.getsize(path)}
        print(json.dumps(said | {"version": llama_cpp.__version__}), flush=True)


if __name__ == "__main__":
    main()
