"""The announcement of the Wyoming port by zeroconf (mDNS), by which Home Assistant finds it on the local network."""

import contextlib
import ipaddress
import logging
import re
from collections.abc import AsyncIterator

import zeroconf as zeroconf_library
from zeroconf import InterfaceChoice, get_all_addresses
from zeroconf.asyncio import AsyncServiceInfo, AsyncZeroconf

from server.settings import is_loopback

logger = logging.getLogger(__name__)

SERVICE = "_wyoming._tcp.local."
LONGEST_LABEL = 63  # bytes: RFC 1035, 2.3.4


@contextlib.asynccontextmanager
async def announced(name: str, host: str, port: int) -> AsyncIterator[None]:
    """Announce the port within the context. Several gateways of one server may announce the same service.

    name: name of the server among others. host: the address that the port listens at.
    """
    if is_loopback(host):
        logger.warning("the Wyoming port is announced at %s, which no other machine reaches: set ASR_WYOMING_HOST", host)
    async with contextlib.AsyncExitStack() as within:
        try:
            zeroconf = await within.enter_async_context(
                AsyncZeroconf(interfaces=[host] if is_loopback(host) else InterfaceChoice.All)
            )
            await zeroconf.async_register_service(service_of(name, host, port), cooperating_responders=True)
            within.push_async_callback(zeroconf.async_unregister_all_services)
        except (OSError, zeroconf_library.Error) as exc:
            logger.error("the Wyoming port cannot be announced, and is served all the same: %s", exc)
        yield


def service_of(name: str, host: str, port: int) -> AsyncServiceInfo:
    """Describe the service in the form that Home Assistant's Wyoming integration looks for."""
    label = re.sub(r"[^A-Za-z0-9-]", "-", f"moonshine-asr-{name}")[:LONGEST_LABEL]
    return AsyncServiceInfo(
        SERVICE, f"{label}.{SERVICE}", port=port, parsed_addresses=addresses_of(host), server=f"{label}.local."
    )


def addresses_of(host: str) -> list[str]:
    """Return the addresses at which others can reach the host: all of the machine's addresses if it listens on all."""
    if not ipaddress.ip_address(host).is_unspecified:
        return [host]
    return [address for address in get_all_addresses() if not is_loopback(address)] or [host]
