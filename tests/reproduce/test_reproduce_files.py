"""The pipeline files of Table 1's rows, and tables.yaml: complete, the paper's, no two rows in each other's way."""

import csv
import json
from functools import cache
from pathlib import Path

import pytest

from ogpsa_factory import OGPSAError
from ogpsa_factory.mappings import read_mapping
from ogpsa_factory.pipeline.chain import chain
from ogpsa_factory.pipeline.definition import read_definition
from ogpsa_factory.reproduce.tables import read_table


ROOT = Path(__file__).parent.parent.parent
FOLDER = ROOT / "examples" / "yaml" / "reproduce"
PAPER = ["qwen2_5_7b", "llama3_1_8b"]
MODELS = [*PAPER, "mini"]
METHODS = ["naive", "merged", "lora", "general_data", "ogpsa"]
PIPELINES = {"sft": ["sft"], "dpo": ["dpo"], "sft_dpo": ["sft", "dpo"]}
FILES = [f"{pipeline}_{method}" for pipeline in PIPELINES for method in METHODS]
CHAINED = {"output_dir", "model_name_or_path", "adapter_name_or_path", "create_new_adapter"}
OGPSA = {"stage", "ogpsa_reference_dataset", "ogpsa_reference_samples", "ogpsa_refresh_steps"}
METHOD = {
    "naive": set(),
    "merged": set(),
    "lora": {"finetuning_type", "lora_target", "lora_rank", "learning_rate"},
    "general_data": {"dataset"},
    "ogpsa": OGPSA,
}
MINI = {"general_data": {"max_steps"}, "ogpsa": {"ogpsa_reference_batch_size"}}


@cache
def stages(model, file):
    return chain(read_definition(FOLDER / model / f"{file}.yaml", []))


@pytest.mark.parametrize("model", MODELS)
def test_every_row_has_a_file(model):
    assert {path.stem for path in (FOLDER / model).iterdir()} == set(FILES)


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("model", MODELS)
def test_a_row_differs_from_the_naive_one_by_its_method_alone(model, file):
    pipeline = next(name for name in sorted(PIPELINES, key=len, reverse=True) if file.startswith(f"{name}_"))
    method = file.removeprefix(f"{pipeline}_")
    found, naive = stages(model, file), stages(model, f"{pipeline}_naive")
    names = [stage.name for stage in found]
    merged = [f"merged_{PIPELINES[pipeline][-1]}"] if method == "merged" else []
    assert names == [*PIPELINES[pipeline], *merged]
    assert [stage.merges for stage in found] == [name in merged for name in names]
    run = "naive" if method == "merged" else method
    place = Path("saves/reproduce") / model / (f"{run}_dpo" if pipeline == "dpo" else run)
    assert {stage.output.parent for stage in found} == {place}
    assert found[0].config["model_name_or_path"] == naive[0].config["model_name_or_path"]
    for ours, theirs in zip(found, naive, strict=False):
        changed = {
            key for key in ours.config.keys() | theirs.config.keys() if ours.config.get(key) != theirs.config.get(key)
        }
        wanted = METHOD[method] | (MINI.get(method, set()) if model == "mini" else set())
        assert wanted == changed - CHAINED
    text = (FOLDER / model / f"{file}.yaml").read_text(encoding="utf-8")
    assert f"ogpsa pipeline examples/yaml/reproduce/{model}/{file}.yaml" in text


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("model", PAPER)
def test_hyper_parameters_are_the_papers(model, file):
    for stage in stages(model, file):
        config = stage.config
        if stage.merges:
            assert config["merge"] == 0.5
            continue
        lora = file.endswith("lora")
        assert config["learning_rate"] == (1e-4 if lora else 1e-6)
        assert config["finetuning_type"] == ("lora" if lora else "full")
        assert config["per_device_train_batch_size"] * config["gradient_accumulation_steps"] * 8 == 128
        assert (config["num_train_epochs"], config.get("pref_beta")) == (
            (3, None) if stage.name == "sft" else (1, 0.2)
        )
        kept = file.endswith("ogpsa")
        assert config.get("ogpsa_refresh_steps") == ({"sft": 30, "dpo": 5}[stage.name] if kept else None)
        assert config["stage"] == ("ogpsa_" if kept else "") + stage.name
        general = f",ultrafeedback_general_{stage.name}" if file.endswith("general_data") else ""
        assert config["dataset"] == f"saferlhf_{stage.name}{general}"


def test_rows_of_the_miniature_world_name_registered_sets_of_the_right_kind():
    info = json.loads((ROOT / "data" / "dataset_info.json").read_text(encoding="utf-8"))
    for file in FILES:
        for stage in stages("mini", file):
            for name in str(stage.config.get("dataset", "")).split(",") if not stage.merges else []:
                assert bool(info[name].get("ranking")) == (stage.name == "dpo")
        if file.startswith("dpo_"):
            assert stages("mini", file)[0].config["model_name_or_path"] == "saves/mini/base"


def test_general_data_is_seen_in_addition_to_safety_data():
    """Every row as often as without it."""
    for file in ("sft_dpo", "dpo"):
        naive, general = stages("mini", f"{file}_naive"), stages("mini", f"{file}_general_data")
        assert all(g.config["max_steps"] == 2 * n.config["max_steps"] for n, g in zip(naive, general, strict=True))


# tables.yaml

# What rows are called here, by what the paper's tables call them.
SETTINGS = {"none": "naive", "general_data_10k": "general_data", "never": "K_never"}
NAMED = ("subspace_{}".format, "rows{}".format, "K{}".format)


@cache
def table(name, model):
    return read_table(FOLDER, name, model)


def paper(name):
    with (ROOT / "evaluation" / "paper" / name).open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("model", MODELS)
def test_table1_has_the_papers_rows(model):
    rows = table("table1", model).rows
    names = ["base"] + [f"{p.upper().replace('_', '-')}/{m}" for p in PIPELINES for m in METHODS]
    assert [row.name for row in rows] == names
    assert set(names) - {"base"} == {f"{r['pipeline']}/{r['method']}" for r in paper("table1.csv")} - {"base/base"}
    assert [row.file.stem for row in rows if row.file] == FILES
    assert (
        len(table("table1", model).runs()) == 4 * 3 + 3
    )  # four methods that train, three stages each; three averages
    assert len({row.model for row in rows}) == 16


def test_what_is_evaluated():
    base = "Qwen/Qwen2.5-7B-Instruct"
    models = {row.name: row.model for row in table("table1", "qwen2_5_7b").rows}
    home = "saves/reproduce/qwen2_5_7b"
    assert models["base"] == base
    assert models["SFT/merged"] == f"{home}/naive/merged_sft"
    assert models["SFT-DPO/lora"] == f"{base}+{home}/lora/sft+{home}/lora/dpo"
    assert models["DPO/lora"] == f"{base}+{home}/lora_dpo/dpo"


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("number", [2, 3, 4, 6, 7, 8])
def test_ablations_change_one_thing(model, number):
    asked = table(f"table{number}", model)
    usual = stages(model, "dpo_ogpsa" if number < 5 else "sft_ogpsa")[0].config
    assert asked.benchmarks == ("Stereotype", "StrongReject", "SimpleQA", "MMLU", "IFEval", "HHH")
    allowed = {2: "dataset samples", 3: "samples", 4: "refresh"}[number if number < 5 else number - 4].split()
    for row in asked.rows:
        for stage in row.stages:
            if stage.config["stage"].startswith("ogpsa_"):
                changed = {key for key in usual if usual[key] != stage.config[key]} - {"output_dir"}
                assert all(any(word in key for word in allowed) for key in changed), row.name
                assert bool(changed) == (stage.output.parent.name not in ("ogpsa", "ogpsa_dpo"))
                assert all(word.partition("=")[0] in (*usual, "output_dir") for word in row.overrides)
    quoted = [r for r in paper("ablations.csv") if int(r["table"]) == number]
    pipeline = "DPO" if number < 5 else "SFT"
    settings = [r["setting"].replace("+", "-") for r in quoted]
    names = [f"{pipeline}/{SETTINGS.get(each) or NAMED[(number - 2) % 4](each)}" for each in settings]
    assert {row.name for row in asked.rows} - {"base", f"{pipeline}/naive"} == set(names) - {f"{pipeline}/naive"}
    assert [row.file.stem for row in asked.rows if row.name.endswith("/naive")] == [f"{pipeline.lower()}_naive"]
    runs = [row.stages for row in asked.rows if row.stages]
    assert len(asked.runs()) == len(runs)  # every row is another run


@pytest.mark.parametrize("model", MODELS)
def test_a_name_stands_for_one_model_in_all_tables(model):
    found = {}
    for number in (1, 2, 3, 4, 6, 7, 8):
        for row in table(f"table{number}", model).rows:
            assert found.setdefault(row.name, row.model) == row.model, row.name


def test_k_of_table_8_is_what_its_rows_say():
    for model in MODELS:
        rows = table("table8", model).rows
        found = {row.name.partition("K")[2]: row.stages for row in rows if "/K" in row.name}
        assert list(found) == ["5", "15", "30", "_never"]
        for name, (stage,) in found.items():
            period = stage.config["ogpsa_refresh_steps"]
            assert period == (1_000_000 if name == "_never" else int(name))


def test_table_5_has_its_own_models_in_folders_of_their_own():
    rows = table("table5", "qwen2_5_7b").rows
    assert len(table("table5", "qwen2_5_7b").runs()) == 8
    names = ["base", "SFT/naive", "SFT/ogpsa", "DPO/naive", "DPO/ogpsa"]
    assert [(row.family, row.name) for row in rows] == [(size, name) for size in ("0.5B", "3B") for name in names]
    for row in rows:
        size = row.family
        model = f"Qwen/Qwen2.5-{size}-Instruct"
        assert row.model == model or row.stages[0].config["model_name_or_path"] == model
        for stage in row.stages:
            assert stage.output.parts[2] == f"qwen2_5_{size.lower().replace('.', '_')}_instruct"
    for names, size in ((["SFT/ogpsa"], 4), (["3B/SFT/ogpsa", "0.5B/base"], 3)):
        found = read_table(FOLDER, "table5", "qwen2_5_7b", names).rows
        assert len(found) == size and [row.label for row in found if row.file][-1] == "3B/SFT/ogpsa"
    with pytest.raises(OGPSAError, match="table5 is there for --model qwen2_5_7b only"):
        read_table(FOLDER, "table5", "llama3_1_8b")
    with pytest.raises(OGPSAError, match="table5 is not there at scale mini"):
        read_table(FOLDER, "table5", "mini")


def test_every_table_is_there():
    assert list(read_mapping(FOLDER / "tables.yaml")) == [f"table{number}" for number in range(1, 9)]


def test_rows_and_overrides_of_the_command_line():
    words = ["deepspeed=other.json", "sft.gradient_accumulation_steps=2"]
    rows = read_table(FOLDER, "table1", "qwen2_5_7b", ["SFT-DPO/naive", "DPO/naive"], words).rows
    assert [row.name for row in rows] == ["base", "DPO/naive", "SFT-DPO/naive"]
    found = {stage.output.as_posix()[-9:]: stage.config for row in rows for stage in row.stages}
    assert {config["deepspeed"] for config in found.values()} == {"other.json"}
    assert [config["gradient_accumulation_steps"] for config in found.values()] == [8, 2, 8]


def test_runs_in_another_folder(tmp_path):
    """The structure stays, so that tables and models go on to share runs and never collide."""
    words = ["SFT/merged", "DPO/lora"], ["seed=43"]
    rows = {row.name: row for row in read_table(FOLDER, "table1", "llama3_1_8b", *words, tmp_path).rows}
    assert rows["SFT/merged"].model == f"{tmp_path}/llama3_1_8b/naive/merged_sft"
    assert rows["DPO/lora"].model.endswith(f"+{tmp_path}/llama3_1_8b/lora_dpo/dpo")
    assert rows["SFT/merged"].overrides == ("seed=43", f"output_dir={tmp_path}/llama3_1_8b/naive")
    assert {stage.config.get("seed") for stage in rows["DPO/lora"].stages} == {43}
    other = read_table(FOLDER, "table4", "llama3_1_8b", ["DPO/K2"], [], tmp_path).rows[-1]
    assert other.model == f"{tmp_path}/llama3_1_8b/ogpsa_dpo_k2/dpo"
    small = read_table(FOLDER, "table5", "qwen2_5_7b", ["3B/DPO/naive"], [], tmp_path).rows[-1]
    assert small.model == f"{tmp_path}/qwen2_5_3b_instruct/naive_dpo/dpo"


@pytest.mark.parametrize(
    "name, model, names, words, message",
    [
        ("table9", "mini", [], [], "has no table table9. Did you mean table"),
        ("table1", "qwen", [], [], "there is no model qwen. Known are: llama3_1_8b, mini"),
        ("table1", "mini", ["SFT/ogpza"], [], "has no row SFT/ogpza. Did you mean SFT/ogpsa"),
        ("table1", "mini", [], ["stf.learning_rate=1"], "no row has a stage stf. Did you mean sft"),
        ("table1", "mini", [], ["output_dir=x"], "have run directories of their own"),
        ("table5", "qwen2_5_7b", ["7B/base"], [], "has no row 7B/base. Did you mean 3B/base"),
    ],
)
def test_a_wrong_request_is_refused(name, model, names, words, message):
    with pytest.raises(OGPSAError) as error:
        read_table(FOLDER, name, model, names, words)
    assert message in str(error.value)


@pytest.mark.parametrize(
    "text, message",
    [
        ("t: {rows: {a: {pipelin: x}}}", "row a: unknown key pipelin. Did you mean pipeline?"),
        ("t: {rows: [a]}", "rows must map the names of rows"),
        ("t: {row: {}}", "unknown key row"),
        ("t: [1]", "t must be a mapping"),
        ("t: {rows: {a: {}}, families: [a]}", "families must map names to models"),
        (
            "t: {rows: {a: {pipeline: sft_ogpsa}, b: {pipeline: sft_ogpsa, overrides: [ogpsa_rank=2]}}}",
            "Rows a and b of t both write to saves/reproduce/mini/ogpsa/sft",
        ),
    ],
)
def test_a_wrong_file_of_tables_is_refused(tmp_path, text, message):
    (tmp_path / "tables.yaml").write_text(text)
    (tmp_path / "reproduce").mkdir()
    (tmp_path / "mini").symlink_to(FOLDER / "mini")
    with pytest.raises(OGPSAError) as error:
        read_table(tmp_path, "t", "mini")
    assert message in str(error.value)
