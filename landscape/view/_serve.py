"""A live plane in the browser: a server for this machine's user alone, who has its address."""

import asyncio
import contextlib
import hmac
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

from landscape.checks import factory_of
from landscape.grid import Grid
from landscape.view._content import palettes
from landscape.view._html import html
from landscape.view._session import Session, check_live

HOST = "127.0.0.1"
LARGEST_REQUEST = 4096  # bytes of a message from the page
HEADERS = {
    "Cache-Control": "no-store",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


def serve(
    surface: Any,
    grid: Grid,
    *,
    port: int = 0,
    tolerance: Any = 0.01,
    store: Any = None,
    ready: Callable[[str], None] = print,
) -> None:
    """Serve a live plane at `127.0.0.1` until Ctrl-C.

    Only who knows the address, which has a random token in it, sees anything; requests under another host name, from
    pages of another origin, or by other methods than GET are refused.

    Args:
        surface: point function of two coordinates; of a subspace of three or more directions a plane is shown that can
            be turned within their span.
        grid: the first view, two axes of equal steps; every view has as many points.
        port: of the server; one that is free when 0.
        tolerance: as for `sweep`; None evaluates every point.
        store: folder in which the views are kept, and from which they are read again; a temporary one when None.
        ready: is called with the address once the server listens.

    Raises:
        TypeError: no point function, or no grid.
        ValueError: a grid without two axes of equal steps.
        OSError: the port is taken, or the folder cannot be written.
        ImportError: aiohttp is not installed.
    """
    num_axes = check_live(surface, grid)
    web = _library()
    if store is not None:
        Path(store).mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_serve(web, surface, grid, port, ready, num_axes=num_axes, tolerance=tolerance, store=store))


def _library() -> Any:
    try:
        from aiohttp import web
    except ImportError as error:
        raise ImportError("a live plane needs aiohttp: pip install 'loss-atlas[view]'") from error
    return web


async def _serve(web: Any, surface: Any, grid: Grid, port: int, ready: Any, **options: Any) -> None:
    loop, open_pages = asyncio.get_running_loop(), set()

    def publish(message: dict[str, Any]) -> None:
        with contextlib.suppress(RuntimeError):  # the server has ended
            loop.call_soon_threadsafe(lambda: [queue.put_nowait(message) for queue in open_pages])

    session = Session(surface, grid, publish, **options)
    runner = None
    try:
        token = secrets.token_urlsafe(24)
        app = web.Application(middlewares=[_guard(web, token)])
        app.add_routes(
            [
                web.get("/{token}/", _page(web, session), allow_head=False),
                web.get("/{token}/live", _live(web, session, open_pages), allow_head=False),
            ]
        )
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        await runner.setup()
        site = web.TCPSite(runner, HOST, port)
        await site.start()
        ready(f"http://{HOST}:{runner.addresses[0][1]}/{token}/")
        await asyncio.Event().wait()
    finally:
        if runner is not None:
            await runner.cleanup()
        await asyncio.to_thread(session.close)


def _guard(web: Any, token: str) -> Any:
    """Refuse what does not come from this machine's own page: other hosts (DNS rebinding), origins, methods, tokens."""

    @web.middleware
    async def guard(request: Any, handler: Any) -> Any:
        own = f"{HOST}:{request.transport.get_extra_info('sockname')[1]}"
        origin = request.headers.get("Origin")
        if request.method != "GET":
            raise web.HTTPMethodNotAllowed(request.method, ["GET"], headers=HEADERS)
        if request.headers.get("Host") != own or origin not in (None, f"http://{own}"):
            raise web.HTTPForbidden(headers=HEADERS)
        if not hmac.compare_digest(request.match_info.get("token", "").encode(), token.encode()):
            raise web.HTTPNotFound(headers=HEADERS)
        response = await handler(request)
        if not response.prepared:
            response.headers.update(HEADERS)
        return response

    return guard


def _page(web: Any, session: Session) -> Any:
    async def page(request: Any) -> Any:
        text = live_page(session, f"ws://{request.host}")
        return web.Response(text=text, content_type="text/html", charset="utf-8")

    return page


def live_content(session: Session) -> dict[str, Any]:
    """What a live page must know before the first picture."""
    return {
        "title": session.title,
        "output": None,
        "kind": "",
        "landscapes": [],
        "palette": palettes(),
        "view": session.first,
        "directions": session.num_axes,
        "draws": session.draws,
    }


def live_page(session: Session, address: str) -> str:
    """The page that asks its own server at this address, and nobody else."""
    return html(live_content(session), ["live.js", "connect.js"], address)


def _live(web: Any, session: Session, open_pages: set[Any]) -> Any:
    async def live(request: Any) -> Any:
        if request.headers.get("Origin") is None:  # every browser says whose script opens a socket
            raise web.HTTPForbidden(headers=HEADERS)
        socket = web.WebSocketResponse(max_msg_size=LARGEST_REQUEST, heartbeat=20)
        await socket.prepare(request)
        queue: asyncio.Queue[Any] = asyncio.Queue()
        open_pages.add(queue)
        sending = asyncio.create_task(_send(socket, queue))
        try:
            async for message in socket:
                with contextlib.suppress(ValueError):  # no JSON, no answer
                    asked = message.json()
                    if isinstance(asked, dict):
                        session.ask(asked)
        finally:
            open_pages.discard(queue)
            sending.cancel()
        return socket

    return live


async def _send(socket: Any, queue: asyncio.Queue[Any]) -> None:
    while not socket.closed:
        await socket.send_json(await queue.get())


def load_factory(target: str) -> tuple[Any, Grid]:
    """The point function and the grid that `module:factory` or `file.py:factory` makes.

    Raises:
        ValueError: no such file, module or factory, or it returns something else.
    """
    source, _, name = target.rpartition(":")
    if not source or not name:
        raise ValueError(f"give module:factory or file.py:factory, got {target!r}")
    made = factory_of(source, name)()
    if not isinstance(made, tuple) or len(made) != 2:
        raise ValueError(
            f"{name}() must return (surface, grid), a point function and a Grid, got {type(made).__name__}"
        )
    return made
