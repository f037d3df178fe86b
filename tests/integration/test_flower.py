"""Flower in a browser: a real worker, a real Flower, and headless Chromium.

With ``UPDATE_SCREENSHOTS=1`` in the environment the pages are saved as the pictures of the documentation.
"""

from __future__ import annotations

import contextlib
import os
import re
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import pytest
from browsers import chromium
from documents import ROOT, Shell, flower_env

import servers
from balog_celery.tasks.naming import task_id
from sample_events import event_text

# Flower, a worker and a browser start in the first test's setup.
pytestmark = pytest.mark.timeout(400)

CONSUMERS = """
from balog_celery.consumers import consumer_config

TOPIC = "shop-orders-prod"


@consumer_config(TOPIC, cls_type="order-placed")
def book_order(event):
    return f"order {event['payload']['order']}"


@consumer_config(TOPIC, cls_type="order-placed")
def notify_customer(event):
    return "sent"


@consumer_config(TOPIC, cls_type="payment")
def charge_card(event):
    raise PermissionError("the bank declined the card")
"""
TOPIC = "shop-orders-prod"
WORKER = "shop@worker-1"
ORDERS = ["LGk37Fo3xLLVx9GrfnyTuvBd", "LG2nWSrTQ9vjXyq0m5hYcB4e", "LG7wTzLkFaR3eVhq1NdXyG8s"]
PAYMENT = "LG4bTq6vWnRzPcXh9dKyJm2F"

#: The window's, in pixels.
WIDTH = 1280
#: Where a traceback's files are on this machine is not for a picture.
WITHOUT_PATHS = r"""
for (const code of document.querySelectorAll("pre code"))
    code.textContent = code.textContent.replace(/"[^"]*\/(celery|balog_celery|shop)\//g, '"$1/');
"""


class Site:
    """The pages of a Flower server."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"

    def get(self, path: str) -> str:
        """Return the page at *path*; empty until Flower serves it."""
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(self.url + path, timeout=10) as response:
                return str(response.read().decode())
        except OSError:
            return ""

    def counted(self, consumer: str, kind: str) -> float:
        """How many events of that kind Prometheus would read for a consumer."""
        labels = f'{{task="shop.consumers.{consumer}",type="{kind}",worker="{WORKER}"}}'
        found = re.search(rf"^flower_events_total{re.escape(labels)} (.*)$", self.get("/metrics"), re.MULTILINE)
        return float(found[1]) if found else 0.0


@pytest.fixture(scope="module")
def site(
    sqs_server: servers.Sqs, valkey_server: servers.Valkey, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Site]:
    """A Flower that has seen a worker do its work: two consumers that succeed, and one that fails."""
    sqs_server.reset()
    valkey_server.flush()
    folder = tmp_path_factory.mktemp("shop")
    (folder / "shop").mkdir()
    (folder / "shop" / "__init__.py").write_text("")
    (folder / "shop" / "consumers.py").write_text(CONSUMERS)
    (folder / "celeryconfig.py").write_text(
        f"broker_url = {valkey_server.url!r}\nbalog_packages = ['shop']\nbalog_wait_time = 1\nbalog_drain = 5\n"
    )
    port = servers.free_port()
    with closing(sqs_server.client()) as client, Shell(folder, {**sqs_server.env, **flower_env()}) as shell:
        url = client.create_queue(QueueName=TOPIC)["QueueUrl"]
        client.create_queue(QueueName=f"{TOPIC}-dead")
        columns = "name,uuid,state,args,received,runtime"
        shell.start(
            f"celery -A balog_celery flower --address=127.0.0.1 --port={port} --tasks_columns={columns} "
            "--logging=warning"
        )
        site = Site(port)
        servers.wait_until(lambda: site.get("/metrics"), 60, "Flower")
        shell.start(f"celery -A balog_celery worker -n {WORKER} -c 1 -l INFO", ready="engine started")
        servers.wait_until(lambda: f'flower_worker_online{{worker="{WORKER}"}} 1.0' in site.get("/metrics"), 60)
        for number, event_id in enumerate(ORDERS, 1041):
            client.send_message(QueueUrl=url, MessageBody=event_text(event_id, "order-placed", order=number))
        client.send_message(QueueUrl=url, MessageBody=event_text(PAYMENT, "payment"))
        servers.wait_until(lambda: site.counted("charge_card", "task-failed") == 1, 60, "the failure")
        for consumer in ("book_order", "notify_customer"):
            servers.wait_until(lambda: site.counted(consumer, "task-succeeded") == len(ORDERS), 60)  # noqa: B023
        yield site


Look = Callable[..., str]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Chromium, with a profile of its own."""
    with chromium(tmp_path_factory.mktemp("chromium"), WIDTH, 640) as browser:
        yield browser


@pytest.fixture
def look(browser: Any, site: Site) -> Look:
    """Opens a page, and returns its text as soon as all of *texts* are in it."""
    from selenium.common.exceptions import WebDriverException

    def text() -> str:
        return str(browser.find_element("tag name", "body").text)

    def look(path: str, *texts: str, tab: str | None = None, picture: str | None = None) -> str:
        def complete() -> str:
            shown = text()
            return shown if all(part in shown for part in texts) else ""

        for _ in range(10):
            browser.get(site.url + path)
            # Of a worker that was slow to answer it, Flower has no page for now.
            with contextlib.suppress(TimeoutError, WebDriverException):
                if tab is not None:
                    browser.find_element("id", tab).click()
                shown = servers.wait_until(complete, 6)
                break
        else:
            pytest.fail(f"{path} does not show all of {texts}:\n{text()}")
        if picture is not None and os.environ.get("UPDATE_SCREENSHOTS") == "1":
            browser.execute_script(WITHOUT_PATHS)
            # The window's height counts its frame as well, so this leaves a margin.
            height = browser.execute_script("return document.body.scrollHeight")
            browser.set_window_size(WIDTH, height + 150)
            browser.save_screenshot(str(ROOT / "docs" / "images" / picture))
        return shown

    return look


def test_the_tasks_page_shows_which_event_each_task_is_for(look: Look) -> None:
    """The tasks page shows the consumer, event id, cls_type, topic and state, but no content of the event."""
    shown = look("/tasks", *ORDERS, PAYMENT, "FAILURE", picture="flower-tasks.png")
    for consumer in ("book_order", "notify_customer", "charge_card"):
        assert f"shop.consumers.{consumer}" in shown
    for event_id in ORDERS:
        assert shown.count(f"<Event {event_id} cls_type=order-placed topic={TOPIC}>") == 2
    assert f"<Event {PAYMENT} cls_type=payment topic={TOPIC}>" in shown
    assert shown.count("SUCCESS") == 2 * len(ORDERS)
    assert "1041" not in shown


def test_a_failed_events_page_shows_why(look: Look, site: Site) -> None:
    """The page of a failed task has the exception and traceback, and the event's id."""
    failed = task_id(PAYMENT, "shop.consumers.charge_card")
    shown = look(f"/task/{failed}", "the bank declined the card", picture="flower-failure.png")
    assert "PermissionError" in shown
    assert "Traceback (most recent call last)" in shown
    assert "in charge_card" in shown
    assert f"<Event {PAYMENT} cls_type=payment topic={TOPIC}>" in shown


def test_the_workers_pages_show_its_consumers_and_the_engines_counters(look: Look) -> None:
    """The list shows the worker, and its page the consumers and the engine's counters."""
    look("/workers", "worker-1", "Online")
    shown = look(f"/worker/{WORKER}", "shop.consumers.charge_card", tab="worker-tab-tasks")
    assert "shop.consumers.book_order" in shown
    assert "shop.consumers.notify_customer" in shown
    counted = ("'received': 4", "'dispatched': 7", "'deleted': 4")
    look(f"/worker/{WORKER}", TOPIC, *counted, tab="worker-tab-other", picture="flower-worker.png")


def test_prometheus_reads_each_consumers_counters(site: Site) -> None:
    """Flower's exporter reports events and run times for each consumer."""
    for consumer in ("book_order", "notify_customer"):
        assert site.counted(consumer, "task-received") == len(ORDERS)
        assert site.counted(consumer, "task-succeeded") == len(ORDERS)
        assert site.counted(consumer, "task-failed") == 0
    assert site.counted("charge_card", "task-failed") == 1
    labels = f'{{task="shop.consumers.book_order",worker="{WORKER}"}}'
    assert f"flower_task_runtime_seconds_count{labels} {float(len(ORDERS))}" in site.get("/metrics")
