"""The record of a diagnosis: strict JSON out and in, and definitions that agree with the measures they define."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest

from simplicial_reg.diagnose import (
    DEFINITIONS,
    HEAD_DEFINITIONS,
    Diagnosis,
    Estimate,
    Head,
    Layer,
    read_diagnosis,
)
from simplicial_reg.isotropy import MEASURES


def made_up() -> Diagnosis:
    layer = Layer(
        "block 1",
        0.5,
        width=384,
        points=2048,
        sequences=64,
        sampled=1024,
        measures={"drift_ratio": Estimate(0.5, 0.25, 0.75), "mean_cosine": Estimate(1 / 3)},
        outliers=[{"dimension": 17, "share": 0.31, "variance_ratio": 118.0, "mean": 4.2}],
        spectrum=[0.7, 0.2, 0.1],
        bars=[0.1, 1e-9, 3.0],
        norms={"mean": 1.0, "std": 0.1},
        notes=["few"],
    )
    broken = Layer("block 2", 1.0, error="2 of 9 points hold NaN or infinity")
    head = Head(1, 2, {"alignment": -0.25, "entropy": math.nan})
    return Diagnosis("naïve", "data", "text", "tokens", 3, [layer, broken], [head], ["note"], {"torch": "2"}, "after")


def strict(text: str) -> Any:
    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    return json.loads(text, parse_constant=refuse)


def without_nan(diagnosis: Diagnosis) -> dict[str, Any]:
    return json.loads(diagnosis.to_json())


def test_what_is_written_is_read_back_equal() -> None:
    diagnosis = made_up()
    again = Diagnosis.parse(diagnosis.to_json())
    assert again.layers[0].measures["drift_ratio"] == Estimate(0.5, 0.25, 0.75)
    assert math.isnan(again.layers[0].measures["mean_cosine"].low)
    assert math.isnan(again.heads[0].measures["entropy"])
    assert again.layers[0].outliers == diagnosis.layers[0].outliers
    assert isinstance(again.layers[0].outliers[0]["dimension"], int)
    assert again.layers[1] == diagnosis.layers[1]
    assert without_nan(again) == without_nan(diagnosis)
    assert again.to_json() == diagnosis.to_json()


def test_json_is_strict_and_nan_and_infinity_are_null() -> None:
    diagnosis = made_up()
    diagnosis.layers[0].measures["twonn_dimension"] = Estimate(math.inf, math.nan, -math.inf)
    diagnosis.layers[0].bars[0] = math.nan
    content = strict(diagnosis.to_json())
    assert content["layers"][0]["measures"]["twonn_dimension"] == {"value": None, "low": None, "high": None}
    assert math.isnan(Diagnosis.parse(diagnosis.to_json()).layers[0].bars[0])
    assert content == diagnosis.content()
    assert "\n" not in diagnosis.to_json()


def test_a_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "diagnosis.json"
    path.write_text(made_up().to_json(), encoding="utf-8")
    assert read_diagnosis(path).to_json() == made_up().to_json()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "not JSON"),
        ("[1]", "with the key 'diagnosis'"),
        ('{"layers": []}', "with the key 'diagnosis'"),
        ('{"diagnosis": 99}', "format 99"),
        ('{"diagnosis": 1, "layers": []}', "heads"),
        ('{"diagnosis": 1, "layers": [], "heads": [], "colour": 3}', "colour"),
        ('{"diagnosis": 1, "layers": [4], "heads": []}', "of this version"),
    ],
)
def test_what_is_not_a_diagnosis_says_so_and_names_the_file(text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "other.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=rf"other\.json: not a diagnosis.*{said}"):
        read_diagnosis(path)


def test_a_missing_file_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_diagnosis(tmp_path / "nothing.json")


@pytest.mark.parametrize("definitions", [DEFINITIONS, HEAD_DEFINITIONS], ids=["layers", "heads"])
def test_every_definition_is_one_sentence_with_a_label_of_its_own(definitions: dict[str, Any]) -> None:
    assert len({definition.label for definition in definitions.values()}) == len(definitions)
    for definition in definitions.values():
        assert definition.text[0].isupper()
        assert definition.text.endswith(".")
        assert len(definition.label) <= 25
        assert definition.low < definition.high


def test_definitions_agree_with_the_table_of_measures() -> None:
    shared = DEFINITIONS.keys() & MEASURES.keys()
    assert len(shared) == 13
    for name in shared:
        low, high, isotropic = MEASURES[name].low, MEASURES[name].high, MEASURES[name].isotropic
        assert DEFINITIONS[name][2:5] == (low, high, isotropic), name
        assert (DEFINITIONS[name].needs == "distances") == MEASURES[name].pairwise, name


def test_records_have_nothing_but_what_json_keeps() -> None:
    assert {field.name for field in dataclasses.fields(Diagnosis)} | {"diagnosis"} == made_up().content().keys()
