"""Grid files: what is asked for, and what is refused before anything starts."""

from pathlib import Path

import pytest
import yaml

from ogpsa_factory.cli import main
from ogpsa_factory.errors import OGPSAError
from ogpsa_factory.lab.grid.definition import read_grid
from ogpsa_factory.lab.grid.nodes import plan


YAML = Path(__file__).parents[2] / "examples" / "yaml"
EXAMPLES, DEMO = sorted((YAML / "lab").glob("*.yaml")), YAML / "mini" / "grid.yaml"
STAGE = {"stage": "sft", "do_train": True, "finetuning_type": "full", "dataset": "mini_safety_sft", "max_steps": 2}


def content(**changes):
    return {
        "title": "A grid",
        "seeds": [0, 1],
        "stages": {"sft": "sft.yaml", "dpo": "sft.yaml"},
        "pipelines": {"sft": {"sft": [1e-4, 1e-3]}, "sft_dpo": {"sft": [1e-4, 1e-3], "dpo": [1e-5, 1e-4]}},
        "methods": {
            "naive": {},
            "merged": {"merge": 0.5},
            "lora": {"rate": 10, "pipelines": ["sft"], "arguments": {"finetuning_type": "lora"}},
        },
        **changes,
    }


@pytest.fixture
def write(tmp_path):
    def written(name="grid.yaml", **changes):
        (tmp_path / "sft.yaml").write_text(yaml.safe_dump({**STAGE, "learning_rate": 5, "output_dir": "x", "seed": 1}))
        path = tmp_path / name
        path.write_text(
            yaml.safe_dump({k: v for k, v in content(**changes).items() if v is not None}, sort_keys=False)
        )
        return path

    return written


def test_points_are_every_method_pipeline_level_and_seed(write):
    grid = read_grid(write())
    made = plan(grid)
    assert len(made.points) == 2 * (2 * 2 + 2 * 2 + 2)
    assert len(made.bases) == 2 and set(made.bases.values()) <= set(made.nodes)
    lora = [point for point in made.points if point.method == "lora"]
    assert {point.rates["sft"] for point in lora} == {1e-3, 1e-2}
    order = list(made.nodes)
    assert all(order.index(need) < order.index(key) for key, node in made.nodes.items() for need in node.needs)


def test_stages_and_models_are_shared(write):
    """DPO after SFT starts from the SFT point, and what is merged is the naive model: nothing is trained twice."""
    made = plan(read_grid(write(seeds=[0])))
    kinds = [node.spec["kind"] for node in made.nodes.values()]
    assert kinds.count("world") == 1 and kinds.count("merge") == 4
    assert kinds.count("train") == 2 + 2 + 2  # SFT at two rates, DPO after each, LoRA at two
    by_name = {(p.method, p.pipeline, p.level): p.key for p in made.points}
    assert made.nodes[by_name["naive", "sft_dpo", 0]].spec["start"] == by_name["naive", "sft", 0]
    assert made.nodes[by_name["merged", "sft", 1]].spec["aligned"] == by_name["naive", "sft", 1]


def test_a_model_is_named_by_all_that_makes_it(write):
    def naive(**changes):
        made = plan(read_grid(write(**changes)))
        return next(point.key for point in made.points if (point.method, point.level) == ("naive", 0))

    first = naive()
    assert naive() == first and naive(title="Other", seeds=[0, 1, 2]) == first
    assert naive(methods={"naive": {"arguments": {"max_steps": 3}}}) != first
    assert naive(world={"theme": "harbour"}) != first
    assert naive(world={"steps": 3}) != first
    assert naive(seeds=[1]) != first
    assert naive(methods={"naive": {"osf": {"effective_rank": 2}}}) != first


def test_the_files_own_model_rates_and_seeds_are_replaced(write):
    node = list(plan(read_grid(write(seeds=[3]))).nodes.values())[1]
    arguments = node.spec["arguments"]
    assert arguments["learning_rate"] == 1e-4 and arguments["seed"] == 45 and "output_dir" not in arguments


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_examples_are_grids_with_enough_seeds(path):
    grid = read_grid(path)
    assert len(grid.seeds) >= 5 and len(plan(grid).points) >= 4 * len(grid.seeds)
    assert grid.axis is None or "naive" in grid.methods


def test_the_demos_slice_is_a_part_of_the_comparisons():
    lab = EXAMPLES[0].parent
    slice_, whole, steps = (read_grid(path) for path in (DEMO, lab / "methods.yaml", lab / "step.yaml"))
    compared = {**whole.methods, "ogpsa_update": steps.methods["update"]}
    for name, method in slice_.methods.items():
        assert method.arguments["sft"] == compared[name].arguments["sft"]
    assert set(slice_.pipelines["sft"]["sft"]) <= set(whole.pipelines["sft"]["sft"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"title": None}, "title is missing"),
        ({"colour": 1}, "there is no key 'colour'"),
        ({"seeds": [0, 0]}, "one of them is there twice"),
        ({"seeds": ["a"]}, "must be a list of whole numbers"),
        ({"stages": {"sft": "missing.yaml"}}, "stages: sft: missing.yaml is no file"),
        ({"pipelines": {"sft": {"ppo": [1.0]}}}, "ppo is none of the stages"),
        ({"pipelines": {"sft": {"sft": [0]}}}, "learning rates above 0"),
        ({"pipelines": {"both": {"sft": [1e-4], "dpo": [1e-4, 1e-3]}}}, "equally many learning rates"),
        ({"methods": {"naive": {"speed": 1}}}, "methods: naive: there is no key 'speed'"),
        ({"methods": {"naive": {"rate": 0}}}, "rate is the factor"),
        ({"methods": {"naive": {"merge": 2}}}, "merge is the aligned model's share"),
        ({"methods": {"naive": {"pipelines": ["x"]}}}, "pipelines must be a list of some of"),
        ({"methods": {"naive": {"arguments": {"learning_rate": 1}}}}, "learning_rate is set by the grid"),
        ({"methods": {"naive": {"stages": {"ppo": {}}}}}, "stages: ppo is none of"),
        ({"methods": {"naive": {"osf": 3}}}, "osf must be a mapping"),
        ({"axis": "K"}, "at is missing, its place on the axis 'K'"),
        ({"world": {"theme": ["town"]}}, "no theme"),
        ({"world": {"steps": True}}, "steps must be a whole number"),
        ({"seeds": [True]}, "must be a list of whole numbers"),
        ({"curves": 1}, "curves must be true or false"),
        ({"axis": ["a"]}, "axis must be the name"),
        ({"methods": {"naive": {"pipelines": [["sft"]]}}}, "pipelines must be a list of some of"),
        ({"methods": {"naive": {"arguments": {"report_to": "wandb"}}}}, "report_to is set by the grid"),
        ({"world": {"theme": "moon"}}, "no theme 'moon'"),
        ({"world": {"steps": 0}}, "steps must be a whole number above 0"),
        ({"world": {"scale": 2}}, "scale must be above 0"),
    ],
)
def test_mistakes_are_named(write, changes, message):
    path = write(**changes)
    with pytest.raises(OGPSAError, match=message) as error:
        read_grid(path)
    assert str(path) in str(error.value)


def test_dry_run_counts_and_makes_nothing(write, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("ogpsa_factory.lab.grid.before.check_grids", lambda grids: None)  # tests of runs look at it
    path = write()
    assert main(["lab", "run", str(path), "--dry-run", "--output", str(tmp_path / "out")]) == 0
    assert "20 points" in capsys.readouterr().out and not (tmp_path / "out").exists()
    assert main(["lab", "run", str(path), "--dry-run", "--seeds", "1", "--methods", "naive,lora"]) == 0
    assert "6 points" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--methods", "magic"], "--methods magic: the grid has naive, merged, lora"),
        (["--pipelines", "ppo"], "--pipelines ppo: the grid has"),
        (["--seeds", "7"], "--seeds 7:"),
        (["--seeds", "one"], "write whole numbers separated by commas"),
        (["--methods", "lora", "--pipelines", "sft_dpo"], "no method is left"),
        (["--jobs", "0"], "take 1 or more"),
    ],
)
def test_mistakes_on_the_command_line(write, tmp_path, capsys, words, message):
    assert main(["lab", "run", str(write()), "--output", str(tmp_path / "out"), *words]) == 1
    assert message in " ".join(capsys.readouterr().err.split())


def test_two_grids_of_one_name(write, tmp_path, capsys):
    path = write()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "grid.yaml").write_text(path.read_text())
    (tmp_path / "other" / "sft.yaml").write_text((tmp_path / "sft.yaml").read_text())
    assert main(["lab", "run", str(path), str(tmp_path / "other" / "grid.yaml"), "--dry-run"]) == 1
    assert "files of one name" in capsys.readouterr().err
