"""Real models, and small ones trained here, diagnosed: ``python -m benchmarks.diagnose`` writes ``benchmarks/results/diagnose``."""
