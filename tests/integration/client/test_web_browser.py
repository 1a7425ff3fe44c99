"""The page in a real headless Chromium, with the real server behind it: what a visitor does, sees and is spared."""

import json
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from tests.conftest import Server, free_ports
from tests.golden import GOLDEN
from tests.videos import write_video

pytest.importorskip("fastapi", reason="needs pip install './client[web]'")
pytest.importorskip("selenium", reason="needs pip install selenium")
BROWSER, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = [
    pytest.mark.server,
    pytest.mark.slow,
    pytest.mark.skipif(not (BROWSER and DRIVER), reason="needs Debian's packages chromium and chromium-driver"),
]

FACE = GOLDEN / "images" / "01_face_close.png"
SECONDS = 120
FLAGS = (
    "--headless=new --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
    " --disable-component-update --disable-sync --disable-dev-shm-usage"
)


class Page:
    """A started page, and a browser on it."""

    def __init__(self, address: str, browser: Any, downloads: Path) -> None:
        self.address, self.browser, self.downloads = address, browser, downloads

    def open(self, path: str = "/") -> None:
        self.browser.get(self.address + path)

    def all(self, selector: str) -> list[Any]:
        return self.browser.find_elements("css selector", selector)

    def one(self, selector: str) -> Any:
        (found,) = self.all(selector)
        return found

    def wait(self, condition: Callable[[], Any]) -> Any:
        deadline = time.monotonic() + SECONDS
        while not (value := condition()):
            assert time.monotonic() < deadline, self.browser.page_source[-3000:]
            time.sleep(0.1)
        return value

    def look(self, *files: Path) -> None:
        """Chooses files and waits for their verdicts."""
        before = len(self.all("#results article"))
        self.one("#file").send_keys("\n".join(map(str, files)))
        self.one("form button").click()
        self.wait(lambda: len(self.all("#results article")) == before + len(files))

    def drop(self, name: str, data: bytes) -> None:
        """Drops a file, as a hand does with a mouse."""
        self.browser.execute_script(
            "const bytes = new Uint8Array(arguments[1]), carried = new DataTransfer();"
            "carried.items.add(new File([bytes], arguments[0]));"
            "document.getElementById('drop').dispatchEvent("
            "new DragEvent('drop', {dataTransfer: carried, bubbles: true, cancelable: true}));",
            name,
            list(data),
        )

    def complaints(self) -> list[str]:
        """What the browser says against the page: scripts that were refused, files that are missing."""
        return [entry["message"] for entry in self.browser.get_log("browser")]

    def requested(self) -> set[str]:
        """Hosts that the browser asked for anything."""
        messages = [json.loads(entry["message"])["message"] for entry in self.browser.get_log("performance")]
        urls = [each["params"]["request"]["url"] for each in messages if each["method"] == "Network.requestWillBeSent"]
        return {url.split("/")[2] for url in urls if url.startswith("http")}


@pytest.fixture(scope="module")
def uploads() -> Iterator[str]:
    """A host of files, whose links are followed: its origin."""
    host = ThreadingHTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=FACE.parent))
    Thread(target=host.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{host.server_address[1]}"
    host.shutdown()
    host.server_close()


@pytest.fixture(scope="module")
def address(server: Server, uploads: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    yield from run_web(server.url, tmp_path_factory.mktemp("web") / "log", "--links-from", uploads)


def run_web(url: str, log: Path, *options: str) -> Iterator[str]:
    """A running `deepfake-client web`: its address."""
    (port,) = free_ports(1)
    command = [sys.executable, "-m", "deepfake_client", "web", "--url", url, "--port", str(port), "--max-upload", "20"]
    command += options
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
    address = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + SECONDS
        while True:
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            try:
                urllib.request.urlopen(f"{address}/static/page.css").close()
                break
            except OSError:
                time.sleep(0.2)
        yield address
    finally:
        process.terminate()
        process.wait(120)


@pytest.fixture(scope="module")
def browsing(address: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    yield from run_browser(address, tmp_path_factory.mktemp("browser"))


@pytest.fixture
def page(browsing: Page) -> Page:
    """The page as a visitor finds it, in the module's browser."""
    browsing.complaints(), browsing.requested()
    browsing.open()
    return browsing


def run_browser(address: str, folder: Path) -> Iterator[Page]:
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER or ""
    for flag in (*FLAGS.split(), f"--user-data-dir={folder / 'profile'}", "--window-size=1200,1000"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    options.add_experimental_option("prefs", {"download.default_directory": str(folder)})
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    try:
        page = Page(address, browser, folder)
        page.open()
        yield page
    finally:
        browser.quit()


def test_a_photograph_gets_its_verdict_and_nobody_else_is_asked(page: Page) -> None:
    assert "UNTRAINED" in page.one(".notice").text.upper()
    page.one("#faces").click()
    page.look(FACE)
    article = page.one("#results article")
    assert article.find_element("css selector", ".verdict").text in ("Probably fake", "Probably real", "Undecided")
    assert "/ 5 = " in article.text
    page.wait(lambda: page.all(".preview .box"))
    for action, selector in (("explain", ".more .maps img"), ("stability", ".more .maps img")):
        before = len(page.all(selector))
        page.one(f"button[data-action={action}]").click()
        page.wait(lambda selector=selector, before=before: len(page.all(selector)) > before)
    assert "What would change the verdict" in article.text
    assert "degraded copies" in article.text
    assert page.complaints() == []
    assert page.requested() == {page.address.removeprefix("http://")}


def test_dropped_files_bad_ones_among_them(page: Page) -> None:
    name = "<img src=x onerror=document.title='hacked'>.png"
    page.drop(name, FACE.read_bytes())
    page.wait(lambda: len(page.all("#results article")) == 1)
    assert name in page.one("#results .name").text
    page.drop("broken.jpg", b"\xff\xd8 no picture <script>document.title='hacked'</script>")
    page.wait(lambda: len(page.all("#results article")) == 2)
    assert "Not scored" in page.all("#results article")[0].text
    page.browser.execute_script(
        "const carried = new DataTransfer(); carried.items.add(new File([new Uint8Array(21 << 20)], 'large.png'));"
        "document.dispatchEvent(new DragEvent('drop', {dataTransfer: carried, bubbles: true, cancelable: true}));"
    )
    page.wait(lambda: len(page.all("#results article")) == 3)
    assert "20 MiB" in page.all("#results article")[0].text
    assert page.browser.title == "Deepfake detector"
    assert (
        page.browser.execute_script("return document.querySelectorAll('#results script, #results [onerror]').length")
        == 0
    )


def test_a_link_to_an_upload(page: Page, uploads: str) -> None:
    page.one("#link").send_keys(f"{uploads}/{FACE.name}")
    page.one("form button").click()
    page.wait(lambda: page.all(".preview img"))
    assert page.one("#results .name").text == FACE.name
    page.one("#link").clear()
    page.one("#link").send_keys(f"{page.address}/secret.png")
    page.one("form button").click()
    page.wait(lambda: len(page.all("#results article")) == 2)
    assert "not followed here" in page.all("#results article")[0].text
    assert page.requested() == {page.address.removeprefix("http://")}  # the browser itself asks nobody else


def test_a_video_shows_its_timeline(page: Page, tmp_path: Path) -> None:
    import cv2

    picture = cv2.cvtColor(cv2.imread(str(FACE)), cv2.COLOR_BGR2RGB)
    page.look(write_video(tmp_path / "clip.mp4", [picture] * 10, fps=5))
    timeline = page.wait(lambda: page.all("img.timeline"))[0]
    page.wait(lambda: page.browser.execute_script("return arguments[0].naturalWidth", timeline) > 0)
    assert page.complaints() == []


def test_the_evidence_is_saved(page: Page) -> None:
    page.look(FACE)
    page.one("button[data-action=evidence]").click()
    page.wait(lambda: (page.downloads / "evidence.zip").exists())


def test_a_phone_with_a_keyboard_in_the_dark(page: Page) -> None:
    page.browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": True}
    )
    dark = {"features": [{"name": "prefers-color-scheme", "value": "dark"}]}
    page.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", dark)
    page.open()
    page.look(FACE)
    focused = page.browser.execute_script("return document.activeElement.className")
    assert "verdict" in focused  # a screen reader reads it, and the keyboard goes on from there
    page.browser.switch_to.active_element.send_keys("\ue004")
    reached = page.browser.switch_to.active_element
    assert reached.get_attribute("data-action") == "explain"
    reached.send_keys("\ue007")
    page.wait(lambda: page.all(".more .maps img"))
    script = "return [document.documentElement.scrollWidth, getComputedStyle(document.body).backgroundColor]"
    width, ground = page.browser.execute_script(script)
    assert width <= 390
    assert ground == "rgb(20, 22, 26)"
    names = page.browser.execute_script(
        "return [...document.querySelectorAll('img,button,input,meter')].filter(e => e.type !== 'hidden')"
        ".filter(e => !(e.alt || e.textContent.trim() || e.labels?.length || e.getAttribute('aria-label'))).length"
    )
    assert names == 0


def test_a_server_that_is_down_is_told(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    for running in run_web(f"127.0.0.1:{port}", tmp_path / "log"):
        for page in run_browser(running, tmp_path):
            assert "does not answer" in page.one(".notice").text
            page.look(FACE)
            assert "no server answers" in page.one("#results article").text
            assert page.one(".verdict").text == "Not scored"
