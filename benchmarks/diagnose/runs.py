"""The runs: real models on real data, small models at halts of their training, and the control.

Everything is diagnosed on data that it was not trained on, but for ``stories-own``: what a language model writes itself is its own
kind of text, and as it never was in its training data it is held out as well.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.diagnose import data
from benchmarks.diagnose.finetune import SST2, FineTuning, compare
from benchmarks.diagnose.models import CausalTransformer, ConvolutionalNetwork, VisionTransformer
from benchmarks.diagnose.results import Results
from benchmarks.diagnose.train import Halt, Recipe, passages, train_on_images, train_on_text
from simplicial_reg.diagnose import Diagnosis, diagnose

__all__ = ["FULL", "RUNS", "SHORT", "Run", "Sizes", "control_clouds", "find_fault_with_control"]

TRAINED, UNTRAINED = "trained", "untrained"
WIKITEXT, STORIES = "text/wikitext2_test.txt", "models/stories260K"
KEYWORDS, SPOKEN = "models/kwt1", "speech/fsdd_half.npz"

# Fields of `Sizes` that single runs alone depend on: to change them leaves the results of all others as they are.
OWN = ("tuning",)


@dataclass(frozen=True)
class Sizes:
    """How large everything is.

    Attributes:
        sequences: images, texts or sounds of a diagnosis.
        length: tokens of a passage of text.
        sample: points of a diagnosis whose distances are looked at.
        vision: keywords for the vision transformer; the convolutional network is as wide.
        text: keywords for the language models.
        blocks: of the convolutional network.
        digits: how the models of MNIST are trained;
        objects: those of CIFAR-10;
        plays: and those of Shakespeare.
        cloud: points and dimensions of the control.
        tuning: how MiniLM is fine-tuned.
    """

    sequences: int
    length: int
    sample: int
    vision: dict[str, int]
    text: dict[str, int]
    blocks: int
    digits: Recipe
    objects: Recipe
    plays: Recipe
    cloud: tuple[int, int]
    tuning: FineTuning

    def settings(self, own: Sequence[str] = ()) -> dict[str, Any]:
        """In types of JSON; of the fields that single runs alone depend on, `OWN`, those that are named."""
        shared = {name: value for name, value in asdict(self).items() if name not in OWN or name in own}
        return {**shared, "cloud": list(self.cloud)}


FULL = Sizes(
    sequences=256,
    length=128,
    sample=2048,
    vision={"width": 64, "blocks": 4, "heads": 4},
    text={"width": 128, "blocks": 4, "heads": 4},
    blocks=6,
    digits=Recipe(2000, 64, 1e-3),
    objects=Recipe(1500, 64, 1e-3),
    plays=Recipe(1000, 16, 3e-3),
    cloud=(2048, 128),
    # I-STAR as strong as the study has it where nothing is searched; persistent entropy three times that, so that it shows.
    tuning=FineTuning(Recipe(62, 32, 3e-4), 2000, 48, 3, {"none": 0.0, "persistent-entropy": 0.3, "istar": 1.0}),
)
# A try of everything: the programs are the same, the numbers mean nothing.
SHORT = Sizes(
    sequences=4,
    length=12,
    sample=32,
    vision={"width": 16, "blocks": 2, "heads": 2},
    text={"width": 16, "blocks": 2, "heads": 2},
    blocks=2,
    digits=Recipe(1, 4, 1e-3),
    objects=Recipe(1, 4, 1e-3),
    plays=Recipe(1, 4, 1e-3),
    cloud=(96, 8),
    tuning=FineTuning(Recipe(2, 4, 1e-3), 8, 12, 1, {"none": 0.0, "persistent-entropy": 0.3, "istar": 1.0}),
)


@dataclass(frozen=True)
class Run:
    """One thing that is diagnosed.

    Attributes:
        what: in words.
        do: does it: given the folder of the data, where results go, sizes and seed.
        needs: files or folders below the data folder.
        seeded: whether it is done once for each seed.
        own: fields of `Sizes` that it alone depends on.
    """

    what: str
    do: Callable[[Path, Results, Sizes, int], None]
    needs: tuple[str, ...] = ()
    seeded: bool = False
    own: tuple[str, ...] = ()


# --- models that others trained -----------------------------------------------------------------------------------------------


def _both(
    results: Results, model: nn.Module, batches: list[Any], sizes: Sizes, notes: Sequence[str] = (), **about: str
) -> None:
    """The model as it was trained, and with weights drawn anew."""
    from simplicial_reg.diagnose.untrained import untrained

    for label, make in ((TRAINED, lambda: model), (UNTRAINED, lambda: untrained(model, seed=0))):

        def diagnosis(make: Callable[[], nn.Module] = make, label: str = label) -> Diagnosis:
            found = diagnose(make(), batches, sample=sizes.sample, **about)
            return replace(found, label=label, notes=[*found.notes, *notes])

        results.keep(label, diagnosis)


def _minilm(name: str | None) -> Callable[[Path, Results, Sizes, int], None]:
    def do(folder: Path, results: Results, sizes: Sizes, seed: int) -> None:
        from simplicial_reg.diagnose.sources import open_source

        source = open_source("minilm", data=None if name is None else str(folder / name), sample=sizes.sequences)
        about = {"name": source.name, "data": source.data, "modality": source.modality}
        _both(results, source.model, list(source.batches), sizes, source.notes, **about)

    return do


def _stories(own: bool) -> Callable[[Path, Results, Sizes, int], None]:
    def do(folder: Path, results: Results, sizes: Sizes, seed: int) -> None:
        from transformers import AutoModelForCausalLM, AutoTokenizer
        from transformers.utils import logging

        logging.disable_progress_bar()
        model = AutoModelForCausalLM.from_pretrained(folder / STORIES).eval()
        first = model.config.bos_token_id
        if own:
            numbers = generated(model, first, sizes.sequences, sizes.length)
            what = f"{len(numbers)} texts of {sizes.length} tokens that the model wrote itself, drawn with seed 0"
        else:
            tokenizer = AutoTokenizer.from_pretrained(folder / STORIES)
            text = data.read_text(folder)
            ids = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
            body = passages(torch.tensor(ids), sizes.length - 1, sizes.sequences)
            numbers = torch.cat([torch.full((len(body), 1), first), body], 1)
            what = f"{len(numbers)} passages of {sizes.length} tokens from Shakespeare's plays"
        batches = [{"input_ids": part, "attention_mask": torch.ones_like(part)} for part in numbers.split(32)]
        note = f"the trained model's loss on this text is {bits_per_token(model, numbers):.3f} bits per token"
        _both(
            results, model.base_model, batches, sizes, (note,), name="stories260K (Llama)", data=what, modality="text"
        )

    return do


@torch.no_grad()
def generated(model: nn.Module, first: int, count: int, length: int, seed: int = 0) -> Tensor:
    """So many texts (count, length) drawn from a causal language model token by token, each after the token `first`."""
    draw = torch.Generator().manual_seed(seed)
    numbers = torch.full((count, 1), first)
    past = None
    for _ in range(length - 1):
        output = model(numbers[:, -1:], past_key_values=past, use_cache=True)
        past = output.past_key_values
        chances = output.logits[:, -1].float().softmax(-1)
        numbers = torch.cat([numbers, torch.multinomial(chances, 1, generator=draw)], 1)
    return numbers


@torch.no_grad()
def bits_per_token(model: nn.Module, numbers: Tensor) -> float:
    """Of texts (n, length), in which all but the first token are predicted."""
    losses = [
        nn.functional.cross_entropy(model(part).logits[:, :-1].flatten(0, 1), part[:, 1:].flatten(), reduction="none")
        for part in numbers.split(32)
    ]
    return float(torch.cat(losses).double().mean() / np.log(2))


def _keywords(folder: Path, results: Results, sizes: Sizes, seed: int) -> None:
    from examples.keyword_transformer import load, read_digits

    waves = read_digits(folder / SPOKEN).waves
    chosen = waves[data.spread(len(waves), sizes.sequences)]
    what = f"{len(chosen)} spoken digits, padded with silence to one second"
    _both(
        results, load(folder / KEYWORDS), list(chosen.split(32)), sizes, name="KWT-1", data=what, modality="speech"
    )  # fmt: skip


def _finetuned(folder: Path, results: Results, sizes: Sizes, seed: int) -> None:
    compare(folder, results, sizes.tuning, sequences=sizes.sequences, sample=sizes.sample, seed=seed)


# --- models that are trained here ----------------------------------------------------------------------------------------------


def _watched(results: Results, model: nn.Module, batches: list[Tensor], sizes: Sizes, steps: int, **about: Any) -> Halt:
    """At each halt: metrics and a diagnosis on held-out data."""

    def halt(step: int, metrics: dict[str, float]) -> None:
        (first, value), *_ = metrics.items()
        results.say(f"step {step} of {steps}: {first} {value:.3f} on held-out data")
        results.metrics(step, metrics)
        note = f"after {step} of {steps} steps of training; {first} {value:.4f} on held-out data"

        def diagnosis() -> Diagnosis:
            found = diagnose(model, batches, sample=sizes.sample, **about)
            return replace(found, label=f"step {step}", notes=[*found.notes, note])

        results.keep(f"step-{step:05d}", diagnosis)

    return halt


def _vision(source: str, convolutional: bool, **extra: Any) -> Callable[[Path, Results, Sizes, int], None]:
    def do(folder: Path, results: Results, sizes: Sizes, seed: int) -> None:
        images = data.IMAGES[source](folder)
        recipe = sizes.digits if source == "mnist" else sizes.objects
        channels, size = images.train.shape[1:3]
        shape = {"channels": channels, "size": size}

        def make() -> nn.Module:
            if convolutional:
                return ConvolutionalNetwork(**shape, width=sizes.vision["width"], blocks=sizes.blocks, **extra)
            return VisionTransformer(**shape, **sizes.vision)

        shown = images.held_out[data.spread(len(images.held_out), sizes.sequences)]
        kind = "convolutional network" if convolutional else "vision transformer"
        kind += "" if extra.get("rectified", True) else " with sums that are not rectified"
        about = {
            "name": f"{kind}, seed {seed}",
            "data": f"{len(shown)} held-out images of {images.what}",
            "modality": "vision",
            "attention": not convolutional,
        }
        train_on_images(
            make, images, recipe, seed,
            lambda model: _watched(results, model, list(shown.split(64)), sizes, recipe.steps, **about),
        )  # fmt: skip

    return do


def _text(parse: Callable[[str], data.Text]) -> Callable[[Path, Results, Sizes, int], None]:
    def do(folder: Path, results: Results, sizes: Sizes, seed: int) -> None:
        text = parse(data.read_text(folder))
        shown = passages(text.held_out, sizes.length, sizes.sequences)
        about = {
            "modality": "text",
            "name": f"causal transformer of {parse.__name__}, seed {seed}",
            "data": f"{len(shown)} held-out passages of {text.what}, {sizes.length} each",
        }
        train_on_text(
            lambda: CausalTransformer(text.vocabulary, context=sizes.length, **sizes.text), text, sizes.plays, seed,
            lambda model: _watched(results, model, list(shown.split(32)), sizes, sizes.plays.steps, **about),
            context=sizes.length, evaluated=sizes.sequences,
        )  # fmt: skip

    return do


# --- the control ------------------------------------------------------------------------------------------------------------


def control_clouds(n: int, d: int, seed: int = 0) -> dict[str, Tensor]:
    """Four clouds (n, d): Gaussian in all dimensions or in three of them, around the origin or three mean lengths away from it."""
    draw = torch.Generator().manual_seed(seed)
    isotropic = torch.randn(n, d, generator=draw, dtype=torch.float64)
    directions = torch.linalg.qr(torch.randn(d, 3, generator=draw, dtype=torch.float64)).Q
    flat = torch.randn(n, 3, generator=draw, dtype=torch.float64) @ directions.mT
    shift = torch.nn.functional.normalize(torch.randn(d, generator=draw, dtype=torch.float64), dim=0)
    shapes = {"isotropic": isotropic, "rank 3": flat}
    return {
        name + moved: points + far * points.norm(dim=-1).mean() * shift
        for moved, far in (("", 0.0), (", shifted", 3.0))
        for name, points in shapes.items()
    }


def find_fault_with_control(diagnosis: Diagnosis) -> str | None:
    """What the diagnosis of the control clouds should show and does not; None if it shows it all.

    The raw cosine sees the mean and nothing else: it is high for the shifted isotropic cloud and near zero for the collapsed one. The
    centred cosine and the spectrum do not see the shift.
    """
    value = {
        layer.name: {name: estimate.value for name, estimate in layer.measures.items()} for layer in diagnosis.layers
    }
    claims = {
        "the raw cosine of a shifted isotropic cloud is above 0.8": value["isotropic, shifted"]["mean_cosine"] > 0.8,
        "the raw cosine of an isotropic cloud is within 0.05 of 0": abs(value["isotropic"]["mean_cosine"]) < 0.05,
        "the raw cosine of a cloud of rank 3 is within 0.05 of 0": abs(value["rank 3"]["mean_cosine"]) < 0.05,
        "the participation ratio of a cloud of rank 3 is at most 3": value["rank 3"]["participation_ratio"] <= 3 + 1e-6,
        **{
            f"the shift of the {name} cloud does not change its {measure}": bool(
                np.isclose(value[name][measure], value[f"{name}, shifted"][measure], rtol=1e-4, atol=1e-6)
            )
            for name in ("isotropic", "rank 3")
            for measure in ("mean_cosine_centred", "isoscore_star", "participation_ratio")
        },
    }
    return next((claim for claim, holds in claims.items() if not holds), None)


def _control(folder: Path, results: Results, sizes: Sizes, seed: int) -> None:
    clouds = {name: cloud.numpy() for name, cloud in control_clouds(*sizes.cloud).items()}

    def diagnosis() -> Diagnosis:
        found = diagnose(clouds, sample=sizes.sample, name="the control", data="clouds drawn from Gaussians")
        fault = find_fault_with_control(found)
        if fault is not None:
            raise AssertionError(f"the control fails: it is not so that {fault}")
        return replace(found, label="control")

    results.keep("control", diagnosis)


RUNS: dict[str, Run] = {
    "control": Run("clouds of which the truth is known", _control),
    "minilm-sample": Run("MiniLM on the built-in sample", _minilm(None)),
    "minilm-wikitext": Run("MiniLM on WikiText-2", _minilm(WIKITEXT), (WIKITEXT,)),
    "minilm-finetuned": Run(
        "MiniLM before and after fine-tuning on SST-2, with and without regularizers",
        _finetuned,
        (SST2,),
        True,
        ("tuning",),
    ),
    "stories-own": Run("stories260K on what it writes itself", _stories(own=True), (STORIES,)),
    "stories-shakespeare": Run("stories260K on Shakespeare", _stories(own=False), (STORIES, data.SHAKESPEARE)),
    "kwt1-digits": Run("KWT-1 on spoken digits", _keywords, (KEYWORDS, SPOKEN)),
    "vit-mnist": Run("a vision transformer over its training", _vision("mnist", False), (data.MNIST,), True),
    "cnn-mnist": Run("a residual network over its training", _vision("mnist", True), (data.MNIST,), True),
    "vit-cifar": Run("a vision transformer over its training", _vision("cifar", False), (data.CIFAR,), True),
    "cnn-cifar": Run("a residual network over its training", _vision("cifar", True), (data.CIFAR,), True),
    "cnn-sums-cifar": Run(
        "the same without rectified sums", _vision("cifar", True, rectified=False), (data.CIFAR,), True
    ),
    "characters": Run("a causal transformer over its training", _text(data.characters), (data.SHAKESPEARE,), True),
    "tokens": Run("a causal transformer over its training", _text(data.tokens), (data.SHAKESPEARE,), True),
}
