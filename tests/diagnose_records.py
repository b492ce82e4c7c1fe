"""Diagnoses of models that never were, made by formula: plausible enough to test what is said of them and to look at it."""

from __future__ import annotations

import math

import numpy as np

from simplicial_reg.diagnose.record import DEFINITIONS, Diagnosis, Estimate, Head, Layer

NORMS = {"mean": 0, "min": -2, "q05": -1, "median": 0, "q95": 1, "max": 2}


def estimate(value, half=0.02):
    return Estimate(value, value - half, value + half)


def layer(name="block 1", depth=1.0, cosine=0.3, *, flat=0.3, top=0.2, outliers=(), width=384, seed=0, **changes):
    """A layer: ``cosine`` is the raw one, ``flat`` the participation ratio over null, ``top`` the first share of variance."""
    draw = np.random.default_rng(seed)
    spectrum = np.r_[top, (1 - top) * (lambda p: p / p.sum())(np.arange(1, width) ** -0.9)]
    bars = np.sort(draw.gamma(8, 0.1, 200)) * (1 + cosine)
    ratio = flat * 300
    values = {
        "mean_cosine": cosine,
        "mean_cosine_sampled": cosine + 0.01,
        "mean_cosine_centred": -0.002 + 0.01 * cosine,
        "drift_ratio": math.sqrt(abs(cosine)),
        "participation_ratio": ratio,
        "participation_ratio_over_null": flat,
        "isoscore_star": (ratio - 1) / (width - 1),
        "top_1_variance_share": top,
        "top_3_variance_share": float(spectrum[:3].sum()),
        "top_10_variance_share": float(spectrum[:10].sum()),
        "outlier_share": sum(share for _, share in outliers),
        "partition_ratio": 0.5 - 0.3 * cosine,
        "persistent_entropy": 0.99 - 0.02 * cosine,
        "entropy_deficit": 0.1 + 0.1 * cosine,
        "prominent_bars": 1.0 + round(4 * cosine),
        "twonn_dimension": 14 + 10 * depth * (1 - depth),
        "mle_dimension": 11 + 8 * depth * (1 - depth),
        "ph_dimension": 12 + 9 * depth * (1 - depth),
        "norm_mean": 5 + 3 * depth,
        "norm_std": 0.5,
    }
    assert set(values) == set(DEFINITIONS)
    without = {"mean_cosine_sampled", "prominent_bars", "norm_mean", "norm_std"}
    content = {
        "points": 5000,
        "sequences": 256,
        "sampled": 2048,
        "measures": {
            key: Estimate(value) if key in without else estimate(value, 0.05 * abs(value))
            for key, value in values.items()
        },
        "outliers": [
            {"dimension": dimension, "share": share, "variance_ratio": share * width, "mean": 1.5}
            for dimension, share in sorted(outliers, key=lambda entry: -entry[1])
        ],
        "spectrum": spectrum.tolist(),
        "bars": bars.tolist(),
        "norms": {"std": 0.5, **{part: 5 + 3 * depth + at for part, at in NORMS.items()}},
    }
    return Layer(name, depth, width, **{**content, **changes})


def diagnosis(label="", *, blocks=6, heads=12, shift=0.0, model="minilm", **changes):
    """A model whose middle blocks are the most anisotropic, with two outlier dimensions there."""
    layers = []
    for at in range(blocks + 1):
        depth = at / blocks
        hump = 4 * depth * (1 - depth)
        rogue = [(17, 0.02 + 0.2 * hump), (203, 0.015 + 0.05 * hump)] if 0 < at < blocks else []
        cosine, name = max(0.02, 0.05 + 0.5 * hump + shift), "embeddings" if at == 0 else f"block {at}"
        spread = {"flat": 0.5 - 0.35 * hump, "top": 0.05 + 0.3 * hump}
        layers.append(layer(name, depth, cosine, outliers=rogue, seed=at, **spread))
    draw = np.random.default_rng(blocks * heads)
    found = [
        Head(
            block,
            head,
            {
                "query_norm": float(draw.uniform(0.2, 0.9)),
                "key_norm": float(draw.uniform(0.2, 0.9)),
                "alignment": float(np.tanh(draw.normal(0, 0.7))),
                "score_mean": float(draw.normal()),
                "score_std": float(draw.uniform(1, 3)),
                "entropy": float(draw.uniform(0.3, 1)),
                "mean_share": float(draw.uniform(0, 0.8)),
            },
        )
        for block in range(1, blocks + 1)
        for head in range(1, heads + 1)
    ]
    content = {"environment": {"torch": "2.13.0", "python": "3.11"}, "notes": []}
    return Diagnosis(
        model, "sentences of docstrings", "text", "tokens", 0, layers, found, label=label, **{**content, **changes}
    )
