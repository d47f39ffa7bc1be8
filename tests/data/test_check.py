"""Every mistake in a registry or in rows is found, with a count and a place; nothing is said of what is in order."""

import json
import re
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from public_rows import write_csv, write_jsonl

from ogpsa_factory.cli import main
from ogpsa_factory.data.check import check_target
from ogpsa_factory.data.findings import ERROR, NOTE, WARNING
from ogpsa_factory.data.overlap import WORDS, OverlapIndex
from ogpsa_factory.data.registry import Registry
from ogpsa_factory.data.targets import EVALUATION, REFERENCE, TRAINING, Target, Use, read_targets


NO = "I'm sorry, but I can't help with that."
PLAIN = {"columns": {"prompt": "prompt", "response": "response"}}
PAIRS = {"ranking": True, "columns": {"prompt": "prompt", "chosen": "chosen", "rejected": "rejected"}}
CHAT = {
    "formatting": "sharegpt",
    "columns": {"messages": "messages"},
    "tags": {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"},
}


def plain(prompt, response):
    return {"prompt": prompt, "response": response}


def chat(*turns):
    return {"messages": [{"role": role, "content": content} for role, content in turns]}


@pytest.fixture
def data(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


def put(data, name, rows, entry=PLAIN, **more):
    write_jsonl(data / f"{name}.jsonl", rows)
    Registry(data).register({name: {"file_name": f"{name}.jsonl", **entry, **more}})


def check(data, *uses, **settings):
    return check_target(Target("here", data, [Use(*use) for use in uses]), **settings)


def said(report, name):
    (found,) = [each for each in report.sets if each.use.name == name]
    return [(finding.level, str(finding)) for finding in found.findings]


GOOD = [plain(f"question {i}", f"answer {i}") for i in range(30)]

# Rows and entry of a set, and what is said of it.
ROWS = {
    "in order": (GOOD, PLAIN, {}, []),
    "empty answers": (
        [*GOOD, plain("q", " "), plain("r", "")],
        PLAIN,
        {},
        [(WARNING, "the answer is empty: 2 (line 31; line 32)")],
    ),
    "an empty prompt": ([*GOOD, plain("", "a")], PLAIN, {}, [(WARNING, "the prompt is empty: 1 (line 31)")]),
    "a null": ([*GOOD, plain("q", None)], PLAIN, {}, [(WARNING, "response is missing or null: 1 (line 31)")]),
    "a number": ([*GOOD, plain("q", 4)], PLAIN, {}, [(ERROR, "response is not text: 1 (line 31)")]),
    "the same twice": (
        [*GOOD, GOOD[0]],
        PLAIN,
        {},
        [(WARNING, "the same prompt and answer are there before: 1 (line 31)")],
    ),
    "two answers": (
        [*GOOD, plain("question 0", "otherwise")],
        PLAIN,
        {},
        [(NOTE, "the same prompt is there before, answered otherwise: 1 (line 31)")],
    ),
    "a column is missing": (
        GOOD,
        {"columns": {"prompt": "prompt", "response": "answer"}},
        {},
        [
            (ERROR, "data.jsonl has no column answer; it has prompt, response"),
            (WARNING, "answer is missing or null: 30 (line 1; line 2; line 3, …)"),
        ],
    ),
    "the default layout": (
        [{"instruction": "i", "output": "o"}] * 1 + [{"instruction": f"{i}", "output": "o"} for i in range(30)],
        {},
        {},
        [(ERROR, "data.jsonl has no column input; it has instruction, output")],
    ),
    "the same answer twice in a pair": (
        [
            *({"prompt": f"{i}", "chosen": "a", "rejected": "b"} for i in range(30)),
            {"prompt": "p", "chosen": "a", "rejected": "a "},
        ],
        PAIRS,
        {},
        [(WARNING, "the chosen and the rejected answer are the same: 1 (line 31)")],
    ),
    "roles out of turn": (
        [*(chat(("user", f"{i}"), ("assistant", "a")) for i in range(30)), chat(("assistant", "a"), ("user", "b"))],
        CHAT,
        {},
        [(WARNING, "messages: user and assistant must speak in turns, .*: 1 (line 31)")],
    ),
    "a role that is in no tag": (
        [chat(("system", "s"), ("user", "u"), ("assistant", "a"))],
        CHAT,
        {},
        [(ERROR, "the role 'system' is in no tag: 1 (line 1)")],
    ),
    "a conversation that ends with the user": (
        [
            *(chat(("user", f"{i}"), ("assistant", "a")) for i in range(30)),
            chat(("user", "a"), ("assistant", "b"), ("user", "c")),
        ],
        CHAT,
        {},
        [(WARNING, "messages: user and assistant must speak in turns, .*: 1 (line 31)")],
    ),
    "a message without text": (
        [chat(("user", "u"), ("assistant", None))],
        CHAT,
        {},
        [(ERROR, "a message has no content that is text: 1 (line 1)")],
    ),
    "no list": ([{"messages": "x"}], CHAT, {}, [(ERROR, "messages is not a list: 1 (line 1)")]),
    "a typing error in a key": (
        GOOD,
        PLAIN,
        {"rankin": True},
        [(WARNING, "does not know the key rankin in its entry; ranking is meant?")],
    ),
    "a quoted true": (
        GOOD,
        PLAIN,
        {"ranking": "true"},
        [(ERROR, "ranking: 'true' must be true or false, without quotes")],
    ),
    "an unknown formatting": (
        GOOD,
        PLAIN,
        {"formatting": "chatml"},
        [(ERROR, "formatting: 'chatml' is unknown; it can be alpaca")],
    ),
    "an unknown column": (
        GOOD,
        {"columns": {"answer": "response"}},
        {},
        [(ERROR, "columns: answer is unknown; it can have prompt")],
    ),
    "columns that are no names": (GOOD, {"columns": ["prompt"]}, {}, [(ERROR, "columns: ['prompt'] must map")]),
    "pairs without columns": (GOOD, {"ranking": True}, {}, [(ERROR, "columns must say which column is chosen")]),
    "tags in part": (
        [chat(("user", "u"), ("assistant", "a"))],
        {**CHAT, "tags": {"role_tag": "role"}},
        {},
        [(ERROR, "tags must name content_tag too")],
    ),
    "a safety set that answers": (
        [*(plain(f"q{i}", NO) for i in range(30)), plain("q", "Sure: take a hammer.")],
        PLAIN,
        {"ogpsa_role": "safety"},
        [(WARNING, "the answer of a safety set does not read like a refusal: 1 (line 31)")],
    ),
    "from a hub": (GOOD, PLAIN, {"hub": True}, [(NOTE, "it comes from elsewhere (hf_hub_url: a/b) and was not read")]),
}


@pytest.mark.parametrize("case", ROWS)
def test_one_set(data, case):
    rows, entry, more, expected = ROWS[case]
    if more.pop("hub", None):
        Registry(data).register({"data": {"hf_hub_url": "a/b", **entry}})
    else:
        put(data, "data", rows, entry, **more)
    found = said(check(data, ("data", TRAINING)), "data")
    assert [level for level, _ in found] == [level for level, _ in expected]
    for (_, text), (_, wanted) in zip(found, expected, strict=True):
        assert wanted in text or re.search(wanted.replace("(", r"\(").replace(")", r"\)"), text), text


def test_unreadable_files(data):
    put(data, "lines", GOOD)
    with (data / "lines.jsonl").open("a") as stream:
        stream.write('{"prompt": \n{"prompt": "p", "response": "cut of')
    put(data, "gone", GOOD)
    (data / "gone.jsonl").unlink()
    put(data, "empty", [])
    (data / "word.docx").write_text("x")
    (data / "folder").mkdir()
    write_jsonl(data / "folder" / "a.jsonl", GOOD[:15])
    write_jsonl(data / "folder" / "b.jsonl", [*GOOD[15:], plain("q", "")])
    (data / "mixed").mkdir()
    (data / "mixed" / "a.jsonl").write_text("")
    (data / "mixed" / "a.csv").write_text("")
    write_csv(data / "numbers.csv", [plain(f"{i}+1", f"{i + 1}") for i in range(30)])
    names = {"word": "word.docx", "folder": "folder", "mixed": "mixed", "numbers": "numbers.csv"}
    Registry(data).register({name: {"file_name": file_name, **PLAIN} for name, file_name in names.items()})
    report = check(data, *((name, TRAINING) for name in Registry(data).entries))
    wanted = {
        "lines": r"rows that cannot be read: 2 \(line 31: Expecting value.*; line 32: the file ends in the middle",
        "gone": "gone.jsonl does not exist",
        "empty": "has no rows",
        "word": "LLaMA-Factory reads .json",
        "mixed": "all files of the folder .* must be of one kind, and it has .csv, .jsonl",
        "numbers": "reads column response of this CSV as numbers",
    }
    for name, text in wanted.items():
        assert any(level == ERROR and re.search(text, what) for level, what in said(report, name)), said(report, name)
    assert said(report, "folder") == [(WARNING, "the answer is empty: 1 (b.jsonl, line 16)")]


def test_paths_that_leave_the_folder_are_not_read(data, tmp_path):
    write_jsonl(tmp_path / "secret.jsonl", GOOD)
    (data / "link.jsonl").symlink_to(tmp_path / "secret.jsonl")
    for name, file_name in {
        "up": "../secret.jsonl",
        "root": str(tmp_path / "secret.jsonl"),
        "link": "link.jsonl",
    }.items():
        Registry(data).register({name: {"file_name": file_name, **PLAIN}})
        report = check(data, (name, TRAINING))
        assert report.sets[0].rows == 0 and said(report, name)[0][0] == ERROR
        assert "data must lie in" in said(report, name)[0][1]
        assert said(check(data, (name, TRAINING), outside=True), name) == []


@pytest.mark.parametrize(
    ("entry", "stage", "role", "message"),
    [
        (PLAIN, "sft", TRAINING, None),
        (PLAIN, "dpo", TRAINING, "stage dpo needs pairs"),
        (PLAIN, "dpo", REFERENCE, None),
        (PLAIN, "kto", TRAINING, r"stage kto needs labels \(kto_tag in columns\)"),
        (PAIRS, "sft", TRAINING, "stage sft takes answers, not pairs"),
        (PAIRS, "dpo", TRAINING, None),
        (PAIRS, "sft", REFERENCE, None),
        ({"columns": {**PLAIN["columns"], "kto_tag": "label"}}, "sft", TRAINING, "answers labelled as bad"),
    ],
)
def test_stages(data, entry, stage, role, message):
    rows = [{**row, "chosen": row["response"], "rejected": "r", "label": True} for row in GOOD]
    put(data, "own", rows, entry)
    found = said(check(data, ("own", role, stage)), "own")
    assert bool(found) == bool(message) and (not message or re.search(message, found[0][1]))


LONG = " ".join(f"word{i}" for i in range(20))


def test_overlap_between_roles(data):
    put(data, "train", [*GOOD, plain(f"Please: {LONG.upper()}!", NO), plain("Who is it?", NO)])
    put(data, "ref", [*(plain(f"reference {i}", "a") for i in range(30)), plain(f"{LONG} and more", "b")])
    put(data, "eval", [plain("who is IT", "c"), plain("reference 3", "d"), *GOOD[:2]])
    report = check(data, ("train", TRAINING), ("ref", REFERENCE), ("eval", EVALUATION))
    assert said(report, "eval") == []
    assert said(report, "ref") == [
        (WARNING, 'prompts overlap with the evaluation set eval: 1 (line 4 and line 2: "reference 3")')
    ]
    train = said(report, "train")
    assert train == [
        (
            WARNING,
            'prompts overlap with the evaluation set eval: 3 (line 1 and line 3: "question 0"; line 2 and '
            'line 4: "question 1"; line 32 and line 1: "who is it")',
        ),
        (
            WARNING,
            'prompts overlap with the reference set ref: 1 (line 31 and line 31: "word0 word1 word2 word3 word4 '
            'word5 word6 word7 word8 word9")',
        ),
    ]


def test_overlap_with_benchmarks(data):
    put(data, "own", [*GOOD, plain("Tell me a secret", NO)])
    write_csv(Path("bench.csv"), [{"forbidden_prompt": "tell me a secret!", "n": "1"}])
    write_csv(Path("odd.csv"), [{"attack": "question 3", "n": "1"}])
    report = check(data, ("own", TRAINING), benchmarks=["bench.csv", "odd.csv:attack"])
    assert [what.partition(":")[0] for _, what in said(report, "own")] == [
        "prompts overlap with the evaluation set odd.csv",
        "prompts overlap with the evaluation set bench.csv",
    ]


@given(st.lists(st.sampled_from("abcdef"), min_size=1, max_size=30), st.lists(st.sampled_from("abcdef"), max_size=30))
def test_overlap_is_a_shared_run_of_words(one, other):
    index = OverlapIndex()
    index.add("set", "line 1", " ".join(one))

    def runs(words):
        size = min(WORDS, max(len(words), 1))
        return {tuple(words[i : i + size]) for i in range(len(words) - size + 1)}

    assert bool(index.find(", ".join(other).upper())) == bool(runs(one) & runs(other))


def test_one_set_in_two_roles(data):
    put(data, "own", GOOD)
    report = check(data, ("own", TRAINING), ("own", REFERENCE), ("own", EVALUATION))
    assert any("it is a reference set too" in str(finding) for finding in report.sets[0].findings)
    assert any("it is evaluated on too" in str(finding) for finding in report.sets[1].findings)


def test_few_reference_rows(data):
    put(data, "own", GOOD[:5])
    assert said(check(data, ("own", REFERENCE)), "own") == [
        (WARNING, "a reference gradient of 5 rows is noisy; the paper takes 200")
    ]


def test_lengths_are_llamafactory_s(toy):
    """The longest row has as many tokens as its own processor makes, before it cuts."""
    from llamafactory.data import get_dataset, get_template_and_fix_tokenizer
    from llamafactory.hparams import get_train_args
    from llamafactory.model import load_tokenizer

    target = Target("here", toy.data, [Use("safety", TRAINING, "sft"), Use("pairs", TRAINING, "dpo")])
    target.model, target.template, target.cutoff_len = str(toy.root / "model"), "chatml", 22
    report = check_target(target)
    lengths = {}
    for name, kind in (("safety", "sft"), ("pairs", "rm")):
        model_args, data_args, training_args, _, _ = get_train_args(toy.config(dataset=name, cutoff_len=10_000))
        tokenizer = load_tokenizer(model_args)
        template = get_template_and_fix_tokenizer(tokenizer["tokenizer"], data_args)
        rows = get_dataset(template, model_args, data_args, training_args, stage=kind, **tokenizer)["train_dataset"]
        columns = [column for column in rows.column_names if column.endswith("input_ids")]
        lengths[name] = [max(len(row[column]) for column in columns) for row in rows]
    for found in report.sets:
        tokens = lengths[found.use.name]
        assert found.longest == max(tokens)
        too_long = sum(length > 22 for length in tokens)
        assert (
            too_long
            and f"longer than cutoff_len: 22 tokens, so it will be cut: {too_long} "
            in said(report, found.use.name)[-1][1]
        )


def test_lengths_that_cannot_be_counted(data):
    put(data, "own", GOOD)
    target = Target("here", data, [Use("own", TRAINING)], cutoff_len=10)
    assert check_target(target).notes == ["lengths were not compared with cutoff_len: there is no model_name_or_path"]
    target.model = str(data)
    assert check_target(target).notes == ["lengths were not compared with cutoff_len: there is no template"]
    target.template = "chatml"
    assert "no tokenizer could be loaded from" in check_target(target).notes[0]
    target.template = "nothing"
    assert "template: nothing is unknown" in check_target(target).notes[0]


def test_training_files(data):
    config = {
        "stage": "ogpsa_dpo",
        "dataset": "a, b",
        "ogpsa_reference_dataset": "c",
        "eval_dataset": "d",
        "cutoff_len": 99,
    }
    Path("run.yaml").write_text(yaml.safe_dump({**config, "model_name_or_path": "m", "template": "qwen"}))
    (target,) = read_targets(Path("run.yaml"))
    assert (target.model, target.template, target.cutoff_len, target.dataset_dir) == ("m", "qwen", 99, Path("data"))
    assert target.uses == [
        Use("a", TRAINING, "dpo"),
        Use("b", TRAINING, "dpo"),
        Use("c", REFERENCE, "dpo"),
        Use("d", EVALUATION, "dpo"),
    ]
    Path("old.json").write_text(json.dumps({"stage": "sft_pg", "dataset": ["a"], "base_dataset": "c"}))
    assert read_targets(Path("old.json"))[0].uses == [Use("a", TRAINING, "sft"), Use("c", REFERENCE, "sft")]


def test_pipeline_files(data):
    Path("sft.yaml").write_text(yaml.safe_dump({"stage": "sft", "dataset": "a", "model_name_or_path": "m"}))
    Path("dpo.yaml").write_text(yaml.safe_dump({"stage": "dpo", "dataset": "b"}))
    stages = [
        {"name": "one", "file": "sft.yaml"},
        {"name": "two", "file": "dpo.yaml", "config": {"eval_dataset": "e"}},
    ]
    Path("all.yaml").write_text(yaml.safe_dump({"output_dir": "out", "stages": stages}))
    one, two = read_targets(Path("all.yaml"))
    assert one.uses == [Use("a", TRAINING, "sft")] and one.where == "all.yaml, stage one"
    assert two.uses == [Use("b", TRAINING, "dpo"), Use("e", EVALUATION, "dpo")]
    assert (one.model, two.model) == ("m", "m")  # what stage one will have trained has its tokenizer


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a: [", "Cannot read run.yaml"),
        ("- a", "must hold arguments"),
        ("stage: sft", "names no data: it has none of the keys dataset"),
        ("dataset: {a: 1}", "dataset: .* must be names separated by commas"),
        ("dataset: a\ncutoff_len: long", "cutoff_len: long must be a whole number"),
        ("dataset: a\ndataset_dir: ONLINE", "ONLINE is no folder on this machine"),
        (None, "Cannot read run.yaml"),
    ],
)
def test_training_files_with_mistakes(data, capsys, content, message):
    if content is not None:
        Path("run.yaml").write_text(content)
    assert main(["data", "check", "run.yaml"]) == 1
    assert re.search(message, capsys.readouterr().err)


def test_exit_codes_and_what_is_printed(data, capsys):
    put(data, "good", GOOD)
    put(data, "so_so", [*GOOD, GOOD[0]])
    put(data, "bad", [*GOOD, plain("q", 4)], ogpsa_role="reference")
    assert main(["data", "check", "good"]) == 0
    assert "good (training): 30 rows: in order" in capsys.readouterr().out
    assert main(["data", "check", "so_so"]) == 0 and main(["data", "check", "so_so", "--strict"]) == 1
    assert main(["data", "check"]) == 1
    printed = capsys.readouterr().out
    assert "bad (reference): 31 rows" in printed and "error: response is not text: 1 (line 31)" in printed
    assert main(["data", "check", "god"]) == 1
    assert "god is not in data/dataset_info.json. The nearest names there: good" in capsys.readouterr().err


FIXES = {
    "columns that are not there": (
        [{"question": "q", "answer": "a"}],
        {},
        {"columns": {"prompt": "question", "response": "answer"}},
    ),
    "messages without formatting": (
        [chat(("user", "u"), ("assistant", "a"))],
        {"num_samples": 5},
        {
            "num_samples": 5,
            "formatting": "sharegpt",
            "columns": {"messages": "messages"},
            "tags": {**CHAT["tags"], "observation_tag": "tool", "system_tag": "system"},
        },
    ),
    "a quoted true": (
        [{"prompt": "p", "chosen": "a", "rejected": "b"}],
        {**PAIRS, "ranking": "true"},
        PAIRS,
    ),
    "in order": (GOOD, PLAIN, PLAIN),
    "no way": ([{"a": "x", "b": "y"}], PLAIN, PLAIN),
}


@pytest.mark.parametrize("case", FIXES)
def test_fix_of_entries(data, case):
    rows, entry, wanted = FIXES[case]
    put(data, "own", rows, entry)
    put(data, "other", GOOD)
    before = (data / "own.jsonl").read_bytes()
    main(["data", "check", "own", "--fix"])
    assert Registry(data).entries == {
        "own": {"file_name": "own.jsonl", **wanted},
        "other": {"file_name": "other.jsonl", **PLAIN},
    }
    assert (data / "own.jsonl").read_bytes() == before


def test_fix_of_encodings(data, capsys):
    put(data, "own", [])
    text = "".join(json.dumps(row) + "\r\n" for row in GOOD)
    (data / "own.jsonl").write_text(text, encoding="utf-16", newline="")
    before = (data / "own.jsonl").read_bytes()
    assert main(["data", "check", "own"]) == 1
    assert "is in UTF-16; plain UTF-8 is needed" in " ".join(capsys.readouterr().out.split())
    assert main(["data", "check", "own", "--fix"]) == 0
    assert (data / "own.jsonl").read_bytes() == text.encode()
    assert (data / "own.jsonl.bak").read_bytes() == before


def test_fix_removes_no_row_and_touches_no_text(data):
    put(data, "own", [*GOOD, GOOD[0], plain(" q ", ""), plain("q", 4)])
    before = {path: path.read_bytes() for path in data.iterdir()}
    main(["data", "check", "own", "--fix"])
    assert {path: path.read_bytes() for path in data.iterdir()} == before
