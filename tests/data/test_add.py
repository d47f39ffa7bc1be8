"""A user's own file in every layout: found, registered, and loaded by LLaMA-Factory as it was meant."""

import json
import os
import re
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from public_rows import write_csv

from ogpsa_factory import OGPSAError
from ogpsa_factory.cli import main
from ogpsa_factory.data.add import add_file
from ogpsa_factory.data.examples import read_example
from ogpsa_factory.data.layouts import layout_of
from ogpsa_factory.data.records import read_rows
from ogpsa_factory.data.registry import Registry


NO = "I'm sorry, but I can't help with that."


def message(role, content, keys=("role", "content")):
    return {keys[0]: role, keys[1]: content}


def chat(*texts, roles=("user", "assistant"), keys=("role", "content")):
    return [message(roles[i % 2], text, keys) for i, text in enumerate(texts)]


# Rows of a file -> (stage that trains on it, prompt and answers of the first row).
LAYOUTS = {
    "alpaca": ({"instruction": "w1", "input": "w2", "output": NO}, "sft", "w1\nw2", [NO]),
    "alpaca without input": ({"instruction": "w1", "output": NO}, "sft", "w1", [NO]),
    "alpaca with a system prompt": ({"instruction": "w1", "output": NO, "system": "w9"}, "sft", "w1", [NO]),
    "alpaca with history": (
        {"instruction": "w3", "input": "", "output": NO, "history": [["w1", "w2"]]},
        "sft",
        "w1\nw3",
        [NO],
    ),
    "prompt and response": ({"prompt": "w1", "response": NO}, "sft", "w1", [NO]),
    "question and answer": ({"id": 7, "question": "w1", "answer": NO}, "sft", "w1", [NO]),
    "input and output": ({"input": "w1", "output": NO}, "sft", "w1", [NO]),
    "openai": ({"messages": [message("system", "w9"), *chat("w1", NO)]}, "sft", "w1", [NO]),
    "openai, two turns": ({"messages": chat("w1", "w2", "w3", NO)}, "sft", "w1\nw3", [NO]),
    "sharegpt": (
        {"conversations": chat("w1", NO, roles=("human", "gpt"), keys=("from", "value"))},
        "sft",
        "w1",
        [NO],
    ),
    "sharegpt with other roles": (
        {"conversations": chat("w1", NO, keys=("from", "value"))},
        "sft",
        "w1",
        [NO],
    ),
    "pairs": ({"prompt": "w1", "chosen": NO, "rejected": "w3"}, "dpo", "w1", [NO, "w3"]),
    "pairs with input": (
        {"instruction": "w1", "input": "w2", "chosen": NO, "rejected": "w3"},
        "dpo",
        "w1\nw2",
        [NO, "w3"],
    ),
    "messages and two answers": (
        {"messages": chat("w1"), "chosen": message("assistant", NO), "rejected": message("assistant", "w3")},
        "dpo",
        "w1",
        [NO, "w3"],
    ),
    "two conversations": (
        {"chosen": chat("w1", NO), "rejected": chat("w1", "w3")},
        "dpo",
        "w1",
        [NO, "w3"],
    ),
    "prompt and two conversations": (
        {"prompt": "w1", "chosen": chat("w1", NO), "rejected": chat("w1", "w3")},
        "dpo",
        "w1",
        [NO, "w3"],
    ),
    "prompt as messages and two answers": (
        {"prompt": chat("w1"), "chosen": chat("", NO)[1:], "rejected": chat("", "w3")[1:]},
        "dpo",
        "w1",
        [NO, "w3"],
    ),
    "openai's preferences": (
        {
            "input": {"messages": chat("w1"), "tools": []},
            "preferred_output": [message("assistant", NO)],
            "non_preferred_output": [message("assistant", "w3")],
        },
        "dpo",
        "w1",
        [NO, "w3"],
    ),
    "two transcripts": (
        {
            "chosen": f"\n\nHuman: w1\n\nAssistant: w2\n\nHuman: w4\n\nAssistant: {NO}",
            "rejected": "\n\nHuman: w1\n\nAssistant: w2\n\nHuman: w4\n\nAssistant: w3",
        },
        "dpo",
        "w1\nw4",
        [NO, "w3"],
    ),
    "prompt and completion as messages": ({"prompt": chat("w1"), "completion": chat("", NO)[1:]}, "sft", "w1", [NO]),
    "labelled": ({"prompt": "w1", "completion": NO, "label": True}, "kto", "w1", [NO]),
    "labelled messages": ({"messages": chat("w1", NO), "label": True}, "kto", "w1", [NO]),
    "text": ({"text": "w1 w2 w3"}, "pt", "w1 w2 w3", []),
}


@pytest.fixture
def data(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


def write(path, rows):
    Path(path).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return Path(path)


@pytest.mark.parametrize("case", LAYOUTS)
def test_layouts_are_found(data, case):
    row, stage, prompt, answers = LAYOUTS[case]
    added = add_file(write("own.jsonl", [row, row]), data, "safety")
    entry = Registry(data).entries["own"]
    assert layout_of(entry) == added.layout and added.rows == 2 and not added.remarks
    first = next(read_rows(Registry(data).file_of("own"))).value
    example = read_example(first, added.layout)
    assert (example.prompt, example.answers, example.errors, example.problems) == (prompt, answers, [], [])
    assert added.layout.ranking == (stage == "dpo") and ("kto_tag" in added.layout.columns) == (stage == "kto")
    assert example.system == ("w9" if "system" in case or case == "openai" else "")


def test_llamafactory_reads_every_layout_as_we_do(toy, monkeypatch):
    """Prompts and answers of its own converters, in the stage that the layout is for."""
    from llamafactory.data.loader import _get_merged_dataset
    from llamafactory.hparams import get_train_args

    monkeypatch.chdir(toy.root)
    for number, (case, (row, stage, prompt, answers)) in enumerate(LAYOUTS.items()):
        name = f"set{number}"
        add_file(write(f"{name}.jsonl", [row, row]), toy.data, "safety")
        model_args, data_args, training_args, _, _ = get_train_args(toy.config(dataset=name))
        kind = "rm" if stage == "dpo" else stage
        found = _get_merged_dataset([name], model_args, data_args, training_args, stage=kind)[0]
        assert "\n".join(turn["content"] for turn in found["_prompt"][::2]) == prompt, case
        said = [turn["content"] for turn in found["_response"]]
        assert said == (answers if stage != "kto" else [*answers, ""]), case
        assert (found["_system"] or "") == ("w9" if "system" in case or case == "openai" else ""), case


@pytest.mark.parametrize("role", ["safety", "reference", "general"])
def test_what_is_said(data, capsys, role):
    write("own.jsonl", [{"prompt": "p", "response": NO}, {"prompt": "q", "response": "Sure: first, do this."}])
    assert main(["data", "add", "own.jsonl", "--role", role, "--name", "mine"]) == 0
    printed = capsys.readouterr().out
    key = "ogpsa_reference_dataset" if role == "reference" else "dataset"
    assert "mine: 2 rows of answers (prompt: prompt, response: response) in data/mine.jsonl" in printed
    assert f"{key}: mine" in printed and f"llamafactory-cli train your.yaml {key}=mine" in printed
    refusing = "1 of 2 rows: the answer does not read like a refusal (first: line 2)"
    assert (refusing in printed) == (role == "safety")
    assert Registry(data).entries["mine"]["ogpsa_role"] == role
    assert (data / "mine.jsonl").read_bytes() == Path("own.jsonl").read_bytes()


def test_a_file_that_lies_in_the_data_folder_stays_there(data):
    (data / "sub").mkdir()
    write("data/sub/own.jsonl", [{"prompt": "p", "response": NO}])
    assert add_file(Path("data/sub/own.jsonl"), data, "general").path == data / "sub" / "own.jsonl"
    assert Registry(data).entries["own"]["file_name"] == "sub/own.jsonl"
    assert sorted(os.listdir(data)) == [".dataset_info.lock", "dataset_info.json", "sub"]


def test_csv_becomes_lines_as_datasets_would_read_numbers(data):
    write_csv(Path("own.csv"), [{"question": "2+2", "answer": "4"}])
    added = add_file(Path("own.csv"), data, "general")
    assert added.path.name == "own.jsonl"
    assert [row.value for row in read_rows(added.path)] == [{"question": "2+2", "answer": "4"}]


def test_parquet_is_copied(data):
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([{"prompt": "p", "response": "r"}]), "own.parquet")
    added = add_file(Path("own.parquet"), data, "general")
    assert added.path.read_bytes() == Path("own.parquet").read_bytes()


@pytest.mark.parametrize("encoding", ["utf-16", "utf-8-sig", "utf-32"])
@pytest.mark.parametrize("inside", [False, True])
def test_other_encodings_become_utf_8(data, encoding, inside):
    path = data / "own.jsonl" if inside else Path("own.jsonl")
    path.write_text(json.dumps({"prompt": "ä", "response": "ö"}, ensure_ascii=False) + "\r\n", encoding=encoding)
    before = path.read_bytes()
    added = add_file(path, data, "general")
    assert [row.value for row in read_rows(added.path)] == [{"prompt": "ä", "response": "ö"}]
    assert path.read_bytes() == before and (added.path != path)


def files(folder):
    return {
        path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file() and ".lock" not in path.name
    }


MISTAKES = {
    "no file": ("nowhere.jsonl", None, "nowhere.jsonl does not exist"),
    "a folder": ("data", None, "data is no file"),
    "unknown suffix": ("own.xlsx", b"x", "has no suffix that says what it holds"),
    "no rows": ("own.jsonl", b"\n", "own.jsonl has no rows"),
    "no layout": (
        "own.jsonl",
        b'{"a": "x", "b": "y"}\n',
        "no layout that is known here; its columns: a, b. Known are",
    ),
    "malformed": ("own.jsonl", b'{"prompt": "p", "response": "r"}\n{"prompt"\n', "own.jsonl, line 2: Expecting"),
    "another type later": (
        "own.jsonl",
        b'{"prompt": "p", "response": "r"}\n' * 150 + b'{"prompt": "p", "response": 4}\n',
        "own.jsonl, line 151: response is not text. Mend or remove the row",
    ),
    "not UTF-8": (
        "own.jsonl",
        b'{"prompt": "\xe9", "response": "r"}\n',
        "line 1: byte 0xe9 in column 13 is not UTF-8",
    ),
    "a mark that lies": (
        "own.jsonl",
        b'\xff\xfe{"prompt": "p"}\n',
        "begins as UTF-16 does, and is not in it|no JSON|Expecting",
    ),
    "conversations that part": (
        "own.jsonl",
        (json.dumps({"chosen": chat("a", "b"), "rejected": chat("c", "d")}) + "\n").encode(),
        "line 1: chosen and rejected differ before their last message",
    ),
    "a name with a comma": ("a,b.jsonl", b'{"prompt": "p", "response": "r"}\n', "--name 'a,b': letters, digits"),
    "a name that is taken": ("taken.jsonl", b'{"prompt": "p", "response": "r"}\n', "has an entry taken already"),
    "a file that is there": ("there.jsonl", b'{"prompt": "p", "response": "r"}\n', "holds something else"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_mistakes_change_nothing(data, capsys, case):
    name, content, text = MISTAKES[case]
    (data / "dataset_info.json").write_text('{"taken": {"file_name": "taken.json"}}')
    (data / "there.jsonl").write_text("something else")
    if content is not None:
        Path(name).write_bytes(content)
    before = files(data)
    assert main(["data", "add", name, "--role", "general"]) == 1
    error = capsys.readouterr().err
    assert re.search(text, error) and error.count("\n") == 1
    assert files(data) == before


def test_replace(data):
    add_file(write("own.jsonl", [{"prompt": "p", "response": "r"}]), data, "general")
    with pytest.raises(OGPSAError, match="has an entry own already"):
        add_file(Path("own.jsonl"), data, "general")
    write("own.jsonl", [{"prompt": "p", "chosen": "r", "rejected": "s"}])
    add_file(Path("own.jsonl"), data, "general", replace=True)
    assert Registry(data).entries["own"]["ranking"] is True
    assert (data / "own.jsonl").read_bytes() == Path("own.jsonl").read_bytes()


def test_a_training_run_on_an_added_set(toy, run, monkeypatch):
    """The README's two commands."""
    monkeypatch.chdir(toy.root)
    write("mine.jsonl", [{"messages": chat(f"w{i}", "w50 w51")} for i in range(8)])
    assert main(["data", "add", "mine.jsonl", "--role", "safety", "--dataset-dir", str(toy.data)]) == 0
    run(toy.ogpsa(dataset="mine", max_steps=2))
    assert (toy.root / "out" / "ogpsa_report.json").exists()


# Columns that some rows do not have or that have odd values are neither lost nor misread.
def test_optional_columns_count_where_one_row_has_them(data):
    rows = [{"instruction": "Translate:", "output": "Bonjour", "input": "Hello", "system": None}]
    rows += [{"instruction": "Say hi", "output": "hi", "system": "Be brief."}]
    added = add_file(write("own.jsonl", rows), data, "general")
    assert added.layout.columns["query"] == "input" and added.layout.columns["system"] == "system"
    found = [read_example(row.value, added.layout) for row in read_rows(added.path)]
    assert [(each.prompt, each.system) for each in found] == [("Translate:\nHello", ""), ("Say hi", "Be brief.")]


def test_columns_that_are_not_read_are_named(data, capsys):
    write("own.jsonl", [{"instruction": "p", "context": "c", "response": "r", "category": "qa"}])
    assert main(["data", "add", "own.jsonl", "--role", "general"]) == 0
    assert "columns that training does not read: context, category" in capsys.readouterr().out


@pytest.mark.parametrize("values", [(0, 1), ("true", "false"), (True, None)])
def test_labels_that_are_no_true_or_false_are_not_dropped(data, values):
    write("own.jsonl", [{"prompt": f"p{i}", "response": "r", "label": value} for i, value in enumerate(values)])
    with pytest.raises(OGPSAError, match="are the values of column label verdicts on the answers"):
        add_file(Path("own.jsonl"), data, "safety")
    write("other.jsonl", [{"prompt": "p", "response": "r", "label": word} for word in ("violence", "drugs")])
    assert add_file(Path("other.jsonl"), data, "general").unused == ["label"]
    write("empty.jsonl", [{"prompt": "p", "response": "r", "label": None}])
    assert add_file(Path("empty.jsonl"), data, "general").unused == ["label"]


def test_labelled_data_is_no_reference_set(data):
    write("own.jsonl", [{"prompt": "p", "response": "r", "label": True}])
    with pytest.raises(OGPSAError, match=r"is labelled data \(column label\), which says what not to answer"):
        add_file(Path("own.jsonl"), data, "reference")
    assert not files(data)


def test_a_label_stays_with_conversations(data):
    row = {"prompt": chat("w1"), "completion": chat("", "Sure: do this.")[1:], "label": False}
    added = add_file(write("own.jsonl", [row]), data, "safety")
    assert added.layout.columns["kto_tag"] == "label" and not added.remarks  # a bad answer need not refuse
    assert next(read_rows(added.path)).value["label"] is False


def test_pairs_go_before_messages(data):
    row = {"prompt": "w1", "messages": chat("w1", NO), "chosen": chat("w1", NO), "rejected": chat("w1", "w3")}
    assert add_file(write("own.jsonl", [row]), data, "safety").layout.ranking


def test_a_system_prompt_stays_with_converted_rows(data):
    row = {"system": "w9", "chosen": chat("w1", NO), "rejected": chat("w1", "w3")}
    added = add_file(write("own.jsonl", [row]), data, "safety")
    assert next(read_rows(added.path)).value["messages"][0] == message("system", "w9")


def test_what_datasets_cannot_load_is_written_anew(data):
    """Types that change in a column that nobody reads, and a key that only later rows have."""
    rows = [{"prompt": "p", "response": "r", "id": 1}, {"prompt": "q", "response": "s", "id": "x", "more": [1]}]
    added = add_file(write("own.jsonl", rows), data, "general")
    assert [row.value for row in read_rows(added.path)] == [
        {key: row[key] for key in ("prompt", "response")} for row in rows
    ]


def test_what_cannot_be_loaded_at_all_is_refused(data):
    write("own.jsonl", [{"prompt": f"Which day is {i}?", "response": f"2020-01-0{i}"} for i in range(1, 5)])
    before = files(data)
    with pytest.raises(OGPSAError, match=r"reads column response as timestamp.*Nothing was registered"):
        add_file(Path("own.jsonl"), data, "general")
    assert files(data) == before


def test_suffixes_in_capitals(data):
    path = write("data/Own.JSONL", [{"prompt": "p", "response": "r"}])
    assert add_file(path, data, "general").path.name == "Own.jsonl"


def test_the_registry_s_own_file(data):
    write("dataset_info.json", [{"prompt": "p", "response": "r"}])
    for replace in (False, True):
        with pytest.raises(OGPSAError, match="is the registry's own file"):
            add_file(Path("dataset_info.json"), data, "general", replace=replace)
    assert not (data / "dataset_info.json").exists()


def test_another_entry_s_file(data):
    (data / "foo.jsonl").write_text("{}\n")
    (data / "dataset_info.json").write_text('{"bar": {"file_name": "foo.jsonl"}}')
    before = files(data)
    with pytest.raises(OGPSAError, match=r"foo.jsonl is the file of bar: choose another --name"):
        add_file(write("foo.jsonl", [{"prompt": "p", "response": "r"}]), data, "general", replace=True)
    assert files(data) == before


@pytest.mark.parametrize("obstacle", ["link", "full"])
def test_a_registry_that_cannot_be_written_leaves_the_old_file(data, monkeypatch, obstacle):
    add_file(write("own.jsonl", [{"prompt": "p", "response": "r"}]), data, "general")
    if obstacle == "link":
        (data / "dataset_info.json").rename("real.json")
        (data / "dataset_info.json").symlink_to("../real.json")
    else:

        def full(path, text):
            raise OGPSAError(f"Cannot write {path}: No space left on device.")

        monkeypatch.setattr("ogpsa_factory.data.registry.write_text", full)
    before = files(data)
    write("own.jsonl", [{"prompt": "p", "chosen": "r", "rejected": "s"}])
    with pytest.raises(OGPSAError, match=r"is a symbolic link|No space left"):
        add_file(Path("own.jsonl"), data, "general", replace=True)
    assert files(data) == before


def test_a_link_in_the_data_folder(data):
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([{"prompt": "p", "response": "r"}]), "out.parquet")
    (data / "link.parquet").symlink_to(Path("out.parquet").resolve())
    added = add_file(data / "link.parquet", data, "general")
    assert added.path.suffix == ".parquet" and not added.path.is_symlink()
    assert len(list(read_rows(Registry(data).file_of("link")))) == 1


def test_the_same_csv_again_after_its_entry_is_lost(data):
    write_csv(Path("own.csv"), [{"question": "2+2", "answer": "4"}])
    add_file(Path("own.csv"), data, "general")
    (data / "dataset_info.json").write_text("{}")
    assert add_file(Path("own.csv"), data, "general").path == data / "own.jsonl"


def test_text_with_other_columns(data):
    added = add_file(write("own.jsonl", [{"text": "w1", "url": "http://x"}]), data, "general")
    assert added.layout.columns == {"prompt": "text"} and added.unused == ["url"]
