"""Certificates for tests, made anew each time."""

import datetime
import ipaddress
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID


@dataclass(frozen=True)
class Pair:
    """PEM files of a certificate and its key."""

    certificate: Path
    key: Path


class Authority:
    """Signs certificates; its own is in `certificate`."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _name(name)
        ca = x509.BasicConstraints(ca=True, path_length=None)
        signed = _unsigned(name).public_key(self._key.public_key()).issuer_name(self._name).add_extension(ca, True)
        self.certificate = folder / f"{name}.pem"
        self.certificate.write_bytes(signed.sign(self._key, hashes.SHA256()).public_bytes(Encoding.PEM))

    def sign(self, name: str, *, valid: bool = True) -> Pair:
        """A certificate for a host name, or a number, or a client; one that is not valid has expired."""
        key = ec.generate_private_key(ec.SECP256R1())
        try:
            host: x509.GeneralName = x509.IPAddress(ipaddress.ip_address(name))
        except ValueError:
            host = x509.DNSName(name)
        unsigned = _unsigned(name, valid=valid).public_key(key.public_key()).issuer_name(self._name)
        signed = unsigned.add_extension(x509.SubjectAlternativeName([host]), False).sign(self._key, hashes.SHA256())
        pair = Pair(self._folder / f"{name}.pem", self._folder / f"{name}.key")
        pair.certificate.write_bytes(signed.public_bytes(Encoding.PEM))
        pair.key.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        return pair


def _name(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _unsigned(name: str, *, valid: bool = True) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    day = datetime.timedelta(days=1)
    end = now + day if valid else now - day
    builder = x509.CertificateBuilder().subject_name(_name(name)).serial_number(x509.random_serial_number())
    return builder.not_valid_before(now - 2 * day).not_valid_after(end)
