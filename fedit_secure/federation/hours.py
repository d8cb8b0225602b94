"""The hours in which a silo begins to tune, by the clock on its own wall.

They spare a machine that is needed by day. They are no part of any guarantee: what was
begun in them goes on after they end.
"""

from __future__ import annotations

from datetime import UTC, datetime, time, timedelta
from typing import Annotated, Any, Self
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, model_validator

from fedit_secure.federation.document import CLOCK_TIME, Line, Part


def _written(value: Any) -> Any:
    # YAML 1.1 takes 20:00 without quotes for the number 1200, in base 60.
    if not isinstance(value, str):
        raise ValueError('must be a time in quotes, like "20:00"')  # noqa: TRY004
    return value


def _known(zone: str) -> str:
    try:
        ZoneInfo(zone)
    except (KeyError, ValueError, OSError):
        raise ValueError(
            "must be a time zone that this machine knows, like Europe/Berlin"
        ) from None
    return zone


ClockTime = Annotated[str, BeforeValidator(_written), Field(pattern=CLOCK_TIME)]


class Hours(Part):
    """From `start` on and before `until`, "HH:MM" in the time zone `zone`.

    Where `until` is earlier than `start`, midnight lies between them. In a file `start`
    is called `from`.
    """

    model_config = ConfigDict(serialize_by_alias=True)

    start: Annotated[ClockTime, Field(alias="from")]
    until: ClockTime
    zone: Annotated[Line, AfterValidator(_known)]

    @model_validator(mode="after")
    def _some_hours_but_not_all(self) -> Self:
        if self.start == self.until:
            raise ValueError(
                "from and until are the same; leave hours out to allow every hour"
            )
        return self

    def seconds_until(self, now: float) -> float:
        """Seconds from `now` (since 1970, UTC) until tuning may begin; 0 if it may.

        On the night that clocks go forward it may be an hour too many where `start` is
        skipped: ask again on the way.
        """
        moment = datetime.fromtimestamp(now, UTC)
        here = moment.astimezone(ZoneInfo(self.zone))
        start, until = time.fromisoformat(self.start), time.fromisoformat(self.until)
        clock = here.time()
        begun, over = clock >= start, clock >= until
        overnight = until < start
        if (begun or not over) if overnight else (begun and not over):
            return 0.0
        day = here.date() + timedelta(days=1 if begun else 0)
        begins = datetime.combine(day, start, here.tzinfo)
        return max(1.0, (begins - moment).total_seconds())

    def __str__(self) -> str:
        return f"from {self.start} until {self.until} {self.zone}"
