"""``python -m benchmarks [NAME ...]``: the claims, all of them by default, one after another.

The short form, without ``--full``, measures each claim at a few sizes and writes to runs/bench, so that it leaves the committed results
alone; ``--full`` measures all sizes and rewrites benchmarks/results. ``--plot`` draws the plots and ``--page`` writes the table of
docs/speed.md anew, of the results that are there; neither measures anything.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import time
import traceback
from pathlib import Path
from typing import NamedTuple

from benchmarks._measure import FULL, RESULTS, SHORT, Form, plot


class Claim(NamedTuple):
    """A benchmark.

    Attributes:
        short: whether it has a short form, which is part of ``make bench``.
        cuda: whether it needs a GPU; without one it is passed over unless it is named.
    """

    short: bool = True
    cuda: bool = False


CLAIMS = {
    "h0_edges_come_forty_times_faster": Claim(),
    "h0_layer_beats_torch_topological": Claim(),
    "h0_grows_with_the_square": Claim(),
    "h1_comes_ten_times_faster": Claim(),
    "h1_of_four_thousand_points": Claim(),
    "h1_memory_is_quadratic": Claim(),
    "large_clouds_take_one_pass": Claim(),
    "small_clouds_cost_little": Claim(),
    "isoscore_star_comes_thirty_times_faster": Claim(),
    "regularizers_cost_three_percent": Claim(),
    "training_step_costs_two_percent": Claim(),
    "a_cloud_over_a_thousand_ranks": Claim(),
    "h0_on_the_gpu_within_three_times_its_floor": Claim(cuda=True),
}


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Benchmarks that are claims.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(CLAIMS)}; all if none is given")
    parser.add_argument("--full", action="store_true", help="all sizes, into benchmarks/results")
    parser.add_argument("--out", type=Path, metavar="DIR", help="write there instead, or --plot what is there")
    parser.add_argument("--plot", action="store_true", help="only draw the plots, of results that are there")
    parser.add_argument(
        "--page", action="store_true", help="only write the table of docs/speed.md, of benchmarks/results"
    )
    chosen = parser.parse_args(arguments)
    unknown = set(chosen.names) - set(CLAIMS)
    if unknown:
        sys.exit(f"no such benchmark: {', '.join(sorted(unknown))}; there are {', '.join(CLAIMS)}")
    if chosen.plot or chosen.page:
        if chosen.plot:
            for name in chosen.names or CLAIMS:
                print(plot(name, chosen.out or RESULTS) or f"{name}: no result")
        if chosen.page:
            from benchmarks._page import rewrite

            print(rewrite(RESULTS))
        return
    form = FULL if chosen.full else SHORT
    run(chosen.names or CLAIMS, form._replace(folder=chosen.out or form.folder), named=bool(chosen.names))


def run(names: list[str] | dict[str, Claim], form: Form, named: bool) -> None:
    started = time.perf_counter()
    failed = []
    for name in names:
        claim = CLAIMS[name]
        reason = _reason_against(claim, form, named)
        if reason:
            print(f"{name}: {reason}", file=sys.stderr)
            continue
        begun = time.perf_counter()
        try:
            importlib.import_module(f"benchmarks.{name}").main(form)
        except Exception:  # the others are still to be measured
            traceback.print_exc()
            failed.append(name)
        print(f"{name}: {time.perf_counter() - begun:.0f} s", file=sys.stderr, flush=True)
    print(f"{(time.perf_counter() - started) / 60:.1f} min in all; results are in {form.folder}", file=sys.stderr)
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


def _reason_against(claim: Claim, form: Form, named: bool) -> str:
    if not claim.short and not form.full:
        return "it has no short form; add --full"
    if claim.cuda and not named:
        import torch

        if not torch.cuda.is_available():
            return "it needs a GPU; passed over"
    return ""


if __name__ == "__main__":
    main(sys.argv[1:])
