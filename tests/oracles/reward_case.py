"""A tiny reward model and sequences of unequal lengths, for transformers to score."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent.parent.parent))
SEQUENCES = [[3, 9, 27, 5, 1], [8, 2], [40, 41, 42, 43, 44, 45, 46, 47, 48], [7, 7, 7]]


def write_reward_model(folder: Path, kind: str) -> None:
    from tests.engine.tiny import tiny_model

    from qwill.model.files import save_model

    score_D = torch.randn(32, generator=torch.Generator().manual_seed(5))
    save_model(tiny_model(kind, 97, 64), folder, score_D=score_D)
