"""Curation: sources, repair, language, filters, duplicates, decontamination, packing. May import base, text, model.

`curate(config) -> CorpusArtifact` is the whole of it; each step is a file of pure functions that can be used alone.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qwill.data.corpus import CurateConfig, curate
    from qwill.data.documents import CorpusArtifact, Record

__all__ = ["CorpusArtifact", "CurateConfig", "Record", "curate"]


def __getattr__(name: str) -> Any:
    if name in ("CurateConfig", "curate"):
        from qwill.data import corpus

        return getattr(corpus, name)
    if name in ("CorpusArtifact", "Record"):
        from qwill.data import documents

        return getattr(documents, name)
    raise AttributeError(f"module 'qwill.data' has no attribute {name!r}")
