"""What a client is told when its request cannot be answered: OpenAI's error shape, typed by whose turn it is.

Types: invalid_request_error (mend the request), authentication_error and permission_error (another token),
rate_limit_error and server_busy (the same again later), model_unavailable and server_error (ours to mend).
"""

from obliviate_serve.api import ErrorBody

RETRY_AFTER_S = 1  # what a client is asked to wait where nothing better is known


class ApiError(Exception):
    """Crosses process borders, so its arguments are plain values. `retry_after_s` becomes the header Retry-After."""

    def __init__(
        self,
        status: int,
        message: str,
        type_: str = "invalid_request_error",
        param: str | None = None,
        code: str | None = None,
        retry_after_s: int | None = None,
    ) -> None:
        super().__init__(status, message, type_, param, code, retry_after_s)
        self.status, self.message, self.type = status, message, type_
        self.param, self.code, self.retry_after_s = param, code, retry_after_s

    def __str__(self) -> str:
        return self.message

    @property
    def body(self) -> ErrorBody:
        return ErrorBody(message=self.message, type=self.type, param=self.param, code=self.code)


class EngineDiedError(Exception):
    """The engine behind a replica is gone; another replica, or this one started again, can answer."""


def failed(what: str, error: BaseException) -> ApiError:
    """Of a mistake that is nobody's but ours; whoever calls this has written it to the log."""
    message = f"{what} failed with {type(error).__name__}; the server's log says more"
    return ApiError(500, message, "server_error", code="model_failed")


def busy(message: str) -> ApiError:
    return ApiError(429, message, "rate_limit_error", code="rate_limit_exceeded", retry_after_s=RETRY_AFTER_S)


def unavailable(message: str, *, retry_after_s: int = 10) -> ApiError:
    return ApiError(503, message, "model_unavailable", code="model_unavailable", retry_after_s=retry_after_s)
