"""The commands that choose data: diversity, choose, gather, audit. What a command needs is imported inside it."""

from cyclopts import App

select = App()

# --- diversity

# --- choose

# --- gather

# --- audit
