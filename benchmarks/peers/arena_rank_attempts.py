"""Can arena-rank 0.1.1 be brought to the maximum of its own likelihood? Its own code, from several sides.

    PYTHON_WITH_ARENA_RANK arena_rank_attempts.py VOTES.jsonl OURS.json OUT.json

The votes have style features; OURS.json is what arena_rating.py --style wrote. Nothing of arena-rank is edited: its
loss (in float64, which it sets itself), its standardised features, its L-BFGS with ftol 1e-16 and gtol 1e-13. For each
answer: its loss in float64, what the loss exceeds the lowest by in extended precision (64 bits of mantissa), the
largest derivative of the loss, and the largest distance of a rating from ours in points.
"""

import json
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from arena_rank.models.bradley_terry import BradleyTerry
from arena_rank.models.contextual_bradley_terry import ContextualBradleyTerry
from arena_rank.utils.data_utils import ContextualPairDataset, PairDataset

TIGHT = {"ftol": 1e-16, "gtol": 1e-13, "max_iter": 10_000}
FEATURES = ("tokens", "headers", "bold")
RESTARTS, STARTS, NEWTON = 20, 10, 8
SCALE = 2.0**10
Params = dict[str, Any]


class Case:
    """The votes as arena-rank holds them, and its model, fitted from any start."""

    def __init__(self, path: str) -> None:
        self.frame = pd.read_json(path, lines=True)
        names = list(FEATURES)
        self.data = ContextualPairDataset.from_pandas(self.frame, feature_cols=names, reweighted=False)
        self.models = self.data.competitors

    def model(self, **options: Any) -> ContextualBradleyTerry:
        return ContextualBradleyTerry(len(self.models), len(FEATURES), **TIGHT | options)

    def fit(self, start: Params | None = None, **options: Any) -> Params:
        model = self.model(**options)
        if start is not None:
            model.params = start
        return model.fit(self.data).params

    def loss(self, params: Params) -> Any:
        return self.model().loss_function(params, self.data.as_dict())

    def exact_loss(self, params: Params) -> np.longdouble:
        """arena-rank's loss, added up in extended precision."""
        r, beta = (np.asarray(params[name]).astype(np.longdouble) for name in ("ratings", "coeffs"))
        pairs, features, y = (np.asarray(part) for part in (self.data.pairs, self.data.features, self.data.outcomes))
        odds = r[pairs[:, 0]] - r[pairs[:, 1]] + features.astype(np.longdouble) @ beta
        likelihood = y * odds - np.maximum(odds, 0) - np.log1p(np.exp(-np.abs(odds)))
        found: np.longdouble = (beta @ beta) / 2 - likelihood.mean()
        return found


def restarts(case: Case, first: Params) -> list[Params]:
    """Attempt 1: the fit again from its own answer, with an empty memory of curvature."""
    found = [first]
    for _ in range(RESTARTS):
        found.append(case.fit(found[-1]))
    return found[1:]


def other_starts(case: Case, ours: Params) -> dict[str, list[Params]]:
    """Attempt 2: from arena-rank's plain ratings, from random strengths, and from our answer."""
    plain = BradleyTerry(len(case.models), **TIGHT).fit(PairDataset.from_pandas(case.frame)).params["ratings"]
    zero, rng = jnp.zeros(len(FEATURES)), np.random.default_rng(0)
    random = [
        {"ratings": jnp.array(rng.normal(size=len(case.models))), "coeffs": jnp.array(rng.normal(size=len(FEATURES)))}
        for _ in range(STARTS)
    ]
    return {
        "from its plain ratings": [case.fit({"ratings": plain, "coeffs": zero})],
        f"from {STARTS} random starts": [case.fit(start) for start in random],
        "from our answer": [case.fit(ours)],
    }


def scaled(case: Case) -> Params:
    """Attempt 3: the whole loss times 1024, by weights and `reg`, which moves no maximum: arena-rank divides a change
    of the loss by the loss only where that is above 1."""
    kept = case.data.weights
    case.data.weights = kept * SCALE
    found = case.fit(reg=SCALE, gtol=TIGHT["gtol"] * SCALE)
    case.data.weights = kept
    return found


def newton(case: Case, first: Params) -> Params:
    """Newton's method with JAX's own derivatives of arena-rank's loss, from arena-rank's answer."""
    count = len(case.models)

    def flat(x: Any) -> Any:
        return case.loss({"ratings": x[:count], "coeffs": x[count:]})

    slope, curve = jax.jit(jax.grad(flat)), jax.jit(jax.hessian(flat))
    x = jnp.concatenate([first["ratings"], first["coeffs"]])
    level = jnp.zeros((len(x), len(x))).at[:count, :count].set(1 / count**2)  # no vote tells the common level
    for _ in range(NEWTON):
        x = x - jnp.linalg.solve(curve(x) + level, slope(x))
    return {"ratings": x[:count], "coeffs": x[count:]}


def main() -> None:
    votes, given, out = sys.argv[1:]
    case = Case(votes)
    with open(given, encoding="utf-8") as file:
        answer = json.load(file)
    points = 400 / np.log(10)
    assert answer["models"] == case.models
    strengths = jnp.array((np.array(answer["rating"]) - 1000) / points)
    ours = {"ratings": strengths, "coeffs": jnp.array(answer["coefficients"])}
    first = case.fit()
    answers: dict[str, list[Params]] = {"ours": [ours], "arena-rank": [first]}
    answers[f"restarted {RESTARTS} times, from its last answer"] = restarts(case, first)
    answers |= other_starts(case, ours)
    answers["its loss times 1024"] = [scaled(case)]
    answers["with ftol 0"] = [case.fit(ftol=0.0)]
    answers["Newton on its loss"] = [newton(case, first)]
    gradient = jax.grad(case.loss)
    exact = {name: [case.exact_loss(one) for one in found] for name, found in answers.items()}
    lowest = min(min(found) for found in exact.values())
    table = {}
    for name, found in answers.items():
        table[name] = [
            {
                "loss": float(case.loss(one)),
                "above": float(loss - lowest),
                "gradient": max(float(jnp.abs(part).max()) for part in gradient(one).values()),
                # The level, which no vote tells, is taken out of both.
                "apart": points * float(np.abs(centred(one) - centred(ours)).max()),
            }
            for one, loss in zip(found, exact[name], strict=True)
        ]
    with open(out, "w", encoding="utf-8") as file:
        json.dump(table, file, indent=1)


def centred(params: Params) -> Any:
    return np.asarray(params["ratings"]) - np.asarray(params["ratings"]).mean()


if __name__ == "__main__":
    main()
