"""`deepfake-client web`: the page and the REST interface."""

import click

from .connection import Connection, connection_options

_RETRIES = 3
"""A visitor is not kept for the minute in which a server may restart."""


@click.command()
@connection_options
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on; others need a --token.")
@click.option("--port", default=8080, show_default=True, type=click.IntRange(0, 65535), help="Port to listen on.")
@click.option(
    "--name", "names", multiple=True, metavar="NAME", help="A further host name by which the page may be called."
)
@click.option(
    "--token",
    envvar="DEEPFAKE_CLIENT_WEB_TOKEN",
    show_envvar=True,
    help="Asked of every visitor: /?token=… for the page, Authorization: Bearer … for REST. At least 16 characters.",
)
@click.option(
    "--max-upload", default=256, show_default=True, type=click.IntRange(1, 4096), metavar="MIB", help="Of one request."
)
@click.option(
    "--links-from",
    "origins",
    multiple=True,
    metavar="ORIGIN",
    help="Follow links to files of this origin, such as https://uploads.example.org. Repeatable; without it, of none.",
)
@click.option(
    "--timeout",
    default=120.0,
    show_default=True,
    type=click.FloatRange(0, min_open=True),
    metavar="SECONDS",
    help="Deadline of one request to the server.",
)
def web(
    connection: Connection,
    host: str,
    port: int,
    names: tuple[str, ...],
    token: str | None,
    max_upload: int,
    origins: tuple[str, ...],
    timeout: float,
) -> None:
    """Show a page to drop photographs and videos on, with a REST interface at /v1; see /docs there.

    Nothing that visitors send is kept. The page is for this machine alone unless --host says otherwise, and then it
    needs a token; put a proxy with TLS before it.
    """
    try:
        import uvicorn

        from ..web.app import LOOPBACK, create_app
        from ..web.guard import is_loopback
        from ..web.links import Origin
    except ImportError as error:
        raise click.ClickException(f"the page needs packages: pip install 'deepfake-client[web]' ({error})") from error
    if token is not None and len(token) < 16:
        raise click.BadParameter("it must have at least 16 characters", param_hint="--token")
    if not is_loopback(host) and token is None:
        raise click.UsageError(f"--host {host} can be reached from other machines: give a --token.")
    try:
        links_from = tuple(map(Origin.of, origins))
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--links-from") from None
    client = connection.make_client(timeout=timeout, retries=_RETRIES)
    app = create_app(
        client, hosts=LOOPBACK | {host, *names}, max_upload=max_upload << 20, token=token, links_from=links_from
    )
    shown = f"[{host}]" if ":" in host else host
    click.echo(
        f"page: http://{shown}:{port}/{'?token=…' if token else ''}   REST: http://{shown}:{port}/docs", err=True
    )
    uvicorn.run(app, host=host, port=port, log_level="warning", access_log=False, server_header=False)
