"""The public data sets behind the benchmarks: their place on the hub, and their files where a user has them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..data.records import read_rows
from ..errors import OGPSAError


# Where the user's own files lie; a variable, because lm-eval calls the loaders with what is in its YAML only.
DATA_VARIABLE = "OGPSA_EVALUATION_DATA"

Record = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Source:
    """A public data set.

    Attributes:
        title: how it is called in messages.
        hub: its name on the Hugging Face hub; empty where there is none.
        config: its configuration there; `{part}` stands for the part that is asked for.
        splits: our split names, with those on the hub.
        revision: the commit there that is read; None for the newest, whose name results record.
        files: patterns of file names, of which the first that fits is read, by split; `{part}` as above.
        columns: sets of columns, one of which every row must have.
        streamed: whether the hub's rows are read one by one, as the whole set is large.
        gated: whether the hub asks for an agreement first.
    """

    title: str
    hub: str = ""
    config: str | None = None
    splits: Mapping[str, str] = field(default_factory=lambda: {"test": "test"})
    revision: str | None = None
    files: Mapping[str, tuple[str, ...]]
    columns: tuple[tuple[str, ...], ...]
    streamed: bool = False
    gated: bool = False


SOURCES: dict[str, Source] = {
    "xstest": Source(
        title="XSTest",
        hub="walledai/XSTest",
        files={"test": ("xstest*prompts*.csv", "xstest*.parquet", "xstest*.json*")},
        columns=(("prompt", "type"),),
        gated=True,
    ),
    "strongreject": Source(
        title="StrongREJECT",
        hub="walledai/StrongREJECT",
        splits={"test": "train"},
        files={"test": ("strongreject.csv", "strongreject_dataset.csv", "strongreject.json*", "strongreject.parquet")},
        columns=(("forbidden_prompt",), ("prompt",)),
        gated=True,
    ),
    "strongreject_jailbroken": Source(
        title="StrongREJECT, jailbroken",
        hub="hamishivi/strong_reject_data",
        splits={"test": "train"},
        files={"test": ("strong*reject*jailbr*.csv", "strong*reject*jailbr*.json*", "strong*reject*jailbr*.parquet")},
        columns=(("jailbreak", "jailbroken_prompt", "forbidden_prompt"),),
    ),
    "wildchat": Source(
        title="WildChat-1M-Full",
        hub="allenai/WildChat-1M-Full",
        splits={"test": "train"},
        files={"test": ("wildchat*.parquet", "wildchat*.json*", "wildchat*.csv")},
        columns=(("conversation", "language", "openai_moderation"), ("prompt",)),
        streamed=True,
        gated=True,
    ),
    "do_not_answer": Source(
        title="Do-Not-Answer",
        hub="LibrAI/do-not-answer",
        splits={"test": "train"},
        revision="74e74f2e4507ef256fe536f78a776f4a1ff67955",
        files={"test": ("do*not*answer*.csv", "do*not*answer*.json*", "do*not*answer*.parquet")},
        columns=(("question", "types_of_harm"),),
    ),
    "simpleqa": Source(
        title="SimpleQA",
        hub="basicv8vc/SimpleQA",
        revision="e319282ab125c3dbd0c7fd00be2e4dd54e7e8f94",
        files={"test": ("simple*qa*.csv", "simple*qa*.json*", "simple*qa*.parquet")},
        columns=(("problem", "answer"),),
    ),
    "advglue": Source(
        title="AdvGLUE",
        hub="AI-Secure/adv_glue",
        config="adv_{part}",
        splits={"test": "validation"},
        revision="e1abda026f687e917a8d9895469194736ebe872c",
        files={"test": ("*advglue*/dev.json", "*adv_glue*/dev.json", "advglue*.json")},
        columns=(("label",),),
    ),
    "halueval": Source(
        title="HaluEval, questions and answers",
        hub="pminervini/HaluEval",
        config="qa",
        splits={"test": "data"},
        revision="b1171838c842be2327fbd9766e904c63a4224dd7",
        files={"test": ("qa_data.json", "qa_one-turn_data.json", "halueval_qa*.json*")},
        columns=(("question", "right_answer", "hallucinated_answer"),),
    ),
    "mmlu": Source(
        title="MMLU",
        hub="cais/mmlu",
        config="{part}",
        splits={"test": "test", "dev": "dev"},
        files={"test": ("{part}_test.csv",), "dev": ("{part}_dev.csv",)},
        columns=(("question", "answer"),),
    ),
    "gpqa": Source(
        title="GPQA",
        hub="Idavidrein/gpqa",
        config="gpqa_{part}",
        splits={"train": "train"},
        files={"train": ("gpqa_{part}.csv",)},
        columns=(("Question", "Correct Answer", "Incorrect Answer 1", "Incorrect Answer 2", "Incorrect Answer 3"),),
        gated=True,
    ),
    "ifeval": Source(
        title="IFEval",
        hub="google/IFEval",
        splits={"train": "train"},
        files={"train": ("ifeval/input_data.jsonl", "ifeval*.jsonl", "input_data.jsonl")},
        columns=(("key", "prompt", "instruction_id_list", "kwargs"),),
    ),
    "hhh": Source(
        title="HHH alignment (BIG-bench)",
        hub="hails/bigbench",
        config="hhh_alignment_zero_shot",
        splits={"default": "default"},
        files={"default": ("hhh*.jsonl", "hhh*.json", "hhh*.parquet")},
        columns=(("inputs", "targets", "multiple_choice_targets"),),
    ),
    "mini": Source(
        title="the miniature world",
        files={"test": ("mini_eval_{part}.json",)},
        columns=(("instruction", "output"),),
    ),
}

GATED = """{title} is gated on the Hugging Face hub. To get access: 1. make an account on huggingface.co; 2. open \
https://huggingface.co/datasets/{hub} while logged in and accept its conditions; 3. make a token of type "read" at \
https://huggingface.co/settings/tokens; 4. run `hf auth login` here and paste it. Or download the files elsewhere and \
name their folder with --data."""


def local_file(source: Source, split: str, part: str) -> Path | None:
    """Find a user's own file of a source, below the folder that `DATA_VARIABLE` names.

    Args:
        source: which one.
        split: ours.
        part: what stands for `{part}` in the names of files.

    Returns:
        The file; None where there is no folder, or none in it has such a name.

    Raises:
        OGPSAError: two files have names of the same pattern.
    """
    folder = os.environ.get(DATA_VARIABLE)
    if not folder:
        return None
    for pattern in source.files[split]:
        found = sorted(Path(folder).rglob(pattern.format(part=part)))
        if len(found) > 1:
            raise OGPSAError(
                f"{source.title}: which file is it, {found[0]} or {found[1]}? Move one away, or name another --data."
            )
        if found:
            return found[0]
    return None


def read_local(source: Source, path: Path, rows: Iterable[Record] | None = None) -> list[Record]:
    """Read a user's file and check its columns.

    Args:
        source: what it should hold.
        path: the file.
        rows: what was read of a layout of its own; None for ordinary rows.

    Returns:
        Its rows.

    Raises:
        OGPSAError: it cannot be read, is empty, or lacks a column.
    """
    read = [row.value for row in read_rows(path)] if rows is None else list(rows)
    if not read:
        raise OGPSAError(f"{path}: {source.title} is expected here, and the file has no rows.")
    check_columns(source, read[0], str(path))
    return read


def check_columns(source: Source, row: Record, where: str) -> None:
    """Refuse rows that are not those of a source.

    Args:
        source: what is expected.
        row: the first row.
        where: file, or name on the hub.

    Raises:
        OGPSAError: naming what was found and what is needed.
    """
    if not any(set(columns) <= row.keys() for columns in source.columns):
        needed = " or ".join(", ".join(columns) for columns in source.columns)
        raise OGPSAError(
            f"{where}: this is not {source.title}, whose rows have {needed}; found: {', '.join(map(str, row))}."
        )
