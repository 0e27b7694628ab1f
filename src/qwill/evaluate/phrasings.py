"""How the generated tasks are asked and answered in English and Chinese; the problems are in tasks.py."""

PHRASINGS: dict[str, dict[str, tuple[str, ...]]] = {
    "split": {
        "en": (
            "Name two positive whole numbers that add up to {total}.",
            "Which two positive whole numbers have the sum {total}? Give one pair.",
            "Write {total} as the sum of two positive whole numbers.",
            "Find two positive whole numbers whose total is {total}.",
            "Split {total} into two positive whole numbers.",
        ),
        "zh": (
            "请说出两个正整数，使它们的和等于{total}。",
            "哪两个正整数相加等于{total}？写出一组。",
            "把{total}写成两个正整数之和。",
            "找两个正整数，它们加起来是{total}。",
            "把{total}拆成两个正整数。",
        ),
    },
    "between_inclusive": {
        "en": (
            "Give a whole number from {low} to {high} (both included) that is divisible by {divisor}.",
            "Name one multiple of {divisor} that is at least {low} and at most {high}.",
            "Which whole number from {low} to {high}, ends included, can be divided by {divisor}? Give one.",
        ),
        "zh": (
            "请给出一个从{low}到{high}（含两端）且能被{divisor}整除的整数。",
            "写一个不小于{low}、不大于{high}的{divisor}的倍数。",
            "从{low}到{high}（包括两端），哪个整数能被{divisor}整除？写一个。",
        ),
    },
    "between_strict": {
        "en": (
            "Give a whole number greater than {low} and less than {high} that is divisible by {divisor}.",
            "Name one multiple of {divisor} that is more than {low} and less than {high}.",
            "Which whole number strictly between {low} and {high} can be divided by {divisor}? Give one.",
        ),
        "zh": (
            "请给出一个大于{low}、小于{high}且能被{divisor}整除的整数。",
            "写一个比{low}大、比{high}小的{divisor}的倍数。",
            "在{low}和{high}之间（不含两端），哪个整数能被{divisor}整除？写一个。",
        ),
    },
    "digits": {
        "en": (
            "Write {count} single digits that start with {first} and add up to {total}.",
            "Give {count} digits, the first one {first}, whose sum is {total}.",
            "Find {count} digits from 0 to 9 with sum {total}. The first digit is {first}.",
            "Starting with {first}, list {count} digits that sum to {total}.",
        ),
        "zh": (
            "写{count}个一位数字，第一个是{first}，加起来等于{total}。",
            "请给出{count}个数字（0到9），以{first}开头，总和是{total}。",
            "找{count}个数字，它们的和是{total}，第一个数字是{first}。",
            "从{first}开始，列出{count}个数字，使它们的和为{total}。",
        ),
    },
    "sort_ascending": {
        "en": (
            "Put these numbers in order from smallest to largest: {numbers}.",
            "Sort in ascending order: {numbers}.",
            "Arrange {numbers} from the smallest to the largest.",
        ),
        "zh": (
            "把这些数从小到大排列：{numbers}。",
            "请按升序排列：{numbers}。",
            "将{numbers}由小到大排好。",
        ),
    },
    "sort_descending": {
        "en": (
            "Put these numbers in order from largest to smallest: {numbers}.",
            "Sort in descending order: {numbers}.",
            "Arrange {numbers} from the largest to the smallest.",
        ),
        "zh": (
            "把这些数从大到小排列：{numbers}。",
            "请按降序排列：{numbers}。",
            "将{numbers}由大到小排好。",
        ),
    },
    "reverse": {
        "en": (
            "Write the digits of {digits} backwards.",
            "Reverse the digits {digits}.",
            "What is {digits} written from right to left?",
            "Spell {digits} in reverse order, digit by digit.",
        ),
        "zh": (
            "把{digits}的各位数字倒着写。",
            "将{digits}的数字顺序反过来。",
            "{digits}从右往左写是什么？",
            "请把{digits}倒过来写。",
        ),
    },
    "compare": {
        "en": (
            "Which is larger, {a} or {b}?",
            "Name the larger of {a} and {b}.",
            "Which number is greater: {a} or {b}?",
            "Of the numbers {a} and {b}, which is bigger?",
        ),
        "zh": (
            "{a}和{b}哪个更大？",
            "写出{a}和{b}中较大的数。",
            "哪个数大：{a}还是{b}？",
            "比较{a}与{b}，较大的是多少？",
        ),
    },
    "add": {
        "en": (
            "What is {a} + {b}?",
            "Add {a} and {b}.",
            "What is the sum of {a} and {b}?",
        ),
        "zh": (
            "{a}加{b}等于多少？",
            "计算{a}+{b}。",
            "求{a}与{b}的和。",
        ),
    },
}

SEPARATORS = {"en": ", ", "zh": "、"}
PAIR = {"en": "{0} and {1}", "zh": "{0}和{1}"}

# Short reasoning that leads to the very answer that follows it.
THINKING: dict[str, dict[str, str]] = {
    "split": {
        "en": "I take {a} first. {total} - {a} = {b}.",
        "zh": "先取{a}。{total}-{a}={b}。",
    },
    "between": {
        "en": "{divisor} x {factor} = {value}, and {value} lies between {low} and {high}.",
        "zh": "{divisor}×{factor}={value}，{value}在{low}和{high}之间。",
    },
    "digits": {
        "en": "The digits must add up to {total}: {sum} = {total}.",
        "zh": "这些数字的和应为{total}：{sum}={total}。",
    },
    "sort": {
        "en": "First comes {first}, last comes {last}.",
        "zh": "最前面是{first}，最后面是{last}。",
    },
    "reverse": {
        "en": "Reading from the right: {spaced}.",
        "zh": "从右往左读：{spaced}。",
    },
    "compare": {
        "en": "{large} - {small} = {difference}, so {large} is larger.",
        "zh": "{large}-{small}={difference}，所以{large}更大。",
    },
    "add": {
        "en": "{a} + {b} = {total}.",
        "zh": "{a}+{b}={total}。",
    },
}
