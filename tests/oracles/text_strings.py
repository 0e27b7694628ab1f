"""Seeded strings that both an oracle and the tests make for themselves, so that only their digest is stored."""

import random

_SPACES = " \n\r\t\u00a0\u3000\u2028\x85\x0b\x1c\u200b\u180e"
_ENDINGS = ("'s", "'S", "'\u017f", "'LL", "'ll", "'RE", "'ve", "'M", "\u212a", "\u0130", "\u00df", "don't")


def random_strings(seed: int, count: int) -> list[str]:
    """Strings of up to 40 characters: ASCII, Han, spaces of every kind, English endings, any code point at all."""
    rng = random.Random(seed)
    return ["".join(_character(rng) for _ in range(rng.randint(0, 40))) for _ in range(count)]


def _character(rng: random.Random) -> str:
    kind = rng.random()
    if kind < 0.35:
        return chr(rng.randint(32, 126))
    if kind < 0.55:
        return chr(rng.randint(0x4E00, 0x9FFF))
    if kind < 0.65:
        return rng.choice(_SPACES)
    if kind < 0.75:
        return rng.choice(_ENDINGS)
    code = rng.randint(0, 0x10FFFF if kind < 0.9 else 0x2FFF)
    return chr(code) if not 0xD800 <= code < 0xE000 else "\ufffd"
