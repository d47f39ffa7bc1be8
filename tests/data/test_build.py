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

from ogpsa_factory import __version__
from ogpsa_factory.cli import main
from ogpsa_factory.data import build as module
from ogpsa_factory.data.cards import read_facts
from ogpsa_factory.data.paper import STEPS
from ogpsa_factory.data.records import hash_file, read_rows
from ogpsa_factory.data.refusals import Refusals, refuses
from ogpsa_factory.data.registry import Registry
from ogpsa_factory.data.sources import HALUEVAL, SAFERLHF, ULTRAFEEDBACK, locate
from ogpsa_factory.errors import OGPSAError


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
    monkeypatch.setattr(module.Pools, "draw", lambda *args: pytest.fail("read again"))
    assert build("paper", "--samples", "6") == 0
    assert "was there already" in " ".join(capsys.readouterr().out.split())
    assert {path: path.stat().st_mtime_ns for path in Path("data/paper").iterdir()} == before
    monkeypatch.undo()
    monkeypatch.chdir(project)
    Path("data/paper/saferlhf_sft.jsonl").unlink()
    assert build("saferlhf", "--samples", "6") == 0
    assert len(rows("saferlhf_sft")) == 6


DIFFERENT = {
    "seed": (["saferlhf", "--samples", "6", "--seed", "3"], r"saferlhf_sft, saferlhf_dpo \(seed 0 -> 3\)"),
    "samples": (["saferlhf", "--samples", "7"], r"saferlhf_sft, saferlhf_dpo \(samples 6 -> 7\)"),
    "writer": (
        ["saferlhf", "--samples", "6", "--endpoint", "http://h/v1", "--model", "m", "--yes"],
        r"\(writer templates -> http://h/v1, model not set -> m, temperature not set -> 0.7, max_tokens not set -> ",
    ),
    "knowledge": (
        ["halueval", "--samples", "6", "--with-knowledge"],
        r"halueval_ref_sft, halueval_ref_dpo \(knowledge False -> True\)",
    ),
    "several": (
        ["paper", "--samples", "5", "--seed", "3"],
        r"saferlhf_sft, saferlhf_dpo, ultrafeedback_ref_sft.* \(samples 6 -> 5, seed 0 -> 3\)",
    ),
}


@pytest.mark.parametrize("difference", DIFFERENT)
def test_a_set_of_other_settings_is_not_replaced_unasked(project, monkeypatch, capsys, difference):
    words, message = DIFFERENT[difference]
    assert build("paper", "--samples", "6") == 0
    before = {path: path.read_bytes() for path in Path("data/paper").iterdir()}
    with monkeypatch.context() as patched:
        patched.setattr(module.Pools, "draw", lambda *args: pytest.fail("read"))
        assert build(*words) == 1
    error = capsys.readouterr().err
    assert re.search(message, error) and "Pass --replace" in error and "--output" in error
    assert {path: path.read_bytes() for path in Path("data/paper").iterdir()} == before


def test_settings_are_in_the_card(project):
    assert build("halueval", "--samples", "6", "--with-knowledge", "--seed", "3") == 0
    settings = read_facts(Path("data/paper/halueval_ref_sft.md"))["settings"]
    identity = settings.pop("source")
    assert settings == {"samples": 6, "seed": 3, "knowledge": True, "version": __version__}
    Path("sources/halueval.json").rename("sources/renamed.json")  # the same rows
    assert build("halueval", "--samples", "6", "--with-knowledge", "--seed", "3") == 0
    Path("sources/renamed.json").write_text(json.dumps(many_halueval(41)))
    assert build("halueval", "--samples", "6", "--with-knowledge", "--seed", "3", "--replace") == 0
    assert read_facts(Path("data/paper/halueval_ref_sft.md"))["settings"]["source"] != identity


def test_another_source_is_other_settings(project, capsys):
    assert build("saferlhf", "--samples", "6") == 0
    write_jsonl(project / "sources" / "pku" / "train.jsonl", many_saferlhf(41))
    assert build("saferlhf", "--samples", "6") == 1
    assert re.search(r"source file [0-9a-f]{16} -> file [0-9a-f]{16}", capsys.readouterr().err)


def test_what_was_changed_by_hand_is_replaced_when_asked(project, capsys):
    assert build("saferlhf", "--samples", "6") == 0
    changed = Path("data/paper/saferlhf_sft.jsonl")
    whole = changed.read_bytes()
    changed.write_bytes(whole + b'{"instruction": "mine", "output": "mine"}\n')
    mine = changed.read_bytes()
    assert build("saferlhf", "--samples", "6") == 1
    assert "saferlhf_sft (the file was changed after it was built)" in capsys.readouterr().err
    assert changed.read_bytes() == mine
    assert build("saferlhf", "--samples", "6", "--replace") == 0
    assert changed.read_bytes() == whole


CARDS = {
    "no card": None,
    "no front matter": "# saferlhf_sft\n",
    "no facts": "---\n---\n",
    "a list": "---\n- a\n---\n",
    "no hash": "---\nrows: 6\nsettings: {}\n---\n",
    "rows that are no number": "---\nrows: six\nsha256: x\nsettings: {}\n---\n",
    "settings that are none": "---\nrows: 6\nsha256: x\nsettings: none\n---\n",
    "a date that is none": "---\nrows: 2020-13-45\n---\n",
    "no YAML": "---\n{[\n---\n",
    "nested": "---\n" + "[" * 5000 + "\n---\n",
    "no UTF-8": b"---\n\xff\n---\n",
}


@pytest.mark.parametrize("card", CARDS)
def test_a_set_without_a_usable_card_is_not_replaced_unasked(project, capsys, card):
    assert build("saferlhf", "--samples", "6") == 0
    path, content = Path("data/paper/saferlhf_sft.md"), CARDS[card]
    path.unlink()
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    assert build("saferlhf", "--samples", "6") == 1
    assert "saferlhf_sft (no readable card saferlhf_sft.md says what" in capsys.readouterr().err
    assert build("saferlhf", "--samples", "6", "--replace") == 0
    assert read_facts(path)["rows"] == 6


def test_a_set_that_cannot_be_read(project, monkeypatch, capsys):
    def refuse(path):
        raise PermissionError(13, "Permission denied")

    assert build("saferlhf", "--samples", "6") == 0
    monkeypatch.setattr("ogpsa_factory.data.finished.hash_file", refuse)
    assert build("saferlhf", "--samples", "6") == 1
    assert "saferlhf_sft, saferlhf_dpo (the file cannot be read: Permission denied)" in capsys.readouterr().err


def instructions(name):
    return [row["instruction"] for row in rows(name)]


ORDERS = {
    "the paper's": [["ultrafeedback", "--samples", "5"], ["general", "--samples", "20"]],
    "general data first": [["general", "--samples", "20"], ["ultrafeedback", "--samples", "5"]],
    "general data of another seed": [
        ["ultrafeedback", "--samples", "5"],
        ["general", "--samples", "35", "--seed", "1"],
    ],
    "a reference set of another seed": [
        ["general", "--samples", "33"],
        ["ultrafeedback", "--samples", "7", "--seed", "9"],
    ],
    "the reference set anew and larger": [
        ["ultrafeedback", "--samples", "5"],
        ["general", "--samples", "20"],
        ["ultrafeedback", "--samples", "19", "--seed", "2", "--replace"],
    ],
    "all anew": [["paper", "--samples", "12"], ["paper", "--samples", "20", "--seed", "5", "--replace"]],
    "the rest of the paper": [["general", "--samples", "12", "--seed", "0"], ["paper", "--samples", "12"]],
}


@pytest.mark.parametrize("order", ORDERS)
def test_reference_and_general_data_have_no_instruction_in_common(project, order):
    for words in ORDERS[order]:
        assert build(*words) == 0
        if words[0] != "paper":
            name = {"ultrafeedback": "ultrafeedback_ref_sft", "general": "ultrafeedback_general_sft"}[words[0]]
            assert len(rows(name)) == int(words[2])
    assert set(instructions("ultrafeedback_ref_sft")).isdisjoint(instructions("ultrafeedback_general_sft"))
    assert instructions("ultrafeedback_ref_sft") == instructions("ultrafeedback_ref_dpo")
    assert instructions("ultrafeedback_general_sft") == instructions("ultrafeedback_general_dpo")
    for words in ORDERS[order][-2:]:
        if "--replace" not in words and "all" not in order and "anew" not in order:
            assert build(*words) == 0, "both are kept"


def test_what_is_made_anew_does_not_depend_on_what_was_there(project):
    assert build("paper", "--samples", "12") == 0
    assert build("paper", "--samples", "15", "--seed", "5", "--replace") == 0
    assert build("paper", "--samples", "15", "--seed", "5", "--output", "fresh") == 0
    for name in SETS:
        assert Path("data/paper", f"{name}.jsonl").read_bytes() == Path("fresh/paper", f"{name}.jsonl").read_bytes()


def test_the_card_says_what_is_left_out(project):
    assert build("general", "--samples", "20") == 0
    assert read_facts(Path("data/paper/ultrafeedback_general_sft.md"))["left_out"] == {}
    assert build("ultrafeedback", "--samples", "5") == 0
    card = Path("data/paper/ultrafeedback_ref_dpo.md")
    assert read_facts(card)["left_out"] == {"ultrafeedback_general_sft and ultrafeedback_general_dpo": 20}
    assert "The 20 instructions that were in ultrafeedback_general_sft and" in card.read_text()


def test_sets_with_instructions_in_common_are_not_kept(project, capsys):
    """As after a build with --replace that was killed between the two."""
    assert build("ultrafeedback", "--samples", "12", "--output", "elsewhere") == 0
    assert build("general", "--samples", "12") == 0
    for path in Path("elsewhere/paper").glob("ultra*"):
        path.rename(Path("data/paper", path.name))
    assert build("ultrafeedback", "--samples", "12") == 1
    assert "12 of its instructions are in ultrafeedback_general_sft and" in " ".join(capsys.readouterr().err.split())
    assert build("paper", "--samples", "12", "--replace") == 0
    assert set(instructions("ultrafeedback_ref_sft")).isdisjoint(instructions("ultrafeedback_general_sft"))


def test_another_set_that_cannot_be_read(project, capsys):
    assert build("general", "--samples", "12") == 0
    Path("data/paper/ultrafeedback_general_sft.jsonl").write_text("{\n")
    assert build("ultrafeedback", "--samples", "5") == 1
    error = capsys.readouterr().err
    assert "ultrafeedback_general_sft.jsonl, line 1" in error and "mend the file" in error


def test_no_instruction_is_left_for_general_data(project, capsys):
    assert build("paper", "--samples", "40") == 1
    out, error = capsys.readouterr()
    assert "UltraFeedback has no instruction left for ultrafeedback_general_sft and" in error
    assert "all 40 that fit are in ultrafeedback_ref_sft and ultrafeedback_ref_dpo" in error
    assert "ogpsa data build ultrafeedback --samples N --replace" in error and "halueval_ref_sft.jsonl: 40 rows" in out
    made = (
        {*SETS, *ALIASES}
        - {"ultrafeedback_general_sft", "ultrafeedback_general_dpo"}
        - {*STEPS["general"].aliases.values()}
    )
    assert set(Registry(Path("data")).entries) == {"mine", *made}, "what is finished is registered"
    assert build("ultrafeedback", "--samples", "5", "--replace") == 0
    assert build("general", "--samples", "35") == 0


def test_entries_have_roles(project):
    assert build("paper", "--samples", "6") == 0
    entries = Registry(Path("data")).entries
    roles = {step: {entries[name]["ogpsa_role"] for name in STEPS[step].sets.values()} for step in STEPS}
    assert roles == {
        "saferlhf": {"safety"},
        "ultrafeedback": {"reference"},
        "halueval": {"reference"},
        "general": {"general"},
    }


def test_files_of_killed_builds_are_removed(project):
    left = [Path("data/paper", name) for name in (".saferlhf_sft.77.tmp.jsonl", "..saferlhf_sft.7.tmp.7.tmp.jsonl")]
    left[0].parent.mkdir()
    for path in left:
        path.write_text("{")
    assert build("saferlhf", "--samples", "6") == 0
    assert not any(path.exists() for path in left)


def test_a_build_that_is_killed_between_card_and_file_goes_on(project, monkeypatch):
    def killed(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("ogpsa_factory.files.os.replace", killed)
        assert build("halueval", "--samples", "6") == 130
    monkeypatch.chdir(project)
    real = os.replace
    with monkeypatch.context() as patched:
        patched.setattr(
            "ogpsa_factory.files.os.replace",
            lambda old, new: killed() if Path(new).name == "halueval_ref_sft.jsonl" else real(old, new),
        )
        assert build("halueval", "--samples", "6") == 130
    assert Path("data/paper/halueval_ref_sft.md").exists() and not Path("data/paper/halueval_ref_sft.jsonl").exists()
    assert build("halueval", "--samples", "6") == 0
    assert len(rows("halueval_ref_sft")) == 6


def test_names_of_sets_are_not_those_of_other_files():
    own = {"replies.jsonl", ".lock"}
    made = [f"{name}{suffix}" for name in SETS for suffix in (".jsonl", ".md")]
    assert len(set(made)) == len(made) and own.isdisjoint(made)
    assert not any(Path(name).match(".*.tmp.*") or Path(name).match(".selected-*.json") for name in made)


def test_files_of_one_name_in_two_folders(project, capsys):
    for i, folder in enumerate(("Alpaca-7B", "Alpaca2-7B")):
        write_jsonl(project / "both" / folder / "train.jsonl", many_saferlhf(40)[40 * i : 40 * i + 40])
    assert build("saferlhf", "--samples", "6", source="both") == 0
    files = read_facts(Path("data/paper/saferlhf_sft.md"))["source"]["files"]
    assert files == {
        f"{folder}/train.jsonl": f"sha256:{hash_file(Path('both', folder, 'train.jsonl'))}"
        for folder in ("Alpaca-7B", "Alpaca2-7B")
    }
    assert "is read from Alpaca-7B/train.jsonl, Alpaca2-7B/train.jsonl." in capsys.readouterr().out
    places = [row.place for row in locate(SAFERLHF, Path("both")).rows()]
    assert places[0] == "Alpaca-7B/train.jsonl, line 1" and places[-1] == "Alpaca2-7B/train.jsonl, line 40"
    write_jsonl(project / "both" / "Alpaca-7B" / "train.jsonl", many_saferlhf(39))
    assert build("saferlhf", "--samples", "6", source="both") == 1
    assert "source 2 files " in capsys.readouterr().err


def test_a_source_that_changes_while_it_is_read(project, monkeypatch, capsys):
    real = module.Pools._counted

    def meddling(self, source, found):
        for number, row in enumerate(real(self, source, found)):
            if number == 3:
                os.utime("sources/pku/train.jsonl", ns=(1, 1))
            yield row

    monkeypatch.setattr(module.Pools, "_counted", meddling)
    assert build("saferlhf", "--samples", "6") == 1
    error = capsys.readouterr().err
    assert "sources/pku/train.jsonl changed while it was read: start again" in " ".join(error.split())
    assert not list(Path("data/paper").glob("*.jsonl")) and not list(Path("data/paper").glob(".selected*"))


def test_licences_come_before_any_file_is_opened(project, monkeypatch, capsys):
    monkeypatch.setattr("ogpsa_factory.data.sources.read_rows", lambda path: pytest.fail("opened"))
    monkeypatch.setattr(
        "ogpsa_factory.data.sources.locate", lambda *args: (_ for _ in ()).throw(OGPSAError("located"))
    )
    assert build("paper") == 1
    out, error = capsys.readouterr()
    assert "CC-BY-NC-4.0; NON-COMMERCIAL USE ONLY" in out and "located" in error


def test_an_interrupted_build_goes_on_behind_the_reading(project, monkeypatch, capsys):
    def broken(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr("ogpsa_factory.data.build_writers.write_from_templates", broken)
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
    "a place with a name that is too long": (["halueval"], "x" * 5000, "does not exist"),
    "an empty folder": (["halueval"], "data/paper", "has no file that ends in .json, .jsonl, .csv, .parquet"),
    "an output that is a file": (
        ["halueval", "--output", "sources/ultra.jsonl"],
        "sources",
        "--output sources/ultra.jsonl is a file: name the data folder",
    ),
    "an output with a name that is too long": (
        ["halueval", "--output", "x" * 5000],
        "sources",
        "Cannot read x+/dataset_info.json: File name too long",
    ),
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
    assert (
        "PKU-SafeRLHF gives no row for saferlhf_sft and saferlhf_dpo" in error and "both answers are safe: 10" in error
    )


def test_a_source_that_breaks_off(project, capsys):
    text = Path("sources/pku/train.jsonl").read_text()
    Path("sources/pku/train.jsonl").write_text(text[: len(text) // 2])
    assert build("paper") == 1
    assert re.search(r"train.jsonl, line \d+: the file ends in the middle of a row", capsys.readouterr().err)
    assert json.loads(Path("data/dataset_info.json").read_text()) == {"mine": {"file_name": "mine.json", "x": 1.5}}


def test_test_splits_are_left_out(project):
    write_jsonl(project / "sources" / "pku" / "test.jsonl", [{"not": "read"}])
    assert build("saferlhf", "--samples", "3") == 0
    assert read_facts(Path("data/paper/saferlhf_sft.md"))["source"]["files"].keys() == {"pku/train.jsonl"}


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
    assert "m at http://localhost:1/v1: 3 requests" in " ".join(out.split())
    assert "if none does, these are 9 requests in all" in " ".join(out.split())
    assert "Nothing was sent: pass --yes" in error


@pytest.mark.parametrize("answer", ["n", "", EOFError])
def test_a_no(project, capsys, monkeypatch, answer):
    def reply(*args, **kwargs):
        if answer is EOFError:
            raise EOFError
        return answer

    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("rich.console.Console.input", reply)
    assert build("saferlhf", "--samples", "3", "--endpoint", "http://localhost:1/v1", "--model", "m") == 1
    assert "Nothing was sent. The same command goes on from here." in capsys.readouterr().err


def test_the_worst_case_of_a_price(project, capsys):
    words = ["--samples", "3", "--endpoint", "http://h/v1", "--model", "m", "--price", "0", "1000000"]
    assert build("saferlhf", *words, "--max-tokens", "10") == 1
    assert re.findall(r"\$([0-9.,]+\d)", capsys.readouterr().out) == ["30.00", "90.00"]
    assert build("halueval", *words, "--max-tokens", "10") == 1
    out = capsys.readouterr().out
    assert re.findall(r"\$([0-9.,]+\d)", out) == ["30.00"] and "twice more" not in out and "again" not in out


def test_options_of_requests(project, monkeypatch, capsys):
    asked = []

    def complete(requests, endpoint, cache, on_reply):
        asked.append(endpoint)
        return ["I'm sorry, but I can't help with that." for _ in requests]

    monkeypatch.setattr("ogpsa_factory.data.refusals.writers.complete", complete)
    words = ["saferlhf", "--samples", "4", "--endpoint", "http://localhost:1/v1/", "--model", "m", "--yes"]
    assert build(*words, "--temperature", "none", "--max-tokens", "99", "--timeout", "7") == 0
    assert (asked[0].temperature, asked[0].max_tokens, asked[0].timeout) == (None, 99, 7.0)
    settings = read_facts(Path("data/paper/saferlhf_sft.md"))["settings"]
    assert (settings["writer"], settings["model"]) == ("http://localhost:1/v1", "m")
    assert (settings["temperature"], settings["max_tokens"]) == (None, 99) and "timeout" not in settings
    assert build(*words, "--max-tokens", "99") == 1
    assert "(temperature none -> 0.7)" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        build(*words, "--temperature", "warm")
    assert "'warm' is neither a number nor none" in capsys.readouterr().err


def test_vllm_gets_the_options_of_sampling(project, monkeypatch):
    def write(requests, seed, model, on_progress, temperature, max_tokens):
        assert (seed, model, temperature, max_tokens) == (0, "m", 0.5, 99)
        return Refusals(["I can't help with that."] * len(requests), "m with vLLM", {"written by the model": 4})

    monkeypatch.setattr("ogpsa_factory.data.build_writers.write_from_vllm", write)
    words = ["--vllm", "--model", "m", "--temperature", "0.5", "--max-tokens", "99"]
    assert build("saferlhf", "--samples", "4", *words) == 0
    settings = read_facts(Path("data/paper/saferlhf_sft.md"))["settings"]
    assert (settings["writer"], settings["model"], settings["temperature"]) == ("vLLM", "m", 0.5)


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
    assert build("halueval", "--samples", "8", "--replace") == 0  # another way, so other rows
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
