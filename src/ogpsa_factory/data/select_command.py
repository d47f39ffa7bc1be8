"""`ogpsa data select`: a reference set out of one or several pools. Heavy imports stay inside the functions."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ..errors import OGPSAError
from ..files import replaced_file
from .add import check_name
from .layouts import layout_of
from .records import read_rows, write_rows
from .registry import ROLE_KEY, Registry


if TYPE_CHECKING:
    from rich.console import Console

    from .features import RowFeatures

METHODS = ("random", "stratified", "loss", "embedding", "gradient")
_DRAWS = 5  # random choices that the chosen rows are compared with
_GROUPS_SHOWN = 20


class PoolRow(NamedTuple):
    """One row of a pool: where it is, its columns, and the group that `stratified` draws by."""

    place: str
    value: dict[str, Any]
    group: str


def register_select(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `select`; it sets `handler`: from arguments to exit code.

    Args:
        commands: of the parser of `ogpsa data`.
    """
    parser = commands.add_parser("select", help="choose rows of a pool as a reference set, at random or by a model")
    parser.add_argument("pools", metavar="POOL[,POOL...]", help="data sets of one layout in dataset_info.json")
    parser.add_argument("--name", required=True, help="name of the new data set, which is also its file's")
    parser.add_argument("--samples", type=int, default=200, help="rows to choose (%(default)s)")
    parser.add_argument(
        "--by",
        choices=METHODS,
        help="random; stratified: equally many of every group; loss: spread over the model's losses; embedding, "
        "gradient: the rows that span most of the pool's (default: gradient with --model, random without)",
    )
    parser.add_argument("--group-by", metavar="COLUMN", help="a row's group is this column's value, not its pool")
    parser.add_argument("--dataset-dir", type=Path, default=Path("data"), help="folder of dataset_info.json (data)")
    parser.add_argument("--model", help="folder or name of the model that will be aligned; needs --template")
    parser.add_argument("--template", help="its template in LLaMA-Factory, as in training")
    parser.add_argument("--cutoff-len", type=int, default=2048, help="tokens a row may have (%(default)s)")
    parser.add_argument("--dimensions", type=int, default=1024, help="length of a gradient's sketch (%(default)s)")
    parser.add_argument("--seed", type=int, default=42, help="of draws and sketches (%(default)s)")
    parser.add_argument("--replace", action="store_true", help="replace a data set of that name")
    parser.set_defaults(handler=run_select)


def run_select(args: argparse.Namespace) -> int:
    """Choose rows, write and register them, and say how they compare with a random choice.

    Args:
        args: what :func:`register_select` asks for.

    Returns:
        0.

    Raises:
        OGPSAError: a mistake in the arguments, in the registry, in a pool or in the model; nothing is written then.
    """
    from rich.console import Console

    method = args.by or ("gradient" if args.model else "random")
    _check_arguments(args, method)
    registry = Registry(args.dataset_dir)
    names = list(dict.fromkeys(name.strip() for name in args.pools.split(",") if name.strip()))
    entry = _new_entry(registry, names, args)
    rows = [row for name in names for row in _read_pool(registry, name, args.group_by)]
    if args.samples > len(rows):
        found = f"{', '.join(names)} {'have' if len(names) > 1 else 'has'} {len(rows)} rows"
        raise OGPSAError(f"--samples {args.samples}: {found}. Ask for fewer, or name one more pool.")
    console = Console()
    usable, seen = list(range(len(rows))), None
    if args.model and method != "random":
        usable, seen = _look_at_rows(names, rows, method, args, console)

    from .selection import select

    groups = [rows[i].group for i in usable]
    picked = sorted(select(method, groups, args.samples, args.seed, None if seen is None else seen.vectors))
    path = args.dataset_dir / f"{args.name}.jsonl"
    with registry.registration({args.name: entry}, replace=args.replace) as commit:
        with replaced_file(path) as temporary:
            try:
                write_rows(temporary, (rows[usable[i]].value for i in picked))
            except TypeError as error:
                raise OGPSAError(
                    f"A row holds a value that JSON has no form for: {error}. Remove the column."
                ) from None
            commit()
    _print_choice(console, method, groups, seen, picked, args.seed)
    lines = [f"Written to {path} and registered. In the training file:", f"    ogpsa_reference_dataset: {args.name}"]
    if args.samples > 200:  # of a larger set, training draws as many rows as it is told to
        lines.append(f"    ogpsa_reference_samples: {args.samples}")
    if len(usable) < len(rows):
        left_out = f"{len(rows) - len(usable)} rows without an answer inside --cutoff-len {args.cutoff_len}"
        lines.insert(0, f"Left out: {left_out} (`ogpsa data check` says why).")
    console.print("\n".join(lines), highlight=False, markup=False, soft_wrap=True)
    return 0


def _check_arguments(args: argparse.Namespace, method: str) -> None:
    check_name(args.name)
    if args.samples < 1:
        raise OGPSAError(f"--samples {args.samples}: at least 1 row must be chosen.")
    if not args.model and method in ("loss", "embedding", "gradient"):
        raise OGPSAError(f"--by {method} looks at rows through a model: name it with --model, and its --template.")
    if args.model and not args.template and method != "random":
        raise OGPSAError("--model needs --template, the one of training (such as qwen, llama3): it shapes the rows.")
    if method in ("gradient", "stratified") and args.model and args.dimensions <= args.samples:
        raise OGPSAError(
            f"--dimensions {args.dimensions}: {args.samples} rows span a sketch as short as that, so it could not "
            f"tell them apart. Use at least {4 * args.samples}."
        )


def _new_entry(registry: Registry, names: list[str], args: argparse.Namespace) -> dict[str, Any]:
    """The new set's entry: the pools' layout, which must be one, and its own file."""
    if not names:
        raise OGPSAError("Name at least one pool.")
    if args.name in names:
        raise OGPSAError(f"--name {args.name} is a pool: its rows would be lost. Choose another name.")
    layouts = []
    for name in names:
        entry = registry.entry(name)
        where = f"Pool {name} in {registry.path}"
        try:
            layouts.append(layout_of(entry))
        except OGPSAError as error:
            raise OGPSAError(f"{where}: {error}.") from None
        if "num_samples" in entry or entry.get("split", "train") != "train":
            raise OGPSAError(f"{where} stands for a part of its file (num_samples or split): remove that key.")
        if layouts[-1].columns.get("kto_tag"):
            raise OGPSAError(f"{where} is labelled data (kto_tag), which says what not to answer too: no reference.")
        if args.by != "random" and args.model and {"images", "videos", "audios"} & set(layouts[-1].columns):
            raise OGPSAError(f"{where} has images, videos or audios, which are not shown to --model here: omit it.")
        if layouts[-1] != layouts[0]:
            raise OGPSAError(f"{where} has another layout than {names[0]}. Choose of each by itself.")
    path = args.dataset_dir / f"{args.name}.jsonl"
    registry.check_file(path, args.name)
    if not args.replace and (path.exists() or args.name in registry.entries):
        raise OGPSAError(f"{path} or an entry {args.name} exists: choose another --name, or pass --replace.")
    first = registry.entry(names[0])
    keys: tuple[str, ...] = ("formatting", "ranking", "columns", "tags")
    kept = {key: first[key] for key in keys if key in first}
    return {"file_name": path.name, **kept, ROLE_KEY: "reference"}


def _read_pool(registry: Registry, name: str, column: str | None) -> list[PoolRow]:
    path, rows = registry.file_of(name), []
    for place, value in read_rows(path):
        if column is not None and column not in value:
            raise OGPSAError(f"{path}, {place} has no column {column} (--group-by); it has {', '.join(value)}.")
        rows.append(PoolRow(f"{path}, {place}", value, name if column is None else str(value[column])))
    return rows


def _look_at_rows(
    pools: Sequence[str], rows: list[PoolRow], method: str, args: argparse.Namespace, console: Console
) -> tuple[list[int], RowFeatures]:
    """Load the model; return the indices of the rows that it can learn from, and what it says of them."""
    from rich.progress import Progress

    from .features import check_finite, embedding_features, gradient_features, load_model, loss_features, tokenise

    model = load_model(args.model)
    data = {"dataset_dir": str(args.dataset_dir), "template": args.template, "cutoff_len": args.cutoff_len}
    tokenised = tokenise(pools, args.model, **data)
    if len(tokenised) != len(rows):
        raise OGPSAError(
            f"LLaMA-Factory reads {len(tokenised)} rows where {len(rows)} are: it cannot be said which is which. "
            f"`ogpsa data check` says what is wrong with {', '.join(pools)}."
        )
    usable = [i for i, row in enumerate(tokenised) if row is not None]
    if len(usable) < args.samples:
        raise OGPSAError(
            f"{len(usable)} of {len(rows)} rows have an answer inside --cutoff-len {args.cutoff_len}, "
            f"--samples {args.samples} were asked for. Raise the one or lower the other."
        )
    seen = [row for row in tokenised if row is not None]
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("Looking at the rows", total=len(usable))

        def on_row(count: int) -> None:
            progress.advance(task, count)

        if method in ("loss", "embedding"):
            found = {"loss": loss_features, "embedding": embedding_features}[method](model, seen, on_row)
        else:
            found = gradient_features(model, seen, args.dimensions, args.seed, on_row)
    check_finite(found, [rows[i].place for i in usable])
    return usable, found


def _print_choice(
    console: Console, method: str, groups: list[str], found: RowFeatures | None, picked: list[int], seed: int
) -> None:
    """Print a table: the choice beside random ones of its size and the pool."""
    from rich.markup import escape
    from rich.table import Table

    from .selection import explained, mean_cosine, select_random, unit_rows

    table = Table(title=f"{len(picked)} of {len(groups)} rows by {method}", title_justify="left")
    for header in ("", "chosen", f"random (mean of {_DRAWS})", "pool"):
        table.add_column(header, justify="right" if header else "left")
    draws = [select_random(len(groups), len(picked), seed + 1 + i) for i in range(_DRAWS)]

    def compare(label: str, figure: Callable[[list[int]], float], of_pool: float) -> None:
        by_chance = sum(map(figure, draws)) / _DRAWS
        table.add_row(label, *(f"{value:.3f}" for value in (figure(picked), by_chance, of_pool)))

    if found is not None and method == "loss":  # one number a row: its span and its cosine would say nothing
        losses = found.losses
        compare("mean loss (nats a token)", lambda rows: float(losses[rows].mean()), float(losses.mean()))
        spread = float(losses.std(correction=0))
        compare("standard deviation of the losses", lambda rows: float(losses[rows].std(correction=0)), spread)
    elif found is not None:
        kind = "embedding" if method == "embedding" else "gradient"
        unit, summed = unit_rows(found.vectors), found.vectors if method == "embedding" else found.weighted()
        compare(f"share of {kind}s explained", lambda rows: explained(unit, rows), 1)
        compare(f"cosine with mean {kind}", lambda rows: mean_cosine(summed, rows), 1)
    chosen, pool = Counter(groups[i] for i in picked), Counter(groups)
    for group, size in pool.most_common(_GROUPS_SHOWN):
        expected = len(picked) * size / len(groups)
        table.add_row(escape(f"rows of {group[:40]}"), str(chosen[group]), f"{expected:.1f}", str(size))
    if len(pool) > _GROUPS_SHOWN:
        table.add_row(f"({len(pool) - _GROUPS_SHOWN} smaller groups)", "", "", "")
    console.print(table)
