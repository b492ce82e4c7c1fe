"""Benchmarks: one claim per file, named after it. ``python -m benchmarks`` runs them all and rewrites ``benchmarks/results``."""
