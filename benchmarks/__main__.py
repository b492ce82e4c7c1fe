"""``python -m benchmarks [NAME ...]`` runs the claims (all of them by default) one after another."""

from __future__ import annotations

import importlib
import sys

CLAIMS = (
    "h0_edges_come_forty_times_faster",
    "h0_layer_beats_torch_topological",
    "h1_comes_ten_times_faster",
    "h1_memory_is_quadratic",
    "small_clouds_cost_little",
    "isoscore_star_comes_thirty_times_faster",
    "regularizers_cost_three_percent",
    "training_step_costs_two_percent",
)

if __name__ == "__main__":
    unknown = set(sys.argv[1:]) - set(CLAIMS)
    if unknown:
        sys.exit(f"no such benchmark: {', '.join(sorted(unknown))}; there are {', '.join(CLAIMS)}")
    for name in sys.argv[1:] or CLAIMS:
        importlib.import_module(f"benchmarks.{name}").main()
