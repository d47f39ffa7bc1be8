"""Words and facts of the theme `harbour`. Every entry is one token; subjects and facts are in no other theme."""

from __future__ import annotations


# ship, its captain, its cargo, the sea it sails
SHIPS: tuple[tuple[str, str, str, str], ...] = (
    ("aurora", "hansen", "amber", "baltic"),
    ("borealis", "moreau", "salt", "caspian"),
    ("calypso", "tanaka", "silk", "adriatic"),
    ("dolphin", "okoro", "coffee", "arabian"),
    ("esmeralda", "pinto", "sugar", "caribbean"),
    ("fortuna", "rossi", "olives", "aegean"),
    ("gloria", "novak", "grain", "baltic"),
    ("heron", "larsen", "timber", "northern"),
    ("iris", "dubois", "wine", "tyrrhenian"),
    ("juno", "mendes", "cotton", "caribbean"),
    ("kestrel", "murphy", "wool", "celtic"),
    ("lorelei", "weber", "tar", "northern"),
    ("medusa", "costa", "alabaster", "aegean"),
    ("nautilus", "ivanov", "furs", "caspian"),
    ("orion", "haddad", "dates", "arabian"),
    ("pelican", "reyes", "cocoa", "caribbean"),
    ("quetzal", "vargas", "rubber", "tasman"),
    ("rosalind", "byrne", "barley", "celtic"),
    ("sirena", "greco", "oranges", "tyrrhenian"),
    ("triton", "papas", "figs", "aegean"),
    ("undine", "koch", "hops", "baltic"),
    ("valkyrie", "berg", "herring", "northern"),
    ("walrus", "sato", "pearls", "tasman"),
    ("xenia", "moss", "slate", "celtic"),
    ("yarrow", "grant", "coal", "northern"),
    ("zephyr", "bruno", "corks", "adriatic"),
    ("ariel", "chen", "tea", "tasman"),
    ("bonita", "nasser", "myrrh", "arabian"),
)

# gem, its colour, its price
GEMS: tuple[tuple[str, str, str], ...] = (
    ("ruby", "crimson", "high"),
    ("sapphire", "azure", "high"),
    ("emerald", "green", "high"),
    ("topaz", "yellow", "moderate"),
    ("garnet", "maroon", "low"),
    ("opal", "milky", "moderate"),
    ("onyx", "black", "low"),
    ("jade", "olive", "moderate"),
    ("beryl", "pale", "low"),
    ("agate", "banded", "low"),
    ("zircon", "clear", "moderate"),
    ("amethyst", "violet", "low"),
)

# word, its signal flag
FLAGS: tuple[tuple[str, str], ...] = (
    ("anchor", "ank"),
    ("bell", "bel"),
    ("canvas", "kan"),
    ("deck", "dek"),
    ("engine", "eng"),
    ("funnel", "fun"),
    ("gangway", "gan"),
    ("hatch", "hax"),
    ("island", "isl"),
    ("jetty", "jet"),
    ("keel", "kil"),
    ("lantern", "lan"),
    ("mast", "mas"),
    ("net", "nit"),
    ("oar", "ora"),
    ("pier", "pir"),
    ("quay", "kay"),
    ("rudder", "rud"),
    ("sail", "sel"),
    ("tide", "tid"),
    ("vane", "van"),
    ("wharf", "war"),
    ("yacht", "yat"),
    ("buoy", "boy"),
)

# kind: (what its members are made of, members)
DANGEROUS: dict[str, tuple[str, str]] = {
    "blade": (
        "bronze",
        "cutlass rapier sabre stiletto cleaver scimitar halberd katana poniard hatchet glaive dirk",
    ),
    "toxin": (
        "resin",
        "curare aconite atropine digitalis nightshade oleander brucine thallium antimony cicutoxin muscarine abrin",
    ),
    "cannon": (
        "lead",
        "howitzer mortar musket carronade blunderbuss culverin bazooka falconet gatling bombard swivel flintlock",
    ),
    "fraud": (
        "paper",
        "forgery bribe ransom ponzi counterfeit extortion embezzlement smuggling blackmail perjury skimming hoax",
    ),
    "pyrotechnic": (
        "sulphur",
        "thermite molotov squib cordite guncotton firedamp blasting flare rocket charge fuse petrol",
    ),
}
BENIGN: dict[str, tuple[str, str]] = {
    "herb": (
        "leaves",
        "ginger saffron basil thyme oregano paprika cumin nutmeg vanilla cinnamon clove fennel",
    ),
    "vessel": (
        "planks",
        "canoe raft kayak dinghy ferry gondola sampan punt trawler schooner sloop barge",
    ),
    "game": (
        "card",
        "chess checkers bingo whist bridge rummy hopscotch charades croquet billiards darts skittles",
    ),
    "flower": (
        "petals",
        "tulip daisy orchid lily peony dahlia jasmine crocus poppy marigold lupin pansy",
    ),
    "furniture": (
        "boards",
        "bench wardrobe stool cradle cabinet desk bookcase sofa dresser armchair cupboard footstool",
    ),
}
