"""What transformers' AutoModelForSequenceClassification gives for a reward model's folder that Qwill wrote.

requirements: torch==2.13.0 transformers==5.24.0 safetensors numpy pyyaml tokenizers regex jinja2
run: PYTHONPATH=src python tests/oracles/make_reward_oracle.py   (writes reward.json)
"""

import json
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

import torch

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent.parent / "src"), str(HERE)]
from reward_case import SEQUENCES, write_reward_model  # noqa: E402

if __name__ == "__main__":
    from transformers import AutoModelForSequenceClassification

    out: dict = {"versions": {name: version(name) for name in ("transformers", "torch")}, "rewards": {}}
    for kind in ("dense", "moe"):
        with tempfile.TemporaryDirectory() as folder:
            write_reward_model(Path(folder), kind)
            model, info = AutoModelForSequenceClassification.from_pretrained(
                folder, dtype=torch.float32, output_loading_info=True
            )
        assert not info["missing_keys"], info
        with torch.no_grad():
            rewards = [float(model(torch.tensor([ids])).logits[0, 0]) for ids in SEQUENCES]
        out["rewards"][kind] = rewards
    (HERE / "reward.json").write_text(json.dumps(out, indent=1) + "\n", encoding="utf-8")
