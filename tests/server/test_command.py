"""What serve does before it serves, and what doctor finds."""

import socket
import sys

import pytest

from runtime import hardware
from runtime.engine import manifest
from server import doctor, greeting
from server.settings import Access, Listen, Settings
from server.startup import sized
from tests.conftest import PROJECT


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("0.0.0.0", "http://localhost:9000"),
        ("127.0.0.1", "http://localhost:9000"),
        ("::", "http://localhost:9000"),
        ("10.1.2.3", "http://10.1.2.3:9000"),
        ("2001:db8::1", "http://[2001:db8::1]:9000"),
    ],
)
def test_the_banner_names_an_address_that_a_browser_here_can_open(host, address):
    listen = Listen(ASR_HOST=host, ASR_PORT=9000)
    assert greeting.address_of(listen) == address
    banner = greeting.banner(listen, address)
    assert f"{address}/docs" in banner and f"{address.replace('http', 'ws')}/ws" in banner and "Ctrl-C" in banner


def test_engines_are_in_the_checkout_or_in_the_users_cache(monkeypatch, tmp_path):
    monkeypatch.chdir(PROJECT)
    assert str(manifest.default_engines()) == "engines"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert manifest.default_engines() == tmp_path / "cache" / "moonshine-asr" / "engines"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert manifest.default_engines() == tmp_path / ".cache" / "moonshine-asr" / "engines"
    monkeypatch.setattr(sys, "platform", "darwin")
    assert manifest.default_engines() == tmp_path / "Library" / "Caches" / "moonshine-asr" / "engines"


def built(live_streams: int) -> manifest.Manifest:
    return manifest.Manifest.model_construct(live_streams=live_streams)


@pytest.mark.parametrize(("live_streams", "asked", "limit"), [(15, 0, 15), (1, 0, 2), (15, 40, 40), (15, 3, 3)])
def test_the_session_limit_is_what_the_build_measured_unless_one_is_set(live_streams, asked, limit):
    settings = Settings(access=Access(ASR_MAX_SESSIONS=asked))
    assert sized(settings, built(live_streams)).access.session_limit == limit


def test_without_a_measurement_the_limit_stays_as_it_was():
    settings = Settings()
    assert sized(settings, built(0)) == settings


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """A processor with AVX2, no GPU, no compiler, and no engines."""
    (tmp_path / "cpuinfo").write_text("flags : fpu avx2 fma f16c\n")
    monkeypatch.setattr(hardware, "CPU_INFO", tmp_path / "cpuinfo")
    monkeypatch.setattr(hardware, "find_gpu", lambda: None)
    monkeypatch.setattr(hardware, "find_compiler", list)
    monkeypatch.setattr("runtime.engine.selection.COMPILED_LIBRARIES", tmp_path / "nothing")
    monkeypatch.setenv("ASR_ENGINE_DIR", str(tmp_path / "engines"))
    monkeypatch.setenv("COLUMNS", "200")
    return tmp_path


def test_doctor_says_what_is_missing_and_what_to_type(machine, monkeypatch, capsys):
    monkeypatch.setenv("ASR_PROT", "9000")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        monkeypatch.setenv("ASR_HOST", "127.0.0.1")
        monkeypatch.setenv("ASR_PORT", str(port))
        assert doctor.main([]) == 1
    said = capsys.readouterr().out
    assert "the native engine, which is faster, needs a C++ compiler" in said and "→ apt-get install -y g++" in said
    assert "no engine in" in said and "→ bash scripts/start.sh builds it" in said
    assert f"127.0.0.1:{port}: address already in use" in said and "→ set ASR_PORT" in said
    assert "unknown variable ASR_PROT is ignored; did you mean ASR_PORT?" in said


def test_doctor_names_a_setting_that_cannot_be_used(machine, monkeypatch, capsys):
    monkeypatch.setenv("ASR_PORT", "eighty")
    assert doctor.main([]) == 1 and "ASR_PORT='eighty' cannot be used" in capsys.readouterr().out


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a directory that root may not write to")
def test_doctor_names_a_directory_that_cannot_be_written_to(machine, monkeypatch, capsys):
    monkeypatch.setattr("os.access", lambda path, mode: False)
    doctor.main([])
    assert "engines cannot be written to" in capsys.readouterr().out
