"""DTLS for peers with ECDSA or RSA certificates, which decrypts each datagram when it comes.

aiortc offers cipher suites for ECDSA only, and GStreamer's certificates are RSA. aiortc also needs a queue, a future and a turn
of the event loop between the socket and the decryption of each datagram.
"""

import asyncio
import logging
import types
from collections.abc import Coroutine, Generator
from typing import Any

from aiortc import rtcpeerconnection
from aiortc.rtcdtlstransport import RTCCertificate, RTCDtlsTransport, SRTPProtectionProfile
from OpenSSL import SSL

from server.transports.webrtc.ports import FindableConnection

logger = logging.getLogger(__name__)

SUITES = ":".join(
    f"ECDHE-{certificate}-{suite}"
    for certificate in ("ECDSA", "RSA")
    for suite in ("AES128-GCM-SHA256", "CHACHA20-POLY1305", "AES128-SHA", "AES256-SHA")
).encode()
"""aiortc's own cipher suites for ECDSA, and the same for RSA."""


class Certificate(RTCCertificate):
    """The server's certificate, with the cipher suites to negotiate."""

    def _create_ssl_context(self, srtp_profiles: list[SRTPProtectionProfile]) -> SSL.Context:
        context = super()._create_ssl_context(srtp_profiles)
        context.set_cipher_list(SUITES)
        return context


class PunctualDtlsTransport(RTCDtlsTransport):
    """Takes datagrams from the socket as they come, once the handshake is over and no part of it may have to be sent again."""

    def __init__(self, *arguments: Any, **named: Any):
        super().__init__(*arguments, **named)
        self._receiving: set[asyncio.Task[None]] = set()  # for datagrams whose answer waits to be sent, as over a TURN server

    async def _recv_next(self) -> None:
        connection, ssl = self.transport._connection, self._ssl
        is_settled = self.encrypted and ssl is not None and ssl.DTLSv1_get_timeout() is None
        if is_settled and isinstance(connection, FindableConnection):
            connection.take_by(self._take)  # datagrams in the queue come first; then this waits for the connection's end
        await super()._recv_next()

    def _take(self, connection: FindableConnection) -> None:
        """Receive the datagram that the connection holds. aiortc's coroutine then waits for nothing but, perhaps, sending."""
        receiving = super()._recv_next()
        try:
            waited_for = receiving.send(None)
        except StopIteration:
            pass
        except ConnectionError:
            connection.end()
        except Exception:
            logger.exception("a connection met a defect and is ended")
            connection.end()
        else:
            task = asyncio.ensure_future(finished(receiving, waited_for, connection))
            self._receiving.add(task)
            task.add_done_callback(self._receiving.discard)


@types.coroutine
def resumed(work: Coroutine[Any, Any, None], waited_for: Any) -> Generator[Any, Any, None]:
    """Continue a coroutine that was started by hand and is waiting."""
    yield waited_for
    yield from work


async def finished(work: Coroutine[Any, Any, None], waited_for: Any, connection: FindableConnection) -> None:
    """Finish receiving a datagram; a failure ends the connection."""
    try:
        await resumed(work, waited_for)
    except Exception as exc:
        logger.info("a connection has ended: %r", exc)
        connection.end()


def install() -> None:
    """Make every connection of this process use these classes: aiortc has no option for them."""
    rtcpeerconnection.RTCCertificate = Certificate  # type: ignore[misc]
    rtcpeerconnection.RTCDtlsTransport = PunctualDtlsTransport  # type: ignore[misc]
