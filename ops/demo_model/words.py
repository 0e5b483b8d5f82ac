"""Word lists from which all training text is made. Every list is written by hand for this project."""

from __future__ import annotations


def _split(text: str) -> tuple[str, ...]:
    return tuple(text.split())


NAMES: tuple[str, ...] = _split(
    """
    Mira Tom Anna Bela Carl Dora Emil Fay Gina Hugo Ida Jack Kira Liam Maya Nils Olga Paul Quinn Rosa Sam Tara Uma
    Vera Will Xena Yara Zane Adam Beth Cora Dean Edda Finn Greta Hans Iris Jonas Karl Lena Marta Nina Oscar Petra
    Ralf Sara Theo Ulla Viktor Wanda Yves Zoe Aldo Bruno Clara Diego Elsa Felix Gloria Heidi Ivan Julia Kurt Laura
    Max Nora Otto Pia Remo Silva Tilda Urs Vito Wim Yuri Zita Alma Boris Celia Dario Erik Flora Goran Helga Igor
    Jana Klaus Lotte Milo Nadia Oleg Paula Rita Stefan Tina Valeria Walter Anton Bianca Cesar Diana Enzo Frida
    Gustav Hanna Ilja Judith Kai Lydia Marco Noel Ottilie Pablo Romy Simon Thea Ugo Vanessa Werner Agnes Basil
    Conrad Dina Elena Franz Gerda Henry Ines Jasper Katja Leon Mona Nico Olivia Pedro Rudi Sonja Timo Ursula
    Vincent Willa Ada Bert Colin Doris Ernst Fiona George Hilda Isaac Jenny Kevin Lucy Martin Nelly Owen Philip
    """
)

CITIES: tuple[str, ...] = _split(
    """
    Oslo Rome Paris Berlin Vienna Lisbon Madrid London Dublin Prague Warsaw Athens Cairo Tokyo Delhi Lima Quito
    Bern Zurich Geneva Milan Turin Naples Porto Sofia Riga Tallinn Helsinki Boston Chicago Denver Austin Toronto
    Sydney Perth Nairobi Lagos Accra Hanoi Seoul Osaka Kyoto Manila Bergen Malmo Ghent Lyon Nice Basel Graz
    """
)

COLOURS: tuple[str, ...] = _split("red blue green yellow orange purple pink brown black white grey gold silver")

PETS: tuple[str, ...] = _split(
    "cat dog horse rabbit parrot goat turtle hamster mouse fox lizard snake goldfish pony duck sheep pig hen"
)

DRINKS: tuple[str, ...] = _split("tea coffee milk water juice cocoa lemonade cider soda wine beer tonic")

NOUNS: tuple[str, ...] = _split(
    """
    river garden house bridge train boat window door table chair lamp road field forest mountain lake market school
    station tower village farm kitchen library museum hotel office street park beach island valley castle church
    factory harbour theatre hospital bakery shop engine clock letter book picture map box basket bottle bell ship
    """
)

PEOPLE: tuple[str, ...] = _split(
    """
    farmer teacher doctor baker driver sailor painter singer writer nurse cook gardener student captain guard
    neighbour child mother father brother sister visitor worker clerk pilot judge tailor carpenter
    """
)

ADJECTIVES: tuple[str, ...] = _split(
    """
    old new small large quiet busy bright dark warm cold clean empty full long short wide narrow green red heavy
    light simple strange famous pretty broken open tall low early late dry wet soft hard
    """
)

PAST_VERBS: tuple[str, ...] = _split(
    """
    saw found painted opened closed visited left crossed watched cleaned bought sold repaired liked remembered
    passed measured moved built drew
    """
)

TIMES: tuple[str, ...] = (
    "in the morning",
    "in the evening",
    "at noon",
    "at night",
    "after lunch",
    "before dinner",
    "last week",
    "last year",
    "on Monday",
    "on Friday",
    "in spring",
    "in summer",
    "in autumn",
    "in winter",
    "every day",
    "for an hour",
)

PLACES: tuple[str, ...] = ("near", "behind", "beside", "in front of", "far from", "close to", "opposite")

DAYS: tuple[str, ...] = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")

MONTHS: tuple[str, ...] = _split(
    "January February March April May June July August September October November December"
)

OPPOSITES: tuple[tuple[str, str], ...] = (
    ("hot", "cold"),
    ("big", "small"),
    ("up", "down"),
    ("left", "right"),
    ("day", "night"),
    ("open", "closed"),
    ("old", "young"),
    ("fast", "slow"),
    ("light", "dark"),
    ("wet", "dry"),
    ("high", "low"),
    ("hard", "soft"),
    ("full", "empty"),
    ("early", "late"),
    ("long", "short"),
    ("happy", "sad"),
    ("rich", "poor"),
    ("loud", "quiet"),
    ("near", "far"),
    ("clean", "dirty"),
    ("strong", "weak"),
    ("thick", "thin"),
    ("true", "false"),
    ("first", "last"),
    ("inside", "outside"),
    ("begin", "end"),
)

COLOUR_OF: tuple[tuple[str, str], ...] = (
    ("the sky", "blue"),
    ("grass", "green"),
    ("snow", "white"),
    ("coal", "black"),
    ("a lemon", "yellow"),
    ("a banana", "yellow"),
    ("a tomato", "red"),
    ("blood", "red"),
    ("a strawberry", "red"),
    ("milk", "white"),
    ("a frog", "green"),
    ("a carrot", "orange"),
    ("a pumpkin", "orange"),
    ("the sun", "yellow"),
    ("the sea", "blue"),
    ("chocolate", "brown"),
    ("a plum", "purple"),
    ("a flamingo", "pink"),
    ("an elephant", "grey"),
    ("a leaf", "green"),
    ("a crow", "black"),
    ("a polar bear", "white"),
    ("a cherry", "red"),
    ("wood", "brown"),
)

CAPITALS: tuple[tuple[str, str], ...] = (
    ("France", "Paris"),
    ("Italy", "Rome"),
    ("Germany", "Berlin"),
    ("Spain", "Madrid"),
    ("Norway", "Oslo"),
    ("Austria", "Vienna"),
    ("Portugal", "Lisbon"),
    ("Ireland", "Dublin"),
    ("Greece", "Athens"),
    ("Japan", "Tokyo"),
    ("Egypt", "Cairo"),
    ("Peru", "Lima"),
    ("Poland", "Warsaw"),
    ("England", "London"),
    ("Finland", "Helsinki"),
    ("Switzerland", "Bern"),
)

SOUNDS: tuple[tuple[str, str], ...] = (
    ("dog", "barks"),
    ("cat", "meows"),
    ("cow", "moos"),
    ("horse", "neighs"),
    ("duck", "quacks"),
    ("lion", "roars"),
    ("sheep", "bleats"),
    ("bird", "sings"),
)
