"""YAML and JSON files that map names to values, read as LLaMA-Factory reads its own."""

from __future__ import annotations

import copy
import json
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from .errors import OGPSAError


def read_mapping(path: Path) -> dict[str, Any]:
    """Read a YAML file as LLaMA-Factory reads it (``1e-5`` is a number), or a JSON file.

    Args:
        path: the file; a name that ends in ``.json`` holds JSON.

    Returns:
        Its keys and values, interpolations unresolved, as LLaMA-Factory leaves them.

    Raises:
        OGPSAError: the file cannot be read or is no mapping; with the line where there is one.
    """
    try:
        text = path.read_text(encoding="utf-8")
        return copy.deepcopy(mapping(_parsed(text, path.suffix == ".json"), str(path)))
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise OGPSAError(f"{path}{line}: not valid YAML: {error.problem}.") from None
    except json.JSONDecodeError as error:
        raise OGPSAError(f"{path}, line {error.lineno}: not valid JSON: {error.msg}.") from None
    except OSError as error:
        raise OGPSAError(f"Cannot read {path}: {error.strerror}.") from None
    except AssertionError:  # OmegaConf's word for a file that holds one number
        raise OGPSAError(f"{path} must be a mapping of names to values.") from None
    except (yaml.YAMLError, OmegaConfBaseException, UnicodeDecodeError) as error:
        raise OGPSAError(f"Cannot read {path}: {error}") from None


@lru_cache(maxsize=256)
def _parsed(text: str, is_json: bool) -> Any:
    """What a file says; kept, as the pipelines of a table read the same few files again and again."""
    return OmegaConf.to_container(OmegaConf.create(json.loads(text) if is_json else text))


def mapping(value: Any, where: str) -> dict[str, Any]:
    """Refuse what is no mapping of names.

    Args:
        value: read from a file; None is an empty mapping.
        where: it stands, for messages.

    Returns:
        The mapping.

    Raises:
        OGPSAError: it is none.
    """
    if value is None:
        return {}
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise OGPSAError(f"{where} must be a mapping of names to values.")
    return value
