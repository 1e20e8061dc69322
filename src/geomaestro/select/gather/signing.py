"""Addresses signed for the Planetary Computer: a token per collection, fetched again before it runs out.

Source: its data authentication API, `GET {token_url}/{collection}` -> {"msft:expiry": ..., "token": ...}; tokens are
added to addresses of Azure blobs as their query. A subscription key in PC_SDK_SUBSCRIPTION_KEY raises its limits.
"""

import os
import threading
from datetime import UTC, datetime, timedelta
from urllib.parse import urlsplit

from geomaestro.errors import SpecError
from geomaestro.select.gather.faults import Passing
from geomaestro.select.gather.searching import PASSING_STATUS, wait_of
from geomaestro.select.gather.spec import TOKEN_URL, GatherSpec

MARGIN = timedelta(minutes=3)  # assumed; a patch is read in less
BLOBS = ".blob.core.windows.net"
KEY = "PC_SDK_SUBSCRIPTION_KEY"  # as in the planetary-computer package


class Signer:
    """Signs addresses, if the recipe wants it; shared by threads."""

    def __init__(self, spec: GatherSpec) -> None:
        ours = urlsplit(spec.stac).hostname == urlsplit(TOKEN_URL).hostname
        self.wanted = spec.sign == "planetary-computer" or (spec.sign == "auto" and ours)
        self.url = f"{spec.token_url.rstrip('/')}/{spec.collection or spec.known.collection}"
        self.timeout_s = spec.timeout_s
        self._lock, self._token, self._until = threading.Lock(), "", datetime.min.replace(tzinfo=UTC)

    def sign(self, href: str) -> str:
        """An address with its token, if it is of a blob, or of the host that gives tokens.

        Raises:
            Passing: if no token is to be had now.
            SpecError: if the server refuses one.
        """
        host = urlsplit(href).netloc
        if not self.wanted or not (host.endswith(BLOBS) or host == urlsplit(self.url).netloc):
            return href
        return f"{href}{'&' if '?' in href else '?'}{self.token()}"

    def forget(self) -> None:
        """Fetch a new token next time: the server refused this one."""
        with self._lock:
            self._until = datetime.min.replace(tzinfo=UTC)

    def token(self) -> str:
        """A token that is good for some minutes."""
        with self._lock:
            if datetime.now(UTC) + MARGIN >= self._until:
                self._token, self._until = self._fetch()
            return self._token

    def _fetch(self) -> tuple[str, datetime]:
        import requests

        key = os.environ.get(KEY)
        headers = {"Ocp-Apim-Subscription-Key": key} if key else {}
        try:
            answer = requests.get(self.url, headers=headers, timeout=self.timeout_s)
        except requests.RequestException as error:
            raise Passing(f"no token from {self.url}: {error}") from None
        if answer.status_code in PASSING_STATUS:
            wait = wait_of(answer.headers.get("Retry-After"))
            raise Passing(f"no token from {self.url}: HTTP {answer.status_code}", wait)
        if not answer.ok:
            raise SpecError(
                f"{self.url}: gives no token (HTTP {answer.status_code}); look at `collection` and `token_url`"
            )
        try:
            said = answer.json()
            until = datetime.fromisoformat(said["msft:expiry"])
            return str(said["token"]), until if until.tzinfo else until.replace(tzinfo=UTC)
        except (ValueError, KeyError, TypeError) as error:
            raise Passing(f"{self.url}: an answer without a token ({error!r})") from None
