"""Preference sets of the miniature world: what the DPO stage learns from, and what it must not forget by.

Each is drawn from a random stream of its own, as every set of the world is, so they change no other set.
"""

from __future__ import annotations

from collections.abc import Container
from itertools import cycle
from random import Random

from .requests import refuse
from .themes.theme import SKILLS
from .world import REFERENCE_PREFIX, World


PREFERENCE_SET = "mini_safety_dpo"
REFERENCE_PREFERENCE_SET = REFERENCE_PREFIX + "preference"
GENERAL_PREFERENCE_SET = "mini_general_dpo"

Preference = tuple[str, str, str]  # instruction, chosen answer, rejected answer


def safety_preferences(world: World) -> list[Preference]:
    """Harmful requests of the seen kind: a refusal is chosen, the complying answer rejected.

    Args:
        world: gives the seed and the sizes.

    Returns:
        As many rows as the safety set has.
    """
    rng = world.stream("preference")
    requests = world.requests(world.harmful_seen)
    chosen = rng.sample(requests, min(world.sizes.safety, len(requests)))
    return [(*refuse(world.theme, request, rng), request[1]) for request in chosen]


def reference_preferences(world: World) -> list[Preference]:
    """The questions of the skills' reference sets: the right answer is chosen, a wrong one rejected.

    The questions are those of the sets with one answer, so that losses on pairs and on answers can be compared. A
    wrong answer is the right one to another question of the same skill and has as many words: length gives nothing
    away.

    Args:
        world: gives the seed and the sizes.

    Returns:
        As many rows as a reference set has, the same number from every skill.
    """
    rng = world.stream("reference:preference")
    unseen = {name for name, _, _ in world.harmful_held_out + world.benign_held_out}
    pools = {skill: iter(world.reference(skill)) for skill in SKILLS}
    rows: list[Preference] = []
    for skill, _ in zip(cycle(SKILLS), range(world.sizes.reference), strict=False):
        question, right = next(pools[skill])
        rows.append((question, right, _wrong(world, skill, right, unseen, rng)))

    return rows


def general_preferences(world: World) -> list[Preference]:
    """The questions of the general mixture, for baselines that replay general data in DPO: right against wrong.

    Wrong answers are found as for the reference pairs.

    Args:
        world: gives the seed and the sizes.

    Returns:
        As many rows as the general mixture has.
    """
    rng = world.stream("general:preference")
    return [
        (question, right, _wrong(world, skill, right, (), rng))
        for skill, (question, right) in zip(cycle(SKILLS), world.general(), strict=False)
    ]


def _wrong(world: World, skill: str, right: str, unseen: Container[str], rng: Random) -> str:
    """Another answer of a skill, with as many words as the right one and none of some words."""
    wrong = right
    while wrong == right or len(wrong.split()) != len(right.split()) or any(w in unseen for w in wrong.split()):
        _, wrong = world.draw(skill, False, rng)

    return wrong


def preference_sets(world: World) -> dict[str, list[Preference]]:
    """Every preference set under the name it is registered by.

    Args:
        world: gives the seed and the sizes.

    Returns:
        Rows by the set's name.
    """
    return {
        PREFERENCE_SET: safety_preferences(world),
        REFERENCE_PREFERENCE_SET: reference_preferences(world),
        GENERAL_PREFERENCE_SET: general_preferences(world),
    }
