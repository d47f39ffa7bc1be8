"""Refusals put together from phrases, without a model and without a network."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import NamedTuple


class Theme(NamedTuple):
    """What fits one kind of harm.

    Args:
        reasons: predicates whose subject is the request, e.g. "could hurt someone".
        offers: what is done instead, as verb phrases in the base form.
    """

    reasons: tuple[str, ...]
    offers: tuple[str, ...]


class Parts(NamedTuple):
    """One choice of phrases. `offer` has a gap for `alternative`, `decline` one for what is declined."""

    opening: str
    decline: str
    thing: str
    reason: str
    offer: str
    alternative: str


# A capital at the start of the sentence is put there later, so that every one goes before "I" and before "this".
OPENINGS = (
    "",
    "I'm sorry, but ",
    "sorry, but ",
    "I'm afraid ",
    "unfortunately, ",
    "thank you for asking, but ",
    "I understand that you'd like an answer, but ",
    "I want to be upfront: ",
    "I'm sorry to disappoint you, but ",
)
DECLINES = (
    "I can't help with {}",
    "I cannot help with {}",
    "I can't assist with {}",
    "I won't help with {}",
    "I'm not able to help with {}",
    "I'm unable to assist with {}",
    "I'm not willing to help with {}",
    "I'm not comfortable helping with {}",
    "I have to decline {}",
    "I need to decline {}",
    "I must say no to {}",
    "I'd rather not help with {}",
    "{} isn't something I can help with",
    "{} is something I won't help with",
)
THINGS = ("this", "that", "this request", "what you're asking for", "a request like this")
OFFERS = (
    "I'd be happy to {} instead.",
    "If you like, I can {}.",
    "What I can do is {}.",
    "I'd be glad to {} if that would be useful.",
    "Instead, I could {}.",
    "If you'd prefer, I'm happy to {}.",
    "Let me know if you'd like me to {}.",
)
# One to three sentences. What follows "so" or a reason speaks of "it", since the request was mentioned already.
STRUCTURES = (
    "{refusal}.",
    "{refusal} because it {reason}.",
    "{refusal}. It {reason}.",
    "{refusal}. {offer}",
    "{refusal} because it {reason}. {offer}",
    "{refusal}. It {reason}. {offer}",
    "{refusal}, since it {reason}. {offer}",
    "this {reason}, so {refusal_of_it}.",
    "this {reason}, so {refusal_of_it}. {offer}",
    "{short_refusal}, but I can {alternative}.",
    "{short_refusal} because it {reason}, but I'd gladly {alternative}.",
)

GENERIC = Theme(
    (
        "could cause harm to you or to others",
        "could put people at risk",
        "might lead to someone being hurt",
        "could do real damage",
        "would likely leave someone worse off",
    ),
    (
        "help you look for a safe and lawful way to reach your goal",
        "answer a related question that puts nobody at risk",
        "talk about the subject in a general and safe way",
        "help you with a different question",
    ),
)

# The keys are the harm categories of PKU-SafeRLHF in lower case.
THEMES: dict[str, Theme] = {
    "endangering national security": Theme(
        ("could endanger the security of a whole country", "could put a great many lives at risk"),
        ("explain how democratic oversight of security services works", "talk about the history of arms control"),
    ),
    "insulting behavior": Theme(
        ("is meant to put someone down", "would hurt and humiliate the person it is about"),
        ("help you put your criticism in firm but fair words", "suggest a calm way to address the conflict"),
    ),
    "discriminatory behavior": Theme(
        ("treats people as lesser because of who they are", "would feed prejudice against a group of people"),
        ("share background on where such stereotypes come from", "suggest ways to make a place more inclusive"),
    ),
    "endangering public health": Theme(
        ("could put the health of many people at risk", "might keep people from the care that they need"),
        ("explain what reliable health agencies advise", "help you find trustworthy medical information"),
    ),
    "copyright issues": Theme(
        ("would infringe the rights of the people who made the work", "would take income from its creators"),
        ("summarize the work in my own words", "point you to legal ways of getting a copy"),
    ),
    "violence": Theme(
        ("could lead to someone being seriously hurt", "would encourage violence against others"),
        ("talk through peaceful ways to settle the conflict", "suggest ways to cope with anger"),
    ),
    "drugs": Theme(
        ("could lead to addiction or an overdose", "involves substances that can do lasting harm"),
        ("share information about the health risks of drugs", "help you find support for dealing with addiction"),
    ),
    "privacy violation": Theme(
        ("would intrude on someone's private life", "involves personal data that should stay private"),
        ("explain how to protect your own personal data", "suggest respectful ways to get in touch with someone"),
    ),
    "economic crime": Theme(
        ("would cheat other people out of their money", "could cost its victims their savings"),
        ("explain how to recognize and report fraud", "talk about honest ways to improve your finances"),
    ),
    "mental manipulation": Theme(
        ("would take away someone's freedom to decide", "involves manipulating another person"),
        ("suggest honest ways to make your case", "explain how to recognize manipulation"),
    ),
    "human trafficking": Theme(
        ("involves the exploitation of human beings", "would rob people of their freedom and dignity"),
        ("explain how to recognize and report trafficking", "point you to groups that support survivors"),
    ),
    "physical harm": Theme(
        ("could leave someone badly injured", "would put someone's body or life in danger"),
        ("share safety advice", "help you find someone to talk to about what is going on"),
    ),
    "sexual content": Theme(
        ("involves sexual content that could hurt or exploit someone", "crosses a boundary around sexual material"),
        ("talk about consent and healthy relationships", "help you write a story without explicit scenes"),
    ),
    "cybercrime": Theme(
        ("could be used to break into systems or accounts", "could damage devices and data that belong to others"),
        ("explain how to secure your own devices", "suggest legal ways to learn about computer security"),
    ),
    "disrupting public order": Theme(
        ("could put the public in danger", "could stir up unrest that gets bystanders hurt"),
        ("explain how to organize a peaceful and lawful protest", "suggest constructive ways to make yourself heard"),
    ),
    "environmental damage": Theme(
        ("would do lasting damage to nature", "could poison land or water that people and animals need"),
        ("explain how to dispose of waste properly", "suggest options that are kinder to the environment"),
    ),
    "psychological harm": Theme(
        ("could do deep emotional harm", "would cause someone a great deal of distress"),
        ("suggest kinder ways to have a difficult conversation", "help you find support for hard times"),
    ),
    "white-collar crime": Theme(
        ("would break the trust that a business depends on", "involves fraud that harms employees and investors"),
        ("explain the rules that apply to companies", "talk about how to report misconduct at work"),
    ),
    "animal abuse": Theme(
        ("would make an animal suffer", "involves cruelty to animals"),
        ("suggest humane ways to handle the animal", "help you find a vet or an animal shelter"),
    ),
}


def theme_of(categories: Sequence[str], choice: int = 0) -> Theme:
    """Phrases for a kind of harm.

    Args:
        categories: names of categories; case and unknown ones are ignored.
        choice: any number; where there are several known categories, it decides between them.

    Returns:
        The theme, the generic one if no category is known.
    """
    known = [THEMES[name.strip().lower()] for name in categories if name.strip().lower() in THEMES]
    return known[choice % len(known)] if known else GENERIC


def compose(structure: str, parts: Parts) -> str:
    """Put phrases together.

    Args:
        structure: one of `STRUCTURES`.
        parts: one phrase for each slot.

    Returns:
        The text, one to three sentences.
    """
    short_refusal = parts.decline.format(parts.thing)
    text = structure.format(
        refusal=parts.opening + short_refusal,
        short_refusal=short_refusal,
        refusal_of_it=parts.decline.format("it"),
        reason=parts.reason,
        offer=parts.offer.format(parts.alternative),
        alternative=parts.alternative,
    )
    return text[0].upper() + text[1:]


def template_refusal(prompt: str, seed: int, categories: Sequence[str] = ()) -> str:
    """Refuse a request in phrases that are chosen by its text.

    Args:
        prompt: the request; it decides on the phrases and is not repeated.
        seed: another one gives other phrases.
        categories: harm categories of PKU-SafeRLHF; reason and offer fit them.

    Returns:
        One to three English sentences, the same for the same arguments on every machine.
    """
    digest = hashlib.sha256(f"{seed} {prompt}".encode(errors="replace")).digest()
    # Two bytes for each choice, so that the choices are independent.
    numbers = [int.from_bytes(digest[place : place + 2], "big") for place in range(0, 16, 2)]
    theme = theme_of(categories, numbers[0])
    slots = (OPENINGS, DECLINES, THINGS, theme.reasons, OFFERS, theme.offers)
    parts = [phrases[number % len(phrases)] for phrases, number in zip(slots, numbers[2:], strict=True)]
    return compose(STRUCTURES[numbers[1] % len(STRUCTURES)], Parts(*parts))
