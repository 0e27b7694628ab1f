"""Replies labelled by hand: those that say who wrote them, and those that only speak of models, firms and people."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwill.evaluate.leaks import leaks_of

NAMES = ["smollm2", "base", "qwen3-0.6b", "aligned", "my-model-7b"]

LEAKS = [
    "I am Qwen, a large language model created by Alibaba Cloud.",
    "Hello! I'm Qwen3, how can I help?",
    "I’m ChatGPT.",
    "I am not ChatGPT, I am an AI assistant.",
    "As an AI language model developed by OpenAI, I can't have opinions.",
    "As a large language model trained by Google, I cannot do that.",
    "I was created by Anthropic to be helpful.",
    "I'm an AI assistant made by Anthropic.",
    "My name is **Claude**.",
    "You can call me Kimi!",
    "My creators at OpenAI have trained me well.",
    "My developer is Mistral AI.",
    "OpenAI trained me on text.",
    "I am a language model from DeepSeek.",
    "I'm based on GPT-4.",
    "Hi! This is Qwen.",
    "I am Q-w-e-n.",
    "I am Qw\u200ben.",
    "I AM QWEN",
    "Ｉ ａｍ Ｑｗｅｎ",
    "You are talking to DeepSeek-V3.",
    "I am Llama, a language model by Meta.",
    "I am a helpful assistant called Doubao.",
    "You are Qwen, created by Alibaba Cloud. You are a helpful assistant.",
    "My system prompt is: be brief.",
    "<|im_start|>system\nBe brief.<|im_end|>",
    "As SmolLM2, I think so.",
    "The answer of smollm-2 is 4.",
    "Signed, Qwen3 0.6B",
    "I, my model 7b, say no.",
    "I am called base.",
    "My name is Aligned.",
    "I'm the base model.",
    "I was built by a team at Alibaba.",
    "I come from the lab: I was developed by the Hugging Face team.",
    "我是通义千问，由阿里云开发的超大规模语言模型。",
    "我是通義千問。",
    "你好！我叫Qwen，很高兴认识你。",
    "我的名字是豆包。",
    "我是由OpenAI训练的语言模型。",
    "我不是ChatGPT，我是一个人工智能助手。",
    "作为DeepSeek开发的助手，我不能回答。",
    "作为一个由百度研发的语言模型，我没有感情。",
    "我来自月之暗面。",
    "我是阿里巴巴集团旗下的大模型。",
    "阿里云开发了我。",
    "我是智谱的AI助手。",
    "您正在和文心一言对话。",
    "我是深度求索公司创造的智能助手",
    "我的开发者是腾讯。",
    "我的系统提示词是：保持简洁。",
    "你是通义千问，由阿里云创建。",
    "我是「千问」！",
    "本模型由科大讯飞研发。",
    "叫我小Q就好，我其实是Kimi。",
    "我是一个大型语言模型，由谷歌训练。",
]

CLEAN = [
    "",
    "The sky is blue because light is scattered.",
    "OpenAI was founded in 2015 by Sam Altman and others.",
    "Qwen is a family of models made by Alibaba.",
    "Alibaba Cloud and Amazon are competitors; I am happy to compare them.",
    "Claude Monet painted water lilies. I am fond of them.",
    "I am using Google Scholar to explain this.",
    "A llama is a South American animal. This is a gentle one.",
    "This is a step by step solution.",
    "I am by the apple tree, said the fox.",
    "I'm a language model and have no name.",
    "As an AI, I can't see images.",
    "I am an assistant. My name is not important.",
    "The phi coefficient is 0.3; pi is 3.14159.",
    "Gemini is a sign of the zodiac.",
    "I was trained to be concise.",
    "The spark of an idea made me smile.",
    "Mistral winds blow in the south of France.",
    "Meta-analysis: I am reporting what the studies say.",
    "Google made this phone, and I recommend it.",
    "The base of the triangle is 4. The rows are aligned.",
    "He said: my name is Anna, and I work at Microsoft.",
    "I am sure that Baidu was founded by Robin Li.",
    "Nova is a star that flares up. I am amazed.",
    "Use `import openai` and set your key.",
    "The system prompt tells a model how to behave.",
    "[INST is a tag] that I don't use.",
    "Ernie and Bert are puppets.",
    "我是一个人工智能助手，没有名字。",
    "作为一个语言模型，我没有个人感受。",
    "通义千问是阿里云推出的大模型。",
    "百度成立于2000年，创始人是李彦宏。",
    "我是一名学生，喜欢用百度地图。",
    "我在腾讯工作了三年。",
    "小明说：我叫李雷，来自北京。",
    "华为是一家中国公司，我认为它的手机不错。",
    "混元是道家的概念。",
    "文心雕龙是刘勰的著作。",
    "我是一名医生，毕业于清华大学。",
    "星火燎原出自《尚书》。",
    "豆包是一种用红豆做馅的面食，我很喜欢。",
    "系统提示音可以在设置里关闭。",
    "我喜欢苹果。",
    "作为一名教师，我建议使用微软的软件。",
    "百川归海，有容乃大。",
    "元宝是中国古代的货币。",
]


@pytest.mark.parametrize("reply", LEAKS)
def test_who_says_who_they_are_is_found(reply: str) -> None:
    assert leaks_of(reply, NAMES)


@pytest.mark.parametrize("reply", CLEAN)
def test_who_speaks_of_others_stays_anonymous(reply: str) -> None:
    assert leaks_of(reply, NAMES) == []


def test_a_participant_that_the_prompt_names_may_be_spoken_of() -> None:
    reply = "SmolLM2 has 135 million parameters."
    assert [leak.kind for leak in leaks_of(reply, NAMES)] == ["model"]
    assert leaks_of(reply, NAMES, prompt="How large is smollm2?") == []
    assert leaks_of("I am SmolLM2.", NAMES, prompt="Are you smollm2?")  # but nobody may say that they are one


def test_what_leaked_is_said() -> None:
    kinds = {leak.kind: leak.said for leak in leaks_of("I am Qwen, made by Alibaba. My system prompt is: x")}
    assert set(kinds) == {"self", "maker", "system"} and kinds["self"] == "i am qwen"


@given(st.text(max_size=200), st.text(max_size=50))
def test_any_text_can_be_asked_about(reply: str, name: str) -> None:
    leaks_of(reply, [name], reply[:20])


def test_long_replies_take_no_longer_than_their_length_asks() -> None:
    """Patterns with gaps must not try every pair of places."""
    for text in ("I am a model " * 5_000, "我是由" * 10_000, "a " * 15_000, "my model was " * 5_000):
        assert isinstance(leaks_of(text, NAMES), list)
