"""Plain facts of the real world, and sentences that ask for them: what pretrained models may know.

Each relation is a function: a subject has one answer. Its prompts are beginnings of statements
whose next words are the answer; the last four are kept for evaluation, so none of them repeats a
sentence that circuits are found on. All tables and texts are our own. Which facts a model can be
asked depends on its tokenizer (``real_facts``), and which it knows on its weights
(``known_facts``).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from kcircuits.lab.benchmark.relations import CAPITAL, CAPITALS


@dataclass(frozen=True, kw_only=True)
class RealRelation:
    """What is asked of real subjects.

    Attributes:
        name: Name of the relation.
        objects: The answer of each subject.
        prompts: Beginnings of sentences whose next words are the answer, with ``{subject}``; the
            last ``N_EVALUATION`` are for evaluation.
        words: Those that name the relation; the first one that a prompt holds is its relation
            span.
    """

    name: str
    objects: Mapping[str, str]
    prompts: tuple[str, ...]
    words: tuple[str, ...]

    def __post_init__(self) -> None:
        assert all(prompt.count("{subject}") == 1 for prompt in self.prompts)


N_DISCOVERY, N_EVALUATION = 8, 4


def pairs(text: str) -> Mapping[str, str]:
    """``subject: answer`` pairs between semicolons."""
    told = [pair.split(":") for pair in " ".join(text.split()).split(";")]
    pairs = {subject.strip(): answer.strip() for subject, answer in told}
    assert len(pairs) == len(told), "a subject is told twice"
    return MappingProxyType(pairs)


REAL_CAPITAL = RealRelation(
    name=CAPITAL.name,
    objects=MappingProxyType(
        {
            **CAPITALS,
            **pairs(
                """Argentina: Buenos Aires; Malaysia: Kuala Lumpur; Mexico: Mexico City;
                Ethiopia: Addis Ababa; India: New Delhi"""
            ),
        }
    ),
    prompts=CAPITAL.prompts,
    words=("capital city", "capital", "seat of government", "government", "parliament"),
)

LANGUAGE = RealRelation(
    name="language",
    objects=pairs(
        """France: French; Germany: German; Italy: Italian; Spain: Spanish; Portugal: Portuguese;
        Brazil: Portuguese; Mexico: Spanish; Japan: Japanese; China: Chinese; Russia: Russian;
        Greece: Greek; Poland: Polish; Turkey: Turkish; Sweden: Swedish; Norway: Norwegian;
        Denmark: Danish; Finland: Finnish; Hungary: Hungarian; Egypt: Arabic; Israel: Hebrew;
        Thailand: Thai; Vietnam: Vietnamese; Korea: Korean; Australia: English; Austria: German;
        Argentina: Spanish; Iran: Persian"""
    ),
    prompts=(
        "The official language of {subject} is",
        "In {subject}, most people speak",
        "Newspapers in {subject} are usually written in the language called",
        "Anyone who moves to {subject} should learn to speak",
        "Schools across {subject} teach their lessons in the national language,",
        "The mother tongue of most people in {subject} is",
        "Before a trip to {subject}, we took a language course in",
        "Street signs and menus in {subject} use the local language,",
        "The main language of {subject} is",
        "People who live in {subject} speak",
        "The national language that is spoken in {subject} is called",
        "She grew up in {subject}, so her first language is",
    ),
    words=("language", "tongue", "speak"),
)

CURRENCY = RealRelation(
    name="currency",
    objects=pairs(
        """Japan: yen; China: yuan; India: rupee; Mexico: peso; Russia: ruble; Germany: euro;
        France: euro; Italy: euro; Spain: euro; England: pound; Canada: dollar; Australia: dollar;
        Thailand: baht; Turkey: lira; Sweden: krona; Poland: zloty; Korea: won;
        Switzerland: franc; Israel: shekel; Denmark: krone; Norway: krone; Iran: rial;
        Argentina: peso; Pakistan: rupee"""
    ),
    prompts=(
        "The currency of {subject} is the",
        "In {subject}, people pay with a currency called the",
        "Prices in the shops of {subject} are given in the national currency, the",
        "Before flying to {subject}, I exchanged my money for the local currency, the",
        "The central bank of {subject} issues the currency known as the",
        "Workers in {subject} earn their money in the local unit, the",
        "The coins and notes of {subject} belong to a currency named the",
        "Banks all over {subject} trade the national money, the",
        "The national currency of {subject} is called the",
        "Tourists in {subject} have to pay in the local currency, the",
        "The unit of money in {subject} is the",
        "The official currency that is used in {subject} is the",
    ),
    words=("currency", "money"),
)

CONTINENT = RealRelation(
    name="continent",
    objects=pairs(
        """France: Europe; Germany: Europe; Poland: Europe; Sweden: Europe; Portugal: Europe;
        Greece: Europe; China: Asia; Japan: Asia; India: Asia; Thailand: Asia; Vietnam: Asia;
        Nepal: Asia; Egypt: Africa; Kenya: Africa; Nigeria: Africa; Ghana: Africa;
        Ethiopia: Africa; Uganda: Africa; Brazil: South America; Peru: South America;
        Argentina: South America; Chile: South America; Bolivia: South America;
        Colombia: South America; Canada: North America"""
    ),
    prompts=(
        "{subject} is a country on the continent of",
        "The country of {subject} lies on the continent of",
        "The continent to which {subject} belongs is called",
        "Geographers place {subject} on the continent of",
        "On a map of the continents, {subject} is part of",
        "Like its neighbours, {subject} belongs to the continent of",
        "When they landed in {subject}, they set foot on the continent of",
        "Which continent is {subject} on? It is on the continent of",
        "{subject} is a nation on the continent of",
        "The continent where {subject} can be found is",
        "Explorers who reached {subject} had arrived on the continent of",
        "In our atlas, {subject} is shown on the continent of",
    ),
    words=("continents", "continent"),
)

COUNTRY = RealRelation(
    name="country",
    objects=pairs(
        """Barcelona: Spain; Munich: Germany; Milan: Italy; Lyon: France; Osaka: Japan;
        Shanghai: China; Mumbai: India; Istanbul: Turkey; Sydney: Australia; Toronto: Canada;
        Zurich: Switzerland; Liverpool: England; Glasgow: Scotland; Karachi: Pakistan;
        Lagos: Nigeria; Porto: Portugal; Antwerp: Belgium; Auckland: New Zealand;
        Wellington: New Zealand; Johannesburg: South Africa; Durban: South Africa;
        Busan: South Korea; Jeddah: Saudi Arabia; Mecca: Saudi Arabia; Colombo: Sri Lanka;
        Alexandria: Egypt"""
    ),
    prompts=(
        "{subject} is a city in the country of",
        "The city of {subject} is located in the country called",
        "The country where you can visit the city of {subject} is",
        "The flag that flies over the town hall of {subject} is the flag of",
        "Anyone who was born in {subject} is a citizen of",
        "They flew to {subject} and then travelled through the rest of the country,",
        "The people of {subject} live in the nation of",
        "The best football team in {subject} plays in the national league of",
        "{subject} is one of the largest cities in",
        "The country that the city of {subject} belongs to is",
        "After a week in {subject}, they knew more about the country of",
        "The mayor of {subject} met the government of",
    ),
    words=("country", "nation", "citizen", "flag of", "cities in", "government"),
)

STATE = RealRelation(
    name="state",
    objects=pairs(
        """Miami: Florida; Houston: Texas; Chicago: Illinois; Seattle: Washington;
        Boston: Massachusetts; Denver: Colorado; Phoenix: Arizona; Atlanta: Georgia;
        Detroit: Michigan; Pittsburgh: Pennsylvania; Cleveland: Ohio; Milwaukee: Wisconsin;
        Minneapolis: Minnesota; Nashville: Tennessee; Portland: Oregon; Baltimore: Maryland;
        Los Angeles: California; San Diego: California; Las Vegas: Nevada;
        New Orleans: Louisiana; Charlotte: North Carolina; Raleigh: North Carolina;
        Newark: New Jersey; Trenton: New Jersey; Buffalo: New York; Brooklyn: New York;
        Albuquerque: New Mexico; Santa Fe: New Mexico; Charleston: South Carolina"""
    ),
    prompts=(
        "{subject} is a city in the state of",
        "The state where the city of {subject} lies is",
        "The city of {subject} is located in the American state called",
        "Anyone who lives in {subject} pays taxes to the state of",
        "Drivers from {subject} have license plates of the state of",
        "The senator gave a speech in {subject} on a tour of the state of",
        "We moved to {subject} and learned much about our new state,",
        "The university in {subject} attracts students from all over the state of",
        "{subject} is one of the largest cities in the state of",
        "The state that the city of {subject} belongs to is",
        "The governor came to {subject} to talk to the people of",
        "Houses near {subject} are cheaper than elsewhere in the state of",
    ),
    words=("state", "governor"),
)

ELEMENT = RealRelation(
    name="element",
    objects=pairs(
        """gold: Au; silver: Ag; iron: Fe; copper: Cu; hydrogen: H; helium: He; carbon: C;
        nitrogen: N; oxygen: O; sodium: Na; potassium: K; calcium: Ca; lead: Pb; tin: Sn;
        zinc: Zn; mercury: Hg; sulfur: S; chlorine: Cl; uranium: U; aluminum: Al; silicon: Si;
        nickel: Ni; magnesium: Mg; phosphorus: P; lithium: Li"""
    ),
    prompts=(
        "The chemical symbol for {subject} is",
        "In the periodic table, {subject} has the symbol",
        "Chemists abbreviate the element {subject} as",
        "The symbol of the element {subject} is",
        "A bottle of {subject} carries a label with the chemical symbol",
        "When they write formulas, students use for {subject} the symbol",
        "The element called {subject} is written with the symbol",
        "What is the symbol for {subject}? It is",
        "The atomic symbol of {subject} is",
        "In chemistry, {subject} is represented by the symbol",
        "The short name for the element {subject} is",
        "The periodic table shows {subject} under the symbol",
    ),
    words=("symbol", "abbreviate", "short name"),
)

OPPOSITE = RealRelation(
    name="opposite",
    objects=pairs(
        """hot: cold; big: small; tall: short; fast: slow; rich: poor; old: young; happy: sad;
        soft: hard; light: dark; wet: dry; full: empty; strong: weak; good: bad; true: false;
        open: closed; high: low; early: late; clean: dirty; loud: quiet; deep: shallow;
        thick: thin; left: right; cheap: expensive; positive: negative; public: private"""
    ),
    prompts=(
        "The opposite of {subject} is",
        "The antonym of the word {subject} is",
        "If something is not {subject}, then it is the opposite, namely",
        "The contrary of {subject} is",
        "The word that means the reverse of {subject} is",
        "Children learn pairs of opposites, such as {subject} and",
        "The sentence says {subject}, but I mean the opposite,",
        "What is the opposite of {subject}? It is",
        "The exact opposite of {subject} is",
        "In a list of antonyms, next to {subject} stands the word",
        "A word with the opposite meaning of {subject} is",
        "It was {subject} before, and now it is quite the opposite,",
    ),
    words=("opposites", "opposite", "antonyms", "antonym", "contrary", "reverse"),
)

AUTHOR = RealRelation(
    name="author",
    objects=pairs(
        """Hamlet: William Shakespeare; Macbeth: William Shakespeare; Othello: William Shakespeare;
        Dracula: Bram Stoker; Frankenstein: Mary Shelley; Ulysses: James Joyce;
        Moby Dick: Herman Melville; Animal Farm: George Orwell; Jane Eyre: Charlotte Brontë;
        Oliver Twist: Charles Dickens; War and Peace: Leo Tolstoy;
        Pride and Prejudice: Jane Austen"""
    ),
    prompts=(
        "The author of {subject} is",
        "The famous work {subject} was written by",
        "On the cover of {subject} stands the name of its author,",
        "The person who wrote {subject} is",
        "Our teacher read a page of {subject}, a masterpiece by the author",
        "Everyone knows that {subject} was created by the writer",
        "Scholars who study {subject} admire its author,",
        "Who wrote {subject}? It was",
        "The writer of {subject} was",
        "We read {subject}, which was written by",
        "The name of the author of {subject} is",
        "She quoted a line from {subject} by the great author",
    ),
    words=("author", "written by", "wrote", "writer"),
)

WORLD: Mapping[str, RealRelation] = MappingProxyType(
    {
        relation.name: relation
        for relation in (
            REAL_CAPITAL,
            LANGUAGE,
            CURRENCY,
            CONTINENT,
            COUNTRY,
            STATE,
            ELEMENT,
            OPPOSITE,
            AUTHOR,
        )
    }
)
