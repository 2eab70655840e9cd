"""The limits: an echo, and a handler that only reads a body, with aiohttp and nothing else.

As one writes it who reads the documentation: uvloop, no access log, the answer in one piece.
"""

import sys

import uvloop
from aiohttp import web


async def echo(request):
    """The body back, unread by anybody."""
    return web.Response(body=await request.read(), content_type="application/json")


async def length(request):
    """The body's length."""
    return web.Response(text=str(len(await request.read())))


def main():
    port, work, limit = int(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    application = web.Application(client_max_size=limit)
    application.router.add_post("/", {"echo": echo, "length": length}[work])
    loop = uvloop.new_event_loop()
    web.run_app(application, host="127.0.0.1", port=port, loop=loop, access_log=None, print=None)


if __name__ == "__main__":
    main()
