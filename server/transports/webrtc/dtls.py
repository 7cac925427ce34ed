"""DTLS with peers of either kind of certificate: aiortc offers suites for ECDSA only, and GStreamer's certificates are RSA."""

from aiortc import rtcpeerconnection
from aiortc.rtcdtlstransport import RTCCertificate, SRTPProtectionProfile
from OpenSSL import SSL

SUITES = ":".join(
    f"ECDHE-{certificate}-{suite}"
    for certificate in ("ECDSA", "RSA")
    for suite in ("AES128-GCM-SHA256", "CHACHA20-POLY1305", "AES128-SHA", "AES256-SHA")
).encode()
"""aiortc's own for ECDSA, and the same for RSA."""


class Certificate(RTCCertificate):
    """Ours, with what is negotiated beside it."""

    def _create_ssl_context(self, srtp_profiles: list[SRTPProtectionProfile]) -> SSL.Context:
        context = super()._create_ssl_context(srtp_profiles)
        context.set_cipher_list(SUITES)
        return context


def install() -> None:
    """Let every connection of this process have such a certificate: aiortc takes none from its user."""
    rtcpeerconnection.RTCCertificate = Certificate  # type: ignore[misc]
