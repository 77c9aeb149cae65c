"""Countries with their capitals and continents: a table of our own.

Left out: countries with several capitals or a disputed one, and those whose capital repeats the
country's name (Mexico City, Luxembourg), since a model that copies would be taken for one that
knows. Countries that lie between two continents have a capital here and no continent.
"""

from collections.abc import Mapping
from types import MappingProxyType

from kcircuits.lab.real.world import pairs

_CAPITALS_BY_CONTINENT: Mapping[str, str] = MappingProxyType(
    {
        "Europe": """Albania: Tirana; Austria: Vienna; Belarus: Minsk; Belgium: Brussels;
        Bosnia: Sarajevo; Bulgaria: Sofia; Croatia: Zagreb; Denmark: Copenhagen; England: London;
        Estonia: Tallinn; Finland: Helsinki; France: Paris; Germany: Berlin; Greece: Athens;
        Hungary: Budapest; Iceland: Reykjavik; Ireland: Dublin; Italy: Rome; Kosovo: Pristina;
        Latvia: Riga; Liechtenstein: Vaduz; Lithuania: Vilnius; Macedonia: Skopje; Malta: Valletta;
        Moldova: Chisinau; Montenegro: Podgorica; Netherlands: Amsterdam; Norway: Oslo;
        Poland: Warsaw; Portugal: Lisbon; Romania: Bucharest; Scotland: Edinburgh;
        Serbia: Belgrade; Slovakia: Bratislava; Slovenia: Ljubljana; Spain: Madrid;
        Sweden: Stockholm; Switzerland: Bern; Ukraine: Kyiv; Wales: Cardiff""",
        "Asia": """Afghanistan: Kabul; Armenia: Yerevan; Bahrain: Manama; Bangladesh: Dhaka;
        Bhutan: Thimphu; Cambodia: Phnom Penh; China: Beijing; India: New Delhi; Iran: Tehran;
        Iraq: Baghdad; Japan: Tokyo; Jordan: Amman; Kazakhstan: Astana; Kyrgyzstan: Bishkek;
        Laos: Vientiane; Lebanon: Beirut; Malaysia: Kuala Lumpur; Maldives: Malé;
        Mongolia: Ulaanbaatar; Nepal: Kathmandu; North Korea: Pyongyang; Oman: Muscat;
        Pakistan: Islamabad; Philippines: Manila; Qatar: Doha; Saudi Arabia: Riyadh;
        South Korea: Seoul; Syria: Damascus; Taiwan: Taipei; Tajikistan: Dushanbe;
        Thailand: Bangkok; Turkmenistan: Ashgabat; United Arab Emirates: Abu Dhabi;
        Uzbekistan: Tashkent; Vietnam: Hanoi""",
        "Africa": """Algeria: Algiers; Angola: Luanda; Botswana: Gaborone;
        Burkina Faso: Ouagadougou; Burundi: Gitega; Cameroon: Yaoundé; Cape Verde: Praia;
        Chad: N'Djamena; Comoros: Moroni;
        Egypt: Cairo; Eritrea: Asmara; Ethiopia: Addis Ababa; Gabon: Libreville; Gambia: Banjul;
        Ghana: Accra; Guinea: Conakry; Kenya: Nairobi; Lesotho: Maseru; Liberia: Monrovia;
        Libya: Tripoli; Madagascar: Antananarivo; Malawi: Lilongwe; Mali: Bamako;
        Mauritania: Nouakchott; Mauritius: Port Louis; Morocco: Rabat; Mozambique: Maputo;
        Namibia: Windhoek; Niger: Niamey; Nigeria: Abuja; Rwanda: Kigali; Senegal: Dakar;
        Seychelles: Victoria; Sierra Leone: Freetown; Somalia: Mogadishu; South Sudan: Juba;
        Sudan: Khartoum; Togo: Lomé; Tunisia: Tunis; Uganda: Kampala; Zambia: Lusaka;
        Zimbabwe: Harare""",
        "North America": """Bahamas: Nassau; Barbados: Bridgetown; Belize: Belmopan; Canada: Ottawa;
        Costa Rica: San José; Cuba: Havana; Dominica: Roseau; Dominican Republic: Santo Domingo;
        Greenland: Nuuk; Haiti: Port-au-Prince; Honduras: Tegucigalpa; Jamaica: Kingston;
        Nicaragua: Managua; Saint Lucia: Castries; United States: Washington""",
        "South America": """Argentina: Buenos Aires; Brazil: Brasilia; Chile: Santiago;
        Colombia: Bogotá; Ecuador: Quito; Guyana: Georgetown; Paraguay: Asunción; Peru: Lima;
        Suriname: Paramaribo; Uruguay: Montevideo; Venezuela: Caracas""",
        "Oceania": """Australia: Canberra; Fiji: Suva; Kiribati: Tarawa; Marshall Islands: Majuro;
        Micronesia: Palikir; New Zealand: Wellington; Palau: Ngerulmud;
        Papua New Guinea: Port Moresby; Samoa: Apia; Solomon Islands: Honiara; Tuvalu: Funafuti;
        Tonga: Nuku'alofa; Vanuatu: Port Vila""",
        "": "Russia: Moscow; Turkey: Ankara; Georgia: Tbilisi; Azerbaijan: Baku; Cyprus: Nicosia",
    }
)

CAPITAL_OF: Mapping[str, str] = MappingProxyType(
    {
        country: capital
        for text in _CAPITALS_BY_CONTINENT.values()
        for country, capital in pairs(text).items()
    }
)

CONTINENT_OF: Mapping[str, str] = MappingProxyType(
    {
        country: continent
        for continent, text in _CAPITALS_BY_CONTINENT.items()
        if continent
        for country in pairs(text)
    }
)
