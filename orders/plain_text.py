"""Plain text in any language: which texts may be kept and shown, and where a long one is cut.

The rules name what is harmful. Lists of what is allowed refuse the names of people, and each year's new emoji.
"""

import re
import unicodedata
from typing import Final

# Control characters; line separators; characters that turn the direction of the text after them, or that are
# deprecated; annotations; halves of characters; and tags, which are invisible text, except in the flags of regions such
# as Scotland. Marks and joiners, which many languages need, are none of these.
HARMFUL: Final = re.compile(
    "(?P<flag>\U0001f3f4[\U000e0030-\U000e0039\U000e0061-\U000e007a]{1,6}\U000e007f)"
    "|[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u206f\ufff9-\ufffb\ud800-\udfff\U000e0000-\U000e007f]"
)

MARKUP: Final = re.compile(r"<[a-z/!?]|\]\(|://|\bwww\.|\bmailto:", re.IGNORECASE)  # or a link

INVISIBLE: Final = frozenset({"Cc", "Cf", "Zl", "Zp", "Zs"})  # categories of Unicode
JOINER: Final = "\u200d"
SKIN_TONES: Final = range(0x1F3FB, 0x1F400)
TAGS: Final = range(0xE0000, 0xE0080)
NEAR_THE_END: Final = 0.8  # of the room: a text without spaces must not be cut at its only one


def is_harmful(text: str) -> bool:
    """Whether the text holds characters that control what shows it, or that hide something."""
    return any(not each["flag"] for each in HARMFUL.finditer(text))


def without_harmful(text: str) -> str:
    """The text with a space for each harmful character."""
    return HARMFUL.sub(lambda each: each["flag"] or " ", text)


def is_visible(text: str) -> bool:
    """Whether there is anything to see."""
    return any(unicodedata.category(each) not in INVISIBLE for each in text)


def has_markup(text: str) -> bool:
    """Whether the text holds a tag or a link, also in full-width letters."""
    return bool(MARKUP.search(unicodedata.normalize("NFKC", text)))


def shorten(line: str, longest: int) -> str:
    """The line, cut if it has more than `longest` characters: at a word, or else between two visible characters."""
    if len(line) <= longest:
        return line
    end = line.rfind(" ", int(longest * NEAR_THE_END), longest)
    if end < 0:
        end = longest - 1
        while end > 0 and _continues(line, end):
            end -= 1
    return line[:end].rstrip(" ,;:.") + "…"


def _continues(line: str, place: int) -> bool:
    """Whether the character there belongs to the one before it: an accent, a skin tone, a part of an emoji."""
    after = line[place]
    return (
        unicodedata.category(after).startswith("M")
        or JOINER in (after, line[place - 1])
        or ord(after) in SKIN_TONES
        or ord(after) in TAGS
    )
