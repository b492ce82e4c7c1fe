"""From points to the gradient of persistent entropy: at least 3 times faster than torch-topological, 20 times at d = 3, 10 in batches."""

from __future__ import annotations

import torch

from benchmarks._measure import FULL, OURS, Form, cell, cloud, floor, measure_rates, report, times
from simplicial_reg.bench import h0_layer

NAME = "h0_layer_beats_torch_topological"
PEER = "torch-topological"
CLOUDS = ((768, 64, 1), (768, 256, 1), (768, 512, 1), (3, 512, 1), (384, 64, 32))
LARGE = ((768, 2048, 1),)


def main(form: Form = FULL) -> None:
    torch.set_num_threads(1)
    rates = measure_rates()
    rows, data = [], []
    for d, n, clouds in form.pick((*CLOUDS, *LARGE), CLOUDS):
        points = cloud(n, d, clouds) if clouds > 1 else cloud(n, d)
        measured = times(h0_layer(points, [PEER]), rounds=15)
        ours = measured[OURS].median
        entry = {
            "d": d,
            "n": n,
            "clouds": clouds,
            "ms": measured,
            "torch-topological / ours": measured[PEER].median / ours,
            "ours / cdist": ours / measured["torch.cdist"].median,
            "ours / floor": ours / floor(n, d, clouds, rates),
            "rates": rates._asdict(),
        }
        data.append(entry)
        rows.append(
            [
                str(d),
                str(n),
                str(clouds),
                cell(measured[OURS]),
                cell(measured[PEER]),
                f"{entry['torch-topological / ours']:.1f}x",
                cell(measured["torch.cdist"]),
                f"{entry['ours / cdist']:.2f}",
                f"{entry['ours / floor']:.2f}",
            ]
        )
    report(
        NAME,
        "H0 layer: points, barcode, persistent entropy, forward and backward",
        ["d", "n", "clouds", OURS, PEER, "ratio", "torch.cdist, no gradient", "ours / cdist", "ours / floor"],
        rows,
        "Milliseconds, median (least-greatest) of 15 turns, values and gradients compared first. `ours / cdist` is the whole forward "
        "and backward pass over one `torch.cdist` without gradient, which every peer needs first; it can be below 1 because our "
        "distances are computed from differences, on half of the matrix. The floor is what `simplicial_reg.bench` defines: the "
        f"products of half of all pairs at {rates.flops / 1e9:.0f} GFLOP/s and one pass over the matrix at {rates.bytes / 1e9:.0f} GB/s, "
        "both measured in this process.",
        data,
        form=form,
    )


if __name__ == "__main__":
    main()
