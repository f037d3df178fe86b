"""The guards of the web page: hosts, users, roles, tokens, headers, and what is logged."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery

from balog_celery import install
from balog_celery.consumers import consumer_config
from balog_celery.errors import ConfigurationError
from sample_events import event_text
from scripted_sqs.observed import ObservedQueue

pytest.importorskip("starlette")

from starlette.testclient import TestClient

from balog_celery.web.access import read_access
from balog_celery.web.server import create_app

SECRET = "hunter2-in-the-body"
ERROR = "ValueError('no order 17')"
ROUTES = ["/", "/consumers", "/dead", "/event", "/event?id=LG1"]


@consumer_config("events", "metrics")
def first(event: Any) -> None: ...


TEXT = event_text("LG1", password=SECRET)
#: How a dead letter of the first consumer is marked.
MARK = {"reason": "failed", "topic": "events", "consumer": f"{__name__}.first", "error": ERROR}


def open_page(app: Celery, host: str = "127.0.0.1", client: str = "127.0.0.1", **options: Any) -> TestClient:
    """A browser at the address *client* for the page with these options of ``balog web``."""
    given: dict[str, Any] = {"auth": (), "roles": (), "proxies": ("127.0.0.1",), "read_only": False, **options}
    read_only = given.pop("read_only")
    access = read_access(given["auth"], given["roles"], given["proxies"], host, read_only=read_only)
    return TestClient(
        create_app(app, access, interval=600),
        base_url="http://127.0.0.1:5577",
        follow_redirects=False,
        client=(client, 50_000),
    )


@pytest.fixture
def queues() -> dict[str, ObservedQueue]:
    dead = ObservedQueue("events-dead")
    dead.put(TEXT, attributes=MARK)
    return {"events": ObservedQueue("events"), "events-dead": dead}


@pytest.fixture
def app(queues: dict[str, ObservedQueue]) -> Iterator[Celery]:
    """An app with one consumer, whose dead-letter queue holds one event with a secret."""
    app = Celery("web", broker="memory://", set_as_current=False)
    install(app, packages=[__name__])
    app.loader.import_default_modules()
    app.balog.connect = queues.__getitem__
    # No worker answers. The memory transport is not for several threads that ask at the same time.
    nobody: dict[str, Any] = {"active": dict, "reserved": dict, "scheduled": dict}
    app.control = SimpleNamespace(broadcast=lambda *_, **__: [], inspect=lambda **_: SimpleNamespace(**nobody))
    yield app
    app.close()


def token_in(text: str) -> str:
    found = re.search(r'name="token" value="([^"]+)"', text)
    assert found
    return found[1]


def scan(browser: TestClient, **headers: str) -> Any:
    """Press the button that scans."""
    token = token_in(browser.get("/consumers", headers=headers).text)
    return browser.post("/dead/scan", data={"token": token}, headers=headers)


@pytest.mark.parametrize("host", ["0.0.0.0", "10.0.0.5", "::", "example.org", "128.0.0.1"])
def test_other_machines_are_refused_without_authentication(host: str) -> None:
    """The error names the ways out."""
    with pytest.raises(ConfigurationError, match="--auth or --read-only"):
        read_access((), (), (), host, read_only=False)
    read_access((), (), (), host, read_only=True)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "[::1]", "localhost"])
def test_this_machine_needs_no_authentication(app: Celery, host: str) -> None:
    """Its users are operators."""
    with open_page(app, host) as browser:
        assert "operator" in browser.get("/").text


@pytest.mark.parametrize("path", [*ROUTES, "/static/style.css", "/missing", "/dead/groups/x", "/jobs/7"])
def test_every_answer_has_the_security_headers(app: Celery, path: str) -> None:
    """Errors and files too; the policy allows no inline script or style, and no page has one."""
    with open_page(app) as browser:
        answer = browser.get(path)
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "same-origin"
    assert not re.search(r"<script(?![^>]*\bsrc=)|\sstyle=|<style|\son\w+=|javascript:", answer.text)
    assert not re.search(r"(?:src|href)=\"(?:https?:)?//", answer.text)


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", ""])
def test_another_host_is_refused(app: Celery, host: str) -> None:
    """So that no other site's name can be made to lead here."""
    with open_page(app) as browser:
        assert browser.get("/", headers={"host": host}).status_code == 400


@pytest.mark.parametrize("host", ["localhost:1", "127.0.0.1:5577", "[::1]:5577"])
def test_the_loopback_names_are_served(app: Celery, host: str) -> None:
    """With any port: it may be forwarded."""
    with open_page(app) as browser:
        assert browser.get("/", headers={"host": host}).status_code == 200


ACTIONS = [
    ("/dead/scan", {}),
    ("/dead/actions", {"action": "replay"}),
    ("/dead/actions", {"action": "drop", "confirmed": "yes"}),
    ("/dead/actions", {"action": "export"}),
    ("/jobs/1/stop", {}),
    ("/pauses", {"action": "pause", "name": "events"}),
    ("/consumers", {"body": "{}"}),
]


@pytest.mark.parametrize(("path", "form"), ACTIONS)
@pytest.mark.parametrize("token", [None, "", "x", "of another browser", "without a cookie"])
def test_every_form_needs_its_token(app: Celery, path: str, form: dict[str, str], token: str | None) -> None:
    """One that was made for another browser does not do."""
    with open_page(app) as browser, open_page(app) as other:
        if token == "of another browser":
            token = token_in(other.get("/consumers").text)
        own = token_in(browser.get("/consumers").text)
        if token == "without a cookie":
            token = own
            browser.cookies.clear()
        answer = browser.post(path, data={**form, **({} if token is None else {"token": token})})
    assert answer.status_code == 403
    assert "Load the page again" in answer.text


def test_a_token_of_another_user_is_refused(app: Celery) -> None:
    """Though the browser is the same."""
    with open_page(app, auth=["header:X-User"], roles=["operator"]) as browser:
        token = token_in(browser.get("/consumers", headers={"x-user": "ana"}).text)
        answer = browser.post("/dead/scan", data={"token": token}, headers={"x-user": "bob"})
        assert answer.status_code == 403
        assert browser.post("/dead/scan", data={"token": token}, headers={"x-user": "ana"}).status_code == 303


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://127.0.0.1.evil.example"])
def test_a_form_of_another_site_is_refused(app: Celery, origin: str) -> None:
    """Even with a token."""
    with open_page(app) as browser:
        token = token_in(browser.get("/consumers").text)
        assert browser.post("/dead/scan", data={"token": token}, headers={"origin": origin}).status_code == 403


def test_the_cookie_is_strict(app: Celery) -> None:
    """Scripts cannot read it, and other sites' requests do not carry it."""
    with open_page(app) as browser:
        cookie = browser.get("/").headers["set-cookie"].lower()
    assert "samesite=strict" in cookie
    assert "httponly" in cookie


def test_requests_are_bounded(app: Celery) -> None:
    """By size, by method, and by telling their size."""
    with open_page(app) as browser:
        assert browser.post("/consumers", content=b"x" * 3_000_000).status_code == 413
        assert browser.post("/consumers", content=iter([b"x"])).status_code == 413
        assert browser.put("/consumers").status_code == 405


def test_a_password_is_asked_for(app: Celery, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Of several users, from a variable or a file."""
    monkeypatch.setenv("WEB_PASSWORD", "s3cret:ü")
    (tmp_path / "bob").write_text("other\n")
    auth = ["basic:ana:env:WEB_PASSWORD", f"basic:bob:file:{tmp_path / 'bob'}"]
    with open_page(app, "10.0.0.5", auth=auth, roles=["ana=operator"]) as browser:
        refused = browser.get("/")
        assert refused.status_code == 401
        assert refused.headers["www-authenticate"].startswith("Basic")
        assert "operator" in browser.get("/", auth=("ana", "s3cret:ü")).text
        assert "viewer" in browser.get("/", auth=("bob", "other")).text
        for wrong in (("ana", "other"), ("bob", "s3cret:ü"), ("eve", ""), ("", ""), ("ana", "")):
            assert browser.get("/", auth=wrong).status_code == 401
        for header in ("Basic", "Basic !", "Basic //79", "Bearer x", "Basic YQ=="):
            assert browser.get("/", headers={"authorization": header}).status_code == 401
        assert browser.get("/static/style.css").status_code == 401


@pytest.mark.parametrize(
    ("auth", "says"),
    [
        ("basic:ana:hunter2", "could be read by other users"),
        ("basic:ana:env:MISSING_VARIABLE", "MISSING_VARIABLE holds no password"),
        ("basic:ana:file:/missing/file", "cannot be read"),
        ("no.such:module", "cannot be imported"),
        ("logging:INFO", "cannot be called"),
    ],
)
def test_a_wrong_way_is_refused_at_start(auth: str, says: str) -> None:
    """With the way out, and without a password."""
    with pytest.raises(ConfigurationError, match=says) as caught:
        read_access([auth], (), (), "127.0.0.1", read_only=False)
    assert "holds no password" not in says or "hunter2" not in str(caught.value)


def test_a_proxys_header_is_trusted_from_the_proxy_only(app: Celery, caplog: pytest.LogCaptureFixture) -> None:
    """Anyone else could write any name."""
    header = {"x-user": "ana"}
    with open_page(app, auth=["header:X-User"], proxies=["127.0.0.1"]) as browser:
        assert "ana" in browser.get("/", headers=header).text
        assert browser.get("/").status_code == 403
    assert "--trusted-proxy" not in caplog.text
    with open_page(app, auth=["header:X-User"], proxies=["10.9.9.9"]) as browser:
        for _ in range(2):
            assert browser.get("/", headers=header).status_code == 403
    assert caplog.text.count("127.0.0.1 sent the header X-User, and is no --trusted-proxy") == 1
    assert "ana" not in caplog.text


@pytest.mark.parametrize(
    ("proxy", "client", "is_trusted"),
    [
        ("10.0.0.0/8", "10.1.2.3", True),
        ("10.0.0.0/8", "11.1.2.3", False),
        ("127.0.0.1/8", "127.9.9.9", True),
        ("10.1.2.3", "::ffff:10.1.2.3", True),
        ("::ffff:10.1.2.3", "10.1.2.3", True),
        ("::ffff:10.0.0.0/104", "::ffff:10.1.2.3", True),
        ("::/0", "::ffff:10.1.2.3", True),
        ("::/0", "10.1.2.3", False),
        ("fd00::/8", "fd12::1", True),
        ("[fd12::1]", "fd12::1", True),
        ("fe80::/10", "fe80::1%eth0", True),
        ("0:0:0:0:0:0:0:1", "::1", True),
        ("10.0.0.0/8", "testclient", False),
    ],
)
def test_a_proxy_is_an_address_or_a_network(app: Celery, proxy: str, client: str, is_trusted: bool) -> None:
    """Of either version, however it is written."""
    with open_page(app, client=client, auth=["header:X-User"], proxies=[proxy]) as browser:
        assert (browser.get("/", headers={"x-user": "ana"}).status_code == 200) is is_trusted


@pytest.mark.parametrize("proxy", ["bogus", "", "10.0.0.0/33", "10.0.0.256", "10.0.0.1:80", "proxy.example.com"])
@pytest.mark.parametrize("auth", [(), ("header:X-User",)])
def test_another_proxy_is_refused_at_start(proxy: str, auth: tuple[str, ...]) -> None:
    """No request could come from it."""
    with pytest.raises(ConfigurationError, match=rf"^--trusted-proxy '{proxy}' is no address: give one such as 10"):
        read_access(auth, (), (proxy,), "127.0.0.1", read_only=False)


def by_query(request: Any) -> Any:
    """What an app may give as --auth."""
    name = request.query_params.get("as")
    return (name, "reader") if name == "rae" else name


def test_a_callable_authenticates(app: Celery) -> None:
    """It returns a name, a name and a role, or None."""
    with open_page(app, auth=[f"{__name__}:by_query"], roles=["operator"]) as browser:
        assert browser.get("/").status_code == 403
        assert "operator" in browser.get("/?as=ana").text
        assert "reader" in browser.get("/?as=rae").text


Viewing = Callable[..., Any]


def dead_pages(text: str) -> list[str]:
    return re.findall(r'"(/dead/(?:groups|messages)/[^"]+)"', text)


def test_a_viewer_sees_no_event(app: Celery) -> None:
    """Groups and counts only, also after a reader has scanned."""
    users = {"auth": ["header:X-User"], "roles": ["rae=reader"]}
    viewer, reader = {"x-user": "vic"}, {"x-user": "rae"}
    with open_page(app, **users) as browser:
        assert scan(browser, **{"X-User": "vic"}).status_code == 403
        assert scan(browser, **{"X-User": "rae"}).status_code == 303
        (group,) = dead_pages(browser.get("/dead", headers=reader).text)
        (message,) = dead_pages(browser.get(group, headers=reader).text)
        assert "LG1" in browser.get(message, headers=reader).text
        shown = browser.get("/dead", headers=viewer).text
        assert "ValueError: no order …" in shown
        assert "17" not in re.sub(r"<svg.*?</svg>|value=\"[^\"]*\"", "", shown)
        assert browser.get(group, headers=viewer).status_code == 403
        assert browser.get(message, headers=viewer).status_code == 403
        assert message not in browser.get("/event?id=LG1", headers=viewer).text
        # A search must not answer what is in a body, either.
        assert "Nothing matches" in browser.get(f"/dead?q={SECRET}", headers=viewer).text


ODD = "a\u202eb\x1bc\x00d\u2066e"


def test_no_sender_reorders_or_hides_what_a_page_shows(app: Celery, queues: dict[str, ObservedQueue]) -> None:
    """Control and bidi characters are escaped everywhere, as on the command line; line breaks are kept."""
    dead = queues["events-dead"]
    dead.put(event_text(ODD, cls_type=f"t{ODD}", note=f"x{ODD}\ny"), attributes={**MARK, "error": f"E({ODD})"})
    dead.put(f"no JSON {ODD}\nsecond line", attributes={**MARK, "reason": "undecodable", "error": "odd"})
    with open_page(app) as browser:
        scan(browser)
        groups = dead_pages(browser.get("/dead").text)
        pages = ["/dead", *groups, *(page for group in groups for page in dead_pages(browser.get(group).text))]
        texts = [browser.get(page).text for page in pages]
        texts.append(browser.post("/consumers", data={"token": token_in(texts[0]), "body": event_text(ODD)}).text)
    for text in texts:
        assert not set(ODD) - set("abcde") & set(text)
    assert any("no JSON a\\u202eb\\x1bc\\x00d\\u2066e\nsecond line" in text for text in texts)
    assert any("<dd>ta\\u202eb" in text for text in texts)


def test_secrets_are_masked_everywhere(app: Celery) -> None:
    """In the body and its record; the names of the fields stay."""
    with open_page(app) as browser:
        scan(browser)
        (group,) = dead_pages(browser.get("/dead").text)
        (message,) = dead_pages(browser.get(group).text)
        shown = browser.get(message).text
        assert "password" in shown
        assert SECRET not in shown
        form = {"token": token_in(shown), "body": TEXT}
        answer = browser.post("/consumers", data=form).text
        assert SECRET not in re.sub(r"<textarea.*?</textarea>", "", answer, flags=re.DOTALL)


@pytest.mark.parametrize(("options", "role"), [({"read_only": True}, "reader"), ({"roles": ["reader"]}, "reader")])
@pytest.mark.parametrize("action", ["replay", "dry-run", "drop"])
def test_only_operators_act(
    app: Celery, queues: dict[str, ObservedQueue], options: dict[str, Any], role: str, action: str
) -> None:
    """Others get 403, see no button, and nothing is sent or deleted."""
    with open_page(app, **options) as browser:
        scan(browser)
        (group,) = dead_pages(browser.get("/dead").text)
        page = browser.get(group).text
        assert f'value="{action}"' not in page
        form = {"token": token_in(page), "group": group.rpartition("/")[2], "action": action, "confirmed": "yes"}
        answer = browser.post("/dead/actions", data=form)
    assert answer.status_code == 403
    assert f"yours is {role}" in answer.text
    assert queues["events-dead"].deleted == []


@pytest.mark.parametrize(
    ("options", "form", "status"),
    [
        ({"read_only": True}, {"action": "pause", "name": "events"}, 403),
        ({}, {"action": "pause", "name": "another"}, 400),
        ({}, {"action": "delete", "name": "events"}, 400),
    ],
)
def test_only_operators_pause_what_there_is(
    app: Celery, options: dict[str, Any], form: dict[str, str], status: int
) -> None:
    """Nobody else asks the workers for anything."""
    with open_page(app, **options) as browser:
        page = browser.get("/consumers").text
        assert ('value="pause"' in page) == (not options)
        answer = browser.post("/pauses", data={"token": token_in(page), **form})
    assert answer.status_code == status


def test_a_pause_that_no_worker_has_heard_is_no_pause(app: Celery) -> None:
    """The page says so."""
    with open_page(app) as browser:
        form = {"token": token_in(browser.get("/consumers").text), "action": "pause", "name": "events"}
        assert "No worker has answered, so nothing is paused" in browser.post("/pauses", data=form).text


def test_read_only_beyond_this_machine_shows_no_event(app: Celery) -> None:
    """Without authentication, everybody is a viewer there."""
    with open_page(app, "10.0.0.5", read_only=True) as browser:
        assert scan(browser).status_code == 403


def test_actions_are_logged_without_contents(app: Celery, caplog: pytest.LogCaptureFixture) -> None:
    """One line each: who, from where, what. A name cannot forge a line."""
    with (
        caplog.at_level(logging.INFO, "balog_celery.web.security"),
        open_page(app, auth=["header:X-User"], roles=["operator"]) as browser,
    ):
        user = {"x-user": "ana"}
        scan(browser, **user)
        (group,) = dead_pages(browser.get("/dead", headers=user).text)
        page = browser.get(group, headers=user).text
        (message,) = dead_pages(page)
        browser.get(message, headers=user)
        form = {"token": token_in(page), "group": group.rpartition("/")[2]}
        for action in ("export", "drop"):
            browser.post("/dead/actions", data={**form, "action": action, "confirmed": "yes"}, headers=user)
    lines = [record.getMessage() for record in caplog.records]
    for action in ("scan", "show", "export", "drop", "dropped"):
        assert [line for line in lines if f"user=ana role=operator from=127.0.0.1 action={action} " in line]
    assert SECRET not in caplog.text


def test_a_group_is_deleted_after_a_confirmation(app: Celery, queues: dict[str, ObservedQueue]) -> None:
    """The first press only asks."""
    with open_page(app) as browser:
        scan(browser)
        (group,) = dead_pages(browser.get("/dead").text)
        form = {"token": token_in(browser.get(group).text), "group": group.rpartition("/")[2], "action": "drop"}
        assert "permanently" in browser.post("/dead/actions", data=form).text
        assert queues["events-dead"].deleted == []


def test_the_history_says_who_replayed_an_event_that_died_again(app: Celery, queues: dict[str, ObservedQueue]) -> None:
    """Its new dead letter is in another message, and became one after the replay."""
    dead = queues["events-dead"]
    with open_page(app) as browser:
        scan(browser)
        (group,) = dead_pages(browser.get("/dead").text)
        form = {"token": token_in(browser.get(group).text), "group": group.rpartition("/")[2], "action": "replay"}
        browser.post("/dead/actions", data=form)
        dead.wait_for(lambda: dead.deleted == ["m1"])
        dead.put(TEXT, attributes=MARK)
        scan(browser)
        (message,) = dead_pages(browser.get(group).text)
        text = browser.get(message).text
    assert text.index("Emitted") < text.index("Replayed by anonymous") < text.index("Became a dead letter")


@pytest.mark.parametrize("rate", ["nan", "inf", "-1", "0", "fast"])
def test_a_rate_is_a_finite_number(app: Celery, rate: str) -> None:
    """Nothing begins with another."""
    with open_page(app) as browser:
        scan(browser)
        (group,) = dead_pages(browser.get("/dead").text)
        form = {"token": token_in(browser.get(group).text), "group": group.rpartition("/")[2]}
        assert browser.post("/dead/actions", data={**form, "action": "replay", "rate": rate}).status_code == 400
        assert browser.get("/jobs/1").status_code == 404
