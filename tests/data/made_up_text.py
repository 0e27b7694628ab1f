"""English and Chinese that passes for text: grammatical frames filled by a seeded generator, different every time."""

from __future__ import annotations

import random
import re
from collections.abc import Callable


def _words(text: str, separator: str = " ") -> list[str]:
    return text.split(separator)


_SYLLABLES = _words(
    "ba be bri ca cho da del dor en fa fen gal gor har in jo ka lan lo mar mi nor ol pa qui ra sel ta tor"
)
_ADJECTIVES = _words(
    "old quiet northern bright narrow famous early small wooden heavy public local royal modern ancient"
)
_NOUNS = _words(
    "river town school engine garden bridge letter museum soldier market island teacher window forest castle"
)
_VERBS = _words("built described opened visited crossed sold repaired studied followed painted left reached measured")
_TIMES = _words("in the spring|after the war|at the end of the year|for a long time|on the same day|before it", "|")
_HAN = _words(
    "我们 他们 老师 学生 城市 山上 河边 房间 酒店 服务 早餐 书店 故事 孩子 女儿 朋友 电脑 屏幕 键盘 电池 "
    "价格 质量 颜色 天气 花园 火车 飞机 医院 医生 音乐 电影 历史 文化 经济 科学 语言 文字 词典 意思 声音"
)
_HAN_VERBS = _words("喜欢 看见 听说 知道 觉得 发现 研究 购买 介绍 离开 等待 整理 写完 打开 修理 推荐 怀念 讨论")
_HAN_EXTRA = _words("非常 还是 已经 终于 常常 慢慢地 认真地 高兴地 仍然 突然")


def name(rng: random.Random) -> str:
    """A proper name that no other document is likely to have."""
    return "".join(rng.choice(_SYLLABLES) for _ in range(3)).capitalize()


def english(rng: random.Random, sentences: int = 6) -> str:
    """A paragraph of about 16 words a sentence."""
    parts = []
    for _ in range(sentences):
        who, thing, place = (f"{rng.choice(_ADJECTIVES)} {rng.choice(_NOUNS)}" for _ in range(3))
        year = rng.randrange(1500, 2020)
        parts.append(
            f"The {who} of {name(rng)} was {rng.choice(_VERBS)} by the {thing} {rng.choice(_TIMES)}, "
            f"and {name(rng)} {rng.choice(_VERBS)} the {place} that {name(rng)} had {rng.choice(_VERBS)} in {year}."
        )
    return " ".join(parts)


def chinese(rng: random.Random, sentences: int = 6) -> str:
    """A paragraph of about 20 characters a sentence."""
    parts = []
    for _ in range(sentences):
        a, b, c, d = (rng.choice(_HAN) for _ in range(4))
        parts.append(
            f"{a}{rng.choice(_HAN_EXTRA)}{rng.choice(_HAN_VERBS)}了{b}，"
            f"{c}{rng.choice(_HAN_EXTRA)}在{rng.choice(_HAN)}{rng.choice(_HAN_VERBS)}{d}的{rng.choice(_HAN)}。"
        )
    return "".join(parts)


def altered(text: str, rng: random.Random, share: float) -> str:
    """The text with about `share` of its words, or of its Chinese characters, replaced: the others stay in place."""
    units = re.findall(r"[A-Za-z]+|[^A-Za-z]", text)
    choices = [i for i, unit in enumerate(units) if unit.isalpha()]
    for i in rng.sample(choices, max(1, round(share * len(choices)))):
        units[i] = rng.choice("天地人山水火木金") if ord(units[i][0]) > 0x2E80 else name(rng).lower()
    return "".join(units)


def full_width(text: str) -> str:
    """ASCII letters, digits and punctuation in their East Asian full width."""
    return "".join(chr(ord(c) + 0xFEE0) if "!" <= c <= "~" else c for c in text)


def copies(write: Callable[[random.Random, int], str], seed: int, count: int = 30) -> list[str]:
    """Texts, each followed by copies of which more and more is altered: about half of them near duplicates."""
    rng, texts = random.Random(seed), list[str]()
    for _ in range(count):
        own = write(rng, 12)
        texts += [own, *(altered(own, rng, share) for share in (0.005, 0.02, 0.04, 0.06))]
    return texts
