"""TLS: the port speaks it, the clients trust a certificate that is named to them, and Node's SDKs, which know nothing else."""

import asyncio
import datetime
import ipaddress
import os
import shutil
import ssl
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from websockets.asyncio.client import connect

from benchmarks.harness.accuracy import word_error_rate
from tests.conftest import PROJECT, RunningServer, Speech

NODE_PACKAGES = ("openai@6.49.0", "@deepgram/sdk@5.13.0", "ws@8.18.3")
SCRIPT = PROJECT / "tests" / "data" / "sdks.cjs"


def certificate_files(directory: Path, password: bytes | None = None) -> tuple[Path, Path]:
    """Of 127.0.0.1, signed by itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    builder = x509.CertificateBuilder(
        name, name, key.public_key(), x509.random_serial_number(), now, now.replace(year=now.year + 1)
    )
    certificate = builder.add_extension(address, False).sign(key, hashes.SHA256())
    encryption = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    cert_file, key_file = directory / "cert.pem", directory / "key.pem"
    cert_file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    key_file.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption))
    return cert_file, key_file


@pytest.fixture(scope="module")
def certificate(tmp_path_factory) -> tuple[Path, Path]:
    return certificate_files(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def served(start_server, certificate) -> RunningServer:
    """Two gateways, which hand on to each other over TLS."""
    cert, key = map(str, certificate)
    return start_server(ASR_TLS_CERT=cert, ASR_TLS_KEY=key, ASR_WORKERS="2", ASR_TARGET="onnxruntime", ASR_MAX_SESSIONS="4")


def command_of(server: RunningServer, cert: Path | None, *arguments: str) -> subprocess.CompletedProcess:
    program = [sys.executable, "-m", "moonshine_client.command", *arguments, "--server", f"https://{server.address}"]
    trust = {"SSL_CERT_FILE": str(cert)} if cert else {}
    return subprocess.run(program, cwd=PROJECT, env=os.environ | trust, capture_output=True, text=True, timeout=60)


@pytest.mark.slow
@pytest.mark.parametrize("way", [(), ("--rtf", "0")], ids=["file", "live"])
def test_the_command_trusts_the_certificate_that_it_is_given_and_no_other(
    served, certificate, recordings: dict[str, Speech], way
):
    done = command_of(served, certificate[0], "transcribe", "samples/short.wav", *way)
    assert done.returncode == 0 and word_error_rate([recordings["short"].text], [done.stdout]) <= 10, done.stderr
    refused = command_of(served, None, "transcribe", "samples/short.wav", *way)
    assert refused.returncode == 1 and "certificate verify failed" in refused.stderr


def test_websockets_and_handed_on_requests_are_served(served):
    async def run() -> str:
        unchecked = ssl._create_unverified_context()
        async with connect(f"wss://{served.address}/v1/realtime", ssl=unchecked, proxy=None) as socket:
            return str(await socket.recv())

    assert "session.created" in asyncio.run(run())
    statuses = {served.get(f"/whip/session/r.{number}-x/events").status_code for number in (1, 2) for _ in range(4)}
    assert statuses == {404}
    with pytest.raises(httpx.TransportError):
        httpx.get(f"http://{served.address}/healthz", trust_env=False)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("npm") is None, reason="needs Node and npm")
def test_nodes_sdks_run_over_tls(served, certificate, tmp_path):
    subprocess.run(
        ["npm", "install", "--silent", "--no-audit", "--no-fund", *NODE_PACKAGES], cwd=tmp_path, check=True, timeout=300
    )
    shutil.copy(SCRIPT, tmp_path)
    environment = os.environ | {"NODE_EXTRA_CA_CERTS": str(certificate[0]), "NO_PROXY": "*", "no_proxy": "*"}
    command = ["node", SCRIPT.name, served.address, str(PROJECT / "samples" / "short.wav")]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    said = dict(line.split(": ", 1) for line in done.stdout.splitlines())
    assert set(said) == {"rest", "events", "realtime", "deepgram", "flux"}
    for name, text in said.items():
        assert word_error_rate([(PROJECT / "samples" / "short.txt").read_text()], [text]) <= 15, name


BAD = {
    "one without the other": lambda cert, key, other: {"ASR_TLS_CERT": cert},
    "no file": lambda cert, key, other: {"ASR_TLS_CERT": "/no/such.pem", "ASR_TLS_KEY": key},
    "another's key": lambda cert, key, other: {"ASR_TLS_CERT": cert, "ASR_TLS_KEY": other},
}


def served_certificate(server: RunningServer) -> str:
    host, port = server.address.split(":")
    return ssl.get_server_certificate((host, int(port)))


def test_a_renewed_certificate_is_served_and_a_spoilt_one_is_not(start_server, tmp_path):
    cert, key = certificate_files(tmp_path)
    server = start_server(ASR_TLS_CERT=str(cert), ASR_TLS_KEY=str(key), ASR_TARGET="onnxruntime")
    first = served_certificate(server)
    cert.write_text("spoilt")
    wait_for(lambda: "the one from before goes on" in server.log.read_text())
    assert served_certificate(server) == first
    certificate_files(tmp_path)
    wait_for(lambda: served_certificate(server) != first)
    assert server.get("/readyz").status_code == 200


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.1)  # a process of its own offers nothing to wait on


@pytest.mark.server
@pytest.mark.parametrize("name", BAD)
def test_a_certificate_that_cannot_be_used_stops_the_start_with_one_line(certificate, tmp_path, name):
    variables = BAD[name](*map(str, (*certificate, certificate_files(tmp_path)[1])))
    program = [sys.executable, "-m", "server"]
    done = subprocess.run(program, cwd=PROJECT, env=os.environ | variables, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and "ASR_TLS_CERT" in done.stderr and done.stderr.count("\n") == 1


@pytest.mark.server
def test_a_key_with_a_password_stops_the_start_and_asks_nobody(tmp_path):
    cert, key = certificate_files(tmp_path, password=b"secret")
    environment = os.environ | {"ASR_TLS_CERT": str(cert), "ASR_TLS_KEY": str(key)}
    program = [sys.executable, "-m", "server"]
    done = subprocess.run(program, cwd=PROJECT, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and "password" in done.stderr and done.stderr.count("\n") == 1
