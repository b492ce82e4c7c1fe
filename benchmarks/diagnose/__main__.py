"""``python -m benchmarks.diagnose``."""

from __future__ import annotations

from benchmarks.diagnose.run import main

main()
