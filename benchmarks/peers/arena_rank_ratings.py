"""arena-rank 0.1.1 in a process of its own: read votes, rate them, write ratings and intervals.

    PYTHON_WITH_ARENA_RANK arena_rank_ratings.py VOTES.jsonl OUT.json [--style] [--reweighted] [--tight] [--ftol0]

`--tight` asks for ftol 1e-16 and gtol 1e-13 in place of the defaults (1e-9 both), `--ftol0` for ftol 0.
The votes' style features are the columns that are not names or winners.
"""

import json
import sys

import numpy as np
import pandas as pd
from arena_rank.models.bradley_terry import BradleyTerry
from arena_rank.models.contextual_bradley_terry import ContextualBradleyTerry
from arena_rank.utils.data_utils import ContextualPairDataset, PairDataset


def main() -> None:
    votes, out, *options = sys.argv[1:]
    tight: dict[str, float] = {"ftol": 1e-16, "gtol": 1e-13, "max_iter": 10_000} if "--tight" in options else {}
    if "--ftol0" in options:
        tight["ftol"] = 0.0
    frame = pd.read_json(votes, lines=True)
    reweighted = "--reweighted" in options
    if "--style" in options:
        features = [name for name in frame.columns if name not in ("model_a", "model_b", "winner")]
        data = ContextualPairDataset.from_pandas(frame, feature_cols=features, reweighted=reweighted)
        fit = ContextualBradleyTerry(len(data.competitors), len(features), **tight)
    else:
        data = PairDataset.from_pandas(frame, reweighted=reweighted)
        fit = BradleyTerry(len(data.competitors), **tight)
    found = fit.compute_ratings_and_cis(data)
    answer = {"models": found["competitors"], "coefficients": np.asarray(found.get("coeffs", [])).tolist()}
    for name, key in (("rating", "ratings"), ("lower", "rating_lower"), ("upper", "rating_upper")):
        answer[name] = np.asarray(found[key]).tolist()
    with open(out, "w", encoding="utf-8") as file:
        json.dump(answer, file)


if __name__ == "__main__":
    main()
