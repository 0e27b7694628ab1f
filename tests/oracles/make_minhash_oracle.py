"""What datatrove's MinHash makes of generated English and Chinese documents; writes minhash.json beside this file.

requirements: datatrove==0.10.1 spacy==3.8.18 jieba==0.42.1 nltk xxhash==3.8.2 tokenizers

    VENV/bin/python tests/oracles/make_minhash_oracle.py

Of each document: the text, its simplified form, the words of that, and for 64-bit xxhash and sha1 the signature as the
SHA-256 of its 112 little-endian values with the first two of them, or null where there is none. Of copies more and less
altered (`copies`, made again by the test from the same seed): the clusters of its steps 2 and 3, as indices.
"""

import hashlib
import json
import random
import struct
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

from datatrove.data import Document
from datatrove.pipeline.dedup.minhash import (
    MinhashConfig,
    MinhashDedupBuckets,
    MinhashDedupCluster,
    MinhashDedupSignature,
)
from datatrove.utils.hashing import HashConfig
from datatrove.utils.text import simplify_text

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "data"))

from made_up_text import chinese, copies, english  # noqa: E402

# What simplification can get wrong: numbers, marks, accents, controls, spaces of every kind, scripts.
HOSTILE = {
    "eng": [
        "", " ", "one two three four", "one two three four five", "One TWO\tthree\x00four\x85five\u00a0six\u2028seven",
        "Pi is 3.14159, e 2,718.28; 1.2.3 and ١٢٫٥ or ४२ of ５０ at 10am don't can't U.S.A. e-mail@example.org ok",
        "Ångström naïve café re\u0301sume\u0301 İstanbul ﬁne ½ ² ǅ ẞ straße \u1e9b\u0323 한국어 ไทย हिन्दी का काम தமிழ் "
        "שָׁלוֹם العَرَبِيَّة end",
        "a\u200bb c\ufeffd \U0001d7d8\U0001d7d9 \U0001f600 ok \U00010d41\U0001e5f2 §5 •item a|b~c ^d `e` {f} [g] "
        "<h> \\i",
    ],
    "cmn_Hani": [
        "今天天气", "你好。", "今天天气很好，我们2024年3.5月去了北京！café“引号”（括号）【方】１２％",
        "中文 and English 混合，price 3,000元；ＡＢＣ",
        "學習語言須要時間與耐心，漢字繁體。𠀀𠀁字", "か゚き゚ が ガ 日本語のテキスト、です。",
    ],
}  # fmt: skip
WRITERS = {"eng": english, "cmn_Hani": chinese}


def clusters(texts: list[str], language: str) -> list[list[int]]:
    """Documents of each cluster of two or more, smallest index first."""
    config = MinhashConfig()
    with tempfile.TemporaryDirectory() as folder:
        data = [Document(text=text, id=str(i)) for i, text in enumerate(texts)]
        MinhashDedupSignature(f"{folder}/signatures", config, language=language).run(iter(data), 0, 1)
        for bucket in range(config.num_buckets):
            MinhashDedupBuckets(f"{folder}/signatures", f"{folder}/buckets", config=config).run(
                None, bucket, config.num_buckets
            )
        MinhashDedupCluster(f"{folder}/buckets", f"{folder}/clusters", config, save_cluster_id=True).run(None, 0, 1)
        told = (Path(folder) / "clusters" / "000000.clusters").read_bytes()
    found: dict[int, list[int]] = {}
    for document, cluster in struct.iter_unpack("<2I", told):
        found.setdefault(cluster, []).append(document)
    return sorted(sorted(members) for members in found.values())


def main() -> None:
    rng = random.Random(5)
    record = {"datatrove": version("datatrove"), "spacy": version("spacy"), "jieba": version("jieba"), "documents": []}
    for language, write in WRITERS.items():
        made = [write(rng, sentences) for sentences in (1, 2, 6)] + [write(rng, 40).replace("。", "，", 7)]
        for text in [*HOSTILE[language], *made]:
            entry = {"language": language, "text": text, "simple": simplify_text(text)}
            for name in ("xxhash", "sha1"):
                config = MinhashConfig(hash_config=HashConfig(precision=64, hash_fc=name))
                step = MinhashDedupSignature("/nonexistent", config, language=language)
                shingles = step.get_shingles(text)
                entry["words"] = step.word_tokenizer.word_tokenize(entry["simple"])
                entry[name] = None
                if shingles.size:
                    values = [value for band in step.get_signature(shingles) for value in band]
                    digest = hashlib.sha256(struct.pack(f"<{len(values)}Q", *values)).hexdigest()
                    entry[name] = {"first": values[:2], "sha256": digest}
            record["documents"].append(entry)
    record["copies"] = {language: clusters(copies(write, 3), language) for language, write in WRITERS.items()}
    text = json.dumps(record, ensure_ascii=True, indent=0)
    (HERE / "minhash.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
