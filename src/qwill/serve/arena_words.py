"""What the arena says to people, in English and Chinese: prompts to begin with, and what consent means."""

from __future__ import annotations

PROMPTS: dict[str, list[str]] = {
    "en": [
        "Explain why the sky is blue to a ten-year-old.",
        "Write a short poem about a lighthouse that has been switched off.",
        "A train leaves at 9:40 and arrives at 13:05. How long is the journey?",
        "Write a Python function that returns the longest palindrome in a text.",
        "Give me three ideas for a cheap dinner with rice, eggs and spinach.",
        "What are the strongest arguments for and against working four days a week?",
        "Rewrite this more politely: “Your report is late again, send it now.”",
        "I have a job interview tomorrow and can't sleep. What should I do?",
        "Summarise the plot of “Journey to the West” in five sentences.",
        "Which is larger, 9.9 or 9.11? Explain.",
    ],
    "zh": [
        "请用十岁孩子能听懂的话解释天空为什么是蓝色的。",
        "写一首关于冬夜末班车的短诗。",
        "小明有24个苹果，送给弟弟三分之一，又吃了4个，还剩多少个？",
        "用 Python 写一个函数，找出列表中第二大的数。",
        "用米饭、鸡蛋和菠菜做晚饭，给我三个简单的主意。",
        "一周工作四天有什么好处和坏处？",
        "把这句话改得礼貌一些：“你的报告又晚了，马上交。”",
        "明天要面试，我紧张得睡不着，怎么办？",
        "用五句话概括《西游记》的故事。",
        "“画蛇添足”是什么意思？请造一个句子。",
    ],
}

CONSENT = {
    "en": (
        "Your prompt, the two replies and your vote are kept under a pseudonym and counted in the ratings. If you "
        "agree, they may also be used to train models. Don't enter personal data. You can have all of it erased at any "
        "time."
    ),
    "zh": (
        "您的提问、两个回答和投票会以化名保存，并计入评分。如果您同意，它们还可用于训练模型。"
        "请不要输入个人信息。您可以随时要求全部删除。"
    ),
}
