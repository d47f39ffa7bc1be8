"""`ogpsa evaluate` from the command line: files in public schemas, a small random model, a judge."""

import json
import os
from pathlib import Path

import pytest
from benchmark_files import copy_model, save_chat_model, write_benchmarks, write_csv
from chat_server import SECRET, failure, ok, serving

from ogpsa_factory.cli import main
from ogpsa_factory.evaluation.backends import RecordedLM, _merged
from ogpsa_factory.evaluation.models import Model
from ogpsa_factory.evaluation.sources import DATA_VARIABLE
from ogpsa_factory.results.scores import read_scores


ROOT = Path(__file__).parent.parent.parent
PAPER = "StrongReject XSTest WildChat Stereotype SimpleQA GPQA MMLU IFEval HHH AdvGLUE".split()


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """A model and the files of all benchmarks."""
    folder = tmp_path_factory.mktemp("shared")
    save_chat_model(folder / "model")
    write_benchmarks(folder / "files")
    return folder


@pytest.fixture(autouse=True)
def place(shared, tmp_path, monkeypatch):
    """An empty working folder beside them."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.setenv(DATA_VARIABLE, "")  # the command sets it, and it must not stay
    (tmp_path / "model").symlink_to(shared / "model")
    (tmp_path / "files").symlink_to(shared / "files")


def evaluate(*words, data="files", tokens=6):
    return main(["evaluate", *words, "--data", data, "--max-new-tokens", str(tokens), "--output", "out"])


def scores(name="model", output="out"):
    return json.loads((Path(output) / name / "scores.json").read_text(encoding="utf-8"))["benchmarks"]


def samples(benchmark, name="model", output="out"):
    return [json.loads(line) for line in (Path(output) / name / benchmark / "samples.jsonl").open(encoding="utf-8")]


@pytest.fixture
def generated(monkeypatch):
    """How many answers the models give, in this test."""
    counts = []
    original = RecordedLM.add_partial

    def counting(self, kind, arguments, answer):
        before = self.generated
        original(self, kind, arguments, answer)
        counts.extend([arguments[0]] * (self.generated - before))

    monkeypatch.setattr(RecordedLM, "add_partial", counting)
    return counts


@pytest.mark.slow
def test_the_whole_suite(generated, capsys):
    assert evaluate("model", "--judge", "keywords") == 0
    found = scores()
    assert list(found)[:10] == PAPER and all("score" in entry for entry in found.values())
    counts = {name: entry["samples"] for name, entry in found.items()}
    assert counts["StrongReject"] == 12 and counts["XSTest"] == counts["XSTest-safe"] == 6 and counts["AdvGLUE"] == 36
    assert counts["Stereotype"] == 6 and counts["MMLU"] == 12 and counts["GPQA"] == 6
    assert found["MMLU"]["note"].startswith("2 of 57 tasks")
    assert found["XSTest"]["judge"] == "keywords" and found["MMLU"]["judge"] is None
    (origin,) = found["XSTest"]["origins"]
    assert origin.startswith("xstest_prompts.csv sha256:")
    assert found["XSTest"]["rows"] != found["XSTest-safe"]["rows"]
    assert "judged by keywords" in capsys.readouterr().out
    for name, entry in found.items():
        lines = [json.loads(line) for line in (Path("out/model") / entry["items"]).open()]
        assert len(lines) == len({line["id"] for line in lines}) == entry["samples"], name
    read_scores([Path("out")])  # the report takes what is written here
    first = len(generated)
    before = {path: path.read_bytes() for path in Path("out/model").rglob("*.json*")}
    assert evaluate("model", "--judge", "keywords") == 0
    assert len(generated) == first, "nothing is generated twice"
    assert {path: path.read_bytes() for path in before} == before, "and the same command gives the same result"


def test_prompts_are_those_of_the_chat_and_kept(capsys):
    assert evaluate("model", "--benchmarks", "XSTest,MMLU,StrongReject", "--system", "w5") == 0
    for sample in [*samples("XSTest"), *samples("MMLU"), *samples("StrongReject")]:
        assert sample["prompt"].startswith("<|im_start|> system w5") and sample["prompt"].endswith("assistant ")
    disguised = samples("StrongReject")[0]
    assert disguised["doc"]["original"] in disguised["doc"]["prompt"] != disguised["doc"]["original"]
    assert len(samples("MMLU")[0]["likelihoods"]) == 4
    assert "not judged yet" in scores()["XSTest"]["gap"]


def test_a_dry_run_needs_no_model(generated, capsys):
    assert evaluate("--dry-run", "--benchmarks", "XSTest,MMLU", "--limit", "5") == 0
    said = capsys.readouterr().out
    assert "XSTest: 5 rows, answers of up to 6 tokens, judged (xstest)" in said
    assert "MMLU: 10 rows, likelihoods" in said
    assert evaluate("--dry-run", data="nowhere") == 1
    assert "--data nowhere is no folder" in capsys.readouterr().err
    Path("empty").mkdir()
    assert evaluate("--dry-run", data="empty") == 1
    assert "--data" in capsys.readouterr().err
    assert evaluate() == 1
    assert "needs a model" in capsys.readouterr().err
    assert not generated and not Path("out").exists()


def test_only_the_judge_is_missing(generated):
    assert evaluate("model", "--benchmarks", "XSTest") == 0
    done = len(generated)
    assert evaluate("model", "--benchmarks", "XSTest", "--judge", "keywords") == 0
    assert len(generated) == done and scores()["XSTest"]["samples"] == 6


def test_killed_while_generating(generated, monkeypatch):
    original = RecordedLM.add_partial

    def dying(self, kind, arguments, answer):
        if len(generated) == 7:
            raise KeyboardInterrupt
        original(self, kind, arguments, answer)

    with monkeypatch.context() as patch:
        patch.setattr(RecordedLM, "add_partial", dying)
        assert evaluate("model", "--benchmarks", "XSTest,SimpleQA", "--batch-size", "2") == 130
    assert len(generated) == 7
    assert evaluate("model", "--benchmarks", "XSTest,SimpleQA", "--batch-size", "2") == 0
    assert len(generated) == 12 and len(set(generated)) == 12


def test_other_weights_are_another_model(generated, shared, tmp_path):
    import torch
    from transformers import AutoModelForCausalLM

    model = copy_model(shared / "model", tmp_path / "changing")
    assert evaluate("changing", "--benchmarks", "XSTest", "--judge", "keywords") == 0
    done = len(generated)
    network = AutoModelForCausalLM.from_pretrained(model)
    with torch.no_grad():
        network.lm_head.weight.add_(0.1)
    network.save_pretrained(model)
    assert evaluate("changing", "--benchmarks", "XSTest", "--judge", "keywords") == 0
    assert len(generated) == 2 * done


def test_adapters_and_several_models(shared, tmp_path, generated):
    """A folder with an adapter, and a chain of two; B is not zero, so that answers change."""
    import torch
    from peft import LoraConfig, get_peft_model
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM

    for number in (1, 2):
        torch.manual_seed(number)
        base = AutoModelForCausalLM.from_pretrained(shared / "model")
        config = LoraConfig(r=2, init_lora_weights=False, target_modules=["q_proj", "v_proj", "down_proj"])
        get_peft_model(base, config).save_pretrained(f"adapter{number}")
    config = json.loads(Path("adapter1/adapter_config.json").read_text())
    Path("adapter1/adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": "model"}))
    words = ["base=model", "SFT/lora=adapter1", "SFT-DPO/lora=model+adapter1+adapter2"]
    assert evaluate(*words, "--benchmarks", "XSTest,HHH", "--judge", "keywords") == 0
    names = ("base", "SFT/lora", "SFT-DPO/lora")
    answers = [[sample["answer"] for sample in samples("XSTest", name)] for name in names]
    assert answers[0] != answers[1] != answers[2] != answers[0]
    name = "layers.0.self_attn.q_proj"
    expected = AutoModelForCausalLM.from_pretrained("model").state_dict()[f"model.{name}.weight"]
    for number in (1, 2):
        tensors = load_file(f"adapter{number}/adapter_model.safetensors")
        up, down = (tensors[f"base_model.model.model.{name}.lora_{part}.weight"] for part in "BA")
        expected = expected + config["lora_alpha"] / config["r"] * up @ down
    merged = _merged(Model("x", "model", ("adapter1", "adapter2")), "float32", "cpu")
    assert torch.allclose(merged.state_dict()[f"model.{name}.weight"], expected, atol=1e-6), "both, once each"
    record = json.loads(Path("out/SFT-DPO/lora/scores.json").read_text())["model"]
    assert record["adapters"] == ["adapter1", "adapter2"] and record["path"] == "model"


def test_a_hub_that_is_gone_is_asked_once(monkeypatch, capsys):
    asked = []

    def unreachable(name, *_, **__):
        asked.append(name)
        raise ConnectionError("no route")

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("datasets.load_dataset", unreachable)
    Path("empty").mkdir()
    assert evaluate("model", "--benchmarks", "XSTest,HHH", data="empty") == 1
    assert "no route" in capsys.readouterr().err
    import datasets
    import huggingface_hub

    assert asked[0] == "walledai/XSTest"
    assert datasets.config.HF_HUB_OFFLINE and huggingface_hub.constants.HF_HUB_OFFLINE


def test_rows_that_cannot_be_had(capsys, tmp_path, generated, monkeypatch):
    monkeypatch.setattr("datasets.load_dataset", lambda *_, **__: (_ for _ in ()).throw(OSError("401: gated")))
    write_csv(tmp_path / "few" / "xstest_prompts.csv", [{"prompt": "w1", "type": "contrast_x"}])
    words = ["model", "--benchmarks", "XSTest,GPQA,WildChat", "--judge", "keywords"]
    assert evaluate(*words, data="few") == 1
    said = capsys.readouterr().err
    assert said.count("hf auth login") == 2 and "Idavidrein/gpqa" in said and "WildChat" in said
    assert not generated, "before anything is generated"
    assert evaluate(*words, "--skip-missing", data="few") == 0
    assert "hf auth login" in scores()["GPQA"]["gap"] and scores()["XSTest"]["samples"] == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nowhere"], "neither a folder with a model nor a name on the hub"),
        (["files"], "no config.json"),
        (["a=model", "a=model"], "two models are called a"),
        (["a=model", "a/b=model"], "would be folders"),
        (["../x=model"], "is no name for a model"),
        (["answers=model"], "another folder"),
        (["model+files"], "holds no adapter"),
        (["model", "--suite", "papr"], "suites/papr.yaml"),
        (["model", "--benchmarks", "XStest"], "Did you mean XSTest"),
        (["model", "--backend", "openai"], "--url"),
        (["model", "--url", "http://localhost/v1"], "--backend openai"),
        (["model", "--batch-size", "0"], "--batch-size"),
        (["model", "--model-args", "x"], "KEY=VALUE"),
        (["model", "--temperature", "3"], "--temperature"),
        (["model", "--judge", "endpoint", "--judge-url", "nowhere"], "no address"),
        (["model", "--backend", "vllm", "--benchmarks", "XSTest"], "vLLM"),
        (["model", "--benchmarks", "XSTest", "--device", "cuda:7"], "no such GPU"),
        (["model", "--benchmarks", "XSTest", "--device", "gpu"], "--device gpu"),
        (["model", "--benchmarks", "XSTest", "--dtype", "float17"], "cannot be loaded"),
        (["model", "--model-args", "token=hf_secret"], "hf auth login"),
        (["model", "--batch-size", "\u00b2"], "--batch-size"),
    ],
)
def test_mistakes_are_explained(words, said, capsys):
    assert evaluate(*words) == 1
    error = capsys.readouterr().err
    assert said in error and "Traceback" not in error


def test_without_lm_eval(monkeypatch, capsys):
    monkeypatch.setattr("ogpsa_factory.evaluation.cli.find_spec", lambda name: None)
    assert evaluate("model") == 1
    assert "pip install 'lm_eval[ifeval]'" in capsys.readouterr().err


def test_a_model_without_a_chat_template(shared, tmp_path, capsys):
    model = copy_model(shared / "model", tmp_path / "plain")
    (model / "chat_template.jinja").unlink()
    assert evaluate("plain", "--benchmarks", "XSTest") == 1
    assert "no chat template" in capsys.readouterr().err
    assert evaluate("plain", "--benchmarks", "XSTest", "--no-chat-template") == 0
    assert "<|im_start|>" not in samples("XSTest", "plain")[0]["prompt"]


def test_files_with_other_columns(tmp_path, capsys):
    write_csv(tmp_path / "odd" / "xstest_prompts.csv", [{"text": "w1", "kind": "x"}])
    assert evaluate("model", "--benchmarks", "XSTest", data="odd") == 1
    said = capsys.readouterr().err
    assert "xstest_prompts.csv" in said and "prompt, type" in said and "text, kind" in said


def test_prompts_that_are_too_long_are_counted(tmp_path):
    prompts = ["w1 " * 40, "w1 w2", "w1 " * 50]
    write_csv(tmp_path / "long" / "xstest_prompts.csv", [{"prompt": each, "type": "contrast_x"} for each in prompts])
    words = ["model", "--benchmarks", "XSTest", "--judge", "keywords", "--model-args", "max_length=30"]
    assert evaluate(*words, data="long") == 0
    assert scores()["XSTest"]["note"] == "2 prompts were too long for the model and were cut"
    assert ["cut" in sample for sample in samples("XSTest")] == [True, False, True]


@pytest.fixture
def server(monkeypatch):
    with serving(monkeypatch) as server:
        yield server


def through_endpoint(server, *words):
    how = ["--backend", "openai", "--url", server.url, "--attempts", "2", "--timeout", "1"]
    return evaluate("chat=some-model", *how, *words, "--judge", "keywords")


def test_a_model_behind_an_endpoint(server, capsys):
    """One prompt fails for good: it is in no score, the others stand, and the next run asks it alone."""
    bad = "w1 w7 w20 w33 w46"

    def script(number, body):
        broken = bad in body["messages"][-1]["content"]
        return failure(500, f"down {SECRET}") if broken else ok("I cannot help with that.")

    server.script = script
    assert through_endpoint(server, "--benchmarks", "XSTest,MMLU") == 0
    found = scores("chat")
    assert (found["XSTest"]["score"], found["XSTest"]["samples"], found["XSTest"]["failed"]) == (100.0, 5, 1)
    assert "likelihoods" in found["MMLU"]["gap"]
    assert "failure" in samples("XSTest", "chat")[0]
    sent = len(server.bodies)
    assert {body["max_tokens"] for body in server.bodies} == {6}
    server.script = lambda number, body: ok("Sure, here it is.")
    assert through_endpoint(server, "--benchmarks", "XSTest") == 0
    assert len(server.bodies) == sent + 1 and scores("chat")["XSTest"]["samples"] == 6
    written = [path for path in Path("out").rglob("*") if path.is_file()]
    assert not any(SECRET.encode() in path.read_bytes() for path in written)
    assert SECRET not in "".join(capsys.readouterr())


def test_a_judged_score_is_kept_only_while_the_answers_are_the_same(server):
    bad = "w1 w7 w20 w33 w46"
    answer = ok("I cannot help with that.")
    server.script = lambda number, body: failure(500, "down") if bad in body["messages"][-1]["content"] else answer
    assert through_endpoint(server, "--benchmarks", "XSTest") == 0
    judged = scores("chat")["XSTest"]
    how = ["--backend", "openai", "--url", server.url, "--attempts", "2", "--timeout", "1"]
    assert evaluate("chat=some-model", *how, "--benchmarks", "XSTest") == 0
    assert scores("chat")["XSTest"] == judged, "the same prompt fails again"
    server.script = lambda number, body: answer
    assert evaluate("chat=some-model", *how, "--benchmarks", "XSTest") == 0
    assert "not judged yet" in scores("chat")["XSTest"]["gap"], "there is one more answer to judge"


@pytest.mark.skipif("OGPSA_REAL_DATA" not in os.environ, reason="OGPSA_REAL_DATA names no folder with real files")
def test_real_files(capsys):
    """The public files themselves: all of their rows load, the first of each are answered."""
    names = "XSTest,XSTest-safe,StrongReject-none,AdvGLUE,IFEval,MMLU,HaluEval"
    words = ["model", "--benchmarks", names, "--limit", "4", "--judge", "keywords", "--batch-size", "16"]
    assert evaluate(*words, data=os.environ["OGPSA_REAL_DATA"]) == 0
    assert {name: entry["samples"] for name, entry in scores().items()} == {
        "XSTest": 4,
        "MMLU": 16,
        "IFEval": 4,
        "AdvGLUE": 24,
        "XSTest-safe": 4,
        "StrongReject-none": 4,
        "HaluEval": 4,
    }
    assert "steal" not in capsys.readouterr().out  # prompts are in files, not on the terminal


def write_suite(path, benchmarks, **more):
    path.write_text(json.dumps({"title": "Mine", "benchmarks": benchmarks, **more}))
    return str(path)


SST2 = {"axis": "general", "tasks": ["ogpsa_advglue_sst2"], "score": "acc"}
IFEVAL = {"axis": "general", "tasks": ["ifeval"], "max_new_tokens": 4}
XSTEST = {"axis": "safety", "tasks": ["ogpsa_xstest_unsafe"], "judge": "xstest", "max_new_tokens": 6}


def test_scores_that_still_hold_are_kept(capsys):
    """A run of other benchmarks, or without a judge, takes nothing away; other weights or another template do."""
    assert evaluate("model", "--benchmarks", "XSTest,HHH", "--judge", "keywords") == 0
    before = scores()
    assert evaluate("model", "--benchmarks", "StrongReject,XSTest") == 0
    after = scores()
    assert list(after) == ["StrongReject", "XSTest", "HHH"], "in the order of the suite"
    assert after["XSTest"] == before["XSTest"] and after["HHH"] == before["HHH"]
    assert "not judged yet" in after["StrongReject"]["gap"]
    read_scores([Path("out")])
    assert evaluate("model", "--benchmarks", "XSTest", "--limit", "3") == 0
    assert "gap" in scores()["XSTest"], "other rows were answered"
    assert evaluate("model", "--benchmarks", "StrongReject", "--system", "w1") == 0
    assert list(scores()) == ["StrongReject"]


def test_a_model_that_cannot_be_loaded_does_not_stop_the_others(shared, tmp_path, capsys):
    broken = copy_model(shared / "model", tmp_path / "broken")
    weights = broken / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    assert evaluate("broken", "model", "--benchmarks", "XSTest,HHH", "--judge", "keywords") == 1
    said = capsys.readouterr()
    assert "broken, XSTest: not generated" in said.err and "cannot be loaded" in said.err
    assert "score" in scores()["XSTest"] and "cannot be loaded" in scores("broken")["HHH"]["gap"]


def test_a_judge_that_is_gone_costs_only_what_it_judges(shared, capsys):
    how = ["--judge", "endpoint", "--judge-url", "http://127.0.0.1:9/v1", "--attempts", "1"]
    assert evaluate("model", "--benchmarks", "XSTest,HHH", *how) == 1
    assert "no sample has a score" in capsys.readouterr().err
    found = scores()
    assert "cannot be reached" in found["XSTest"]["gap"] and "score" in found["HHH"]
    write_csv(Path("many") / "xstest_prompts.csv", [{"prompt": f"w{i}", "type": "contrast_x"} for i in range(20)])
    (Path("many") / "hhh.jsonl").symlink_to(shared / "files" / "hhh.jsonl")
    assert evaluate("model", "--benchmarks", "XSTest,HHH", *how, data="many") == 1
    assert "cannot be reached" in capsys.readouterr().err
    assert "not scored" in scores()["XSTest"]["gap"] and "score" in scores()["HHH"]


def test_sampling_follows_the_seed(generated, tmp_path):
    benchmarks = {"X": {**XSTEST, "max_new_tokens": 6}}
    answers = []
    for seed in (1, 1, 2):
        suite = write_suite(tmp_path / "mine.yaml", benchmarks, seed=seed)
        assert evaluate("model", "--suite", suite, "--temperature", "1") == 0
        answers.append([sample["answer"] for sample in samples("X")])
    assert answers[0] == answers[1] != answers[2]
    assert len(generated) == 12


def test_a_prompt_that_the_endpoint_refuses_is_no_answer(server):
    """Neither harmful nor a refusal by the model; and the same prompt elsewhere has its own answer."""
    refused = failure(400, "content_filter: no", "content_filter")
    server.script = lambda number, body: refused if body["max_tokens"] == 6 else ok("I cannot help with that.")
    path = write_suite(Path("mine.yaml"), {"A": XSTEST, "B": {**XSTEST, "max_new_tokens": 5}})
    assert through_endpoint(server, "--suite", path) == 1
    found = scores("chat")
    assert "6 failed" in found["A"]["gap"] and "refuses to read this prompt" in found["A"]["gap"]
    assert (found["B"]["score"], found["B"]["samples"]) == (100.0, 6)


@pytest.mark.parametrize(
    ("benchmarks", "more", "said"),
    [
        ({"X": {**XSTEST, "tasks": ["ogpsa_advglue_sst2"]}}, {}, "generates no text"),
        ({"X": {**XSTEST, "judge": "simpleqa"}}, {}, "have no answer"),
        (
            {"X": {**SST2, "aggregation": "advglue"}},
            {},
            "exactly",
        ),
        (
            {"X": {**IFEVAL, "score": "inst_level_strict_acc"}},
            {},
            "no mean",
        ),
        ({"X": {**IFEVAL, "score": "acc"}}, {}, "no figure acc"),
        pytest.param(  # all of lm-eval's tasks are searched, which takes seconds
            {"X": {**SST2, "tasks": ["no_such_task"]}}, {}, "no task no_such_task", marks=pytest.mark.slow
        ),
        ({"../X": XSTEST}, {}, "letters, digits"),
        ({"X": {**XSTEST, "score": 5}}, {}, "must be text"),
        ({"X": {**XSTEST, "tsaks": []}}, {}, "Did you mean tasks"),
        ({"X": {**XSTEST, "axis": "both"}}, {}, "axis must be one of"),
        ({"X": {**XSTEST, "higher_is_better": False}}, {}, "axis must be extra"),
        ({"X": {**XSTEST, "max_new_tokens": 0}}, {}, "max_new_tokens"),
        ({"X": None}, {"extends": "mine.yaml"}, "extends itself"),
        ([], {}, "needs title"),
        ({"X": None}, {}, "must map keys to values"),
    ],
)
def test_suites_that_make_no_sense(benchmarks, more, said, capsys):
    path = write_suite(Path("mine.yaml"), benchmarks, **more)
    assert evaluate("model", "--suite", path, "--judge", "keywords") == 1
    error = capsys.readouterr().err
    assert said in error and "Traceback" not in error


def test_what_the_data_command_builds_is_no_benchmark():
    """Its sets lie in the same folder, with names that are like those of benchmarks."""
    from ogpsa_factory.data.paper import STEPS
    from ogpsa_factory.evaluation.sources import SOURCES, local_file

    built = [name for step in STEPS.values() for names in (step.sets, step.aliases) for name in names.values()]
    for suffix in ("json", "jsonl"):
        for name in built:
            path = Path("built") / "paper" / f"{name}.{suffix}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    os.environ[DATA_VARIABLE] = "built"
    found = {name: local_file(source, split, "x") for name, source in SOURCES.items() for split in source.splits}
    assert not any(found.values())


def test_folders_with_signs_in_their_names(shared, tmp_path):
    copy_model(shared / "model", tmp_path / "lr=1e-6")
    assert evaluate("lr=1e-6", "--benchmarks", "XSTest") == 1, "a name for tables is missing"
    assert evaluate("SFT/naive=lr=1e-6", "--benchmarks", "XSTest") == 0


def test_two_files_for_one_benchmark(capsys):
    for folder in ("a", "b"):
        write_csv(Path("two") / folder / "xstest_prompts.csv", [{"prompt": "w1", "type": "contrast_x"}])
    assert evaluate("model", "--benchmarks", "XSTest", data="two") == 1
    assert "which file is it" in capsys.readouterr().err


def test_the_model_s_own_system_message_stays_in_mmlu():
    """lm-eval's description of a subject belongs to the question."""
    assert evaluate("model", "--benchmarks", "MMLU") == 0
    first = samples("MMLU")[0]["prompt"]
    assert first.startswith("<|im_start|> user The following are multiple choice questions")
    assert "system" not in first
