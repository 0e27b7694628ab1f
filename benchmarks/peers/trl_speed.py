"""TRL's side of benchmarks/align_speed.py. Needs torch, transformers, trl, peft.

    python trl_speed.py JOB.json VARIANT      VARIANT: words of `bf16` and `recompute`, joined by +

`go`: a round of training with a trainer of its own on the next examples; its seconds, tokens and first loss.
"""

import json
import sys
import time
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig
from speed_reward import vowels
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import DPOConfig, DPOTrainer, GRPOConfig, GRPOTrainer, SFTConfig, SFTTrainer


def main(told: str, variant: str) -> None:
    with open(told) as file:
        job = json.load(file)
    torch.set_num_threads(job["threads"])
    with open(job["data"]) as file:
        rows = [json.loads(line) for line in file]
    tokenizer = AutoTokenizer.from_pretrained(job["model"])
    common: dict[str, Any] = dict(
        output_dir=job["work"] + "/trl", max_steps=job["steps"], per_device_train_batch_size=job["batch"],
        learning_rate=job["rate"], lr_scheduler_type="constant", warmup_steps=0, logging_steps=1, save_strategy="no",
        report_to="none", use_cpu=True, disable_tqdm=True, log_level="error", bf16="bf16" in variant,
        gradient_checkpointing="recompute" in variant, train_sampling_strategy="sequential", optim="adamw_torch_fused",
    )  # fmt: skip
    adapter = LoraConfig(
        r=job["lora"], lora_alpha=2 * job["lora"], target_modules="all-linear", task_type="CAUSAL_LM"
    ) if job["lora"] else None  # fmt: skip
    if job["kind"] == "grpo":
        del common["train_sampling_strategy"]
        per_round = job["steps"] * job["batch"] // job["samples"]
    else:
        per_round = job["steps"] * job["batch"]

    def trainer(at: int) -> Any:
        part = Dataset.from_list([rows[(at + i) % len(rows)] for i in range(per_round)])
        # A model of its own for each trainer, as a user has it; loading isn't timed.
        model = AutoModelForCausalLM.from_pretrained(job["model"], dtype=torch.float32)
        more: dict[str, Any] = dict(train_dataset=part, processing_class=tokenizer, peft_config=adapter)
        if job["kind"] == "sft":
            return SFTTrainer(model, args=SFTConfig(**common, max_length=job["longest"] + 64), **more)
        if job["kind"] == "dpo":
            return DPOTrainer(model, args=DPOConfig(**common, max_length=job["longest"] + 64), **more)
        config = GRPOConfig(
            **common, num_generations=job["samples"], max_completion_length=job["new_tokens"],
            chat_template_kwargs={"enable_thinking": False},
        )  # fmt: skip
        return GRPOTrainer(model, reward_funcs=vowels, args=config, **more)

    print(json.dumps({"ready": True}), flush=True)
    at = 0
    for _ in sys.stdin:
        run = trainer(at)
        started = time.perf_counter()
        run.train()
        seconds = time.perf_counter() - started
        history = run.state.log_history
        if job["kind"] == "grpo":
            lengths = [entry["completions/mean_length"] for entry in history if "completions/mean_length" in entry]
            tokens = sum(lengths) * job["batch"]
        else:
            names = ("labels",) if job["kind"] == "sft" else ("completion_mask",)
            tokens = 0
            for batch in run.get_train_dataloader():
                for name in names:
                    tokens += int((batch[name] != -100).sum()) if name == "labels" else int(batch[name][:, 1:].sum())
        print(json.dumps({"seconds": seconds, "tokens": tokens, "loss": history[0]["loss"]}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else "")
