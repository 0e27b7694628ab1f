"""The sampling that holds where neither the request nor the model's folder says otherwise; no torch, for a server."""

from __future__ import annotations

from pathlib import Path

from qwill.base.files import read_json
from qwill.engine.sampling import Sampling

# The sampling that Qwen3's model cards recommend for each mode.
THINKING = Sampling(max_tokens=4096, temperature=0.6, top_p=0.95, top_k=20)
NOT_THINKING = Sampling(max_tokens=1024, temperature=0.7, top_p=0.8, top_k=20)
# For models that bring no sampling of their own and are no Qwen3: what SmolLM2's model card recommends, with a
# penalty, because in 4 bits it otherwise repeats a line until the limit.
CAUTIOUS = Sampling(max_tokens=1024, temperature=0.2, top_p=0.9, repetition_penalty=1.15)


def folder_defaults(folder: Path) -> tuple[dict[str, float], list[int]]:
    """What a folder's generation_config.json says: fields of `Sampling`, and ids that end a reply."""
    path = folder / "generation_config.json"
    generation = read_json(path) if path.exists() else {}
    eos = generation.get("eos_token_id")
    sampling = {name: generation[name] for name in ("temperature", "top_p", "top_k") if generation.get(name)}
    if generation.get("do_sample") is False:
        sampling = {"temperature": 0.0}
    return sampling, [eos] if isinstance(eos, int) else eos or []
