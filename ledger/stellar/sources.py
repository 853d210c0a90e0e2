"""Sources by their configured text: `horizon:URL`, `rpc:URL`, or a bare URL, which is Horizon's."""

from typing import Protocol

from ledger.stellar.errors import SourceError
from ledger.stellar.gateway import Gateway
from ledger.stellar.horizon import HorizonGateway


class Source(Gateway, Protocol):
    """A gateway with connections of its own."""

    def require_network(self) -> None:
        """Raise unless the source serves the network the gateway was made for.

        Raises:
            GatewayError: No usable answer, or another network.
        """
        ...

    def close(self) -> None:
        """Close the connections."""
        ...


def open_source(text: str, passphrase: str) -> Source:
    """Make the gateway that a text names; nothing is asked yet.

    Every source checks the network's passphrase before it believes an answer.

    Raises:
        SourceError: The text names no known kind of source, or no http or https URL.
    """
    kind, separator, url = text.partition(":")
    if not separator or url.startswith("//"):
        kind, url = "horizon", text
    if kind == "horizon":
        return HorizonGateway(url, passphrase)
    if kind == "rpc":
        # Loaded here: the SDK takes seconds of CPU, and who only uses Horizon's reads needs none.
        from ledger.stellar.rpc import RpcGateway  # noqa: PLC0415

        return RpcGateway(url, passphrase)
    raise SourceError(f"gateway: got {text!r}, want horizon:URL or rpc:URL")
