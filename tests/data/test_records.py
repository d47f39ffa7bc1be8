"""Rows come out as they went in, and every unreadable place has a name."""

import json
import os
import re

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from public_rows import write_csv

from ogpsa_factory import OGPSAError
from ogpsa_factory.data import json_values
from ogpsa_factory.data.records import hash_file, read_rows, scan_rows, write_rows


TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=20)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**40), 2**40) | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)
ROWS = st.lists(st.dictionaries(TEXT, VALUES, max_size=4), max_size=6)


@settings(max_examples=100, deadline=None)
@given(ROWS, st.sampled_from([None, 0, 2]), st.booleans(), st.integers(1, 40))
def test_json_arrays_in_pieces_of_any_size(tmp_path_factory, rows, indent, ascii_only, chunk):
    path = tmp_path_factory.mktemp("array") / "rows.json"
    path.write_text(json.dumps(rows, indent=indent, ensure_ascii=ascii_only), encoding="utf-8")
    whole, json_values._CHUNK = json_values._CHUNK, chunk
    try:
        assert [row.value for row in read_rows(path)] == rows
    finally:
        json_values._CHUNK = whole


@settings(max_examples=50, deadline=None)
@given(ROWS)
def test_what_is_written_is_read(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("lines") / "rows.jsonl"
    written = write_rows(path, rows)
    assert [row.value for row in read_rows(path)] == rows
    assert (written.rows, written.sha256) == (len(rows), hash_file(path))


def test_every_format(tmp_path):
    rows = [{"a": "1", "b": 'ä,\n"x"'}, {"a": "", "b": "2"}]
    write_csv(tmp_path / "rows.csv", rows)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "rows.parquet")
    (tmp_path / "lines.JSON").write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    (tmp_path / "pretty.json").write_text(json.dumps(rows, indent=4))
    for name in ("rows.csv", "rows.parquet", "lines.JSON", "pretty.json"):
        assert [row.value for row in read_rows(tmp_path / name)] == rows, name
    (tmp_path / "mark.json").write_text(json.dumps(rows), encoding="utf-8-sig")
    (tmp_path / "mark.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8-sig")
    (tmp_path / "mark.csv").write_bytes(b"\xef\xbb\xbf" + (tmp_path / "rows.csv").read_bytes())
    for name in ("mark.json", "mark.jsonl", "mark.csv"):
        assert [row.value for row in read_rows(tmp_path / name)] == rows, name
    (tmp_path / "text.txt").write_bytes("ä\r\nb".encode())
    assert [row.value for row in read_rows(tmp_path / "text.txt")] == [{"text": "ä"}, {"text": "b"}]


BROKEN = {
    "rows.jsonl": [
        (b'{"a": 1}\n{"a": \n', r"line 2: Expecting value"),
        (b'{"a": 1}\n{"a": "cut of', r"line 2: the file ends in the middle of a row \(an interrupted download"),
        (b'{"a": 1}\n[1]\n', r"line 2: a row must be an object in braces, and this is a list"),
        (b'{"a": 1}\n{"a": "\xe9"}\n', r"line 2: byte 0xe9 in column 8 is not UTF-8"),
        (b'{"a": NaN}\n', r"line 1: NaN is no JSON"),
        (b'{"a": "\\ud800"}\n', r"line 1: it holds half of a surrogate pair"),
        (b'{"a": ' + b"[" * 100_000 + b"\n", r"line 1: it is nested too deep"),
        ("{}".encode("utf-16"), r"is in UTF-16; UTF-8 is needed. `ogpsa data add`"),
        (b'{"a": 1, "a": 2}\n', r"line 1: the key a is there twice"),
    ],
    "rows.json": [
        (b'[{"a": 1},\n {"a" 2}]', r"row 2 \(line 2\): Expecting ':' delimiter"),
        (b'[{"a": 1}\n {"a": 2}]', r"behind row 1 \(line 2\): '{' stands where , or \] is needed"),
        (b'[{"a": 1},\n {"a": "cut of', r"row 2 \(line 2\): the file ends in the middle of a row"),
        (b'[{"a": 1},\n {"a": 2}', r"behind row 2 \(line 2\): the file ends"),
        (b'[{"a": 1}] x', r"something follows behind the end of the list"),
        (b'[{"a": "\xe9"}]', r"byte 0xe9 is not UTF-8"),
        (b'[1, {"a": 1}]', r"row 1 \(line 1\): a row must be an object in braces, and this is a number"),
        (b"[" * 100_000, r"nested too deep"),
        ('[{"a": 1}]'.encode("utf-16-be"), r"rows.json, line 1: "),  # without a mark
        ("[1]".encode("utf-16-le"), r"rows.json, row 1 "),
        (b'{"version": 2,\n "data": [{"a": 1}]}', r"holds one object with the keys version, data; a list of rows"),
    ],
    "rows.csv": [
        (b"a,b\n1,2\n3\n", r"line 3: 1 fields, but the first line names 2 columns"),
        (b"a,a\n1,2\n", r"line 1: the first line must name the columns, each once"),
        (b'a\n"x', r"it is no CSV"),
        (b"a\n\xe9\n", r"is not UTF-8"),
    ],
    "rows.parquet": [(b"PAR1 and nothing more", r"it is no Parquet, or an interrupted download")],
    "rows.txt": [(b"a\n\xe9\n", r"line 2: byte 0xe9 is not UTF-8")],
    "rows.xlsx": [(b"", r"has no suffix that says what it holds: one of .json, .jsonl")],
}


@pytest.mark.parametrize(
    ("name", "content", "message"), [(name, *case) for name, cases in BROKEN.items() for case in cases]
)
def test_unreadable_places_have_names(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(OGPSAError, match=message) as caught:
        list(read_rows(tmp_path / name))
    assert str(tmp_path / name) in str(caught.value)


def test_parquet_with_values_that_python_does_not_have(tmp_path):
    odd = {
        "far": pyarrow.array([2**62], pyarrow.timestamp("us")),
        "mars": pyarrow.array([0], pyarrow.timestamp("us", tz="Mars/Base")),
        "days": pyarrow.array([2**31 - 1], pyarrow.date32()),
    }
    for name, column in odd.items():
        pyarrow.parquet.write_table(pyarrow.table({"text": ["x"], name: column}), tmp_path / f"{name}.parquet")
        with pytest.raises(OGPSAError, match="behind row 0: it is no Parquet, or an interrupted download"):
            list(read_rows(tmp_path / f"{name}.parquet"))


def test_a_long_row_before_many_short_ones(tmp_path):
    """Lines are counted on from the row before."""
    rows = [{"a": "\n" * 3_000_000}, *({"a": str(i)} for i in range(20_000))]
    (tmp_path / "rows.json").write_text(json.dumps(rows, indent=0))
    *_, last = read_rows(tmp_path / "rows.json")
    assert last.place == "row 20001 (line 60002)"


def test_reading_goes_on_behind_a_bad_line(tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"a": 1}\n{"a": \n{"a": 3}\n')
    assert [type(item).__name__ for item in scan_rows(tmp_path / "rows.jsonl")] == ["Row", "Unreadable", "Row"]


def test_no_file(tmp_path):
    with pytest.raises(OGPSAError, match="does not exist"):
        list(read_rows(tmp_path / "rows.json"))
    (tmp_path / "folder.json").mkdir()
    with pytest.raises(OGPSAError, match="is no file"):
        list(read_rows(tmp_path / "folder.json"))


def test_an_error_while_writing_leaves_the_old_file(tmp_path):
    path = tmp_path / "rows.jsonl"
    write_rows(path, [{"a": 1}])

    def rows():
        yield {"a": 2}
        raise ValueError("the source broke off")

    with pytest.raises(ValueError, match="broke off"):
        write_rows(path, rows())
    assert [row.value for row in read_rows(path)] == [{"a": 1}]
    assert os.listdir(tmp_path) == ["rows.jsonl"]


def test_a_file_is_replaced_and_not_overwritten(tmp_path):
    """Whoever has the old file open, or a second name for it, still reads the old rows."""
    path = tmp_path / "rows.jsonl"
    write_rows(path, [{"a": 1}])
    os.link(path, tmp_path / "old.jsonl")
    write_rows(path, [{"a": 2}])
    assert [row.value for row in read_rows(tmp_path / "old.jsonl")] == [{"a": 1}]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="the system has no device that is full")
def test_a_full_disk(tmp_path, monkeypatch):
    from ogpsa_factory import files

    path = tmp_path / "rows.jsonl"
    write_rows(path, [{"a": 1}])
    full = tmp_path / ".full"
    full.symlink_to("/dev/full")
    monkeypatch.setattr(files, "temporary_name", lambda path: full)
    message = re.escape(f"Cannot write {path}: No space left on device. Nothing there was changed.")
    with pytest.raises(OGPSAError, match=message):
        write_rows(path, [{"a": "x" * 1000}] * 1000)
    assert [row.value for row in read_rows(path)] == [{"a": 1}]
