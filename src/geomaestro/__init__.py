"""Pretrain, choose data for, evaluate and apply geospatial foundation models, from raw archives to maps."""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from geomaestro.models.hub import load as load

__all__ = ["__version__", "load"]


def __getattr__(name: str) -> Any:
    """Import on first use, so that `import geomaestro` does nothing."""
    if name == "load":
        from geomaestro.models.hub import load

        return load
    raise AttributeError(f"module 'geomaestro' has no attribute {name!r}")
