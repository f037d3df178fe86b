"""What a second worker shows, with settings that the first one cannot have."""

from __future__ import annotations

from compatibility_checks import Checks, adder
from compatibility_lab import Lab

SECOND: Checks = []
tries = adder(SECOND)


@tries("-Q")
def a_queue_of_the_command_line(lab: Lab) -> None:
    lab.send("served")
    lab.until_noted("served")


@tries("task_always_eager")
def calls_are_eager(lab: Lab) -> None:
    lab.until_noted("called", "True")


@tries("task_protocol = 1")
def the_old_protocol(lab: Lab) -> None:
    lab.send("protocol")
    lab.until_noted("protocol")


@tries("result_backend SQLAlchemy")
def results_in_a_database(lab: Lab) -> None:
    lab.send("answers")
    lab.until_noted("answers")
    result = lab.app.AsyncResult(lab.task_of("answers"))
    lab.until(lambda: result.state == "SUCCESS", "the result")
    assert result.result == 42


@tries("--autoscale")
def the_pool_grows(lab: Lab) -> None:
    with lab.holding("scaled-0", "scaled-1", "scaled-2"):
        pass


@tries("control autoscale", "worker_prefetch_multiplier")
def the_pool_grows_later_and_takes_no_more(lab: Lab) -> None:
    reply = lab.ask("autoscale", max=4, min=1)
    assert "ok" in reply, reply
    with lab.holding("more-0", "more-1", "more-2", "more-3"):
        for number in range(6):
            lab.send_as(f"waits-{number}", "quick")
        if lab.dispatch == "publish":
            lab.until(lambda: lab.length(lab.queue) + len(lab.ask("reserved")) >= 6, "the published tasks")
        assert len(lab.ask("active")) == 4
        # As many as run, times the setting, which is 1.
        assert [task for task in lab.ask("reserved") if "waits" in str(task)] == []
    for number in range(6):
        lab.until_noted("quick", f"waits-{number}")


@tries("control shutdown")
def shutdown(lab: Lab) -> None:
    lab.app.control.shutdown(destination=[lab.worker])
    assert lab.program.wait(90) == 0
