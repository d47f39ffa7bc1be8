"""LLaMA-Factory's registry of data sets, `dataset_info.json`: read with suspicion, changed and the rest left alone."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..errors import OGPSAError
from ..files import locked, write_text
from .json_values import parse_json, with_member


INFO_FILE = "dataset_info.json"
LOCK_FILE = ".dataset_info.lock"
ROLE_KEY = "ogpsa_role"  # safety, reference or general, in an entry; LLaMA-Factory does not look at it
HUBS = ("hf_hub_url", "ms_hub_url", "om_hub_url", "script_url", "cloud_file_name")
_PATIENCE = 10.0  # seconds; who holds the lock writes one small file


class Registry:
    """The registry of one data folder (LLaMA-Factory's `dataset_dir`)."""

    def __init__(self, dataset_dir: Path) -> None:
        """Read the registry; a folder without one has no entries.

        Args:
            dataset_dir: the folder.

        Raises:
            OGPSAError: the registry cannot be read, or is no JSON object of objects.
        """
        self.dataset_dir = dataset_dir
        self.path = dataset_dir / INFO_FILE
        self.entries: dict[str, dict[str, Any]] = {}
        self._read()

    def _read(self) -> str:
        try:
            text = self.path.read_bytes().decode("utf-8")
        except FileNotFoundError:
            self.entries = {}
            return "{}\n"
        except UnicodeDecodeError as error:
            raise OGPSAError(f"{self.path} is not in UTF-8 (byte {error.start}): save it in UTF-8.") from None
        except (OSError, ValueError) as error:  # ValueError: a null byte in the folder's name
            reason = error.strerror if isinstance(error, OSError) else error
            raise OGPSAError(f"Cannot read {self.path}: {reason}.") from None
        self.entries = self._parse(text)
        return text

    def _parse(self, text: str) -> dict[str, dict[str, Any]]:
        try:
            value = parse_json(text)
        except ValueError as error:
            raise OGPSAError(f"{self.path} is no JSON: {error}. Mend it first; nothing was changed.") from None
        if not isinstance(value, dict):
            raise OGPSAError(f"{self.path} must hold a JSON object that maps names of data sets to their entries.")
        for name, entry in value.items():
            if not isinstance(entry, dict):
                raise OGPSAError(
                    f"{self.path}: the entry of {name} must be an object in braces, and is {str(entry)[:80]}."
                )
        return value

    def entry(self, name: str) -> dict[str, Any]:
        """The entry of a name.

        Args:
            name: of a data set.

        Returns:
            What the registry says of it.

        Raises:
            OGPSAError: there is none; the message has the nearest names.
        """
        if name not in self.entries:
            near = difflib.get_close_matches(name, self.entries, n=3, cutoff=0.4) or sorted(self.entries)[:10]
            hint = f"The nearest names there: {', '.join(near)}." if near else "It has no entries."
            raise OGPSAError(f"{name} is not in {self.path}. {hint}")
        return self.entries[name]

    def file_of(self, name: str, *, outside: bool = False) -> Path:
        """The file (or folder of files) of an entry.

        Args:
            name: of a data set.
            outside: whether it may lie outside of the data folder.

        Returns:
            Its path.

        Raises:
            OGPSAError: the entry has no local file, the file leaves the data folder, or it does not exist.
        """
        entry = self.entry(name)
        where = f"{name} in {self.path}"
        file_name = entry.get("file_name")
        if file_name is None:
            hub = next((key for key in HUBS if key in entry), None)
            raise OGPSAError(
                f"{where} comes from elsewhere ({hub}: {entry[hub]}), so there is no file to read here."
                if hub
                else f"{where} has no file_name, so it stands for no data."
            )
        if not isinstance(file_name, str) or not file_name.strip() or "\0" in file_name:
            raise OGPSAError(f"{where}: file_name: {file_name!r} is no file name.")
        path = self.dataset_dir / file_name
        try:
            inside = path.resolve().is_relative_to(self.dataset_dir.resolve())
            exists = path.exists()
        except (OSError, RuntimeError) as error:  # a name that is too long, a loop of links
            raise OGPSAError(f"{where}: file_name: {file_name} cannot be followed: {error}.") from None
        if not inside and not outside:
            how = "is an absolute path" if Path(file_name).is_absolute() else "leaves it"
            if path.is_symlink() and ".." not in Path(file_name).parts and not Path(file_name).is_absolute():
                how = "is a symbolic link that leaves it"
            raise OGPSAError(
                f"{where}: data must lie in {self.dataset_dir}, and file_name: {file_name} {how}. Copy the file there "
                "(`ogpsa data add` does), or pass --allow-outside to `ogpsa data check` if you trust this registry."
            )
        if not exists:
            raise OGPSAError(f"{where}: the file {path} does not exist.")
        return path

    def register(self, entries: Mapping[str, dict[str, Any]], *, replace: bool = False) -> list[str]:
        """Add entries behind the others; all else in the file keeps its bytes. The old file stays as `….json.bak`.

        Args:
            entries: by name.
            replace: whether entries of the same names are replaced.

        Returns:
            The names whose entries have changed.

        Raises:
            OGPSAError: another entry has one of the names, another process does not let go of the registry, or it
                cannot be written; then it is as it was.
        """
        with self.registration(entries, replace=replace) as commit:
            return commit()

    @contextmanager
    def registration(
        self, entries: Mapping[str, dict[str, Any]], *, replace: bool = False
    ) -> Iterator[Callable[[], list[str]]]:
        """Hold the registry alone, having seen that the entries may be added, until they are.

        So files can be written that belong to the entries: whatever speaks against registering them is known before.

        Args:
            entries: by name.
            replace: whether entries of the same names are replaced.

        Yields:
            A function that registers the entries and returns the names of those that have changed.

        Raises:
            OGPSAError: as `register`.
        """
        busy = f"Another process is changing {self.path}: try again when it ends."
        with locked(self.dataset_dir / LOCK_FILE, busy, _PATIENCE):
            if self.path.is_symlink():
                target = self.path.resolve().parent
                raise OGPSAError(f"{self.path} is a symbolic link: name the folder it leads to, {target}, instead.")
            before = self._read()
            changed = self.check_free(entries, replace=replace)

            def commit() -> list[str]:
                text = before
                for name in changed:
                    text = with_member(text, name, entries[name])
                self.entries = self._parse(text)  # what is written can be read
                if changed and self.path.exists():
                    write_text(self.path.with_name(INFO_FILE + ".bak"), before)
                if changed:
                    write_text(self.path, text)
                return changed

            yield commit

    def check_file(self, path: Path, name: str) -> None:
        """Refuse to write a set's file in the place of something else.

        Args:
            path: the file.
            name: of the set.

        Raises:
            OGPSAError: it is the registry, or the file of another entry.
        """
        if path.name in (INFO_FILE, INFO_FILE + ".bak", LOCK_FILE):
            raise OGPSAError(f"{path} is the registry's own file: choose another --name.")
        files = {other: entry.get("file_name") for other, entry in self.entries.items() if other != name}
        owners = [other for other, file in files.items() if isinstance(file, str) and "\0" not in file]
        owners = [other for other in owners if _same(self.dataset_dir / str(files[other]), path)]
        if owners:
            raise OGPSAError(f"{path} is the file of {', '.join(owners)}: choose another --name.")

    def check_free(self, entries: Mapping[str, dict[str, Any]], *, replace: bool = False) -> list[str]:
        """Refuse to put entries in the place of others.

        Args:
            entries: by name.
            replace: whether entries of the same names may be replaced.

        Returns:
            The names that are new or whose entries differ.

        Raises:
            OGPSAError: another entry has one of the names.
        """
        changed = [name for name, entry in entries.items() if self.entries.get(name) != entry]
        taken = [name for name in changed if name in self.entries]
        if taken and not replace:
            raise OGPSAError(
                f"{self.path} has other entries of the name{'s' * (len(taken) > 1)} {', '.join(taken)}. Choose "
                "other names, remove the entries, or replace them with --replace. Nothing was registered."
            )
        return changed


def _same(one: Path, other: Path) -> bool:
    try:
        return one.resolve() == other.resolve()
    except (OSError, RuntimeError):  # a loop of links
        return False
