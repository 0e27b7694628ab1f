"""What arena-rank 0.1.1 says about a few small sets of votes; writes arena.json beside this file.

    python -m venv VENV && VENV/bin/pip install arena-rank==0.1.1
    VENV/bin/python tests/oracles/make_arena_oracle.py

Requirements: arena-rank==0.1.1

arena-rank needs JAX and pins NumPy, so it has an environment of its own. Its default tolerances stop about
1e-5 rating points from the optimum, and an ftol of 1e-16 still up to 1e-6: here only the gradient stops it.
"""

import importlib.metadata
import json
import platform
from pathlib import Path

import numpy as np
import pandas as pd
from arena_rank.models.bradley_terry import BradleyTerry
from arena_rank.models.contextual_bradley_terry import ContextualBradleyTerry
from arena_rank.utils.data_utils import ContextualPairDataset, PairDataset

TIGHT = {"ftol": 0.0, "gtol": 1e-13, "max_iter": 10_000}
FEATURES = ["tokens", "headers", "bold"]


def draw_votes(seed: int, models: int, votes: int) -> pd.DataFrame:
    """Votes with ties and with unequal numbers a pair; replies' style leans on the outcome."""
    generator = np.random.default_rng(seed)
    strength = np.linspace(-1.2, 1.2, models)
    popular = generator.dirichlet(np.full(models, 10.0))
    rows = []
    for _ in range(votes):
        a, b = generator.choice(models, size=2, replace=False, p=popular)
        style = generator.integers(0, [900, 12, 20], size=(2, 3))
        lean = 0.8 * (style[0] - style[1])[0] / max(1, style[:, 0].sum())
        chance = 1 / (1 + np.exp(strength[b] - strength[a] - lean))
        tie = generator.random() < 0.2
        winner = "tie" if tie else "model_a" if generator.random() < chance else "model_b"
        rows.append((f"m{a:02}", f"m{b:02}", winner, style[0].tolist(), style[1].tolist()))
    frame = pd.DataFrame(rows, columns=["model_a", "model_b", "winner", "style_a", "style_b"])
    for i, name in enumerate(FEATURES):
        one, other = frame["style_a"].str[i], frame["style_b"].str[i]
        frame[name] = ((one - other) / (one + other)).fillna(0.0)
    return frame


def rate(frame: pd.DataFrame, style: bool, reweighted: bool) -> dict[str, object]:
    if style:
        data = ContextualPairDataset.from_pandas(frame, feature_cols=FEATURES, reweighted=reweighted)
        fit = ContextualBradleyTerry(len(data.competitors), len(FEATURES), **TIGHT)
    else:
        data = PairDataset.from_pandas(frame, reweighted=reweighted)
        fit = BradleyTerry(len(data.competitors), **TIGHT)
    found = fit.compute_ratings_and_cis(data)
    result: dict[str, object] = {"models": found["competitors"]}
    for name, key in (("rating", "ratings"), ("lower", "rating_lower"), ("upper", "rating_upper")):
        result[name] = np.asarray(found[key]).tolist()
    if style:
        result["coefficients"] = np.asarray(found["coeffs"]).tolist()
    return result


def main() -> None:
    cases = []
    for seed, models, votes in ((0, 4, 600), (1, 10, 1000)):
        frame = draw_votes(seed, models, votes)
        recorded = {name: frame[name].tolist() for name in ("model_a", "model_b", "winner", "style_a", "style_b")}
        results = [
            {"style": style, "reweighted": reweighted} | rate(frame, style, reweighted)
            for style in (False, True)
            for reweighted in (False, True)
        ]
        cases.append({"votes": recorded, "results": results})
    versions = {name: importlib.metadata.version(name) for name in ("arena-rank", "jax", "numpy", "pandas")}
    document = {
        "python": platform.python_version(),
        "versions": versions,
        "tolerances": TIGHT,
        "cases": cases,
    }
    path = Path(__file__).with_name("arena.json")
    path.write_text(json.dumps(document, separators=(",", ":")) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
