"""Replies that say who wrote them, in English and Chinese: a vote on such a battle was not blind and does not count.

Told by rules alone, so that a replay decides the same: the name of a model that takes part, where the prompt had not
named it; somebody speaking of themselves ("I am …", "我是…", "trained by …", "由…研发") beside the name of any known
model or maker; and a system prompt or the marks of a chat template. What is merely told about models and firms ("OpenAI
was founded in 2015") is no leak.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

Kind = Literal["model", "self", "maker", "system"]


@dataclass(frozen=True)
class Leak:
    """`said`: the words that gave it away. model: the name of a model that takes part; self: who it says it is; maker:
    by whom it says it was made; system: its system prompt or template."""

    kind: Kind
    said: str


# Names as they stand after `folded`. A family's name also covers its versions ("qwen2.5-7b", "gpt4").
MODELS = (
    "qwen", "qwill", "qwq", "qvq", "tongyi", "通义千问", "通义", "千问", "chatgpt", "gpt", "claude", "gemini", "bard",
    "gemma", "llama", "llama chat", "alpaca", "vicuna", "mistral", "mixtral", "mistral ai", "deepseek", "深度求索",
    "chatglm", "glm", "智谱清言", "清言", "ernie", "ernie bot", "文心一言", "文心", "doubao", "豆包", "kimi",
    "moonshot", "hunyuan", "混元", "元宝", "spark", "讯飞星火", "星火",
    "星火认知", "minimax", "abab", "海螺", "baichuan", "百川",
    "yi", "internlm", "书生", "书生浦语", "smollm", "phi", "falcon", "grok", "command r", "cohere command", "olmo",
    "tulu", "copilot", "bing", "siri", "alexa", "pi", "dbrx", "nemotron", "granite", "zephyr", "starling", "solar",
    "jamba", "nova", "titan", "step", "跃问", "天工", "skywork", "商量", "sensechat", "360智脑", "盘古", "pangu",
)  # fmt: skip
MAKERS = (
    "alibaba", "alibaba cloud", "aliyun", "阿里巴巴", "阿里云", "阿里", "达摩院", "通义实验室", "openai", "anthropic",
    "google", "deepmind", "谷歌", "meta", "meta ai", "facebook", "mistral ai", "mistral", "deepseek", "深度求索",
    "zhipu", "zhipu ai", "智谱", "智谱ai", "baidu", "百度", "bytedance", "字节跳动", "字节", "moonshot ai", "月之暗面",
    "tencent", "腾讯", "iflytek", "科大讯飞", "minimax", "稀宇科技", "baichuan", "百川智能", "01.ai", "零一万物",
    "shanghai ai lab", "上海人工智能实验室", "hugging face", "huggingface", "抱抱脸", "microsoft", "微软", "xai",
    "cohere", "amazon", "亚马逊", "nvidia", "英伟达", "ibm", "apple", "苹果", "huawei", "华为", "sensetime", "商汤",
    "stepfun", "阶跃星辰", "昆仑万维", "qwen team", "the qwill project", "qwill", "openbmb", "面壁智能", "清华",
)  # fmt: skip
# Words of every day among the names: only where it is said to be a model, or given as a name.
PLAIN = frozenset(
    ["yi", "phi", "pi", "spark", "nova", "titan", "step", "solar", "bard", "granite", "falcon", "alpaca", "bing",
     "gemini", "llama", "copilot", "zephyr", "starling", "元宝", "海螺", "天工", "书生", "商量", "盘古", "混元", "星火"]
)  # fmt: skip

# The traditional characters that stand in names and in the phrases below, as simplified ones.
SIMPLIFIED = str.maketrans(
    "義問豐訊飛騰誰開發創訓練們個語模製設計團隊來實驗達華為軟蘋歌飄稱縱橫學習研構機器雲聽說點這裡嗎對話網絡資訊",
    "义问丰讯飞腾谁开发创训练们个语模制设计团队来实验达华为软苹歌飘称纵横学习研构机器云听说点这里吗对话网络资讯",
)
INVISIBLE = re.compile("[\u00ad\u200b-\u200f\u202a-\u202e\u2060-\u2064\ufe00-\ufe0f\ufeff]")
MARKUP = re.compile(r"[*_`~#>\[\]\"'“”‘’「」『』《》【】]+")
SPELT = re.compile(r"(?<![a-z0-9])(?:[a-z][ .·-]){2,}[a-z](?![a-z0-9])")

HAN = "\u3400-\u9fff"
# "I am", as said by somebody of themselves, and what may stand between it and a name.
SELF_EN = (
    r"(?:\bi am|\bi'?m|\bim|\bmy name is|\bmy name'?s|\bcall me|\bname me|\bi go by|"
    r"\bknown as|\bi was named|\bi identify as|\byou are (?:talking|chatting|speaking) (?:to|with)|"
    r"\byou(?: a|')re (?:talking|chatting|speaking) (?:to|with)|\bspeaking as|"
    r"(?:^|\n)(?:hi|hello|hey)?[,! ]*this is(?! an? )|"
    r"\bas(?= (?:an? )?(?:ai|large|language|model|assistant|chatbot)))"
)
BETWEEN_EN = (
    r"(?: (?:not|actually|really|just|simply|called|named|known as|the|an?|ai|large|language|model|models|assistant|"
    r"chatbot|virtual|helpful|artificial|intelligence|friendly|open|source|your|version of|of|from|by|based on|"
    r"built on|powered by|one of|series|family|latest|newest|new|developed|created|trained|made|designed|built|is|"
    r"and|,|:)){0,9} ?[,:]? ?"
)
MADE_EN = (
    r"(?:made|created|developed|trained|built|designed|programmed|engineered|produced|released|provided|owned|"
    r"fine-?tuned|brought to you|maintained|published|operated)"
)
SELF_ZH = r"(?:我(?:不)?(?:是|叫|名叫|就是|乃|其实是|实际上是|的名字(?:是|叫)|的名称(?:是|为)|的中文名(?:是|为)?|的英文名(?:是|为)?)|(?:本人|在下|本模型|本助手|人家)(?:是|叫|名叫)?|作为|(?:你|您)(?:正在|现在)?(?:和|与|跟)|这里是|叫我|称我为|称呼我为?)"  # noqa: E501
BETWEEN_ZH = r"[^。！？!?\n；;我]{0,24}?"
MADE_ZH = r"(?:研发|开发|训练|创造|创建|推出|打造|设计|构建|制作|发布|提供|研制|自研|制造|所有|训出|旗下)"

SYSTEM = re.compile(
    r"<\|?im_start\|?>|<\|?im_end\|?>|<\|(?:system|user|assistant|start_header_id|eot_id|begin_of_text)\|>|"
    r"<</?sys>>|\[/?inst\]|<start_of_turn>|"
    r"\bmy (?:system|initial|original|hidden) (?:prompt|message|instructions?)\b(?: is| are| says?| reads?|:)|"
    r"\b(?:here is|here are|this is) my (?:system|initial|original|hidden) (?:prompt|message|instructions?)\b|"
    r"\bi was (?:told|instructed) (?:in|by) (?:my|the) system (?:prompt|message)\b|"
    r"我的(?:系统|初始|原始|隐藏)(?:提示词|提示|指令|消息)(?:是|为|如下|:|说|写)|"
    r"系统(?:提示词|提示|指令)(?:如下|:)"
)


def folded(text: str) -> str:
    """Text as the rules read it: one width and case, simplified characters, without marks that can't be seen, Markdown
    and quotation marks; what is spelt out (q-w-e-n) is put together."""
    text = INVISIBLE.sub("", unicodedata.normalize("NFKC", text)).casefold().translate(SIMPLIFIED)
    text = re.sub(r"[\u2019\u02bc`´]", "'", text)
    text = re.sub(r"(?<![a-z])'|'(?![a-z])", "", text)
    text = re.sub(r"[*_`~#>\[\]\"“”‘「」『』《》【】]+", "", text) if not SYSTEM.search(text) else text
    text = SPELT.sub(lambda found: re.sub("[ .·-]", "", found[0]), text)
    return re.sub(r"[ \t\u3000]+", " ", text)


def leaks_of(reply: str, names: Sequence[str] = (), prompt: str = "") -> list[Leak]:
    """What in a reply (its thinking too) says who wrote it; empty for one that stays anonymous.

    names: the models that take part in the arena; a name that is a word of every day (`base`, `chat`) counts only
    where it is said to be one. prompt: what was asked; who names a model there may be answered about it.
    """
    text, asked = folded(reply), folded(prompt)
    found: list[Leak] = []
    for name in names:
        pattern = _name(name)
        if pattern is not None and (match := pattern.search(text)) and not pattern.search(asked):
            found.append(Leak("model", match[0].strip()))
    own, makers = _self(tuple(sorted(names))), _made()
    for kind, patterns in (("self", own), ("maker", makers)):
        for pattern in patterns:
            if match := pattern.search(text):
                found.append(Leak(kind, match[0].strip()))  # type: ignore[arg-type]
                break
    raw = unicodedata.normalize("NFKC", reply).casefold().translate(SIMPLIFIED)
    if match := SYSTEM.search(raw) or _echo().search(text):
        found.append(Leak("system", match[0].strip()))
    return found


def _distinctive(name: str) -> bool:
    """Whether a name can't be a word of every day: it has a digit or is of a family that is known."""
    plain = folded(name)
    families = {model for model in MODELS if model not in PLAIN and len(model) > 2}
    return (any(c.isdigit() for c in plain) and len(plain) > 3) or any(family in plain for family in families)


@lru_cache(maxsize=256)
def _name(name: str) -> re.Pattern[str] | None:
    """A participant's name wherever it stands, its parts joined in any way; None for a word of every day."""
    if not _distinctive(name):
        return None
    parts = [re.escape(part) for part in re.findall(rf"[a-z]+|[0-9]+|[{HAN}]+", folded(name))]
    return re.compile(r"(?<![a-z0-9])" + r"[ ._:/-]?".join(parts) + r"(?![a-z0-9])") if parts else None


def _any(names: Sequence[str]) -> str:
    """One of the names, with what versions add to it; Latin names stand as words of their own."""
    latin = sorted({re.escape(name) for name in names if name.isascii()}, key=len, reverse=True)
    other = sorted({re.escape(name) for name in names if not name.isascii()}, key=len, reverse=True)
    version = r"(?:[ -]?v?\d[\w.-]*)?(?:-[\w.-]+)?(?![a-z])"
    return "(?:" + "|".join([rf"(?<![a-z0-9])(?:{'|'.join(latin)}){version}", *other]) + ")"


@lru_cache(maxsize=64)
def _self(names: tuple[str, ...]) -> tuple[re.Pattern[str], ...]:
    """Somebody who says that they are one of the known models, or one that takes part."""
    plain = [re.escape(folded(name)) for name in names if not _distinctive(name)]
    known = _any([model for model in MODELS if model not in PLAIN])
    every_day = "|".join([*plain, *(re.escape(word) for word in sorted(PLAIN))])
    return (
        re.compile(rf"{SELF_EN}{BETWEEN_EN}{known}"),
        re.compile(rf"(?:\bmy name is|\bmy name'?s|\bcall me|\bi(?: am|'m) (?:called|named)),? (?:{every_day})\b"),
        re.compile(
            rf"\b(?:i am|i'm) (?:the )?(?:{every_day})(?:,? (?:an?|the|your) (?:\w+ ){{0,4}}(?:model|assistant|ai)\b)"
        ),
        re.compile(rf"\b(?:i am|i'm) the (?:{every_day}) (?:model|assistant)\b"),
        re.compile(rf"{SELF_ZH}{BETWEEN_ZH}{known}"),
        re.compile(rf"(?:我叫|我名叫|我的名字(?:是|叫)|叫我)(?:{every_day})"),
        re.compile(rf"我是(?:{every_day})(?=[,，。!！]|大?模型|助手|$)"),
    )


@lru_cache(maxsize=1)
def _made() -> tuple[re.Pattern[str], ...]:
    """Somebody who says by whom they were made."""
    who = _any([*MAKERS, *(model for model in MODELS if model not in PLAIN)])
    return (
        re.compile(
            rf"(?:\bi(?: am|'m| was|'ve been| have been| got)|\bme|\bmy (?:model|creators?|developers?|makers?|company|"
            rf"training)|\bas an? [a-z ]{{0,40}}?(?:model|assistant|ai|chatbot))\b[^.!?\n]{{0,80}}?"
            rf"\b{MADE_EN}\b(?: \w+){{0,2}}? (?:by|at|from) (?:\w+ ){{0,4}}?{who}"
        ),
        re.compile(rf"{who}[^.!?\n]{{0,20}} (?:{MADE_EN}|trains|creates|makes) (?:me|the model you|this model)\b"),
        re.compile(
            rf"\bmy (?:creators?|developers?|makers?|company|parent company|owners?)(?: is| are|,|:) "
            rf"(?:\w+ ){{0,3}}?{who}"
        ),
        re.compile(
            rf"\b(?:i am|i'm)(?: \w+){{0,3}}? (?:model|assistant|ai|chatbot)\b[^.!?\n]{{0,20}}? (?:from|by|of) {who}"
        ),
        re.compile(
            rf"(?:我|本模型|本助手|作为)[^。！？!?\n；;]{{0,24}}?(?:由|被|是|来自|出自|属于)[^。！？!?\n；;]{{0,10}}?{who}"
            rf"[^。！？!?\n；;]{{0,16}}?{MADE_ZH}"
        ),
        re.compile(rf"我(?:是)?(?:来自|出自|属于|隶属于)(?:于)?{who}"),
        re.compile(rf"我是{who}[^。！？!?\n；;]{{0,12}}?(?:模型|助手|ai|人工智能)"),
        re.compile(rf"{who}[^。！？!?\n；;]{{0,12}}?{MADE_ZH}(?:了|出)?我"),
        re.compile(
            rf"我的(?:开发者|创造者|研发团队|开发团队|开发商|公司|母公司)(?:是|为|来自)?[^。！？!?\n；;]{{0,6}}?{who}"
        ),
    )


@lru_cache(maxsize=1)
def _echo() -> re.Pattern[str]:
    """A system prompt that is told again: "You are Qwen, created by Alibaba Cloud."."""
    known = _any([model for model in MODELS if model not in PLAIN])
    return re.compile(
        rf"\byou are {known}[,.]|\byou are {known} \w+ {MADE_EN}|你是{known}[,，。]|你是由[^。\n]{{0,12}}{MADE_ZH}的"
    )
