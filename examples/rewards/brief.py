"""A reward of your own, called as TRL calls one, with lists of one; `columns` are the other fields of the row."""


def brief(prompts: list[str], completions: list[str], **columns: list) -> list[float]:
    """1 for an answer of at most 12 characters, less the longer it is."""
    return [min(1.0, 12 / max(1, len(text))) for text in completions]
