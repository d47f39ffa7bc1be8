"""`ogpsa doctor --plan`: figures computed by hand, real models' counts, and every mistake."""

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from ogpsa_factory import OGPSAError, cli
from ogpsa_factory.footprint import ENGINES, predict
from ogpsa_factory.footprint.engines import SIZES
from ogpsa_factory.footprint.model import read_parameters
from ogpsa_factory.footprint.settings import Tuning, read_settings
from ogpsa_factory.kernel_choice import WORTH_COMPILING
from ogpsa_factory.storage import PIECE


# Two tensors, 5 x 3 and 4 elements: 19 parameters, which neither 2 nor 3 divides.
SHAPES = [(5, 3), (4,)]
TINY = {
    "model_type": "llama",
    "hidden_size": 8,
    "intermediate_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "vocab_size": 11,
    "tie_word_embeddings": False,
}
# Per layer: q and o 8 x 8, k and v 4 x 8, gate, up and down 8 x 12, two norms of 8.
TINY_LAYER = 2 * 64 + 2 * 32 + 3 * 96 + 2 * 8
TINY_COUNT = 2 * TINY_LAYER + 2 * 11 * 8 + 8


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    return write(tmp_path / "model", TINY)


def write(folder: Path, config: dict[str, Any]) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def training_file(folder: Path, **given: Any) -> str:
    path = folder / "train.yaml"
    given = {
        "model_name_or_path": str(folder / "model"),
        "stage": "ogpsa_sft",
        "finetuning_type": "full",
        "bf16": True,
        "ogpsa_reference_dataset": "a,b",
        **given,
    }
    path.write_text(yaml.safe_dump(given))
    return str(path)


def plan(capsys: pytest.CaptureFixture[str], *words: Any) -> dict[str, Any]:
    assert cli.main(["doctor", "--json", "--plan", *map(str, words)]) == 0
    result: dict[str, Any] = json.loads(capsys.readouterr().out)
    return result


# Elements that the fullest rank holds. Flat: 19 elements, in parts of 10 and 8 (multiples of two). Each tensor:
# ceil(15/N) + ceil(4/N). Rows: 5 x 3 -> 3 x 3 of two ranks, 2 x 3 of three; units: as flat, in parts of 10 and 7.
@pytest.mark.parametrize(
    "engine, elements",
    [
        ("ddp", (19, 19, 19)),
        ("zero0", (19, 19, 19)),
        ("bf16", (19, 19, 19)),
        ("zero1", (19, 10, 8)),
        ("zero2", (19, 10, 8)),
        ("zero2-offload", (19, 10, 8)),
        ("zero3", (19, 10, 7)),
        ("fsdp1", (19, 10, 7)),
        ("fsdp2", (19, 11, 8)),
    ],
)
def test_elements_of_the_fullest_rank(engine: str, elements: tuple[int, ...]) -> None:
    assert tuple(predict(SHAPES, engine, ranks, 2).elements for ranks in (1, 2, 3)) == elements


# On three ranks: weights, gradients and optimizer on the device, then on the host.
@pytest.mark.parametrize(
    "engine, device, host",
    [
        ("ddp", (4 * 19, 4 * 19, 8 * 19), (0, 0, 0)),
        ("zero0", (2 * 19, 2 * 19, 12 * 19), (0, 0, 0)),
        ("zero1", (2 * 19, 2 * 19, 12 * 8), (0, 0, 0)),
        ("bf16", (2 * 19, (2 + 4) * 19, 12 * 8), (0, 0, 0)),
        ("zero1-offload", (2 * 19, 2 * 19, 0), (0, (2 + 4) * 8, 12 * 8)),
        ("zero2", (2 * 19, 2 * 8, 12 * 8), (0, 0, 0)),
        ("zero2-offload", (2 * 19, 0, 0), (0, (2 + 4) * 8, 12 * 8)),
        ("zero3", (2 * 7, 2 * 7, 12 * 7), (0, 0, 0)),
        ("zero3-offload", (2 * 7, 0, 0), (0, (2 + 4) * 7, 12 * 7)),
        ("zero3-offload-all", (0, 0, 0), (2 * 7, (2 + 4) * 7, 12 * 7)),
        ("fsdp1", (4 * 7, 4 * 7, 8 * 7), (0, 0, 0)),
        ("fsdp1-offload", (0, 0, 0), (4 * 7, 4 * 7, 8 * 7)),
        ("fsdp2", (4 * 8, 4 * 8, 8 * 8), (0, 0, 0)),
        ("fsdp2-offload", (0, 0, 0), (4 * 8, 4 * 8, 8 * 8)),
    ],
)
def test_states_of_training(engine: str, device: tuple[int, ...], host: tuple[int, ...]) -> None:
    found = predict(SHAPES, engine, 3, 2)
    for memory, expected in ((found.device, device), (found.host, host)):
        assert (memory.weights, memory.gradients, memory.optimizer) == expected
        assert memory.training == sum(expected)


# On two ranks with k = 2: elements, bytes of the subspace per direction, whether a float32 sum is kept beside it.
@pytest.mark.parametrize(
    "engine, elements, size, summed, on_host",
    [
        ("ddp", 19, 4, False, False),
        ("zero0", 19, 2, True, False),
        ("bf16", 19, 4, True, False),
        ("zero2", 10, 2, True, False),
        ("zero2-offload", 10, 4, True, True),
        ("zero3", 10, 2, True, False),
        ("zero3-offload", 10, 4, True, True),
        ("fsdp1", 10, 4, False, False),
        ("fsdp1-offload", 10, 4, True, True),
        ("fsdp2", 11, 4, False, False),
        ("fsdp2-offload", 11, 4, False, True),
    ],
)
def test_what_ogpsa_adds(engine: str, elements: int, size: int, summed: bool, on_host: bool) -> None:
    found = predict(SHAPES, engine, 2, 2, subspace_dtype={2: "bfloat16", 4: "float32"}[size])
    memory, other = (found.host, found.device) if on_host else (found.device, found.host)
    assert memory.subspace == memory.steady == 2 * size * elements
    assert memory.accumulators == 4 * elements * summed
    assert memory.refresh == 2 * memory.subspace + memory.accumulators + memory.pieces
    assert memory.peak == memory.training + memory.refresh
    assert memory.copy + other.copy == 4 * (elements if engine != "bf16" else 10)  # whose weights alone are divided
    assert other.steady == other.refresh == 0
    assert found.traffic == (0 if engine in ("ddp", "zero0", "bf16") else 2 * 3 * 8)  # groups, k + 1, float64
    assert predict(SHAPES, engine, 1, 2).traffic == 0
    sent = [predict(SHAPES, engine, 2, 2, project=what).traffic for what in ("update", "preconditioned")]
    numbers = (2 * 2, 2 * 2 * 3 + 2 * 2)  # groups k; groups k (k + 1), and two for each of the tensors
    assert sent == [0 if engine in ("ddp", "zero0") else 8 * count for count in numbers]


def test_the_copy_of_a_logged_step_counts_where_it_is_more_than_a_refresh() -> None:
    device = predict([(4096, 4096)], "ddp", 1, 1, subspace_dtype="bfloat16").device
    assert device.copy + device.pieces > device.refresh - device.steady
    assert device.peak == device.training + device.steady + device.copy + device.pieces


@pytest.mark.parametrize("engine", [name for name, facts in ENGINES.items() if facts.cut != "whole"])
def test_two_ranks_halve_what_is_sharded(engine: str) -> None:
    shapes = [(64, 32), (128,)]
    one, two = (predict(shapes, engine, ranks, 3) for ranks in (1, 2))
    assert one.elements == 2 * two.elements
    assert one.device.subspace + one.host.subspace == 2 * (two.device.subspace + two.host.subspace)
    assert one.device.optimizer + one.host.optimizer == 2 * (two.device.optimizer + two.host.optimizer)


def test_units_of_fsdp1() -> None:
    assert predict([(3,), (4,), (5,)], "fsdp1", 2, 1).elements == 6  # one unit of 12
    assert predict([(3,), (4,), (5,)], "fsdp1", 2, 1, units=[0, 1, 0]).elements == 4 + 2
    assert predict([(3,), (4,), (5,)], "fsdp1", 2, 1, units=[0, 1, 2]).elements == 2 + 2 + 3


def test_frozen_weights() -> None:
    frozen = [(10, 7)]
    assert predict(SHAPES, "ddp", 3, 2, frozen=frozen).device.weights == 4 * 19 + 2 * 70
    assert predict(SHAPES, "zero2", 3, 2, frozen=frozen).device.weights == 2 * 19 + 2 * 70
    assert predict(SHAPES, "zero3", 3, 2, frozen=frozen).device.weights == 2 * 7 + 2 * 24
    assert predict(SHAPES, "fsdp2", 3, 2, frozen=frozen).device.weights == 4 * 8 + 4 * 28
    assert predict(SHAPES, "ddp", 3, 2, frozen=frozen).device.optimizer == 8 * 19


def test_precision() -> None:
    pure = predict(SHAPES, "ddp", 1, 2, precision="pure")
    assert (pure.device.training, pure.subspace_dtype) == (19 * (2 + 2 + 4), "bfloat16")
    assert pure.device.accumulators == 4 * 19  # sums in bfloat16 would lose what later batches add
    assert predict(SHAPES, "zero3", 1, 2, precision="float32").device.training == 19 * (4 + 4 + 12)
    wide = predict(SHAPES, "zero2", 1, 2, wide_gradients=True)
    assert (wide.device.gradients, wide.subspace_dtype) == (4 * 19, "bfloat16")
    assert {precision for _, precision in SIZES} == {"mixed", "pure", "float32"}
    assert {family for family, _ in SIZES} == {facts.family for facts in ENGINES.values()}


def test_buffers_of_short_tensors_are_counted_where_kernels_are_compiled() -> None:
    long = (WORTH_COMPILING,)
    assert predict([long, (8,)], "ddp", 1, 1).device.packs == predict([(8,), (8,)], "ddp", 1, 1).device.packs == 0
    found = predict([long, (8,), (9,)], "ddp", 1, 1).device
    assert found.packs == 4 * PIECE and found.steady == found.subspace + found.packs
    assert found.refresh == 2 * found.subspace + found.packs + found.pieces
    prepared = predict([long, (8,), (9,)], "zero2-offload", 1, 1, precision="float32", project="preconditioned")
    assert (prepared.host.packs, prepared.device.packs) == (8 * PIECE, 0)
    mixed = predict([long, (8,), (9,)], "zero2", 1, 1, project="update").device
    assert mixed.packs == (2 + 4) * PIECE, "gradients of 16 bits, weights of 32"


def test_subspace_dtype_and_offload() -> None:
    found = predict(SHAPES, "ddp", 1, 3, subspace_dtype="bfloat16", offload=True)
    assert (found.host.subspace, found.device.subspace) == (2 * 3 * 19, 0)
    assert found.host.rounding == (128 - 90) + (32 - 24)  # pinned memory comes in powers of two
    assert found.device.buffers == 2 * 3 * 2 * PIECE
    assert found.device.steady == found.device.refresh == found.device.buffers
    gradients_are_there = predict(SHAPES, "fsdp2-offload", 1, 3, offload=True)
    assert (gradients_are_there.host.rounding, gradients_are_there.device.buffers) == (0, 0)


@pytest.mark.parametrize(
    "engine, ranks, directions, message",
    [
        ("zero4", 1, 2, "Engine zero4 is unknown; it must be one of ddp, zero0"),
        ("ddp", 0, 2, "world size of 0 is not possible"),
        ("ddp", 1, 65, "65 directions .* 1 to 64"),
        ("ddp", 1, 0, "0 directions"),
    ],
)
def test_what_cannot_be_predicted(engine: str, ranks: int, directions: int, message: str) -> None:
    with pytest.raises(OGPSAError, match=message):
        predict(SHAPES, engine, ranks, directions)


def test_tiny_model(tiny: Path) -> None:
    found = read_parameters(str(tiny), Tuning())
    assert sum(map(math.prod, found.trained)) == TINY_COUNT
    assert found.frozen == []
    assert sorted(set(found.units)) == [0, 1, 2]  # what is around the layers, and two layers


def test_tied_embeddings_count_once(tmp_path: Path) -> None:
    tied = write(tmp_path / "tied", {**TINY, "tie_word_embeddings": True})
    assert sum(map(math.prod, read_parameters(str(tied), Tuning()).trained)) == TINY_COUNT - 11 * 8


LLAMA = {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32}
QWEN = {"hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28, "num_attention_heads": 28}


@pytest.mark.parametrize(
    "config, count",
    [
        ({"model_type": "llama", **LLAMA, "num_key_value_heads": 8, "vocab_size": 128256}, 8_030_261_248),
        ({"model_type": "qwen2", **QWEN, "num_key_value_heads": 4, "vocab_size": 152064}, 7_615_616_512),
    ],
)
def test_known_models(tmp_path: Path, config: dict[str, Any], count: int) -> None:
    folder = write(tmp_path / "model", {**config, "tie_word_embeddings": False})
    shapes = read_parameters(str(folder), Tuning()).trained
    assert sum(map(math.prod, shapes)) == count
    found = predict(shapes, "zero3", 8, 2)
    assert found.device.subspace == pytest.approx(2 * 2 * count / 8, rel=1e-6)
    assert predict(shapes, "ddp", 8, 2).device.peak == pytest.approx((16 + 4 + 4) * count, rel=1e-2)


@pytest.mark.parametrize(
    "tuning",
    [
        Tuning("lora"),
        Tuning("lora", rank=3, targets=["q_proj", "v_proj"]),
        Tuning("lora", additional=["embed_tokens"], dora=True),
    ],
)
def test_lora_counts_as_a_real_adapter(tiny: Path, tuning: Tuning) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoConfig, AutoModelForCausalLM

    linear = "q_proj k_proj v_proj o_proj gate_proj up_proj down_proj".split()
    targets = linear if tuning.targets == ["all"] else tuning.targets
    real = get_peft_model(
        AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(tiny)),
        LoraConfig(
            task_type="CAUSAL_LM",
            r=tuning.rank,
            target_modules=targets,
            modules_to_save=tuning.additional or None,
            use_dora=tuning.dora,
        ),
    )
    found = read_parameters(str(tiny), tuning)
    assert found.names == [name for name, p in real.named_parameters() if p.requires_grad]
    assert [tuple(shape) for shape in found.trained] == [tuple(p.shape) for p in real.parameters() if p.requires_grad]
    assert sum(map(math.prod, found.frozen)) == sum(p.numel() for p in real.parameters() if not p.requires_grad)
    assert len(set(found.units)) == len(found.names)


def test_freeze(tiny: Path) -> None:
    last = read_parameters(str(tiny), Tuning("freeze", freeze_layers=1))
    assert sum(map(math.prod, last.trained)) == TINY_LAYER
    assert all(".1." in name for name in last.names)
    first = read_parameters(
        str(tiny), Tuning("freeze", freeze_layers=-1, freeze_modules=["mlp"], freeze_extra=["norm"])
    )
    assert sum(map(math.prod, first.trained)) == 3 * 96 + 8 * 5  # "norm" is in the names of the layers' norms too
    with pytest.raises(OGPSAError, match=r"No parameter has \.1\.attention in its name"):
        read_parameters(str(tiny), Tuning("freeze", freeze_layers=1, freeze_modules=["attention"]))


def test_image_text_model(tmp_path: Path) -> None:
    vision = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    config = {
        "model_type": "llava",
        "text_config": TINY,
        "vision_config": {"model_type": "clip_vision_model", **vision},
    }
    folder = str(write(tmp_path / "model", config))
    found = read_parameters(folder, Tuning())
    assert found.kind == "LlavaForConditionalGeneration"
    assert sum(map(math.prod, found.trained)) == TINY_COUNT
    assert found.frozen and "the rest is counted as frozen" in found.remarks[0]
    assert read_parameters(folder, Tuning(freeze_vision=False)).frozen == []
    adapter = read_parameters(folder, Tuning("lora"))
    assert len(adapter.names) == 2 * 2 * 7
    assert not any("vision" in name for name in adapter.names)
    assert len(read_parameters(folder, Tuning("lora", targets=["q_proj"])).names) == 2 * 2


def test_nothing_is_allocated(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built = []
    monkeypatch.setattr(torch.nn.Linear, "reset_parameters", lambda self: built.append(self.weight.device.type))
    read_parameters(str(tiny), Tuning("lora"))
    assert set(built) == {"meta"}


def test_json(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = plan(capsys, tiny, "--world-size", 2, "--references", 3, "--rank", 2, "--memory", "1e-5")
    assert (result["parameters"], result["trained"], result["directions"]) == (TINY_COUNT, TINY_COUNT, 6)
    assert list(result["engines"]) == list(ENGINES)
    zero3 = result["engines"]["zero3"]
    assert zero3["device"]["subspace"] == 6 * 2 * zero3["elements"]
    assert zero3["device"]["peak"] == zero3["device"]["training"] + zero3["device"]["refresh"]
    assert (zero3["fits"], result["engines"]["fsdp2-offload"]["fits"]) == (False, True)
    assert "activations" in result["remarks"][-1]


def test_table(tiny: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert cli.main(["doctor", "--plan", str(tiny / "config.json"), "--memory", "80", "--offload"]) == 0
    printed = capsys.readouterr().out
    assert f"LlamaForCausalLM: {TINY_COUNT:,} parameters, {TINY_COUNT:,} of them trained" in printed
    assert "k = 2 (reference sets: 2, rank: 1)" in printed
    assert "10^9 bytes" in printed and "Not counted: activations" in printed and "fits in 80" in printed
    assert all(f" {name} " in printed for name in ENGINES)
    assert "←" not in printed


def test_options_go_before_the_file(tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = training_file(tmp_path, ogpsa_rank=2, ogpsa_granularity="global", ogpsa_project="update")
    result = plan(capsys, path, "--rank", 1, "--lora-rank", 4, "--lora-target", "q_proj,v_proj", "--engine", "fsdp2")
    assert result["directions"] == 2
    assert result["trained"] == 2 * (4 * (8 + 8) + 4 * (8 + 4))
    assert list(result["engines"]) == ["fsdp2"]
    assert result["engines"]["fsdp2"]["traffic"] == 2 * 8
    result = plan(capsys, path, "--rank", 1, "--project", "preconditioned", "--engine", "fsdp2")
    assert result["engines"]["fsdp2"]["traffic"] > 2 * 3 * 8


@pytest.mark.usefixtures("tiny")
class TestTrainingFile:
    def test_it_is_marked(self, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
        monkeypatch.setenv("COLUMNS", "200")
        zero = {"stage": 3, "offload_optimizer": {"device": "cpu"}}
        (tmp_path / "ds.json").write_text(json.dumps({"zero_optimization": zero}))
        path = training_file(tmp_path, deepspeed=str(tmp_path / "ds.json"), stage="ogpsa_dpo")
        assert cli.main(["doctor", "--plan", path]) == 0
        printed = capsys.readouterr().out
        assert "zero3-offload ←" in printed
        assert "reference model of this stage is counted" in printed
        settings = plan(capsys, path)["settings"]
        assert (settings["engine"], settings["reference_model"]) == ("zero3-offload", True)

    def test_reference_model(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        alone = plan(capsys, training_file(tmp_path, stage="ogpsa_sft"))
        beside = plan(capsys, training_file(tmp_path, stage="ogpsa_dpo"))
        more = beside["engines"]["ddp"]["device"]["weights"] - alone["engines"]["ddp"]["device"]["weights"]
        assert more == 2 * TINY_COUNT
        assert not read_settings(training_file(tmp_path, stage="ogpsa_dpo", pref_loss="simpo")).reference_model
        assert not read_settings(training_file(tmp_path, stage="ogpsa_kto", finetuning_type="lora")).reference_model

    def test_ogpsa_and_tuning(self, tmp_path: Path) -> None:
        settings = read_settings(
            training_file(
                tmp_path,
                ogpsa_reference_dataset=["a", "b", "c"],
                ogpsa_rank=4,
                ogpsa_subspace_dtype="bfloat16",
                ogpsa_offload=True,
                finetuning_type="lora",
                lora_rank=16,
                lora_target="q_proj, k_proj",
                additional_target="embed_tokens",
                quantization_bit=4,
                optim="adafactor",
            )
        )
        assert (settings.references, settings.rank, settings.subspace_dtype, settings.offload) == (
            3,
            4,
            "bfloat16",
            True,
        )
        assert settings.tuning == Tuning("lora", 16, ["q_proj", "k_proj"], ["embed_tokens"])
        assert len(settings.remarks) == 2

    def test_a_cpu_keeps_another_subspace(self, tmp_path: Path) -> None:
        (remark,) = read_settings(training_file(tmp_path, use_cpu=True)).remarks
        assert "use_cpu" in remark
        assert not read_settings(training_file(tmp_path, use_cpu=True, ogpsa_subspace_dtype="float32")).remarks

    def test_released_flags(self, tmp_path: Path) -> None:
        path = training_file(tmp_path, stage="sft_pg", base_dataset="a,b,c", ogpsa_reference_dataset=None)
        path = Path(path)
        path.write_text(path.read_text().replace("ogpsa_reference_dataset: null\n", ""))
        assert read_settings(str(path)).references == 3

    @pytest.mark.parametrize(
        "given, precision",
        [({}, "mixed"), ({"bf16": False}, "float32"), ({"bf16": False, "pure_bf16": True}, "pure")],
    )
    def test_precision(self, tmp_path: Path, given: dict[str, Any], precision: str) -> None:
        assert read_settings(training_file(tmp_path, **given)).precision == precision

    @pytest.mark.parametrize(
        "given, engine",
        [
            ({}, "ddp"),
            ({"deepspeed": {"zero_optimization": {}}}, "zero0"),
            ({"deepspeed": {"zero_optimization": {"stage": 1}}}, "zero1"),
            (
                {"deepspeed": {"zero_optimization": {"stage": 1}, "data_types": {"grad_accum_dtype": "fp32"}}},
                "bf16",
            ),
            (
                {
                    "bf16": False,
                    "fp16": True,
                    "deepspeed": {"zero_optimization": {"stage": 1}, "data_types": {"grad_accum_dtype": "fp32"}},
                },
                "zero1",
            ),
            ({"deepspeed": {"zero_optimization": {"stage": 2, "offload_optimizer": {"device": "none"}}}}, "zero2"),
            (
                {"deepspeed": {"zero_optimization": {"stage": 3, "offload_param": {"device": "nvme"}}}},
                "zero3-offload-all",
            ),
            ({"fsdp": "full_shard auto_wrap"}, "fsdp1"),
            ({"fsdp": "full_shard offload", "fsdp_config": {"fsdp_version": 2}}, "fsdp2-offload"),
            ({"fsdp": True, "fsdp_config": {"version": 2}}, "fsdp2"),
            ({"fsdp": ["no_shard"]}, "ddp"),
        ],
    )
    def test_engine(self, tmp_path: Path, given: dict[str, Any], engine: str) -> None:
        assert read_settings(training_file(tmp_path, **given)).engine == engine

    @pytest.mark.parametrize(
        "name, engine",
        [
            ("zero2", "zero2"),
            ("zero2_offload", "zero2-offload"),
            ("zero3", "zero3"),
            ("zero3_offload", "zero3-offload-all"),
        ],
    )
    def test_our_examples(self, tmp_path: Path, name: str, engine: str) -> None:
        examples = Path(__file__).parent.parent / "examples"
        path = training_file(tmp_path, deepspeed=str(examples / "deepspeed" / f"{name}.json"))
        assert read_settings(path).engine == engine
        assert read_settings(str(examples / "yaml" / "qwen2_5_7b" / "ogpsa_sft.yaml")).references == 2

    @pytest.mark.parametrize(
        "given, message",
        [
            ({"finetuning_type": "oft"}, "finetuning_type: oft has no plan"),
            ({"deepspeed": "nowhere.json"}, "deepspeed: nowhere.json cannot be read"),
            ({"deepspeed": {"zero_optimization": {"stage": 7}}}, "stage: 7; it must be 0, 1, 2 or 3"),
            ({"ogpsa_rank": "many"}, "ogpsa_rank: many is not possible"),
            ({"ogpsa_rank": 33}, "66 directions"),
            ({"ogpsa_subspace_dtype": "float8"}, "ogpsa_subspace_dtype"),
            (
                {"finetuning_type": "lora", "lora_target": "query"},
                "LoRA with rank 8 on query .* linear layers are down_p",
            ),
            ({"model_name_or_path": None}, "neither a model's config.json .* nor a training file"),
            ({"stages": []}, "is a pipeline of several stages"),
        ],
    )
    def test_mistakes(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str], given: dict[str, Any], message: str
    ) -> None:
        refused(capsys, message, "--plan", training_file(tmp_path, **given))


def refused(capsys: pytest.CaptureFixture[str], message: str, *words: str) -> None:
    """The command ends with 1 and one message; an exception would go past `cli.main`."""
    assert cli.main(["doctor", *words]) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert re.search(f"ogpsa: .*{message}", printed.err, re.DOTALL)


def test_mistakes_on_the_command_line(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    model = ("--plan", str(tiny))
    refused(capsys, "--world-size belongs to --plan", "--world-size", "8")
    refused(capsys, "world size of 0", *model, "--world-size", "0")
    refused(capsys, "Engine zero9 is unknown", *model, "--engine", "zero9")
    refused(capsys, "66 directions", *model, "--references", "33", "--rank", "2")
    refused(capsys, "rank -1", *model, "--lora-rank", "-1")
    refused(capsys, "nowhere/at/all does not exist", "--plan", "nowhere/at/all")
    refused(capsys, r"nowhere\.json does not exist", "--plan", "nowhere.json")
    refused(capsys, "neither here nor can it be fetched from the hub", "--plan", "nobody/nothing")
    refused(capsys, "has no config.json", "--plan", str(tmp_path))
    (tmp_path / "broken.json").write_text("{")
    refused(capsys, "broken.json cannot be read", "--plan", str(tmp_path / "broken.json"))


@pytest.mark.parametrize(
    "config, message",
    [
        ({"model_type": "vit"}, r"No language model .* \(model_type: vit\)"),
        ({"model_type": "of_the_future"}, "cannot be read: .*of_the_future"),
        ({**TINY, "num_attention_heads": 3}, "(cannot be read|No language model)"),
        ({"hidden_size": 8}, "cannot be read"),
    ],
)
def test_configurations_that_make_no_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], config: dict[str, Any], message: str
) -> None:
    refused(capsys, message, "--plan", str(write(tmp_path / "model", config)))
