"""The certificates of one test, as files: those of its own CA, and one of a stranger."""

from dataclasses import dataclass, field
from pathlib import Path

import trustme


@dataclass
class Certificates:
    """Issued on demand by one CA; that of the client `stranger` by another one."""

    folder: Path
    ca: trustme.CA = field(default_factory=trustme.CA)

    @property
    def ca_file(self) -> Path:
        path = self.folder / "ca.pem"
        self.ca.cert_pem.write_to_path(path)
        return path

    @property
    def other_ca_file(self) -> Path:
        path = self.folder / "other.pem"
        trustme.CA().cert_pem.write_to_path(path)
        return path

    def of_server(self, host: str) -> tuple[Path, Path]:
        """The certificate and the key of a server."""
        return self._written(host, self.ca.issue_cert(host))

    def of_client(self, name: str) -> tuple[Path, Path]:
        """The certificate and the key of a client, which is called `name`."""
        issuer = trustme.CA() if name == "stranger" else self.ca
        return self._written(name, issuer.issue_cert(f"{name}@example.com", common_name=name))

    def _written(self, name: str, issued: trustme.LeafCert) -> tuple[Path, Path]:
        certificate, key = self.folder / f"{name}.pem", self.folder / f"{name}.key"
        certificate.write_bytes(b"".join(each.bytes() for each in issued.cert_chain_pems))
        issued.private_key_pem.write_to_path(key)
        return certificate, key
