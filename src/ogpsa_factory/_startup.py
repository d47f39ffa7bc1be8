"""The hook through which the plugin gets into LLaMA-Factory, in whatever process it runs.

`ogpsa_factory.pth` calls `install_hook` at the start of every Python process of the environment: `llamafactory-cli`,
its `torchrun` children, Ray workers, and every process that has nothing to do with training. So two rules hold here:

* nothing is imported but what the interpreter has loaded anyway (no `importlib.util`, `re`, `threading`, `typing`);
* nothing raises: a process that does not use the plugin must not notice that it is installed.

The hook is a finder at the head of `sys.meta_path`. It answers for two module names, finds them through the finders
behind it, and patches them right after they have been executed. It stays in place, so that `importlib.reload` of a
watched module patches the fresh contents again; for every other name it costs one dictionary look-up.
"""

import os
import sys
from _thread import get_ident


# `typing.TYPE_CHECKING` would import `typing`; type checkers know the bare name as well.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType
    from typing import Any


# Watched module -> name of the function in `ogpsa_factory.llamafactory.patches` that patches it.
WATCHED = {
    "llamafactory.hparams.parser": "patch_parser",
    "llamafactory.train.tuner": "patch_tuner",
}

# What went wrong in this process, one sentence each; empty when all is well.
problems: list[str] = []

# The module objects that carry our patches, so that `install` patches none of them twice.
_patched: "dict[str, ModuleType]" = {}


class _PatchingLoader:
    """Stands in for the real loader until the module has been executed, and answers for it in everything else."""

    def __init__(self, loader: "Any", spec: "Any") -> None:
        self._loader = loader
        self._spec = spec

    def __getattr__(self, name: str) -> "Any":
        return getattr(self._loader, name)

    def create_module(self, spec: "ModuleSpec") -> "ModuleType | None":
        """Let the real loader make the module object."""
        create: Any = getattr(self._loader, "create_module", None)
        module: ModuleType | None = None if create is None else create(spec)
        return module

    def exec_module(self, module: "ModuleType") -> None:
        """Put the real loader back, execute the module with it, then patch the module."""
        # The module's own code, and whoever looks at it later, sees the loader that plain Python would show.
        if self._spec.loader is self:
            self._spec.loader = self._loader
        if getattr(module, "__loader__", None) is self:
            module.__loader__ = self._loader
        self._loader.exec_module(module)
        try:
            _patch(self._spec.name, module)
        except Exception as reason:
            _report(self._spec.name, reason)


class _PostImportFinder:
    """Finds the watched modules through the finders behind it, and wraps their loaders."""

    def __init__(self) -> None:
        # Another hook may ask us back while we ask it; the thread is part of the key as other threads may ask freely.
        self._searching: set[tuple[int, str]] = set()

    def find_spec(
        self, fullname: str, path: "Sequence[str] | None" = None, target: "ModuleType | None" = None
    ) -> "ModuleSpec | None":
        """Find a watched module; None for every other one."""
        if fullname not in WATCHED:
            return None

        search = (get_ident(), fullname)
        if search in self._searching:
            return None

        self._searching.add(search)
        try:
            spec = self._ask_others(fullname, path, target)
        finally:
            self._searching.discard(search)

        if spec is not None and hasattr(spec.loader, "exec_module"):
            spec.loader = _PatchingLoader(spec.loader, spec)  # type: ignore[assignment]  # a stand-in, by duck typing
        return spec

    def _ask_others(
        self, fullname: str, path: "Sequence[str] | None", target: "ModuleType | None"
    ) -> "ModuleSpec | None":
        # Finders ahead of us have been asked by whoever asks us.
        finders = list(sys.meta_path)
        behind = finders[finders.index(self) + 1 :] if self in finders else finders
        for finder in behind:
            find_spec = getattr(finder, "find_spec", None)
            spec: ModuleSpec | None = None if find_spec is None else find_spec(fullname, path, target)
            if spec is not None:
                return spec
        return None


_finder = _PostImportFinder()


def is_disabled() -> bool:
    """Whether the environment variable `OGPSA_DISABLE` switches the plugin off."""
    return os.environ.get("OGPSA_DISABLE", "").strip().lower() in ("1", "true", "yes", "on")


def is_active() -> bool:
    """Whether the hook is in place in this process."""
    return _finder in sys.meta_path


def patched() -> list[str]:
    """Names of the modules of LLaMA-Factory that carry our patches in this process."""
    return sorted(_patched)


def install_hook() -> None:
    """Put the hook in place, unless it is there already or `OGPSA_DISABLE` is set. Imports nothing else."""
    if not is_disabled() and not is_active():
        sys.meta_path.insert(0, _finder)


def install() -> None:
    """Hook the plugin into LLaMA-Factory, whether or not it has been imported already.

    Only needed where `ogpsa_factory.pth` does not run (a zipped application, `python -S`); calling it again does
    nothing. `OGPSA_DISABLE=1` switches this off as well.

    Raises:
        OGPSAError: LLaMA-Factory is imported already and cannot be patched.
    """
    install_hook()
    if is_disabled():
        return

    for name in WATCHED:
        module = sys.modules.get(name)
        if module is None or _patched.get(name) is module:
            continue

        try:
            _patch(name, module)
        except Exception as reason:
            from .errors import OGPSAError

            problems.append(_describe(name, reason))
            raise OGPSAError(problems[-1]) from reason


def _patch(name: str, module: "ModuleType") -> None:
    function = WATCHED[name]
    patches = __import__("ogpsa_factory.llamafactory.patches", fromlist=[function])
    getattr(patches, function)(module)
    _patched[name] = module


def _describe(name: str, reason: Exception) -> str:
    version = getattr(sys.modules.get("llamafactory"), "__version__", "(unknown version)")
    return f"could not hook into LLaMA-Factory {version}: {name}: {type(reason).__name__}: {reason}"


def _report(name: str, reason: Exception) -> None:
    """Remember the problem; tell the user about the first one of this process."""
    problems.append(_describe(name, reason))
    if len(problems) > 1 or sys.stderr is None:
        return

    message = (
        f"ogpsa_factory: {problems[0]}. Plain LLaMA-Factory goes on; run `ogpsa doctor` to see what is wrong, "
        "or set OGPSA_DISABLE=1 to switch the plugin off."
    )
    try:
        print(message, file=sys.stderr)
    except (OSError, ValueError):  # standard error is a broken pipe or closed: the import matters more
        pass
