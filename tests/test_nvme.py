"""ZeRO-3 with the optimizer, or all of it, on a disk: the weights that host memory gives, and no trace of collections.

DeepSpeed compiles its asynchronous input and output for it, which takes libaio's headers (Debian: libaio-dev).
"""

import oracle
import pytest
from conftest import make_toy, save_toy_model, torchrun
from test_deepspeed import ENGINES, WATCHED, deepspeed, name_of, parity_config, plain_and_watched, same
from test_parity import LIMIT


pytestmark = pytest.mark.slow

KINDS = ("optimizer", "parameters too")
SWAPPED = 280_000  # numbers in a sub-group: DeepSpeed writes this many to disk, and keeps the smaller rest in memory
LARGE = {"hidden_size": 128, "intermediate_size": 768}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    builder = pytest.importorskip("deepspeed.ops.op_builder").AsyncIOBuilder()
    if not builder.is_compatible():
        pytest.skip("libaio and its headers are not installed")
    toy = make_toy(tmp_path_factory.mktemp("nvme"))
    save_toy_model(toy.root / "model", **LARGE)
    save_toy_model(toy.root / "dropout", attention_dropout=0.1, **LARGE)
    disk = {"device": "nvme", "nvme_path": str(toy.root / "disk"), "pin_memory": False, "buffer_count": 6}
    settings = {
        "host": ENGINES["zero3 offload"],
        "optimizer": deepspeed(3, offload_optimizer=disk, sub_group_size=SWAPPED),
        "parameters too": deepspeed(
            3,
            offload_optimizer=disk,
            offload_param={**disk, "buffer_size": 1_000_000, "max_in_cpu": 0},
            sub_group_size=SWAPPED,
        ),
    }
    runs = [{**parity_config(toy, "zero3", "sgd"), "output_dir": str(toy.root / "naive"), "use_ogpsa": False}]
    for kind, each in settings.items():
        shared = {"deepspeed": each, "output_dir": str(toy.root / name_of(kind))}
        runs.append({**parity_config(toy, "zero3", "sgd"), **shared})
    for kind in KINDS:
        runs += plain_and_watched(toy, name_of(kind), deepspeed=settings[kind], **WATCHED["left over"])
    torchrun(toy, runs, timeout=600)
    return toy


@pytest.mark.parametrize("kind", KINDS)
def test_equals_host_memory(trained, kind):
    on_disk, on_host, naive, start = (trained.weights(name_of(each)) for each in (kind, "host", "naive", "model"))
    travelled = oracle.distance(start, on_host)
    assert oracle.distance(on_disk, on_host) <= LIMIT["sgd"] * travelled
    assert oracle.distance(naive, on_host) > 1e-3 * travelled


@pytest.mark.parametrize("kind", KINDS)
def test_collecting_and_discarding_is_plain(trained, kind):
    assert same(trained, name_of(kind, "plain"), name_of(kind, "watch"))
    assert any(file.stat().st_size >= 2**20 for file in (trained.root / "disk").rglob("*.swp"))
