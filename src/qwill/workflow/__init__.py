"""Recipes: a list of stages made one after the other, skipped where made, resumed where cut off.

May import every room but `cli`. Nothing heavy is imported until a stage runs.
"""
