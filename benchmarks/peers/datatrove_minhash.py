"""datatrove's side of minhash.py: its own signature step, its word splitting replaced by the words that it is given."""

import hashlib
import json
import sys
import time
from importlib.metadata import version

import numpy as np
from datatrove.pipeline.dedup.minhash import MinhashConfig, MinhashDedupSignature


class Given:
    """In the place of its tokenizer: the words of the document at hand."""

    words: list[str]

    def word_tokenize(self, text: str) -> list[str]:
        return self.words


def main() -> None:
    with open(sys.argv[1]) as file:
        documents = json.load(file)
    step = MinhashDedupSignature("/nonexistent", MinhashConfig())
    step.word_tokenizer = Given()

    def sign() -> list[list[list[int]]]:
        signatures = []
        for words in documents:
            step.word_tokenizer.words = words
            shingles = step.get_shingles("")
            if shingles.size:
                signatures.append(step.get_signature(shingles))
        return signatures

    digest = hashlib.sha256(np.array(sign(), dtype="<u8").tobytes()).hexdigest()
    print(json.dumps({"sha256": digest, "version": version("datatrove")}), flush=True)
    for _ in sys.stdin:
        started = time.perf_counter()
        sign()
        print(json.dumps({"seconds": time.perf_counter() - started}), flush=True)


if __name__ == "__main__":
    main()
