"""Categories of battles against prompts labelled by hand, in English and Chinese, and what must never change them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwill.evaluate.arena_categories import CATEGORIES, HARD, LONG, categories_of, language_of, marks, text_of, tokens
from qwill.evaluate.arena_style import style_counts, word_count

# Labels were written down before the rules were tried on them: c code, m maths, h hard.
PROMPTS = [
    ("", "Hello! Who are you?"),
    ("", "Write a poem about autumn leaves."),
    ("", "What should I cook for dinner tonight?"),
    ("", "Tell me a joke about cats."),
    ("", "Who wrote Pride and Prejudice?"),
    ("", "Translate 'good morning' into French."),
    ("", "Recommend three books about the Roman empire."),
    ("", "How do I get over a breakup?"),
    ("", "Explain photosynthesis to a child."),
    ("", "What is the capital of Australia?"),
    ("", "Summarize the plot of Hamlet in two sentences."),
    ("", "Give me a name for my new puppy."),
    ("", "Is it better to run in the morning or in the evening?"),
    ("c", "Write a Python function that reverses a string."),
    ("c", "Why do I get 'TypeError: unhashable type' in this code? d = {[1,2]: 3}"),
    ("c", "Fix this:\n```js\nfor (let i = 0; i <= a.length; i++) console.log(a[i]);\n```"),
    ("c", "What does SELECT name FROM users WHERE age > 30 do?"),
    ("c", "How do I undo the last git commit?"),
    ("c", "Centre a div with CSS."),
    ("m", "What is 17 * 23?"),
    ("m", "Solve for x: 3x + 5 = 20"),
    ("m", "Find the derivative of x^2 sin(x)."),
    ("m", "A train travels 60 km in 45 minutes. How far does it travel in 2 hours?"),
    ("m", "Prove that the square root of 2 is irrational."),
    ("m", "What is the probability of rolling two sixes with two dice?"),
    ("m", "The sides of a right triangle are 3 and 4. What is the hypotenuse?"),
    (
        "ch",
        "Our production PostgreSQL database serves 2 million users and some queries take over 5 seconds. Here is the "
        "schema and the slowest query; analyse the root cause, propose an index, and explain the trade-offs. You must "
        "not use more than 10 GB of extra disk.",
    ),
    (
        "ch",
        "Design and implement a distributed rate limiter in Go for our API: at most 100 requests per second per user, "
        "consistent across 5 servers. Compare a token bucket with a sliding window, and include unit tests.",
    ),
    (
        "h",
        "You are the CFO of a startup with a budget of $500,000 and 9 months of runway. Develop a plan that reaches "
        "break-even; compare at least three scenarios, justify each assumption, and format the result as a table. What "
        "are the main risks for our customers? How would you mitigate them?",
    ),
    (
        "mh",
        "Let f be a convex function with L-Lipschitz gradient. Derive the convergence rate of gradient descent with "
        "step 1/L, prove that it is O(1/k), and analyse step by step why the constraint on the step must hold. What "
        "changes if f is strongly convex?",
    ),
    (
        "h",
        "A patient of 64 with atrial fibrillation takes warfarin and must start an antibiotic for pneumonia. Analyse "
        "the interactions, compare at least three options, and propose a plan for monitoring. Which option is the "
        "safest? Why?",
    ),
    ("", "你好，你是谁？"),
    ("", "写一首关于秋天的诗。"),
    ("", "今天晚饭吃什么好？"),
    ("", "给我讲个笑话。"),
    ("", "《红楼梦》的作者是谁？"),
    ("", "把“早上好”翻译成英文。"),
    ("", "推荐三本关于罗马帝国的书。"),
    ("", "失恋了怎么办？"),
    ("", "给小孩子讲讲什么是光合作用。"),
    ("", "澳大利亚的首都是哪里？"),
    ("", "用两句话概括《哈姆雷特》的情节。"),
    ("", "帮我给小狗起个名字。"),
    ("", "早上跑步好还是晚上跑步好？"),
    ("", "帮我写一份请假条，就说我感冒了。"),
    ("", "信用卡的积分商城怎么兑换礼品？"),
    ("c", "用 Python 写一个反转字符串的函数。"),
    ("c", "这段代码为什么报错？d = {[1,2]: 3}"),
    ("c", "用正则表达式匹配邮箱地址。"),
    ("c", "git 怎么撤销上一次提交？"),
    ("c", "写一个爬虫抓取新闻标题。"),
    ("c", "数据库的索引是什么？"),
    ("m", "17 乘以 23 等于多少？"),
    ("m", "解方程 3x + 5 = 20"),
    ("m", "求 x^2 sin(x) 的导数。"),
    ("m", "小明有 12 个苹果，吃了 3 个，又买了 5 个，还剩多少个？"),
    ("m", "证明根号 2 是无理数。"),
    ("m", "掷两个骰子，都是六点的概率是多少？"),
    ("m", "直角三角形的两条直角边是 3 和 4，斜边长是多少？"),
    ("m", "一个长方形的周长是 20 厘米，长是 6 厘米，宽是多少？"),
    (
        "ch",
        "我们线上的 PostgreSQL 数据库有两百万用户，有些查询要 5 秒以上。"
        "请分析根本原因，提出索引方案，并说明权衡；额外占用的磁盘不能超过 10 GB。",
    ),
    (
        "ch",
        "用 Go 设计并实现一个分布式限流器：每个用户每秒至多 100 个请求，"
        "在 5 台服务器之间保持一致。比较令牌桶和滑动窗口，并包含单元测试。",
    ),
    (
        "h",
        "你是一家创业公司的财务总监，预算五百万元，资金只够用九个月。"
        "请提出一个实现盈亏平衡的方案：至少比较三种情景，论证每个假设，"
        "并以表格格式给出。主要风险有哪些？如何降低对客户的影响？",
    ),
    (
        "mh",
        "设 f 是梯度 L-Lipschitz 的凸函数。推导步长为 1/L 的梯度下降的收敛速度，"
        "证明它是 O(1/k)，并逐步分析为什么步长必须满足这个条件。如果 f 是强凸的，结论有什么变化？",
    ),
    (
        "h",
        "一位 64 岁的房颤患者正在服用华法林，现因肺炎必须使用抗生素。请分析药物相互作用，"
        "至少比较三种方案，并提出监测计划。哪种方案最安全？为什么？",
    ),
]
LETTERS = {"c": "code", "m": "maths", "h": "hard"}


def language_label(prompt: str) -> str:
    return "zh" if any("\u4e00" <= letter <= "\u9fff" for letter in prompt) else "en"


@pytest.mark.parametrize("category", ["code", "maths", "hard"])
@pytest.mark.parametrize("language", ["en", "zh"])
def test_rules_agree_with_the_hand(category, language):
    rows = [(labels, prompt) for labels, prompt in PROMPTS if language_label(prompt) == language]
    wrong = [
        prompt
        for labels, prompt in rows
        if (category in categories_of(prompt)) != (category in {LETTERS[letter] for letter in labels})
    ]
    assert len(rows) >= 30
    assert len(wrong) <= 1, wrong


def test_languages():
    for _, prompt in PROMPTS:
        assert language_of(prompt) == language_label(prompt), prompt
    for other in (
        "¿Cuál es la capital de Francia?",
        "Was ist die Hauptstadt von Frankreich, bitte?",
        "Quelle est la capitale de la France et pourquoi ?",
        "フランスの首都はどこですか？",
        "東京都の人口は何人ですか",
        "프랑스의 수도는 어디입니까?",
        "Какая столица у Франции?",
        "ما هي عاصمة فرنسا؟",
        "12 + 34",
        "",
    ):
        assert language_of(other) == "other", other
    assert language_of("Who wrote 红楼梦, the famous Chinese novel, and when?") == "en"
    assert language_of("用 TensorFlow 和 PyTorch 写一个 Transformer") == "zh"
    assert language_of("```python\n# 反转字符串\n```\nWhat does this do and why?") == "en"
    assert categories_of("Hallo", language="de")[0] == "other"
    assert categories_of("你好", language="zh")[0] == "zh"


def test_code_of_both_replies_and_length():
    code = "Here:\n```python\nprint(1)\n```"
    assert "code" in categories_of("Print one.", code, code)
    assert "code" not in categories_of("Say one.", code, "one")
    assert "long" in categories_of("word " * 375) and "long" not in categories_of("word " * 374)
    assert "long" in categories_of("字" * 750) and "long" not in categories_of("字" * 749)
    assert tokens("one two 三四五") == pytest.approx(2 * 4 / 3 + 3 * 2 / 3)
    assert LONG == 500 and HARD == 4


@given(st.text(max_size=300), st.text(max_size=50), st.text(max_size=50))
def test_any_text_has_one_language_and_known_categories(prompt, a, b):
    found = categories_of(prompt, a, b)
    assert found == [name for name in CATEGORIES if name in found]
    assert sum(name in ("en", "zh", "other") for name in found) == 1
    assert found == categories_of(prompt, b, a)  # which side a reply stood on says nothing
    assert len(set(marks(prompt))) == len(marks(prompt)) <= 7


def test_the_text_of_a_row():
    assert text_of({"prompt": "x"}) == "x"
    talk = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}, {"role": "user", "content": "z"}]
    assert text_of({"messages": talk}) == text_of({"prompt": talk}) == "x\n\nz"
    assert text_of({}) == text_of({"messages": [{"role": "user", "content": [1]}]}) == ""


def test_style_is_counted_outside_code():
    reply = (
        "# Title\n\n**bold** and __also__ but not snake__case__name\n\n- one\n* two\n1. three\n2) four\n3、五\n"
        "```python\n# comment\n- x\n**y**\n```\n## End"
    )
    assert style_counts(reply)[1:] == (2, 2, 5)
    assert style_counts("```\n# never closed\n- x")[1:] == (0, 0, 0)
    assert style_counts("") == (0, 0, 0, 0)
    assert word_count("don't re-read 3.5 你好，世界 カナ") == 3 + 4 + 2
    assert style_counts("- a\n" * 1000)[3] == 1000


@given(st.text(alphabet="#*_-`~ \n1.a你", max_size=200))
def test_style_of_any_markdown(reply):
    words, headers, bold, items = style_counts(reply)
    assert words == word_count(reply)
    assert headers + items <= reply.count("\n") + 1
    assert 4 * bold <= len(reply)
