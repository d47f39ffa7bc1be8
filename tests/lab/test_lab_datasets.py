"""Files of the world: complete or absent, and considerate of what else is registered."""

import json
import os
import subprocess
import sys

import pytest

from ogpsa_factory.errors import OGPSAError
from ogpsa_factory.files import read_json, replaced_file, replaced_model_folder, write_json
from ogpsa_factory.lab.datasets import read_set, register_sets, write_preferences, write_sets
from ogpsa_factory.lab.preferences import preference_sets
from ogpsa_factory.lab.world import Sizes, World


FOREIGN = {"zebra": {"hf_hub_url": "a/b"}, "mini_safety_sft": {"file_name": "old.json"}, "alpha": {"file_name": "x"}}


def test_registration_keeps_foreign_entries_and_order(tmp_path):
    path = tmp_path / "dataset_info.json"
    path.write_text(json.dumps(FOREIGN))
    register_sets(tmp_path, ["mini_safety_sft", "mini_ref_recall"])
    info = read_json(path)
    assert list(info) == ["zebra", "mini_safety_sft", "alpha", "mini_ref_recall"]
    assert info["zebra"] == FOREIGN["zebra"] and info["alpha"] == FOREIGN["alpha"]
    assert info["mini_safety_sft"] == {"file_name": "mini/mini_safety_sft.json"}
    assert sorted(os.listdir(tmp_path)) == [".dataset_info.lock", "dataset_info.json", "dataset_info.json.bak"]


def test_registering_again_writes_nothing(tmp_path):
    register_sets(tmp_path, ["a", "b"])
    before = (tmp_path / "dataset_info.json").stat()
    register_sets(tmp_path, ["b"])
    assert (tmp_path / "dataset_info.json").stat() == before


@pytest.mark.parametrize("content", ["{", "[]"])
def test_broken_registry_is_reported_and_left_alone(tmp_path, content):
    path = tmp_path / "dataset_info.json"
    path.write_text(content)
    with pytest.raises(OGPSAError, match="dataset_info"):
        register_sets(tmp_path, ["a"])
    assert path.read_text() == content


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "file.json"
    write_json(path, [1])
    with pytest.raises(TypeError):
        write_json(path, object())
    with pytest.raises(RuntimeError), replaced_file(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert read_json(path) == [1] and os.listdir(tmp_path) == ["file.json"]


def test_a_model_folder_is_replaced_whole_or_not_at_all(tmp_path):
    folder = tmp_path / "saves" / "base"
    for content in ("old", "new"):
        with replaced_model_folder(folder) as temporary:
            (temporary / "config.json").write_text(content)
    with pytest.raises(RuntimeError), replaced_model_folder(folder) as temporary:
        (temporary / "config.json").write_text("half")
        raise RuntimeError
    assert (folder / "config.json").read_text() == "new" and os.listdir(folder.parent) == ["base"]


@pytest.fixture
def gone():
    """The number of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def model(folder, content):
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(content)
    return folder


@pytest.mark.parametrize("name", ["base", "base-0.5b"])
def test_what_a_killed_process_has_left_of_a_model_is_removed(tmp_path, gone, name):
    folder = model(tmp_path / name, "old")
    stem, suffix = folder.stem, folder.suffix
    for process in (gone, os.getppid(), os.getpid()):
        model(tmp_path / f".{stem}.{process}.tmp{suffix}", "half")
        model(tmp_path / f".{stem}{'' if suffix else '-old'}.{process}.tmp{suffix and suffix + '-old'}", "older")
    others = {"other", f".other.{gone}.tmp", f".{name}.x.tmp"}
    for other in others:
        model(tmp_path / other, "of others")
    with replaced_model_folder(folder) as temporary:
        (temporary / "config.json").write_text("new")
    assert (folder / "config.json").read_text() == "new"
    of_parent = {entry for entry in os.listdir(tmp_path) if f".{os.getppid()}.tmp" in entry}
    assert len(of_parent) == 2, "a process that lives may still need it"
    assert set(os.listdir(tmp_path)) == {name, *others, *of_parent}


def test_a_model_that_a_kill_between_two_renames_has_moved_aside_comes_back(tmp_path, gone):
    model(tmp_path / f".base-old.{gone}.tmp", "old")
    model(tmp_path / f".base.{gone}.tmp", "new")
    with pytest.raises(RuntimeError), replaced_model_folder(tmp_path / "base"):
        raise RuntimeError
    assert os.listdir(tmp_path) == ["base"] and (tmp_path / "base" / "config.json").read_text() == "old"


def test_half_a_model_does_not_come_back(tmp_path, gone):
    (tmp_path / f".base-old.{gone}.tmp").mkdir()
    with pytest.raises(RuntimeError), replaced_model_folder(tmp_path / "base"):
        raise RuntimeError
    assert os.listdir(tmp_path) == []


def test_what_is_no_model_is_not_replaced(tmp_path):
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(OGPSAError, match="holds no model"), replaced_model_folder(tmp_path):
        pass
    assert (tmp_path / "thesis.txt").exists()


def test_sets_survive_writing_and_reading(tmp_path):
    sets = World(sizes=Sizes().scaled(0.02)).sets()
    write_sets(tmp_path, sets)
    assert list(read_json(tmp_path / "dataset_info.json")) == list(sets)
    for name, rows in sets.items():
        assert read_set(tmp_path, name) == rows
        record = read_json(tmp_path / "mini" / f"{name}.json")[0]
        assert list(record) == ["instruction", "input", "output"]


def test_missing_and_foreign_sets_are_reported(tmp_path):
    with pytest.raises(OGPSAError, match="ogpsa lab build"):
        read_set(tmp_path, "mini_eval_recall")
    write_json(tmp_path / "mini" / "mini_eval_recall.json", [{"question": "?"}])
    with pytest.raises(OGPSAError, match="alpaca"):
        read_set(tmp_path, "mini_eval_recall")


def test_llama_factory_loads_every_registered_set(tmp_path):
    datasets = pytest.importorskip("datasets")
    pytest.importorskip("llamafactory")
    from llamafactory.data.parser import get_dataset_list

    sets = World(sizes=Sizes().scaled(0.02)).sets()
    write_sets(tmp_path, sets)
    for attributes, rows in zip(get_dataset_list(list(sets), str(tmp_path)), sets.values(), strict=True):
        path = str(tmp_path / attributes.dataset_name)
        loaded = datasets.load_dataset("json", data_files=path, split="train", cache_dir=str(tmp_path / "cache"))
        columns = (attributes.prompt, attributes.query, attributes.response)
        assert [tuple(row[column] for column in columns) for row in loaded] == [(q, "", a) for q, a in rows]


def test_llama_factory_reads_preferences_as_pairs(tmp_path):
    datasets = pytest.importorskip("datasets")
    pytest.importorskip("llamafactory")
    from llamafactory.data.parser import get_dataset_list

    sets = preference_sets(World(sizes=Sizes().scaled(0.02)))
    write_preferences(tmp_path, sets)
    for attributes, rows in zip(get_dataset_list(list(sets), str(tmp_path)), sets.values(), strict=True):
        assert attributes.ranking
        path = str(tmp_path / attributes.dataset_name)
        loaded = datasets.load_dataset("json", data_files=path, split="train", cache_dir=str(tmp_path / "cache"))
        columns = (attributes.prompt, attributes.query, attributes.chosen, attributes.rejected)
        assert [tuple(row[column] for column in columns) for row in loaded] == [(q, "", c, r) for q, c, r in rows]
