"""Task classes, existing tasks, and tasks that consumers call."""

from __future__ import annotations

from celery import Task, chain, chord, current_task, group, shared_task

from balog_celery.celery import app
from balog_celery.consumers import consumer_config

from .base import TOPIC, note, noting


@app.task(bind=True)
def noted(self, *words):
    note("noted", " ".join(map(str, words)), parent=self.request.parent_id, root=self.request.root_id)


@app.task
def add(x, y):
    return x + y


@app.task
def fails(*_):
    raise ValueError("no")


@app.task(bind=True)
def stamped(self):
    note("stamped", str((self.request.stamps or {}).get("tenant")))


@app.task(ignore_result=True)
def sized(values):
    note("sized", f"{type(values).__name__} {sorted(values)}")


@app.task
def tick():
    note("tick", "beat")


REQUEST = [
    "argsrepr",
    "called_directly",
    "correlation_id",
    "delivery_info",
    "eta",
    "expires",
    "headers",
    "hostname",
    "id",
    "is_eager",
    "parent_id",
    "retries",
    "root_id",
    "timelimit",
]


def described(request):
    return {name: getattr(request, name) for name in REQUEST}


@app.task(bind=True)
def ordinary(self):
    note("ordinary", "O", **described(self.request))


@consumer_config(TOPIC, cls_type="requests", bind=True, time_limit=500, soft_time_limit=400)
@noting
def requests(self, event):
    note("requested", event["header"]["id"], **described(self.request))
    ordinary.apply_async(time_limit=500, soft_time_limit=400)


class Base(Task):
    def __call__(self, *args, **kwargs):
        note("__call__", self.name)
        return self.run(*args, **kwargs)

    def before_start(self, task_id, args, kwargs):
        note("before_start", self.name)

    def on_success(self, retval, task_id, args, kwargs):
        note("on_success", self.name)

    def on_retry(self, exc, task_id, args, kwargs, einfo):
        note("on_retry", self.name)

    def on_failure(self, exc, task_id, args, kwargs, einfo):
        note("on_failure", self.name)

    def after_return(self, status, retval, task_id, args, kwargs, einfo):
        note("after_return", status)


@consumer_config(TOPIC, cls_type="hooked", bind=True, base=Base, max_retries=1)
@noting
def hooked(self, event):
    if self.request.retries < 1:
        raise self.retry(countdown=0)
    if event["payload"].get("fails"):
        raise ValueError("no")


@consumer_config(TOPIC, cls_type="shared")
@shared_task(name="features.calls.shared")
def shared(event):
    note("shared", event["header"]["id"])


@consumer_config(TOPIC, cls_type="unbound")
def unbound(event):
    note("current", current_task.name)


@consumer_config(TOPIC, cls_type="calls", bind=True)
@noting
def calls(self, event):
    noted.delay("delay")
    noted.apply_async(("yaml",), serializer="yaml")
    sized.delay({1, 2})
    group(noted.s("group", number) for number in range(2)).delay()
    chain(add.s(1, 2), noted.s("chain")).delay()
    chord([add.s(1, 1), add.s(2, 2)], noted.s("chord")).delay()
    add.apply_async((3, 4), link=noted.s("link"))
    fails.apply_async(link_error=noted.si("link_error"))
    signature = stamped.si()
    signature.stamp(tenant="t")
    signature.apply_async()


@consumer_config(TOPIC, cls_type="replaces", bind=True)
@noting
def replaces(self, event):
    raise self.replace(noted.si("replaced"))
