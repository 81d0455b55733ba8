"""The part of a request config that says where the ledger lies and what is told of it.

Whoever only reads the ledger needs no more: what methods, metrics and attacks there are takes a second to load.
"""

from datetime import datetime
from typing import Any

from pydantic import ConfigDict, Field, field_validator, model_validator

from obliviate.config_file import RunSpec
from obliviate.schema import FilePath, Spec
from obliviate_recipes.requests.clock import due_s


class CertificateSpec(Spec):
    """What certificates say of who issues them. They are published: no names of data subjects belong here."""

    issuer: str | None = None  # organisation, and whom to write to
    case: str | None = None  # the issuer's reference
    legal_basis: str | None = None  # for example: Regulation (EU) 2016/679, Article 17(1)(b)
    complaints: str | None = None  # where whoever was refused may complain; GDPR, Article 12(4)
    months: int = Field(default=1, ge=1, le=3)  # from receipt to answer; GDPR, Article 12(3): one
    extended_months: int = Field(default=3, ge=1, le=12)  # of a request that was extended; there: two further ones
    timestamp: str | None = None  # URL of a time stamping authority (RFC 3161), which dates each certificate

    def due(self, received_s: float, *, extended: bool) -> datetime:
        return due_s(received_s, self.extended_months if extended else self.months)

    @field_validator("timestamp")
    @classmethod
    def _is_a_url(cls, url: str | None) -> str | None:
        if url is not None and not url.startswith(("http://", "https://")):
            raise ValueError(f"{url!r} is no URL; give http://... or https://...")
        return url

    @model_validator(mode="after")
    def _extension_is_longer(self) -> "CertificateSpec":
        if self.extended_months < self.months:
            raise ValueError(f"extended_months: {self.extended_months} is shorter than months, {self.months}")
        return self


class LedgerSpec(RunSpec):
    ledger: str  # path of a SQLite file, or postgresql://...
    alias: str = Field(default="production", pattern="^[^$]")  # the name that the server follows
    aliases: FilePath = "aliases.json"  # the file with what names stand for
    runs: str = "runs"  # folder of all runs, or a URL (s3://bucket/runs)
    certificates: CertificateSpec = CertificateSpec()


class ToRead(LedgerSpec):
    """The rest of the file is left unread."""

    model_config = ConfigDict(extra="ignore")

    model: Any = None

    @property
    def first_model(self) -> str:
        """What the alias stands for before its first request."""
        return str(self.model["source"] if isinstance(self.model, dict) and "source" in self.model else self.model)
