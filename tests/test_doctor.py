"""`ogpsa doctor`: each thing that can be wrong with an environment, and the sentence that says so."""

import argparse
import importlib
import json
import subprocess
import sys
from collections.abc import Callable
from email.message import Message
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from ogpsa_factory import _startup, doctor
from ogpsa_factory.engines import SUPPORT
from ogpsa_factory.llamafactory import compat


@pytest.fixture
def healthy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An environment in which all is well, whatever this machine has, without importing LLaMA-Factory."""
    own = Message()
    own["Requires-Python"] = ">=3.11"
    own["Requires-Dist"] = "torch<99,>=2"
    own["Requires-Dist"] = 'lm_eval<99,>=0.1; extra == "evaluate"'
    (tmp_path / "ogpsa_factory.pth").touch()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(doctor, "NVIDIA_DRIVER", tmp_path / "no_driver")
    monkeypatch.setattr(metadata, "metadata", lambda name: own)
    monkeypatch.setattr(metadata, "version", lambda name: "3.0")
    monkeypatch.setattr(compat, "missing", list)
    monkeypatch.setattr(_startup, "is_active", lambda: True)
    monkeypatch.setattr(_startup, "problems", [])
    monkeypatch.setattr(_startup, "patched", lambda: list(_startup.WATCHED))
    monkeypatch.delenv("OGPSA_DISABLE", raising=False)


def only_problem() -> str:
    """The one problem that is found."""
    [problem] = doctor.examine().problems
    return problem


@pytest.mark.usefixtures("healthy")
class TestDoctor:
    def test_all_is_well(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        monkeypatch.setenv("COLUMNS", "200")  # or long names are broken into lines
        assert doctor.run(argparse.Namespace(json=False)) == 0
        printed = capsys.readouterr().out
        assert "All is well" in printed
        assert all(engine in printed for engine in SUPPORT)

    def test_json_is_all_there_is_on_standard_output(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        def missing() -> list[str]:
            print("LLaMA-Factory greets you")
            return ["it lacks a thing."]

        monkeypatch.setattr(compat, "missing", missing)
        assert doctor.run(argparse.Namespace(json=True)) == 1
        result = json.loads(capsys.readouterr().out)
        assert result["ok"] is False
        assert result["engines"] == SUPPORT
        assert result["hook"]["active"] is True
        assert {version["name"] for version in result["versions"]} >= {"python", "torch", "ray"}

    def test_ranges_come_from_the_metadata(self) -> None:
        ranges = {version.name: (version.tried, version.inside) for version in doctor.examine().versions}
        assert ranges["torch"] == (">=2,<99", True)
        assert ranges["lm_eval"] == (">=0.1,<99", True)
        assert ranges["python"] == (">=3.11", True)
        assert ranges["ray"] == ("", None)

    def test_untried_version(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(metadata, "version", lambda name: "99.1" if name == "torch" else "3.0")
        problem = only_problem()
        assert "torch 99.1 is outside the range that was tried (>=2,<99)" in problem
        assert "`pip install 'torch>=2,<99' 'torchvision' 'torchaudio'`" in problem

    def test_local_and_development_versions_count_as_their_release(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(metadata, "version", lambda name: "3.0.dev1+cpu" if name == "torch" else "3.0")
        assert doctor.examine().problems == []

    @pytest.mark.parametrize("name, problems", [("trl", 1), ("lm_eval", 0)])
    def test_missing_package(self, monkeypatch: pytest.MonkeyPatch, name: str, problems: int) -> None:
        def version(asked: str) -> str:
            if asked == name:
                raise metadata.PackageNotFoundError(asked)
            return "3.0"

        monkeypatch.setattr(metadata, "version", version)
        expected = [f"{name} is not installed. Run `pip install '{name}'`."] * problems
        assert doctor.examine().problems == expected

    def test_package_that_is_not_installed_itself(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def not_found(name: str) -> Message:
            raise metadata.PackageNotFoundError(name)

        monkeypatch.setattr(metadata, "metadata", not_found)
        assert "pip install -e ." in only_problem()

    @pytest.mark.parametrize("value", ["1", "true"])
    def test_switched_off(self, monkeypatch: pytest.MonkeyPatch, value: str) -> None:
        monkeypatch.setenv("OGPSA_DISABLE", value)
        monkeypatch.setattr(_startup, "is_active", lambda: False)
        assert f"OGPSA_DISABLE is '{value}'" in only_problem()

    def test_no_start_up_file(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setattr(sys, "path", [str(tmp_path / "elsewhere")])
        assert "ogpsa_factory.pth is in no folder of sys.path" in only_problem()

    def test_start_up_file_that_was_not_run(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setattr(_startup, "is_active", lambda: False)
        assert f"{tmp_path / 'ogpsa_factory.pth'} was not run" in only_problem()

    @pytest.mark.parametrize("error", [OSError("libcudart.so.13: no such file"), RuntimeError("two\nlines")])
    def test_torchaudio_for_another_torch(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: Exception
    ) -> None:
        monkeypatch.setattr(importlib, "import_module", failing_import("torchaudio", error))
        assert doctor.run(argparse.Namespace(json=True)) == 1
        [problem] = json.loads(capsys.readouterr().out)["problems"]
        assert problem.startswith(f"`import torchaudio` fails ({type(error).__name__}: ")
        assert "torch 3.0, torchvision 3.0, torchaudio 3.0 are not from one release" in problem
        assert "`pip install 'torch>=2,<99' 'torchvision' 'torchaudio'`" in problem
        assert "\n" not in problem

    def test_attribute_that_llamafactory_lacks_is_reported_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        sentence = "LLaMA-Factory 9 has no run_sft."
        monkeypatch.setattr(compat, "missing", lambda: [sentence])
        monkeypatch.setattr(_startup, "problems", [f"could not hook in: {sentence}"])
        assert only_problem() == f"{sentence} Run `pip install 'llamafactory'`."

    def test_llamafactory_that_raises_what_it_likes(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(compat, "missing", lambda: [][1])
        assert "LLaMA-Factory cannot be imported (IndexError: " in only_problem()

    def test_patches_that_failed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(_startup, "problems", ["could not hook in: KeyError: 'x'"])
        assert only_problem().startswith("could not hook in: KeyError: 'x'. Install ogpsa_factory anew")

    def test_modules_that_went_past_the_hook(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(_startup, "patched", list)
        monkeypatch.setitem(sys.modules, "llamafactory.train.tuner", sys)
        monkeypatch.delitem(sys.modules, "llamafactory.hparams.parser", raising=False)
        assert only_problem().startswith("llamafactory.train.tuner went past the hook")

    @pytest.mark.parametrize("visible, problems", [(None, 1), ("0", 1), ("", 0), ("-1", 0)])
    def test_driver_without_a_device(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, visible: str | None, problems: int
    ) -> None:
        import torch

        monkeypatch.setattr(doctor, "NVIDIA_DRIVER", tmp_path)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        if visible is None:
            monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        else:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        found = doctor.examine()
        assert found.devices == ["CPU only"]
        assert len(found.problems) == problems

    def test_problems_are_printed_as_they_are(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr(_startup, "problems", ["[red] is no markup here"])
        doctor.run(argparse.Namespace(json=False))
        assert "✗ [red] is no markup here." in capsys.readouterr().out


def failing_import(broken: str, error: Exception) -> Callable[..., Any]:
    """`importlib.import_module`, but for one module that raises."""
    real = importlib.import_module

    def import_module(name: str, package: str | None = None) -> Any:
        if name == broken:
            raise error
        return real(name, package)

    return import_module


@pytest.mark.slow
def test_this_environment() -> None:
    process = subprocess.run(
        [sys.executable, "-m", "ogpsa_factory.cli", "doctor", "--json"], capture_output=True, text=True
    )
    result = json.loads(process.stdout)
    assert result["patched"] == list(_startup.WATCHED)
    assert result["problems"] == []
    assert process.returncode == 0
