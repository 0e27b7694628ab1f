"""Settings are taken strictly: what is unknown, missing or of the wrong type is named where it stands."""

from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from qwill.base.config import apply_override, load_yaml, nearest, parse, to_dict
from qwill.base.errors import ConfigError


@dataclass
class Rates:
    peak: float = 0.02
    warmup_steps: int = 100


@dataclass
class Source:
    name: str
    weight: float = 1.0
    kind: Literal["line", "file"] = "line"


@dataclass
class Settings:
    steps: int
    title: str = "demo"
    compile: bool = False
    dropout: float | None = None
    depth: int | Literal["auto"] = "auto"
    mode: Literal["train", "qwen3", 3, True] = "train"
    rates: Rates = field(default_factory=Rates)
    teacher: Rates | None = None
    sources: list[Source] = field(default_factory=list)
    betas: tuple[float, float] = (0.9, 0.95)
    layers: tuple[int, ...] = ()
    mix: dict[str, float] = field(default_factory=dict)
    folder: Path = Path("runs")
    extra: Any = None

    def __post_init__(self) -> None:
        if self.steps < 0:
            raise ConfigError("steps must not be negative.")


WHERE = "recipes/demo.yaml: base"


def refused(mapping: Any) -> str:
    """The sentence that a mapping is refused with, without the name of file and section that it begins with."""
    with pytest.raises(ConfigError) as caught:
        parse(Settings, mapping, WHERE)
    sentence = str(caught.value)
    assert sentence.startswith(WHERE) and "\n" not in sentence and sentence.endswith((".", "?"))
    return sentence.removeprefix(WHERE)


# ---- what is accepted

RATES = st.fixed_dictionaries({}, optional={"peak": st.floats(0, 1), "warmup_steps": st.integers()})
SOURCES = st.fixed_dictionaries(
    {"name": st.text(max_size=5)},
    optional={"weight": st.floats(-1, 1), "kind": st.sampled_from(["line", "file"])},
)
SETTINGS = st.fixed_dictionaries(
    {"steps": st.integers(0, 10**12)},
    optional={
        "title": st.text(max_size=8), "compile": st.booleans(), "dropout": st.none() | st.floats(0, 1),
        "depth": st.integers() | st.just("auto"), "mode": st.sampled_from(["train", "qwen3", 3, True]),
        "rates": RATES, "teacher": st.none() | RATES, "sources": st.lists(SOURCES, max_size=3),
        "betas": st.lists(st.floats(0, 1), min_size=2, max_size=2), "layers": st.lists(st.integers(), max_size=3),
        "mix": st.dictionaries(st.text(max_size=4), st.floats(0, 1), max_size=3),
        "folder": st.sampled_from(["a", "a/b"]), "extra": st.none() | st.lists(st.integers(), max_size=2),
    },
)  # fmt: skip


@given(SETTINGS)
def test_what_is_right_is_taken_and_written_out_again(mapping: dict[str, Any]) -> None:
    settings = parse(Settings, mapping, WHERE)
    plain = to_dict(settings)
    for key, value in mapping.items():
        if key not in ("rates", "teacher", "sources"):
            assert plain[key] == value and type(plain[key]) is type(value)
    assert parse(Settings, plain, WHERE) == settings
    # The resolved configuration names every default: it is what a recipe id is the hash of.
    assert plain.keys() == Settings.__dataclass_fields__.keys() and plain["rates"].keys() == {"peak", "warmup_steps"}


@given(SETTINGS)
def test_what_a_yaml_file_says_is_what_was_meant(mapping: dict[str, Any]) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "a.yaml"
        # Escaped: PyYAML writes U+0085 bare, which YAML 1.1 reads as a line break.
        path.write_text(yaml.safe_dump({"base": mapping}), encoding="utf-8")
        assert parse(Settings, load_yaml(path)["base"], WHERE) == parse(Settings, mapping, WHERE)


def test_types_that_come_out() -> None:
    settings = parse(
        Settings,
        {"steps": 3, "dropout": 1, "betas": [1, "1e-3"], "layers": [1, 2], "sources": [{"name": "a"}], "folder": "x/y"},
        WHERE,
    )
    assert settings.dropout == 1.0 and type(settings.dropout) is float
    assert settings.betas == (1.0, 0.001) and settings.layers == (1, 2) and settings.folder == Path("x/y")
    assert settings.sources == [Source("a")] and to_dict(settings)["folder"] == "x/y"


@pytest.mark.parametrize("text", ["1e-3", "1E-3", "1.e-3", "1e+2", "3", "-.5", "1_000"])
def test_a_number_in_any_spelling_is_a_number(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.yaml").write_text(f"peak: {text}\n")
    assert parse(Rates, load_yaml(tmp_path / "a.yaml"), "a.yaml").peak == float(text)


def test_a_section_that_is_left_empty_has_its_defaults() -> None:
    assert parse(Rates, None, WHERE) == Rates()
    assert parse(Settings, {"steps": 1, "rates": None}, WHERE).rates == Rates()


# ---- what is refused


@pytest.mark.parametrize(
    ("mapping", "sentence"),
    [
        ({"steps": 1, "titel": "x"}, ".titel is not a setting; did you mean title?"),
        ({"steps": 1, "rates": {"peek": 1}}, ".rates.peek is not a setting; did you mean peak?"),
        ({"steps": 1, "rates": {"zzz": 1}}, ".rates.zzz is not a setting; expected one of peak, warmup_steps."),
        ({"steps": 1, "sources": [{"name": "a"}, {"nam": 1}]}, ".sources[1].nam is not a setting; did you mean name?"),
        ({"steps": 1, 7: 2}, ".7 is not a setting; expected one of "),
        ({"steps": 1, None: 2}, ".None is not a setting; expected one of "),
        ({}, ".steps is missing; it must be set (a whole number)."),
        ({"steps": 1, "sources": [{}]}, ".sources[0].name is missing; it must be set (text)."),
        ({"steps": True}, ".steps is True (true/false); expected a whole number."),
        ({"steps": 1.0}, ".steps is 1.0 (a number); expected a whole number."),
        ({"steps": "1"}, ".steps is '1' (text); expected a whole number."),
        ({"steps": None}, ".steps is empty; expected a whole number."),
        ({"steps": [1]}, ".steps is [1] (a list); expected a whole number."),
        ({"steps": 1, "title": 3}, ".title is 3 (a whole number); expected text."),
        ({"steps": 1, "title": True}, ".title is True (true/false); expected text."),
        ({"steps": 1, "compile": 1}, ".compile is 1 (a whole number); expected true or false."),
        ({"steps": 1, "compile": "yes"}, ".compile is 'yes' (text); expected true or false."),
        ({"steps": 1, "dropout": False}, ".dropout is False (true/false); expected a number"),
        ({"steps": 1, "dropout": "much"}, ".dropout is 'much' (text); expected a number"),
        ({"steps": 1, "dropout": float("nan")}, ".dropout is nan (a number); expected a number"),
        ({"steps": 1, "dropout": "inf"}, ".dropout is 'inf' (text); expected a number"),
        ({"steps": 1, "dropout": 10**400}, "(a whole number); expected a number"),
        ({"steps": 1, "depth": "deep"}, ".depth is 'deep' (text); expected a whole number or one of auto."),
        ({"steps": 1, "mode": "qwen"}, ".mode is 'qwen' (text); expected one of train, qwen3, 3, True."),
        ({"steps": 1, "mode": 1}, ".mode is 1 (a whole number); expected one of"),
        ({"steps": 1, "mode": 3.0}, ".mode is 3.0 (a number); expected one of"),
        ({"steps": 1, "mode": False}, ".mode is False (true/false); expected one of"),
        ({"steps": 1, "mode": ["train"]}, ".mode is ['train'] (a list); expected one of"),
        ({"steps": 1, "rates": 3}, ".rates is 3 (a whole number); expected a section of settings."),
        ({"steps": 1, "rates": []}, ".rates is [] (a list); expected a section of settings."),
        ({"steps": 1, "teacher": "none"}, ".teacher is 'none' (text); expected a section of settings."),
        ({"steps": 1, "teacher": {"peak": "x"}}, ".teacher.peak is 'x' (text); expected a number."),
        ({"steps": 1, "sources": {"name": "a"}}, ".sources is {'name': 'a'} (dict); expected a list"),
        ({"steps": 1, "sources": "a"}, ".sources is 'a' (text); expected a list"),
        ({"steps": 1, "sources": [{"name": "a"}, "b"]}, ".sources[1] is 'b' (text); expected a section of settings."),
        ({"steps": 1, "betas": [0.9]}, ".betas is [0.9] (a list); expected a list"),
        ({"steps": 1, "betas": [0.9, "x"]}, ".betas[1] is 'x' (text); expected a number."),
        ({"steps": 1, "layers": [1, 2.5]}, ".layers[1] is 2.5 (a number); expected a whole number."),
        ({"steps": 1, "mix": {"en": "x"}}, ".mix.en is 'x' (text); expected a number."),
        ({"steps": 1, "mix": {False: 0.5}}, ".mix: the key is False (true/false); expected text."),
        ({"steps": 1, "mix": [1]}, ".mix is [1] (a list); expected a section"),
        ({"steps": 1, "folder": 3}, ".folder is 3 (a whole number); expected "),
        ({"steps": -1}, ": steps must not be negative."),
        ("text", " is 'text' (text); expected a section of settings."),
        ([], " is [] (a list); expected a section of settings."),
    ],
)
def test_what_is_wrong_is_named(mapping: Any, sentence: str) -> None:
    assert sentence in refused(mapping)


ODD = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.dates() | st.binary(max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.integers() | st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)


@given(st.dictionaries(st.sampled_from(sorted(Settings.__dataclass_fields__)), ODD, max_size=4))
def test_whatever_is_given_there_is_a_configuration_or_a_sentence(mapping: dict[str, Any]) -> None:
    try:
        settings = parse(Settings, {"steps": 1} | mapping, WHERE)
    except ConfigError as error:
        assert str(error).startswith(WHERE)
    else:
        assert isinstance(settings.steps, int) and not isinstance(settings.steps, bool)
        assert isinstance(settings.title, str) and isinstance(settings.compile, bool)
        assert settings.dropout is None or isinstance(settings.dropout, float)
        assert all(isinstance(k, str) and isinstance(v, float) for k, v in settings.mix.items())


def test_a_sentence_stays_short_whatever_was_given() -> None:
    for value in ("x" * 100_000, list(range(100_000)), {str(i): i for i in range(10_000)}):
        assert len(refused({"steps": value})) < 300


def test_nearest() -> None:
    assert nearest("warmup_step", ["peak", "warmup_steps"]) == "did you mean warmup_steps?"
    assert nearest("x", ["b", "a"]) == "expected one of a, b."


# ---- YAML files


def yaml_refused(folder: Path, data: bytes | str, *overrides: str) -> str:
    path = folder / "demo.yaml"
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    with pytest.raises(ConfigError) as caught:
        load_yaml(path, overrides)
    assert "\n" not in str(caught.value)
    return str(caught.value).removeprefix(f"{path}: ")


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        ("seed: 1\nbase:\n  steps: 1\n  lr: 2\n  steps: 3\n", "line 5 sets 'steps' a second time; keep one."),
        ("a: 1\nb: 2\n'a': 3\n", "line 3 sets 'a' a second time; keep one."),
        ("list:\n- {a: 1, a: 2}\n", "line 2 sets 'a' a second time; keep one."),
        ("a: 1\nb: [1, 2\nc: 3\n", "line 3 is not valid YAML"),
        ("a:\n\tb: 1\n", "line 2 is not valid YAML"),
        ("a: b: c\n", "line 1 is not valid YAML"),
        ("a: *nothing\n", "line 1 is not valid YAML (found undefined alias 'nothing')."),
        ("a: !!python/object/apply:os.system [ls]\n", "line 1 is not valid YAML (could not determine a constructor"),
        ("? [a, b]\n: 1\n", "line 1 is not valid YAML (found unhashable key)."),
        ("a: 2020-13-45\n", "not valid YAML (month must be in 1..12)."),
        ("a: \x00\n", "not valid YAML (unacceptable character #x0000"),
        ("a: " + "[" * 5000, "not valid YAML (maximum recursion depth exceeded"),
        ("a: &a [*a]\n", "line 1 is not valid YAML (found unconstructable recursive node)."),
        ("a: 1\n---\nb: 2\n", "line 2 is not valid YAML (but found another document)."),
        (b"a: 1\nb: \xff\n", "line 2 is not UTF-8; save the file as UTF-8."),
        ("a: 中".encode("gb18030"), "line 1 is not UTF-8"),
        ("", "is empty; expected settings as `key: value` lines."),
        ("# nothing yet\n", "is empty; expected settings"),
        ("- a\n", "holds ['a'] (a list); expected settings"),
        ("seed 3\n", "holds 'seed 3' (text); expected settings"),
    ],
)
def test_bad_yaml_is_named_with_its_line(tmp_path: Path, data: bytes | str, sentence: str) -> None:
    assert yaml_refused(tmp_path, data).startswith(sentence)


def test_a_file_that_is_not_there_or_a_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.yaml: cannot be read \(No such file or directory\); give the path"):
        load_yaml(tmp_path / "none.yaml")
    with pytest.raises(ConfigError, match=r"cannot be read \(Is a directory\)"):
        load_yaml(tmp_path)


@given(st.text(alphabet="ab:-[]{}&*!|>'\"\n \t#%@`,?~1.<e", max_size=30))
def test_any_text_is_settings_or_a_sentence(text: str) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "a.yaml"
        path.write_text(text, encoding="utf-8")
        try:
            assert isinstance(load_yaml(path), dict)
        except ConfigError as error:
            assert str(error).startswith(f"{path}: ") and "\n" not in str(error)


def test_settings_of_one_section_are_taken_over_into_another(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("one: &one {a: 1, b: 2}\ntwo:\n  <<: *one\n  b: 3\n")
    assert load_yaml(tmp_path / "a.yaml") == {"one": {"a": 1, "b": 2}, "two": {"a": 1, "b": 3}}


# ---- overrides


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("seed=3", {"seed": 3, "base": {"steps": 1, "rates": None}}),
        ("base.steps=20", {"base": {"steps": 20, "rates": None}}),
        ("base.rates.peak=0.1", {"base": {"steps": 1, "rates": {"peak": 0.1}}}),
        ("sft.steps=5", {"base": {"steps": 1, "rates": None}, "sft": {"steps": 5}}),
        ("base.title=a=b", {"base": {"steps": 1, "rates": None, "title": "a=b"}}),
        ("base.layers=[1, 2]", {"base": {"steps": 1, "rates": None, "layers": [1, 2]}}),
        ("base.dropout=null", {"base": {"steps": 1, "rates": None, "dropout": None}}),
        ("base.dropout=", {"base": {"steps": 1, "rates": None, "dropout": None}}),
        ("base.title='3'", {"base": {"steps": 1, "rates": None, "title": "3"}}),
        ("base.title=中文", {"base": {"steps": 1, "rates": None, "title": "中文"}}),
    ],
)
def test_overrides_are_laid_over_the_file(tmp_path: Path, override: str, expected: dict[str, Any]) -> None:
    (tmp_path / "a.yaml").write_text("base:\n  steps: 1\n  rates:\n")
    assert load_yaml(tmp_path / "a.yaml", [override]) == expected


def test_the_last_override_wins() -> None:
    value: dict[str, Any] = {}
    for override in ("a.b=1", "a.c=2", "a.b=3"):
        apply_override(value, override)
    assert value == {"a": {"b": 3, "c": 2}}


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("seed", "'seed' is not an override; write it as section.setting=value."),
        ("=3", "'=3' is not an override; write it as section.setting=value."),
        ("base..steps=3", "'base..steps=3' is not an override; write it as section.setting=value."),
        ("base.=3", "'base.=3' is not an override; write it as section.setting=value."),
        ("base.steps.x=3", "'base.steps.x=3': base.steps is a value, not a section."),
        ("base.steps=[1", "'base.steps=[1': '[1' is not a valid value."),
        ("base.steps=2020-13-45", "'base.steps=2020-13-45': '2020-13-45' is not a valid value."),
    ],
)
def test_bad_overrides_are_named(tmp_path: Path, override: str, sentence: str) -> None:
    assert yaml_refused(tmp_path, "base: {steps: 1}\n", override) == sentence
