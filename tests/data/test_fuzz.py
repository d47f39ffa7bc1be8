"""10,000 corrupted files and registries: `add` and `check` say what is wrong, and damage nothing."""

import argparse
import json
import random
import shutil
import string
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from ogpsa_factory import OGPSAError, files
from ogpsa_factory.cli import build_parser
from ogpsa_factory.data import add, loading, set_check
from ogpsa_factory.data.registry import INFO_FILE, Registry


INPUTS = 2_500  # of each of the four kinds below

ROW: dict[str, Any] = {"instruction": "Tell me, ä!", "input": "", "output": "No.\nNever.", "label": True, "n": 1.5}
CHAT = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "I can't."}]
ROWS: list[dict[str, Any]] = [
    ROW,
    {"prompt": "p", "chosen": "a", "rejected": "b"},
    {"messages": [{"role": "system", "content": "s"}, *CHAT]},
    {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]},
    {"chosen": CHAT, "rejected": [CHAT[0], {"role": "assistant", "content": "Sure."}]},
    {"input": {"messages": CHAT[:1]}, "preferred_output": CHAT[1:], "non_preferred_output": CHAT[1:]},
    {"chosen": "\n\nHuman: q\n\nAssistant: a", "rejected": "\n\nHuman: q\n\nAssistant: b"},
    {"text": "some text"},
]
ENTRIES: dict[str, dict[str, Any]] = {
    "own": {"file_name": "own.jsonl"},
    "pairs": {
        "file_name": "pairs.jsonl",
        "ranking": True,
        "columns": {"prompt": "prompt", "chosen": "chosen", "rejected": "rejected"},
    },
    "chat": {
        "file_name": "chat.jsonl",
        "formatting": "sharegpt",
        "columns": {"messages": "messages"},
        "tags": {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"},
    },
    "hub": {"hf_hub_url": "a/b", "split": "train", "num_samples": 5},
}
ODD: list[Any] = [
    None,
    True,
    0,
    -1,
    1e308,
    2**70,
    "",
    " ",
    "\0",
    "\ud800",
    "../x",
    "/etc/passwd",
    [],
    {},
    [[]],
    "x" * 5000,
]
ODD += [{"a": {"b": [1, "2", None]}}, ["a", 1], "nan", "true", "\u202e", "a,b", "é" * 300, {"": ""}]
BYTES = [
    b"\x00",
    b"\xff",
    b"\xfe\xff",
    b"\xef\xbb\xbf",
    b"{",
    b"}",
    b"[",
    b"]",
    b'"',
    b"\\",
    b",",
    b":",
    b"\n",
    b"\r",
    b"NaN",
]
BYTES += [b"\\ud800", b"null", b"[" * 2000, b"9" * 5000, b"\xed\xa0\x80", b"// comment", b"'"]
SUFFIXES = [".jsonl", ".json", ".csv", ".parquet", ".txt", ".JSONL", "", ".xml"]


def mutate_bytes(rng: random.Random, content: bytes) -> bytes:
    """Cut, flip, insert, double, or leave out."""
    for _ in range(rng.randint(1, 4)):
        start = rng.randrange(len(content) + 1)
        end = min(len(content), start + rng.choice([1, 1, 2, 10, 100]))
        kind = rng.randrange(6)
        if kind == 0:
            content = content[:start]
        elif kind == 1:
            content = content[:start] + bytes(rng.randrange(256) for _ in range(end - start)) + content[end:]
        elif kind == 2:
            content = content[:start] + rng.choice(BYTES) + content[start:]
        elif kind == 3:
            content = content[:end] + content[start:]
        elif kind == 4:
            content = content[:start] + content[end:]
        else:
            encoding = rng.choice(["utf-16", "utf-16-be", "utf-16-le", "utf-32", "latin-1", "utf-8-sig"])
            content = content.decode("utf-8", "replace").encode(encoding, "replace")
    return content


def mutate_value(rng: random.Random, value: Any) -> Any:
    """Swap, drop, rename or wrap something somewhere inside."""
    if isinstance(value, dict) and value and rng.random() < 0.8:
        key = rng.choice(list(value))
        kind = rng.randrange(4)
        if kind == 0:
            return {other: each for other, each in value.items() if other != key}
        if kind == 1:
            new = rng.choice([key.upper(), key + "x", "", "\0", rng.choice(string.ascii_letters)])
            return {new if other == key else other: each for other, each in value.items()}
        return {**value, key: mutate_value(rng, value[key])}
    if isinstance(value, list) and value and rng.random() < 0.8:
        at = rng.randrange(len(value))
        if rng.random() < 0.3:
            return value[:at] + value[at + 1 :]
        return [*value[:at], mutate_value(rng, value[at]), *value[at + 1 :]]
    return rng.choice(ODD) if rng.random() < 0.8 else [value]


def serialised(rng: random.Random, rows: list[Any], suffix: str) -> bytes:
    if suffix == ".csv":
        header = ",".join(str(key) for key in rows[0]) if isinstance(rows[0], dict) else "a,b"
        cells = [row.values() if isinstance(row, dict) else [row] for row in rows]
        return "\n".join([header, *(",".join(map(str, row)) for row in cells)]).encode(errors="replace")
    if suffix == ".json" and rng.random() < 0.6:
        return json.dumps(rows, indent=rng.choice([None, 2])).encode()
    return b"".join(
        json.dumps(row, ensure_ascii=rng.random() < 0.9).encode(errors="surrogatepass") + b"\n" for row in rows
    )


def parquet_files(folder: Path) -> list[bytes]:
    """Rows in order, and the same with columns of types that Python cannot show."""
    table = pyarrow.Table.from_pylist([{"prompt": "p", "response": "r"}] * 20)
    odd = [
        pyarrow.array([2**62] * 20, pyarrow.timestamp("us")),
        pyarrow.array([0] * 20, pyarrow.timestamp("us", tz="Mars/Base")),
        pyarrow.array([2**31 - 1] * 20, pyarrow.date32()),
        pyarrow.array([b"\xff"] * 20),
        pyarrow.array([[1, None]] * 20),
    ]
    found = []
    for each in [table, *(table.append_column("odd", column) for column in odd)]:
        pyarrow.parquet.write_table(each, folder / "seed")
        found.append((folder / "seed").read_bytes())
    return found


class Project:
    """A data folder in order, to be put back after every input."""

    def __init__(self, root: Path) -> None:
        self.data = root / "data"
        self.data.mkdir()
        self.incoming = root / "incoming"
        self.incoming.mkdir()
        self.parquet = parquet_files(root)
        self.parser = build_parser()
        self.number = 0
        self.original = {
            INFO_FILE: json.dumps(ENTRIES, indent=2).encode(),
            "own.jsonl": json.dumps(ROW).encode() + b"\n",
            "pairs.jsonl": json.dumps(ROWS[1]).encode() + b"\n",
            "chat.jsonl": json.dumps({"messages": CHAT}).encode() + b"\n",
        }

    def reset(self, number: int) -> None:
        self.number = number
        shutil.rmtree(self.data / ".backups", ignore_errors=True)
        for folder in (self.data, self.incoming):
            for path in folder.iterdir():
                if path.name not in self.original or folder is self.incoming:
                    path.unlink()
        for name, content in self.original.items():
            (self.data / name).write_bytes(content)

    def state(self) -> dict[str, bytes]:
        return {
            path.name: path.read_bytes() for path in self.data.iterdir() if path.is_file() and ".lock" not in path.name
        }

    def call(self, *words: object) -> int:
        """Run a command as `main` does, with the parser built once; what is not an OGPSAError fails the test."""
        args: argparse.Namespace = self.parser.parse_args(list(map(str, words)))
        try:
            return int(args.handler(args) or 0)
        except OGPSAError as error:
            assert 10 < len(str(error)) < 3000, "a message is short enough to be read"
            str(error).encode(errors="surrogateescape")
            return 1


@pytest.fixture
def project(tmp_path, monkeypatch):
    project = Project(tmp_path)
    monkeypatch.setattr(files, "_to_disk", lambda path: None)  # a crash of the machine is not tested here

    def load_files(paths, layout, split="train"):
        """`datasets` itself for every twentieth input: it takes longer than all the rest."""
        return loading.load_files(paths, layout, split) if project.number % 20 == 0 else loading.Loaded([])

    monkeypatch.setattr(add, "load_files", load_files)
    monkeypatch.setattr(set_check, "load_files", load_files)
    return project


def corrupted_file(rng: random.Random, project: Project, structure: bool) -> Path:
    suffix = rng.choice(SUFFIXES)
    rows: list[Any] = [json.loads(json.dumps(rng.choice(ROWS)))] * rng.randint(1, 3)
    if structure:
        rows = [mutate_value(rng, row) if rng.random() < 0.7 else row for row in rows]
        rows += [rng.choice(ODD)] * (rng.random() < 0.2)
    content = rng.choice(project.parquet) if suffix == ".parquet" else serialised(rng, rows, suffix)
    path = project.incoming / f"file{suffix}"
    path.write_bytes(content if structure else mutate_bytes(rng, content))
    return path


@pytest.mark.slow
@pytest.mark.parametrize("structure", [False, True], ids=["bytes", "structure"])
def test_corrupted_files(project, structure):
    rng = random.Random(int(structure))
    outcomes: Counter[tuple[int, int]] = Counter()
    for number in range(INPUTS):
        project.reset(number)
        path = corrupted_file(rng, project, structure)
        given, before = path.read_bytes(), project.state()
        role = rng.choice(["safety", "reference", "general"])
        added = project.call("data", "add", path, "--role", role, "--name", "new", "--dataset-dir", project.data)
        assert path.read_bytes() == given, number
        if added:
            assert project.state() == before, number
            (project.data / "own.jsonl").write_bytes(given)  # what `add` refuses, a registry may name
        else:
            kept = {name: content for name, content in project.state().items() if name in before}
            assert {**kept, INFO_FILE: before[INFO_FILE]} == before
            entries = Registry(project.data).entries
            assert list(entries) == [*ENTRIES, "new"] and {**entries, **ENTRIES} == entries
        before = project.state()
        checked = project.call("data", "check", "new" if not added else "own", "--dataset-dir", project.data)
        assert project.state() == before, number
        assert added or not checked, "what is added is in order, warnings aside"
        if number % 10 == 0:
            project.call("data", "check", "--fix", "--dataset-dir", project.data)
            kept = {path.name: path.read_bytes() for path in (project.data / ".backups").glob("*")}
            for name, content in before.items():  # changed only where the old file is kept
                assert name == INFO_FILE or content in (project.state()[name], kept.get(name)), number
            assert Registry(project.data).entries.keys() == json.loads(before[INFO_FILE]).keys()
        outcomes[added, checked] += 1
    assert outcomes[0, 0] > INPUTS // 50 and outcomes[1, 1] > INPUTS // 10  # both kinds of inputs are there


@pytest.mark.slow
@pytest.mark.parametrize("structure", [False, True], ids=["bytes", "structure"])
def test_corrupted_registries(project, structure):
    rng = random.Random(2 + structure)
    outcomes: Counter[tuple[int, int]] = Counter()
    for number in range(INPUTS):
        project.reset(number)
        if structure:
            value = json.loads(json.dumps(ENTRIES))
            for _ in range(rng.randint(1, 3)):
                value = mutate_value(rng, value)
            content = json.dumps(value, indent=rng.choice([None, 2])).encode()
        else:
            content = mutate_bytes(rng, project.original[INFO_FILE])
        (project.data / INFO_FILE).write_bytes(content)
        (project.incoming / "new.jsonl").write_bytes(project.original["own.jsonl"])
        before = project.state()
        names = ["own", "pairs"] if rng.random() < 0.3 else []
        checked = project.call("data", "check", *names, "--dataset-dir", project.data)
        assert project.state() == before, number
        words = ("data", "add", project.incoming / "new.jsonl", "--role", "general", "--dataset-dir", project.data)
        added = project.call(*words)
        if added:
            assert project.state() == before, number
        else:
            old, new = json.loads(content), json.loads((project.data / INFO_FILE).read_bytes())
            assert list(new) == [*old, "new"] and {**new, **old} == new, number
        outcomes[checked, added] += 1
    assert min(outcomes[0, 0], outcomes[1, 1]) > INPUTS // 50
