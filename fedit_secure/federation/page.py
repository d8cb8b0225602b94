"""Where a daemon shows its page: a part of silo.yaml and aggregator.yaml."""

from __future__ import annotations

import ipaddress
from typing import Self

from pydantic import model_validator

from fedit_secure.federation.document import Address, Line, Part


class PageConfig(Part):
    """The daemon's read-only page and metrics. They have no log-in, so `public` has to say
    that other machines may reach them; `hosts` are its names there, beside addresses.
    """

    listen: Address
    public: bool = False
    hosts: tuple[Line, ...] = ()

    @model_validator(mode="after")
    def _meant(self) -> Self:
        host = self.listen.rpartition(":")[0].strip("[]")
        try:
            here = ipaddress.ip_address(host).is_loopback
        except ValueError:
            here = host == "localhost"
        if not here and not self.public:
            raise ValueError(
                f"would be seen from other machines on {self.listen}, and it has no "
                "log-in: listen on 127.0.0.1, or say 'public: true'"
            )
        return self
