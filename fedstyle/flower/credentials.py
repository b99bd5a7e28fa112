"""What a federation's members prove who they are with: an authority, the SuperLink's certificate, the operator's key and each device's.

The authority's key signs certificates, and the register of devices that may sum securely: it belongs on a machine that serves nothing. A
device holds the authority's certificate, so that it talks to this federation's SuperLink alone, and a key of its own, whose public half the
operator registers. The operator's key signs every order of a round (see `orders`): a device that knows its public half obeys no one else
who reaches the SuperLink.
A device signs what it sends in a secure sum with a second key, derived from its own, for which the authority vouches (see `vouching`).
"""

from __future__ import annotations

import datetime
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fedstyle.errors import FederationError, OutputError
from fedstyle.files import write_bytes

AUTHORITY_DAYS, SERVER_DAYS = 3650, 397
"""How long an authority and a SuperLink's certificate hold; 397 days is what browsers allow a server's (CA/B Forum, 2020)."""
SKEW = datetime.timedelta(hours=1)
"""A certificate holds from an hour before it was made on: devices' clocks differ."""

_PEM = serialization.Encoding.PEM
_OPEN = serialization.NoEncryption()


@dataclass(frozen=True)
class Authority:
    """A federation's authority in a folder: `authority.crt` for every device, `authority.key` for its owner alone."""

    folder: Path

    @property
    def certificate(self) -> Path:
        """The file that devices trust."""
        return self.folder / "authority.crt"

    @classmethod
    def create(cls, folder: Path, *, name: str = "fedstyle federation", days: int = AUTHORITY_DAYS) -> Authority:
        """Make a new authority; raises OutputError where one stands already."""
        authority = cls(Path(folder))
        _absent(authority.certificate, authority._key)
        key = ec.generate_private_key(ec.SECP384R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        usage = _usage(key_cert_sign=True, crl_sign=True, digital_signature=True)
        builder = _certificate(subject, subject, key.public_key(), days)
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True).add_extension(usage, critical=True)
        signed = builder.sign(key, hashes.SHA384())
        write_bytes(authority._key, key.private_bytes(_PEM, serialization.PrivateFormat.PKCS8, _OPEN), private=True)
        write_bytes(authority.certificate, signed.public_bytes(_PEM))
        return authority

    def issue(self, folder: Path, hosts: Sequence[str], *, days: int = SERVER_DAYS) -> tuple[Path, Path]:
        """Make a SuperLink's key and certificate for these host names and addresses: `server.crt` and `server.key` in `folder`.

        Those that stand there are replaced, which is how a certificate is rotated: devices trust the authority and notice nothing.
        Raises FederationError where the authority's key is missing or damaged.
        """
        if not hosts:
            raise FederationError("a SuperLink's certificate needs the names or addresses that devices reach it by: give one or more")
        signer, issuer = self._load()
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, hosts[0][:64])])
        builder = _certificate(subject, issuer.subject, key.public_key(), days)
        builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        builder = builder.add_extension(_usage(digital_signature=True), critical=True)
        builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        builder = builder.add_extension(x509.SubjectAlternativeName([_host(host) for host in hosts]), critical=False)
        known = x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key())
        signed = builder.add_extension(known, critical=False).sign(signer, hashes.SHA384())
        certificate, private = Path(folder) / "server.crt", Path(folder) / "server.key"
        write_bytes(private, key.private_bytes(_PEM, serialization.PrivateFormat.PKCS8, _OPEN), private=True)
        write_bytes(certificate, signed.public_bytes(_PEM))
        return certificate, private

    def sign(self, message: bytes) -> bytes:
        """The authority's signature (ECDSA, SHA-384); raises FederationError where its key is not there: `checks` is the other half."""
        return self._load()[0].sign(message, ec.ECDSA(hashes.SHA384()))

    def _load(self) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
        try:
            signer = serialization.load_pem_private_key(self._key.read_bytes(), None)
            issuer = x509.load_pem_x509_certificate(self.certificate.read_bytes())
        except (OSError, ValueError):
            raise FederationError(
                f"{self.folder} holds no usable authority.key and authority.crt: create an authority first, or put them back for this"
            ) from None
        assert isinstance(signer, ec.EllipticCurvePrivateKey)
        return signer, issuer

    @property
    def _key(self) -> Path:
        return self.folder / "authority.key"


def checks(certificate: Path, signature: bytes, message: bytes) -> bool:
    """Whether the authority of this certificate signed the message; raises FederationError for a file that holds no certificate."""
    try:
        key = x509.load_pem_x509_certificate(certificate.read_bytes()).public_key()
    except (OSError, ValueError):
        key = None
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise FederationError(f"{certificate} holds no authority's certificate: ask the operator for it")
    try:
        key.verify(signature, message, ec.ECDSA(hashes.SHA384()))
    except InvalidSignature:
        return False
    return True


def make_device_key(path: Path) -> Path:
    """Make a device's key at `path` (OpenSSH, NIST P-384, as Flower's SuperNodes take them) and its public half beside it, `path`.pub.

    Gives the public file, which the operator registers; its second line is the public half of `signing_secret`. Raises OutputError where a
    key stands already: a device that changes its key is another device.
    """
    public = path.with_name(f"{path.name}.pub")
    _absent(path, public)
    key = ec.generate_private_key(ec.SECP384R1())
    write_bytes(path, key.private_bytes(_PEM, serialization.PrivateFormat.OpenSSH, _OPEN), private=True)
    signing = ed25519.Ed25519PrivateKey.from_private_bytes(signing_secret(path))
    lines = [one.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH) for one in (key, signing)]
    write_bytes(public, b"".join(line + b"\n" for line in lines))
    return public


def signing_secret(path: Path) -> bytes:
    """The Ed25519 secret with which a device signs, derived from its key (HKDF-SHA256, RFC 5869): it goes where that one goes.

    Raises FederationError for a file that holds no device's key.
    """
    try:
        key = serialization.load_ssh_private_key(path.read_bytes(), None)
    except (OSError, ValueError, TypeError):
        key = None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise FederationError(f"{path} holds no device's key: the device has left, or its key is elsewhere; create a new home")
    scalar = key.private_numbers().private_value.to_bytes(key.key_size // 8, "big")
    return HKDF(hashes.SHA256(), 32, None, b"fedstyle device signature 1").derive(scalar)


def verification_key(public: Path) -> bytes:
    """The public half of a device's `signing_secret`, 32 bytes, in its public file; raises FederationError where there is none."""
    try:
        key = serialization.load_ssh_public_key(public.read_bytes().splitlines()[1])
    except (OSError, ValueError, IndexError):
        key = None
    if not isinstance(key, ed25519.Ed25519PublicKey):
        raise FederationError(f"{public} has no second line with a key to sign secure sums with: the device has to create a new home")
    return key.public_bytes_raw()


def make_operator_key(path: Path) -> Path:
    """Make an operator's key at `path` (OpenSSH, Ed25519) and its public half beside it, `path`.pub, which every device gets.

    Gives the public file. Raises OutputError where a key stands already.
    """
    public = path.with_name(f"{path.name}.pub")
    _absent(path, public)
    key = ed25519.Ed25519PrivateKey.generate()
    write_bytes(path, key.private_bytes(_PEM, serialization.PrivateFormat.OpenSSH, _OPEN), private=True)
    line = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    write_bytes(public, line + b"\n")
    return public


def read_operator_key(path: Path) -> ed25519.Ed25519PrivateKey:
    """The operator's private key; raises FederationError for a file that holds none."""
    try:
        key = serialization.load_ssh_private_key(Path(path).read_bytes(), None)
    except (OSError, ValueError, TypeError):
        key = None
    if not isinstance(key, ed25519.Ed25519PrivateKey):
        raise FederationError(f"{path} holds no operator's key: make one with make_operator_key")
    return key


def read_operator(path: Path) -> ed25519.Ed25519PublicKey:
    """The public half of an operator's key; raises FederationError for a file that holds none."""
    try:
        key = serialization.load_ssh_public_key(Path(path).read_bytes())
    except (OSError, ValueError, TypeError):
        key = None
    if not isinstance(key, ed25519.Ed25519PublicKey):
        raise FederationError(f"{path} holds no operator's public key: ask the operator for it")
    return key


def expires(certificate: Path) -> datetime.datetime:
    """When a certificate ends, in UTC; raises FederationError for a file that holds none."""
    try:
        return x509.load_pem_x509_certificate(Path(certificate).read_bytes()).not_valid_after_utc
    except (OSError, ValueError):
        raise FederationError(f"{certificate} holds no certificate: issue one") from None


def _certificate(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, days: int) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key)
    builder = builder.serial_number(x509.random_serial_number()).not_valid_before(now - SKEW)
    builder = builder.not_valid_after(now + datetime.timedelta(days=days))
    return builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)


def _usage(**allowed: bool) -> x509.KeyUsage:
    every = ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "key_cert_sign")
    return x509.KeyUsage(**dict.fromkeys((*every, "crl_sign", "encipher_only", "decipher_only"), False) | allowed)


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _absent(*paths: Path) -> None:
    for path in paths:
        if path.exists():
            raise OutputError(f"{path} exists already and is not replaced: choose another folder, or remove it yourself")
