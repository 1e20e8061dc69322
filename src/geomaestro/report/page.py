"""One look for all pages: a template filled in, every text escaped, the style of a run's report; it loads nothing."""

from collections.abc import Callable, Mapping
from importlib import resources
from typing import Any


def render_page(name: str, context: Mapping[str, Any], filters: Mapping[str, Callable[..., str]]) -> str:
    """Fill in the template of that name; `figure` marks SVG that was made here as safe."""
    import jinja2
    from markupsafe import Markup

    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"figure": Markup, **filters}
    folder = resources.files("geomaestro.report")
    look = folder.joinpath("template.html.j2").read_text(encoding="utf-8")
    look = look.partition("<style>")[2].partition("</style>")[0]
    template = folder.joinpath(name).read_text(encoding="utf-8")
    return environment.from_string(template).render(look=Markup(look), **context)  # noqa: S704
