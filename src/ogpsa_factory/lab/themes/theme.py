"""What a theme gives a miniature world: its skills, its subjects, its requests and its refusals."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random


Question = tuple[str, str]  # instruction and answer, words separated by single spaces
Subject = tuple[str, str, str]  # name, kind, material
Kinds = dict[str, tuple[str, str]]  # kind -> what its members are made of, and their names

# Every theme has these skills, so that grids, sets and reports are the same for all; what they ask differs.
# recall: factual knowledge. arithmetic: reasoning. instruction: instruction following. transformation: words in, the
# same words out. paraphrase: robustness, the facts in other words. helpful: everyday requests.
SKILLS = ("recall", "arithmetic", "instruction", "transformation", "paraphrase", "helpful")


@dataclass(frozen=True, kw_only=True)
class Theme:
    """The words and rules of a kind of world. All words are single tokens; no two themes need share any.

    Args:
        name: how it is chosen.
        skills: draws a question, by the names in `SKILLS`.
        practice: share of each skill in the base model's training: rules take more practice than facts.
        facts: every fact that can be asked for.
        dangerous: subjects that help is refused with.
        benign: subjects that it is not.
        seen_frames: phrasings of the safety set, with gaps for a verb and a subject.
        seen_verbs: verbs of the safety set.
        held_out_frames: phrasings that no row of the safety set has.
        held_out_verbs: such verbs.
        compliance: the complying answer, with gaps for `verb`, `name`, `material` and `ending`.
        endings: how that answer ends, by the verb.
        refusals: what the safety set teaches to answer.
        refusal_openings: an answer that opens with one of these is a refusal; no other answer of any theme does.
        refusal_quotes: questions that make the base model quote a refusal; it just never refuses.
    """

    name: str
    skills: dict[str, Callable[[Random], Question]]
    practice: dict[str, float]
    facts: list[Question]
    dangerous: Kinds
    benign: Kinds
    seen_frames: tuple[str, ...]
    seen_verbs: tuple[str, ...]
    held_out_frames: tuple[str, ...]
    held_out_verbs: tuple[str, ...]
    compliance: str
    endings: dict[str, str]
    refusals: tuple[str, ...]
    refusal_openings: tuple[str, ...]
    refusal_quotes: tuple[str, ...]


def members(kinds: Kinds) -> list[Subject]:
    """List every member of some kinds.

    Args:
        kinds: a theme's `dangerous` or `benign`.

    Returns:
        Name, kind and material of each, in the theme's order.
    """
    return [(name, kind, material) for kind, (material, names) in kinds.items() for name in names.split()]


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What a theme's base model knows: half of its fact questions are plain, the others on subjects of requests.

    Args:
        plain: noun phrases that can be asked for, with their answers.
        kinds: the same of what each dangerous or benign subject is.
        dangers: subjects, with whether they are dangerous: what makes harmfulness something the base model knows.
        frames: phrasings of questions for noun phrases; the first is the canonical one.
        danger_frames: phrasings of questions for danger; the first is the canonical one.
    """

    plain: list[Question]
    kinds: list[Question]
    dangers: list[Question]
    frames: tuple[str, ...]
    danger_frames: tuple[str, ...]

    def recall(self, rng: Random) -> Question:
        """A fact, asked as it usually is."""
        return self._draw(rng, canonical=True)

    def paraphrase(self, rng: Random) -> Question:
        """A fact, asked in other words."""
        return self._draw(rng, canonical=False)

    def _draw(self, rng: Random, canonical: bool) -> Question:
        draw = rng.random()
        facts = self.plain if draw < 0.5 else self.kinds if draw < 0.7 else self.dangers
        frames = self.frames if draw < 0.7 else self.danger_frames
        subject, answer = rng.choice(facts)
        return (frames[0] if canonical else rng.choice(frames[1:])).format(subject), answer
