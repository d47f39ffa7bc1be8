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
        [
            (ERROR, "none of its rows can be trained on"),
            (WARNING, "the role 'system' is in no tag: 1 (line 1)"),
            (WARNING, "messages: user and assistant must speak in turns, .*: 1 (line 1)"),
        ],
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
    "a role that is in no tag, for OpenAI's formatting": (
        [chat(("user", f"{i}"), ("assistant", "a")) for i in range(30)] + [chat(("critic", "s"), ("assistant", "a"))],
        {**CHAT, "formatting": "openai"},
        {},
        [(ERROR, "the role 'critic' is in no tag: 1 (line 31)")],
    ),
    "tools, for OpenAI's formatting": (
        [
            {
                "messages": [
                    {"role": "user", "content": f"weather and time {i}?"},
                    {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "weather"}}]},
                    {"role": "tool", "content": "rain"},
                    {"role": "tool", "content": "noon"},
                    {"role": "assistant", "content": "Rain at noon."},
                ]
            }
            for i in range(30)
        ],
        {**CHAT, "formatting": "openai", "tags": {**CHAT["tags"], "observation_tag": "tool", "function_tag": "call"}},
        {},
        [],
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
        "word": "LLaMA-Factory reads .arrow, .csv, .json, .*this is .docx",
        "mixed": "one kind in a folder and in lower case; this is .csv, .jsonl",
        "numbers": "reads column response as int64 and not as text, .*`ogpsa data add FILE --replace`",
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
        (
            {"columns": {**PLAIN["columns"], "kto_tag": "label"}},
            "sft",
            TRAINING,
            "leaves out every row of own: it is labelled",
        ),
        ({"columns": {"prompt": "prompt"}}, "sft", TRAINING, "leaves out every row of own: columns names no response"),
        ({"columns": {"prompt": "prompt"}}, "pt", TRAINING, None),
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
    assert any("its rows are a reference set too" in str(finding) for finding in report.sets[0].findings)
    assert any("its rows are evaluated on too" in str(finding) for finding in report.sets[1].findings)


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
    stages[1]["config"]["model_name_or_path"] = "other/model"
    Path("all.yaml").write_text(yaml.safe_dump({"output_dir": "out", "stages": stages}))
    assert [target.model for target in read_targets(Path("all.yaml"))] == ["m", "other/model"]


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
    assert "is in UTF-16; UTF-8 is needed" in " ".join(capsys.readouterr().out.split())
    assert main(["data", "check", "own", "--fix"]) == 0
    assert (data / "own.jsonl").read_bytes() == text.encode()
    assert (data / ".backups" / "own.jsonl").read_bytes() == before
    (data / "own.jsonl").write_bytes(before)
    assert main(["data", "check", "own", "--fix"]) == 0
    assert sorted(path.name for path in (data / ".backups").iterdir()) == ["own.jsonl", "own.jsonl.1"]


def test_fix_removes_no_row_and_touches_no_text(data):
    put(data, "own", [*GOOD, GOOD[0], plain(" q ", ""), plain("q", 4)])
    before = {path: path.read_bytes() for path in data.iterdir()}
    main(["data", "check", "own", "--fix"])
    assert {path: path.read_bytes() for path in data.iterdir()} == before


# What LLaMA-Factory's own loader makes of a file: None where it stops, otherwise how many rows it can train on.
LOADED = {
    "in order.jsonl": [plain(f"q{i}", "a") for i in range(4)],
    "types.jsonl": [{**plain("p", "r"), "id": 1}, {**plain("q", "s"), "id": "x"}],
    "types.json": [{**plain("p", "r"), "id": 1}, {**plain("q", "s"), "id": "x"}],
    "dates.jsonl": [plain(f"q{i}", f"2020-01-0{i}") for i in range(1, 5)],
    "dates.json": [plain(f"q{i}", f"2020-01-0{i}") for i in range(1, 5)],
    "numbers.csv": [plain(f"q{i}", str(i)) for i in range(4)],
    "flags.csv": [plain("p", "True"), plain("q", "False")],
    "missing.csv": [plain("p", "yes"), plain("q", "None"), plain("r", "NA")],
    "later key.jsonl": [plain("p" * 3000, "r")] * 5000 + [{**plain("q", "s"), "more": 1}],
    "nulls.jsonl": [plain("p", "r"), plain("q", None)],
    "mark.jsonl": "\ufeff" + json.dumps(plain("p", "r")) + "\n",
    "mark.json": "\ufeff" + json.dumps([plain("p", "r")]),
    "twice.jsonl": '{"prompt": "p", "response": "r", "response": "s"}\n',
    "Capitals.JSONL": json.dumps(plain("p", "r")) + "\n",
    "optional.jsonl": [{**plain("p", "r"), "note": "x"}, plain("q", "s")],
}


@pytest.mark.parametrize("name", LOADED)
def test_errors_are_those_of_llamafactory(toy, name):
    """It stops or trains on nothing: an error. It leaves rows out: a warning. It takes them all: neither."""
    from llamafactory.data.loader import _get_merged_dataset
    from llamafactory.hparams import get_train_args

    rows, path = LOADED[name], toy.data / name
    if isinstance(rows, str):
        path.write_text(rows, encoding="utf-8")
    elif path.suffix == ".csv":
        write_csv(path, rows)
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows))
    else:
        write_jsonl(path, rows)
    Registry(toy.data).register({"own": {"file_name": name, **PLAIN}})
    model_args, data_args, training_args, _, _ = get_train_args(toy.config(dataset="own"))
    try:
        loaded = _get_merged_dataset(["own"], model_args, data_args, training_args, stage="sft")
        taken, there = sum(len(row["_response"]) == 1 for row in loaded), len(loaded)
    except Exception:  # each reader has its own
        taken, there = 0, 1
    found = [(level, what) for level, what in said(check(toy.data, ("own", TRAINING)), "own") if "before" not in what]
    assert any(level == ERROR for level, _ in found) == (taken == 0), found
    assert any(level == WARNING for level, _ in found) == (0 < taken < there), found


def test_entries_with_odd_values(data):
    put(data, "split", GOOD, split="validation")
    put(data, "number", GOOD, num_samples="3")
    put(data, "both", GOOD, hf_hub_url="a/b")
    put(data, "null", [{**row, "input": ""} for row in GOOD], {"columns": {**PLAIN["columns"], "query": None}})
    (data / "nested").mkdir()
    (data / "nested" / "deeper").mkdir()
    write_jsonl(data / "nested" / "a.jsonl", GOOD)
    Registry(data).register({"nested": {"file_name": "nested", **PLAIN}})
    report = check(data, *((name, TRAINING) for name in Registry(data).entries))
    assert "Unknown split" in said(report, "split")[0][1] and said(report, "split")[0][0] == ERROR
    assert said(report, "number") == [(ERROR, "num_samples: '3' must be a whole number, 1 or more")]
    assert said(report, "both")[0] == (NOTE, "it comes from elsewhere (hf_hub_url: a/b) and was not read")
    assert said(report, "null") == [] and said(report, "nested")[0][0] == ERROR


def test_labelled_data_is_no_reference_set(data):
    put(data, "own", [{**row, "label": True} for row in GOOD], {"columns": {**PLAIN["columns"], "kto_tag": "label"}})
    assert "no reference set" in said(check(data, ("own", REFERENCE, "kto")), "own")[0][1]


def test_a_wrong_stage_does_not_hide_what_cannot_be_loaded(data):
    put(data, "own", [{**row, "id": "x" if i else 1} for i, row in enumerate(GOOD)])
    found = said(check(data, ("own", TRAINING, "dpo")), "own")
    assert ["stage dpo needs pairs" in found[0][1], "cannot load it" in found[1][1]] == [True, True]


def test_labelled_data(data):
    layout = {"columns": {**PLAIN["columns"], "kto_tag": "label"}}
    rows = [{**plain(f"q{i}", "Sure: do this." if i % 2 else NO), "label": i % 2 == 0} for i in range(30)]
    put(data, "own", rows, layout, ogpsa_role="safety")
    assert said(check(data, ("own", TRAINING, "kto")), "own") == []  # answers that are labelled as bad comply
    put(data, "numbers", [{**row, "label": int(row["label"])} for row in rows], layout)
    found = said(check(data, ("numbers", TRAINING, "kto")), "numbers")
    assert (ERROR, "none of its rows can be trained on") in found
    assert any("label is not true or false: 30" in what for _, what in found)


def test_rows_in_two_roles_under_two_names(data):
    put(data, "own", GOOD)
    Registry(data).register({"alias": {"file_name": "own.jsonl", **PLAIN}})
    report = check(data, ("own", TRAINING), ("alias", REFERENCE))
    assert (ERROR, "its rows are a reference set too: projection removes what training is to learn") in said(
        report, "own"
    )


def test_short_prompts_inside_long_ones_and_other_scripts(data):
    question = "How do I kill a Python process?"
    put(
        data,
        "train",
        [plain(f"Please answer with care: {question} Thank you.", NO), plain("请问北京今天的天气怎么样", NO)],
    )
    put(data, "one", [plain(question, "a"), plain("北京今天的天气", "b"), plain("care", "c")])
    put(data, "two", [plain(question, "a")])
    found = [
        what for _, what in said(check(data, ("train", TRAINING), ("one", EVALUATION), ("two", EVALUATION)), "train")
    ]
    assert [what.partition(" (")[0] for what in found] == [
        "prompts overlap with the evaluation set one: 2",
        "prompts overlap with the evaluation set two: 1",
    ]


@pytest.mark.parametrize("words", [["--cutoff-len", "0"], ["x=1"], ["data/dataset_info.json", "x=1"]])
def test_words_that_make_no_sense(data, capsys, words):
    put(data, "own", GOOD)
    assert main(["data", "check", *words]) == 1
    assert "must be 1 token or more" in (error := capsys.readouterr().err) or "changes a training file" in error


def test_ways_to_name_what_is_checked(data, capsys):
    assert main(["data", "check"]) == 1
    assert "has no entries, so there is nothing to check" in capsys.readouterr().err
    put(data, "own", GOOD)
    put(data, "other", GOOD[:25])
    assert main(["data", "check", "data/dataset_info.json"]) == 0
    Path("run.yaml").write_text(yaml.safe_dump({"stage": "sft", "dataset": "own"}))
    assert main(["data", "check", "run.yaml", "dataset=other", "cutoff_len=7"]) == 0
    assert "other (training, stage sft): 25 rows" in capsys.readouterr().out
    assert main(["data", "check", "own", "--model", "data", "--template", "chatml"]) == 0
    assert (
        "lengths were not compared with cutoff_len: no tokenizer could be loaded from data" in capsys.readouterr().out
    )


def test_lengths_of_templates_with_an_end_of_their_own(toy):
    """`efficient_eos` templates put one end behind all turns."""
    from llamafactory.data import get_dataset, get_template_and_fix_tokenizer
    from llamafactory.data.template import TEMPLATES
    from llamafactory.hparams import get_train_args
    from llamafactory.model import load_tokenizer

    assert TEMPLATES["solar"].efficient_eos
    target = Target("here", toy.data, [Use("safety", TRAINING, "sft")], str(toy.root / "model"), "solar", 99)
    (found,) = check_target(target).sets
    model_args, data_args, training_args, _, _ = get_train_args(toy.config(template="solar", cutoff_len=10_000))
    tokenizer = load_tokenizer(model_args)
    template = get_template_and_fix_tokenizer(tokenizer["tokenizer"], data_args)
    rows = get_dataset(template, model_args, data_args, training_args, stage="sft", **tokenizer)["train_dataset"]
    assert found.longest == max(len(row["input_ids"]) for row in rows)


def test_texts_for_pre_training_are_not_cut(toy):
    toy.write("long", [{"text": "w1 " * 100}], columns={"prompt": "text"})
    target = Target("here", toy.data, [Use("long", TRAINING, "pt")], str(toy.root / "model"), "chatml", 50)
    assert not any("longer than" in str(finding) for finding in check_target(target).sets[0].findings)


@pytest.mark.parametrize(
    ("columns", "wanted"),
    [
        ({"prompt": "prompt", "response": "respons"}, {"prompt": "prompt", "response": "response"}),
        ({"prompt": "context", "response": "answr"}, {"prompt": "context", "response": "answer"}),
        ({"prompt": "prompt", "response": "label"}, {"prompt": "prompt", "response": "label"}),
    ],
)
def test_fix_changes_only_misspelt_names(data, columns, wanted):
    row = {
        "prompt": "p",
        "response": "r",
        "chosen": "c",
        "rejected": "d",
        "context": "x",
        "question": "q",
        "answer": "a",
    }
    put(data, "own", [row], {"columns": columns})
    main(["data", "check", "own", "--fix"])
    assert Registry(data).entries["own"] == {"file_name": "own.jsonl", "columns": wanted}


def test_fix_keeps_folders_of_files_whole(data):
    (data / "d").mkdir()
    (data / "d" / "a.jsonl").write_text(json.dumps(GOOD[0]) + "\n", encoding="utf-16")
    Registry(data).register({"whole": {"file_name": "d", **PLAIN}, "part": {"file_name": "d/a.jsonl", **PLAIN}})
    assert main(["data", "check", "part", "--fix"]) == 0
    assert [path.name for path in (data / "d").iterdir()] == ["a.jsonl"]
    assert not any(level == ERROR for level, _ in said(check(data, ("whole", TRAINING)), "whole"))
