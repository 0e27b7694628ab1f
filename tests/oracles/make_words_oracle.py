"""Words and sentence counts of made-up strings as datatrove's tokenizers give them: tests/oracles/words.json.xz.

requirements: datatrove==0.10.1 spacy==3.8.18 jieba==0.42.1 nltk regex
run: python tests/oracles/make_words_oracle.py   (with src/ on the path for word_rules.json; two minutes)

The strings are put together at random from the tokenizers' special cases, marks, numbers with units, addresses and
letters of many scripts. A record is [text, its words (or their lengths where they follow one another), sentences].
Not recorded: texts with "IS_ALPHA", which spaCy treats by what it has seen before.
"""

import json
import lzma
import random
from pathlib import Path

from datatrove.utils.text import split_into_sentences
from datatrove.utils.word_tokenizers import SpaCyTokenizer, load_word_tokenizer

HERE = Path(__file__).parent
RULES = json.loads((HERE.parent.parent / "src/qwill/data/word_rules.json").read_text())["rules"]
CODES = {"english": "en", "spaces": "xx", "arabic": "ar", "german": "de", "spanish": "es", "italian": "it",
         "portuguese": "pt", "russian": "ru", "greek": "el", "chinese": "cmn_Hani"}  # fmt: skip
MARKS = [
    "(", ")", "[", "]", "{", "}", "<", ">", '"', "'", "`", "“", "”", "‘", "’", "«", "»", ".", ",", ";", ":",
    "!", "?", "…", "-", "–", "—", "~", "*", "#", "@", "&", "%", "$", "€", "£", "¥", "+", "=", "/", "\\", "|",
    "^", "_", "°", "§", "¿", "¡", " ", "\u3000", "\t", "\n", "\r", "\x0b", "\x0c", "\x1c", "\x85", "\u2028",
    "\u200b", "\u200d", "\ufeff", "́", " ", " ", " ", " ", " ", " ", " ", " ", " ", " ", " ", " ", "  ", "\n\n",
    "..", "...", "....", "……", "——", "--", "---", "'s", "'S", "’s", "’S", "n't",
]  # fmt: skip
NUMBERS = [
    "5", "12", "3.14", "1,000", "10km", "7m²", "5%", "$5", "US$", "C$9", "5$", "5€", "20°C.", "°F.", "9am",
    "10p.m.", "13pm", "5-6", "5*-6", "2^3", "1,b", "10.0.0.1", "8.8.8.8", "192.168.1.1:80", "①", "½", "١٢", "Ⅷ",
]  # fmt: skip
ADDRESSES = [
    "www.example.org", "http://a.bc/d?e=f#g", "https://exa-mple.org:8080/x", "user@mail.example.org",
    "mailto:x@y.zz", "a:b@c.de", "ftp://u:p@h.io/", "x@y@z.com", "@a.bc", "a..bc", "-a.bc", "münchen.de",
    "例え.jp", "h.co:99", "h.co:1", "h.co/", "h.co?", "1.2.3.4/x", "//a.bc", "a://b.cd", "ab://b.cd", "a_b.cd",
    "a-.cd", "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx.com",
    "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx.com", "a.Bc", "A.bc", "end.Next",
    "a.b", "e.g.x",
]  # fmt: skip
LETTERS = [
    "U.S.", "AB.", "Ab.", "ABC.", "F.", "f.", "e-mail", "co-op", "re-", "-un", "x=y", "a<b", "a/b", "a,b",
    "a:b", "ы", "Мир", "мир.", "你好", "世界。", "，", "日本語", "テスト", "안녕", "שלום", "سلام", "؟",
    "हिन्दी", "।", "ไทย", "é", "É", "ß", "ǅ", "İ", "ﬁ", "𝔘", "😀", "👩\u200d💻", "🇨🇳", "❤️", "©", "the", "The",
    "THE", "we’re", "cannot", "well", "A", "b", "I", "WORD", "Word", "word", "hello", "Ωμέγα", "naïve", "\x00",
    "\x01", "\x7f", "\uffff", "�", "(c)", "C++", "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
    "..............................", "((((((((((((((((((((((((((((((",
    "............................................................a",
]  # fmt: skip
HAN = (
    "的一是不了人我在有他这中大来上国个到说们为子和你地出道也时年得就那要下以生会自着去之过家学对可她里后"
    "小么心多天而能好都然没日于起还发成事只作当想看文无开手十用主行方又如前所本见经头面公同三已老从动两长"
    "知民样现分将外但身些与高意进把法此实回二理美点月明其种声全工己话儿者向情部正名定女问力机给等歌漢語這"
    "個說們為時從來國會對開關學門問間東車馬長話請體點還過進龥鿕"
)
LATIN = [
    "AI", "GDP", "3", "2024", "5.6", "100%", "a", "B超", "T恤", "C++", "c#", "www", "e-mail", "_", "+", "#",
    "&", ".", "-", "%", "1.2.3", "x.5%", "卡拉OK", "AA制",
]  # fmt: skip
BETWEEN = [
    "，", "。", "！", "、", " ", "  ", "\n", "\r\n", "\t", "…", "《", "》", "·", "(", ")", "a ", "～", "😀",
    "ひら", "カ", "々", "〇", "㐀", "𠀀", "鿖",
]  # fmt: skip


def strings(rule: str, number: int) -> list[str]:
    dice = random.Random(rule)
    if rule == "chinese":
        kinds = [(list(HAN), 6), (LATIN, 1), (BETWEEN, 1)]
        sizes = [1, 2, 3, 5, 10, 30, 60]
    else:
        cases = [c.replace(" ", "") for name in sorted({rule, "spaces"}) for c in sorted(RULES[name]["cases"])]
        kinds = [(cases, 3), (MARKS, 4), (NUMBERS, 1), (ADDRESSES, 1), (LETTERS, 2)]
        sizes = [1, 1, 2, 2, 3, 3, 4, 5, 6, 8, 12, 20]
    made = []
    for _ in range(number):
        pools = dice.choices([k for k, _ in kinds], [w for _, w in kinds], k=dice.choice(sizes))
        glue = "" if rule == "chinese" else " "
        made.append("".join(dice.choice(pool) + (glue if dice.random() < 0.3 else "") for pool in pools))
    return made


def main() -> None:
    recorded = {}
    for rule, code in CODES.items():
        own = rule not in ("english", "chinese")
        tokenizer = SpaCyTokenizer(code) if own else load_word_tokenizer(code)
        rows = []
        for text in strings(rule, 800 if own else 3000 if rule == "chinese" else 6000):
            words = tokenizer.word_tokenize(text)
            sentences = max(1, len(tokenizer.span_tokenize(text)))
            assert own or sentences == len(split_into_sentences(text, code))
            joined = "".join(text.split()) == "".join(words)
            rows.append([text, [len(w) for w in words] if joined else words, sentences])
        recorded[rule] = rows
    packed = lzma.compress(json.dumps(recorded, ensure_ascii=False).encode(), preset=9)
    (HERE / "words.json.xz").write_bytes(packed)
    print({rule: sum(len(row[1]) for row in rows) for rule, rows in recorded.items()}, len(packed))


if __name__ == "__main__":
    main()
