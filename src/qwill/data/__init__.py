"""Curation: sources, repair, language, filters, duplicates, decontamination, packing. May import base, text, model."""
