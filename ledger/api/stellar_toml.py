"""The domain's `stellar.toml` (SEP-1), as wallets of any origin read it.

    GET /.well-known/stellar.toml  text, with `Access-Control-Allow-Origin: *`

The broadcaster's part is a file that `swarmledger broadcaster init` made, read anew for every
answer. In front of it stands what only the API knows: where payees sign in and with which key it
answers them (SEP-10), unless the file says so itself.
"""

import json
import tomllib
from pathlib import Path
from typing import Final

from fastapi import FastAPI
from fastapi.responses import Response

from ledger.api.answers import RefusedError
from ledger.audit.address import format_account
from ledger.evidence.keys import public_key_of
from ledger.stellar.web_auth import WebAuth

STELLAR_TOML_PATH: Final = "/.well-known/stellar.toml"

STELLAR_TOML_SIZE_MAX: Final = 100 * 1024
"""Most bytes that SEP-1 lets a client read."""


def add_stellar_toml(app: FastAPI, path: Path | None, web_auth: WebAuth | None) -> None:
    """Serve `stellar.toml` at its place, if there is anything to say."""
    if path is None and web_auth is None:
        return

    @app.get(STELLAR_TOML_PATH, include_in_schema=False)
    def stellar_toml() -> Response:
        """The file as it is now, with the API's own part in front."""
        text = ""
        if path is not None:
            try:
                text = path.read_text("utf-8")
                said = tomllib.loads(text)
            except (OSError, ValueError) as error:
                raise RefusedError(
                    503, "unavailable", field="stellar.toml", got=error, want="a file of SEP-1"
                ) from None
        else:
            said = {}
        own = {} if web_auth is None else _own_part(web_auth)
        lines = [f"{name} = {json.dumps(own[name])}\n" for name in own if name not in said]
        return Response(
            "".join(lines) + text,
            media_type="text/plain; charset=utf-8",
            headers={"Access-Control-Allow-Origin": "*", "Cache-Control": "max-age=60"},
        )


def _own_part(web_auth: WebAuth) -> dict[str, str]:
    return {
        "NETWORK_PASSPHRASE": web_auth.passphrase,
        "SIGNING_KEY": format_account(public_key_of(web_auth.seed)),
        "WEB_AUTH_ENDPOINT": f"https://{web_auth.web_auth_domain}/auth",
    }
