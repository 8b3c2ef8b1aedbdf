"""Certificates and kubeconfig files of one cluster, all signed by an authority of its own that lives as long as it."""

from __future__ import annotations

import base64
import datetime as dt
import ipaddress
import json
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from kubelab import network

if TYPE_CHECKING:
    from pathlib import Path

VALID = dt.timedelta(days=30)


class Authority:
    """A certificate authority whose key and certificate are ``ca.key`` and ``ca.crt`` in ``folder``: read, or made there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.certificate_file = folder / "ca.crt"
        key_file = folder / "ca.key"
        if key_file.exists():
            self._key = serialization.load_pem_private_key(key_file.read_bytes(), None)
            self._name = x509.load_pem_x509_certificate(self.certificate_file.read_bytes()).subject
            return
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "tpnet-lab")])
        usage = x509.KeyUsage(
            digital_signature=True, key_cert_sign=True, crl_sign=True, content_commitment=False,
            key_encipherment=False, data_encipherment=False, key_agreement=False, encipher_only=False, decipher_only=False,
        )  # fmt: skip
        builder = self._builder(self._name, self._key.public_key())
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        write_key(key_file, self._key)
        signed = builder.add_extension(usage, critical=True).sign(self._key, hashes.SHA256())
        self.certificate_file.write_bytes(signed.public_bytes(serialization.Encoding.PEM))

    def issue(
        self, name: str, user: str, groups=(), hosts=(), days: float | None = None
    ) -> tuple[Path, Path]:
        """Files ``name.crt`` and ``name.key`` for a user of some groups, and, with ``hosts``, for a server of these.

        ``days`` is its life; less than 0 makes one that has expired.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        subject = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, group) for group in groups]
        subject.append(x509.NameAttribute(NameOID.COMMON_NAME, user))
        builder = self._builder(x509.Name(subject), key.public_key(), days)
        purposes = [ExtendedKeyUsageOID.CLIENT_AUTH, *([ExtendedKeyUsageOID.SERVER_AUTH] if hosts else [])]
        builder = builder.add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
        if hosts:
            builder = builder.add_extension(
                x509.SubjectAlternativeName([general(host) for host in hosts]), critical=False
            )
        certificate, key_file = self.folder / f"{name}.crt", self.folder / f"{name}.key"
        signed = builder.sign(self._key, hashes.SHA256())
        certificate.write_bytes(signed.public_bytes(serialization.Encoding.PEM))
        write_key(key_file, key)
        return certificate, key_file

    def _builder(self, subject, key, days=None):
        now = dt.datetime.now(dt.UTC)
        end = now + (VALID if days is None else dt.timedelta(days=days))
        return (
            x509.CertificateBuilder().subject_name(subject).issuer_name(self._name).public_key(key)
            .serial_number(x509.random_serial_number()).not_valid_before(min(now, end) - dt.timedelta(hours=1)).not_valid_after(end)
        )  # fmt: skip


def general(host: str) -> x509.GeneralName:
    """A host as it stands in a certificate."""
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def write_key(path: Path, key=None) -> None:
    """Write a private key, a new one if none is given, readable by root alone."""
    key = key or ec.generate_private_key(ec.SECP256R1())
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.touch(mode=0o600)
    path.write_bytes(pem)


def write_public(path: Path, private: Path) -> None:
    """Write the public half of a private key."""
    key = serialization.load_pem_private_key(private.read_bytes(), None).public_key()
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    path.write_bytes(key.public_bytes(serialization.Encoding.PEM, form))


def kubeconfig(
    path: Path,
    server: str,
    authority: Path,
    certificate: Path,
    key: Path,
    *,
    user: str,
    cluster: str,
    namespace="",
) -> Path:
    """Write a kubeconfig with everything inside, so that it can be copied anywhere; returns its path."""
    context = {"cluster": cluster, "user": user, **({"namespace": namespace} if namespace else {})}
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [
            {"name": cluster, "cluster": {"server": server, "certificate-authority-data": encoded(authority)}}
        ],
        "users": [
            {
                "name": user,
                "user": {"client-certificate-data": encoded(certificate), "client-key-data": encoded(key)},
            }
        ],
        "contexts": [{"name": cluster, "context": context}],
        "current-context": cluster,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(mode=0o600)
    path.write_text(json.dumps(config, indent=1))  # JSON is YAML
    return path


def encoded(path: Path) -> str:
    """A file in base64."""
    return base64.b64encode(path.read_bytes()).decode()


def cluster_certificates(folder: Path, nodes: dict[str, tuple[str, str]], port: int) -> None:
    """All that a cluster's own parts need, in ``folder``, and ``admin.conf`` for the tests' process.

    ``nodes`` has the addresses of each; ``port`` is the API server's on the computer's own loopback.
    """
    authority = Authority(folder)
    names = ["kubernetes", "kubernetes.default", "kubernetes.default.svc", "localhost"]
    addresses = ["127.0.0.1", network.KUBERNETES, network.CONTROL, network.CONTROL6]
    authority.issue("apiserver", "kube-apiserver", hosts=[*names, *addresses])
    authority.issue("apiserver-kubelet", "kube-apiserver-kubelet-client", ["system:masters"])
    write_key(folder / "accounts.key")
    write_public(folder / "accounts.pub", folder / "accounts.key")
    inside, local = f"https://{network.CONTROL}:{network.API_PORT}", f"https://127.0.0.1:{network.API_PORT}"
    clients = [
        ("admin", "lab-admin", ["system:masters"], f"https://127.0.0.1:{port}", ()),
        ("controllers", "system:kube-controller-manager", [], local, ()),
        ("scheduler", "system:kube-scheduler", [], local, ()),
        ("proxy", "system:kube-proxy", [], inside, ()),
    ]
    for node, hosts in nodes.items():
        clients.append((f"kubelet-{node}", f"system:node:{node}", ["system:nodes"], inside, (node, *hosts)))
    for name, user, groups, server, hosts in clients:
        pair = authority.issue(name, user, groups, hosts)
        path = folder / f"{name}.conf"
        kubeconfig(path, server, authority.certificate_file, *pair, user=user, cluster="lab")
