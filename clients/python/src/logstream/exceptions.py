"""The names that scripts know from `requests.exceptions`. `post` raises none of them."""

from __future__ import annotations


class RequestException(IOError):
    pass


class HTTPError(RequestException):
    pass


class ConnectionError(RequestException):
    pass


class Timeout(RequestException):
    pass
