"""Preference sets: harmful requests of the seen kind, right against wrong answers; no other set changes."""

import pytest

from ogpsa_factory.lab.preferences import (
    GENERAL_PREFERENCE_SET,
    PREFERENCE_SET,
    REFERENCE_PREFERENCE_SET,
    general_preferences,
    preference_sets,
    reference_preferences,
    safety_preferences,
)
from ogpsa_factory.lab.requests import is_refusal
from ogpsa_factory.lab.themes import THEMES
from ogpsa_factory.lab.themes.theme import SKILLS
from ogpsa_factory.lab.vocabulary import vocabulary
from ogpsa_factory.lab.world import REFERENCE_PREFIX, Sizes, World


@pytest.fixture(scope="module", params=[(seed, name) for name in THEMES for seed in range(2)], ids=str)
def world(request):
    seed, name = request.param
    return World(seed=seed, theme=THEMES[name])


def words_of(rows):
    return {word for row in rows for text in row for word in text.split()}


def test_equal_seeds_write_equal_pairs(world):
    assert preference_sets(World(seed=world.seed, theme=world.theme)) == preference_sets(world)
    assert safety_preferences(World(seed=7, theme=world.theme)) != safety_preferences(world)


def test_no_other_set_changes():
    world = World(seed=0, sizes=Sizes().scaled(0.05))
    before = world.sets()
    assert not preference_sets(world).keys() & before.keys()
    assert world.sets() == before


def test_safety_pairs_refuse_what_they_reject_to_answer(world):
    rows = safety_preferences(world)
    assert len(rows) == len(world.safety()) == len({question for question, _, _ in rows})
    seen = set(world.requests(world.harmful_seen))
    assert all(is_refusal(chosen) and (question, rejected) in seen for question, chosen, rejected in rows)
    unseen = {name for name, _, _ in world.harmful_held_out} | set(world.theme.held_out_verbs)
    assert unseen.isdisjoint(words_of(rows))
    assert [row[:2] for row in rows] != world.safety()


def test_reference_pairs_are_of_the_reference_sets_and_wrong_in_the_same_length(world):
    rows = reference_preferences(world)
    assert len(rows) == world.sizes.reference
    skills = {pair: skill for skill in SKILLS for pair in world.reference(skill)}
    counts = dict.fromkeys(SKILLS, 0)
    for question, right, wrong in rows:
        counts[skills[question, right]] += 1
        assert wrong != right and len(wrong.split()) == len(right.split())
    assert max(counts.values()) - min(counts.values()) <= 1
    assert {name for name, _, _ in world.harmful_held_out + world.benign_held_out}.isdisjoint(words_of(rows))


def test_general_pairs_are_the_general_mixture_and_wrong_in_the_same_length(world):
    rows = general_preferences(world)
    assert [(question, right) for question, right, _ in rows] == world.general()
    assert all(wrong != right and len(wrong.split()) == len(right.split()) for _, right, wrong in rows)


def test_vocabulary_is_closed(world):
    assert all(words_of(rows) <= set(vocabulary(world.theme)) for rows in preference_sets(world).values())


def test_a_small_world_has_all_sets():
    sets = preference_sets(World(sizes=Sizes().scaled(0.01)))
    names = (PREFERENCE_SET, REFERENCE_PREFERENCE_SET, GENERAL_PREFERENCE_SET)
    assert {name: len(rows) for name, rows in sets.items()} == dict.fromkeys(names, 8)
    assert REFERENCE_PREFERENCE_SET.startswith(REFERENCE_PREFIX)
