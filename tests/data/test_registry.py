"""`dataset_info.json` is read with suspicion, and nothing in it changes but what was asked for."""

import json
import multiprocessing
import os
import re
import string

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ogpsa_factory import OGPSAError
from ogpsa_factory.data import registry as module
from ogpsa_factory.data.registry import INFO_FILE, Registry


NAMES = st.text(string.ascii_letters + 'é"\\ ', min_size=1, max_size=6)
LEAVES = st.none() | st.booleans() | st.integers() | st.text(max_size=5).filter(str.isprintable)
ENTRIES = st.dictionaries(NAMES, st.dictionaries(NAMES, LEAVES | st.lists(LEAVES, max_size=2), max_size=3), max_size=4)


@settings(max_examples=100, deadline=None)
@given(ENTRIES, NAMES, st.sampled_from([None, 0, 2, 4, "\t"]), st.booleans(), st.sampled_from(["", "\n", " \r\n"]))
def test_other_entries_keep_their_bytes_and_order(tmp_path_factory, entries, name, indent, ascii_only, end):
    folder = tmp_path_factory.mktemp("data")
    text = json.dumps(entries, indent=indent, ensure_ascii=ascii_only)
    (folder / INFO_FILE).write_bytes((text + end).encode())
    new = {"file_name": "ü.json", "columns": {"prompt": "p"}}
    Registry(folder).register({name: new}, replace=True)
    after = (folder / INFO_FILE).read_bytes().decode()
    assert json.loads(after) == {**entries, name: new}
    assert list(json.loads(after)) == list({**entries, name: new})
    for other, entry in entries.items():
        if other != name:  # members and their values as they were written
            member = json.dumps({other: entry}, indent=indent, ensure_ascii=ascii_only).strip()[1:-1].strip()
            assert member in after
    assert after.isascii() or not ascii_only
    assert (folder / f"{INFO_FILE}.bak").read_bytes().decode() == text + end
    before = after
    assert Registry(folder).register({name: new}) == []
    assert (folder / INFO_FILE).read_bytes().decode() == before


def test_a_folder_without_a_registry(tmp_path):
    assert Registry(tmp_path / "data").entries == {}
    Registry(tmp_path / "data").register({"a": {"file_name": "a.json"}})
    assert Registry(tmp_path / "data").entries == {"a": {"file_name": "a.json"}}
    assert not (tmp_path / "data" / f"{INFO_FILE}.bak").exists()


def test_another_entry_of_the_name_is_not_replaced(tmp_path):
    registry = Registry(tmp_path)
    registry.register({"a": {"file_name": "a.json"}, "b": {"file_name": "b.json"}})
    before = registry.path.read_bytes()
    with pytest.raises(OGPSAError, match=r"has other entries of the name b\. Choose other names"):
        registry.register({"c": {"file_name": "c.json"}, "b": {"file_name": "x.json"}})
    assert registry.path.read_bytes() == before
    assert registry.register({"b": {"file_name": "x.json"}}, replace=True) == ["b"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{,}", "is no JSON: .*Mend it first; nothing was changed"),
        (b'{"a": {}', "is no JSON"),
        (b'["a"]', "must hold a JSON object"),
        (b'{"a": "b.json"}', "the entry of a must be an object in braces, and is b.json"),
        (b'{"a": {}, "b": {}, "a": {}}', "the key a is there twice"),
        (b'{"a": {"\xe9": 1}}', "is not in UTF-8"),
        (b'{"a": ' + b"[" * 100_000, "nested too deep"),
    ],
)
def test_a_broken_registry_is_left_alone(tmp_path, content, message):
    (tmp_path / INFO_FILE).write_bytes(content)
    with pytest.raises(OGPSAError, match=message):
        Registry(tmp_path).register({"new": {"file_name": "x"}})
    assert (tmp_path / INFO_FILE).read_bytes() == content


def test_files_that_leave_the_folder(tmp_path):
    outside = tmp_path / "secret.json"
    outside.write_text("[]")
    data = tmp_path / "data"
    (data / "in").mkdir(parents=True)
    (data / "in" / "x.json").write_text("[]")
    (data / "link.json").symlink_to(outside)
    (data / "inner.json").symlink_to(data / "in" / "x.json")
    (data / "loop.json").symlink_to(data / "loop.json")
    names = {
        "absolute": str(outside),
        "above": "../secret.json",
        "sneaky": "in/../../secret.json",
        "link": "link.json",
        "inner": "inner.json",
        "fine": "in/x.json",
        "loop": "loop.json",
        "missing": "nowhere.json",
        "number": 7,
        "zero": "a\0b",
        "empty": " ",
        "long": "x" * 5000,
    }
    entries = {name: {"file_name": file_name} for name, file_name in names.items()}
    (data / INFO_FILE).write_text(json.dumps({**entries, "hub": {"hf_hub_url": "a/b"}, "nothing": {}}))
    registry = Registry(data)
    assert registry.file_of("fine") == data / "in" / "x.json"
    assert registry.file_of("inner") == data / "inner.json"
    for name, message in {
        "absolute": "is an absolute path. Copy the file there",
        "above": "leaves it. Copy",
        "sneaky": "leaves it",
        "link": "is a symbolic link that leaves it",
        "loop": "cannot be followed|does not exist",
        "missing": "nowhere.json does not exist",
        "number": "file_name: 7 is no file name",
        "zero": "is no file name",
        "empty": "is no file name",
        "long": "cannot be followed|does not exist",
        "hub": "comes from elsewhere .hf_hub_url: a/b",
        "nothing": "has no file_name",
        "fin": "fin is not in .* The nearest names there: fine",
    }.items():
        with pytest.raises(OGPSAError, match=message):
            registry.file_of(name)
    assert registry.file_of("above", outside=True).resolve() == outside


def test_a_registry_that_is_a_link(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / INFO_FILE).write_text("{}")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / INFO_FILE).symlink_to(tmp_path / "real" / INFO_FILE)
    with pytest.raises(OGPSAError, match=f"is a symbolic link: name the folder .*{re.escape(str(tmp_path / 'real'))}"):
        Registry(tmp_path / "data").register({"a": {}})
    assert (tmp_path / "real" / INFO_FILE).read_text() == "{}"


def _register_many(folder, prefix, barrier):
    barrier.wait()
    for i in range(20):
        Registry(folder).register({f"{prefix}{i}": {"file_name": f"{prefix}{i}.json"}})


def test_two_writers_at_once_lose_nothing(tmp_path):
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(2)
    writers = [context.Process(target=_register_many, args=(tmp_path, name, barrier)) for name in "ab"]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
    assert [writer.exitcode for writer in writers] == [0, 0]
    assert set(Registry(tmp_path).entries) == {f"{name}{i}" for name in "ab" for i in range(20)}


def test_a_writer_that_does_not_let_go(tmp_path, monkeypatch):
    from ogpsa_factory.files import locked

    monkeypatch.setattr(module, "_PATIENCE", 0.0)
    with locked(tmp_path / module.LOCK_FILE, "busy"):
        with pytest.raises(OGPSAError, match="Another process is changing"):
            Registry(tmp_path).register({"a": {}})
    Registry(tmp_path).register({"a": {}})


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write everywhere")
def test_a_folder_that_cannot_be_written(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(OGPSAError, match="Cannot write"):
        Registry(tmp_path).register({"a": {}})
