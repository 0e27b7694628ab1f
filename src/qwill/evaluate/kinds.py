"""The task family `kinds`: "Name two countries, one month and two colors." Many right answers, each easy to check.

A problem is a row of (kind, count); any words of the kinds asked for, all different and no others, in any order, are
right. Words are common ones, so that a model of a few million parameters can learn them; what it must get right is
which kinds were asked for, how many of each, and not to repeat itself.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from dataclasses import dataclass


@dataclass(frozen=True)
class Kind:
    """`en`: singular and plural; `zh`: noun with its measure word. The words of one kind belong to no other."""

    en: tuple[str, str]
    zh: tuple[str, str]
    en_words: tuple[str, ...]
    zh_words: tuple[str, ...]


def _kind(en: str, plural: str, measure: str, zh: str, en_words: str, zh_words: str) -> Kind:
    return Kind((en, plural), (measure, zh), tuple(en_words.split()), tuple(zh_words.split()))


# fmt: off
KINDS: dict[str, Kind] = {
    "country": _kind("country", "countries", "个", "国家",
                     "China France Japan Canada India Brazil Germany Mexico England Ireland Australia Italy",
                     "中国 法国 日本 加拿大 印度 巴西 德国 墨西哥 英国 爱尔兰 澳大利亚 意大利"),
    "month": _kind("month", "months", "个", "月份",
                   "January February March April May June July August September October November December",
                   "一月 二月 三月 四月 五月 六月 七月 八月 九月 十月 十一月 十二月"),
    "color": _kind("color", "colors", "种", "颜色",
                   "red blue yellow black white green brown pink", "红色 蓝色 黄色 黑色 白色 绿色 棕色 粉色"),
    "number": _kind("number", "numbers", "个", "数字",
                    "one two three four five six seven eight nine ten", "一 二 三 四 五 六 七 八 九 十"),
    "language": _kind("language", "languages", "种", "语言",
                      "English French Spanish Japanese Latin Greek German Chinese",
                      "英语 法语 西班牙语 日语 拉丁语 希腊语 德语 汉语"),
    "animal": _kind("animal", "animals", "种", "动物",
                    "cat dog pig bird fish horse cow sheep lion bear", "猫 狗 猪 鸟 鱼 马 牛 羊 狮子 熊"),
    "sport": _kind("sport", "sports", "项", "运动",
                   "football baseball basketball tennis golf hockey running swimming",
                   "足球 棒球 篮球 网球 高尔夫 排球 跑步 游泳"),
    "relative": _kind("family member", "family members", "位", "家人",
                      "mother father sister brother son daughter wife husband",
                      "妈妈 爸爸 姐姐 哥哥 儿子 女儿 妻子 丈夫"),
    "body": _kind("body part", "body parts", "个", "身体部位",
                  "hand head leg eye ear heart skin bone", "手 头 腿 眼睛 耳朵 心 皮肤 骨头"),
    "city": _kind("city", "cities", "座", "城市",
                  "London Paris Chicago Rome Tokyo Berlin Boston Moscow", "北京 上海 广州 伦敦 巴黎 罗马 东京 柏林"),
    "drink": _kind("drink", "drinks", "种", "饮料",
                   "water milk tea coffee juice beer wine", "水 牛奶 茶 咖啡 果汁 啤酒 酒"),
    "vehicle": _kind("vehicle", "vehicles", "种", "交通工具",
                     "car bus ship train plane boat truck", "汽车 公交车 船 火车 飞机 自行车 卡车"),
    "season": _kind("season", "seasons", "个", "季节", "spring summer autumn winter", "春天 夏天 秋天 冬天"),
    "building": _kind("building", "buildings", "座", "建筑",
                      "house school hospital bank station church hotel", "房子 学校 医院 银行 车站 教堂 酒店"),
}
# fmt: on
COUNTS = {"en": ("one", "two"), "zh": ("一", "两")}
PHRASINGS = {
    "en": ("Name {}.", "List {}.", "Write down {}.", "Please give me {}."),
    "zh": ("请说出{}。", "列出{}。", "写出{}。", "请给我{}。"),
}
SEPARATOR = {"en": ", ", "zh": "、"}
KIND_OF = {
    "en": {word.lower(): name for name, kind in KINDS.items() for word in kind.en_words},
    "zh": {word: name for name, kind in KINDS.items() for word in kind.zh_words},
}

Wanted = list[tuple[str, int]]


def draw(rng: random.Random) -> list[str]:
    """Two or three kinds, one or two of each, as the values of a problem: `country`, `2`, `month`, `1` …"""
    names = rng.sample(sorted(KINDS), rng.choice((2, 3)))
    return [part for name in names for part in (name, str(rng.randint(1, 2)))]


def wanted(values: tuple[str, ...]) -> Wanted:
    return [(name, int(count)) for name, count in zip(values[::2], values[1::2], strict=True)]


def ask(values: tuple[str, ...], language: str, rng: random.Random) -> tuple[str, str, str]:
    """(prompt, answer, thinking) in one phrasing, the words drawn uniformly."""
    asked, words, thoughts = [], [], []
    for name, count in wanted(values):
        kind, number = KINDS[name], COUNTS[language][count - 1]
        if language == "en":
            asked.append(f"{number} {kind.en[count > 1]}")
            chosen, label = rng.sample(kind.en_words, count), f"{number} {kind.en[count > 1]}: "
        else:
            asked.append(f"{number}{kind.zh[0]}{kind.zh[1]}")
            chosen, label = rng.sample(kind.zh_words, count), f"{number}{kind.zh[0]}{kind.zh[1]}："
        words += chosen
        thoughts.append(label + SEPARATOR[language].join(chosen))
    joined = f"{SEPARATOR[language].join(asked[:-1])}{' and ' if language == 'en' else '和'}{asked[-1]}"
    prompt = rng.choice(PHRASINGS[language]).format(joined)
    thinking = "; ".join(thoughts) + "." if language == "en" else "；".join(thoughts) + "。"
    return prompt, SEPARATOR[language].join(words), thinking


def solves(values: tuple[str, ...], language: str, text: str) -> bool:
    """Whether `text` is a list of exactly the words asked for, separated by commas, 、 or "and", and nothing else."""
    words = [w.strip(" .。*\n").lower() for w in re.split(r",\s*and\s|[,、，\n]|\sand\s|和", text)]
    if len(set(words)) != len(words):
        return False
    found = Counter(KIND_OF[language].get(word) for word in words)
    return found == Counter(dict(wanted(values)))
