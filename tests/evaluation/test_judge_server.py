"""The judge stage against a real server: LLaMA-Factory's own API with a small model that was taught to judge."""

import json
import os
import random
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from benchmark_files import save_chat_model, words, write_csv
from conftest import WORDS

from ogpsa_factory.cli import main
from ogpsa_factory.evaluation.judging.rubrics import RUBRICS


SIGN = "w7"  # what the judge takes for a refusal


def teach(folder: Path) -> None:
    """Train a small model to say `Refused: yes` of answers with the sign in them, and `Refused: no` of others."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import AutoTokenizer, PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

    special = ["<pad>", "<|im_start|>", "<|im_end|>", "<unk>"]
    spoken = ["user", "assistant", "Refused:", "yes", "no", "<answer>", "</answer>", *WORDS]
    table = {word: i for i, word in enumerate([*special, *spoken])}
    inner = Tokenizer(models.WordLevel(table, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(
        tokenizer_object=inner,
        pad_token="<pad>",
        unk_token="<unk>",
        eos_token="<|im_end|>",
        additional_special_tokens=["<|im_start|>"],
    ).save_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=len(table),
        hidden_size=48,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=1024,
        pad_token_id=0,
        eos_token_id=table["<|im_end|>"],
    )
    model = Qwen2ForCausalLM(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    rng = random.Random(0)
    for _ in range(150):
        rows = []
        for _ in range(16):
            answer = [rng.choice(WORDS) for _ in range(6)]
            answer = [word for word in answer if word != SIGN] + [SIGN] * rng.randint(0, 1)
            rng.shuffle(answer)
            text = RUBRICS["refusal"].messages({"prompt": words(rng.randint(0, 99))}, " ".join(answer))[0]["content"]
            verdict = "yes" if SIGN in answer else "no"
            chat = f"<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\nRefused: {verdict}<|im_end|>"
            rows.append(tokenizer(chat)["input_ids"])
        width = max(map(len, rows))
        ids = torch.tensor([[0] * (width - len(row)) + row for row in rows])
        labels = torch.full_like(ids, -100)
        labels[:, -3:] = ids[:, -3:]
        loss = model(input_ids=ids, attention_mask=(ids != 0).long(), labels=labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if loss < 0.01:
            break
    assert loss < 0.1, f"the judge has not learnt to judge: {loss}"
    model.save_pretrained(folder)


@pytest.fixture
def server(tmp_path):
    """Address of `llamafactory-cli api` with that model."""
    teach(tmp_path / "judge")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    tool = Path(sys.executable).parent / "llamafactory-cli"
    options = [
        "--model_name_or_path",
        str(tmp_path / "judge"),
        "--template",
        "chatml",
        "--infer_backend",
        "huggingface",
    ]
    environment = {**os.environ, "API_HOST": "127.0.0.1", "API_PORT": str(port), "CUDA_VISIBLE_DEVICES": ""}
    with (tmp_path / "server.log").open("w") as log:
        process = subprocess.Popen([tool, "api", *options], env=environment, stdout=log, stderr=log)
        try:
            for _ in range(120):
                with socket.socket() as probe:
                    if probe.connect_ex(("127.0.0.1", port)) == 0:
                        break
                assert process.poll() is None, (tmp_path / "server.log").read_text()[-2000:]
                time.sleep(0.5)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            process.terminate()
            process.wait(30)


@pytest.mark.slow
def test_answers_judged_by_a_local_model(server, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    save_chat_model(tmp_path / "model")
    kind = "Social stereotypes and unfair discrimination"
    rows = [{"question": words(i, 3), "types_of_harm": kind} for i in range(24)]
    write_csv(tmp_path / "files" / "do_not_answer.csv", rows)
    how = [
        "--judge",
        "endpoint",
        "--judge-url",
        server,
        "--judge-model",
        "judge",
        "--output",
        "out",
        "--data",
        "files",
    ]
    command = ["evaluate", "model", "--benchmarks", "Stereotype", "--max-new-tokens", "12", *how]
    assert main(command) == 0
    entry = json.loads(Path("out/model/scores.json").read_text())["benchmarks"]["Stereotype"]
    samples = [json.loads(line) for line in Path("out/model/Stereotype/samples.jsonl").open()]
    verdicts = [json.loads(line) for line in Path("out/model/Stereotype/verdicts.jsonl").open()]
    signs = [SIGN in sample["answer"].split() for sample in samples]
    said = [verdict["verdict"] and verdict["verdict"]["Refused"] == "yes" for verdict in verdicts]
    assert entry["failed"] == 0 and entry["unparsed"] == sum(each is None for each in said) <= 2
    agreed = sum(sign == each for sign, each in zip(signs, said, strict=True))
    assert agreed >= 20, f"the judge sees the answers: {agreed} of 24"
    kept = Path("out/judge.jsonl").read_text()
    assert main(command) == 0 and Path("out/judge.jsonl").read_text() == kept, "nothing is judged twice"

    # The same judge against labels: those of its own sign.
    labelled = [
        {
            "prompt": words(i),
            "completion": f"{words(i, 3)} {SIGN if i % 2 else 'w8'}",
            "label": "yes" if i % 2 else "no",
        }
        for i in range(20)
        if SIGN not in words(i, 3).split()
    ]
    write_csv(tmp_path / "labels.csv", labelled)
    assert main(["evaluate", "judge-check", "labels.csv", "--rubric", "refusal", *how]) == 0
    (path,) = Path("out/judge_check").glob("refusal_*.json")
    record = json.loads(path.read_text())
    assert record["judged"] + record["unjudged"] == len(labelled) and record["share"] > 0.8 and record["kappa"] > 0.6
    assert "Cohen's kappa" in capsys.readouterr().out
