"""The web page, as people on call use it: a real worker, broker and SQS server, and Chromium without a screen.

With ``UPDATE_SCREENSHOTS=1`` in the environment the pages are saved as the pictures of the documentation.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from browsers import chromium, replaced_page
from documents import ROOT, Shell

import servers
from balog_celery.events.mark import MARK
from balog_celery.tasks.naming import task_id
from sample_events import event_text

pytest.importorskip("starlette")

# A worker, the page and a browser start in the first test's setup.
pytestmark = pytest.mark.timeout(400)

TOPIC = "shop-orders-prod"
FLOWER = "http://flower.example:5555"
AXE = (Path(__file__).parents[1] / "data" / "axe" / "axe.min.js").read_text()
SECRET = "hunter2"

CONSUMERS = """
import os, time
from pathlib import Path
from balog_celery.consumers import consumer_config

TOPIC = "shop-orders-prod"
OPEN, DONE = Path("bank-is-open"), Path("charged")


@consumer_config(TOPIC, cls_type="order-placed")
def book_order(event):
    return "booked"


@consumer_config(TOPIC, cls_type="payment", rate_limit="100/s")
def charge_card(event):
    if not OPEN.exists():
        raise PermissionError(f"the bank declined order {event['payload']['order']}")
    with DONE.open("a") as file:
        file.write(event["header"]["id"] + "\\n")


@consumer_config(TOPIC, cls_type="slow")
def ship(event):
    while Path("road-is-closed").exists():
        time.sleep(0.05)
"""


class Desk:
    """A person on call, with the page open, beside a running shop."""

    def __init__(self, folder: Path, url: str, client: Any, browser: Any) -> None:
        self.folder = folder
        self.url = url
        self.client = client
        self.browser = browser
        self.queue = client.get_queue_url(QueueName=TOPIC)["QueueUrl"]
        self.dead_queue = client.get_queue_url(QueueName=f"{TOPIC}-dead")["QueueUrl"]

    def send(self, event_id: str, cls_type: str, **payload: Any) -> None:
        self.client.send_message(QueueUrl=self.queue, MessageBody=event_text(event_id, cls_type, **payload))

    def dead(self) -> tuple[int, int]:
        """How many dead letters are visible, and how many are not."""
        names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
        found = self.client.get_queue_attributes(QueueUrl=self.dead_queue, AttributeNames=names)["Attributes"]
        return int(found[names[0]]), int(found[names[1]])

    def forget_dead(self) -> None:
        """Delete all dead letters. SQS purges a queue once a minute at most."""
        while messages := self.client.receive_message(QueueUrl=self.dead_queue, MaxNumberOfMessages=10).get("Messages"):
            for message in messages:
                self.client.delete_message(QueueUrl=self.dead_queue, ReceiptHandle=message["ReceiptHandle"])

    def charged(self) -> list[str]:
        path = self.folder / "charged"
        return path.read_text().split() if path.exists() else []

    def screen(self, width: int, scheme: str) -> None:
        """Have a screen of that width, and that colour scheme."""
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        self.browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})

    def open(self, path: str) -> str:
        self.browser.get(self.url + path)
        return self.text

    @property
    def text(self) -> str:
        """The text of the page that is open, or that a click is about to open."""

        def body() -> list[str]:
            with replaced_page():
                return [str(self.browser.find_element("tag name", "body").text)]
            return []

        return servers.wait_until(body, 10, "the page")[0]

    def press(self, name: str, within: str = "main") -> str:
        """Press the button of that name, and wait for the page that it leads to."""
        return self._go(lambda: self.button(name, within))

    def find(self, xpath: str) -> list[Any]:
        return list(self.browser.find_elements("xpath", xpath))

    def go(self, xpath: str) -> str:
        """Press the element there, and wait for the page that it leads to."""
        return self._go(lambda: self.browser.find_element("xpath", xpath))

    def button(self, name: str, within: str = "main") -> Any:
        form = self.browser.find_element("css selector", within)
        return form.find_element("xpath", f".//button[normalize-space()='{name}']")

    def follow(self, name: str) -> str:
        return self._go(lambda: self.browser.find_element("partial link text", name))

    def _go(self, find: Callable[[], Any]) -> str:
        before = self.browser.find_element("tag name", "html")

        def is_clicked() -> bool:
            with replaced_page():
                find().click()
                return True
            return False

        def is_left() -> bool:
            with replaced_page():
                before.is_enabled()
                return False
            return True

        servers.wait_until(is_clicked, 10, "the click")
        servers.wait_until(is_left, 30, "the next page")
        return self.text

    def wait_for(self, *texts: str) -> str:
        """Wait until the page that is open shows all of *texts*, without doing anything."""

        def complete() -> str:
            shown = self.text
            return shown if all(text in shown for text in texts) else ""

        return servers.wait_until(complete, 30, f"{texts}")

    def picture(self, name: str) -> None:
        """Save the page for the documentation."""
        if os.environ.get("UPDATE_SCREENSHOTS") == "1":
            self.browser.save_screenshot(str(ROOT / "docs" / "images" / name))


@pytest.fixture(scope="module")
def desk(
    sqs_server: servers.Sqs, valkey_server: servers.Valkey, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Desk]:
    """A shop whose bank is closed, and its page."""
    sqs_server.reset()
    valkey_server.flush()
    folder = tmp_path_factory.mktemp("shop")
    (folder / "shop").mkdir()
    (folder / "shop" / "__init__.py").write_text("")
    (folder / "shop" / "consumers.py").write_text(CONSUMERS)
    (folder / "celeryconfig.py").write_text(
        f"broker_url = result_backend = {valkey_server.url!r}\nbalog_packages = ['shop']\n"
        "balog_wait_time = 1\nbalog_drain = 5\n"
    )
    port = servers.free_port()
    with closing(sqs_server.client()) as client, Shell(folder, sqs_server.env) as shell:
        client.create_queue(QueueName=TOPIC)
        client.create_queue(QueueName=f"{TOPIC}-dead")
        shell.start("celery -A balog_celery worker -n shop@worker-1 -c 2 -l INFO", ready="engine started")
        shell.start(
            f"celery -A balog_celery balog web --port {port} --interval 1 --flower {FLOWER}",
            ready="startup complete",
        )
        downloads = tmp_path_factory.mktemp("chromium")
        with chromium(downloads, 1440, 900) as browser:
            yield Desk(folder, f"http://127.0.0.1:{port}", client, browser)


@pytest.fixture
def declined(desk: Desk) -> list[str]:
    """The ids of three payments that the bank has declined, and that are the only dead letters."""
    (desk.folder / "bank-is-open").unlink(missing_ok=True)
    (desk.folder / "charged").unlink(missing_ok=True)
    desk.forget_dead()
    # A task that has succeeded once is never a failure to Celery's result backends.
    ids = [f"LG{uuid.uuid4().hex[:22]}" for _ in range(3)]
    for number, event_id in enumerate(ids, 1041):
        desk.send(event_id, "payment", order=number, card={"holder": "Ada", "password": SECRET})
    servers.wait_until(lambda: desk.dead() == (3, 0), 60, "the dead letters")
    desk.screen(1440, "light")
    return ids


def scan(desk: Desk) -> str:
    """Scan the dead-letter queues."""
    desk.open("/dead")
    return desk.press("Scan the queues")


PAGES = ["/", "/consumers", "/consumers?sample=payment", "/dead", "group", "one", "job", "/event?id=LG1", "/missing"]


@pytest.fixture(scope="module")
def pages(desk: Desk) -> dict[str, str]:
    """The paths of pages that have something to show."""
    for number, event_id in enumerate(("LGa", "LGb", "LGc"), 1):
        desk.send(event_id, "payment", order=number, card={"password": SECRET})
    desk.send("LGd", "order-placed")
    servers.wait_until(lambda: desk.dead() == (3, 0), 60, "the dead letters")
    scan(desk)
    paths = {path: path for path in PAGES}
    desk.follow("PermissionError")
    paths["group"] = desk.browser.current_url.removeprefix(desk.url)
    desk.follow("LGa")
    paths["one"] = desk.browser.current_url.removeprefix(desk.url)
    desk.press("Dry run")
    paths["job"] = desk.browser.current_url.removeprefix(desk.url)
    desk.wait_for("It has ended")
    return paths


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1440, 3840])
@pytest.mark.parametrize("page", PAGES)
def test_every_page_fits_and_is_accessible(
    desk: Desk, pages: dict[str, str], page: str, width: int, scheme: str
) -> None:
    """axe-core finds nothing serious (contrast is serious), and nothing is wider than the screen."""
    desk.screen(width, scheme)
    desk.open(pages[page])
    if page == "/":
        desk.wait_for("shop@worker-1")
    if page == "/consumers?sample=payment":
        desk.press("Explain")
    desk.browser.execute_script(AXE)
    found = desk.browser.execute_async_script("axe.run().then(arguments[arguments.length - 1])")
    serious = [one for one in found["violations"] if one["impact"] in ("serious", "critical")]
    assert [(one["id"], one["nodes"][0]["html"]) for one in serious] == []
    assert found["passes"]
    assert desk.browser.execute_script("return document.documentElement.scrollWidth") <= width
    if (width, scheme) == (1440, "light") and page in ("/", "one", "/consumers?sample=payment"):
        desk.picture(f"web-{ {'/': 'topics', 'one': 'dead-letter'}.get(page, 'consumers') }.png")
    if (width, scheme) == (390, "dark") and page == "/dead":
        desk.picture("web-dead-narrow.png")


def test_topics_are_shown_with_their_engines(desk: Desk, declined: list[str]) -> None:
    """Depth, dead letters, and what the engine of the worker does; the page renews itself."""
    desk.open("/")
    shown = desk.wait_for(TOPIC, "shop@worker-1", "Waiting", "In per second", "Lag, p95")
    assert "No engine" not in shown
    servers.wait_until(lambda: desk.text.split("Dead letters")[-1].split()[0] == "3", 30, "the dead letters")
    desk.forget_dead()
    servers.wait_until(lambda: desk.text.split("Dead letters")[-1].split()[0] == "0", 30, "the page to renew itself")


@pytest.mark.parametrize(("page", "name"), [("/", TOPIC), ("/consumers", "shop.consumers.book_order")])
def test_what_is_paused_waits_until_the_resume(desk: Desk, page: str, name: str) -> None:
    """A topic or a consumer, by its button; the worker's answer is shown, and so is the state."""
    row = f"//form[input[@value='{name}']]"
    # Given
    servers.wait_until(lambda: desk.open(page) and desk.find(row), 30, "the engine")
    # When
    assert f"shop@worker-1 paused {name}; paused: {name}" in desk.go(f"{row}/button[.='Pause']")
    # Then
    servers.wait_until(lambda: desk.open(page) and desk.find(f"{row}/button[.='Resume']"), 30, "the state")
    event_id = f"LG{uuid.uuid4().hex[:22]}"
    desk.send(event_id, "order-placed")
    task = task_id(event_id, "shop.consumers.book_order")
    assert task not in desk.open(f"/event?id={event_id}")
    # When
    desk.open(page)
    assert f"resumed {name}; paused: nothing" in desk.go(f"{row}/button[.='Resume']")
    # Then
    servers.wait_until(lambda: "SUCCESS" in desk.open(f"/event?id={event_id}"), 30, "the task")


def test_an_event_is_explained(desk: Desk) -> None:
    """A sample can be picked; each consumer has its reason, beside the decoded record."""
    shown = desk.open("/consumers")
    for text in ("shop.consumers.charge_card", "hand-off", "rate_limit=100/s"):
        assert text in shown
    desk.follow("order-placed")
    desk.press("Explain")
    shown = desk.wait_for("gets it shop.consumers.book_order")
    assert "not shop.consumers.charge_card" in shown
    assert "cls_type order-placed is not payment" in shown
    assert '"cls_type": "order-placed"' in shown.split("Decoded record")[1]


def test_what_cannot_be_decoded_is_explained(desk: Desk) -> None:
    """With the reason."""
    desk.open("/consumers")
    desk.browser.find_element("id", "body").send_keys("not json")
    assert "cannot be decoded" in desk.press("Explain")


def test_dead_letters_are_grouped_and_released(desk: Desk, declined: list[str]) -> None:
    """The same error of other orders is one; after the scan all are visible again."""
    shown = scan(desk)
    assert "3 dead letters" in shown
    assert "PermissionError: the bank declined order …" in shown
    assert desk.dead() == (3, 0)
    desk.follow("PermissionError")
    for event_id in declined:
        assert event_id in desk.text


def test_one_dead_letter_is_shown(desk: Desk, declined: list[str]) -> None:
    """With body, attributes, history and traceback, and without secrets."""
    scan(desk)
    desk.follow("PermissionError")
    desk.follow(declined[0])
    here = desk.browser.current_url.removeprefix(desk.url)
    # The result backend has the traceback after the dead letter was sent.
    servers.wait_until(lambda: "Traceback" in desk.open(here), 30, "the traceback")
    servers.wait_until(lambda: "Task failed by shop@worker-1" in desk.open(here), 30, "the steps of the task")
    shown = desk.text
    for text in ("the bank declined order 1041", '"holder": "Ada"', "First received", "in charge_card", TOPIC):
        assert text in shown
    assert SECRET not in desk.browser.page_source
    task = task_id(declined[0], "shop.consumers.charge_card")
    assert desk.browser.find_element("link text", task).get_attribute("href") == f"{FLOWER}/task/{task}"


def test_a_dry_run_changes_nothing(desk: Desk, declined: list[str]) -> None:
    """It says how many it would replay, and where to."""
    scan(desk)
    desk.follow("PermissionError")
    desk.press("Dry run")
    shown = desk.wait_for("It has ended")
    assert "Would replay 3 of 3" in shown
    assert "3 to shop.consumers.charge_card" in shown
    assert desk.dead() == (3, 0)


def test_some_dead_letters_are_replayed(desk: Desk, declined: list[str]) -> None:
    """Those that are selected, and no others."""
    (desk.folder / "bank-is-open").touch()
    scan(desk)
    desk.follow("PermissionError")
    for event_id in declined[:2]:
        desk.browser.find_element("css selector", f'[aria-label="Select {event_id}"]').click()
    desk.press("Replay", "form[aria-label='Selected dead letters']")
    desk.wait_for("Replayed 2 of 2", "It has ended")
    servers.wait_until(lambda: sorted(desk.charged()) == sorted(declined[:2]), 30, "the tasks")
    assert desk.dead() == (1, 0)
    assert "1 dead letter," in desk.open("/dead")


def test_a_group_is_replayed_at_a_rate(desk: Desk, declined: list[str]) -> None:
    """With progress, until somebody stops it; what was not sent stays in the queue."""
    (desk.folder / "bank-is-open").touch()
    scan(desk)
    desk.follow("PermissionError")
    desk.browser.find_element("id", "rate").send_keys("0.1")
    desk.press("Replay", "form[aria-label='The whole group']")
    desk.wait_for("Replayed 1 of 3", "It runs", "at most 0.10 per second")
    desk.press("Stop")
    desk.wait_for("It stopped: stopped by a user")
    servers.wait_until(lambda: desk.dead() == (2, 0), 30, "the others to be visible")
    assert len(desk.charged()) == 1


def test_dead_letters_are_exported(desk: Desk, declined: list[str]) -> None:
    """As a file that `balog replay` takes."""
    scan(desk)
    desk.follow("PermissionError")
    desk.button("Export", "form[aria-label='The whole group']").click()
    folder = Path(desk.browser.capabilities["chrome"]["userDataDir"]).parent
    (file,) = servers.wait_until(lambda: list(folder.glob("dead-letters*.jsonl")), 30, "the download")
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert sorted(json.loads(line["body"])["header"]["id"] for line in lines) == sorted(declined)
    assert {json.loads(line["balog_dead_letter"][MARK])["consumer"] for line in lines} == {"shop.consumers.charge_card"}
    assert desk.dead() == (3, 0)


def test_a_dead_letter_is_deleted_after_a_confirmation(desk: Desk, declined: list[str]) -> None:
    """And no other."""
    scan(desk)
    desk.follow("PermissionError")
    desk.follow(declined[0])
    assert "permanently" in desk.press("Delete…")
    assert desk.dead() == (3, 0)
    assert "Deleted 1" in desk.press("Delete 1")
    assert desk.dead() == (2, 0)


def test_an_events_story_is_told(desk: Desk, declined: list[str]) -> None:
    """The task that runs, with its worker; the failed one, with its dead letter; hyperlinks to Flower."""
    closed = desk.folder / "road-is-closed"
    closed.touch()
    try:
        desk.send("LGslow", "slow")

        def active() -> str:
            shown = desk.open("/event?id=LGslow")
            return shown if "active" in shown else ""

        assert "shop@worker-1" in servers.wait_until(active, 60, "the task")
        task = task_id("LGslow", "shop.consumers.ship")
        assert desk.browser.find_element("link text", task).get_attribute("href") == f"{FLOWER}/task/{task}"
    finally:
        closed.unlink()
    scan(desk)
    servers.wait_until(lambda: "FAILURE" in desk.open(f"/event?id={declined[0]}"), 30, "the failure")
    assert "shop.consumers.charge_card" in desk.browser.find_element("css selector", "section:last-of-type li").text


def test_causes_and_effects_of_an_event_are_shown(desk: Desk) -> None:
    """Given an event that names its cause, then each of both leads to the other, though both tasks have succeeded."""
    cause, effect = (f"LG{uuid.uuid4().hex[:22]}" for _ in range(2))
    desk.send(cause, "order-placed")
    event = json.loads(event_text(effect, "order-placed"))
    event["header"]["context"]["causation_id"] = cause
    desk.client.send_message(QueueUrl=desk.queue, MessageBody=json.dumps(event))
    servers.wait_until(lambda: effect in desk.open(f"/event?id={cause}"), 30, "the effect")
    assert "No cause is known." in desk.text
    desk.follow(effect)
    servers.wait_until(lambda: cause in desk.open(f"/event?id={effect}"), 30, "the cause")
    assert "No effect is known." in desk.text


def test_consumers_have_rates_failures_and_times(desk: Desk, declined: list[str]) -> None:
    """Failed and succeeded tasks of each consumer are counted, with the time that they took."""
    desk.send(f"LG{uuid.uuid4().hex[:22]}", "order-placed")

    def counted() -> bool:
        desk.open("/consumers")
        rows = desk.browser.find_elements("css selector", "section[aria-labelledby='all'] tbody tr")
        found = [
            {cell.get_attribute("data-label"): cell.text for cell in row.find_elements("css selector", "td")}
            for row in rows
        ]
        cells = {row["Task"].split()[0]: row for row in found}
        paid, booked = cells["shop.consumers.charge_card"], cells["shop.consumers.book_order"]
        return int(paid["Failed"]) >= 3 and int(booked["Succeeded"]) >= 1 and "s" in booked["Time, median (p95)"]

    servers.wait_until(counted, 30, "the numbers")


def test_everything_works_without_javascript(desk: Desk, declined: list[str]) -> None:
    """Scan, look, replay; the progress renews itself."""
    (desk.folder / "bank-is-open").touch()
    desk.browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        scan(desk)
        desk.follow("PermissionError")
        desk.press("Replay", "form[aria-label='The whole group']")
        desk.wait_for("Replayed 3 of 3", "It has ended")
    finally:
        desk.browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
    servers.wait_until(lambda: sorted(desk.charged()) == sorted(declined), 30, "the tasks")


def test_the_keyboard_suffices(desk: Desk, declined: list[str]) -> None:
    """The first key leads to the content, and buttons are reached and pressed by keys."""
    from selenium.webdriver.common.keys import Keys

    desk.open("/dead")
    body = desk.browser.find_element("tag name", "body")
    body.send_keys(Keys.TAB)
    assert desk.browser.switch_to.active_element.text == "Skip to content"
    for _ in range(20):
        desk.browser.switch_to.active_element.send_keys(Keys.TAB)
        if desk.browser.switch_to.active_element.text == "Scan the queues":
            break
    desk.browser.switch_to.active_element.send_keys(Keys.ENTER)
    desk.wait_for("3 dead letters")
