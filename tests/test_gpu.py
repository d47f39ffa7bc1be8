"""The engine contract on CUDA: what CPUs cannot show. Runs where there is a GPU, with as many ranks as there are."""

import pytest
import torch
from conftest import Toy, logged, make_toy, save_toy_model, torchrun
from safetensors.torch import load_file

from ogpsa_factory import CapabilitySubspace


pytestmark = [
    pytest.mark.gpu,
    pytest.mark.slow,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
RANKS = torch.cuda.device_count()


def deepspeed(stage, **zero):
    auto = "train_micro_batch_size_per_gpu gradient_accumulation_steps gradient_clipping".split()
    return {
        **dict.fromkeys(auto, "auto"),
        "bf16": {"enabled": "auto"},
        "fp16": {"enabled": "auto"},
        "zero_allow_untested_optimizer": True,
        "zero_optimization": {"stage": stage, "stage3_gather_16bit_weights_on_model_save": True, **zero},
    }


def fsdp(version):
    settings = {"version": version, "transformer_layer_cls_to_wrap": ["Qwen2DecoderLayer"]}
    if version == 2:
        settings["reshard_after_forward"] = True
    return {"fsdp": "full_shard auto_wrap", "fsdp_config": settings}


HOST = {"device": "cpu", "pin_memory": True}
ENGINES = {
    "DDP": {},
    "DDP fp16": {"fp16": True},
    "DDP bf16": {"bf16": True},
    "DDP offloaded subspace": {"ogpsa_offload": True},
    "zero2 bf16": {"deepspeed": deepspeed(2), "bf16": True},
    "zero2 fp16": {"deepspeed": deepspeed(2), "fp16": True},
    "zero3 bf16": {"deepspeed": deepspeed(3), "bf16": True},
    "zero3 fp16": {"deepspeed": deepspeed(3), "fp16": True},
    # transformers takes DeepSpeedCPUAdam where the optimizer is offloaded and named in DeepSpeed's configuration.
    "zero2 CPUAdam": {
        "deepspeed": {
            **deepspeed(2, offload_optimizer=HOST),
            "optimizer": {"type": "AdamW", "params": {"lr": "auto", "betas": "auto", "eps": "auto"}},
        },
        "bf16": True,
    },
    "zero3 offload bf16": {
        "deepspeed": {
            **deepspeed(3, offload_optimizer=HOST, offload_param=HOST),
            "zero_force_ds_cpu_optimizer": False,
        },
        "bf16": True,
    },
    "FSDP1 bf16": {**fsdp(1), "bf16": True},
    "FSDP2 bf16": {**fsdp(2), "bf16": True},
    "FSDP2 fp16": {**fsdp(2), "fp16": True},
}


def name_of(engine, kind):
    return f"{engine} {kind}".replace(" ", "_")


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Toy:
    toy = make_toy(tmp_path_factory.mktemp("gpu"))
    save_toy_model(toy.root / "model", attention_dropout=0.1)
    runs = []
    for engine, changes in ENGINES.items():
        shared = {"use_cpu": False, "ddp_backend": "nccl", "full_determinism": True, "max_steps": 12, **changes}
        plain = {key: value for key, value in shared.items() if not key.startswith("ogpsa_")}
        runs.append(toy.config(name_of(engine, "plain"), **plain))
        watch = {"ogpsa_monitor_only": True, "ogpsa_refresh_steps": 1}
        runs.append(toy.ogpsa(name_of(engine, "watch"), **watch, **shared))
        saved = {"save_strategy": "steps", "save_steps": 5}
        runs.append(toy.ogpsa(name_of(engine, "whole"), **saved, **shared))
        checkpoint = f"{toy.root}/{name_of(engine, 'whole')}/checkpoint-5"
        runs.append(toy.ogpsa(name_of(engine, "resumed"), resume_from_checkpoint=checkpoint, **shared))
    torchrun(toy, runs, ranks=RANKS, timeout=1500)
    return toy


def same(toy, engine, one, other):
    a, b = (load_file(toy.root / name_of(engine, kind) / "model.safetensors") for kind in (one, other))
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("engine", ENGINES)
def test_collecting_and_discarding_is_plain(trained, engine):
    assert same(trained, engine, "plain", "watch")


@pytest.mark.parametrize("engine", ENGINES)
def test_resumes_exactly(trained, engine):
    assert same(trained, engine, "whole", "resumed")


@pytest.mark.parametrize("engine", ENGINES)
def test_projects(trained, engine):
    """fp16 begins with steps whose gradient overflows, which nobody takes: some logged steps removed nothing."""
    assert not same(trained, engine, "plain", "whole")
    assert all(logged(trained, "ogpsa/refresh_accepted", name_of(engine, "whole")))
    assert max(logged(trained, "ogpsa/removed_ratio", name_of(engine, "whole"))) > 0.05
    assert max(map(abs, logged(trained, "ogpsa/cos_after/ref_a", name_of(engine, "whole")))) < 1e-2


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_offloaded_subspace_projects_alike(dtype):
    """Several pieces per tensor, of which the next is copied while the current one is used."""
    shapes, k = [(3_000_000,), (1000, 1500), (7,)], 3
    generator = torch.Generator("cuda").manual_seed(0)

    def gradients():
        return [torch.randn(shape, device="cuda", dtype=dtype, generator=generator) for shape in shapes]

    references, gradient = [gradients() for _ in range(k)], gradients()
    results = []
    for offload in (False, True):
        subspace = CapabilitySubspace(offload=offload)
        subspace.refresh(references)
        copy = [g.clone() for g in gradient]
        subspace.project_(copy)
        assert all(basis.is_cuda != offload for basis in subspace.basis.matrices)
        results.append(copy)
    assert all(torch.allclose(a, b, rtol=1e-2, atol=1e-5) for a, b in zip(*results, strict=True))
