"""What a client is told when its request cannot be answered: OpenAI's error shape, typed by whose turn it is.

Types: invalid_request_error (mend the request), authentication_error and permission_error (another token),
rate_limit_error and server_busy (the same again later), model_unavailable and server_error (ours to mend).
"""

import re

from obliviate_serve.api import ErrorBody

UNAVAILABLE_S = 10  # that a client is asked to wait for a model that starts again, or is loaded
RETRY_AFTER_S = 1  # what a client is asked to wait where nothing better is known


class ApiError(Exception):
    """Crosses process borders, so its arguments are plain values. `retry_after_s` becomes the header Retry-After;
    `reason` is for the server's log alone: it may say where things lie."""

    def __init__(
        self,
        status: int,
        message: str,
        type_: str = "invalid_request_error",
        param: str | None = None,
        code: str | None = None,
        retry_after_s: int | None = None,
        reason: str | None = None,
    ) -> None:
        super().__init__(status, message, type_, param, code, retry_after_s, reason)
        self.status, self.message, self.type = status, message, type_
        self.param, self.code, self.retry_after_s, self.reason = param, code, retry_after_s, reason

    def __str__(self) -> str:
        return self.message

    @property
    def body(self) -> ErrorBody:
        return ErrorBody(message=self.message, type=self.type, param=self.param, code=self.code)


class EngineDiedError(Exception):
    """The engine behind a replica is gone; another replica, or this one started again, can answer."""


def cause(message: str) -> str:
    """The last error of a message of Ray's with tracebacks in it, in one line."""
    lines = [line.strip() for line in message.splitlines() if re.match(r"\s*[\w.]*(Error|Exception)\b.*: ", line)]
    return lines[-1] if lines else message.strip().partition("\n")[0]


def failed(what: str, error: BaseException) -> ApiError:
    """Of a mistake that is nobody's but ours; whoever calls this has written it to the log."""
    message = f"{what} failed with {type(error).__name__}; the server's log says more"
    return ApiError(500, message, "server_error", code="model_failed")


def busy(message: str) -> ApiError:
    return ApiError(429, message, "rate_limit_error", code="rate_limit_exceeded", retry_after_s=RETRY_AFTER_S)


def unavailable(message: str, *, reason: str | None = None) -> ApiError:
    code = "model_unavailable"
    return ApiError(503, message, code, code=code, retry_after_s=UNAVAILABLE_S, reason=reason)
