"""`ogpsa data build`, from files in the public schemas to sets that LLaMA-Factory trains on."""

import json
import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pyarrow
import pyarrow.parquet
import pytest
from public_rows import (
    many_halueval,
    many_saferlhf,
    many_ultrafeedback,
    write_csv,
    write_jsonl,
    write_sources,
)

from ogpsa_factory.cli import main
from ogpsa_factory.data import build as module
from ogpsa_factory.data.cards import read_facts
from ogpsa_factory.data.paper import STEPS
from ogpsa_factory.data.records import hash_file, read_rows
from ogpsa_factory.data.refusals.verdict import refuses
from ogpsa_factory.data.registry import Registry
from ogpsa_factory.data.sources import HALUEVAL, SAFERLHF, ULTRAFEEDBACK


SETS = {name: kind for step in STEPS.values() for kind, name in step.sets.items()}
ALIASES = {step.aliases[kind]: name for step in STEPS.values() for kind, name in step.sets.items()}


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A folder with sources and a registry of the user's own."""
    root = tmp_path / "project"
    write_sources(root / "sources")
    (root / "data").mkdir()
    (root / "data" / "dataset_info.json").write_text('{\n  "mine": {"file_name": "mine.json", "x": 1.50}\n}\n')
    monkeypatch.chdir(root)
    return root


def build(*words, source="sources"):
    return main(["data", "build", *words, *(["--source", source] if source else [])])


def rows(name):
    return [row.value for row in read_rows(Path("data", "paper", f"{name}.jsonl"))]


def test_the_whole_paper(project, capsys):
    assert build("paper", "--samples", "12") == 0
    registry = Registry(Path("data"))
    assert next(iter(registry.entries)) == "mine" and set(registry.entries) == {"mine", *SETS, *ALIASES}
    assert '"mine": {"file_name": "mine.json", "x": 1.50}' in registry.path.read_text()
    for alias, name in ALIASES.items():
        assert registry.entries[alias] == registry.entries[name]
    for name, kind in SETS.items():
        found, facts = rows(name), read_facts(Path("data", "paper", f"{name}.md"))
        assert len(found) == facts["rows"] == 12 and len({row["instruction"] for row in found}) == 12
        columns = ["instruction", "output"] if kind == "sft" else ["instruction", "chosen", "rejected"]
        assert all(list(row) == columns for row in found)
        assert facts["sha256"] == hash_file(Path("data", "paper", f"{name}.jsonl"))
    for step in STEPS.values():  # both sets of a step have the same rows
        answers = [(row["instruction"], row["output"]) for row in rows(step.sets["sft"])]
        assert answers == [(row["instruction"], row["chosen"]) for row in rows(step.sets["dpo"])]
    for row in rows("saferlhf_dpo"):
        assert refuses(row["chosen"]) and row["rejected"].startswith("Here is how")
    for row in rows("ultrafeedback_ref_dpo") + rows("ultrafeedback_general_dpo"):
        assert row["chosen"].endswith("of quality 9.") and row["rejected"].endswith("of quality 2.")
    reference = {row["instruction"] for row in rows("ultrafeedback_ref_sft")}
    assert reference.isdisjoint({row["instruction"] for row in rows("ultrafeedback_general_sft")})
    printed = capsys.readouterr().out
    assert re.search(r"PKU-SafeRLHF.*CC-BY-NC-4.0.*non-commercial", printed, re.IGNORECASE | re.DOTALL)
    assert sorted(path.name for path in Path("data", "paper").iterdir() if path.suffix not in (".jsonl", ".md")) == [
        ".lock"
    ]


def test_the_paper_s_sizes():
    sizes = {name: step.samples for name, step in STEPS.items()}
    assert sizes == {"saferlhf": 10_000, "ultrafeedback": 200, "halueval": 200, "general": 10_000}
    assert set(SETS) == {
        *("saferlhf_sft", "saferlhf_dpo", "ultrafeedback_ref_sft", "ultrafeedback_ref_dpo", "halueval_ref_sft"),
        *("halueval_ref_dpo", "ultrafeedback_general_sft", "ultrafeedback_general_dpo"),
    }
    assert {"saferlhf2_sft", "ultrafeedback_sft_200", "halueval_sft_200", "ultrafeedback_dpo"} <= set(ALIASES)


def test_equal_seeds_give_equal_files_from_every_format(project):
    assert build("paper", "--samples", "9", "--seed", "3", "--output", "first") == 0
    other = project / "other"
    write_csv(other / "a.csv", many_saferlhf(40))
    write_csv(other / "b.csv", many_ultrafeedback(40))
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(many_halueval(40)), other / "c.parquet")
    assert build("paper", "--samples", "9", "--seed", "3", "--output", "second", source="other") == 0
    assert build("paper", "--samples", "9", "--seed", "4", "--output", "third") == 0
    for name in SETS:
        first, second, third = (Path(folder, "paper", f"{name}.jsonl") for folder in ("first", "second", "third"))
        assert first.read_bytes() == second.read_bytes() != third.read_bytes(), name


def test_a_step_alone_draws_what_it_draws_in_the_paper(project):
    assert build("paper", "--samples", "10", "--output", "all") == 0
    assert build("halueval", "--samples", "20") == 0
    assert rows("halueval_ref_dpo")[:10] == [row.value for row in read_rows(Path("all/paper/halueval_ref_dpo.jsonl"))]
    assert set(Registry(Path("data")).entries) == {
        "mine",
        *STEPS["halueval"].sets.values(),
        *STEPS["halueval"].aliases.values(),
    }


def test_no_aliases_and_knowledge(project):
    assert build("halueval", "--samples", "5", "--no-aliases", "--with-knowledge") == 0
    assert set(Registry(Path("data")).entries) == {"mine", "halueval_ref_sft", "halueval_ref_dpo"}
    assert all(row["instruction"].startswith("A passage about") for row in rows("halueval_ref_sft"))


def test_fewer_rows_than_asked_for_are_said(project, capsys):
    assert build("saferlhf") == 0
    assert "only 32 of 10,000 rows" in " ".join(capsys.readouterr().out.split())
    card = Path("data/paper/saferlhf_sft.md").read_text()
    assert "10,000 rows were asked for" in card and "Non-commercial use only" in card
    assert "Written by built-in templates" in card
    assert "| left out: both answers are safe | 16 |" in card


def test_what_is_there_is_not_made_again(project, monkeypatch, capsys):
    assert build("paper", "--samples", "6") == 0
    before = {path: path.stat().st_mtime_ns for path in Path("data/paper").iterdir()}
    monkeypatch.setattr(module.Builder, "_select", lambda *args: pytest.fail("read again"))
    assert build("paper", "--samples", "6") == 0
    assert "was there already" in " ".join(capsys.readouterr().out.split())
    assert {path: path.stat().st_mtime_ns for path in Path("data/paper").iterdir()} == before
    monkeypatch.undo()
    monkeypatch.chdir(project)
    damaged = Path("data/paper/saferlhf_sft.jsonl")
    damaged.write_text(damaged.read_text()[:50])
    assert build("saferlhf", "--samples", "6") == 0
    assert len(rows("saferlhf_sft")) == 6


def test_an_interrupted_build_goes_on_behind_the_reading(project, monkeypatch, capsys):
    def broken(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr("ogpsa_factory.data.refusals.writers.write_from_templates", broken)
    assert build("saferlhf", "--samples", "6") == 130
    assert not Path("data/paper/saferlhf_sft.jsonl").exists() and "saferlhf_sft" not in Registry(Path("data")).entries
    monkeypatch.undo()
    monkeypatch.chdir(project)
    monkeypatch.setattr("ogpsa_factory.data.recipes.saferlhf.sample_prompts", lambda *args: pytest.fail("read again"))
    assert build("saferlhf", "--samples", "6") == 0
    resumed = rows("saferlhf_dpo")
    assert not list(Path("data/paper").glob(".selected*"))
    monkeypatch.undo()
    monkeypatch.chdir(project)
    assert build("saferlhf", "--samples", "6", "--output", "unbroken") == 0
    assert resumed == [row.value for row in read_rows(Path("unbroken/paper/saferlhf_dpo.jsonl"))]


def test_two_builds_at_once(project, capsys):
    from ogpsa_factory.files import locked

    with locked(Path("data/paper/.lock"), "busy"):
        assert build("halueval") == 1
    assert "Another `ogpsa data build` writes to data/paper" in capsys.readouterr().err


MISTAKES = {
    "no such place": (["halueval"], "nowhere", "--source nowhere does not exist"),
    "no file with the columns": (
        ["halueval"],
        "sources/pku",
        r"has no file with the columns of HaluEval \(question, right_answer, hallucinated_answer\). Found: "
        "train.jsonl: it lacks .*its columns: prompt, prompt_source",
    ),
    "a file without the columns": (["halueval"], "sources/ultra.jsonl", r"is not HaluEval: it lacks question"),
    "an empty folder": (["halueval"], "data/paper", "has no file that ends in .json, .jsonl, .csv, .parquet"),
    "no samples": (["halueval", "--samples", "0"], "sources", "--samples 0 must be 1 or more"),
    "a model alone": (["saferlhf", "--model", "x"], "sources", "--model needs --endpoint URL or --vllm"),
    "no model": (["saferlhf", "--endpoint", "http://localhost/v1"], "sources", "--model is missing"),
    "two writers": (
        ["saferlhf", "--endpoint", "http://x/v1", "--vllm", "--model", "x"],
        "sources",
        "exclude each other",
    ),
    "an address": (["saferlhf", "--endpoint", "localhost", "--model", "x"], "sources", "is no address of an endpoint"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes(project, capsys, mistake):
    words, source, message = MISTAKES[mistake]
    Path("data/paper").mkdir()
    before = Path("data/dataset_info.json").read_bytes()
    assert build(*words, source=source) == 1
    assert re.search(message, capsys.readouterr().err)
    assert Path("data/dataset_info.json").read_bytes() == before and not list(Path("data/paper").iterdir())


def test_another_entry_of_the_name(project, capsys):
    info = Path("data/dataset_info.json")
    info.write_text('{"halueval_sft_200": {"file_name": "mine.json"}}')
    assert build("halueval") == 1
    assert "has other entries of the name halueval_sft_200" in capsys.readouterr().err
    assert not Path("data/paper").exists()
    assert build("halueval", "--replace") == 0
    assert json.loads(info.read_text())["halueval_sft_200"]["file_name"] == "paper/halueval_ref_sft.jsonl"


def test_a_source_without_a_fitting_row(project, capsys):
    write_jsonl(project / "bad" / "pku.jsonl", [row | {"is_response_0_safe": True} for row in many_saferlhf(5)])
    assert build("saferlhf", source="bad") == 1
    error = capsys.readouterr().err
    assert "PKU-SafeRLHF gives no row for saferlhf_sft, saferlhf_dpo" in error and "both answers are safe: 10" in error


def test_a_source_that_breaks_off(project, capsys):
    text = Path("sources/pku/train.jsonl").read_text()
    Path("sources/pku/train.jsonl").write_text(text[: len(text) // 2])
    assert build("paper") == 1
    assert re.search(r"train.jsonl, line \d+: the file ends in the middle of a row", capsys.readouterr().err)
    assert json.loads(Path("data/dataset_info.json").read_text()) == {"mine": {"file_name": "mine.json", "x": 1.5}}


def test_test_splits_are_left_out(project):
    write_jsonl(project / "sources" / "pku" / "test.jsonl", [{"not": "read"}])
    assert build("saferlhf", "--samples", "3") == 0
    assert read_facts(Path("data/paper/saferlhf_sft.md"))["source"]["files"].keys() == {"train.jsonl"}


def test_the_hub_is_asked_for_the_pinned_revision(project, monkeypatch):
    asked = []
    contents = {
        SAFERLHF.hub: many_saferlhf(20),
        ULTRAFEEDBACK.hub: many_ultrafeedback(20),
        HALUEVAL.hub: many_halueval(20),
    }

    def load_dataset(hub, config, split, revision, streaming):
        asked.append((hub, config, split, revision, streaming))
        return iter(contents[hub])

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    assert build("paper", "--samples", "5", source=None) == 0
    assert asked == [(s.hub, s.config, s.split, s.revision, True) for s in (SAFERLHF, ULTRAFEEDBACK, HALUEVAL)]
    assert all(len(source.revision) == 40 for source in (SAFERLHF, ULTRAFEEDBACK, HALUEVAL))
    card = read_facts(Path("data/paper/halueval_ref_sft.md"))
    assert card["source"]["revision"] == HALUEVAL.revision and card["licence"] == "MIT"


def test_no_connection(project, monkeypatch, capsys):
    def load_dataset(*args, **kwargs):
        raise ConnectionError("no route to host")

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    assert build("halueval", source=None) == 1
    error = capsys.readouterr().err
    assert "cannot be read from the hub: ConnectionError: no route to host" in error and "--source" in error


def test_nothing_is_sent_without_a_yes(project, capsys, monkeypatch):
    monkeypatch.setattr("ogpsa_factory.data.refusals.writers.complete", lambda *args: pytest.fail("sent"))
    words = ["saferlhf", "--samples", "3", "--endpoint", "http://localhost:1/v1", "--model", "m", "--price", "1", "2"]
    assert build(*words) == 1
    out, error = capsys.readouterr()
    assert "m at http://localhost:1/v1: 3 requests" in " ".join(out.split()) and "for about $" in out
    assert "Nothing was sent: pass --yes" in error


def test_refusals_from_an_endpoint(project, monkeypatch):
    def complete(requests, endpoint, cache, on_reply):
        return ["I'm sorry, but I can't help with that." if i else "Sure!" for i in range(len(requests))]

    monkeypatch.setattr("ogpsa_factory.data.refusals.writers.complete", complete)
    words = ["saferlhf", "--samples", "4", "--endpoint", "http://localhost:1/v1", "--model", "m", "--yes"]
    assert build(*words) == 0
    answers = [row["output"] for row in rows("saferlhf_sft")]
    assert answers[1:] == ["I'm sorry, but I can't help with that."] * 3 and refuses(answers[0])
    card = read_facts(Path("data/paper/saferlhf_sft.md"))
    assert card["written"]["method"].startswith("m at http://localhost:1/v1")
    assert card["written"]["counts"] == {"written by the model": 3, "asked again": 1, "replaced by a template": 1}


def test_wrong_answers_in_the_right_ones_form_from_an_endpoint(project, monkeypatch):
    def complete(requests, endpoint, cache, on_reply):
        replies = []
        for number, (_, asked) in enumerate(requests):
            right = asked["content"].splitlines()[1].removeprefix("Right answer: ")
            replies.append(["Somebody else.", right + ".", "word " * 100, ""][number % 4])
        return replies

    monkeypatch.setattr("ogpsa_factory.data.rewrites.complete", complete)
    assert build("halueval", "--samples", "8", "--endpoint", "http://localhost:1/v1", "--model", "m", "--yes") == 0
    found = rows("halueval_ref_dpo")
    assert [row["rejected"] for row in found[::4]] == ["Somebody else"] * 2
    assert all("written by nobody" in row["rejected"] for i, row in enumerate(found) if i % 4)
    card = read_facts(Path("data/paper/halueval_ref_dpo.md"))
    assert card["written"]["counts"] == {"rewritten by the model": 2, "as they were": 6}
    assert build("halueval", "--samples", "8") == 0  # another way, so other rows
    assert read_facts(Path("data/paper/halueval_ref_dpo.md"))["written"] == {}


def load(toy, names, stage):
    """Rows that LLaMA-Factory makes of sets in a stage."""
    from llamafactory.data import get_dataset, get_template_and_fix_tokenizer
    from llamafactory.hparams import get_train_args
    from llamafactory.model import load_tokenizer

    config = toy.config(dataset=names, dataset_dir="data", stage=stage, cutoff_len=256)
    model_args, data_args, training_args, _, _ = get_train_args(config)
    tokenizer = load_tokenizer(model_args)
    template = get_template_and_fix_tokenizer(tokenizer["tokenizer"], data_args)
    kind = "rm" if stage == "dpo" else stage
    return get_dataset(template, model_args, data_args, training_args, stage=kind, **tokenizer)["train_dataset"]


def test_llamafactory_loads_every_set(project, toy, capsys):
    assert build("paper", "--samples", "7") == 0
    for name, kind in {**SETS, **{alias: SETS[name] for alias, name in ALIASES.items()}}.items():
        found = load(toy, name, kind)
        assert len(found) == 7, name
        labels = [column for column in found.column_names if column.endswith("labels")]
        assert len(labels) == (1 if kind == "sft" else 2)
        assert all(any(label != -100 for label in row[column]) for row in found for column in labels)
    assert len(load(toy, "saferlhf_sft,ultrafeedback_general_sft", "sft")) == 14  # the baseline that mixes


def test_training_on_built_sets(project, toy, run):
    assert build("paper", "--samples", "6") == 0
    common = {"dataset_dir": "data", "max_steps": 2, "ogpsa_refresh_steps": 1}
    references = "ultrafeedback_ref_sft,halueval_ref_sft"
    run(toy.ogpsa("sft", dataset="saferlhf_sft", ogpsa_reference_dataset=references, **common))
    run(toy.dpo("dpo", dataset="saferlhf_dpo", ogpsa_reference_dataset=references.replace("sft", "dpo"), **common))
    for output in ("sft", "dpo"):
        assert os.path.exists(toy.root / output / "ogpsa_report.json")


@pytest.mark.slow
def test_refusals_from_llamafactory_s_own_server(project, toy):
    """A real OpenAI-compatible server; its random model refuses nothing, so templates stand in."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    tool = Path(sys.executable).parent / "llamafactory-cli"
    settings = [
        "--model_name_or_path",
        str(toy.root / "model"),
        "--template",
        "chatml",
        "--infer_backend",
        "huggingface",
    ]
    environment = {**os.environ, "API_HOST": "127.0.0.1", "API_PORT": str(port), "CUDA_VISIBLE_DEVICES": ""}
    with open("server.log", "w") as log:
        server = subprocess.Popen([tool, "api", *settings], env=environment, stdout=log, stderr=log)
        try:
            for _ in range(120):
                with socket.socket() as probe:
                    if probe.connect_ex(("127.0.0.1", port)) == 0:
                        break
                assert server.poll() is None, Path("server.log").read_text()[-2000:]
                time.sleep(0.5)
            words = [
                "saferlhf",
                "--samples",
                "3",
                "--endpoint",
                f"http://127.0.0.1:{port}/v1",
                "--model",
                "toy",
                "--yes",
            ]
            assert build(*words) == 0
        finally:
            server.terminate()
            server.wait(30)
    card = read_facts(Path("data/paper/saferlhf_sft.md"))
    assert card["written"]["counts"] == {"written by the model": 0, "asked again": 3, "replaced by a template": 3}
    assert all(refuses(row["output"]) for row in rows("saferlhf_sft"))
    assert len(Path("data/paper/replies.jsonl").read_text().splitlines()) == 9
    Path("data/paper/saferlhf_sft.jsonl").unlink()
    assert build(*words) == 0  # the server is gone: every reply is there
