"""Sessions of payees: a token that says which account was authenticated, and until when.

JSON Web Tokens (RFC 7519, HS256) as SEP-10 asks for: issuer, subject, times, the challenge's hash.
Any API process of the operator reads them, because the secret follows from the log key. A token
lets its holder read; what moves money is signed by the account itself (`ledger.api.instructions`).
"""

import hashlib
import hmac
from dataclasses import dataclass, field
from typing import Any, Final

import jwt

from ledger.api.answers import RefusedError
from ledger.audit.address import format_account, parse_account
from ledger.evidence.errors import EvidenceError

SESSION_S: Final = 3_600
"""How long a token is taken."""

TOKEN_SIZE_MAX: Final = 2_048
_ALGORITHM: Final = "HS256"
_SECRET_DOMAIN: Final = b"swarmledger payee sessions v1\0"
_CLAIMS: Final = ["iss", "sub", "iat", "exp", "jti"]


@dataclass(frozen=True, slots=True)
class PayeeSessions:
    """Makes tokens and reads them."""

    issuer: str
    """URL of the authentication endpoint."""

    secret: bytes = field(repr=False)

    @classmethod
    def of(cls, issuer: str, log_seed: bytes) -> "PayeeSessions":
        """Return the sessions of an operator; the secret is derived from its log key's seed."""
        return cls(issuer, hmac.digest(log_seed, _SECRET_DOMAIN, hashlib.sha256))

    def make(self, account: bytes, *, challenge_hash: bytes, now_s: int) -> str:
        """Return a token for an account.

        Args:
            account: The authenticated account's key; 32 bytes.
            challenge_hash: SHA-256 of the signed challenge; the token's number.
            now_s: Unix seconds.
        """
        claims = {
            "iss": self.issuer,
            "sub": format_account(account),
            "iat": now_s,
            "exp": now_s + SESSION_S,
            "jti": challenge_hash.hex(),
        }
        return jwt.encode(claims, self.secret, algorithm=_ALGORITHM)

    def account_of(self, authorization: str | None) -> bytes:
        """Return the account of a request's `Authorization` header.

        Raises:
            RefusedError: 401, no token, a foreign one, or one that is over.
        """
        scheme, _, token = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not 0 < len(token) <= TOKEN_SIZE_MAX:
            raise _refuse("none" if not authorization else "another scheme")
        try:
            claims: dict[str, Any] = jwt.decode(
                token,
                self.secret,
                algorithms=[_ALGORITHM],
                issuer=self.issuer,
                options={"require": _CLAIMS},
            )
            return parse_account(str(claims["sub"]))
        except (jwt.InvalidTokenError, EvidenceError) as error:
            raise _refuse(type(error).__name__) from None


def _refuse(got: str) -> RefusedError:
    return RefusedError(
        401, "not_authenticated", field="authorization", got=got, want="Bearer and a token of /auth"
    )
