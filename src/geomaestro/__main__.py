"""`python -m geomaestro` is the `geomaestro` command."""

from geomaestro.cli import main

if __name__ == "__main__":
    main()
