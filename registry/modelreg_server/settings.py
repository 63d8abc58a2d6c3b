"""The server's settings: built once in `cli`, passed down, read nowhere else. Every one is `MODELREG_<NAME>`."""

import ipaddress
from pathlib import Path
from typing import Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from modelreg.errors import Misconfigured


class Settings(BaseSettings):
    """Embedded default: SQLite and a directory below `data_dir`. Production: `database_url` and `s3_bucket`."""

    model_config = SettingsConfigDict(env_prefix="MODELREG_", frozen=True, extra="ignore")

    data_dir: Path = Field(description="Where the embedded database and blobs live.")
    database_url: str | None = Field(
        default=None, description="SQLAlchemy URL; `postgresql+psycopg://…` or none for SQLite below `data_dir`."
    )
    s3_bucket: str | None = Field(default=None, description="Bucket for blobs; none keeps them below `data_dir`.")
    s3_endpoint_url: str | None = Field(default=None, description="S3 endpoint; none for AWS.")
    s3_region: str = Field(default="us-east-1", description="S3 region to sign for.")
    s3_access_key_id: str | None = Field(default=None, description="S3 key id; none for boto3's own chain.")
    s3_secret_access_key: SecretStr | None = Field(default=None, description="S3 secret; none for boto3's own chain.")
    bytes_through_server: bool = Field(
        default=False, description="Send blob bytes through the server even where the store can presign."
    )
    trust_policy: Path | None = Field(
        default=None, description="The trust policy that publications must satisfy; without one nothing is published."
    )
    identities: Path | None = Field(
        default=None, description="File of the issuers whose tokens are exchanged; without one nobody logs in."
    )
    trust_from_repository: bool = Field(
        default=False,
        description="Take that policy, and revocations, from the trust repository published here instead.",
    )
    trust_root: Path | None = Field(
        default=None, description="The pinned first root (1.root.json) of that trust repository."
    )
    host: str = Field(default="127.0.0.1", description="Address to listen on.")
    port: int = Field(default=8470, ge=0, le=65535, description="Port to listen on; 0 picks a free one.")
    tls_certificate: Path | None = Field(default=None, description="PEM chain to serve HTTPS with.")
    tls_key: Path | None = Field(default=None, description="PEM key of that certificate.")
    behind_proxy: str | None = Field(
        default=None,
        description="Addresses or networks of the TLS proxies whose forwarded headers are believed, comma-separated.",
    )
    public_url: str | None = Field(
        default=None,
        description="The address clients are given; host signatures must be made for it. None takes the Host header.",
    )
    client_cert_header: bool = Field(
        default=False,
        description="Take a host's certificate from the Client-Cert header (RFC 9440) of the proxies in `behind_proxy`.",
    )
    workers: int = Field(
        default=1,
        ge=1,
        le=64,
        description="Processes that serve at once. Each has its own `threads` and that many database connections and 8 more.",
    )
    threads: int = Field(default=32, ge=2, le=512, description="Requests worked on at once by one process.")
    grant_seconds: int = Field(default=6 * 3600, ge=60, description="How long a grant can be used to fetch bytes.")
    presign_seconds: int = Field(default=60, ge=1, le=60, description="How long a presigned URL lives.")
    tsa_key: Path | None = Field(
        default=None, description="PEM key of the time-stamping authority; none runs none. `modelreg trust issue-tsa`."
    )
    tsa_key_password: SecretStr | None = Field(default=None, description="Password of that key, if it is encrypted.")
    tsa_certificate: Path | None = Field(default=None, description="Its PEM chain, leaf first.")
    tsa_policy: str = Field(
        default="2.25.222951370434238362622250944250020389592",
        pattern=r"^[0-2](\.(0|[1-9][0-9]*)){1,20}$",
        description="OID of the policy that its time stamps name.",
    )
    log_key: Path | None = Field(
        default=None, description="PEM key (Ed25519) of the custody log; none keeps one below `data_dir`."
    )
    log_origin: str | None = Field(
        default=None,
        pattern=r"^[\x21-\x2a\x2c-\x7e]{1,200}$",
        description="Name of the custody log in its checkpoints, such as registry.acme.example/log; fixed at the first start.",
    )
    witnesses: Path | None = Field(
        default=None,
        description="File of the witnesses that cosign checkpoints, `witness NAME VKEY URL` a line; none asks none.",
    )
    log_publish_seconds: float = Field(
        default=1.0, ge=0.05, le=600, description="How often new events are copied to the blob store."
    )
    log_publish_max_lag_seconds: int = Field(
        default=3600, ge=1, description="How long the blob store may fail to take them before grants are refused."
    )
    promotion_policy: Path | None = Field(
        default=None, description="The promotion policy; without one nothing is promoted. Read again each time."
    )
    permit_seconds: int = Field(
        default=900, ge=30, le=86400, description="How long a permit lives: how late a host may learn of a withdrawal."
    )
    publication_seconds: int = Field(default=7 * 86400, ge=60, description="How long an open publication can resume.")

    gate: Literal["refuse", "record"] = Field(
        default="refuse",
        description="What a blocking finding of the gate does to a publication: refuse it, or only record it.",
    )

    @field_validator("behind_proxy")
    @classmethod
    def _addresses_only(cls, value: str | None) -> str | None:
        """Whoever is listed may say who the client is: never everybody, and no name that somebody could take over."""
        if value is not None and not all(map(_is_address_or_network, value.split(","))):
            raise ValueError("write the proxies' addresses or networks, comma-separated, such as 10.0.0.5,10.1.0.0/24")
        return value

    @model_validator(mode="after")
    def _refuse_open_listener(self) -> Self:
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise Misconfigured("tls_certificate and tls_key go together; set both or neither")
        if (self.tsa_certificate is None) != (self.tsa_key is None):
            raise Misconfigured("tsa_certificate and tsa_key go together; set both or neither")
        if not (_is_loopback(self.host) or self.tls_certificate or self.behind_proxy):
            raise Misconfigured(
                f"refusing to listen on {self.host} without TLS: set tls_certificate and tls_key, or behind_proxy to "
                "the addresses of the proxies that terminate TLS",
                setting="MODELREG_HOST",
            )
        if self.client_cert_header and self.behind_proxy is None:
            raise Misconfigured(
                "client_cert_header believes whoever can send it: set behind_proxy to the addresses of the proxies that do",
                setting="MODELREG_CLIENT_CERT_HEADER",
            )
        public = urlsplit(self.public_url or "https://none")
        if public.scheme not in {"http", "https"} or not public.hostname or public.query or public.fragment:
            raise Misconfigured(
                "public_url is not an address; write https://host[:port]", setting="MODELREG_PUBLIC_URL"
            )
        if self.trust_from_repository and (self.trust_root is None or self.trust_policy is not None):
            raise Misconfigured(
                "trust_from_repository needs trust_root, and no trust_policy beside it: there is one policy or the other",
                setting="MODELREG_TRUST_FROM_REPOSITORY",
            )
        return self

    @property
    def resolved_database_url(self) -> str:
        """The URL to connect to."""
        return self.database_url or f"sqlite:///{self.data_dir / 'registry.sqlite3'}"


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _is_address_or_network(text: str) -> bool:
    try:
        return ipaddress.ip_network(text.strip()).prefixlen > 0
    except ValueError:
        return False
