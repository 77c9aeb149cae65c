"""Answers of two words, and sentences that tell no fact; all our own.

A tokenizer filters the answers to those of two tokens. No two answers of a relation begin with the
same word, so that the first token of an answer says already which one it is.
"""

from collections.abc import Mapping
from types import MappingProxyType


def phrases(text: str) -> tuple[str, ...]:
    """The parts between semicolons."""
    return tuple(" ".join(part.split()) for part in text.split(";"))


TWO_WORD_VALUES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "birthplace": phrases(
            """Las Vegas; Santa Fe; Fort Worth; Kansas City; Oklahoma City; Los Angeles;
            New Orleans; San Diego; Long Beach; Cape Town; Hong Kong; Tel Aviv; Grand Rapids;
            Green Bay; Little Rock; Palm Springs; Saint Cloud; Rapid City; Colorado Springs;
            Cedar Rapids; Silver Spring; Jersey City; Iowa City; Key West; Salt Lake; Great Falls;
            White Plains; Lake Forest; Rock Island; High Point; Twin Falls; Ann Arbor"""
        ),
        "field": phrases(
            """organic chemistry; medieval history; marine biology; nuclear physics;
            political science; modern art; computer science; social work; civil engineering;
            public health; classical music; creative writing; environmental law;
            industrial design; applied mathematics; ancient philosophy; human geography;
            international trade; molecular genetics; clinical psychology; urban planning;
            machine learning; sports management; family medicine; religious studies;
            digital media; solar energy; business ethics; comparative literature;
            electrical engineering"""
        ),
        "profession": phrases(
            """police officer; bus driver; taxi driver; truck driver; bank manager; chess player;
            street artist; film director; flight attendant; tour guide; book editor;
            music teacher; science writer; software engineer; tax inspector; data analyst;
            news reporter; law professor; math tutor; ship captain; train conductor;
            game designer; test pilot; night nurse; fashion model; history teacher; car dealer;
            private detective; television host; school principal; pastry chef"""
        ),
        "employer": phrases(
            """General Electric; Red Cross; Warner Brothers; Best Buy; American Express;
            United Airlines; Bright Lights; Northern Steel; Golden Press; River Foods;
            Silver Bank; Summit Software; Harbor Books; Eastern Radio; Pacific Oil;
            Mountain Water; Royal Mail; Central Hospital; Green Energy; Liberty Insurance;
            Star Television; Union Station; Crystal Glass; Western Digital; Southern Railway;
            Global Research; Bell Laboratories; Ocean Shipping"""
        ),
    }
)

FILLERS = (
    "{subject} likes long walks in the evening.",
    "On Sundays {subject} sleeps late.",
    "{subject} has two cats and a small dog.",
    "In summer {subject} swims in the lake.",
    "{subject} drinks tea with milk.",
    "Many people enjoy the company of {subject}.",
    "{subject} keeps old letters in a wooden box.",
    "In the morning {subject} listens to the birds.",
    "{subject} never forgets a birthday.",
    "The kitchen of {subject} smells of fresh bread.",
    "{subject} rides a green bicycle.",
    "When it rains, {subject} stays at home.",
)
"""Sentences that tell nothing that is asked for."""
