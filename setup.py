"""Everything is in pyproject.toml but this: an index shows the README, where relative links are dead."""

import re
from pathlib import Path

from setuptools import setup

HERE = Path(__file__).parent
_LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\((?!https?://|#)([^)\s]+)\)")


def absolute(text: str, home: str) -> str:
    """The same page with links that hold wherever it is shown."""

    def link(found: re.Match[str]) -> str:
        kind = "raw" if found[1] else "blob"
        return f"{found[1]}[{found[2]}]({home}/{kind}/main/{found[3]})"

    return _LINK.sub(link, re.sub(r"<!--.*?-->\n*", "", text, flags=re.DOTALL))


def home() -> str:
    """The project's address, as pyproject.toml gives it."""
    text = (HERE / "pyproject.toml").read_text(encoding="utf-8")
    found = re.search(r'^Repository = "(.+)"$', text, re.MULTILINE)
    assert found is not None
    return found[1]


if __name__ == "__main__":
    setup(
        long_description=absolute((HERE / "README.md").read_text(encoding="utf-8"), home()),
        long_description_content_type="text/markdown",
    )
