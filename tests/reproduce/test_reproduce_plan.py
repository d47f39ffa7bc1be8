"""`ogpsa reproduce --plan`: its arithmetic by hand, what is missing, what it prints."""

import argparse
import json
import math
from pathlib import Path

import pytest
import torch
import yaml

from ogpsa_factory import OGPSAError
from ogpsa_factory.cli import main
from ogpsa_factory.pipeline.chain import Stage
from ogpsa_factory.pipeline.state import RunDirectory
from ogpsa_factory.reproduce import cli, data, evaluation, hardware, models
from ogpsa_factory.reproduce.cost import cost_of
from ogpsa_factory.reproduce.memory import memory_of
from ogpsa_factory.reproduce.models import count, parameters_of
from ogpsa_factory.reproduce.plan import make_plan
from ogpsa_factory.reproduce.tables import read_table


ROOT = Path(__file__).parent.parent.parent
FOLDER = Path("examples/yaml/reproduce")
QWEN = "Qwen/Qwen2.5-7B-Instruct"


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder as that of the repository, where no data set has been made and no GPU is."""
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    (tmp_path / "data").mkdir()
    registry = (ROOT / "data" / "dataset_info.json").read_text(encoding="utf-8")
    (tmp_path / "data" / "dataset_info.json").write_text(registry)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(hardware, "_here", lambda: [])
    data.size_of.cache_clear()
    yield tmp_path
    data.size_of.cache_clear()


def run(*words):
    parser = argparse.ArgumentParser()
    cli.register(parser.add_subparsers())
    args = parser.parse_args(["reproduce", *words])
    return args.handler(args)


def stage(**config):
    return Stage(1, "sft", {"output_dir": "out/sft", "dataset_dir": "data", "stage": "sft", **config})


def register(place, name, rows, **entry):
    (place / "data" / f"{name}.json").write_text(json.dumps(rows))
    file = place / "data" / "dataset_info.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), name: {"file_name": f"{name}.json", **entry}}))


@pytest.mark.parametrize(
    "model, total",
    [
        (QWEN, 7_615_616_512),
        ("Qwen/Qwen2.5-3B-Instruct", 3_085_938_688),
        ("Qwen/Qwen2.5-0.5B-Instruct", 494_032_768),
        ("meta-llama/Llama-3.1-8B-Instruct", 8_030_261_248),
    ],
)
def test_parameters_are_those_of_the_models_on_the_hub(model, total):
    counts = count(parameters_of(model))
    assert (counts.trained, counts.total) == (total, total)


def test_parameters_of_adapters():
    counts = count(parameters_of(QWEN, "lora", 8, "all"))
    hidden, wide, shared, layers = 3584, 18944, 512, 28
    per_layer = 2 * 8 * (hidden + hidden) + 2 * 8 * (hidden + shared) + 3 * 8 * (hidden + wide)
    assert counts.trained == layers * per_layer and counts.total == 7_615_616_512 + counts.trained


def test_the_papers_steps_and_reference_samples(place):
    """The paper's sizes give 8 and 16 refreshes of 400 rows: 11% and, per pair, 64% more samples."""
    table = read_table(FOLDER, "table1", "qwen2_5_7b", ["SFT-DPO/ogpsa"])
    (sft, _), (dpo, _) = table.runs().values()
    first, second = (cost_of(each, QWEN, 8) for each in (sft, dpo))
    assert (first.batch, first.steps, first.refreshes, first.rows) == (128, 3 * 79, 8, 30_000)
    assert (second.batch, second.steps, second.refreshes, second.rows) == (128, 79, 16, 10_000)
    assert first.reference_rows / first.rows == pytest.approx(0.11, abs=0.005)
    assert second.reference_rows / second.rows == pytest.approx(0.64)
    assert 0.2 < second.refreshing / second.training < 0.64  # a pair is two sequences, and a reference row is one


def test_operations_by_hand(place):
    row = {"instruction": "a" * 40, "input": "b" * 20, "output": "c" * 20}  # 80 characters: 20 tokens, and 20
    register(place, "rows", [row] * 10)
    register(place, "refs", [row] * 3)
    pair = {"instruction": "a" * 40, "chosen": "c" * 40, "rejected": "d" * 120}  # 40 and 60 tokens
    register(place, "pairs", [pair] * 10, ranking=True, columns={"prompt": "instruction"})
    n = 7_615_616_512
    common = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, "finetuning_type": "full"}
    kept = {"ogpsa_reference_dataset": "refs", "ogpsa_reference_samples": 2, "ogpsa_refresh_steps": 2}
    full = cost_of(stage(dataset="rows", num_train_epochs=3, **common, **kept), QWEN, 1)
    assert (full.batch, full.steps, full.refreshes) == (4, 9, 0)
    assert full.training == 6 * n * 3 * 10 * 40
    with_ogpsa = cost_of(stage(dataset="rows", num_train_epochs=3, **common, **kept, use_ogpsa=True), QWEN, 1)
    assert (with_ogpsa.refreshes, with_ogpsa.reference_rows) == (5, 10)
    assert with_ogpsa.refreshing == 6 * n * 5 * 2 * 40 and with_ogpsa.training == full.training
    dpo = cost_of(stage(dataset="pairs", num_train_epochs=1, **{**common, "stage": "dpo"}), QWEN, 2)
    assert (dpo.batch, dpo.steps) == (8, 2)
    assert dpo.training == (6 + 2) * n * 10 * (40 + 60)
    alone = cost_of(
        stage(dataset="pairs", num_train_epochs=1, pref_loss="simpo", **{**common, "stage": "dpo"}), QWEN, 2
    )
    assert alone.training == 6 * n * 10 * 100
    lora = cost_of(stage(dataset="rows", num_train_epochs=3, **{**common, "finetuning_type": "lora"}), QWEN, 1)
    adapters = count(parameters_of(QWEN, "lora", 8, "all")).trained
    assert lora.training == 4 * (n + adapters) * 3 * 10 * 40 and lora.model_bytes == 2 * adapters
    short = cost_of(stage(dataset="rows", max_steps=3, cutoff_len=30, **common), QWEN, 1)
    assert short.training == 6 * n * 3 * 4 * 30


@pytest.mark.parametrize(
    "words, kept",
    [
        ({"save_strategy": "epoch"}, 3),
        ({"save_strategy": "epoch", "save_total_limit": 1}, 1),
        ({"save_strategy": "no"}, 0),
        ({"save_strategy": "steps", "save_steps": 2}, 4),
        ({"save_strategy": "steps", "save_steps": 0.3}, 3),
        ({"save_strategy": "epoch", "save_total_limit": 0}, 3),
    ],
)
def test_checkpoints(place, words, kept):
    register(place, "rows", [{"instruction": "a", "output": "b"}] * 12)
    common = {"per_device_train_batch_size": 4, "num_train_epochs": 3, "finetuning_type": "full"}
    cost = cost_of(stage(dataset="rows", **common, **words), QWEN, 1)
    assert cost.steps == 9 and cost.checkpoint_bytes == kept * 14 * 7_615_616_512


def test_a_subspace_is_in_its_checkpoints(place):
    table = read_table(FOLDER, "table1", "qwen2_5_7b", ["SFT/naive", "SFT/ogpsa"])
    naive, ogpsa = (cost_of(each, QWEN, 8).checkpoint_bytes for each, _ in table.runs().values())
    assert ogpsa - naive == 3 * 2 * 2 * 7_615_616_512


@pytest.mark.parametrize("row", ["SFT/naive", "SFT/ogpsa", "DPO/ogpsa", "SFT/lora"])
def test_memory_is_what_doctor_says(place, capsys, row):
    table = read_table(FOLDER, "table1", "qwen2_5_7b", [row])
    ((each, _),) = table.runs().values()
    used, engine = memory_of(each, QWEN, 8)
    (place / "config.json").write_text(json.dumps(models._SHAPES[QWEN]))
    (place / "stage.yaml").write_text(yaml.safe_dump({**each.config, "model_name_or_path": str(place)}))
    assert main(["doctor", "--plan", "stage.yaml", "--engine", "zero2", "--json"]) == 0
    device = json.loads(capsys.readouterr().out)["engines"]["zero2"]["device"]
    assert engine == "ZeRO-2" and used == device["peak" if "ogpsa" in row else "training"]


def test_hours(place):
    table = read_table(FOLDER, "table1", "qwen2_5_7b", ["SFT/naive"])
    plan = make_plan(table, hardware.choose("H100", 8), 0.5, mini=False)
    assert plan.hours(989.4e12 * 0.5 * 3600) == pytest.approx(1)
    with pytest.raises(OGPSAError, match=r"--mfu 0 is not possible"):
        make_plan(table, hardware.choose("H100", 8), 0.0, mini=False)


def test_evaluation_by_hand():
    estimate = evaluation.estimate([10, 30], ["XSTest", "MMLU"])
    xstest, mmlu = evaluation.BENCHMARKS["XSTest"], evaluation.BENCHMARKS["MMLU"]
    read = xstest.prompts * xstest.prompt + mmlu.prompts * mmlu.prompt * mmlu.choices
    assert estimate.reading == 2 * 40 * read
    assert estimate.generating == 2 * 40 * xstest.prompts * xstest.answer
    assert estimate.requests == 2 * xstest.prompts
    assert estimate.price(1, 2) == pytest.approx((estimate.tokens_in + 2 * estimate.tokens_out) / 1e6)
    slow = estimate.generating / evaluation.GENERATION_SHARE
    assert estimate.hours(1, 0.5) == pytest.approx((estimate.reading / 0.5 + slow) / 3600e12)
    assert evaluation.estimate([1], []).requests > evaluation.estimate([1], ["XSTest"]).requests


def test_sizes_are_measured_where_a_set_is_there(place):
    assert not data.size_of(Path("data"), "saferlhf_sft", 2048).measured
    data.size_of.cache_clear()
    register(place, "saferlhf_sft", [{"instruction": "a" * 400, "output": ""}] * 7)
    assert data.size_of(Path("data"), "saferlhf_sft", 2048) == data.Size(7, 120, 0, True)
    register(
        place,
        "chat",
        [{"conversations": [{"from": "human", "value": "a" * 36}]}],
        columns={"messages": "conversations"},
    )
    assert data.size_of(Path("data"), "chat", 2048).first == 20 + (36 + len("human")) / 4
    with pytest.raises(OGPSAError, match=r"unheard is not in dataset_info\.json"):
        data.size_of(Path("data"), "unheard", 2048)


def test_missing_sets_are_named_with_the_commands_that_make_them(place):
    stages = [each for each, _ in read_table(FOLDER, "table2", "qwen2_5_7b").runs().values()]
    mixed = "ogpsa data select ultrafeedback_ref_sft,halueval_ref_sft --by random --samples 400 --name mixed_ref_sft"
    assert data.missing(stages) == {
        "saferlhf_dpo": "ogpsa data build saferlhf",
        "ultrafeedback_ref_sft": "ogpsa data build ultrafeedback",
        "halueval_ref_sft": "ogpsa data build halueval",
        "mixed_ref_sft": mixed,
    }
    mini = [each for each, _ in read_table(FOLDER, "table1", "mini").runs().values()]
    assert set(data.missing(mini).values()) == {"ogpsa lab build"}  # registered, but their files are not there
    general = [each for each, _ in read_table(FOLDER, "table3", "llama3_1_8b", ["DPO/general_data"]).runs().values()]
    assert data.missing(general)["ultrafeedback_general_dpo"] == "ogpsa data build general"
    assert data.missing([stage(dataset="mine")]) == {"mine": "ogpsa data add FILE --name mine"}


def test_the_commands_exist():
    from ogpsa_factory.data.build_command import WHAT
    from ogpsa_factory.data.paper import STEPS

    assert set(STEPS) <= set(WHAT)


def test_gpus():
    assert hardware.choose("l40s", 2).gpu.name == "L40S"
    assert hardware._by_driver("NVIDIA A100-SXM4-80GB").name == "A100-80"
    assert hardware._by_driver("NVIDIA A100-PCIE-40GB").name == "A100-40"
    assert hardware._by_driver("NVIDIA H100 PCIe").name == "H100-PCIe"
    assert hardware._by_driver("NVIDIA H100 80GB HBM3").name == "H100"
    assert hardware._by_driver("NVIDIA L40S").name == "L40S" and hardware._by_driver("NVIDIA L4").name == "L4"
    assert hardware._by_driver("NVIDIA GeForce RTX 4090").name == "4090"
    for call in (lambda: hardware._by_driver("Unheard 3"), lambda: hardware.choose("unheard", 1)):
        with pytest.raises(OGPSAError, match="in the table"):
            call()
    with pytest.raises(OGPSAError, match="--gpus 0 is not possible"):
        hardware.choose("H100", 0)


def test_gpus_of_this_machine(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: "NVIDIA H200")
    found = hardware.choose(None, None)
    assert (found.gpu.name, found.count) == ("H200", 4)
    assert hardware.choose(None, 2).count == 2 and hardware.choose("L4", None).count == 8


def test_a_plan_in_words(place, capsys):
    assert run("table1", "--plan", "--price", "0.15", "0.6", "--gpu", "A100-80", "--gpus", "8") == 0
    out = capsys.readouterr().out
    assert "16 rows, 15 runs" in out and "312 TFLOP/s" in out and "40% of it (assumed" in out
    assert "237 x 128" in out and "8 (+11%, +" in out and "16 (+64%, +" in out
    assert "Missing data set: ultrafeedback_general_dpo (ogpsa data build general)" in out
    assert "Assumed, as they are not there yet: saferlhf_sft" in out and " dollars at 0.15 and 0.6" in out
    assert "The batch is" not in out and "does not fit" not in out
    assert not (place / "saves").exists() and not (place / "results").exists()


def test_a_plan_for_fewer_and_smaller_gpus(place, capsys):
    assert run("table1", "--plan", "--gpu", "4090", "--gpus", "4", "--rows", "SFT/naive") == 0
    out = capsys.readouterr().out
    assert "The batch is 64 rows on 4 GPUs and 128 in the paper" in out
    assert "naive/sft does not fit: " in out and "on a GPU of 24 GB with ZeRO-2" in out
    assert run("table1", "sft.gradient_accumulation_steps=8", "--plan", "--gpus", "4", "--rows", "SFT/naive") == 0
    assert "The batch is" not in capsys.readouterr().out


@pytest.mark.parametrize("scale", ["paper", "mini"])
@pytest.mark.parametrize("number", range(2, 9))
def test_every_table_has_a_plan(place, capsys, number, scale):
    words = [f"table{number}", "--plan", "--scale", scale]
    if (number, scale) == (5, "mini"):
        with pytest.raises(OGPSAError, match="not there at scale mini"):
            run(*words)
        return
    assert run(*words) == 0
    out = capsys.readouterr().out
    if scale == "mini":
        assert "on the CPU" in out and "GPU-hours" not in out and " x 16" in out
    else:
        hours = float(out.partition("Training: ")[2].partition(" ")[0])
        assert math.isfinite(hours) and hours > 0


def test_a_finished_run_is_said_to_be(place, capsys):
    (stage, _), _ = read_table(FOLDER, "table1", "qwen2_5_7b", ["SFT/naive", "SFT/ogpsa"]).runs().values()
    stage.output.mkdir(parents=True)
    (stage.output.parent / "pipeline.json").write_text('{"stages": {}}')
    directory = RunDirectory(stage.output.parent)
    directory.record_start(stage)
    directory.record(stage, status="finished")
    words = ["table1", "--plan", "--rows", "SFT/naive,SFT/ogpsa"]
    assert run(*words) == 0
    out = capsys.readouterr().out
    assert "naive/sft (finished)" in out and "of them still to be done" in out and "refused" not in out

    assert run("table1", "sft.seed=43", *words[1:]) == 0
    out = capsys.readouterr().out
    assert "(finished)" not in out and "of them still to be done" not in out
    (warning,) = [line for line in out.splitlines() if "refused" in line]
    assert warning.startswith("Warning: saves/reproduce/qwen2_5_7b/naive/sft will be refused, and nothing will be")
    assert "seed was 42 and is 43" in warning and "--runs DIR" in warning

    assert run("table1", "sft.seed=43", *words[1:], "--runs", "saves/seed43") == 0
    out = capsys.readouterr().out
    assert "refused" not in out and "saves/seed43/qwen2_5_7b/naive/sft " in out


def test_a_plan_says_that_it_counts_the_whole_suite(place, capsys):
    words = ["table1", "--plan", "--rows", "SFT/naive"]
    for more, said in (
        (["--suite", "quick"], "--suite quick"),
        (["--evaluate", "--limit", "5", "--benchmarks=MMLU"], "--limit, --benchmarks"),
        (["--suite", "paper"], None),
        (["--evaluate", "--dtype", "float32"], None),
    ):
        assert run(*words, *more) == 0
        out = capsys.readouterr().out
        assert ("of the whole suite `paper`" in out) == bool(said)
        assert not said or f"they know nothing of {said}." in out
    assert run(*words, "--scale", "mini", "--suite", "mine.yaml") == 0
    assert "Evaluation: by the suite mine.yaml." in capsys.readouterr().out


ODD = {
    "num_train_epochs": ["abc", "0", "-1", "inf", "true"],
    "per_device_train_batch_size": ["0", "x", "1.5"],
    "gradient_accumulation_steps": ["0", "[1]"],
    "max_steps": ["many", "0.5"],
    "cutoff_len": ["0", "long"],
    "save_steps": ["0", "x"],
    "save_total_limit": ["few"],
    "ogpsa_refresh_steps": ["0", "never"],
    "ogpsa_reference_samples": ["0", "all"],
    "ogpsa_rank": ["0", "x"],
    "lora_rank": ["0", "x"],
}


@pytest.mark.parametrize("key", ODD)
def test_an_odd_number_is_named(place, key):
    more = {"save_steps": ["save_strategy=steps", "max_steps=5"], "lora_rank": ["finetuning_type=lora"]}.get(key, [])
    for value in ODD[key]:
        with pytest.raises(OGPSAError) as error:
            run("table1", f"{key}={value}", *more, "--plan", "--rows", "SFT/ogpsa")
        assert key in str(error.value) and str(yaml.safe_load(value)) in str(error.value)


def test_what_cannot_be_asked(place):
    with pytest.raises(OGPSAError, match="the miniature world has one model"):
        run("table1", "--scale", "mini", "--model", "qwen2_5_7b")
    with pytest.raises(OGPSAError, match=r"Cannot read nowhere/tables\.yaml.* a clone of the repository, .* --files"):
        run("table1", "--plan", "--files", "nowhere")


def test_evaluation_is_counted_for_the_benchmarks_of_the_suite():
    from ogpsa_factory.evaluation.suite import read_suite

    suite = {each.name: each for each in read_suite("paper").benchmarks}
    assert evaluation.BENCHMARKS.keys() == suite.keys()
    for name, load in evaluation.BENCHMARKS.items():
        assert load.judged == bool(suite[name].judge)
        assert bool(load.answer) == (suite[name].max_new_tokens is not None)
        assert load.answer <= (suite[name].max_new_tokens or 0)
