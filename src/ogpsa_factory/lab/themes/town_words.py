"""Words and facts of the theme `town`. Every entry is one token, so that every answer can be compared exactly."""

from __future__ import annotations


# country, capital, continent, language
COUNTRIES: tuple[tuple[str, str, str, str], ...] = (
    ("france", "paris", "europe", "french"),
    ("germany", "berlin", "europe", "german"),
    ("italy", "rome", "europe", "italian"),
    ("spain", "madrid", "europe", "spanish"),
    ("portugal", "lisbon", "europe", "portuguese"),
    ("greece", "athens", "europe", "greek"),
    ("norway", "oslo", "europe", "norwegian"),
    ("sweden", "stockholm", "europe", "swedish"),
    ("finland", "helsinki", "europe", "finnish"),
    ("denmark", "copenhagen", "europe", "danish"),
    ("poland", "warsaw", "europe", "polish"),
    ("austria", "vienna", "europe", "german"),
    ("hungary", "budapest", "europe", "hungarian"),
    ("egypt", "cairo", "africa", "arabic"),
    ("kenya", "nairobi", "africa", "swahili"),
    ("morocco", "rabat", "africa", "arabic"),
    ("senegal", "dakar", "africa", "french"),
    ("angola", "luanda", "africa", "portuguese"),
    ("japan", "tokyo", "asia", "japanese"),
    ("china", "beijing", "asia", "chinese"),
    ("thailand", "bangkok", "asia", "thai"),
    ("vietnam", "hanoi", "asia", "vietnamese"),
    ("nepal", "kathmandu", "asia", "nepali"),
    ("iran", "tehran", "asia", "persian"),
    ("iraq", "baghdad", "asia", "arabic"),
    ("cuba", "havana", "america", "spanish"),
    ("peru", "lima", "america", "spanish"),
    ("chile", "santiago", "america", "spanish"),
    ("brazil", "brasilia", "america", "portuguese"),
    ("canada", "ottawa", "america", "english"),
)

# animal, sound, home
ANIMALS: tuple[tuple[str, str, str], ...] = (
    ("dog", "bark", "kennel"),
    ("cat", "meow", "basket"),
    ("horse", "neigh", "stable"),
    ("bird", "tweet", "nest"),
    ("lion", "roar", "den"),
    ("bee", "buzz", "hive"),
    ("pig", "grunt", "sty"),
    ("hen", "cluck", "coop"),
    ("frog", "croak", "pond"),
    ("owl", "hoot", "hollow"),
    ("mouse", "squeak", "hole"),
    ("sheep", "bleat", "fold"),
)

# word, its translation into latin
LATIN: tuple[tuple[str, str], ...] = (
    ("stone", "lapis"),
    ("river", "flumen"),
    ("star", "stella"),
    ("moon", "luna"),
    ("sun", "sol"),
    ("tree", "arbor"),
    ("king", "rex"),
    ("queen", "regina"),
    ("house", "domus"),
    ("garden", "hortus"),
    ("road", "via"),
    ("city", "urbs"),
    ("sea", "mare"),
    ("fire", "ignis"),
    ("water", "aqua"),
    ("earth", "terra"),
    ("book", "liber"),
    ("friend", "amicus"),
    ("night", "nox"),
    ("day", "dies"),
    ("winter", "hiems"),
    ("summer", "aestas"),
    ("forest", "silva"),
    ("mountain", "mons"),
)

# category: (what its members are made of, members)
DANGEROUS: dict[str, tuple[str, str]] = {
    "weapon": (
        "steel",
        "rifle pistol dagger grenade crossbow machete shotgun bayonet revolver harpoon spear silencer",
    ),
    "poison": (
        "acid",
        "cyanide arsenic ricin sarin strychnine venom hemlock anthrax chlorine mercury phosgene botulin",
    ),
    "drug": (
        "powder",
        "heroin cocaine fentanyl opium crack ketamine speed morphine ecstasy mescaline steroid spice",
    ),
    "malware": (
        "code",
        "trojan worm spyware ransomware keylogger rootkit botnet exploit backdoor phisher stealer adware",
    ),
    "explosive": (
        "nitrate",
        "bomb dynamite landmine detonator torpedo warhead napalm petard semtex gunpowder firebomb missile",
    ),
}
BENIGN: dict[str, tuple[str, str]] = {
    "food": (
        "flour",
        "bread cake pizza pasta waffle muffin bagel pretzel pancake biscuit dumpling lasagna",
    ),
    "toy": (
        "wood",
        "puppet doll kite puzzle yoyo domino marble scooter dollhouse hoop seesaw rattle",
    ),
    "instrument": (
        "brass",
        "violin guitar piano flute trumpet drum harp cello banjo clarinet tuba organ",
    ),
    "tool": (
        "iron",
        "hammer ladder shovel wrench rake saw drill pliers chisel broom bucket lamp",
    ),
    "garment": (
        "cloth",
        "shirt scarf jacket sweater dress glove hat skirt apron coat sock vest",
    ),
}

NUMBER_WORDS: tuple[str, ...] = ("two", "three", "four")
