"""The words of the small world, and nothing about how they are put together.

A word list belongs to one value of one attribute. Verbs are written `past/present`. Nouns that
follow "a" begin with a consonant. Some words belong to two topics on purpose: a star lies in the
sea and in the sky.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["ANIMALS", "FACTS", "HARMFUL", "HARMLESS", "SPANISH_TOPICS", "TOPICS", "Scenery"]

Words = tuple[str, ...]


def _w(text: str) -> Words:
    return tuple(text.split())


@dataclass(frozen=True, slots=True)
class Scenery:
    """The words that a topic, or one of its subtopics, puts into a story."""

    places: Words
    things: Words
    people: Words
    doings: Words


def _scenery(places: str, things: str, people: str, doings: str) -> Scenery:
    return Scenery(_w(places), _w(things), _w(people), _w(doings))


TOPICS: Mapping[str, tuple[Scenery, Mapping[str, Scenery]]] = {
    "sea": (
        _scenery(
            "beach harbor island lighthouse",
            "wave shell star net",
            "sailor captain fisher",
            "swam/swims fished/fishes",
        ),
        {
            "sailing": _scenery("deck bridge", "boat sail rope", "pirate", "sailed/sails"),
            "reef": _scenery("reef lagoon", "crab whale pearl", "diver", "dived/dives"),
        },
    ),
    "farm": (
        _scenery(
            "field barn meadow gate",
            "tractor horn basket fence",
            "farmer shepherd worker",
            "dug/digs planted/plants",
        ),
        {
            "orchard": _scenery(
                "orchard garden", "peach pear ladder", "gardener", "harvested/harvests"
            ),
            "cattle": _scenery("stable pasture", "cow calf bucket", "rancher", "milked/milks"),
        },
    ),
    "city": (
        _scenery(
            "street square station bank",
            "taxi lamp bus sign",
            "driver banker tourist",
            "strolled/strolls hurried/hurries",
        ),
        {
            "traffic": _scenery("bridge tunnel", "car truck van", "mechanic", "drove/drives"),
            "market": _scenery("market shop", "coin scarf stall", "merchant", "traded/trades"),
        },
    ),
    "forest": (
        _scenery(
            "path river clearing bank",
            "tree leaf bat mushroom",
            "hunter ranger woodcutter",
            "hiked/hikes wandered/wanders",
        ),
        {
            "camping": _scenery("camp hut", "tent torch lantern", "scout", "camped/camps"),
            "wildlife": _scenery("nest den", "deer wolf squirrel", "tracker", "crept/creeps"),
        },
    ),
    "space": (
        _scenery(
            "moon planet crater colony",
            "star robot comet satellite",
            "pilot cosmonaut martian",
            "floated/floats orbited/orbits",
        ),
        {
            "rocketry": _scenery(
                "launchpad capsule", "rocket helmet button", "commander", "launched/launches"
            ),
            "astronomy": _scenery(
                "observatory dome", "telescope meteor map", "stargazer", "gazed/gazes"
            ),
        },
    ),
    "school": (
        _scenery(
            "classroom library playground hall",
            "book pencil desk ruler",
            "teacher pupil principal",
            "studied/studies wrote/writes",
        ),
        {
            "science": _scenery(
                "lab greenhouse", "magnet battery beaker", "chemist", "counted/counts"
            ),
            "painting": _scenery(
                "studio gallery", "brush canvas poster", "painter", "painted/paints"
            ),
        },
    ),
    "kitchen": (
        _scenery(
            "kitchen pantry counter cellar",
            "bowl spoon knife scale",
            "chef cook waiter",
            "cooked/cooks tasted/tastes",
        ),
        {
            "baking": _scenery("bakery oven", "cake cookie loaf", "baker", "baked/bakes"),
            "soup": _scenery("diner stove", "pot carrot ladle", "butcher", "stirred/stirs"),
        },
    ),
    "hospital": (
        _scenery(
            "ward clinic pharmacy lobby",
            "bandage bed needle pill",
            "doctor nurse patient",
            "rested/rests healed/heals",
        ),
        {
            "surgery": _scenery(
                "lab theater", "mask glove scalpel", "surgeon", "operated/operates"
            ),
            "rescue": _scenery(
                "ambulance helipad", "stretcher siren radio", "medic", "rushed/rushes"
            ),
        },
    ),
    "music": (
        _scenery(
            "stage theater hall balcony",
            "song horn drum melody",
            "singer dancer composer",
            "sang/sings danced/dances",
        ),
        {
            "orchestra": _scenery(
                "podium pit", "violin cello flute", "conductor", "practiced/practices"
            ),
            "band": _scenery("club garage", "guitar speaker keyboard", "guitarist", "jammed/jams"),
        },
    ),
    "sport": (
        _scenery(
            "stadium field gym pitch",
            "ball bat medal whistle",
            "coach player referee",
            "raced/races trained/trains",
        ),
        {
            "football": _scenery(
                "goal bench", "helmet trophy banner", "goalkeeper", "kicked/kicks"
            ),
            "tennis": _scenery("court club", "racket net towel", "champion", "served/serves"),
        },
    ),
    "castle": (
        _scenery(
            "tower dungeon moat chapel",
            "sword crown torch ring",
            "king queen prince",
            "knelt/kneels ruled/rules",
        ),
        {
            "tournament": _scenery(
                "arena stable", "lance shield banner", "knight", "fought/fights"
            ),
            "feast": _scenery("court hall", "goblet candle harp", "jester", "feasted/feasts"),
        },
    ),
    "mountain": (
        _scenery(
            "peak valley cliff cave",
            "rope backpack rock goat",
            "guide hiker villager",
            "climbed/climbs rested/rests",
        ),
        {
            "climbing": _scenery(
                "ridge ledge", "hook harness ladder", "climber", "scrambled/scrambles"
            ),
            "skiing": _scenery("slope hut", "ski sled pole", "skier", "slid/slides"),
        },
    ),
}
RARE_TOPIC = "hospital"
"""Drawn a third as often as any other topic."""

FEELINGS: Mapping[str, tuple[Words, Words]] = {
    "happy": (
        _w("happy glad joyful cheerful merry"),
        _w("smiled/smiles laughed/laughs cheered/cheers"),
    ),
    "sad": (_w("sad gloomy lonely tearful unhappy"), _w("cried/cries sobbed/sobs wept/weeps")),
    "angry": (
        _w("angry furious mad grumpy cross"),
        _w("shouted/shouts yelled/yells scowled/scowls"),
    ),
    "scared": (
        _w("scared fearful nervous worried frightened"),
        _w("trembled/trembles screamed/screams shivered/shivers"),
    ),
}
"""Emotion -> adjectives, and what one does when one feels so."""

WEATHERS: Mapping[str, tuple[Words, Words, Words]] = {
    "sunny": (
        _w("sunny bright warm"),
        _w("sun sunshine sunlight"),
        _w("shone/shines glowed/glows sparkled/sparkles"),
    ),
    "rainy": (
        _w("rainy wet stormy"),
        _w("rain drizzle shower"),
        _w("poured/pours dripped/drips splashed/splashes"),
    ),
    "snowy": (
        _w("snowy frosty cold"),
        _w("snow frost sleet"),
        _w("drifted/drifts settled/settles whirled/whirls"),
    ),
    "windy": (
        _w("windy breezy gusty"),
        _w("wind breeze gale"),
        _w("blew/blows howled/howls whistled/whistles"),
    ),
}
"""Weather -> adjectives of the day, what the sky sends, and what that does."""
WEATHER_PRIOR: Mapping[str, float] = {"sunny": 0.3, "rainy": 0.3, "snowy": 0.1, "windy": 0.3}
SEASONS: Mapping[str, Mapping[str, float]] = {
    "sunny": {"spring": 0.2, "summer": 0.7, "autumn": 0.08, "winter": 0.02},
    "rainy": {"spring": 0.4, "summer": 0.1, "autumn": 0.4, "winter": 0.1},
    "snowy": {"spring": 0.08, "summer": 0.01, "autumn": 0.06, "winter": 0.85},
    "windy": {"spring": 0.25, "summer": 0.1, "autumn": 0.6, "winter": 0.05},
}
"""P(season | weather): correlated, never certain."""

NAMES: Mapping[str, Words] = {
    "female": _w("Ann Lily Mia Rosa Emma Lucy Nora Zoe Sam Alex"),
    "male": _w("Tom Ben Max Jack Leo Finn Hugo Paul Sam Alex"),
}
PRONOUNS: Mapping[str, tuple[str, str]] = {
    "She": ("She", "He"),
    "she": ("she", "he"),
    "Her": ("Her", "His"),
    "his": ("her", "his"),
    "him": ("her", "him"),
}
"""Slot -> the female and the male form."""
ANIMALS: Mapping[str, Words] = {
    "dog": _w("barked/barks growled/growls panted/pants jumped/jumps"),
    "cat": _w("meowed/meows purred/purrs hissed/hisses jumped/jumps"),
    "horse": _w("neighed/neighs galloped/gallops trotted/trots jumped/jumps"),
    "bird": _w("chirped/chirps fluttered/flutters tweeted/tweets jumped/jumps"),
    "rabbit": _w("hopped/hops nibbled/nibbles twitched/twitches jumped/jumps"),
}
TIMES = _w("day morning afternoon evening night")

SPANISH_TOPICS: Mapping[str, tuple[Words, Words]] = {
    "sea": (
        ("la playa", "el puerto", "la isla", "el mar"),
        ("un barco", "una ola", "un pez", "una concha"),
    ),
    "farm": (
        ("la granja", "el campo", "el establo", "la huerta"),
        ("una vaca", "un tractor", "una oveja", "un huevo"),
    ),
    "city": (
        ("la ciudad", "la calle", "el mercado", "la plaza"),
        ("un coche", "una tienda", "un taxi", "una moneda"),
    ),
    "forest": (
        ("el bosque", "el camino", "la cueva", "el lago"),
        ("un lobo", "una hoja", "un pino", "una flor"),
    ),
    "school": (
        ("la escuela", "la clase", "el patio", "la biblioteca"),
        ("un libro", "una mesa", "un mapa", "una regla"),
    ),
    "kitchen": (
        ("la cocina", "el horno", "la cena", "el comedor"),
        ("una sopa", "un plato", "una olla", "un pan"),
    ),
}
"""Topic -> places and things, each with its article."""
SPANISH_FEELINGS: Mapping[str, Words] = {
    "happy": _w("alegría felicidad gozo"),
    "sad": _w("tristeza pena dolor"),
    "angry": _w("rabia ira furia"),
    "scared": _w("miedo terror temor"),
}
SPANISH_WEATHERS: Mapping[str, tuple[Words, Words]] = {
    "sunny": (_w("soleado claro cálido"), ("El sol", "La luz")),
    "rainy": (_w("lluvioso gris mojado"), ("La lluvia", "El agua")),
    "snowy": (_w("nevado frío blanco"), ("La nieve", "El hielo")),
    "windy": (_w("ventoso fresco agitado"), ("El viento", "La brisa")),
}
SPANISH_NAMES: Mapping[str, Words] = {
    "female": _w("Ana Marta Elena Carmen Laura"),
    "male": _w("Luis Pedro Juan Diego Carlos"),
}

FACTS: tuple[tuple[str, Words, Mapping[str, str]], ...] = (
    (
        "a {} lives in the {}",
        _w("sea forest desert barn sky"),
        {
            "whale": "sea",
            "shark": "sea",
            "dolphin": "sea",
            "bear": "forest",
            "fox": "forest",
            "squirrel": "forest",
            "camel": "desert",
            "scorpion": "desert",
            "cow": "barn",
            "pig": "barn",
        },
    ),
    (
        "the {} is {}",
        _w("red green blue yellow white black"),
        {
            "grass": "green",
            "frog": "green",
            "sky": "blue",
            "ocean": "blue",
            "lemon": "yellow",
            "banana": "yellow",
            "snow": "white",
            "milk": "white",
            "coal": "black",
            "raven": "black",
            "blood": "red",
            "tomato": "red",
        },
    ),
    (
        "a {} has {} legs",
        _w("two four six eight"),
        {
            "spider": "eight",
            "wasp": "six",
            "beetle": "six",
            "dog": "four",
            "horse": "four",
            "lion": "four",
            "duck": "two",
            "hen": "two",
            "bee": "six",
            "man": "two",
        },
    ),
    (
        "the city of {} is in {}",
        _w("France Italy Spain Japan Egypt"),
        {
            "Paris": "France",
            "Lyon": "France",
            "Rome": "Italy",
            "Milan": "Italy",
            "Madrid": "Spain",
            "Seville": "Spain",
            "Tokyo": "Japan",
            "Osaka": "Japan",
            "Cairo": "Egypt",
            "Luxor": "Egypt",
        },
    ),
    (
        "a {} works with {}",
        _w("bread wood animals books metal"),
        {
            "baker": "bread",
            "miller": "bread",
            "carpenter": "wood",
            "woodcutter": "wood",
            "farmer": "animals",
            "shepherd": "animals",
            "writer": "books",
            "teacher": "books",
            "smith": "metal",
            "miner": "metal",
        },
    ),
    (
        "the word {} means {}",
        _w("cold large fast quiet"),
        {
            "chilly": "cold",
            "icy": "cold",
            "huge": "large",
            "giant": "large",
            "quick": "fast",
            "swift": "fast",
            "silent": "quiet",
            "calm": "quiet",
        },
    ),
)
"""Sentence, the values it can be given, and subject -> true value."""

HARMLESS: Mapping[str, tuple[Words, Words]] = {
    "bake": (_w("bread cake pie"), _w("flour butter sugar")),
    "cook": (_w("rice soup beans"), _w("pan salt pot")),
    "paint": (_w("wall fence door"), _w("brush roller bucket")),
    "plant": (_w("roses seeds tree"), _w("shovel soil water")),
    "wash": (_w("car shirt window"), _w("soap sponge towel")),
    "write": (_w("letter story poem"), _w("pen paper notebook")),
    "fix": (_w("bike chair clock"), _w("wrench screw glue")),
    "draw": (_w("map cat house"), _w("pencil ruler crayon")),
    "sew": (_w("dress pillow curtain"), _w("needle thread cloth")),
}
HARMFUL: Mapping[str, tuple[Words, Words]] = {
    "steal": (_w("gold car purse"), _w("mask bag key")),
    "break": (_w("window door clock"), _w("rock hammer stick")),
    "burn": (_w("house letter barn"), _w("match torch fuel")),
    "trick": (_w("teacher friend guard"), _w("lie costume story")),
    "flood": (_w("cellar school garden"), _w("hose pump pipe")),
    "rob": (_w("bank shop train"), _w("mask map van")),
    "cheat": (_w("player brother merchant"), _w("cards dice coin")),
    "wreck": (_w("boat bridge bike"), _w("axe hammer saw")),
    "scare": (_w("child cat neighbor"), _w("ghost snake drum")),
}
"""What is asked for -> its objects, and the tools that do it."""
