"""What a request can be answered with when it cannot be served.

FaceError         the base: an HTTP status and a sentence for the person
├── BadRequestError   400  a parameter is wrong
├── ForbiddenError    403  not for this caller
├── NotKnownError     404  no such content, session or segment
├── UnfitError        415  the content cannot be served in this form
├── BadGatewayError   502  what a URL led to is no torrent
└── BusyError         503  a limit of this engine is reached
"""

from typing import ClassVar

from engine_plugin.errors import EngineError


class FaceError(EngineError):
    """Why a request is not served; the message is shown to the caller."""

    status: ClassVar[int] = 500


class BadRequestError(FaceError):
    """A parameter is missing or malformed: field, got, want."""

    status = 400


class ForbiddenError(FaceError):
    """The caller may not ask this; the message does not say what would help an attacker."""

    status = 403


class NotKnownError(FaceError):
    """The content, session or segment is not known here."""

    status = 404


class UnfitError(FaceError):
    """The content is no media that can be served in the form asked for."""

    status = 415


class BadGatewayError(FaceError):
    """A URL could not be fetched, or led to something that is no torrent."""

    status = 502


class BusyError(FaceError):
    """Too many sessions, connections or contents; trying later may help."""

    status = 503
