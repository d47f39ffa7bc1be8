"""Orthogonal Gradient Projection for Safety Alignment (OGPSA) as a plugin for LLaMA-Factory.

Every Python process of an environment that holds this package imports this module at start-up, through
`ogpsa_factory.pth`. It therefore imports nothing; the public names are looked up on first use (PEP 562).
"""

# `typing.TYPE_CHECKING` would import `typing`, and with it `re`; type checkers know the bare name as well.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from ._startup import install
    from .errors import OGPSAError
    from .grouping import group_parameters
    from .subspace import CapabilitySubspace


__version__ = "0.1.0"

__all__ = ["CapabilitySubspace", "OGPSAError", "__version__", "group_parameters", "install"]

_HOMES = {
    "CapabilitySubspace": "subspace",
    "OGPSAError": "errors",
    "group_parameters": "grouping",
    "install": "_startup",
}


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    # `importlib.import_module` would import `importlib` into every process, for one call.
    module = __import__(f"{__name__}.{home}", fromlist=[name])
    value = getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
