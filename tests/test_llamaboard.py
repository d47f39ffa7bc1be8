"""LlamaBoard, LLaMA-Factory's web page: "Extra arguments" reach the run, and its messages reach the page.

The page's own classes are driven as its buttons drive them, only without a browser.
"""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import Toy


pytestmark = pytest.mark.slow

OGPSA = {"use_ogpsa": True, "ogpsa_reference_dataset": "ref_a,ref_b", "ogpsa_refresh_steps": 2}


class Board:
    """The page's upper part and its "Train" tab: fields by name, and what a button's last answer shows."""

    def __init__(self) -> None:
        import gradio
        from llamafactory.webui.components import create_top, create_train_tab
        from llamafactory.webui.engine import Engine

        self.engine = Engine()
        with gradio.Blocks():
            self.engine.manager.add_elems("top", create_top())
            self.engine.manager.add_elems("train", create_train_tab(self.engine))

    def press(self, button: Any, fields: dict[str, Any]) -> str:
        values = {element: getattr(element, "value", None) for element in self.engine.manager.get_elem_list()}
        values |= {self.engine.manager.get_elem_by_id(name): value for name, value in fields.items()}
        answers = list(button(values))
        return answers[-1][self.engine.manager.get_elem_by_id("train.output_box")]


@pytest.fixture
def board(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> Board:
    monkeypatch.chdir(toy.root)  # the page writes to `saves` and `llamaboard_cache` where it was started
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent), prepend=":")  # it starts `llamafactory-cli` by name
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return Board()


def filled_in(toy: Toy, **extra: Any) -> dict[str, Any]:
    box = {"optim": "adamw_torch", "max_steps": 4, "use_cpu": True, **OGPSA, **extra}
    return {
        "top.lang": "en",
        "top.model_name": "Custom",
        "top.model_path": str(toy.root / "model"),
        "top.finetuning_type": "full",
        "top.template": "chatml",
        "train.dataset": ["safety"],
        "train.cutoff_len": 64,
        "train.compute_type": "fp32",
        "train.logging_steps": 1,
        "train.output_dir": "board",
        "train.extra_args": json.dumps(box),
    }


def test_the_preview_shows_what_is_in_the_box(board: Board, toy: Toy) -> None:
    shown = board.press(board.engine.runner.preview_train, filled_in(toy))
    assert "--stage sft" in shown
    for name, value in OGPSA.items():
        assert f"--{name} {value} " in shown


def test_start_runs_with_ogpsa_and_shows_its_messages(board: Board, toy: Toy) -> None:
    shown = board.press(board.engine.runner.run_train, filled_in(toy))
    assert shown.startswith("Finished."), shown
    assert "Reference set ref_a: 7 rows" in shown
    assert "Reference set ref_b: 5 rows" in shown

    output = toy.root / "saves" / "Custom" / "full" / "board"
    # The page shows this file as it last read it, which may be before the last line.
    said = (output / "running_log.txt").read_text(encoding="utf-8")
    assert "OGPSA: 2 refreshes, mean removed ratio 0." in said
    assert yaml.safe_load((output / "training_args.yaml").read_text(encoding="utf-8")).items() >= OGPSA.items()
    assert json.loads((output / "ogpsa_report.json").read_text(encoding="utf-8"))["summary"]["refreshes"] == 2


def test_the_page_ends_with_the_reason_when_a_run_is_refused(board: Board, toy: Toy) -> None:
    shown = board.press(board.engine.runner.run_train, filled_in(toy, ogpsa_reference_dataset="ref_a,ref_bb"))
    assert shown.startswith("Failed. Exit code: 1")
    assert "ogpsa_reference_dataset names ref_bb, which is not in" in shown.strip("`\n").splitlines()[-1]
