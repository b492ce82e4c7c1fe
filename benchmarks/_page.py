"""The table of docs/speed.md, made of the committed results: `claims` fills it, `rewrite` puts it between its marks.

Every row is a claim, its figures as the results have them, the file they come from and the command that measures it again. A result that
is not there gives no row.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks._measure import OURS, ROOT, write

__all__ = ["BEGIN", "CLAIMS", "END", "PAGE", "Row", "claims", "read", "rewrite"]

PAGE = ROOT / "docs" / "speed.md"
BEGIN, END = "<!-- python -m benchmarks --page writes this: begin -->", "<!-- end -->"
Data = Any


class Row(NamedTuple):
    """One line of the table.

    Attributes:
        claim: what is claimed, in words.
        benchmark: whose result it is.
        figures: the numbers of the result, as text.
    """

    claim: str
    benchmark: str
    figures: Callable[[Data], str]


def read(folder: Path, name: str) -> Data:
    """A result; None if there is none."""
    path = folder / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def rewrite(folder: Path, page: Path = PAGE) -> Path:
    """Put the table of the results in a folder between the marks of a page."""
    text = page.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    _, found, after = rest.partition(END)
    if not found:
        raise ValueError(f"{page} must hold both marks, {BEGIN} and {END}; put them where the table is to be")
    write(page, f"{before}{BEGIN}\n\n{claims(folder)}\n{END}{after}")
    return page


def claims(folder: Path) -> str:
    """The table, one line for each claim whose result is in the folder, and the machines."""
    machines: dict[str, None] = {}
    lines = ["| claim | measured | numbers, plot | command |", "|---|---|---|---|"]
    for claim, name, figures in CLAIMS:
        result = read(folder, name)
        if result is not None:
            machines[result["machine"]] = None
            link = f"../benchmarks/results/{name}"
            command = f"`python -m benchmarks {name} --full`"
            lines.append(
                f"| {claim} | {figures(result['data'])} | [table]({link}.md), [plot]({link}.svg) | {command} |"
            )
    return "\n".join([*lines, "", f"Measured on: {'; '.join(machines)}."]) + "\n"


# --- figures -----------------------------------------------------------------------------------------------------------------------


def span(values: Sequence[float], of: str = "{:.3g}") -> str:
    """The least and the greatest.

    Example:
        >>> span([3.0, 12.34, 5.0]), span([2.0])
        ('3 to 12.3', '2')
    """
    low, high = of.format(min(values)), of.format(max(values))
    return low if low == high else f"{low} to {high}"


def _layer(data: Data) -> str:
    wide = [one for one in data if one["d"] == 768]
    flat, batch = (
        next(one for one in data if test(one)) for test in (lambda o: o["d"] == 3, lambda o: o["clouds"] > 1)
    )
    key = "torch-topological / ours"
    return (
        f"{', '.join(f'{one[key]:.1f}' for one in wide)} times for n = {', '.join(str(one['n']) for one in wide)}; "
        f"{flat[key]:.0f} times for {flat['n']} × {flat['d']}, "
        f"{batch[key]:.0f} times for {batch['clouds']} clouds of {batch['n']} × {batch['d']}"
    )


def _over_cdist(data: Data) -> str:
    wide = [one for one in data if one["d"] == 768]
    return ", ".join(f"{one['ours / cdist']:.2f} (n = {one['n']})" for one in wide)


def _peer(data: Data) -> str:
    return "; ".join(
        f"{span([one['giotto-ph / ours'] for one in data if one['n'] >= 256 and one['d'] == d], '{:.0f}')} times at d = {d}"
        for d in (768, 3)
    )


def _h1(data: Data) -> str:
    gauss = [one for one in data if one["metric"] == "euclidean"]
    hardest = [one for one in data if one["metric"] == "cosine"][-1]
    ours, theirs = hardest["ms"][OURS][0], hardest["ms"]["giotto-ph"][0]
    return f"{_peer(gauss)}; {hardest['n']} random directions in {ours:.0f} ms against {theirs / 1e3:.1f} s"


def _h1_large(data: Data) -> str:
    parts = []
    for one in data:
        if one["n"] == max(two["n"] for two in data):
            ratio, seconds = one["best giotto-ph / ours"], one["seconds"][OURS]
            parts.append(f"{one['n']:,} × {one['d']}: {ratio:.0f} times, {seconds:.2f} s")
    return "; ".join(parts)


def _memory(data: Data) -> str:
    parts = []
    for what in dict.fromkeys(one["what"] for one in data):
        chosen = [one for one in data if one["what"] == what and one["n"] >= 1024 and one["metric"] == "euclidean"]
        parts.append(f"{what} {span([one['bytes per entry'] for one in chosen], '{:.1f}')} bytes")
    hardest = max((one for one in data if one["metric"] == "cosine"), key=lambda one: one["n"])
    return f"{'; '.join(parts)}; of {hardest['n']} random directions {hardest['bytes per entry']:.0f}"


def _small(data: Data) -> str:
    (h0,), (h1,) = ([one for one in data if one["max_dim"] == dim and one["n"] == 8] for dim in (0, 1))
    few = [one for one in data if one["best peer / ours"] < 1]
    slower = ", ".join(f"H{one['max_dim']} of {one['n']} points" for one in few)
    return f"8 points: {h0['ms'][OURS][0] * 1e3:.0f} µs for H0, {h1['ms'][OURS][0] * 1e3:.0f} µs for H1" + (
        f"; a peer (ripser.py, which names no edges, or gudhi) is quicker at {slower}" if few else ""
    )


def _large(data: Data) -> str:
    parts = []
    for one in data:
        if one["n"] >= 20_000:
            kind = "" if one["kind"] == "normal" else f", {one['kind']}"
            parts.append(
                f"{one['n']:,} × {one['d']}{kind}: {one['seconds']['blocked']:.3g} s, {max(0, one['bytes']) / 1e9:.2f} GB"
            )
    return "; ".join(parts)


def _over_pass(data: Data) -> str:
    wide = [one for one in data if one["d"] == 384]
    plain = [one["seconds"]["blocked"] / one["seconds"]["products"] for one in wide if one["kind"] == "normal"]
    clusters = [one["seconds"]["blocked"] / one["seconds"]["products"] for one in wide if one["kind"] != "normal"]
    return f"{span(plain, '{:.1f}')} passes at d = 384; {span(clusters, '{:.1f}')} with clusters"


def _isoscore(data: Data) -> str:
    return "; ".join(
        f"{one['authors / ours']:.0f} times ({one['n']} × {one['d']}{', shrinkage' if one['shrinkage'] else ''})"
        for one in data
    )


def _regularizers(data: Data) -> str:
    shares = {one["regularizer"]: one["share of the step"] for one in data[1:]}
    most = max(shares, key=lambda name: shares[name])
    return f"at most {shares[most]:.2%} (`{most}`), for persistent entropy {shares['persistent-entropy']:.2%}"


def _training(data: Data) -> str:
    constant = [one for one in data if one["weight"] is not None]
    (balanced,) = (one for one in data if one["weight"] is None)
    middle = {one["regularizer"]: float(np.median(one["ratios"])) - 1 for one in constant}
    low, high = (float(np.quantile(constant[0]["ratios"], at)) - 1 for at in (0.25, 0.75))
    memory = max(one["memory"] for one in data)
    return (
        f"persistent entropy {middle['persistent-entropy']:+.1%} (quartiles {low:+.1%} to {high:+.1%}), of all regularizers at most "
        f"{max(middle.values()):+.1%}; balanced {float(np.median(balanced['ratios'])) - 1:+.1%}; memory {memory:+.2%}"
    )


def _exponents(of: str) -> Callable[[Data], str]:
    def figures(data: Data) -> str:
        names = {"n": "n", "d": "d", "clouds": "clouds"}
        found = {one["in"]: one for one in data["exponents"] if one["of"] == of}
        return ", ".join(
            f"in {names[varied]} {one['exponent']:.2f} [{one['low']:.2f}, {one['high']:.2f}]"
            for varied, one in found.items()
        )

    return figures


def _floor(data: Data) -> str:
    by_n = {one["n"]: one["over floor"] for one in data["entries"] if one["varied"] == "n"}
    by_d = {one["d"]: one["over floor"] for one in data["entries"] if one["varied"] == "d"}
    rates = data["rates"]
    return (
        f"d = 384: {', '.join(f'{by_n[n]:.1f} (n = {n})' for n in sorted(by_n) if n in (64, 512, 4096))}; "
        f"n = 512: {', '.join(f'{by_d[d]:.1f} (d = {d})' for d in sorted(by_d) if d in (3, 96, 1536))}; "
        f"of {rates['flops'] / 1e9:.0f} GFLOP/s and {rates['bytes'] / 1e9:.0f} GB/s"
    )


def _threads(data: Data) -> str:
    most = max(one["threads"] for one in data["threads"])
    return f"with {most}: " + ", ".join(
        f"{one['speed-up']:.2f} times as fast ({one['layer']}, {one['clouds']} × {one['n']} × {one['d']})"
        for one in data["threads"]
        if one["threads"] == most
    )


def _gpu(data: Data) -> str:
    parts = []
    for one in data:
        ours, peer = one["ms"][OURS][0], one["ms"].get("torch-topological")
        beside = f", {peer[0] / ours:.0f} times as fast as torch-topological" if peer else ""
        parts.append(
            f"{one['clouds']} × {one['n']} × {one['d']}: {ours:.3g} ms, {one['ours / floor']:.1f} times the floor{beside}"
        )
    return "; ".join(parts)


def _ranks(data: Data) -> str:
    from benchmarks.a_cloud_over_a_thousand_ranks import amount, duration

    parts = []
    for n in (10_000_000, 100_000_000):
        one = max((one for one in data["costs"] if one["points"] == n), key=lambda one: one["ranks"])
        slowest = data["networks"][0]["name"]
        parts.append(
            f"{n // 10**6} million × {data['d']} on {one['ranks']:,}: computing {duration(sum(one['computing'].values()))}, "
            f"sending {duration(one['sending'][slowest])} ({slowest}), {amount(max(one['memory'].values()))} a rank"
        )
    return "; ".join(parts)


CLAIMS = (
    Row("H0 layer, points to gradient, is faster than torch-topological", "h0_layer_beats_torch_topological", _layer),
    Row("H0 layer, d = 768, over one `torch.cdist` without gradient", "h0_layer_beats_torch_topological", _over_cdist),
    Row("H0 layer over its floor", "h0_grows_with_the_square", _floor),
    Row("H0 layer grows as n², and no faster than d and clouds", "h0_grows_with_the_square", _exponents(OURS)),
    Row("H1 layer grows little faster than n²", "h0_grows_with_the_square", _exponents("H1 layer")),
    Row("Two threads and more", "h0_grows_with_the_square", _threads),
    Row("H0 edges from distances, n from 256 on, faster than giotto-ph", "h0_edges_come_forty_times_faster", _peer),
    Row("H1 edges from distances, n from 256 on, faster than giotto-ph", "h1_comes_ten_times_faster", _h1),
    Row("H1 of large clouds, on two cores, over giotto-ph at its best", "h1_of_four_thousand_points", _h1_large),
    Row("Memory for each entry of the distance matrix is constant", "h1_memory_is_quadratic", _memory),
    Row("One call on a small cloud costs little", "small_clouds_cost_little", _small),
    Row("Large clouds, H0, exactly, on two cores", "large_clouds_take_one_pass", _large),
    Row("... over one pass of matrix products", "large_clouds_take_one_pass", _over_pass),
    Row(
        "IsoScore\\* and gradient, faster than its authors' code", "isoscore_star_comes_thirty_times_faster", _isoscore
    ),
    Row("A regularizer's share of a training step", "regularizers_cost_three_percent", _regularizers),
    Row("What the added line does to a training step of MiniLM", "training_step_costs_two_percent", _training),
    Row("H0 layer on a GPU, over one `torch.cdist` there", "h0_on_the_gpu_within_three_times_its_floor", _gpu),
    Row("**Simulated**: one cloud over many ranks", "a_cloud_over_a_thousand_ranks", _ranks),
)
