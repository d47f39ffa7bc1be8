"""Extra memory per rank, measured beside what `ogpsa doctor --plan` predicts: every engine, on 1 and on 2 ranks.

Run:  python benchmarks/memory.py [--engines zero2,zero3] [--device cuda] [--output benchmarks/results/memory.json]

Each line is two runs of the same model, data and steps, one naive and one with OGPSA (two directions, two refreshes),
each in processes of its own. "Between refreshes" compares what is allocated after the last step, "at a refresh" the
highest point while gradients are computed; both are OGPSA minus naive on the fullest rank. The optimizer's step is
left out of the latter: DeepSpeed's takes more room for itself than a backward pass does, and would hide a part of what
a refresh takes. On CPUs it is the resident set, sampled every millisecond, in which the allocator's own habits show;
on GPUs what PyTorch counts.

Both runs compile the projection's kernels: what the compiler takes for itself, once per process, is told apart.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import nullcontext
from pathlib import Path

import psutil
import torch
import torch.distributed as dist
from transformers import LlamaConfig, LlamaForCausalLM

from ogpsa_factory.arguments import OGPSAArguments
from ogpsa_factory.controller import Controller
from ogpsa_factory.engines.select import select_engine
from ogpsa_factory.footprint.memory import predict
from ogpsa_factory.fused import FusedKernels
from ogpsa_factory.kernel_choice import choose_kernels
from ogpsa_factory.reference import BatchSize, make_reference_set


ENGINES = ("ddp", "zero1", "zero2", "zero3", "zero2-offload", "fsdp1", "fsdp2")
STEPS, PASSES, ROWS, LENGTH, DIRECTIONS = 4, 2, 4, 32, 2
MEGABYTE = 1e6


def make_model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=8_000,
        hidden_size=768,
        intermediate_size=2048,
        num_hidden_layers=6,
        num_attention_heads=12,
        num_key_value_heads=4,
        max_position_embeddings=LENGTH,
        tie_word_embeddings=False,
    )
    return LlamaForCausalLM(config).train()


def wrap(engine: str, model: LlamaForCausalLM, device: torch.device) -> tuple[object, object]:
    """The wrapped model, and the optimizer where the engine has none of its own."""
    if engine.startswith("zero"):
        import deepspeed

        zero = {"stage": int(engine[4]), "overlap_comm": False, "reduce_bucket_size": 1_000_000}
        if engine.endswith("offload"):
            zero["offload_optimizer"] = {"device": "cpu", "pin_memory": device.type == "cuda"}
        settings = {
            "train_micro_batch_size_per_gpu": ROWS,
            "gradient_accumulation_steps": PASSES,
            "gradient_clipping": 1.0,
            "zero_allow_untested_optimizer": True,
            "zero_force_ds_cpu_optimizer": False,
            "zero_optimization": zero,
        }
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
        return deepspeed.initialize(model=model, optimizer=optimizer, config=settings)[0], None
    model = model.to(device)
    if engine == "fsdp2":
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        mesh = init_device_mesh(device.type, (dist.get_world_size(),))
        for layer in model.model.layers:
            fully_shard(layer, mesh=mesh)
        fully_shard(model, mesh=mesh)
    elif engine == "fsdp1":
        from torch.distributed.fsdp import FullyShardedDataParallel
        from torch.distributed.fsdp.wrap import ModuleWrapPolicy

        policy = ModuleWrapPolicy({type(model.model.layers[0])})
        model = FullyShardedDataParallel(model, auto_wrap_policy=policy, use_orig_params=True, device_id=device)
    elif dist.get_world_size() > 1:
        model = torch.nn.parallel.DistributedDataParallel(model)
    return model, torch.optim.AdamW(model.parameters(), lr=1e-4)


class Gauge:
    """What this process has allocated now, and the most it had since it was last asked."""

    def __init__(self, device: torch.device) -> None:
        self.cuda = device.type == "cuda"
        self._highest = 0
        self._process = psutil.Process()
        if not self.cuda:
            threading.Thread(target=self._watch, daemon=True).start()

    def now(self) -> int:
        return torch.cuda.memory_allocated() if self.cuda else self._process.memory_info().rss

    def highest(self) -> int:
        if self.cuda:
            highest = torch.cuda.max_memory_allocated()
            torch.cuda.reset_peak_memory_stats()
        else:
            highest, self._highest = max(self._highest, self.now()), 0
        return highest

    def _watch(self) -> None:
        while True:
            self._highest = max(self._highest, self.now())
            time.sleep(0.001)


def train(engine: str, method: str, folder: Path, kind: str) -> None:
    """One rank of one run."""
    rank = int(os.environ["LOCAL_RANK"])
    device = torch.device(kind, rank) if kind == "cuda" else torch.device("cpu")
    if kind == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if kind == "cuda" else "gloo")
    model = make_model()
    shapes = [list(p.shape) for p in model.parameters()]
    layers = [int(name.split(".")[2]) + 1 if ".layers." in name else 0 for name, _ in model.named_parameters()]
    wrapped, optimizer = wrap(engine, model, device)
    generator = torch.Generator().manual_seed(rank)

    def rows(count: int) -> list[dict[str, list[int]]]:
        tokens = torch.randint(0, 8_000, (count, LENGTH), generator=generator).tolist()
        return [{"input_ids": row, "labels": row} for row in tokens]

    def mean_loss(features: list[dict[str, list[int]]]) -> torch.Tensor:
        ids = torch.tensor([feature["input_ids"] for feature in features], device=device)
        return wrapped(input_ids=ids, labels=ids).loss

    gauge = Gauge(device)
    before = psutil.Process().memory_info().rss
    kernels = choose_kernels("fused", 0, device, (torch.float32, torch.float32), lambda here: here)
    assert isinstance(kernels, FusedKernels)
    compiler = psutil.Process().memory_info().rss - before

    controller = None
    if method == "ogpsa":
        arguments = OGPSAArguments(
            use_ogpsa=True,
            ogpsa_reference_dataset="a,b",
            ogpsa_refresh_steps=STEPS // 2,
            ogpsa_subspace_dtype="float32",
        )
        arguments.validate_ogpsa("sft")
        fixed = torch.Generator().manual_seed(9)
        tokens = torch.randint(0, 8_000, (2, 2 * ROWS, LENGTH), generator=fixed).tolist()
        sets = [[{"input_ids": row, "labels": row} for row in each] for each in tokens]
        controller = Controller(
            arguments,
            select_engine(model, wrapped),
            [make_reference_set(name, each, rank=1) for name, each in zip("ab", sets, strict=True)],
            mean_loss,
            batch_size=BatchSize(ROWS),
            log=lambda figures: None,
            progress=lambda count: nullcontext(lambda done: None),
        )
    gauge.highest()
    highest = 0
    for step in range(STEPS):
        if controller:
            controller.on_step_begin(step)
        for number in range(PASSES):
            loss = mean_loss(rows(ROWS))
            if optimizer is None:
                wrapped.backward(loss)
            else:
                loss.backward()
            del loss
            if optimizer is None and number < PASSES - 1:
                wrapped.step()  # DeepSpeed counts with it, and steps at the end of an accumulation
        if controller:
            controller.before_clipping(step)
        highest = max(highest, gauge.highest())
        if optimizer is None:
            wrapped.step()
        else:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        gauge.highest()
    result = {"after": gauge.now(), "highest": highest, "shapes": shapes, "units": layers, "compiler": compiler}
    result["basis"] = controller.subspace.nbytes if controller else 0
    (folder / f"{method}-{rank}.json").write_text(json.dumps(result))
    dist.barrier()
    sys.stdout.flush()
    os._exit(0)


def measure(engine: str, ranks: int, device: str) -> dict[str, object]:
    """Both runs of one line, in megabytes on the fullest rank."""
    # Large blocks go back to the system when they are freed, so that the resident set says what is in use.
    quiet = {"OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "65536"}
    quiet["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # DeepSpeed calls ninja
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}", __file__]
    with tempfile.TemporaryDirectory() as folder:
        for method in ("naive", "ogpsa"):
            command = [*launcher, "--worker", engine, method, folder, "--device", device]
            subprocess.run(command, check=True, env={**os.environ, **quiet}, stdout=subprocess.DEVNULL, timeout=500)
        runs = {
            method: [json.loads(Path(folder, f"{method}-{rank}.json").read_text()) for rank in range(ranks)]
            for method in ("naive", "ogpsa")
        }
    pairs = list(zip(runs["naive"], runs["ogpsa"], strict=True))
    first = runs["ogpsa"][0]
    units = first["units"] if engine == "fsdp1" else None
    predicted = predict(
        first["shapes"], engine, ranks, DIRECTIONS, precision="float32", units=units, subspace_dtype="float32"
    )
    places = (predicted.device, predicted.host) if device == "cpu" else (predicted.device,)
    return {
        "engine": engine,
        "ranks": ranks,
        "basis": max(ogpsa["basis"] for _, ogpsa in pairs) / MEGABYTE,
        "basis_predicted": (predicted.device.subspace + predicted.host.subspace) / MEGABYTE,
        "between": max(ogpsa["after"] - naive["after"] for naive, ogpsa in pairs) / MEGABYTE,
        "between_predicted": sum(place.steady for place in places) / MEGABYTE,
        "compiler": max(ogpsa["compiler"] for _, ogpsa in pairs) / MEGABYTE,
        "refresh": max(ogpsa["highest"] - naive["highest"] for naive, ogpsa in pairs) / MEGABYTE,
        "refresh_predicted": sum(place.refresh for place in places) / MEGABYTE,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engines", default=",".join(ENGINES))
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--worker", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        engine, method, folder = args.worker
        train(engine, method, Path(folder), args.device)
    lines = []
    for engine in args.engines.split(","):
        for ranks in args.ranks:
            lines.append(measure(engine, ranks, args.device))
            print(json.dumps(lines[-1]), flush=True)
    if args.output:
        parameters = sum(p.numel() for p in make_model().parameters())
        result = {"parameters": parameters, "directions": DIRECTIONS, "device": args.device, "lines": lines}
        args.output.write_text(json.dumps({**result, "torch": torch.__version__}, indent=1) + "\n")


if __name__ == "__main__":
    main()
