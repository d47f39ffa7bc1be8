"""Tables as rows, rows as pipelines: what `examples/yaml/reproduce/tables.yaml` and the command line ask for."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import OGPSAError
from ..mappings import read_mapping
from ..pipeline.chain import Stage, adapters_of, chain, trained_adapters
from ..pipeline.definition import Definition, read_definition


TABLES_FILE = "tables.yaml"
MINI = "mini"  # the folder of the miniature world, beside those of the models
_TABLE_KEYS = ("title", "benchmarks", "models", "scales", "families", "rows")
_ROW_KEYS = ("pipeline", "overrides", "run", "mini")
_BASE_OF = "sft_naive"  # the pipeline whose first model is the one that a model's folder is about


@dataclass(frozen=True)
class Row:
    """One row of a table.

    Attributes:
        family: of models that are compared with each other only, where a table has several.
        name: as the evaluation and the report call it.
        file: its pipeline; None for a model as it is.
        overrides: for the pipeline.
        stages: of the pipeline.
        model: what is evaluated: a model, with its adapters behind it by `+`.
    """

    family: str
    name: str
    file: Path | None
    overrides: tuple[str, ...]
    stages: tuple[Stage, ...]
    model: str

    @property
    def label(self) -> str:
        """Its name within the table."""
        return f"{self.family}/{self.name}" if self.family else self.name


@dataclass(frozen=True)
class Table:
    """A table with the rows that were asked for.

    Attributes:
        name: `table1`, for instance.
        title: what it shows.
        benchmarks: the columns; none for all that the suite has.
        rows: in its order.
    """

    name: str
    title: str
    benchmarks: tuple[str, ...]
    rows: tuple[Row, ...]

    def families(self) -> dict[str, list[Row]]:
        """The rows by family; "" where the table has none."""
        return {row.family: [other for other in self.rows if other.family == row.family] for row in self.rows}

    def runs(self) -> dict[Path, tuple[Stage, list[str]]]:
        """Every stage that is run, once, by its output folder, with the names of the rows that need it.

        Raises:
            OGPSAError: two rows ask for different things in one folder.
        """
        found: dict[Path, tuple[Stage, list[str]]] = {}
        for row in self.rows:
            for stage in row.stages:
                known, rows = found.setdefault(stage.output, (stage, []))
                if known.config != stage.config:
                    raise OGPSAError(
                        f"Rows {rows[0]} and {row.label} of {self.name} both write to {stage.output}, with other "
                        f"arguments. Give one of them a `run` of its own in {TABLES_FILE}."
                    )
                rows.append(row.label)
        return found


@dataclass(frozen=True)
class _Place:
    """Where the rows of a family come from and go to."""

    folder: Path  # of the pipelines
    runs: Path | None  # in the place of the folder that their run directories name
    family: str = ""
    model: str | None = None  # what the family starts from; None for what the pipelines name


def read_table(
    folder: Path,
    name: str,
    model: str,
    names: Sequence[str] = (),
    overrides: Sequence[str] = (),
    runs: Path | None = None,
) -> Table:
    """Read a table and its pipelines.

    Args:
        folder: the folder of `tables.yaml` and of the models' folders.
        name: of the table.
        model: name of a model's folder; `mini` is the miniature world.
        names: of the rows that are wanted, of all families or FAMILY/NAME; none for all. Rows without a pipeline are
            always there: others are compared with them.
        overrides: of the command line, for all pipelines; NAME.KEY=VALUE for those that have such a stage.
        runs: the folder of all runs; None for the one that the pipelines name.

    Returns:
        The table.

    Raises:
        OGPSAError: naming the file, the table or the row that is wrong.
    """
    file = folder / TABLES_FILE
    if not file.is_file():
        raise OGPSAError(
            f"Cannot read {file}: there is no such file. Run `ogpsa reproduce` in a clone of the repository, or name "
            f"the folder that holds {TABLES_FILE} with --files."
        )
    tables = read_mapping(file)
    if name not in tables:
        raise OGPSAError(f"{file} has no table {name}. {_hint(name, list(tables))}")
    content, where = tables[name], f"{file}: {name}"
    _check(content, _TABLE_KEYS, where)
    rows = content.get("rows")
    if not isinstance(rows, dict) or not rows:
        raise OGPSAError(f"{where}: rows must map the names of rows to what they are.")
    if not (folder / model).is_dir():
        models = sorted(path.name for path in folder.iterdir() if path.is_dir())
        raise OGPSAError(f"{folder / model} does not exist: there is no model {model}. {_hint(model, models)}")
    _check_offered(content, where, model)
    for key, row in rows.items():
        _check(row, _ROW_KEYS, f"{where}, row {key}")
    places = _places(content, folder / model, runs, where)
    known = [*rows, *(f"{place.family}/{key}" for place in places if place.family for key in rows)]
    unknown = [each for each in names if each not in known]
    if unknown:
        raise OGPSAError(f"{where} has no row {unknown[0]}. {_hint(unknown[0], known)}")
    read = tuple(
        _row(place, key, row, overrides, f"{where}, row {key}")
        for place in places
        for key, row in rows.items()
        if not names or "pipeline" not in row or key in names or f"{place.family}/{key}" in names
    )
    _check_stage_names(read, overrides)
    table = Table(name, str(content.get("title", name)), tuple(content.get("benchmarks") or ()), read)
    table.runs()  # refuses rows that stand in each other's way
    return table


def _places(content: dict[str, Any], folder: Path, runs: Path | None, where: str) -> list[_Place]:
    families = content.get("families")
    if families is None:
        return [_Place(folder, runs)]
    if not isinstance(families, dict) or not families:
        raise OGPSAError(f"{where}: families must map names to models.")
    return [_Place(folder, runs, str(family), str(model)) for family, model in families.items()]


def _check_offered(content: dict[str, Any], where: str, model: str) -> None:
    scale = MINI if model == MINI else "paper"
    if scale not in content.get("scales", [MINI, "paper"]):
        raise OGPSAError(f"{where} is not there at scale {scale}.")
    models = content.get("models")
    if models and scale == "paper" and model not in models:
        raise OGPSAError(f"{where} is there for --model {', '.join(models)} only.")


def _row(place: _Place, name: str, row: Any, overrides: Sequence[str], where: str) -> Row:
    folder = place.folder
    if folder.name == MINI and row.get("mini") is not None:
        row = row["mini"]
        _check(row, _ROW_KEYS[:-1], f"{where}, mini")
    if row.get("pipeline") is None:
        return Row(place.family, name, None, (), (), place.model or _start(folder))
    file = folder / f"{row['pipeline']}.yaml"
    definition = read_definition(file, [])
    names = {layers.name for layers in definition.stages}
    asked = [str(each) for each in row.get("overrides") or []]
    asked += [f"model_name_or_path={place.model}"] if place.model else []
    asked += [word for word in overrides if _stage_of(word) is None or _stage_of(word) in names]
    run_dir = _run_dir(definition, place, row.get("run"))
    asked += [f"output_dir={run_dir.as_posix()}"] if run_dir != definition.run_dir else []
    stages = chain(read_definition(file, asked) if asked else definition)
    return Row(place.family, name, file, tuple(asked), tuple(stages), _result(stages[-1]))


def _run_dir(definition: Definition, place: _Place, run: str | None) -> Path:
    """The folder of a run: that of the pipeline file but for what the row, the family or the command line name."""
    own = definition.run_dir
    home = place.runs or own.parent.parent
    return home / (_slug(place.model) if place.model else own.parent.name) / (run or own.name)


def _slug(model: str) -> str:
    return model.rpartition("/")[2].lower().replace(".", "_").replace("-", "_")


def _start(folder: Path) -> str:
    """The model that a folder's pipelines start from."""
    return str(chain(read_definition(folder / f"{_BASE_OF}.yaml", []))[0].config["model_name_or_path"])


def _result(stage: Stage) -> str:
    config = stage.config
    if not stage.merges and not config["do_train"]:
        return "+".join([config["model_name_or_path"], *adapters_of(config)])
    adapters = trained_adapters(config)
    return "+".join([config["model_name_or_path"], *adapters]) if adapters else str(config["output_dir"])


def _stage_of(override: str) -> str | None:
    first, dot, _ = override.partition("=")[0].partition(".")
    return first if dot else None


def _check_stage_names(rows: Sequence[Row], overrides: Sequence[str]) -> None:
    """An override that no pipeline has taken would be forgotten in silence."""
    stages = list(dict.fromkeys(stage.name for row in rows for stage in row.stages))
    for word in overrides:
        name = _stage_of(word)
        if word.startswith("output_dir="):
            raise OGPSAError(f"{word}: the rows' pipelines have run directories of their own. Leave it out.")
        if name is not None and name not in stages:
            raise OGPSAError(f"{word}: no row has a stage {name}. {_hint(name, stages)}")


def _check(content: Any, known: Sequence[str], where: str) -> None:
    if not isinstance(content, dict):
        raise OGPSAError(f"{where} must be a mapping of names to values.")
    for key in content:
        if key not in known:
            raise OGPSAError(f"{where}: unknown key {key}. {_hint(str(key), list(known))}")


def _hint(word: str, known: list[str]) -> str:
    near = difflib.get_close_matches(word, known, n=1)
    return f"Did you mean {near[0]}?" if near else f"Known are: {', '.join(known)}."
