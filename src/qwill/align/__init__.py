"""Alignment: preferences (DPO and its kin, KTO, ORPO, SimPO), reward models, reinforcement learning (the GRPO family,
PPO), distillation. Losses are pure functions (`losses`), each stage is a module. May import up to train."""
