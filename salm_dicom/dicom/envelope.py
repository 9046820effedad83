"""CMS envelopes: bytes that only the holder of a private key can read.

The one module that needs the extra `recovery`. Content is encrypted with AES-256 in CBC mode, its
key with each recipient's RSA key; the content brings its own checksum (`recovery`).

References: RFC 5652 6 (Enveloped-data Content Type), RFC 3565 (AES in CMS).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from salm_dicom.errors import MismatchError, PlanError

try:
    from cryptography import x509
    from cryptography.exceptions import InvalidKey, UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey
    from cryptography.hazmat.primitives.ciphers.algorithms import AES256
    from cryptography.hazmat.primitives.serialization import (
        Encoding,
        load_pem_private_key,
        pkcs7,
    )
except ImportError as error:
    raise PlanError("envelopes need another package: pip install 'salm_dicom[recovery]'") from error

_FEWEST_BITS = 2048


@dataclass(frozen=True, slots=True)
class Key:
    """A private key, and the certificate that names it as a recipient."""

    private: RSAPrivateKey
    certificate: x509.Certificate


def recipients(pem: bytes) -> tuple[bytes, ...]:
    """Return the certificates of a PEM file, DER; whoever has the key of one can read the envelope.

    Raises
    ------
    PlanError
        There is none, or one has no RSA key of 2048 bits or more.
    """
    try:
        found = x509.load_pem_x509_certificates(pem)
        keys = [certificate.public_key() for certificate in found]
    except (ValueError, UnsupportedAlgorithm) as error:
        raise PlanError("the certificate cannot be read; a PEM file is needed") from error
    if not all(isinstance(key, RSAPublicKey) and key.key_size >= _FEWEST_BITS for key in keys):
        raise PlanError(f"a certificate has no RSA key of {_FEWEST_BITS} bits or more")
    return tuple(certificate.public_bytes(Encoding.DER) for certificate in found)


def read_key(pem: bytes, certificate: bytes, password: Callable[[], str]) -> Key:
    """Return a private key with its certificate, both PEM; they may come from one file.

    Parameters
    ----------
    password
        Asked only if the key is encrypted.

    Raises
    ------
    PlanError
        One of them cannot be read, or they do not belong together.
    """
    try:
        try:
            private = load_pem_private_key(pem, None)
        except TypeError:  # it is encrypted
            private = load_pem_private_key(pem, password().encode())
    except (TypeError, ValueError, UnsupportedAlgorithm) as error:
        raise PlanError("the private key cannot be read, or its password is another") from error
    if not isinstance(private, RSAPrivateKey):
        raise PlanError("the private key is no RSA key")
    for der in recipients(certificate):
        found = x509.load_der_x509_certificate(der)
        if found.public_key() == private.public_key():
            return Key(private, found)
    raise PlanError("the certificate is another key's; give the one that was used to protect")


def sealed(content: bytes, certificates: Sequence[bytes]) -> bytes:
    """Return the content in an envelope (DER) for the owners of these certificates (DER)."""
    builder = pkcs7.PKCS7EnvelopeBuilder().set_data(content)
    builder = builder.set_content_encryption_algorithm(AES256)
    for der in certificates:
        builder = builder.add_recipient(x509.load_der_x509_certificate(der))
    return builder.encrypt(Encoding.DER, [pkcs7.PKCS7Options.Binary])


def opened(envelope: bytes, key: Key) -> bytes:
    """Return the content of an envelope, which may be padded to an even length.

    Raises
    ------
    MismatchError
        The envelope is damaged, or not for this key.
    """
    try:
        return pkcs7.pkcs7_decrypt_der(_unpadded(envelope), key.certificate, key.private, [])
    except (ValueError, InvalidKey, UnsupportedAlgorithm) as error:
        raise MismatchError("an envelope cannot be opened with this key") from error


def _unpadded(der: bytes) -> bytes:
    """Return a DER value without what follows it (ITU-T X.690 8.1.3: length octets)."""
    long_form = der[1] & 0x7F if len(der) > 1 and der[1] & 0x80 else 0
    length = int.from_bytes(der[2 : 2 + long_form]) if long_form else len(der)
    return der[: 2 + long_form + length]
