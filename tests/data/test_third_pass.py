import numpy as np

from qwill.data.documents import Document
from qwill.data.second_pass import Decisions
from qwill.data.third_pass import _cut


def test_passages_are_cut_where_they_stand_after_the_lines_are_gone() -> None:
    text = "A line that many hold.\n\n\nHere it begins. A passage said twice. Here it ends."
    after = text[text.index("\n") + 1 :]
    start = after.index("A passage")
    one, none = np.zeros(1, dtype=np.int64), np.ones(1, dtype=np.float32)
    decisions = Decisions(
        np.array([0, 1]),
        one,
        one,
        none,
        (np.array([0, 1]), np.array([[0, text.index("\n") + 1]])),
        (np.array([0, 1]), np.array([[start, start + len("A passage said twice. ")]])),
    )
    document = Document("a/0", "a", "web", "en", text, len(text))
    _cut(document, 0, decisions)
    assert document.text == "Here it begins. Here it ends."
    assert document.changed == {"line_duplicates": -25, "substring_duplicates": -22}
