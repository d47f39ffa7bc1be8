"""The start-up hook: packaging, what it patches and when, and that nothing it does stops a Python process.

Every test runs interpreters of an empty environment that holds our wheel, a stand-in for LLaMA-Factory with the two
watched modules, and stand-ins for the patches, so that what is tested is the hook alone and takes milliseconds.
"""

import base64
import csv
import hashlib
import io
import os
import shutil
import subprocess
import sys
import venv
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest


ROOT = Path(__file__).parents[1]
START_UP_FILES = ("ogpsa_factory.pth", "ogpsa_factory.start")

PATCHES = """
def patch_parser(module):
    module.patched = getattr(module, "patched", 0) + module.FRESH
    module.FRESH = 0

patch_tuner = patch_parser
"""


@dataclass
class Environment:
    """An empty Python environment, and what a test wants to do in it."""

    folder: Path

    @property
    def python(self) -> Path:
        return self.folder / "bin" / "python"

    @property
    def site_packages(self) -> Path:
        return next((self.folder / "lib").glob("python*/site-packages"))

    @property
    def package(self) -> Path:
        return self.site_packages / "ogpsa_factory"

    def run(self, code: str, **variables: str) -> subprocess.CompletedProcess[str]:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("OGPSA_", "PYTHON"))}
        return subprocess.run(
            [self.python, "-c", code],
            env={**inherited, **variables},
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=60,
        )

    def printed(self, code: str, **variables: str) -> str:
        """What a process prints that must succeed and must not make a noise."""
        process = self.run(code, **variables)
        assert (process.returncode, process.stderr) == (0, "")
        return process.stdout.strip()


@pytest.fixture(scope="session")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what wheels are built from, as building leaves files behind."""
    folder = tmp_path_factory.mktemp("sources")
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    shutil.copytree(ROOT / "evaluation", folder / "evaluation")
    shutil.copytree(ROOT / "src", folder / "src", ignore=shutil.ignore_patterns("*.egg-info", "__pycache__"))
    return folder


@pytest.fixture(scope="session")
def wheel(sources: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(sources)]
    subprocess.run(build, check=True, capture_output=True)
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="session")
def editable_wheel(sources: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("editable")
    code = "import sys, setuptools.build_meta as backend; backend.build_editable(sys.argv[1])"
    subprocess.run([sys.executable, "-c", code, str(folder)], cwd=sources, check=True, capture_output=True)
    return next(folder.glob("*.whl"))


@pytest.fixture
def bare(tmp_path: Path) -> Environment:
    """An environment with nothing but a stand-in for LLaMA-Factory."""
    environment = Environment(tmp_path / "environment")
    venv.create(environment.folder, with_pip=False, symlinks=True)
    fake = environment.site_packages / "llamafactory"
    for package in (fake, fake / "hparams", fake / "train"):
        package.mkdir()
        (package / "__init__.py").touch()
    (fake / "__init__.py").write_text("__version__ = '7.8.9'\n")
    (fake / "hparams" / "parser.py").write_text("FRESH = 1\ndef get_train_args(): pass\n")
    (fake / "train" / "tuner.py").write_text("from ..hparams import parser\nFRESH = 1\n")
    return environment


@pytest.fixture
def environment(bare: Environment, wheel: Path) -> Environment:
    """The same with our wheel unpacked, in which stand-ins take the place of the patches."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(bare.site_packages)
    (bare.package / "llamafactory" / "patches.py").write_text(PATCHES)
    return bare


@pytest.mark.parametrize("kind", ["wheel", "editable_wheel"])
def test_wheels_list_the_start_up_files_in_their_record(kind: str, request: pytest.FixtureRequest) -> None:
    with zipfile.ZipFile(request.getfixturevalue(kind)) as archive:
        names = archive.namelist()
        assert set(START_UP_FILES) < set(names)
        assert len(set(names)) == len(names)

        record_name = next(name for name in names if name.endswith(".dist-info/RECORD"))
        record = {row[0]: row[1:] for row in csv.reader(io.StringIO(archive.read(record_name).decode()))}
        assert set(record) == set(names)
        for name in set(names) - {record_name}:
            content = archive.read(name)
            digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
            assert record[name] == [f"sha256={digest}", str(len(content))]


def test_both_kinds_of_wheel_hold_the_same_start_up_files(wheel: Path, editable_wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as regular, zipfile.ZipFile(editable_wheel) as editable:
        for name in START_UP_FILES:
            assert regular.read(name) == editable.read(name)
        assert len(regular.read("ogpsa_factory.pth").decode().splitlines()) == 1
        assert regular.read("ogpsa_factory.pth").startswith(b"import ")


def test_a_wheel_holds_what_evaluation_reads(wheel: Path) -> None:
    there = {path.relative_to(ROOT).as_posix() for path in (ROOT / "evaluation").rglob("*") if path.is_file()}
    with zipfile.ZipFile(wheel) as archive:
        assert {f"ogpsa_factory/{path}" for path in there} <= set(archive.namelist())
    assert {"evaluation/suites/paper.yaml", "evaluation/tasks/_judged", "evaluation/paper/table1.csv"} <= there


def test_start_file_names_a_function_that_installs_the_hook(environment: Environment) -> None:
    (environment.site_packages / "ogpsa_factory.pth").unlink()
    entry_point = (environment.site_packages / "ogpsa_factory.start").read_text().strip()
    module, _, function = entry_point.partition(":")
    code = f"import {module} as m; m.{function}(); import llamafactory.train.tuner as t; print(t.patched)"
    assert environment.printed(code) == "1"


def test_editable_wheel_hooks_in(bare: Environment, editable_wheel: Path, sources: Path) -> None:
    with zipfile.ZipFile(editable_wheel) as archive:
        archive.extractall(bare.site_packages)
    code = (
        "import sys; print(sys.modules['ogpsa_factory._startup'].is_active(), sys.modules['ogpsa_factory'].__file__)"
    )
    assert bare.printed(code) == f"True {sources / 'src' / 'ogpsa_factory' / '__init__.py'}"


def test_uninstalling_leaves_no_trace(bare: Environment, wheel: Path) -> None:
    def files() -> set[Path]:
        return {path for path in bare.folder.rglob("*") if "__pycache__" not in path.parts}

    before = files()
    pip = [sys.executable, "-m", "pip", "--python", str(bare.python), "--disable-pip-version-check"]
    subprocess.run([*pip, "install", "--quiet", "--no-deps", "--no-index", str(wheel)], check=True)
    assert bare.printed("import sys; print('ogpsa_factory' in sys.modules)") == "True"

    subprocess.run([*pip, "uninstall", "--quiet", "--yes", "ogpsa_factory"], check=True)
    assert files() == before
    assert bare.printed("import sys; print('ogpsa_factory' in sys.modules)") == "False"


def test_a_process_without_llamafactory_imports_two_modules_more(environment: Environment) -> None:
    code = "import sys; print(*sorted(sys.modules))"
    hooked = set(environment.printed(code).split())
    (environment.site_packages / "ogpsa_factory.pth").unlink()
    plain = set(environment.printed(code).split())
    assert hooked - plain == {"ogpsa_factory", "ogpsa_factory._startup"}


def test_importing_the_package_imports_nothing_else(environment: Environment) -> None:
    (environment.site_packages / "ogpsa_factory.pth").unlink()
    code = (
        "import sys; before = set(sys.modules); import ogpsa_factory as o; print(*(set(sys.modules) - before), o.{})"
    )
    assert environment.printed(code.format("__version__")) == "ogpsa_factory 0.1.0"
    assert "no attribute 'nonsense'" in environment.run(code.format("nonsense")).stderr
    assert environment.printed("from ogpsa_factory import OGPSAError as E; print(E.__name__)") == "OGPSAError"


def test_watched_modules_are_patched_once_each(environment: Environment) -> None:
    code = (
        "import sys, llamafactory\n"
        "print('ogpsa_factory.llamafactory.patches' in sys.modules)\n"
        "from llamafactory.train import tuner\n"
        "from llamafactory.hparams import parser\n"
        "from ogpsa_factory import _startup\n"
        "print(tuner.patched, parser.patched, _startup.problems, *_startup.patched())\n"
    )
    expected = "False\n1 1 [] llamafactory.hparams.parser llamafactory.train.tuner"
    assert environment.printed(code) == expected


def test_child_processes_are_hooked(environment: Environment) -> None:
    child = "import llamafactory.train.tuner as t; print(t.patched)"
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}], check=True)"
    assert environment.printed(code) == "1"
    assert environment.printed(code.replace("'-c'", "'-I', '-c'")) == "1"


def test_modules_look_as_if_there_were_no_hook(environment: Environment) -> None:
    code = (
        "import importlib.util, inspect, sys\n"
        "spec = importlib.util.find_spec('llamafactory.hparams.parser')\n"
        "print('FRESH' in spec.loader.get_source(spec.name), spec.origin == spec.loader.path)\n"
        "print('llamafactory.hparams.parser' in sys.modules)\n"
        "from llamafactory.hparams import parser\n"
        "print(type(parser.__loader__).__name__, parser.__spec__.loader is parser.__loader__)\n"
        "print(inspect.getsource(parser.get_train_args).strip())\n"
    )
    assert environment.printed(code).splitlines() == [
        "True True",
        "False",
        "SourceFileLoader True",
        "def get_train_args(): pass",
    ]


def test_reloading_a_module_patches_it_again(environment: Environment) -> None:
    code = "import importlib, llamafactory.train.tuner as t; importlib.reload(t); print(t.patched, t.FRESH)"
    assert environment.printed(code) == "2 0"


@pytest.mark.parametrize("value", ["1", "true", "YES", "on"])
@pytest.mark.parametrize("explicit", ["", "; import ogpsa_factory; ogpsa_factory.install()"])
def test_switched_off(environment: Environment, value: str, explicit: str) -> None:
    code = f"import llamafactory.hparams.parser as p{explicit}; print(hasattr(p, 'patched'))"
    assert environment.printed(code, OGPSA_DISABLE=value) == "False"
    code = f"import sys{explicit}; import llamafactory.train.tuner as t; print(hasattr(t, 'patched'))"
    assert environment.printed(code, OGPSA_DISABLE=value) == "False"


@pytest.mark.parametrize("value", ["", "0", "false", "no"])
def test_not_switched_off(environment: Environment, value: str) -> None:
    code = "import llamafactory.train.tuner as t; print(t.patched)"
    assert environment.printed(code, OGPSA_DISABLE=value) == "1"


def test_explicit_installation_before_and_after_the_import(environment: Environment) -> None:
    (environment.site_packages / "ogpsa_factory.pth").unlink()
    code = (
        "import ogpsa_factory, sys\n"
        "from llamafactory.hparams import parser\n"
        "print(hasattr(parser, 'patched'))\n"
        "before = len(sys.meta_path)\n"
        "ogpsa_factory.install(); parser.FRESH = 1; ogpsa_factory.install()\n"
        "from llamafactory.train import tuner\n"
        "print(parser.patched, tuner.patched, len(sys.meta_path) - before)\n"
    )
    assert environment.printed(code) == "False\n1 1 1"


def test_explicit_installation_raises_where_it_cannot_patch(environment: Environment) -> None:
    (environment.package / "llamafactory" / "patches.py").write_text("def patch_parser(module): raise KeyError('x')\n")
    code = (
        "import llamafactory.hparams.parser, ogpsa_factory\n"
        "try: ogpsa_factory.install()\n"
        "except ogpsa_factory.OGPSAError as error: print(error)\n"
    )
    process = environment.run(code)
    assert "could not hook into LLaMA-Factory 7.8.9: llamafactory.hparams.parser: KeyError: 'x'" in process.stdout


@pytest.mark.parametrize("content", ["def patch_parser(:\n", "import missing_module\n", "raise RuntimeError\n", ""])
def test_broken_patches_are_reported_once_and_stop_nothing(environment: Environment, content: str) -> None:
    (environment.package / "llamafactory" / "patches.py").write_text(content)
    code = (
        "import llamafactory.train.tuner as t, llamafactory.hparams.parser as p\n"
        "from ogpsa_factory import _startup\n"
        "print(t.FRESH, p.FRESH, len(_startup.problems), _startup.patched())\n"
    )
    process = environment.run(code)
    assert (process.returncode, process.stdout.strip()) == (0, "1 1 2 []")
    assert process.stderr.count("\n") == 1
    assert process.stderr.startswith("ogpsa_factory: could not hook into LLaMA-Factory 7.8.9: ")
    assert "ogpsa doctor" in process.stderr


@pytest.mark.parametrize("silence", ["sys.stderr = None", "sys.stderr.close()"])
def test_broken_patches_stop_nothing_without_standard_error(environment: Environment, silence: str) -> None:
    (environment.package / "llamafactory" / "patches.py").write_text("raise RuntimeError\n")
    code = f"import sys; {silence}; import llamafactory.train.tuner as t; print(t.FRESH)"
    assert environment.run(code).stdout.strip() == "1"


@pytest.mark.parametrize("file", ["__init__.py", "_startup.py"])
@pytest.mark.parametrize("content", ["def broken(:\n", "raise RuntimeError\n", "import missing_module\n"])
def test_a_damaged_package_is_not_noticed_by_python(environment: Environment, file: str, content: str) -> None:
    (environment.package / file).write_text(content)
    assert environment.printed("import llamafactory.train.tuner as t; print(t.FRESH)") == "1"


def test_a_half_removed_package_is_not_noticed_by_python(environment: Environment) -> None:
    (environment.package / "_startup.py").unlink()
    assert environment.printed("import llamafactory.train.tuner as t; print(t.FRESH)") == "1"


def test_a_removed_package_is_not_noticed_by_python(environment: Environment) -> None:
    shutil.rmtree(environment.package)
    assert environment.printed("import llamafactory.train.tuner as t; print(t.FRESH)") == "1"


def test_an_error_in_llamafactory_stays_its_own(environment: Environment) -> None:
    parser = environment.site_packages / "llamafactory" / "hparams" / "parser.py"
    parser.write_text("import os\nif 'BROKEN' in os.environ: raise ImportError('its own')\nFRESH = 1\n")
    code = (
        "import os\n"
        "try: import llamafactory.hparams.parser\n"
        "except ImportError as error: print(error)\n"
        "del os.environ['BROKEN']\n"
        "import llamafactory.hparams.parser as p; print(p.patched)\n"
    )
    assert environment.printed(code, BROKEN="1") == "its own\n1"


def test_a_missing_module_is_an_ordinary_import_error(environment: Environment) -> None:
    shutil.rmtree(environment.site_packages / "llamafactory")
    assert environment.run("import llamafactory.train.tuner").stderr.endswith("No module named 'llamafactory'\n")


@pytest.mark.parametrize("position", [0, 1])
def test_another_hook_that_asks_all_finders(environment: Environment, position: int) -> None:
    code = (
        "import sys\n"
        "class Hook:\n"
        "    def find_spec(self, *args):\n"
        "        for finder in sys.meta_path:\n"
        "            if finder is not self and (spec := finder.find_spec(*args)) is not None:\n"
        "                return spec\n"
        f"sys.meta_path.insert({position}, Hook())\n"
        "import llamafactory.train.tuner as t; print(t.patched)\n"
    )
    assert environment.printed(code) == "1"


def test_threads_that_import_at_once(environment: Environment) -> None:
    code = (
        "import concurrent.futures, importlib\n"
        "with concurrent.futures.ThreadPoolExecutor(8) as pool:\n"
        "    names = ['llamafactory.train.tuner', 'llamafactory.hparams.parser'] * 8\n"
        "    print({module.patched for module in pool.map(importlib.import_module, names)})\n"
    )
    assert environment.printed(code) == "{1}"


@pytest.mark.slow
@pytest.mark.parametrize("disabled", [False, True])
def test_the_real_llamafactory(disabled: bool) -> None:
    code = (
        "from llamafactory.hparams import parser\n"
        "from ogpsa_factory import _startup\n"
        "import llamafactory.train.tuner\n"
        "print('RESULT', len(_startup.patched()), 'use_ogpsa' in parser._TRAIN_ARGS[3].__dataclass_fields__)\n"
    )
    variables = {**os.environ, "OGPSA_DISABLE": "1" if disabled else "0"}
    process = subprocess.run([sys.executable, "-c", code], env=variables, capture_output=True, text=True)
    assert ("RESULT 0 False" if disabled else "RESULT 2 True") in process.stdout, process.stderr
    assert "could not hook" not in process.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    "launcher, ranks",
    [
        ("torch.distributed.run --nproc-per-node 2 --master-port 0", ["0", "1"]),
        ("accelerate.commands.launch --cpu --num_processes 1", ["0"]),
    ],
    ids=["torchrun", "accelerate"],
)
def test_processes_of_a_launcher_are_hooked(launcher: str, ranks: list[str], tmp_path: Path) -> None:
    script = tmp_path / "rank.py"
    script.write_text(
        "import os, pathlib, sys\n"
        "active = sys.modules['ogpsa_factory._startup'].is_active()\n"
        f"pathlib.Path({str(tmp_path)!r}, 'rank' + os.environ.get('RANK', '0')).write_text(str(active))\n"
    )
    variables = {name: value for name, value in os.environ.items() if name != "OGPSA_DISABLE"}
    command = [sys.executable, "-m", *launcher.split(), str(script)]
    subprocess.run(command, env=variables, check=True, capture_output=True)
    written = {path.name: path.read_text() for path in tmp_path.glob("rank?")}
    assert written == {f"rank{rank}": "True" for rank in ranks}
