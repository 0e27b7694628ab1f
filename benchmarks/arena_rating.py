"""Our side of arena_speed.py in a process of its own: read votes, rate them, write ratings and intervals.

arena_rating.py VOTES.jsonl OUT.json [--style] [--reweighted]
"""

import json
import sys

from qwill.evaluate.arena import fit_ratings, pair_weights, win_matrix
from qwill.evaluate.arena_table import read_votes

FEATURES = ("tokens", "headers", "bold")


def main() -> None:
    votes, out, *options = sys.argv[1:]
    style = "--style" in options
    table = read_votes(votes, features=FEATURES if style else ())
    weights = None
    if "--reweighted" in options:
        weights = pair_weights(table.model_a, table.model_b)
        if not style:
            # arena-rank leaves the weights of the plain fit as they are, and what it adds to the Hessian with them.
            battles = win_matrix(table.model_a, table.model_b, table.outcome)[2]
            weights = weights / (weights.max() * max(50, battles[battles > 0].min()))
    found = fit_ratings(table.model_a, table.model_b, table.outcome, table.features or None, weights)
    answer = {"models": found.models, "coefficients": found.coefficients.tolist()}
    answer |= {name: getattr(found, name).tolist() for name in ("rating", "lower", "upper")}
    with open(out, "w", encoding="utf-8") as file:
        json.dump(answer, file)


if __name__ == "__main__":
    main()
