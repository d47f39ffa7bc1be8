"""A shard of the subspace on disk, and what is said where there is none that fits."""

import pytest
import torch

from ogpsa_factory import checkpoint


STATE = {"basis.0": torch.arange(6.0).view(2, 3)}
TWO, FOUR = "DeepSpeed ZeRO-2 on 2 ranks", "DeepSpeed ZeRO-2 on 4 ranks"


@pytest.fixture
def saved(tmp_path):
    for rank in range(2):
        checkpoint.save(tmp_path, f"rank-{rank:05d}-of-00002", STATE, "stamp", TWO)
    return tmp_path


def test_round_trip(saved):
    state, reason = checkpoint.load(saved, "rank-00001-of-00002", "stamp", TWO)
    assert state is not None and torch.equal(state["basis.0"], STATE["basis.0"]) and not reason


def test_another_number_of_ranks_is_named(saved):
    state, reason = checkpoint.load(saved, "rank-00003-of-00004", "stamp", FOUR)
    assert state is None and reason.endswith(f"was written by {TWO}, and this run is {FOUR}")


def test_another_engine_is_named(saved):
    state, reason = checkpoint.load(saved, "rank-00001-of-00002", "other", "FSDP2 on 2 ranks")
    assert state is None and reason.endswith(f"was written by {TWO}, and this run is FSDP2 on 2 ranks")


def test_other_settings_are_not_another_engine(saved):
    state, reason = checkpoint.load(saved, "rank-00001-of-00002", "other", TWO)
    assert state is None and reason.endswith("other parameters, reference sets or OGPSA settings")


def test_a_missing_shard_is_named(saved):
    (saved / checkpoint.FOLDER / "rank-00001-of-00002.safetensors").unlink()
    state, reason = checkpoint.load(saved, "rank-00001-of-00002", "stamp", TWO)
    assert state is None and reason.endswith("holds no ogpsa_subspace/rank-00001-of-00002.safetensors")


def test_replicated_gradients_do_not_ask_for_the_engine(tmp_path):
    """DDP on four ranks goes on exactly with what DDP on two, or one process, has left."""
    checkpoint.save(tmp_path, "shared", STATE, "stamp", "DDP on 2 ranks")
    assert checkpoint.load(tmp_path, "shared", "stamp", "one process on 1 rank")[0] is not None
