"""What every worker process needs, loaded once by the fork server that workers are forked from.

Importing this takes about a second; without it each worker of each pass would take that second again.
"""

from __future__ import annotations

import os

# Before numpy is imported: a worker has one thread.
for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_name] = "1"

from qwill.data import finish, first_pass, third_pass  # noqa: E402, F401
from qwill.data.fold import folded_points  # noqa: E402
from qwill.data.language_classifier import _model  # noqa: E402
from qwill.data.native_words import available, character_classes  # noqa: E402
from qwill.data.unit_hashes import _classes  # noqa: E402

_model()
folded_points()
_classes()
if available():
    character_classes()
