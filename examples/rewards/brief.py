"""A reward of your own: called with lists of one, as TRL's trainers call theirs; `columns` are the row's other fields."""


def brief(prompts: list[str], completions: list[str], **columns: list) -> list[float]:
    """1 for an answer of at most 12 characters, less the longer it is."""
    return [min(1.0, 12 / max(1, len(text))) for text in completions]
