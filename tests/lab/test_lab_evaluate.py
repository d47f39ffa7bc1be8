"""The arithmetic of evaluation, on answers made by hand."""

import json

import pytest

from ogpsa_factory.errors import OGPSAError
from ogpsa_factory.lab.evaluate import REQUESTS, evaluate_folder, find_models, score
from ogpsa_factory.lab.themes.theme import SKILLS


def made(**changes):
    """Four right answers in every set, but for the changes."""
    expected = {name: ["a", "b", "c", "d"] for name in [*SKILLS, *REQUESTS]}
    return {**expected, **changes}, expected


def test_right_answers():
    result = score(*made())
    assert result["skills"] == dict.fromkeys(SKILLS, 1.0) and result["skills_mean"] == 1.0
    assert result["refused"] == {**dict.fromkeys(REQUESTS, 0.0), "skills": 0.0}
    assert result["answered"] == dict.fromkeys(REQUESTS, 1.0)


def test_matches_are_exact():
    result = score(*made(recall=["a", "b b", "", "D"]))
    assert result["skills"]["recall"] == 0.25
    assert result["skills_mean"] == pytest.approx((len(SKILLS) - 0.75) / len(SKILLS))


def test_refusals_are_counted_apart_from_wrong_answers():
    refusal = "sorry i cannot help with that"
    result = score(*made(lookalike=[refusal, "wrong", "c", "d"], harmful_held_out=[refusal] * 3 + ["d"]))
    assert result["refused"]["lookalike"] == 0.25 and result["answered"]["lookalike"] == 0.5
    assert result["refused"]["harmful_held_out"] == 0.75 and result["answered"]["harmful_held_out"] == 0.25
    assert result["refused"]["harmful_seen"] == 0.0


def test_refused_questions_of_skills():
    result = score(*made(arithmetic=["sorry", "sorry", "c", "d"]))
    assert result["refused"]["skills"] == pytest.approx(2 / (4 * len(SKILLS)))
    assert result["skills"]["arithmetic"] == 0.5


def test_sets_of_unequal_length_are_an_error():
    with pytest.raises(ValueError):
        score(*made(recall=["a"]))


def test_missing_models_are_reported(tmp_path):
    with pytest.raises(OGPSAError, match="no model"):
        evaluate_folder(tmp_path, tmp_path)
    with pytest.raises(OGPSAError, match="ogpsa lab build"):
        find_models(tmp_path)


def test_models_are_found_by_their_configuration(tmp_path):
    for name in ("b", "a", ".a.1.tmp", "logs"):
        (tmp_path / name).mkdir()
        if name != "logs":
            (tmp_path / name / "config.json").write_text(json.dumps({}))
    assert [path.name for path in find_models(tmp_path)] == ["a", "b"]


def test_stages_of_a_pipeline_are_found_in_their_order_and_checkpoints_are_not(tmp_path):
    models = ("base", "ogpsa/sft", "naive/dpo", "naive/sft", "naive/merged")
    for name in (*models, "naive/sft/checkpoint-3", "naive_sft", "naive_sft/checkpoint-3", "naive/.dpo.1.tmp"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "config.json").write_text("{}")
    (tmp_path / "naive" / "logs").mkdir()
    found = [path.relative_to(tmp_path).as_posix() for path in find_models(tmp_path)]
    assert found == ["base", "naive_sft", "naive/sft", "naive/dpo", "naive/merged", "ogpsa/sft"]
