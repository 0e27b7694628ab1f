"""Rewards for conversations with tools, called as TRL calls them: a completion is the list of messages behind the
prompt, those of tools among them."""

import re

NUMBER = re.compile(r"-?\d+(?:\.\d+)?")


def right(prompts: list, completions: list[list[dict]], answer: list[str], **columns: list) -> list[float]:
    """1 where the last number of the last message is the answer."""
    found = [NUMBER.findall(said[-1]["content"] or "") for said in completions]
    return [float(bool(numbers) and float(numbers[-1]) == float(a)) for numbers, a in zip(found, answer, strict=True)]


def called(prompts: list, completions: list[list[dict]], **columns: list) -> list[float]:
    """1 where a tool gave a result that is no error."""
    results = [[m["content"] for m in said if m["role"] == "tool"] for said in completions]
    return [float(any(not text.startswith("Error") for text in found)) for found in results]
