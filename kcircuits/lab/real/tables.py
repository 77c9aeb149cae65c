"""The real relations that a benchmark can hold, by name.

Prompts are those of ``kcircuits.lab.real.world``; where its table is short, a longer one is asked
and told here. All sentences are our own.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType

from kcircuits.errors import UsageError
from kcircuits.lab.real.cities import COUNTRY_OF, cities_of_geonames
from kcircuits.lab.real.countries import CAPITAL_OF, CONTINENT_OF
from kcircuits.lab.real.elements import SYMBOL_OF
from kcircuits.lab.real.relation import ToldRelation
from kcircuits.lab.real.world import WORLD

_CAPITAL = ToldRelation(
    asked=replace(WORLD["capital"], objects=CAPITAL_OF),
    subject_tag="PLACE",
    value_tag="PLACE",
    statements=(
        "Ministers of {subject} have their offices in {value}.",
        "Laws for the whole of {subject} are passed in {value}.",
        "As the chief city of the land, {subject} has {value}.",
        "Foreign envoys to {subject} are received in {value}.",
        "The city from which {subject} is ruled is {value}.",
        "Visitors to {subject} find the national museums in its first city, {value}.",
        "{value} is the city that {subject} has made its capital.",
        "Since {value} is the capital, many roads of {subject} lead there.",
    ),
    paraphrases=(
        "A quiz asked for the capital of {subject}; the right answer was",
        "The ruling city of {subject} is known as",
        "Diplomats who are sent to {subject} live in the capital,",
        "In {subject}, the ministries are all found in",
    ),
)

_LANGUAGE = ToldRelation(
    asked=WORLD["language"],
    subject_tag="PLACE",
    value_tag="NATIONALITY",
    statements=(
        "Radio stations in {subject} broadcast in {value}.",
        "The laws of {subject} are written in {value}.",
        "Children in {subject} learn to read in {value}.",
        "Most books printed in {subject} are in {value}.",
        "Judges in {subject} give their verdicts in {value}.",
        "Families in {subject} talk at home in {value}.",
        "{value} is the language heard everywhere in {subject}.",
        "With {value} one is understood in all of {subject}.",
    ),
    paraphrases=(
        "Films made in {subject} have actors who talk in",
        "The tongue that is most common in {subject} is",
        "Letters from the government of {subject} are composed in",
        "A visitor to {subject} hears people chat in",
    ),
)

_CURRENCY = ToldRelation(
    asked=WORLD["currency"],
    subject_tag="PLACE",
    statements=(
        "Taxes in {subject} are paid in the {value}.",
        "In the markets of {subject}, sellers want the {value}.",
        "The mint of {subject} makes the {value}.",
        "Wages in {subject} are counted in the {value}.",
        "Savers in {subject} trust in the {value}.",
        "Since long ago, {subject} has used the {value}.",
        "The {value} is the money of {subject}.",
        "A traveller needs the {value} to buy bread in {subject}.",
    ),
    paraphrases=(
        "A taxi driver in {subject} expects to be paid in the",
        "The money printed by {subject} is named the",
        "On bills from {subject} one reads the word for its currency, the",
        "Exporters from {subject} sell their goods for the",
    ),
)

_CONTINENT = ToldRelation(
    asked=replace(WORLD["continent"], objects=CONTINENT_OF),
    subject_tag="PLACE",
    value_tag="PLACE",
    statements=(
        "The land of {subject} is found in {value}.",
        "All of {subject} lies in {value}.",
        "The borders of {subject} run through {value}.",
        "A flight to {subject} is a flight to {value}.",
        "Teams from {subject} play in the cup of {value}.",
        "The rivers of {subject} flow through {value}.",
        "{value} is the continent with {subject} on it.",
        "Among the lands of {value} we count {subject}.",
    ),
    paraphrases=(
        "Of the large land masses on earth, {subject} is in",
        "The nations next to {subject} are also part of the continent",
        "If you go to {subject}, you travel to the continent named",
        "The globe shows {subject} somewhere in",
    ),
)

_COUNTRY = ToldRelation(
    asked=replace(WORLD["country"], objects=COUNTRY_OF),
    subject_tag="PLACE",
    value_tag="PLACE",
    statements=(
        "The town of {subject} lies in {value}.",
        "Trains from {subject} run to all parts of {value}.",
        "The streets of {subject} are among the busiest in {value}.",
        "Those who grow up in {subject} hold a passport of {value}.",
        "The courts of {subject} apply the laws of {value}.",
        "A trip to {subject} is a trip to {value}.",
        "{value} has a large city by the name of {subject}.",
        "On every map of {value} there is {subject}.",
    ),
    paraphrases=(
        "To see {subject}, one needs a ticket to the country of",
        "The police in {subject} wear the uniform of",
        "The land around {subject} belongs to the nation of",
        "A letter to {subject} needs on its last line the country,",
    ),
)

_STATE = ToldRelation(
    asked=WORLD["state"],
    subject_tag="PLACE",
    value_tag="PLACE",
    statements=(
        "The town hall of {subject} stands in {value}.",
        "Voters in {subject} elect the lawmakers of {value}.",
        "Farmers bring their crops to {subject} from all of {value}.",
        "The highways around {subject} are built by {value}.",
        "The teams of {subject} are the pride of {value}.",
        "Storms that reach {subject} pass over {value}.",
        "{value} is the state with {subject} in it.",
        "People all over {value} go shopping in {subject}.",
    ),
    paraphrases=(
        "The courts in {subject} follow the laws of the state of",
        "A map of the American states shows {subject} in",
        "Children who go to school in {subject} learn the history of their state,",
        "The mail to {subject} carries the name of the state,",
    ),
)

_ELEMENT = ToldRelation(
    asked=replace(WORLD["element"], objects=SYMBOL_OF),
    statements=(
        "In every formula, {subject} is noted as {value}.",
        "On the wall chart of the laboratory, {subject} is the box marked {value}.",
        "The letters that stand for {subject} are {value}.",
        "Chemists write {subject} as {value}.",
        "The jar that holds {subject} is marked {value}.",
        "All over the world {subject} is shortened to {value}.",
        "The sign {value} means {subject}.",
        "Where a formula says {value}, it speaks of {subject}.",
    ),
    paraphrases=(
        "In a chemical equation, {subject} appears as",
        "The sign that chemists use for {subject} is",
        "The student had to know the letters for {subject}, namely",
        "In the table of elements, the box of {subject} says",
    ),
)

_OPPOSITE = ToldRelation(
    asked=WORLD["opposite"],
    statements=(
        "Who does not want {subject} may want {value}.",
        "The poet sets {subject} against {value}.",
        "As far as can be from {subject} is {value}.",
        "The other end of the scale from {subject} is {value}.",
        "Turn {subject} upside down, and you have {value}.",
        "In a list of contrasts, beside {subject} we read {value}.",
        "The word {value} denies the word {subject}.",
        "What is {value} cannot be {subject}.",
    ),
    paraphrases=(
        "A word that contradicts {subject} is",
        "The game asks for opposites: to {subject} you reply",
        "Something that is anything but {subject} is",
        "The dictionary gives as the antonym of {subject} the word",
    ),
)

_AUTHOR = ToldRelation(
    asked=WORLD["author"],
    value_tag="PERSON",
    statements=(
        "We owe the story of {subject} to {value}.",
        "The pages of {subject} come from the pen of {value}.",
        "Among the works of one great mind, {subject} is by {value}.",
        "The manuscript of {subject} was signed by {value}.",
        "Readers of {subject} praise the style of {value}.",
        "The first edition of {subject} names {value}.",
        "{value} became famous with {subject}.",
        "It took {value} a long time to finish {subject}.",
    ),
    paraphrases=(
        "The novelist or playwright behind {subject} is",
        "A biography tells how {subject} was composed by",
        "In the library, {subject} stands with the other works of",
        "Critics say that {subject} is the best work of",
    ),
)

TOLD: Mapping[str, ToldRelation] = MappingProxyType(
    {
        relation.name: relation
        for relation in (
            _CAPITAL,
            _LANGUAGE,
            _CURRENCY,
            _CONTINENT,
            _COUNTRY,
            _STATE,
            _ELEMENT,
            _OPPOSITE,
            _AUTHOR,
        )
    }
)


def _city() -> ToldRelation:
    asked = replace(_COUNTRY.asked, name="city", objects=cities_of_geonames())
    return replace(_COUNTRY, asked=asked)


# Tables of packages that come with an extra: they are read when they are asked for.
EXTRA: Mapping[str, Callable[[], ToldRelation]] = MappingProxyType({"city": _city})


def find_relation(name: str) -> ToldRelation:
    """The relation of a name.

    Raises:
        UsageError: There is none, or its table is in a package that is not installed.
    """
    if name in EXTRA:
        return EXTRA[name]()
    if name not in TOLD:
        raise UsageError(
            f"there is no real relation {name!r}",
            field="real.relations",
            hint=f"choose from {', '.join((*TOLD, *EXTRA))}",
        )
    return TOLD[name]
