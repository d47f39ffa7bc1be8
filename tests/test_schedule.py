"""Adaptive refreshes: a look changes nothing, ranks decide alike, and a resumed run decides as the unbroken one."""

import pytest
import torch
from conftest import logged, torchrun

from ogpsa_factory import CapabilitySubspace


def adaptive(threshold=0.1, **changes):
    return {"ogpsa_refresh": "adaptive", "ogpsa_refresh_threshold": threshold, "max_steps": 8, **changes}


def same_weights(toy, one, other):
    a, b = toy.weights(one), toy.weights(other)
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_looks_every_period_and_refreshes_where_the_subspace_has_drifted(toy, run):
    run(toy.ogpsa("never", **adaptive(0.999, learning_rate=1e-6)))
    assert logged(toy, "ogpsa/refresh_step", "never") == [0]
    assert logged(toy, "ogpsa/look_step", "never") == [2, 4, 6]
    assert logged(toy, "ogpsa/look_refreshes", "never") == [0, 0, 0]
    overlaps = logged(toy, "ogpsa/look_overlap/ref_a", "never")
    assert all(0.3 < overlap <= 1 for overlap in overlaps), "these rows are a part of the set"

    run(toy.ogpsa("often", **adaptive(0.02, learning_rate=0.02)))
    looks = dict(
        zip(logged(toy, "ogpsa/look_step", "often"), logged(toy, "ogpsa/look_refreshes", "often"), strict=True)
    )
    assert list(looks) == [2, 4, 6] and any(looks.values())
    assert logged(toy, "ogpsa/refresh_step", "often") == [0, *(step for step, drifted in looks.items() if drifted)]


def test_overlap_is_whole_where_all_rows_are_looked_at(toy, run):
    """The gradient of a whole set lies in the span of the sets' gradients, until the weights move."""
    whole = {"ogpsa_reference_batch_size": 100, "learning_rate": 1e-9}
    run(toy.ogpsa(**adaptive(0.5, **whole)))
    assert logged(toy, "ogpsa/look_overlap/ref_a") == pytest.approx([1, 1, 1], abs=1e-3)


def test_a_look_leaves_training_alone(toy, run):
    run(toy.config("plain", max_steps=8))
    run(toy.ogpsa("watch", ogpsa_monitor_only=True, **adaptive()))
    assert same_weights(toy, "plain", "watch")
    assert logged(toy, "ogpsa/look_step", "watch")


@pytest.mark.parametrize("mode", ["orthogonal", "conflict"])
def test_a_resumed_run_decides_alike(toy, run, mode):
    settings = adaptive(0.05, learning_rate=0.01, ogpsa_mode=mode, ogpsa_refresh_steps=3)
    run(toy.ogpsa("whole", save_strategy="steps", save_steps=4, **settings))
    checkpoint = str(toy.root / "whole" / "checkpoint-4")
    run(toy.ogpsa("resumed", resume_from_checkpoint=checkpoint, **settings))
    assert same_weights(toy, "whole", "resumed")
    for key in ("ogpsa/refresh_step", "ogpsa/look_step", "ogpsa/look_overlap/ref_a"):
        assert logged(toy, key, "resumed") == logged(toy, key, "whole")


@pytest.mark.slow
def test_ranks_decide_alike(toy, run):
    """With rows of other ranks than its own, each looks at as many as one process does with twice the batch."""
    settings = adaptive(0.02, learning_rate=0.01)
    torchrun(toy, [toy.ogpsa("two", ogpsa_reference_batch_size=2, **settings)])
    run(toy.ogpsa("one", ogpsa_reference_batch_size=4, per_device_train_batch_size=4, **settings))
    assert logged(toy, "ogpsa/look_overlap/ref_a", "two")[0] == pytest.approx(
        logged(toy, "ogpsa/look_overlap/ref_a", "one")[0], rel=1e-4
    )
    for key in ("ogpsa/refresh_step", "ogpsa/look_step", "ogpsa/look_refreshes"):
        assert logged(toy, key, "two") == logged(toy, key, "one")
    assert len(logged(toy, "ogpsa/refresh_step", "two")) > 1, "ranks went into a refresh together"


def test_a_refused_refresh_is_tried_again(toy, run, monkeypatch):
    """The old subspace does not become the measure of what comes."""
    refresh, calls = CapabilitySubspace.refresh, []

    def refuses_the_second(self, references, count=None):
        accepted = refresh(self, references, count)
        calls.append(accepted)
        return accepted and len(calls) != 2

    monkeypatch.setattr(CapabilitySubspace, "refresh", refuses_the_second)
    run(toy.ogpsa(**adaptive(1e-6, learning_rate=0.01)))
    assert logged(toy, "ogpsa/refresh_step") == [0, 2, 4, 6]
    assert logged(toy, "ogpsa/look_step") == [2, 6], "after the refusal nothing is asked"


@pytest.mark.parametrize("change", [{"ogpsa_reference_batch_size": 3}, {"ogpsa_refresh": "fixed"}])
def test_other_rows_are_not_compared_on_resuming(toy, run, change):
    """Where a baseline is of other rows, or schedules are fixed now, the next period refreshes."""
    settings = adaptive(0.99, learning_rate=1e-6, ogpsa_refresh_steps=3)
    run(toy.ogpsa("whole", save_strategy="steps", save_steps=4, **settings))
    assert logged(toy, "ogpsa/refresh_step", "whole") == [0]
    settings |= {"resume_from_checkpoint": str(toy.root / "whole" / "checkpoint-4"), **change}
    if change.get("ogpsa_refresh") == "fixed":
        del settings["ogpsa_refresh_threshold"]
    run(toy.ogpsa("resumed", **settings))
    assert logged(toy, "ogpsa/refresh_step", "resumed") == [0, 6]
