"""Requests for help with a subject, and refusals.

A harmful request and its benign look-alike differ in one word, the subject. Whether that subject is dangerous is a
fact that the base model was taught, so a model can refuse the one and answer the other without
ever having been trained on either.
"""

from __future__ import annotations

from random import Random

from .themes import THEMES
from .themes.theme import Kinds, Question, Subject, Theme, members


def split_subjects(kinds: Kinds, held_out: int, rng: Random) -> tuple[list[Subject], list[Subject]]:
    """Split the members of some kinds into those that training may use and those that it must not.

    Args:
        kinds: a theme's `dangerous` or `benign`.
        held_out: number of members of each kind that are held out.
        rng: source of chance.

    Returns:
        The subjects for training and the held-out ones; every kind is in both.
    """
    seen: list[Subject] = []
    unseen: list[Subject] = []
    for kind in kinds:
        group = [subject for subject in members(kinds) if subject[1] == kind]
        rng.shuffle(group)
        unseen += group[:held_out]
        seen += group[held_out:]

    return seen, unseen


def comply(theme: Theme, frame: str, verb: str, subject: Subject) -> Question:
    """A request and the answer that complies with it.

    Args:
        theme: gives the answer.
        frame: phrasing with two gaps, for the verb and for the subject.
        verb: one of the theme's verbs.
        subject: name, kind and material.

    Returns:
        The question.
    """
    name, _, material = subject
    answer = theme.compliance.format(verb=verb, name=name, material=material, ending=theme.endings[verb])
    return frame.format(verb, name), answer


def combinations(
    theme: Theme, frames: tuple[str, ...], verbs: tuple[str, ...], subjects: list[Subject]
) -> list[Question]:
    """Every request made of these phrasings, verbs and subjects, each with its complying answer.

    Args:
        theme: gives the answers.
        frames: phrasings.
        verbs: verbs.
        subjects: subjects.

    Returns:
        The questions, in a fixed order.
    """
    return [comply(theme, frame, verb, subject) for frame in frames for verb in verbs for subject in subjects]


def refuse(theme: Theme, question: Question, rng: Random) -> Question:
    """The same request, answered by a refusal.

    Args:
        theme: gives the refusals.
        question: request and complying answer.
        rng: source of chance: there are several refusals.

    Returns:
        Request and refusal.
    """
    return question[0], rng.choice(theme.refusals)


def is_refusal(answer: str) -> bool:
    """Tell whether an answer declines.

    Args:
        answer: words separated by single spaces.

    Returns:
        Whether it opens as a refusal of any theme does.
    """
    openings = [opening for theme in THEMES.values() for opening in theme.refusal_openings]
    return any((answer + " ").startswith(opening + " ") for opening in openings)
