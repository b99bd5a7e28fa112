import datetime
import socket
import ssl
import stat
import threading

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from fedstyle.errors import FederationError, OutputError
from fedstyle.flower.credentials import (
    AUTHORITY_DAYS,
    SERVER_DAYS,
    Authority,
    expires,
    make_device_key,
    make_operator_key,
    read_operator,
    read_operator_key,
)


@pytest.fixture
def authority(tmp_path):
    return Authority.create(tmp_path / "authority")


def greet(certificate, key, trusted, host):
    """What TLS says when a client that trusts one authority meets a server with this certificate under this name."""
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context(cafile=trusted)
    server.load_cert_chain(certificate, key)
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve():
            plain, _ = listener.accept()
            with plain:
                try:
                    with server.wrap_socket(plain, server_side=True):
                        pass
                except (ssl.SSLError, OSError):
                    pass

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            with socket.create_connection(listener.getsockname()) as plain, client.wrap_socket(plain, server_hostname=host) as secure:
                return secure.version()
        finally:
            thread.join()


def test_a_device_that_trusts_the_authority_meets_its_server_under_every_name(authority, tmp_path):
    certificate, key = authority.issue(tmp_path / "link", ["localhost", "127.0.0.1", "::1"])
    for host in ("localhost", "127.0.0.1", "::1"):
        assert greet(certificate, key, authority.certificate, host) == "TLSv1.3"


def test_another_name_and_another_authority_are_refused(authority, tmp_path):
    certificate, key = authority.issue(tmp_path / "link", ["localhost"])
    with pytest.raises(ssl.SSLCertVerificationError, match="not valid for 'elsewhere'"):
        greet(certificate, key, authority.certificate, "elsewhere")
    other = Authority.create(tmp_path / "other")
    with pytest.raises(ssl.SSLCertVerificationError):
        greet(certificate, key, other.certificate, "localhost")


def test_a_rotated_certificate_is_another_that_the_same_devices_trust(authority, tmp_path):
    first = authority.issue(tmp_path / "link", ["localhost"])
    before = first[0].read_bytes()
    assert authority.issue(tmp_path / "link", ["localhost"]) == first
    assert first[0].read_bytes() != before
    assert greet(*first, authority.certificate, "localhost") == "TLSv1.3"


def test_certificates_say_how_long_they_hold(authority, tmp_path):
    certificate, _ = authority.issue(tmp_path / "link", ["localhost"])
    now = datetime.datetime.now(datetime.UTC)
    assert abs((expires(authority.certificate) - now).total_seconds() - AUTHORITY_DAYS * 86400) < 60
    assert abs((expires(certificate) - now).total_seconds() - SERVER_DAYS * 86400) < 60
    assert x509.load_pem_x509_certificate(certificate.read_bytes()).not_valid_before_utc <= now - datetime.timedelta(minutes=59)
    with pytest.raises(FederationError, match="holds no certificate"):
        expires(tmp_path / "none.crt")


def test_private_keys_are_for_their_owner_alone_and_are_never_replaced(authority, tmp_path):
    _, server = authority.issue(tmp_path / "link", ["localhost"])
    public = make_device_key(tmp_path / "device" / "key")
    for path in (tmp_path / "authority" / "authority.key", server, tmp_path / "device" / "key"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert public == tmp_path / "device" / "key.pub"
    for again in (lambda: Authority.create(tmp_path / "authority"), lambda: make_device_key(tmp_path / "device" / "key")):
        with pytest.raises(OutputError, match="exists already and is not replaced"):
            again()


def test_a_devices_key_is_one_that_supernodes_take(tmp_path):
    public = make_device_key(tmp_path / "key")
    private = serialization.load_ssh_private_key((tmp_path / "key").read_bytes(), None)
    assert private.curve.name == "secp384r1"
    assert public.read_bytes().startswith(b"ecdsa-sha2-nistp384 ")
    assert serialization.load_ssh_public_key(public.read_bytes()) == private.public_key()


def test_issuing_needs_a_host_and_a_key(authority, tmp_path):
    with pytest.raises(FederationError, match="give one or more"):
        authority.issue(tmp_path, [])
    with pytest.raises(FederationError, match=r"no usable authority\.key"):
        Authority(tmp_path).issue(tmp_path, ["localhost"])
    (tmp_path / "authority" / "authority.key").write_text("nonsense")
    with pytest.raises(FederationError, match=r"no usable authority\.key"):
        authority.issue(tmp_path, ["localhost"])


def test_an_operators_key_signs_what_its_public_half_checks(tmp_path):
    public = make_operator_key(tmp_path / "operator")
    assert public.read_bytes().startswith(b"ssh-ed25519 ")
    assert stat.S_IMODE((tmp_path / "operator").stat().st_mode) == 0o600
    read_operator(public).verify(read_operator_key(tmp_path / "operator").sign(b"an order"), b"an order")
    with pytest.raises(OutputError, match="is not replaced"):
        make_operator_key(tmp_path / "operator")
    device = make_device_key(tmp_path / "device")
    for read, wrong in ((read_operator, device), (read_operator, tmp_path / "none"), (read_operator_key, tmp_path / "device")):
        with pytest.raises(FederationError, match="holds no operator's"):
            read(wrong)
