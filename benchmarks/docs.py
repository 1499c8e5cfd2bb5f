"""Where the tables and plots of a run are in the documentation."""

from typing import Final

from deploy.local.process import ROOT

PAGE: Final = ROOT / "docs" / "performance.md"
IMAGES: Final = ROOT / "docs" / "images"
BEGIN: Final = "<!-- benchmarks: begin -->"
END: Final = "<!-- benchmarks: end -->"


def write_into_docs(text: str) -> None:
    """Replace what is between the two marks of the page; without marks it is added at the end."""
    before, _, rest = PAGE.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    PAGE.write_text(f"{before.rstrip()}\n\n{BEGIN}\n\n{text}\n\n{END}\n{after.lstrip()}")
