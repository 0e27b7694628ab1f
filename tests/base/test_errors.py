import pytest

from qwill.base.errors import ConfigError, QwillError


@pytest.mark.parametrize("quoted", ["a\nb", "a\rb", "\x1b[31m", "a\u2028b", "\x85"])
def test_a_message_is_one_printable_line_whatever_it_quotes(quoted: str) -> None:
    shown = str(ConfigError(f"recipe.yaml: {quoted} is no name; give another."))
    assert len(shown.splitlines()) == 1 and "\x1b" not in shown
    assert shown.startswith("recipe.yaml: ") and isinstance(ConfigError("x"), QwillError)


def test_chinese_and_accents_stay_as_they_are() -> None:
    assert str(QwillError("配方“é”：不对。")) == "配方“é”：不对。"
