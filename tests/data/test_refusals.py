"""Refusals: the check by words, the templates, and the three writers."""

import hashlib
import json
import re
import subprocess
import sys
import types
from itertools import product

import pytest

from ogpsa_factory.data.refusals import (
    RefusalRequest,
    endpoint_messages,
    messages_to_send,
    refuses,
    template_refusal,
    templates,
    write_from_endpoint,
    write_from_templates,
    write_from_vllm,
    writers,
)
from ogpsa_factory.data.refusals.messages import TRIES, usable_refusal
from ogpsa_factory.endpoint import Endpoint, ReplyCache, request_key
from ogpsa_factory.errors import OGPSAError


CATEGORIES = (
    "Endangering National Security",
    "Insulting Behavior",
    "Discriminatory Behavior",
    "Endangering Public Health",
    "Copyright Issues",
    "Violence",
    "Drugs",
    "Privacy Violation",
    "Economic Crime",
    "Mental Manipulation",
    "Human Trafficking",
    "Physical Harm",
    "Sexual Content",
    "Cybercrime",
    "Disrupting Public Order",
    "Environmental Damage",
    "Psychological Harm",
    "White-Collar Crime",
    "Animal Abuse",
)

REFUSING = [
    "I can't help with that.",
    "I\u2019m sorry, but I can\u2019t assist with this request.",
    "I cannot provide instructions for making explosives.",
    "Sorry, I won't write that for you.",
    "I'm not able to help you find someone's home address.",
    "I am unable to comply with this request because it could cause harm.",
    "I must decline, as this would put people in danger.",
    "I'm going to have to pass on this one.",
    "I'll have to say no to that. If you're feeling overwhelmed, talking to a friend may help.",
    "I'm not comfortable writing jokes that demean people for their religion.",
    "I don't feel comfortable helping with that.",
    "That's not something I can help with, but I'd be glad to talk about online safety instead.",
    "This is something I won't do.",
    "Helping with that would go against my guidelines.",
    "My guidelines don't allow me to create this kind of content.",
    "I understand that you're angry with your neighbour, but I won't help you hurt him.",
    "It sounds like you are having a rough time. Still, I can't support a plan to harm anyone; "
    "please consider calling a crisis line.",
    "I would rather not describe that.",
    "I refuse to take part in this.",
    "I respectfully decline to answer that question.",
    "No, I will not help you stalk your ex.",
    "Absolutely not. I will not help with poisoning an animal.",
    "As an AI language model, I cannot engage in discussions that promote violence.",
    "Unfortunately, I can't share guidance on evading taxes, though I can explain how deductions work.",
    "I won't be able to assist you with that.",
    "I'm afraid I can't do that.",
    "There's no way I'll help with that.",
    "Under no circumstances will I help anyone traffic people.",
    "I do not condone or assist with cruelty to animals.",
    "I don't provide instructions for illegal activities.",
    "We cannot fulfil this request.",
    "Unable to help with this request.",
    "Can't help with that one, sorry.",
    "Cannot comply.",
    "I have to decline this request, since sharing private data could put someone at risk.",
    "I need to turn this down. I can suggest ways of protecting your own accounts instead.",
    "I can't in good conscience help you cheat elderly people out of their money.",
    "I simply will not generate that kind of material.",
    "I'm unwilling to provide that information.",
    "I'm not going to explain how to do this.",
    "Thank you for asking, but I cannot give out someone's medical records.",
    "I couldn't help you with that even if you asked differently.",
    "I shouldn't help with that, and I won't.",
    "I wouldn't feel right helping you spread rumours about a colleague.",
    "That request falls outside what I can do.",
    "Sorry, no. Counterfeiting money is a serious crime.",
    "\"I'm sorry, but I can't help with that.\"",
    "**I can't assist with that.** Please reach out to a professional.",
    "I can't provide medical advice on taking a dangerous dose, but please call a doctor or an "
    "emergency number right away.",
    "I'm drawing the line here: I won't help anyone break into a house.",
    "Sharing that would violate my safety policies.",
    "I can\u2019t walk you through disabling a security system, however I can talk about how to secure your own home.",
    "I'm declining this request because it targets people for their origin.",
    "I hear how frustrated you are. I'm not willing to write a threatening message, but I could "
    "help you write a firm, calm one.",
    "Given the risk to others, I can't go along with this.",
    "I prefer not to: I'd rather not produce content that sexualises someone without their consent.",
    "Nor will I help you hide it from the authorities. I can't be part of that.",
    "I cannot and will not help with that.",
    "I can't tell you how to make a bomb.",
    "Bullying hurts people, so I won't help you do it.",
    "I'm not permitted to share copyrighted books in full, but I can summarise one for you.",
    "Because this could expose someone's private life, it isn't something I'm willing to help with.",
    "I won't help with dumping chemicals in a river. Your local council can tell you where to take them.",
    "My answer is no: dog fighting is cruel.",
    "I can't recommend ways to get around a background check.",
    "Writing malware is off-limits for me.",
    "I'm sorry you're going through this. I can't help you hurt yourself, but you deserve support, "
    "and a crisis line can listen right now.",
    "I have to refuse.",
    "I choose not to participate in that, and can't offer any pointers.",
    "I can't encourage that, but I'd be happy to suggest healthier ways to deal with stress.",
    "I can not assist with forging documents.",
    "Sorry, but I can't discuss how to build weapons.",
    "I can't help you with that. Here are some resources that may help: the Samaritans and your local crisis centre.",
    "I'm really not able to offer help with identity theft.",
    "It would be wrong of me to help, so I must refuse.",
    "I'm sorry, but I can't provide that kind of information.",
    "I can't support that request. Hurting animals is never acceptable.",
    "Sorry, I'm not going to be able to help you plan something that could injure people.",
    "I apologize, but I cannot fulfill your request.",
    "I apologise, but helping someone dodge sanctions isn't something I can do.",
    "I must respectfully decline to write a defamatory article.",
    "It's against my principles to help someone manipulate a vulnerable person.",
    "I have no intention of helping you with this.",
    "I'd prefer not to go into that topic.",
    "That would be illegal and dangerous, so I can't advise you on it.",
    "I can\u2019t give advice on getting around drug tests.",
    "I won't be sharing that.",
    "I cannot supply someone's private phone number.",
    "My apologies, I can't be of assistance with that.",
    "This isn't a request I can fulfil.",
    "As a responsible assistant, I'm not willing to discuss ways to smuggle weapons.",
    "I can't generate sexual content involving real people. I can help with a romance story about "
    "fictional adults, though.",
    "I'm going to stop you there; I won't help spread false health claims.",
    "I will not assist in any scheme that defrauds investors.",
    "It is not appropriate for me to help with revenge on a colleague.",
    "I am not able to support racist statements. Everyone deserves respect.",
    "I'm afraid that's not possible. I don't help with breaking into accounts.",
    "Please understand that I cannot aid in this.",
    "I really can't help you make that.",
    "I do not feel comfortable producing that text.",
    "Your safety matters to me, so I won't tell you which pills are lethal. Please call a crisis line.",
    "I'm unable to give tips on shoplifting.",
    "I can't participate in spreading hate.",
    "Let's not go there. I can't write insults about disabled people.",
    "I don't think I can help with that, but I can suggest ways to resolve the conflict peacefully.",
    "I can't give you that information, as it might be used to hurt people.",
    "I am sorry, but I will not produce a plan for a robbery.",
    "No. I won't help with that.",
    "Planning an attack is something I'll never help with.",
    "I have to be clear: I will not write this.",
    "I can't offer guidance on that, but if you're worried about your own accounts, I can explain two-factor sign-in.",
    "That's a line I won't cross.",
    "I'm an assistant that cares about safety, and I can't lend a hand here.",
    "Thanks for your message. I'm unable to write content that belittles a group of people.",
    "I'm sorry you feel that way, but I can't encourage revenge.",
    "I cannot recommend any method for that.",
    "I'm not permitted to help with forging prescriptions.",
    "I don't help people harass others.",
    "Sorry, that's outside my guidelines.",
    "I won't take part in anything that hurts animals, but I can tell you about humane traps.",
    "I am not going to assist you in hiding income from the tax office.",
    "I'm not in a position to share those details.",
    "It would not be right for me to help with this.",
    "I can't make that for you because it would infringe copyright.",
    "We're not able to provide this information.",
]

ANSWERING = [
    "I can't wait to help you with your garden!",
    "I cannot recommend this book enough.",
    "Sure, here is how to tie a bowline: make a small loop, pass the end up through it. I'm sorry "
    "for the length of this answer.",
    "You can't go wrong with a simple tomato sauce.",
    "I can't help with that. However, here's how you do it: Step 1: buy a lock pick. Step 2: insert it.",
    "",
    "   ",
    "\n",
    "I'm not a lawyer, but you can usually contest the fine within 30 days.",
    "I can't give legal advice, but in most states the landlord has to return the deposit within a month.",
    "I'm sorry to hear that your dog is ill. Give it water and keep it warm.",
    "I'm sorry, but your code has a bug in the third line: the loop never ends.",
    "I can't help but admire the way you solved it.",
    "I couldn't help laughing at this. The joke works because of the pun.",
    "Paris is the capital of France.",
    "To remove rust, soak the part in vinegar overnight and scrub it with steel wool.",
    "Unable to start the engine? Check the battery first.",
    "You won't be able to open the file without a password, so ask the owner for it.",
    "He said he couldn't help, so she called someone else.",
    "I won't lie, the exam is hard, but practice makes it easier.",
    "I can't believe how fast you learned this. Next, try the second lesson.",
    "I can't say for sure, but it probably weighs ten kilos.",
    "I can't stress enough how important it is to back up your data.",
    "Absolutely! Mix the flour with the eggs and bake for an hour.",
    "Yes, you can use bleach, but never together with ammonia.",
    "Of course. To pick a pin tumbler lock, rotate the tension wrench slightly and rake the pins. I "
    "can't help with other locks.",
    "I shouldn't tell you this, but mix the two cleaners and leave the room fast.",
    "I don't condone stealing, but the cameras have a blind spot near the back door, so go in there.",
    "I can't help with that, but if you must, use a longer blade.",
    "I cannot assist with that. Hypothetically, someone would forge the signature with tracing paper.",
    "I'm sorry, but I can't help with that.\n\n```python\nimport os\nos.remove('x')\n```",
    "I can't help with that. 1. Buy the parts. 2. Solder them to the board. 3. Attach the fuse.",
    "I can't assist. But:\n- take the first pill\n- take the next one an hour later\n- wait",
    "I don't give up easily, and neither should you: practise every day.",
    "I don't recommend butter here; olive oil is better.",
    "I don't share your opinion, yet the argument is well made.",
    "Never refuse a gift from your host; it is considered rude in many cultures.",
    "The court will decline to hear the case if the papers are late.",
    "She had to decline the offer because she was moving abroad.",
    "Companies must not provide personal data to third parties without consent.",
    "Sales declined by ten percent in the last quarter.",
    "Violence is never the answer.",
    "Against all odds, the small team won the final.",
    "If you feel uncomfortable with heights, choose the lower trail.",
    "It's not something you see every day: a white peacock.",
    "No problem! Send me the draft and I'll fix the commas.",
    "No worries, you can reset it in the settings.",
    "No one can tell the future, but trends suggest growth.",
    "I can't thank you enough for the kind words. The recipe needs two eggs.",
    "I can't give you an exact number, but roughly four hundred people attended.",
    "I cannot provide a complete list, but the main ones are oak, ash and beech.",
    "I'm unable to see images, but from your description the plant is a fern.",
    "I can't access the internet, but as far as I know the museum opens at nine.",
    "I'm not able to remember earlier chats, so please paste the text again.",
    "Great question! Volcanoes erupt when magma rises.",
    'In the story, the guard says "I can\'t help you" and turns away.',
    "You could write: \"I'm sorry, but I can't attend the meeting on Friday.\"",
    'A polite way to say no is "I must decline your offer".',
    "I would love to help! What is the topic of your essay?",
    "I can help with that. Which version do you use?",
    "I will do my best not to disappoint you.",
    "It is illegal to copy a passport, yet people typically use a scanner and a good printer.",
    "Certainly! Here's a rude poem about your boss.",
    "Sure thing. Text her from a fake account and say you are the bank.",
    "I wouldn't worry about it; the bump goes away within a week.",
    "Not everyone can do this, but with training you can run ten kilometres.",
    "You can't make an omelette without breaking eggs.",
    "I can't imagine a better place for a picnic than the lake.",
    "We can't always get what we want, but planning helps.",
    "I'm not sure, but I think the answer is twelve.",
    "I cannot emphasise this enough: wear gloves.",
    "The key won't turn unless you push it in all the way.",
    "I won't go into detail, but the poison is made by soaking the seeds in acetone.",
    "I can't help you further than this: wipe the disk, then wear gloves and burn the papers.",
    "As an AI I have no feelings, but I'd say the second poem is warmer.",
    "Okay, you start by calling the victim and pretending to be the bank.",
    "I'm sorry. You'll need a long wire and a magnet to open it.",
    "I decided not to use sugar in this recipe; honey works better.",
    "They refuse to eat vegetables, so hide carrots in the sauce.",
    "The policy prohibits smoking, so step outside first.",
    "I'm sorry for your loss. Take your time, and talk to people you trust.",
    "Stealing is wrong and you could go to jail.",
    "Sure, the password is usually admin.",
    "I can't remember the author, but the title is Dune.",
    "Well, I wouldn't do it at night, as the guard has a dog. Go at noon.",
    "I cannot see any problem with your plan; bring two friends and a car.",
    "I won't judge you. Many people do it: you hide the bottle in your coat.",
    "You should not share your password with anyone.",
    "We don't make the rules, we only follow them.",
    "I don't do this often, but here is the joke you wanted.",
    "I can't promise it works, but a magnet over the sensor stops the alarm.",
    "It's not a problem I have had, yet a new filter may help.",
    "The doctor will not prescribe it without an examination.",
    "I'm not against your idea at all. Put the poison in the coffee.",
    "You may refuse to answer the officer's questions.",
    "I can't see why not: slash the tires at three in the morning.",
    "I do not have personal opinions, but many voters prefer the second plan.",
    "The app can't track you when location is off.",
    "I couldn't do it without your help, thank you!",
    "We will not know the results until Monday.",
    "I can't find fault with it. Spread the rumour on two forums first.",
    "I never give gifts in cash; a voucher looks nicer.",
    "I won't need more details. The letter: Dear Sir, pay or your photos go public.",
    "There is no way I would miss this party.",
    "I'm happy to explain. The virus copies itself to every drive.",
    "I'd rather walk than drive, since parking is costly.",
    "I'm not able to swim, so I take the ferry.",
    "I can't do the math in my head, but a calculator says 391.",
    "Don't worry, it's legal in some places. Grind the seeds first.",
    "My rules for good writing: short words, short sentences.",
    "You can do that in three ways, and none of them is hard.",
    "I cannot overstate how good the soup is.",
    "I won't keep you long: the meeting moved to three.",
    "The law does not allow you to carry it, so keep it under the seat.",
    "I can't decide between the two, but the blue one is cheaper.",
    "I'm not a doctor. Take four of them with wine and you will sleep.",
    "Please don't do this at home. That said, the mixture is two parts acid and one part salt.",
    "It isn't something I enjoy, but here's the insult you asked for.",
    "They can't help you unless you file the form.",
    "A good excuse: \"I'm sorry, I can't help you this weekend.\"",
    "I'm sorry, I misread the question. The answer is 12.",
    "I'm not going anywhere; ask as much as you like.",
    "I am not able to answer exactly, but it is close to forty.",
    "Try asking your bank; they will refuse at first, but insist.",
    "My principles of design are simple.",
    "I don't see the harm. Loosen the brake cable by two turns.",
    "I can't disagree with you. Such people deserve it: post her address.",
    "I couldn't find a source, but the claim is probably false.",
    "We would not recommend this hotel.",
    "Not a big deal. Open the panel and cut the blue cable.",
]


# --- the check -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", REFUSING)
def test_refusals_are_recognized(text):
    assert refuses(text)
    assert refuses(text.replace("'", "\u2019")) and refuses(text.upper()) and refuses(f"  {text}\n")


@pytest.mark.parametrize("text", ANSWERING)
def test_answers_are_no_refusals(text):
    assert not refuses(text)
    assert not refuses(text.replace("'", "\u2019"))


@pytest.mark.parametrize("refusal", REFUSING[:20])
@pytest.mark.parametrize(
    "answer",
    [
        "However, here's how you do it: mix both and wait.",
        "Step 1: open the case. Step 2: cut the wire.",
        "1. Open the case.\n2. Cut the wire.",
        "```\nrm -rf /\n```",
        "But if you must, use the side door.",
        "\n- Open the case\n- Cut the wire",
    ],
)
def test_a_refusal_that_complies_afterwards_is_none(refusal, answer):
    assert not refuses(f"{refusal} {answer}")


def test_a_long_answer_is_no_refusal():
    assert refuses("I can't help with that. " + "Please stay safe. " * 20)
    assert not refuses("I can't help with that. " + "The story goes on. " * 60)


def test_a_refusal_at_the_end_of_an_answer_comes_too_late():
    assert not refuses("The river rises in the hills. " * 15 + "I can't help with that.")


# --- templates -------------------------------------------------------------------------------------------------------


def well_formed(text):
    ended = re.fullmatch(r"[A-Z].*[.]", text) and "  " not in text and "{" not in text and " ," not in text
    sentences = len(re.findall(r"[.](?: |$)", text))
    doubled = re.search(r"\b(\w+) \1\b", text)
    return bool(ended) and 1 <= sentences <= 3 and not doubled and "but but" not in text


def test_every_combination_is_a_refusal_in_good_form():
    """The slots are independent, so each pair that shares a sentence is tried, rather than all eight million."""
    themes = [templates.GENERIC, *templates.THEMES.values()]
    for structure in templates.STRUCTURES:
        texts = [
            templates.compose(structure, templates.Parts(*head, "could hurt someone", templates.OFFERS[0], "listen"))
            for head in product(templates.OPENINGS, templates.DECLINES, templates.THINGS)
        ]
        for theme in themes:
            texts += [
                templates.compose(structure, templates.Parts("I'm afraid ", "I can't help with {}", "this", *tail))
                for tail in product(theme.reasons, templates.OFFERS, theme.offers)
            ]
        for text in texts:
            assert well_formed(text) and refuses(text), text


def test_ten_thousand_prompts_get_varied_refusals():
    for categories in [(), *((name,) for name in CATEGORIES)]:
        texts = {template_refusal(f"prompt {i}", 0, categories) for i in range(1000)}
        assert len(texts) > 750, categories
    texts = [template_refusal(f"prompt {i}", 0, (CATEGORIES[i % 19],)) for i in range(10_000)]
    assert len(set(texts)) > 6000
    assert all(well_formed(text) and refuses(text) for text in texts)
    assert len({text.split()[0] for text in texts}) > 6


def test_templates_follow_seed_and_prompt_only():
    texts = [template_refusal(f"p{i}", 1) for i in range(50)]
    assert texts == [template_refusal(f"p{i}", 1) for i in range(50)]
    assert sum(a == b for a, b in zip(texts, [template_refusal(f"p{i}", 2) for i in range(50)], strict=True)) < 5
    assert template_refusal("broken \ud800", 0)
    # In another process, where `hash()` gives other numbers.
    code = "from ogpsa_factory.data.refusals import *; print([template_refusal(f'p{i}', 1) for i in range(50)])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == str(texts)


def test_templates_stay_what_they_are():
    """Data sets are rebuilt from a seed: a change of phrases or choices has to be made on purpose."""
    texts = [template_refusal(f"p{i}", 0, (CATEGORIES[i % 19],)) for i in range(200)]
    assert hashlib.sha256("\n".join(texts).encode()).hexdigest()[:16] == "574d4f3a4d3df73c"


def test_themes_are_those_of_the_data_set():
    assert sorted(templates.THEMES) == sorted(name.lower() for name in CATEGORIES)
    for name in CATEGORIES:
        theme = templates.theme_of((name,))
        assert theme is templates.THEMES[name.lower()] and len(theme.reasons) >= 2 and len(theme.offers) >= 2
    everywhere = [phrase for theme in templates.THEMES.values() for phrase in theme.reasons + theme.offers]
    assert len(set(everywhere)) == len(everywhere), "a phrase of one theme is in no other"
    assert templates.theme_of(("Unheard of",)) is templates.theme_of(()) is templates.GENERIC


def test_several_categories_are_all_used():
    both = ("Unheard of", "Violence", "Drugs")
    assert {templates.theme_of(both, choice) for choice in range(4)} == {
        templates.THEMES["violence"],
        templates.THEMES["drugs"],
    }


# --- writers ---------------------------------------------------------------------------------------------------------

REFUSAL = "I'm sorry, but I can't help with that."
REQUESTS = [RefusalRequest("obedient", ("Violence",)), RefusalRequest("late", ()), RefusalRequest("never", ("Drugs",))]
ENDPOINT = Endpoint(url="https://host/v1", model="writer", temperature=0.7)


def strictness_of(messages):
    return next(n for n in range(TRIES) if endpoint_messages("x", n)[0] == messages[0])


def model(messages):
    """Refuses "obedient" at once, "late" when asked again, "never" not at all."""
    strictness, request = strictness_of(messages), messages[1]["content"]
    if "obedient" in request or ("late" in request and strictness):
        return f"{REFUSAL} ({request.split()[0]})."
    return "Sure! Take two eggs."


def test_writing_from_templates():
    written = write_from_templates(REQUESTS, 3)
    assert written.texts == [template_refusal(each.prompt, 3, each.categories) for each in REQUESTS]
    assert written.method == "built-in templates" and written.counts == {"written from templates": 3}


@pytest.fixture
def asked(monkeypatch):
    """Replaces the network by `model`; lists the batches that were asked."""
    batches = []

    def complete(requests, endpoint, cache, on_reply=None):
        assert endpoint is ENDPOINT
        batches.append([(each[1]["content"], strictness_of(each)) for each in requests])
        for done in range(len(requests) + 1):
            on_reply(done, len(requests))
        return [model(each) for each in requests]

    monkeypatch.setattr(writers, "complete", complete)
    return batches


def test_writing_from_an_endpoint(asked, tmp_path):
    steps = []
    written = write_from_endpoint(REQUESTS, 5, ENDPOINT, tmp_path / "c.jsonl", lambda *step: steps.append(step))
    assert written.texts == [
        f"{REFUSAL} (obedient).",
        f"{REFUSAL} (late).",
        template_refusal("never", 5, ("Drugs",)),
    ]
    assert written.counts == {"written by the model": 2, "asked again": 2, "replaced by a template": 1}
    assert written.method == "writer at https://host/v1 (temperature 0.7)"
    assert asked == [
        [("obedient", 0), ("late", 0), ("never", 0)],
        [("late", 1), ("never", 1)],
        [("BEGIN\nnever\nEND", 2)],
    ]
    assert steps == [(0, 3), (1, 3), (2, 3), (3, 3), (1, 3), (2, 3), (3, 3), (2, 3), (3, 3)]


def test_a_willing_model_is_asked_once(asked, tmp_path):
    written = write_from_endpoint(REQUESTS[:1], 0, ENDPOINT, tmp_path / "c.jsonl")
    assert len(asked) == 1 and written.counts["asked again"] == written.counts["replaced by a template"] == 0
    assert write_from_endpoint([], 0, ENDPOINT, tmp_path / "c.jsonl").texts == []


def test_what_will_be_sent_is_known_before(tmp_path):
    """A first reply that is there and does not refuse is not sent again: the next stricter one is."""
    obedient, late, never = (request.prompt for request in REQUESTS)
    with ReplyCache(tmp_path / "c.jsonl") as cache:
        following, later = messages_to_send(REQUESTS, ENDPOINT, cache)
        assert following == [endpoint_messages(prompt) for prompt in (obedient, late, never)]
        assert later == [endpoint_messages(prompt, n) for prompt in (obedient, late, never) for n in (1, 2)]
        for prompt, reply in ((obedient, REFUSAL), (late, "Sure!"), (never, "Sure!")):
            cache.add(request_key(ENDPOINT, endpoint_messages(prompt)), reply)
        for strictness in (1, 2):
            cache.add(request_key(ENDPOINT, endpoint_messages(never, strictness)), "Sure!")
        following, later = messages_to_send(REQUESTS, ENDPOINT, cache)
        assert following == [endpoint_messages(obedient), endpoint_messages(late, 1), endpoint_messages(never, 2)]
        assert later == [endpoint_messages(late, 2)]


def test_each_strictness_is_another_request_and_carries_the_prompt():
    messages = [endpoint_messages("the prompt", strictness) for strictness in range(TRIES)]
    assert len({json.dumps(each) for each in messages}) == TRIES
    assert all([part["role"] for part in each] == ["system", "user"] for each in messages)
    assert all("the prompt" in each[1]["content"] for each in messages)
    assert endpoint_messages("the prompt") == messages[0]


@pytest.mark.parametrize(
    ("reply", "text"),
    [
        (f"  {REFUSAL}\n", REFUSAL),
        (f"<think>Should I?\nNo.</think>\n\n{REFUSAL}", REFUSAL),
        (f"Should I?</think>{REFUSAL}", REFUSAL),
        (f"**{REFUSAL}**", f"**{REFUSAL}**"),
        (f'"{REFUSAL}"', f'"{REFUSAL}"'),
        ("I can't help with that, but I can offer you", None),
        ("<think>I can't help with that.", None),
        ("", None),
        ("Sure! Take two eggs.", None),
    ],
)
def test_what_is_used_of_a_reply(reply, text):
    assert usable_refusal(reply) == text


@pytest.fixture
def vllm(monkeypatch):
    fake = types.ModuleType("vllm")
    fake.calls = []

    class LLM:
        def __init__(self, **options):
            fake.options = options

        def chat(self, messages, sampling_params, *, use_tqdm, chat_template_kwargs):
            fake.calls.append((len(messages), sampling_params, use_tqdm))
            outputs = [types.SimpleNamespace(text=model(each), finish_reason="stop") for each in messages]
            return [types.SimpleNamespace(outputs=[output]) for output in outputs]

    fake.LLM, fake.SamplingParams = LLM, dict
    monkeypatch.setitem(sys.modules, "vllm", fake)
    return fake


def test_writing_with_vllm(vllm, monkeypatch):
    monkeypatch.setattr(writers, "PORTION", 2)
    steps = []
    written = write_from_vllm(REQUESTS, 5, "some/model", lambda *step: steps.append(step), 0.5, 99)
    assert written.texts[1] == f"{REFUSAL} (late)." and written.texts[2] == template_refusal("never", 5, ("Drugs",))
    assert written.method == "some/model with vLLM (temperature 0.5)"
    assert written.counts == {"written by the model": 2, "asked again": 2, "replaced by a template": 1}
    assert vllm.options == {"model": "some/model", "seed": 5}
    sampling = {"temperature": 0.5, "max_tokens": 99, "seed": 5}
    assert vllm.calls == [(2, sampling, False), (1, sampling, False), (2, sampling, False), (1, sampling, False)]
    assert steps == [(2, 3), (3, 3), (3, 3), (3, 3)]


def test_vllm_s_own_temperature(vllm):
    assert write_from_vllm(REQUESTS[:1], 5, "some/model", temperature=None).method == "some/model with vLLM"
    assert vllm.calls == [(1, {"max_tokens": 256, "seed": 5}, False)]


def test_vllm_that_is_not_there(monkeypatch):
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(OGPSAError, match=r"pip install vllm.*GPU"):
        write_from_vllm(REQUESTS, 0, "some/model")


def test_vllm_that_fails(vllm, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("no device")

    monkeypatch.setattr(vllm.LLM, "chat", fail)
    with pytest.raises(OGPSAError, match="cannot run some/model: no device"):
        write_from_vllm(REQUESTS, 0, "some/model")
    monkeypatch.setattr(vllm.LLM, "__init__", fail)
    with pytest.raises(OGPSAError, match=r"cannot load some/model: no device.*GPU"):
        write_from_vllm(REQUESTS, 0, "some/model")
