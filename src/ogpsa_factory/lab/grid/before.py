"""The arguments of a grid are checked before its first world is built, by LLaMA-Factory's own parser."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...errors import OGPSAError
from .definition import Grid


_SCALE = 0.02  # of a world whose sets are only looked up


def check_grids(grids: Sequence[Grid]) -> None:
    """Check the arguments of every method in every stage, once each.

    Args:
        grids: what was asked for.

    Raises:
        OGPSAError: with one line per problem, over all grids.
    """
    from ...pipeline.chain import Stage
    from ...pipeline.check import check_stages

    with tempfile.TemporaryDirectory() as folder:
        stages: list[Stage] = []
        seen: list[dict[str, Any]] = []
        for grid in grids:
            data = _data_folder(Path(folder), grid.world["theme"])
            for name, method in grid.methods.items():
                if method.osf is not None:
                    check_osf(f"{grid.file}: methods: {name}", method.osf)
                for stage in dict.fromkeys(stage for each in method.pipelines for stage in grid.pipelines[each]):
                    config = {
                        **method.arguments[stage],
                        "model_name_or_path": f"{folder}/run/base",
                        "dataset_dir": str(data),
                        "output_dir": f"{folder}/run/model",
                    }
                    if config not in seen:
                        seen.append(config)
                        stages.append(Stage(len(seen), f"{stage} of {name} in {grid.file}", config))
        check_stages(stages)


def _data_folder(folder: Path, theme: str) -> Path:
    """A small world's sets, under the names that those of the grid's worlds will have."""
    from ..datasets import write_preferences, write_sets
    from ..preferences import preference_sets
    from ..themes import find_theme
    from ..world import Sizes, World

    data = folder / theme
    if not data.exists():
        world = World(0, Sizes().scaled(_SCALE), find_theme(theme))
        write_sets(data, world.sets())
        write_preferences(data, preference_sets(world))
    return data


def check_osf(where: str, arguments: dict[str, Any]) -> None:
    """Check the arguments of orthogonal subspace fine-tuning.

    Args:
        where: they stand, for messages.
        arguments: of PEFT's `OSFConfig`.

    Raises:
        OGPSAError: it does not take them.
    """
    from peft import OSFConfig

    try:
        OSFConfig(task_type="CAUSAL_LM", **arguments)
    except TypeError as error:
        raise OGPSAError(f"{where}: osf: PEFT's OSFConfig does not take these arguments: {error}.") from None
