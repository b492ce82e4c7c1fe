r"""The protocol: which cells a study consists of, as a pure function of its settings and of the records so far.

1. *Tuning.* For every task, model and variant, the baseline included, ``budget`` configurations are drawn from the variant's
   declared search space. Configuration k takes the number

       u = h(task, name) + k sqrt(p)            modulo 1, for what all variants share (the learning rate, its schedule, ...),
       u = h(task, variant, name) + k sqrt(p)   modulo 1, for what is the variant's own (its weight, ...),

   with h uniform in [0, 1), a hash, and p a prime for each of the settings that are searched together: Richtmyer's sequence, which
   spreads few points evenly, at a random place. u goes through the inverse distribution function of the range: high^u low^(1-u),
   low + u (high - low), or the floor(u m)-th of m choices. So the k-th learning rate of all variants is the same one, and no
   variant is ahead because it drew better ones; a larger budget keeps the configurations of a smaller one; and all models see the
   same configurations. All of them run with the same seed, 0: they differ in nothing but the configuration.
2. *Selection.* Of each, the configuration with the largest metric on the part held out from train is chosen; the reported split
   is not even computed before that. Equal metrics: the smaller learning rate, then the smaller key. A cell that failed, or whose metric
   is not a number, is never chosen; if there is no other, the variant is reported as failed on that task.
3. *Report.* The chosen configuration runs with the seeds 1, ..., ``seeds``, none of which was used for tuning, and those runs alone are
   reported, on the reported split. Seed s means the same initial weights, data order and dropout for every variant, so that
   differences between variants are paired.

Equal numbers of runs favour, if anything, the baseline: it spreads them over fewer dimensions.

Reference: random and quasi-random search, Bergstra and Bengio 2012, "Random Search for Hyper-Parameter Optimization", sections 2
and 4; the sequence, Richtmyer 1951, with a random shift, Cranley and Patterson 1976; equal budgets as condition of a fair
comparison, Dodge et al. 2019, "Show Your Work", section 3.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, NamedTuple

from simplicial_reg.study.record import Cell, Record

__all__ = [
    "BASELINE",
    "TUNING_SEED",
    "Choice",
    "Group",
    "Study",
    "choose",
    "configurations",
    "differences",
    "draw",
    "final_seeds",
    "finals",
    "joined",
    "latest",
    "pending",
    "plan",
    "relevant",
]

BASELINE = "none"
TUNING_SEED = 0
SCALES = ("log", "linear")
PRIMES = (2, 3, 5, 7, 11, 13, 17, 19, 23, 29)


@dataclass(frozen=True)
class Study:
    """Everything that determines a study; it is kept as ``study.json`` beside the records.

    A range is a number or a string (fixed), a list (choices), or ``{"low": a, "high": b, "scale": "log" | "linear"}``; the scale is
    "log" if it is left out.

    Args:
        tasks: names in ``TASKS``, or paths of TOML files.
        models: names, directories or import paths, each combined with each task.
        variants: names in ``VARIANTS``; the baseline ``"none"`` must be one of them.
        budget: how many configurations are tried for each variant. 0: none; then every range must be fixed.
        seeds: how many runs of the chosen configuration are reported.
        space: ranges that all variants share, by the name of the setting; ``learning_rate`` must be one of them.
        spaces: for each variant the ranges that are its own.
        training: what is not tuned, and equal for all variants: ``epochs``, ``batch_size``, ...
        trainings: for each task what differs there.
        left_out: pairs (task, variant) that make no sense together: classes are needed and the task has none.
        data: for each task a hash of its examples: other data make another study.
        weights: for each task and each model a hash of the model before its training, and of what its tokenizer makes of some examples.
        definitions: for each variant what its name stands for: regularizer, cloud, and all arguments with their defaults.
        version: of the package.

    Raises:
        ValueError: if one of these is not as described.
    """

    tasks: tuple[str, ...]
    models: tuple[str, ...]
    variants: tuple[str, ...]
    budget: int
    seeds: int
    space: Mapping[str, Any]
    spaces: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)
    trainings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    left_out: tuple[tuple[str, str], ...] = ()
    data: Mapping[str, str] = field(default_factory=dict)
    weights: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    definitions: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    version: str = ""

    def __post_init__(self) -> None:
        for name in ("tasks", "models", "variants"):
            names = getattr(self, name)
            if not names:
                raise ValueError(f"{name} must name at least one; got none")
            twice = sorted({one for one in names if list(names).count(one) > 1})
            if twice:
                raise ValueError(
                    f"{name} must not name anything twice; got {', '.join(map(repr, twice))} more than once"
                )
        if BASELINE not in self.variants:
            raise ValueError(
                f"variants must include {BASELINE!r}, with which all are compared; got {', '.join(self.variants)}"
            )
        strangers = sorted(self.trainings.keys() - set(self.tasks))
        if strangers:
            raise ValueError(f"trainings must be of {', '.join(self.tasks)}, the tasks; got {', '.join(strangers)}")
        _check_count("budget", self.budget, 0)
        _check_count("seeds", self.seeds, 1)
        if "learning_rate" not in self.space:
            raise ValueError("space must say what learning_rate is: a number, choices or a range; it is not there")
        for where, ranges in {"": self.space, **{f" of {name}": own for name, own in self.spaces.items()}}.items():
            for name, values in ranges.items():
                _check_range(f"{name}{where}", values, fixed=self.budget == 0)
        for variant, own in self.spaces.items():
            both = sorted(own.keys() & self.space.keys())
            if both:
                raise ValueError(
                    f"{both[0]} must be shared by all variants or be {variant}'s own; it is in both spaces"
                )

    def content(self) -> dict[str, Any]:
        """As JSON has it."""
        return _as_json(asdict(self))  # type: ignore[no-any-return]

    @staticmethod
    def parse(content: Mapping[str, Any]) -> Study:
        """The study of what `content` gave.

        Raises:
            ValueError: if it is none.
        """
        unknown = sorted(content.keys() - {one.name for one in fields(Study)})
        if unknown:
            raise ValueError(f"not the settings of a study: {unknown[0]!r} is unknown to this version")
        listed = {name: tuple(content[name]) for name in ("tasks", "models", "variants") if name in content}
        left_out = tuple((task, variant) for task, variant in content.get("left_out", ()))
        try:
            return Study(**{**content, **listed, "left_out": left_out})
        except TypeError as error:
            raise ValueError(f"not the settings of a study: {error}") from error


class Group(NamedTuple):
    """What is tuned by itself and becomes one row of the result."""

    task: str
    model: str
    variant: str


class Choice(NamedTuple):
    """The configuration that was chosen for a group.

    Attributes:
        settings: the configuration.
        selection: its metric on the held-out part; nan if nothing was tuned.
        tried: how many configurations finished with a number.
        failed: how many did not.
    """

    settings: dict[str, Any]
    selection: float
    tried: int
    failed: int


# --- the cells -----------------------------------------------------------------------------------------------------------------


def configurations(study: Study, task: str, variant: str) -> list[dict[str, Any]]:
    """The configurations that are tried for a variant on a task.

    Args:
        study: the settings.
        task: one of its tasks.
        variant: one of its variants.

    Returns:
        ``budget`` of them, in the order of k, or the fixed one if the budget is 0. Equal ones are kept: what is fixed for a variant
        is tried ``budget`` times in name and once in fact.

    Example:
        >>> space = {"learning_rate": {"low": 1e-5, "high": 1e-3}}
        >>> spaces = {"istar": {"weight": [0.1, 1.0]}}
        >>> study = Study(("mrpc",), ("minilm",), ("none", "istar"), budget=2, seeds=3, space=space, spaces=spaces)
        >>> for variant in study.variants:
        ...     print(configurations(study, "mrpc", variant))
        [{'learning_rate': 0.000606}, {'learning_rate': 4.08e-05}]
        [{'learning_rate': 0.000606, 'weight': 0.1}, {'learning_rate': 4.08e-05, 'weight': 0.1}]
    """
    own = study.spaces.get(variant, {})
    return [
        {
            **{name: draw(values, k, at, task, name) for at, (name, values) in enumerate(sorted(study.space.items()))},
            **{
                name: draw(values, k, at, task, variant, name)
                for at, (name, values) in enumerate(sorted(own.items()), start=len(study.space))
            },
        }
        for k in range(max(1, study.budget))
    ]


def draw(values: Any, k: int, dimension: int, *what: object) -> Any:
    """The k-th value of a range: the same for the same names, on every machine.

    The place in the range is ``shift + k sqrt(p)`` modulo 1 with a shift that is random, a hash of the names, and the prime p of the
    dimension. So each value is uniform, and few of them spread over the range as independent ones would not: three of those are
    all in one half of the range one time in four.

    Args:
        values: a range, as `Study` describes it.
        k: number of the configuration.
        dimension: number of the setting among those that are searched together, which must differ.
        what: names that tell one sequence from another.

    Returns:
        A choice, or a number of three significant digits, few enough for the last bits of a logarithm not to matter.

    Source: Richtmyer 1951 (the sequence); Cranley, Patterson 1976 (its random shift).

    Example:
        >>> [draw({"low": 1e-5, "high": 1e-3}, k, 0, "mrpc", "learning_rate") for k in range(3)]
        [0.000606, 4.08e-05, 0.000275]
        >>> draw([8, 16, 32], 0, 0, "mrpc", "batch"), draw(8e-5, 0, 0, "mrpc", "learning_rate")
        (32, 8e-05)
    """
    # The names joined by a character that is in none of them, so that ("a", "bc") is not ("ab", "c").
    digest = hashlib.sha256("\x1f".join(map(str, what)).encode()).digest()
    shift = (int.from_bytes(digest[:8], "big") >> 11) / 2**53
    u = (shift + k * math.sqrt(PRIMES[dimension % len(PRIMES)])) % 1.0
    if isinstance(values, (list, tuple)):
        return values[int(u * len(values))]
    if not isinstance(values, Mapping):
        return values
    low, high = float(values["low"]), float(values["high"])
    if values.get("scale", "log") == "log":
        value = math.exp(math.log(low) + u * (math.log(high) - math.log(low)))
    else:
        value = low + u * (high - low)
    return float(f"{value:.3g}")


def plan(study: Study) -> list[Cell]:
    """The cells of the tuning phase: all variants of one configuration come together, each different cell once."""
    if study.budget == 0:
        return []
    cells = [
        _cell(study, Group(task, model, variant), "tune", TUNING_SEED, configurations(study, task, variant)[k])
        for task in study.tasks
        for model in study.models
        for k in range(study.budget)
        for variant in study.variants
        if (task, variant) not in study.left_out
    ]
    return list({cell.key: cell for cell in cells}.values())


def finals(study: Study, choices: Mapping[Group, Choice | None]) -> list[Cell]:
    """The cells that are reported, for the groups of which something was chosen: all variants of one seed come together."""
    chosen = [(group, choices[group]) for group in groups(study) if choices.get(group) is not None]
    return [
        _cell(study, group, "final", seed, choice.settings)
        for seed in final_seeds(study)
        for group, choice in chosen
        if choice is not None
    ]


def final_seeds(study: Study) -> range:
    """The seeds of the reported runs."""
    return range(TUNING_SEED + 1, TUNING_SEED + 1 + study.seeds)


def groups(study: Study) -> list[Group]:
    """All rows of the result, in the order of the settings."""
    return [
        Group(task, model, variant)
        for task in study.tasks
        for model in study.models
        for variant in study.variants
        if (task, variant) not in study.left_out
    ]


def _cell(study: Study, group: Group, phase: str, seed: int, settings: Mapping[str, Any]) -> Cell:
    contents = {
        "data": study.data.get(group.task, ""),
        "model": study.weights.get(group.task, {}).get(group.model, ""),
        "variant": _hash(study.definitions[group.variant]) if group.variant in study.definitions else "",
        "version": study.version,
    }
    known = {name: content for name, content in contents.items() if content}
    return Cell(*group, phase, seed, dict(settings), _training(study, group.task), known)


def _hash(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(_as_json(content), sort_keys=True).encode()).hexdigest()[:16]


# --- selection -----------------------------------------------------------------------------------------------------------------


def choose(records: Iterable[Record]) -> dict[Group, Choice | None]:
    """The best configuration of every group that has records of its tuning.

    Args:
        records: any, in any order; only the phase ``"tune"`` is looked at.

    Returns:
        For each group the configuration with the largest metric on the held-out part, None if every cell failed or gave no
        number. It depends on the records and not on their order.
    """
    tuned: dict[Group, list[Record]] = {}
    for record in latest(records):
        if record.cell.phase == "tune":
            tuned.setdefault(_group(record.cell), []).append(record)
    return {group: _best(found) for group, found in sorted(tuned.items())}


def _best(records: Sequence[Record]) -> Choice | None:
    ranked = sorted(
        (-record.selection, float(record.cell.settings.get("learning_rate", 0.0)), record.cell.key, record.cell)
        for record in records
        if record.status == "done" and record.selection is not None and math.isfinite(record.selection)
    )
    if not ranked:
        return None
    negative, _, _, cell = ranked[0]
    return Choice(dict(cell.settings), -negative, len(ranked), len(records) - len(ranked))


def latest(records: Iterable[Record]) -> list[Record]:
    """One record for each cell, in an order that does not depend on when they came: a finished one if there is one."""
    kept: dict[str, Record] = {}
    for record in records:
        if record.cell.key not in kept or record.status == "done":
            kept[record.cell.key] = record
    return sorted(
        kept.values(), key=lambda record: (*_group(record.cell), record.cell.phase, record.cell.seed, record.cell.key)
    )


def relevant(records: Iterable[Record]) -> list[Record]:
    """The records that a report is made of.

    They are the `latest` of each cell without final runs of a configuration that is not the chosen one: such runs are there if
    a failed tuning cell was run again later and turned out the best.
    """
    kept = latest(records)
    choices = choose(kept)
    return [
        record
        for record in kept
        if record.cell.phase == "tune"
        or _group(record.cell) not in choices
        or ((choice := choices[_group(record.cell)]) is not None and choice.settings == record.cell.settings)
    ]


def _group(cell: Cell) -> Group:
    return Group(cell.task, cell.model, cell.variant)


# --- what is to be done ----------------------------------------------------------------------------------------------------------


def pending(study: Study, records: Iterable[Record]) -> list[Cell]:
    """The cells that can be run now: tuning, and the final runs of every group whose tuning is complete.

    A failed cell counts as run. The study is over when nothing is pending.
    """
    kept = latest(records)
    known = {record.cell.key for record in kept}
    tuning = plan(study)
    open_groups = {_group(cell) for cell in tuning if cell.key not in known}
    if study.budget == 0:
        choices: dict[Group, Choice | None] = {
            group: Choice(configurations(study, group.task, group.variant)[0], math.nan, 0, 0)
            for group in groups(study)
        }
    else:
        # Only the cells of this plan, so that a stray record chooses nothing.
        planned = {cell.key for cell in tuning}
        choices = choose(record for record in kept if record.cell.key in planned)
    complete = {group: choice for group, choice in choices.items() if group not in open_groups}
    return [cell for cell in [*tuning, *finals(study, complete)] if cell.key not in known]


# --- several studies as one ------------------------------------------------------------------------------------------------------


def joined(first: Study, second: Study) -> Study:
    """Two studies as one: the tasks, models and variants of both.

    What both have must be the same: the number of configurations, the ranges that all variants share, of each variant in both its own
    ranges and its definition, of each task in both its training, its data and the weights of models, and the version. The number of
    seeds is the larger one: how many there are of a task is seen in the result. So a run of one and a run of the other that could be
    compared are runs of one protocol.

    Args:
        first: the one study; its order comes first.
        second: the other.

    Returns:
        The study.

    Raises:
        ValueError: if they contradict each other; it says in what.

    Example:
        >>> one = Study(
        ...     ("mrpc",), ("minilm",), ("none", "koleo"), 2, 3, {"learning_rate": [1e-4, 2e-4]}, training={"epochs": 1}
        ... )
        >>> other = Study(
        ...     ("cola",), ("minilm",), ("none",), 2, 5, {"learning_rate": [1e-4, 2e-4]}, training={"epochs": 4}
        ... )
        >>> both = joined(one, other)
        >>> both.tasks, both.variants, both.seeds, both.trainings
        (('mrpc', 'cola'), ('none', 'koleo'), 5, {'cola': {'epochs': 4}})
    """
    found = differences(_common(first, second), _common(second, first))
    if found:
        raise ValueError("; ".join(found))
    trainings = {task: _training(study, task) for study in (first, second) for task in study.tasks}
    for training in trainings.values():
        strangers = sorted(training.keys() ^ first.training.keys())
        if strangers:
            raise ValueError(f"the training of one task says {', '.join(strangers)} and that of another does not")
    return Study(
        tasks=tuple(dict.fromkeys((*first.tasks, *second.tasks))),
        models=tuple(dict.fromkeys((*first.models, *second.models))),
        variants=tuple(dict.fromkeys((*first.variants, *second.variants))),
        budget=first.budget,
        seeds=max(first.seeds, second.seeds),
        space=first.space,
        spaces={**first.spaces, **second.spaces},
        training=first.training,
        trainings={
            task: differing
            for task, training in trainings.items()
            if (differing := {name: value for name, value in training.items() if value != first.training[name]})
        },
        left_out=tuple(dict.fromkeys((*first.left_out, *second.left_out))),
        data={**first.data, **second.data},
        weights={
            task: {**first.weights.get(task, {}), **second.weights.get(task, {})}
            for task in {**first.weights, **second.weights}
        },
        definitions={**first.definitions, **second.definitions},
        version=first.version,
    )


def _common(study: Study, other: Study) -> dict[str, Any]:
    """What must be the same in the other study."""
    variants = [name for name in study.variants if name in other.variants]
    tasks = [task for task in study.tasks if task in other.tasks]
    return {
        "budget": study.budget,
        "space": _as_json(study.space),
        "spaces": {name: _as_json(study.spaces.get(name, {})) for name in variants},
        "training": {task: _training(study, task) for task in tasks},
        "data": {task: study.data[task] for task in tasks if task in study.data and task in other.data},
        "weights": {
            task: {model: known for model, known in study.weights.get(task, {}).items() if model in other.weights[task]}
            for task in tasks
            if task in other.weights
        },
        "definitions": {
            name: _as_json(study.definitions[name])
            for name in variants
            if name in study.definitions and name in other.definitions
        },
        "version": study.version,
    }


def _training(study: Study, task: str) -> dict[str, Any]:
    return {**study.training, **study.trainings.get(task, {})}


def differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """What differs between two contents of `Study.content`, one phrase each, such as ``"training.epochs: 1 there, 2 here"``."""
    old, new = _flat(before), _flat(after)
    return [
        f"{name}: {old.get(name, 'not set')} there, {new.get(name, 'not set')} here"
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name)
    ]


def _flat(content: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in content.items():
        if isinstance(value, Mapping):
            flat.update(_flat(value, f"{prefix}{name}."))
        else:
            flat[prefix + name] = ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else value
    return flat


# --- checks ----------------------------------------------------------------------------------------------------------------------


def _check_count(argument: str, value: object, low: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < low:
        raise ValueError(f"{argument} must be a whole number, at least {low}; got {value!r}")


def _check_range(name: str, values: Any, fixed: bool) -> None:
    ranged = isinstance(values, (Mapping, list, tuple))
    if fixed and ranged:
        raise ValueError(f"budget must be at least 1, since {name} is to be tuned; got 0 (or give {name} one value)")
    if isinstance(values, (list, tuple)) and not values:
        raise ValueError(f"{name} must list at least one choice; got an empty list")
    if not isinstance(values, Mapping):
        return
    unknown = sorted(values.keys() - {"low", "high", "scale"})
    if unknown or not {"low", "high"} <= values.keys():
        raise ValueError(f"{name} must be {{low, high, scale}}, of which scale may be left out; got {dict(values)}")
    scale = values.get("scale", "log")
    if scale not in SCALES:
        raise ValueError(f"scale of {name} must be one of {', '.join(map(repr, SCALES))}; got {scale!r}")
    low, high = values["low"], values["high"]
    numbers = all(
        isinstance(end, (int, float)) and not isinstance(end, bool) and math.isfinite(end) for end in (low, high)
    )
    if not numbers or low > high:
        raise ValueError(f"{name} must have two numbers low <= high; got {low!r} and {high!r}")
    if scale == "log" and low <= 0:
        raise ValueError(f'low of {name} must be positive with scale "log"; got {low!r}; use scale = "linear"')


def _as_json(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _as_json(inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_as_json(inner) for inner in value]
    return value
