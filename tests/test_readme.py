"""What the README shows is true."""

import re
import subprocess
import sys
from pathlib import Path

from geomaestro.learn.recipe import load_recipe

ROOT = Path(__file__).parents[1]


def test_the_first_python_example_of_the_readme_prints_what_it_says() -> None:
    code = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)[0]
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    promised = re.findall(r"# (torch\.Size\(\[.*?\]\))", code)
    assert done.stdout.split("\n")[: len(promised)] == promised


def test_every_page_that_a_page_points_to_exists() -> None:
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    links = [(page, link) for page in pages for link in re.findall(r"\]\((?!http|#)([^)#]+)", page.read_text())]
    assert links
    missing = [f"{page.name}: {link}" for page, link in links if not (page.parent / link).exists()]
    assert not missing


def test_every_recipe_is_valid() -> None:
    recipes = sorted((ROOT / "recipes").glob("*.yaml"))
    assert recipes
    for path in recipes:
        assert load_recipe(path).dataset().sensors
