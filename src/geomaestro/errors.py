"""Every error that a user can cause.

GeomaestroError
 +- SpecError          a recipe, dataset spec or sensor says something impossible
 +- DataError          a file is missing, unreadable or not what its spec promises
 +- CheckpointError    weights do not fit the model, or a file of weights can't be trusted
 +- RunError           a run folder can't be used or written
 +- NonFiniteError     training met a loss or gradient that is not a number
"""


class GeomaestroError(Exception):
    """Base class: `except GeomaestroError` catches what a user can mend."""


class SpecError(GeomaestroError, ValueError):
    """A recipe, dataset spec or sensor says something impossible."""


class DataError(GeomaestroError, ValueError):
    """A file is missing, unreadable or not what its spec promises."""


class CheckpointError(GeomaestroError, ValueError):
    """Weights do not fit the model, or a file of weights can't be trusted."""


class RunError(GeomaestroError, RuntimeError):
    """A run folder can't be used or written."""


class NonFiniteError(GeomaestroError, ArithmeticError):
    """Training met a loss or gradient that is not a number."""
