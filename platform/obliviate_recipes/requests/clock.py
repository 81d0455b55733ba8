"""When a request is due: so many months after it was received, as deadlines in law are counted."""

import calendar
from datetime import UTC, datetime, timedelta


def due(received: datetime, months: int) -> datetime:
    """The same day and time `months` later; the month's last day where it has none (Regulation (EEC) 1182/71, Article
    3(2)(c))."""
    month = received.month - 1 + months
    year, month = received.year + month // 12, month % 12 + 1
    return received.replace(year=year, month=month, day=min(received.day, calendar.monthrange(year, month)[1]))


def due_s(received_s: float, months: int) -> datetime:
    return due(datetime.fromtimestamp(received_s, UTC), months)


def left(until: datetime, now: datetime) -> str:
    """In words."""
    days = (until - now) / timedelta(days=1)
    if days < 0:
        return f"overdue by {_days(-days)}"
    return f"due in {_days(days)}"


def _days(days: float) -> str:
    whole = int(days)
    return "less than a day" if whole == 0 else f"{whole} day{'' if whole == 1 else 's'}"
