"""What verl's core algorithms say of made-up numbers: advantages, policy and value losses, aggregation, KL terms.

requirements: torch==2.13.0 verl==0.9.1 transformers==5.10.2 tensordict==0.10.0 ray==2.60.0 orjson==3.13.0
run: python tests/oracles/make_verl_oracle.py   (writes verl.json)
"""

import json
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from align_cases import AGGREGATIONS, GROUP, HORIZON, VERL, B, replies
from omegaconf import OmegaConf
from torch import Tensor
from verl.trainer.ppo import core_algos as verl
from verl.workers.config import ActorConfig

HERE = Path(__file__).parent


def told(loss: Tensor, over: Tensor) -> dict:
    loss.backward()
    return {"loss": float(loss), "gradient": over.grad.double().tolist()}


if __name__ == "__main__":
    out: dict = {"versions": {name: version(name) for name in ("verl", "torch")}}
    case, groups = replies(), np.arange(B) // GROUP
    mask = case["mask"]
    out["policy"] = {}
    for name, (algorithm, settings) in VERL.items():
        for how in AGGREGATIONS:
            logp = replies()["logp"].requires_grad_()
            config = ActorConfig(
                strategy="fsdp", rollout_n=GROUP, ppo_micro_batch_size_per_gpu=1, clip_ratio=0.2, **settings
            )
            config.global_batch_info["loss_scale_factor"] = HORIZON
            loss, _ = verl.get_policy_loss_fn(algorithm)(
                case["old"], logp, case["token_advantages"], mask, loss_agg_mode=how, config=config
            )
            out["policy"][f"{name} {how}"] = told(loss, logp)
    values = replies()["values"].requires_grad_()
    returns = case["token_rewards"] + 0.3
    loss, clipped = verl.compute_value_loss(values, returns, case["old_values"], mask, 0.4)
    out["value"] = told(loss, values) | {"clipped": float(clipped)}
    spread = case["rewards"][:, None] * torch.nn.functional.one_hot(mask.sum(1).long() - 1, mask.shape[1])
    gae = verl.compute_gae_advantage_return(case["token_rewards"] * mask, case["values"], mask, 0.97, 0.9)
    plus = verl.compute_reinforce_plus_plus_outcome_advantage(
        case["token_rewards"] * mask, mask, OmegaConf.create({"gamma": 0.9})
    )
    grpo = verl.compute_grpo_outcome_advantage(spread.clone(), mask, groups)
    plain = verl.compute_grpo_outcome_advantage(spread.clone(), mask, groups, norm_adv_by_std_in_grpo=False)
    rloo = verl.compute_rloo_outcome_advantage(spread.clone(), mask, groups)
    out["advantages"] = {
        "gae": (gae[0] * mask).tolist(), "gae_returns": (gae[1] * mask).tolist(),
        "reinforce_plus_plus": plus[0].tolist(),
        "grpo": grpo[0].tolist(), "grpo_unscaled": plain[0].tolist(), "rloo": rloo[0].tolist(),
    }  # fmt: skip
    out["kl"] = {}
    for name in ("k1", "k2", "k3", "k1+", "k3+"):
        logp = replies()["logp"].requires_grad_()
        out["kl"][name] = told((verl.kl_penalty(logp, case["reference"], name) * mask).sum(), logp)
    (HERE / "verl.json").write_text(json.dumps(out) + "\n", encoding="utf-8")
