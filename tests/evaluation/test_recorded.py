"""Answers are kept as soon as they are there, and nothing is generated twice."""

from typing import ClassVar

import pytest
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM

from ogpsa_factory.evaluation.recorded import RecordedLM


class Fake(LM):
    """Answers in capitals, in batches of two, and dies when it has answered `lasts` requests."""

    asked: ClassVar[list[str]] = []

    def __init__(self, lasts=1000, keeps_batches=False):
        super().__init__()
        self.lasts, self.keeps_batches = lasts, keeps_batches

    def generate_until(self, requests, disable_tqdm=False):
        answers = []
        for request in requests:
            if len(Fake.asked) >= self.lasts:
                raise KeyboardInterrupt
            Fake.asked.append(request.args[0])
            answers.append(f"{request.args[0].upper()}{len(Fake.asked) if request.args[1].get('do_sample') else ''}")
            if self.keeps_batches:
                self.cache_hook.add_partial("generate_until", request.args, answers[-1])
        return answers

    def loglikelihood(self, requests, disable_tqdm=False):
        Fake.asked += [request.args[0] for request in requests]
        return [(-len(request.args[1]), True) for request in requests]

    def loglikelihood_rolling(self, requests, disable_tqdm=False):
        raise NotImplementedError


@pytest.fixture(autouse=True)
def nothing_asked():
    Fake.asked = []


def make(path, load=Fake, block=1000):
    return RecordedLM(path / "answers.jsonl", load, lambda messages, **_: str(messages), block)


def generating(*prompts, **options):
    return [Instance("generate_until", {}, (prompt, {"until": [], **options}), i) for i, prompt in enumerate(prompts)]


def test_a_second_run_loads_no_model(tmp_path):
    first = make(tmp_path)
    assert first.generate_until(generating("a", "bb")) == ["A", "BB"]
    scored = [Instance("loglikelihood", {}, ("a", "xy"), 0)]
    assert first.loglikelihood(scored) == [(-2.0, True)]
    first.close()
    second = make(tmp_path, load=lambda: pytest.fail("there is nothing to generate"))
    assert second.generate_until(generating("bb", "a")) == ["BB", "A"]
    assert second.loglikelihood(scored) == [(-2.0, True)]
    assert second.generated == 0


@pytest.mark.parametrize("keeps_batches", [True, False])
def test_killed_in_the_middle(tmp_path, keeps_batches):
    """With the batches that lm-eval's model hands out, or with blocks where it hands out none."""
    prompts = [f"p{i}" for i in range(9)]
    first = make(tmp_path, lambda: Fake(5, keeps_batches), 1000 if keeps_batches else 1)
    with pytest.raises(KeyboardInterrupt):
        first.generate_until(generating(*prompts))
    first.close()
    second = make(tmp_path, lambda: Fake(100, keeps_batches))
    assert second.generate_until(generating(*prompts)) == [prompt.upper() for prompt in prompts]
    assert sorted(Fake.asked) == prompts, "each was asked once"
    second.close()


def test_other_options_are_another_question(tmp_path):
    lm = make(tmp_path)
    lm.generate_until(generating("a", max_gen_toks=4))
    lm.generate_until(generating("a", max_gen_toks=8))
    assert Fake.asked == ["a", "a"]
    lm.close()


def test_equal_requests_are_sampled_each(tmp_path):
    lm = make(tmp_path)
    answers = lm.generate_until(generating("a", "a", "a", do_sample=True))
    assert sorted(answers) == ["A1", "A2", "A3"]
    assert lm.generate_until(generating("a", "a", "a", do_sample=True)) == answers
    lm.close()


def test_progress_counts_what_is_kept(tmp_path):
    lm = make(tmp_path)
    lm.generate_until(generating("a", "b"))
    seen = []
    lm.on_progress = lambda done, total: seen.append((done, total))
    lm.generate_until(generating("a", "b", "c"))
    assert seen == [(2, 3), (3, 3)]
    lm.close()
