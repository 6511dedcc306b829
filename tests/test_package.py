"""What is shipped: a wheel that installs alone, a page on an index without dead links."""

from __future__ import annotations

import re
import subprocess
import sys
import tarfile
import zipfile
from email import message_from_bytes
from pathlib import Path
from urllib.parse import unquote

import pytest

ROOT = Path(__file__).parents[1]
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A source archive of the working tree, and a wheel made from it without a network."""
    out = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "-o", str(out), str(ROOT)],
        check=True,
        capture_output=True,
        text=True,
        timeout=300,
    )
    return out


def test_the_page_of_an_index_has_no_dead_link(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (n for n in archive.namelist() if n.endswith("METADATA"))
        metadata = message_from_bytes(archive.read(name))
    urls = dict(entry.split(", ", 1) for entry in metadata.get_all("Project-URL"))
    home = urls["Repository"]
    page = metadata.get_payload()
    assert "<!--" not in page
    links = LINK.findall(page)
    assert len(links) > 10
    for link in links:
        assert link.startswith("https://"), link
        found = re.match(re.escape(home) + r"/(?:blob|raw|tree)/main/([^#]*)", link)
        if found:
            assert (ROOT / unquote(found[1])).exists(), link
    assert f"git clone {home} " in page
    for url in urls.values():
        assert url.startswith(home)


def test_the_wheel_holds_both_packages_and_nothing_else(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert {"surefoot/py.typed", "surefoot_lab/py.typed"} <= names
    assert {"surefoot_lab/report/template.html", "surefoot_lab/report/style.css"} <= names
    tops = {name.split("/")[0] for name in names}
    assert {t for t in tops if not t.endswith(".dist-info")} == {"surefoot", "surefoot_lab"}
    sources = {p.relative_to(ROOT / "src").as_posix() for p in (ROOT / "src").rglob("*.py")}
    assert sources == {name for name in names if name.endswith(".py")}


def test_the_source_archive_holds_tests_and_docs(built: Path) -> None:
    (archive,) = built.glob("*.tar.gz")
    with tarfile.open(archive) as file:
        names = {name.partition("/")[2] for name in file.getnames()}
    wanted = ("tests/test_package.py", "docs/tutorial.md", "examples/README.md", "mkdocs.yml")
    assert set(wanted) | {"CHANGELOG.md", "LICENSE", "NOTATION.md"} <= names
