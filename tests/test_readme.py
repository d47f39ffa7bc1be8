"""What the README tells a stranger to paste works."""

import importlib.util
import itertools
import re
from pathlib import Path

import pytest
import torch

from ogpsa_factory.arguments import OGPSAArguments


ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_loop():
    """After the first refresh a step leaves the reference loss unchanged to first order."""
    code = re.search(r"```python\n(.*?)```", README, re.S).group(1)
    torch.manual_seed(0)
    model = torch.nn.Linear(6, 3)
    data = [(torch.randn(4, 6), torch.randn(4, 3)) for _ in range(3)]
    losses = []

    def loss(model, batch):
        return torch.nn.functional.mse_loss(model(batch[0]), batch[1])

    class SGD(torch.optim.SGD):
        def step(self, *args):
            before = [loss(model, reference).item() for reference in data[:2]]
            super().step(*args)
            losses.append([loss(model, r).item() - b for r, b in zip(data[:2], before, strict=True)])

    parameters = list(model.parameters())
    scope = {"steps": 2, "model": model, "loss": loss, "references": data[:2], "safety": itertools.repeat(data[2])}
    exec(code, {**scope, "parameters": parameters, "optimizer": SGD(parameters, lr=1e-3)})
    assert len(losses) == 2
    naive = loss(model, data[2])
    gradients = torch.autograd.grad(naive, parameters)
    size = 1e-3 * sum(g.square().sum() for g in gradients)
    assert all(abs(change) < 0.05 * size for change in losses[0])


def test_argument_table():
    rows = re.findall(r"^\| (`ogpsa_.*?|`use_ogpsa`) \|", README, re.M)
    named = set(re.findall(r"`(\w+)`", " ".join(rows)))
    assert named == set(OGPSAArguments.__dataclass_fields__)


@pytest.mark.parametrize("path", re.findall(r"`((?:examples|tests|docs|benchmarks)/[\w./-]+)`", README))
def test_paths_exist(path):
    assert (ROOT / path).exists()


@pytest.mark.parametrize("target", re.findall(r"\]\((?!https?:)([^)#]+)\)", README))
def test_links_lead_somewhere(target):
    assert (ROOT / target).exists()


def test_figures_are_the_raw_results(monkeypatch):
    """No figure is typed: the sections between marks are what docs/refresh.py makes of the results kept here."""
    monkeypatch.syspath_prepend(ROOT / "docs")
    specification = importlib.util.spec_from_file_location("refresh", ROOT / "docs" / "refresh.py")
    refresh = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(refresh)
    for page in refresh.SECTIONS:
        text = page.read_text(encoding="utf-8")
        assert refresh.render(page, text) == text, page
