"""What every worker process needs, loaded once by the fork server that workers are forked from.

Importing this takes about a second and a half; without it each worker would take that time again. What English and
Chinese need (classifier, words, dictionary, hash tables) is loaded by judging one sentence of each.
"""

from __future__ import annotations

import os

# Before numpy is imported: a worker has one thread.
for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_name] = "1"

from qwill.data import finish, first_pass, third_pass  # noqa: E402, F401
from qwill.data.families import judge_batch, resolve_limits  # noqa: E402
from qwill.data.fold import chinese_script  # noqa: E402
from qwill.data.language import identify_all  # noqa: E402
from qwill.data.languages import languages  # noqa: E402
from qwill.data.minhash import MinHash, band_keys  # noqa: E402
from qwill.data.repair import repair  # noqa: E402
from qwill.data.unit_hashes import text_hashes  # noqa: E402

_SENTENCES = {"en": "It’s read once, before the first document.", "zh": "在读第一篇文章之前，先读一遍这个句子。"}

for _language in languages(tuple(_SENTENCES)):
    _text = [repair(_SENTENCES[_language.code])]
    identify_all(_text, tuple(_SENTENCES), 0.0)
    judge_batch(_text, _language, _language.families, resolve_limits(_language))
    band_keys(_text, None, MinHash(), _language.words)
    text_hashes(_text[0])
    chinese_script(_text[0])
