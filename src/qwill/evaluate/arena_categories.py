"""Which leaderboards a battle counts for: its language, code, maths, long and hard prompts, told from its texts.

Pure functions of the texts by rules in English and Chinese, so that a log replayed anywhere gives the same categories.
LMArena sorts by other models' judgement; its bounds are kept where they are plain: a long query has 500 tokens or more,
and a hard prompt shows most of seven marks (Li et al. 2024, "From crowdsourced data to high-quality benchmarks:
Arena-Hard", arXiv 2406.11939: specific, domain knowledge, complex, problem solving, creative, technically exact, from
the real world). Tests hold the rules to prompts labelled by hand.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from qwill.evaluate.arena_style import CHARACTER, FENCE

LANGUAGES = ("en", "zh", "other")
CATEGORIES = (*LANGUAGES, "code", "maths", "long", "hard")
LONG = 500.0  # tokens
HARD = 4  # marks, of MARKS
TOKENS_A_WORD, TOKENS_A_HAN = 4 / 3, 2 / 3  # of Qwen's vocabulary, to the eye
WORDY = 60.0  # tokens: a prompt that says this much has constraints

HAN = re.compile("[\u3400-\u4dbf\u4e00-\u9fff]")
KANA_HANGUL = re.compile("[\u3040-\u30ff\uac00-\ud7af]")
LATIN = re.compile("[A-Za-z]")
OTHER = re.compile(rf"[^\W\d_A-Za-z\u00c0-\u024f{CHARACTER}]")
LATIN_WORD = re.compile("[A-Za-z\u00c0-\u024f]+")
# What English can't do without; in other languages of Latin letters few of these are words.
ENGLISH = frozenset(
    [
        "the", "of", "and", "to", "in", "is", "are", "was", "were", "that", "it", "for", "with", "as", "on",
        "this", "what", "how", "why", "who", "which", "when", "where", "can", "could", "do", "does", "write",
        "explain", "give", "make", "tell", "me", "my", "you", "your", "please", "from", "by", "an", "be",
        "have", "has", "not", "if", "there", "solve", "list", "describe", "find", "create", "translate",
        "prove", "should", "would", "will", "about", "between", "calculate", "compute", "summarize", "help",
        "i", "we", "they", "he", "she",
    ]
)  # fmt: skip
FOREIGN = frozenset(
    [
        "el", "la", "los", "las", "les", "des", "une", "und", "der", "die", "das", "ein", "eine", "ist",
        "nicht", "que", "qué", "est", "et", "pour", "dans", "avec", "comment", "como", "para", "por", "una",
        "il", "che", "di", "della", "è", "não", "um", "uma", "os", "het", "een", "van", "zijn", "och", "att",
        "det", "på", "jak", "nie", "się", "bir", "ve", "için", "cómo", "cuál", "quelle", "wie", "warum",
        "bitte", "mir", "ich",
    ]
)  # fmt: skip

CODE = re.compile(
    r"```|\b\w+(?:Error|Exception)\b|\b(?:this|my|the following) code\b|"
    r"\b(?:postgres\w*|mysql|sqlite|python|javascript|typescript|java|c\+\+|c#|golang|rust|kotlin|haskell|"
    r"sql|regex(?:p|es)?|html|css|bash|json|yaml|api|django|flask|react|numpy|pandas|pytorch|dockerfile|docker|git|"
    r"linux|compiler?|refactor|debug(?:ging)?|"
    r"unit tests?|stack ?trace|traceback|segfault|null pointer|source code|codebase|programming|pseudo-?code|"
    r"shell script|leetcode|algorithm|binary search|linked list|hash ?map|recursion|recursive|multi-?thread\w*)\b|"
    r"\b(?:write|implement|fix|review|optimi[sz]e) (?:\w+ ){0,4}(?:function|code|script|program|class|query|loop)\b|"
    r"\bdef \w+\(|\bfor \w+ in \w+|#include\b|\bSELECT\b.+\bFROM\b|\b\w+\([\w, ]*\)\s*[{:;]|console\.log|print\(|"
    r"代码|编程|程序(?!猿)|脚本|报错|调试|正则表达式|数据库|接口|算法|爬虫|前端|后端|编译|递归|链表|"
    r"(?:写|实现|编写)(?:一个|个)?[^。？！\n]{0,12}(?:函数|方法|类)(?![似型别])",
    re.I,
)
MATHS = re.compile(
    r"\\(?:frac|sum|int|sqrt|begin|mathbb|lim|cdot|times|pi|alpha)|\$[^$\n]*[=^_\\+][^$\n]*\$|"
    r"\d\s*[+*/×÷^]\s*\d|\d\s*[-−–]\s*\d+\s*=|\b[a-z]\s*(?:\^|\*\*)\s*\d|\b\d*[a-z]\s*[+\-*/^]\s*\d+[a-z]?\s*=|=\s*\?|"
    r"\b(?:equations?|integrals?|derivatives?|differentiate|integrate|matri(?:x|ces)|eigenvalues?|theorem|"
    r"polynomials?|prime numbers?|probabilit(?:y|ies)|expected value|geometr(?:y|ic)|algebra|calculus|trigonometr\w+|"
    r"logarithms?|factorial|permutations?|combinatori\w+|hypotenuse|triangle|perimeter|square root|remainder|"
    r"divisible|arithmetic|percent(?:age)? of|proof that|modulo|induction|standard deviation)\b|"
    r"\b(?:prove|show) that\b|\bsolve (?:for|the equation)\b|\bwhat is \d+|"
    r"\bhow (?:many|much|far|fast|old)\b(?=[\s\S]*\d[\s\S]*\d)|"
    r"方程|证明(?!书|材料)|概率|积分(?!兑|商|卡)|导数|微分|几何|代数|矩阵|特征值|定理|质数|素数|三角形|余数|整除|因数|"
    r"倍数|平方|立方|开方|对数|数列|排列组合|周长|面积|体积|百分之|期望值|标准差|最大公约数|最小公倍数|等于(?:多少|几)|"
    r"(?:解|求)(?:出)?[^。？！\n]{0,8}[xyn](?![a-z])|\d\s*[加减乘]\s*\d|\d\s*除以\s*\d|"
    r"(?=[\s\S]*\d[\s\S]*\d)(?:一共|总共|共有|还剩|平均)[^。？！\n]{0,10}(?:多少|几)",
    re.I,
)
ASKS = re.compile(r"[?？]|(?:^|\n)\s*(?:\d{1,2}[.)、]|[-*•])\s*\S")

# One mark each of a hard prompt; code, maths and length are marks too.
MARKS: Mapping[str, re.Pattern[str]] = {
    "specific": re.compile(
        r"\b(?:must|at least|at most|exactly|no more than|without using|only|within|ensure|requirements?|constraints?|"
        r"given that|such that|assume|format|include|avoid|in the style of|no longer than|up to)\b|"
        r"必须|至少|至多|恰好|不超过|不少于|不得|不使用|不能|只能|以内|要求|假设|格式|包括|包含|避免|风格|条件|满足",
        re.I,
    ),
    "domain": re.compile(
        r"\b(?:complexity|distributed|concurren\w+|database|architecture|protocol|quantum|thermodynamic\w*|enzyme|genome|"
        r"immun\w+|clinical|diagnos\w+|pharma\w+|contract|liabilit\w+|statute|regulation|gdpr|inflation|monetary|"
        r"derivatives?|portfolio|valuation|regression|neural|transformer|gradient|bayes\w*|hypothesis|eigen\w+|theorem|"
        r"kernel|latency|throughput|cache|cryptograph\w+|semiconductor|epistemolog\w+|macroeconomic\w*|kubernetes|"
        r"mitochondri\w+|polymer|relativity|postgres\w*|tcp|consensus|transaction\w*|isolation)\b|"
        r"复杂度|分布式|并发|架构|协议|量子|热力学|基因|免疫|临床|诊断|药|合同|责任|法规|法律|条例|通货膨胀|货币|投资组合|估值|"
        r"回归|神经网络|梯度|贝叶斯|假设检验|特征值|定理|内核|延迟|吞吐|缓存|密码学|半导体|宏观经济|事务|隔离级别|一致性|"
        r"线粒体|聚合物|相对论|微服务|注意力机制",
        re.I,
    ),
    "solving": re.compile(
        r"\b(?:design|prove|derive|optimi[sz]e|implement|debug|analy[sz]e|evaluate|compare|contrast|diagnose|refactor|"
        r"plan|propose|develop|solve|critique|justify|reconcile|trade-?offs?|step[- ]by[- ]step|why does|root cause|"
        r"strateg(?:y|ies))\b|"
        r"设计|证明|推导|优化|实现|调试|分析|评估|比较|对比|诊断|重构|规划|方案|提出|开发|求解|批判|论证|权衡|逐步|一步步|"
        r"根本原因|策略|为什么会",
        re.I,
    ),
    "real": re.compile(
        r"\b(?:my (?:company|team|app|server|customers?|project|thesis|business|startup|code|boss|client)|our \w+|"
        r"production|deploy\w*|users?|customers?|patients?|employees?|budget|deadline|stakeholders?|per (?:day|second|"
        r"month|year)|million|startup|business|company|market|legacy)\b|"
        r"我(?:们)?(?:的)?(?:公司|团队|项目|服务器|客户|论文|业务|代码)|线上|生产环境|部署|用户|客户|患者|员工|预算|期限|每天|"
        r"每秒|每月|每年|百万|万人|创业|企业|市场",
        re.I,
    ),
}


def categories_of(prompt: str, reply_a: str = "", reply_b: str = "", language: str | None = None) -> list[str]:
    """The categories of one battle, in the order of CATEGORIES; `language` is that of the prompt if it is known."""
    tongue = language_of(prompt) if language is None else language if language in LANGUAGES else "other"
    found = [tongue]
    # Code that both models wrote was asked for, however the prompt said it.
    if CODE.search(prompt) or (FENCE.search(reply_a) and FENCE.search(reply_b)):
        found.append("code")
    if MATHS.search(_without_fences(prompt)):
        found.append("maths")
    if tokens(prompt) >= LONG:
        found.append("long")
    if len(marks(prompt)) >= HARD:
        found.append("hard")
    return found


def language_of(text: str) -> str:
    """`zh`, `en` or `other`, by the scripts of the letters and, among Latin ones, by the commonest words."""
    prose = _without_fences(text) or text
    han, latin = len(HAN.findall(prose)), len(LATIN.findall(prose))
    kana, other = len(KANA_HANGUL.findall(prose)), len(OTHER.findall(prose))
    # One kana to four Han characters is Japanese at its most Chinese.
    if (kana and 4 * kana >= han) or 2 * other > latin + han:
        return "other"
    # A Chinese word is about two characters, and an English one five letters: names and terms in Latin letters stand
    # in Chinese prompts more often than the other way about.
    if han and 6 * han >= latin:
        return "zh"
    words = [word.lower() for word in LATIN_WORD.findall(prose)]
    known, foreign = sum(word in ENGLISH for word in words), sum(word in FOREIGN for word in words)
    return "en" if words and known >= foreign else "other"


def tokens(text: str) -> float:
    """About how many tokens of Qwen's vocabulary: 4/3 a word, 2/3 a Chinese character."""
    han = len(HAN.findall(text))
    return TOKENS_A_HAN * han + TOKENS_A_WORD * len(re.findall(rf"[^\W{CHARACTER}]+", text))


def marks(prompt: str) -> list[str]:
    """The marks of a hard prompt that this one shows, of seven: MARKS, `technical` (code or maths), `parts` (asks
    for several things) and `complex` (says much)."""
    found = [name for name, pattern in MARKS.items() if pattern.search(prompt)]
    if CODE.search(prompt) or MATHS.search(prompt):
        found.append("technical")
    if len(ASKS.findall(prompt)) >= 2:
        found.append("parts")
    if tokens(prompt) >= WORDY:
        found.append("complex")
    return found


def text_of(row: Mapping[str, Any]) -> str:
    """The prompt of a row of votes: its `prompt`, or what the user said in its `messages`."""
    prompt = row.get("prompt")
    if isinstance(prompt, str):
        return prompt
    messages = row.get("messages") or (prompt if isinstance(prompt, Sequence) else ())
    said = [message.get("content") for message in messages if isinstance(message, Mapping)
            and message.get("role") == "user"]  # fmt: skip
    return "\n\n".join(text for text in said if isinstance(text, str))


def _without_fences(text: str) -> str:
    return FENCE.sub("\n", text).strip()
