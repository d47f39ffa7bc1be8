"""Where the `evaluation/` folder with suites, tasks and the paper's figures is."""

from __future__ import annotations

from pathlib import Path

from .errors import OGPSAError


FOLDER = "evaluation"


def find(relative: str) -> Path:
    """Find a file or folder of `evaluation/`: in the working directory, in the checkout that runs, or in the package.

    A wheel has the folder's content inside of the package.

    Args:
        relative: path below `evaluation/`, such as `suites/paper.yaml`.

    Returns:
        Where it is.

    Raises:
        OGPSAError: it is in neither place.
    """
    here = Path(__file__)
    places = [base / FOLDER / relative for base in (Path.cwd(), here.parents[2], here.parent)]
    for path in places:
        if path.exists():
            return path
    raise OGPSAError(
        f"{FOLDER}/{relative} is neither in the working directory nor beside the package ({places[1].parent}). Run "
        "the command in a clone of the repository, or copy its evaluation/ folder here."
    )
