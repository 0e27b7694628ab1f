"""The one training loop, optimisers, checkpoints; pretraining and supervised fine-tuning. May import up to evaluate."""
