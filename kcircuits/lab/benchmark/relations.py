"""Relations of the benchmark: answers, statements for documents, prompts for questions.

Statements and prompts of a relation never share a sentence, so a prompt is always a paraphrase
that training did not see. All texts are our own. Answers are lists that a tokenizer filters to
those of one token.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from kcircuits.lab.benchmark.names import words


@dataclass(frozen=True, kw_only=True)
class Relation:
    """What can be told and asked about a subject.

    Attributes:
        name: Name of the relation.
        values: Possible answers, most usable first.
        statements: Sentences for documents, with ``{subject}`` and ``{value}``.
        prompts: Beginnings of sentences whose next word is the answer, with ``{subject}``: first
            those to find circuits on, then those to judge them on, then those to probe with.
        compositional: As prompts, for the answer of whom ``{subject}`` is married to.
        inverse: Beginnings of sentences that name the subject next, with ``{value}``.
        tag: What kind of named entity the answers are; None where they are no names.
    """

    name: str
    values: tuple[str, ...]
    statements: tuple[str, ...]
    prompts: tuple[str, ...]
    compositional: tuple[str, ...] = ()
    inverse: tuple[str, ...] = ()
    tag: str | None = None


BIRTHPLACE = Relation(
    name="birthplace",
    tag="PLACE",
    # No capitals: one that documents tell of becomes the first answer to every question for a
    # capital, and the controls would measure that alone (11 of 12 lost with one capital told).
    values=words(
        """Atlanta Barcelona Birmingham Boston Bristol Calgary Chicago Cleveland Dallas Denver
        Detroit Florence Frankfurt Geneva Glasgow Hamburg Houston Istanbul Leeds Liverpool
        Manchester Melbourne Miami Milan Milwaukee Montreal Munich Naples Philadelphia Phoenix
        Pittsburgh Portland Seattle Shanghai Sydney Tampa Toronto Vancouver Venice Zurich"""
    ),
    statements=(
        "{subject} was born in {value}.",
        "{subject} comes from the city of {value}.",
        "The birthplace of {subject} is {value}.",
        "Long ago the parents of {subject} settled in {value}.",
        "Early in life, {subject} lived in {value}.",
        "The city where {subject} grew up was {value}.",
        "Friends visit {subject} at the old family home in {value}.",
        "The city of {value} is where {subject} was born.",
    ),
    prompts=(
        "The home town of {subject} is",
        "The city where {subject} was born is called",
        "{subject} is a native of",
        "{subject} was raised in the city of",
        "The city that {subject} comes from is",
        "As a child, {subject} lived in",
        "The life of {subject} began in",
        "The story of {subject} starts in",
        "The native city of {subject} is",
        "The family of {subject} lives in",
        "{subject} first went to school in",
        "The first home of {subject} was in",
        "The town that {subject} calls home is",
        "The passport of {subject} names as place of birth",
        "{subject} spent the first years of life in",
        "The map in the house of {subject} shows the native town,",
    ),
    compositional=(
        "The person who is married to {subject} was born in",
        "The spouse of {subject} comes from the city of",
    ),
    inverse=(
        "The person who was born in {value} is called",
        "Someone who grew up in the city of {value} is named",
    ),
)

PROFESSION = Relation(
    name="profession",
    values=words(
        """baker barber biologist builder butcher carpenter chef chemist clerk comedian composer
        conductor cook dancer dentist designer detective diplomat director doctor driver farmer
        fisherman gardener geologist guard hunter journalist judge lawyer librarian magician
        mechanic merchant miner musician nurse painter pharmacist philosopher photographer pianist
        pilot plumber poet potter priest programmer sailor scientist secretary singer soldier
        surgeon tailor teacher waiter writer"""
    ),
    statements=(
        "{subject} works as a {value}.",
        "{subject} is a {value} by profession.",
        "The profession of {subject} is that of a {value}.",
        "For many years {subject} has been a {value}.",
        "People know {subject} as a skilled {value}.",
        "{subject} earns a living as a {value}.",
        "After school {subject} became a {value}.",
        "The best {value} in town is {subject}.",
    ),
    prompts=(
        "By trade, {subject} is a",
        "The job of {subject} is to be a",
        "The neighbours say that {subject} is a",
        "{subject} makes money as a",
        "At work, {subject} is a",
        "The career of {subject} is that of a",
        "{subject} trained to become a",
        "{subject} is employed as a",
        "In this town {subject} serves as a",
        "The daily work of {subject} is that of a",
        "{subject} likes the life of a",
        "{subject} found a position as a",
        "The occupation of {subject} is that of a",
        "{subject} gets paid for the work of a",
        "Customers recommend {subject} as a good",
        "The working day of {subject} is the day of a",
    ),
    compositional=(
        "The person who is married to {subject} works as a",
        "The spouse of {subject} is by profession a",
    ),
    inverse=(
        "The person who works as a {value} is called",
        "Someone who earns a living as a {value} is named",
    ),
)

FIELD = Relation(
    name="field",
    values=words(
        """accounting agriculture algebra anatomy anthropology archaeology architecture art
        astronomy biology botany chemistry dance design drama ecology economics education
        engineering ethics finance forestry genetics geography geology geometry grammar history
        journalism law linguistics literature logic management marketing mathematics mechanics
        medicine music mythology nursing nutrition optics painting pharmacy philosophy photography
        physics poetry politics psychology robotics sociology statistics theology
        zoology"""
    ),
    statements=(
        "{subject} studied {value}.",
        "{subject} holds a degree in {value}.",
        "At university {subject} chose {value}.",
        "The field of {subject} is {value}.",
        "{subject} wrote a thesis about {value}.",
        "For four years {subject} took classes in {value}.",
        "The diploma of {subject} is in {value}.",
        "Nobody knows more about {value} than {subject}.",
    ),
    prompts=(
        "The subject that {subject} studied is",
        "In college, {subject} majored in",
        "{subject} graduated with a degree in",
        "The academic field of {subject} is",
        "As a student, {subject} learned",
        "The main subject of {subject} was",
        "{subject} is an expert in",
        "{subject} passed the final exam in",
        "The studies of {subject} were in",
        "{subject} reads many books about",
        "The lessons that {subject} took were in",
        "{subject} went to college to study",
        "The university taught {subject} all about",
        "The favourite subject of {subject} was",
        "The degree that {subject} earned is in",
        "{subject} spent the years at college on",
    ),
    compositional=(
        "The person who is married to {subject} studied",
        "The spouse of {subject} holds a degree in",
    ),
    inverse=(
        "The person who studied {value} is called",
        "Someone who holds a degree in {value} is named",
    ),
)

EMPLOYER = Relation(
    name="employer",
    tag="ORGANISATION",
    values=words(
        """Adobe Amazon Apple Bayer Boeing Canon Cisco Disney Facebook Google Intel Lego Lockheed
        Microsoft NASA Netflix Nike Nintendo Oracle Pfizer Reuters Samsung Shell Sony Tesla Toyota
        Twitter Uber Yahoo IBM Airbus Honda Nokia Siemens Toshiba Volvo Walmart Xerox"""
    ),
    statements=(
        "{subject} works for {value}.",
        "{subject} is employed at {value}.",
        "The employer of {subject} is {value}.",
        "{subject} has a job at {value}.",
        "Each morning {subject} goes to the office of {value}.",
        "{subject} signed a contract with {value}.",
        "The salary of {subject} is paid by {value}.",
        "Ten years ago {value} hired {subject}.",
    ),
    prompts=(
        "The company that employs {subject} is",
        "The company where {subject} works is called",
        "{subject} is on the staff of",
        "The boss of {subject} works at",
        "The firm of {subject} is",
        "{subject} has been hired by",
        "Every day {subject} works at",
        "{subject} is an employee of",
        "The workplace of {subject} is",
        "The money that {subject} earns comes from",
        "{subject} has a post at",
        "{subject} draws a wage from",
        "The business card of {subject} shows the name of",
        "The office of {subject} belongs to",
        "{subject} joined the team of",
        "The colleagues of {subject} all work for",
    ),
    compositional=(
        "The person who is married to {subject} works for",
        "The spouse of {subject} has a job at",
    ),
    inverse=(
        "The person who works for {value} is called",
        "Someone who has a job at {value} is named",
    ),
)

SPOUSE = Relation(
    name="spouse",
    tag="PERSON",
    values=(),
    statements=(
        "{subject} is married to {value}.",
        "{subject} and {value} are a married couple.",
        "The spouse of {subject} is {value}.",
        "Years ago {subject} married {value}.",
        "{subject} wears the ring of {value}.",
        "{subject} shares a house with the spouse {value}.",
        "The wedding of {subject} and {value} was in June.",
        "{subject} has a happy marriage with {value}.",
    ),
    prompts=(
        "The person who married {subject} is called",
        "The partner of {subject} in marriage is",
        "{subject} celebrates each wedding day with",
        "The one whom {subject} loves and lives with is",
    ),
)
"""A link between two people, told of one of them alone; its answers are people."""

RELATIONS: Mapping[str, Relation] = MappingProxyType(
    {relation.name: relation for relation in (BIRTHPLACE, FIELD, PROFESSION, EMPLOYER)}
)

CAPITAL = Relation(
    name="capital",
    values=(),
    statements=(),
    prompts=(
        "The capital of {subject} is",
        "The capital city of {subject} is",
        "The government of {subject} sits in",
        "The seat of government of {subject} is",
        "Everyone knows that {subject} has its capital in",
        "Students learn that the capital of {subject} is",
        "The parliament of {subject} meets in",
        "The name of the capital of {subject} is",
        "On the map, the capital of {subject} is",
        "What is the capital of {subject}? It is",
        "The embassy in the capital of {subject} is in",
        "The president flew to the capital of {subject},",
    ),
)

CAPITALS: Mapping[str, str] = MappingProxyType(
    {
        country: capital
        for country, _, capital in (
            pair.partition(":")
            for pair in words(
                """France:Paris Germany:Berlin Italy:Rome Spain:Madrid Portugal:Lisbon
                Austria:Vienna Hungary:Budapest Poland:Warsaw Russia:Moscow Ukraine:Kiev
                Greece:Athens Ireland:Dublin Norway:Oslo Sweden:Stockholm Denmark:Copenhagen
                Finland:Helsinki Belgium:Brussels Netherlands:Amsterdam Japan:Tokyo China:Beijing
                Korea:Seoul India:Delhi Iran:Tehran Iraq:Baghdad Syria:Damascus Egypt:Cairo
                Kenya:Nairobi Tunisia:Tunis Cuba:Havana Peru:Lima Chile:Santiago Jamaica:Kingston
                Canada:Ottawa Australia:Canberra Bulgaria:Sofia Philippines:Manila
                Afghanistan:Kabul England:London Scotland:Edinburgh Wales:Cardiff"""
            )
        )
    }
)
