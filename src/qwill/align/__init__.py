"""Reinforcement learning and preference losses. May import up to train."""
