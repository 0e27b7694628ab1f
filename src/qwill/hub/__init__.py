"""Lineage, model cards; later the hub itself. May import up to align."""
