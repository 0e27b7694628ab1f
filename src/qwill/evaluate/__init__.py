"""Tasks and verifiers, statistics, baselines, arena, report. May import every room up to engine."""
