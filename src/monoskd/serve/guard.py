"""What every answer carries, and which requests are refused before anything is read: for all routes at once."""

from collections.abc import Collection
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Cache-Control": "no-store",
}
LOOPBACK = ("localhost", "127.0.0.1", "::1")


class Guard:
    """Adds the headers, and refuses what other web sites send through a visitor's browser.

    hosts: names under which the server may be asked, None for any. A page of another site that makes its own name
    point to this machine asks under that name.
    """

    def __init__(self, app: ASGIApp, hosts: Collection[str] | None) -> None:
        self.app, self.hosts = app, hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        refusal = self._refusal(Headers(scope=scope))
        answer = self.app if refusal is None else JSONResponse({"detail": refusal}, 403)
        await answer(scope, receive, send_with_headers)

    def _refusal(self, headers: Headers) -> str | None:
        if headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
            return "request: expected one of this page, got one of another site: open the page itself"
        if self.hosts is None:
            return None
        try:
            host = urlsplit(f"//{headers.get('host', '')}").hostname
        except ValueError:
            host = None
        if host not in self.hosts:
            return f"host: expected {' or '.join(self.hosts)}, got '{(host or '')[:60]}': serve with --host to allow it"
        return None
