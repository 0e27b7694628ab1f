"""What alpaca_eval says about length-controlled win rates and statsmodels about Cohen's kappa; writes judges.json.

    python -m venv VENV && VENV/bin/pip install alpaca-eval==0.6.6 scikit-learn==1.9.1 statsmodels==0.15.0
    VENV/bin/python tests/oracles/make_judges_oracle.py

Requirements: alpaca-eval==0.6.6 scikit-learn==1.9.1 statsmodels==0.15.0

alpaca_eval's GLM downloads a table made for its own 805 prompts whatever the formula; the minimal formula uses nothing
of it, so a table of zeros stands in.
"""

import importlib.metadata
import json
import tempfile
import warnings
from pathlib import Path

import alpaca_eval.metrics.glm_winrate as glm
import numpy as np
import pandas as pd
from judge_cases import draw
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import cohen_kappa_score
from statsmodels.stats.inter_rater import cohens_kappa

MOST = 2000
# Prompts, kind of votes, seed. Among them fits in which cross-validation is nearly undecided, so that its choice turns
# on where liblinear stops: the exact optimum is up to 1e-3 away. One-sided and separated votes, few prompts.
CASES = [
    (805, "binary", 14), (805, "share", 21), (805, "share", 2), (805, "ties", 11), (200, "share", 14),
    (200, "ties", 24), (200, "binary", 4), (60, "share", 0), (60, "binary", 138), (60, "ties", 9), (20, "binary", 2),
    (20, "share", 7), (20, "ties", 5), (10, "share", 21), (10, "binary", 11), (6, "ties", 154), (6, "binary", 34),
    (5, "share", 3), (4, "share", 3), (40, "all won", 14), (40, "all lost", 68), (40, "separated", 9),
    (40, "separated", 1), (40, "one length", 4), (40, "one difference", 4), (20, "few wins", 56),
    (63, "ties", 3), (63, "share", 4), (23, "share", 5), (203, "ties", 6), (203, "share", 7),
]  # fmt: skip


def stand_in(folder: str) -> None:
    """A table of zeros in the folder, which must outlive the fits, in place of the one that would be downloaded."""
    table = Path(folder) / "df_gamed.csv"
    columns = {"model": "none", "index": range(MOST), "instruction_difficulty": 0.0, "preference": 0.5}
    pd.DataFrame(columns | {"std_delta_len": 0.0, "not_gamed_baseline": False}).to_csv(table, index=False)
    glm.hf_hub_download = lambda **_: str(table)


def length_controlled(votes: list[float], own: list[int], rival: list[int]) -> dict[str, object]:
    frame = pd.DataFrame(
        {
            "preference": np.asarray(votes) + 1,
            "index": range(len(votes)),
            "generator_1": "rival",
            "generator_2": "model",
            "output_1": ["x" * count for count in rival],
            "output_2": ["x" * count for count in own],
            "annotator": "judge",
        }
    )
    fits = []
    fit = glm.fit_LogisticRegressionCV
    glm.fit_LogisticRegressionCV = lambda *given, **named: fits.append(fit(*given, **named)) or fits[-1]
    try:
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            found = glm.get_length_controlled_winrate(frame, "length_controlled_minimal", save_weights_dir=None)
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"[:160]}
    finally:
        glm.fit_LogisticRegressionCV = fit
    return {
        "win_rate": float(found["length_controlled_winrate"]) / 100,
        "raw": float(found["win_rate"]) / 100,
        "strength": float(fits[0].C_[0]),
        "effect": -float(fits[0].coef_[0][0]),
        "converged": not any(issubclass(warning.category, ConvergenceWarning) for warning in seen),
    }


def kappas() -> list[dict[str, object]]:
    generator, cases = np.random.default_rng(0), []
    for n, lean in ((30, 0.5), (200, 0.1), (400, 0.9), (12, 0.3)):
        first = generator.choice(3, n, p=[lean, (1 - lean) / 2, (1 - lean) / 2])
        second = np.where(generator.random(n) < 0.6, first, generator.integers(0, 3, n))
        table = np.zeros((3, 3))
        np.add.at(table, (first, second), 1)
        results = {}
        for name in ("none", "linear", "quadratic"):
            wt = None if name == "none" else name
            found = cohens_kappa(table, wt=wt)
            again = cohen_kappa_score(first, second, weights=wt, labels=[0, 1, 2])
            assert abs(found.kappa - again) < 1e-12
            results[name] = {"kappa": float(found.kappa), "stderr": float(np.sqrt(found.var_kappa))}
        cases.append({"first": first.tolist(), "second": second.tolist(), "results": results})
    return cases


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        stand_in(folder)
        cases = []
        for n, kind, seed in CASES:
            votes, own, rival = draw(n, kind, seed)
            given = {"kind": kind, "preference": votes, "length": own, "rival_length": rival}
            cases.append(given | {"result": length_controlled(votes, own, rival)})
            print(n, kind, cases[-1]["result"])
    names = ("alpaca-eval", "scikit-learn", "statsmodels", "numpy", "pandas", "patsy")
    versions = {name: importlib.metadata.version(name) for name in names}
    document = {"versions": versions, "length_controlled": cases, "kappa": kappas()}
    path = Path(__file__).with_name("judges.json")
    path.write_text(json.dumps(document, separators=(",", ":")) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
