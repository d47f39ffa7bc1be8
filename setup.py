"""Puts the two start-up files at the top of site-packages; everything else about the package is in pyproject.toml.

`ogpsa_factory.pth` is what makes LLaMA-Factory understand OGPSA in every process it starts. Setuptools has no setting
for a file outside a package, and its editable mode ignores such files even where `build_py` makes them, hence two
commands. Both list the files in the wheel's RECORD, so that `pip uninstall` removes them.
"""

import base64
import hashlib
import shutil
import zipfile
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py
from setuptools.command.editable_wheel import editable_wheel


START_UP_FILES = {
    # `site` executes a line that starts with "import". The package may be half removed or broken by then: whatever
    # happens, a Python process that has nothing to do with LLaMA-Factory must start, and without noise.
    "ogpsa_factory.pth": (
        "import sys; exec('try:\\n"
        " from ogpsa_factory import _startup\\n"
        " _startup.install_hook()\\n"
        "except Exception:\\n"
        " pass')\n"
    ),
    # From Python 3.15 on (PEP 829) the entry point here takes the place of the line above.
    "ogpsa_factory.start": "ogpsa_factory._startup:install_hook\n",
}


# Suites, tasks and quoted figures of `ogpsa evaluate` and `report`, which an editable install finds in the checkout.
EVALUATION_FILES = sorted(path for path in Path("evaluation").rglob("*") if path.is_file())


class BuildPyWithStartUpFiles(build_py):
    """Adds the start-up files, and those of the evaluation, to a regular wheel."""

    def run(self) -> None:
        """Build the modules, then write the start-up files beside the top-level packages."""
        super().run()
        if not self._is_editable():
            for name, content in START_UP_FILES.items():
                Path(self.build_lib, name).write_text(content, encoding="utf-8")
            for path in EVALUATION_FILES:
                place = self._place(path)
                place.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, place)

    def get_outputs(self, include_bytecode: bool = True) -> list[str]:
        """List what `run` writes."""
        outputs: list[str] = super().get_outputs(include_bytecode)
        if self._is_editable():
            return outputs
        files = [Path(self.build_lib, name) for name in START_UP_FILES]
        return outputs + [str(path) for path in [*files, *map(self._place, EVALUATION_FILES)]]

    def _place(self, path: Path) -> Path:
        return Path(self.build_lib, "ogpsa_factory", path)

    def _is_editable(self) -> bool:
        return bool(getattr(self, "editable_mode", False))


class EditableWheelWithStartUpFiles(editable_wheel):
    """Adds the start-up files to the wheel behind `pip install -e`."""

    def run(self) -> None:
        """Build the editable wheel, then add the start-up files to it."""
        super().run()
        for wheel in Path(self.dist_dir).glob("ogpsa_factory-*.editable-*.whl"):
            add_to_wheel(wheel, START_UP_FILES)


def add_to_wheel(wheel: Path, files: dict[str, str]) -> None:
    """Rewrite a wheel with more files at its top, listed in its RECORD.

    Only the wheel format is relied on, not on how setuptools makes one: its internals change between versions.

    Args:
        wheel: the wheel, which is replaced.
        files: file names and what is in them.
    """
    with zipfile.ZipFile(wheel) as archive:
        members = [(info, archive.read(info)) for info in archive.infolist() if info.filename not in files]

    with zipfile.ZipFile(wheel, "w", compression=zipfile.ZIP_DEFLATED) as archive:
        for info, content in members:
            if not info.filename.endswith(".dist-info/RECORD"):
                archive.writestr(info, content)
        for name, text in files.items():
            archive.writestr(name, text)
        for info, content in members:
            if info.filename.endswith(".dist-info/RECORD"):
                known = [row for row in content.decode().splitlines() if row.partition(",")[0] not in files]
                rows = known + [record_row(name, text.encode()) for name, text in files.items()]
                archive.writestr(info, "\n".join(rows) + "\n")


def record_row(name: str, content: bytes) -> str:
    """Describe one file the way a wheel's RECORD does: name, SHA-256 in URL-safe base64 without padding, size."""
    digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
    return f"{name},sha256={digest},{len(content)}"


# `license` stands here because pyproject.toml has two forms for it, one refused by old versions of setuptools and one
# by new ones.
setup(
    license="Apache-2.0",
    cmdclass={"build_py": BuildPyWithStartUpFiles, "editable_wheel": EditableWheelWithStartUpFiles},
)
