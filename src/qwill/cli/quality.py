"""`qwill data quality`: train the classifier that curation can score documents with."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from qwill.base.config import load_yaml, parse
from qwill.data.quality_training import QualityConfig, make_quality


def quality(config: Path, overrides: Sequence[str], out: Path, as_json: bool) -> int:
    """Train, save in `out`, and print how well held-out texts are told apart."""
    model = make_quality(parse(QualityConfig, load_yaml(config, overrides), str(config)), out)
    if as_json:
        print(json.dumps({"folder": str(out), "report": model.report}, indent=2))
        return 0
    for language, found in sorted(model.report.items()):
        slope = found["calibration_slope_interval"]
        print(
            f"{language}: AUC {found['auc']:.3f} ({found['lower']:.3f} to {found['upper']:.3f}) on "
            f"{found['good_texts']} good and {found['bad_texts']} bad texts held out; calibration slope "
            f"{found['calibration_slope']:.2f} ({slope[0]:.2f} to {slope[1]:.2f}, 1 is right)"
        )
    print(f"\nTo score a corpus with it: qwill curate CONFIG score.quality={out}")
    return 0
