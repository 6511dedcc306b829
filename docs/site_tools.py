"""What the site needs beside MkDocs: formulas as MathML, docstrings as Markdown, links that hold.

Formulas become MathML when the page is built, so that no script and no network is needed.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import griffe
from latex2mathml.converter import convert

ROOT = Path(__file__).parents[1]
_BLOCK = re.compile(r"^([ ]*)\.\. math::[ ]*(.*(?:\n(?:\1[ ]+.*|[ ]*(?=\n)))*)", re.MULTILINE)
_ROLE = re.compile(r":(?:class|func|meth|mod|attr|data):`~?([^`<]+)`", re.DOTALL)
_OUTSIDE = re.compile(r"(?<=\]\()((?:\.\./)+)([^)#]+)")


def formula(source: str, *, block: bool) -> str:
    """TeX as MathML on one line."""
    return convert(source, display="block" if block else "inline").replace("\n", " ")


def on_config(config: Any) -> Any:
    """Fenced blocks of `math` are formulas."""
    fence = {"name": "math", "class": "math", "format": _fence}
    config.mdx_configs["pymdownx.superfences"] = {"custom_fences": [fence]}
    return config


def _fence(source: str, *rest: Any, **more: Any) -> str:
    return formula(source, block=True)


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """A link that leaves docs/ goes to the repository."""

    def link(found: re.Match[str]) -> str:
        here = (ROOT / "docs" / page.file.src_uri).parent
        target = (here / found[0]).resolve()
        if target.is_relative_to(ROOT / "docs"):
            return found[0]
        if not target.exists():
            raise FileNotFoundError(f"{page.file.src_uri}: {found[0]} is not there")
        return f"{config.repo_url}/blob/main/{target.relative_to(ROOT).as_posix()}"

    return _OUTSIDE.sub(link, markdown)


def markdown(text: str) -> str:
    """A docstring's roles and formulas, which Sphinx would read, for a page of Markdown."""

    def block(found: re.Match[str]) -> str:
        return f"{found[1]}{formula(' '.join(found[2].split()), block=True)}\n"

    text = _BLOCK.sub(block, text)
    text = re.sub(r":math:`([^`]+)`", lambda m: formula(m[1], block=False), text)
    text = _ROLE.sub(lambda m: f"`{m[1].strip().rpartition('.')[2]}`", text)
    text = re.sub(r"^([ ]*)Example:$", r"\1Examples:", text, flags=re.MULTILINE)  # with >>>
    return text.replace("``", "`")


class Markdown(griffe.Extension):
    """Translates every docstring before it is laid out."""

    def on_instance(self, *, obj: griffe.Object, **more: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = markdown(obj.docstring.value)
