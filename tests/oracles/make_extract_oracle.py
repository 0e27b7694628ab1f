"""What datatrove's Trafilatura step gives for html_pages.py, one after the other; writes extract.json beside this file.

requirements: datatrove==0.10.1 trafilatura==2.3.1 lxml-html-clean==0.4.6
    python tests/oracles/make_extract_oracle.py
"""

import json
from importlib.metadata import version
from pathlib import Path

from datatrove.data import Document
from datatrove.pipeline.extractors import Trafilatura
from html_pages import pages
from trafilatura import extract  # the step below calls it in another process, and an import that fails there gives ""

found = Trafilatura(timeout=30).run(iter([Document(text=page, id=str(i)) for i, page in enumerate(pages())]))
assert extract is not None
texts = {int(document.id): document.text for document in found}
said = {
    "datatrove": version("datatrove"),
    "trafilatura": version("trafilatura"),
    "texts": [texts.get(i) for i in range(len(pages()))],
}
path = Path(__file__).parent / "extract.json"
path.write_text(json.dumps(said, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
