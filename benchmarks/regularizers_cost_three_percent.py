"""No regularizer costs more than 3 % of a training step of a six-layer transformer of width 384 on 32 × 64 tokens."""

from __future__ import annotations

import inspect

import torch
from torch import nn

from benchmarks._measure import FULL, Form, cell, report, times
from simplicial_reg import REGULARIZERS

NAME = "regularizers_cost_three_percent"
SENTENCES, TOKENS, WIDTH = 32, 64, 384


def main(form: Form = FULL) -> None:
    torch.set_num_threads(2)
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randn(SENTENCES, TOKENS, WIDTH, generator=generator)
    labels = torch.arange(SENTENCES) % 2
    layer = nn.TransformerEncoderLayer(WIDTH, nhead=12, dim_feedforward=4 * WIDTH, batch_first=True)
    model = nn.Sequential(nn.TransformerEncoder(layer, 6, enable_nested_tensor=False))
    head = nn.Linear(WIDTH, 2)

    def step() -> None:
        model.zero_grad()
        nn.functional.cross_entropy(head(model(tokens).mean(1)), labels).backward()

    with torch.no_grad():
        hidden = model(tokens)
    clouds = {"32 sentences": hidden.mean(1)}
    if form.full:
        clouds |= {"32 clouds of 64 tokens": hidden, "2,048 tokens": hidden.flatten(0, 1)}
    whole_step = times({"step": step}, rounds=7)["step"]
    rows = [["(the training step)", cell(whole_step), "", "", ""]]
    data: list[object] = [{"step": whole_step}]
    for name, regularizer in REGULARIZERS.items():
        loss = regularizer()
        two_clouds = "other" in inspect.signature(loss.forward).parameters
        entry: dict[str, object] = {"regularizer": name}
        cells = dict.fromkeys(("32 clouds of 64 tokens", "2,048 tokens"), "-")
        for which, points in clouds.items():
            if name == "rtd" and len(points) > 1000:  # H1 of 4,096 points: no part of anyone's training step
                continue
            x = points.clone().requires_grad_()
            other = (points.roll(1, -1) + 0.1 * points,) if two_clouds else ()

            def penalty(x: torch.Tensor = x, other: tuple[torch.Tensor, ...] = other, loss: nn.Module = loss) -> None:
                x.grad = None
                loss(x, *other).backward()

            measured = times({name: penalty}, rounds=7)[name]
            entry[which] = measured
            cells[which] = cell(measured)
        share = entry["32 sentences"][0] / whole_step[0]  # type: ignore[index]
        entry["share of the step"] = share
        data.append(entry)
        rows.append(
            [f"`{name}`", cells["32 sentences"], f"{share:.2%}", cells["32 clouds of 64 tokens"], cells["2,048 tokens"]]
        )
    report(
        NAME,
        "What a regularizer adds to a training step",
        ["regularizer", "32 sentences", "share of the step", "32 clouds of 64 tokens", "one cloud of 2,048 tokens"],
        rows,
        "Milliseconds for forward and backward, median (least-greatest) of 7 turns, defaults. The step is forward and backward of a "
        f"six-layer transformer of width {WIDTH} on {SENTENCES} × {TOKENS} tokens without optimizer; the share, which the claim is about, "
        "is that of the first column, one point for each sentence. -: not run.",
        data,
        form=form,
    )


if __name__ == "__main__":
    main()
