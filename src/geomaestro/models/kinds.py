"""The kinds of models that the library knows: which classes make one of its spec. Nothing else asks."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from geomaestro.config import check
from geomaestro.errors import CheckpointError
from geomaestro.models.autoencoder import Autoencoder, AutoencoderSpec
from geomaestro.models.base import TokenEncoder, TokenEncoderSpec
from geomaestro.models.encoder import Encoder, EncoderSpec
from geomaestro.models.mae import Mae, MaeSpec
from geomaestro.models.satmae import SatMae, SatMaeSpec
from geomaestro.models.satmae_encoder import SatMaeEncoder, SatMaeEncoderSpec

FIRST_KIND = "maestro"  # of model folders and states that name none: they were written before there were others


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of model: specs of its encoder and its autoencoder, and what makes a model of each."""

    encoder_spec: type[TokenEncoderSpec]
    encoder: Callable[[Any], TokenEncoder]
    spec: type[AutoencoderSpec]
    autoencoder: Callable[[Any], Autoencoder]


KINDS: Mapping[str, Kind] = {
    "maestro": Kind(EncoderSpec, Encoder, MaeSpec, Mae),
    "satmae": Kind(SatMaeEncoderSpec, SatMaeEncoder, SatMaeSpec, SatMae),
}


def kind_of(spec: TokenEncoderSpec | AutoencoderSpec) -> str:
    """The name of a spec's kind."""
    return next(name for name, kind in KINDS.items() if type(spec) in (kind.encoder_spec, kind.spec))


def make_encoder(spec: TokenEncoderSpec) -> TokenEncoder:
    """A new encoder."""
    return KINDS[kind_of(spec)].encoder(spec)


def make_autoencoder(spec: AutoencoderSpec) -> Autoencoder:
    """A new autoencoder."""
    return KINDS[kind_of(spec)].autoencoder(spec)


def find_kind(about: Mapping[str, Any], source: str) -> Kind:
    """The kind that a description names under `model`.

    Raises:
        CheckpointError: if it names another.
    """
    name = about.get("model", FIRST_KIND)
    if name not in KINDS:
        raise CheckpointError(f"{source}: holds a model of kind {name!r}; this version knows {', '.join(KINDS)}")
    return KINDS[name]


def read_encoder(about: Mapping[str, Any], source: str) -> TokenEncoder:
    """A new encoder as a description asks for it under `encoder`."""
    kind = find_kind(about, source)
    return kind.encoder(check(kind.encoder_spec, about["encoder"], source))


def read_autoencoder(about: Mapping[str, Any], source: str) -> Autoencoder:
    """A new autoencoder as a description asks for it under `mae`."""
    kind = find_kind(about, source)
    return kind.autoencoder(check(kind.spec, about["mae"], source))
