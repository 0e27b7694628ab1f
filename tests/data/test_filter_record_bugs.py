"""The comparison with datatrove's record is itself tested: a bug put into the source of a family must be seen."""

import inspect
import sys
import types

import filter_record
import pytest

# family → what stands in its file, what a careless hand could have written instead
BUGS: dict[str, list[tuple[str, str]]] = {
    "gopher_quality": [
        ('"words": float(len(real))', '"words": float(len(words))'),
        ("share(sum(map(len, real)), len(real))", "share(sum(map(len, words)), len(words))"),
        ("share(sum(map(len, real)), len(real))", "share(len(text), len(real))"),
        ('share(text.count("#"), len(words))', 'share(text.count("#"), len(real))'),
        ('share(text.count("#"), len(words))', 'share(words.count("#"), len(words))'),
        ('text.count("...") + text.count("…")', 'text.count("...")'),
        ("text.splitlines()", 'text.split("\\n")'),
        ('line.lstrip().startswith(("•", "-"))', 'line.startswith(("•", "-"))'),
        ('("•", "-")', '("•", "-", "*")'),
        ('line.rstrip().endswith(("...", "…"))', 'line.endswith(("...", "…"))'),
        ("any(map(str.isalpha, word))", "all(map(str.isalpha, word))"),
        ("any(map(str.isalpha, word))", "word[0].isalpha()"),
        ("any(map(str.isalpha, word))", "word.isascii() and any(map(str.isalpha, word))"),
        ('limits.alphabetic == "letters"', 'limits.alphabetic == "datatrove"'),
        ("limits.stop_words.intersection(words)", "limits.stop_words.intersection(map(str.lower, words))"),
        ("float(len(limits.stop_words.intersection(words)))", "float(sum(w in limits.stop_words for w in words))"),
        ("SYMBOLS.issuperset(word)", 'SYMBOLS.issuperset(word.replace("１", "1"))'),
        ('"words", True, "min_doc_words"', '"words", False, "min_doc_words"'),
        ('"alphabetic", True,', '"alphabetic", False,'),
    ],
    "gopher_repetition": [
        ("_PARAGRAPHS.split(text.strip())", "_PARAGRAPHS.split(text)"),
        ('re.compile(r"\\n{2,}")', 're.compile(r"\\n\\s*\\n")'),
        ("_LINES.split(text)", "_LINES.split(text.strip())"),
        ("_LINES.split(text)", '(text.splitlines() or [""])'),
        ('"dup_line_frac": line_count / len(lines)', '"dup_line_frac": line_count / max(len(set(lines)), 1)'),
        ("line_characters / max(whole, 1)", "line_characters / max(sum(map(len, lines)), 1)"),
        ("len(part) * (count - 1)", "len(part) * count * (count > 1)"),
        ('" ".join(words[i : i + n]) for i', '"".join(words[i : i + n]) for i'),
        ("max(counts, key=lambda gram: counts[gram])", "max(counts, key=lambda gram: (counts[gram], len(gram)))"),
        ("max(counts, key=lambda gram: counts[gram])", "max(reversed(counts), key=lambda gram: counts[gram])"),
        ('gram = "".join(words[i : i + n])', 'gram = " ".join(words[i : i + n])'),
        ('gram = "".join(words[i : i + n])\n', 'gram = "\\0".join(words[i : i + n]).replace("\\0", "")[: 10 * n]\n'),
        ("            i += n\n", "            i += 1\n"),
        ("while i <= len(words) - n", "while i < len(words) - n"),
        ("top_n_gram(words, n) / max(whole, 1)", "top_n_gram(words, n) / max(len(text.strip()), 1)"),
        ("repeated_n_grams(words, n) / max(whole, 1)", 'repeated_n_grams(words, n) / max(len("".join(words)), 1)'),
        ('parts = ("dup_para_frac", ', 'parts = ("dup_line_frac", "dup_para_frac", '),
    ],
    "c4": [
        ("text.splitlines()", 'text.split("\\n")'),
        ("    line = line.strip()\n", ""),
        ("> limits.max_word_length", ">= limits.max_word_length"),
        ("< limits.min_words_per_line", "<= limits.min_words_per_line"),
        ('_CITATION.sub("", line)', '_CITATION.sub("", line).strip()'),
        ('r"\\[\\d*]|', 'r"\\[\\d+]|'),
        ("    lower = line.lower()", "    lower = line"),
        ('"lorem ipsum" in line.lower()', '"lorem ipsum" in line'),
        ('in ("", "javascript", "policy") and "lorem', 'in ("",) and "lorem'),
        ('in ("", "policy") and "{"', 'in ("", "javascript", "policy") and "{"'),
        ('or line.endswith("...")', ""),
        ("(\".\", \"?\", \"!\", '\"', \"'\")", "(\".\", \"?\", \"!\")"),
        ('"use of cookies", ', ""),
        ('"\\n".join(kept).strip()', '"\\n".join(kept)'),
        ('"\\n".join(kept).strip()', '" ".join(kept).strip()'),
        ("sum(map(count_sentences, kept))", 'count_sentences("\\n".join(kept))'),
        ("lines.sort(key=lambda rule: values[rule.value])", "pass"),
    ],
    "fineweb": [
        ('text.split("\\n")', "text.splitlines()"),
        ("if line.strip()]", "if line]"),
        ("line.endswith(tuple", "line.strip().endswith(tuple"),
        ("<= limits.short_line_length", "< limits.short_line_length"),
        ("len(line) <=", "len(line.strip()) <="),
        ('len(text.replace("\\n", ""))', "len(text)"),
        ("repeated(lines)[1], len", "repeated([line.strip() for line in lines])[1], len"),
        ('text.count("\\n"), len(words)', "len(lines), len(words)"),
        ('share(text.count("\\n"), len(words))', 'share(text.count("\\n"), len(text.split()))'),
        ("if limits.line_punct_exclude_zero else None", "if False else None"),
        ('True, limits.line_punct_thr', 'False, limits.line_punct_thr'),
    ],
}  # fmt: skip
CASES = [(family, old, new) for family, bugs in BUGS.items() for old, new in bugs]


@pytest.mark.parametrize(("family", "old", "new"), CASES)
def test_a_bug_is_caught(family: str, old: str, new: str, monkeypatch: pytest.MonkeyPatch) -> None:
    source = inspect.getsource(filter_record.MODULES[family])
    assert source.count(old) == 1
    broken = types.ModuleType(f"broken_{family}")
    monkeypatch.setitem(sys.modules, broken.__name__, broken)
    exec(compile(source.replace(old, new), family, "exec"), broken.__dict__)
    filter_record.asked("en")  # with the good family
    filter_record.asked("zh")
    monkeypatch.setitem(filter_record.MODULES, family, broken)
    assert any(next(filter_record.differences(code, family), None) for code in filter_record.CODES)


def test_a_rule_that_spares_the_limit_is_one() -> None:
    """At its limit a value passes: a rule with <= or >= would say otherwise about documents of the record."""
    for code in filter_record.CODES:
        for one in filter_record.asked(code):
            for rule in filter_record.MODULES[one.family].rules(one.limits):
                if one.said.get(rule.value) == rule.limit:
                    assert one.said["reason"] != rule.reason
