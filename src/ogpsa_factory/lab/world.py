"""The text of the miniature world: what the base model reads, what aligns it, and what measures it.

Every set is drawn from its own random stream, named after the world's seed and the set, so that changing the size of
one leaves the others as they were. Pure standard library.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import cycle
from random import Random

from .requests import combinations, refuse, split_subjects
from .themes.theme import SKILLS, Question, Subject, Theme
from .themes.town import TOWN


HELD_OUT_SHARE = 0.15  # of the questions of each skill (facts in their canonical phrasing excepted)
HELD_OUT_SUBJECTS = 4  # of the 12 of each kind

SAFETY_SET = "mini_safety_sft"
GENERAL_SET = "mini_general_sft"
LOOKALIKE_SET = "mini_lookalike_sft"
BASE_SET = "mini_base"
REFERENCE_PREFIX = "mini_ref_"
EVAL_PREFIX = "mini_eval_"
HARMFUL_HELD_OUT, HARMFUL_SEEN, LOOKALIKE = "harmful_held_out", "harmful_seen", "lookalike"


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Numbers of rows.

    Args:
        base: rows of the base model's training set.
        safety: rows of the safety set.
        reference: rows of each reference set.
        general: rows of the general mixture and of the training look-alikes.
        evaluation: rows of each evaluation set, at most.
    """

    base: int = 40000
    safety: int = 600
    reference: int = 200
    general: int = 600
    evaluation: int = 200

    def scaled(self, scale: float) -> Sizes:
        """Sizes of a smaller world.

        Args:
            scale: factor in (0, 1]; no set gets fewer than 8 rows.

        Returns:
            The scaled sizes.
        """
        return Sizes(**{name: max(8, round(size * scale)) for name, size in vars(self).items()})


class World:
    """All the sets of one world.

    Args:
        seed: names the world; equal seeds write equal text.
        sizes: numbers of rows.
        theme: what it is about.
    """

    def __init__(self, seed: int = 0, sizes: Sizes | None = None, theme: Theme = TOWN) -> None:
        self.seed = seed
        self.theme = theme
        self.sizes = sizes or Sizes()
        self.harmful_seen, self.harmful_held_out = split_subjects(
            theme.dangerous, HELD_OUT_SUBJECTS, self.stream("harmful")
        )
        self.benign_seen, self.benign_held_out = split_subjects(theme.benign, HELD_OUT_SUBJECTS, self.stream("benign"))

    def stream(self, name: str) -> Random:
        """Make the random stream of one set.

        Args:
            name: of the stream.

        Returns:
            A source of chance that equal seeds and names start alike.
        """
        # One stream a theme, or worlds of two themes would hold out the same places of their lists. The first theme's
        # came before there were others, and its worlds stay what they were.
        theme = "" if self.theme is TOWN else f"{self.theme.name}:"
        return Random(f"{theme}{self.seed}:{name}")

    def is_held_out(self, skill: str, question: Question) -> bool:
        """Tell whether a skill's question is kept for evaluation.

        Args:
            skill: name of the skill.
            question: the question.

        Returns:
            Whether no training or reference set may hold it. Always false for `recall`: a fact cannot be inferred.
        """
        return skill != "recall" and self.stream(f"{skill}:{question[0]}").random() < HELD_OUT_SHARE

    def draw(self, skill: str, held_out: bool, rng: Random) -> Question:
        """Draw one question of a skill.

        Args:
            skill: name of the skill.
            held_out: whether to draw from the held-out questions (for `recall` there is but one pool).
            rng: source of chance.

        Returns:
            The question.
        """
        while True:
            question = self.theme.skills[skill](rng)
            if skill == "recall" or self.is_held_out(skill, question) == held_out:
                return question

    def distinct(self, skill: str, held_out: bool, count: int, rng: Random) -> list[Question]:
        """Draw up to `count` different questions of a skill.

        Args:
            skill: name of the skill.
            held_out: whether to draw from the held-out questions.
            count: number of questions wanted.
            rng: source of chance.

        Returns:
            Fewer than `count` where the skill runs out of questions.
        """
        found: dict[Question, None] = {}
        for _ in range(20 * count):  # a skill with few questions would otherwise never end
            found[self.draw(skill, held_out, rng)] = None
            if len(found) == count:
                break

        return list(found)

    def base(self) -> list[Question]:
        """The base model's training set: every skill, compliance with all requests, and how a refusal sounds."""
        rng = self.stream("base")
        theme = self.theme
        frames, verbs = theme.seen_frames + theme.held_out_frames, theme.seen_verbs + theme.held_out_verbs
        subjects = self.harmful_seen + self.harmful_held_out + self.benign_seen + self.benign_held_out
        requests = combinations(theme, frames, verbs, subjects)
        rows: list[Question] = []
        for _ in range(self.sizes.base):
            draw = rng.random()
            if draw < 0.02:
                rows.append((rng.choice(theme.refusal_quotes), rng.choice(theme.refusals)))
            elif draw < 0.22:
                rows.append(rng.choice(requests))
            else:
                skill = rng.choices(list(theme.practice), list(theme.practice.values()))[0]
                rows.append(self.draw(skill, False, rng))

        return rows

    def requests(self, subjects: list[Subject], held_out: bool = False) -> list[Question]:
        """Every request for help with some subjects, with its complying answer.

        Args:
            subjects: name, kind and material of each.
            held_out: in phrasings that neither the safety data nor a reference set has, with verbs of its and others;
                otherwise as in the safety set.

        Returns:
            The requests, in a fixed order.
        """
        theme = self.theme
        if held_out:
            verbs = theme.held_out_verbs + theme.seen_verbs
            return combinations(theme, theme.held_out_frames, verbs, subjects)
        return combinations(theme, theme.seen_frames, theme.seen_verbs, subjects)

    def safety(self) -> list[Question]:
        """Harmful requests, refused; seen subjects, phrasings and verbs only."""
        rng = self.stream("safety")
        requests = self.requests(self.harmful_seen)
        chosen = rng.sample(requests, min(self.sizes.safety, len(requests)))
        return [refuse(self.theme, request, rng) for request in chosen]

    def harmless(self, name: str, count: int) -> list[Question]:
        """Draw benign requests phrased as the safety set's are, answered.

        Args:
            name: of the random stream.
            count: number of requests wanted.

        Returns:
            The requests; none names a held-out subject, so the look-alikes of evaluation remain unseen.
        """
        requests = self.requests(self.benign_seen)
        return self.stream(name).sample(requests, min(count, len(requests)))

    def general(self) -> list[Question]:
        """An even mixture of the skills, for baselines that replay general data."""
        rng = self.stream("general")
        return [
            self.draw(skill, False, rng) for skill, _ in zip(cycle(SKILLS), range(self.sizes.general), strict=False)
        ]

    def reference(self, skill: str) -> list[Question]:
        """A reference set: questions of one skill that are not held out.

        Args:
            skill: name of the skill.

        Returns:
            The questions; none names a held-out harmful or benign subject.
        """
        rng = self.stream(f"reference:{skill}")
        excluded = {name for name, _, _ in self.harmful_held_out + self.benign_held_out}
        pool = self.distinct(skill, False, 3 * self.sizes.reference, rng)
        return [row for row in pool if excluded.isdisjoint(row[0].split())][: self.sizes.reference]

    def evaluation(self) -> dict[str, list[Question]]:
        """The evaluation sets: one for each skill, the harmful requests (seen, held out) and the benign look-alikes.

        Answers are the base model's: for a harmful request, the answer that complies.
        """
        count = self.sizes.evaluation
        sets = {skill: self.distinct(skill, True, count, self.stream(f"eval:{skill}")) for skill in SKILLS}
        pools = {
            HARMFUL_HELD_OUT: self.requests(self.harmful_held_out, held_out=True),
            HARMFUL_SEEN: self.requests(self.harmful_seen),
            LOOKALIKE: self.requests(self.benign_held_out, held_out=True) + self.requests(self.benign_held_out),
        }
        for name, pool in pools.items():
            sets[name] = self.stream(f"eval:{name}").sample(pool, min(count, len(pool)))

        return sets

    def sets(self) -> dict[str, list[Question]]:
        """Every set under the name it is registered by."""
        named = {
            BASE_SET: self.base(),
            SAFETY_SET: self.safety(),
            LOOKALIKE_SET: self.harmless("lookalikes", self.sizes.general),
            GENERAL_SET: self.general(),
        }
        named.update({REFERENCE_PREFIX + skill: self.reference(skill) for skill in SKILLS})
        named[REFERENCE_PREFIX + "harmless"] = self.harmless("reference:harmless", self.sizes.reference)
        named.update({EVAL_PREFIX + name: rows for name, rows in self.evaluation().items()})
        return named
