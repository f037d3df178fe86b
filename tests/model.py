"""A model of messages, two engines and SQS, small enough to look at every state that can be reached.

A state is what SQS knows of each message, and what each engine does with it. Every step may be the last one of an
engine: a crash forgets all that it did. The rules are those of the design, in the order of a message's life::

    received -> held -> dispatched -> settled -> deleting -> deleted
                    |             \\-> failed -> dead letter written -> settled
                    \\-> releasing -> visible again, or left until its visibility timeout ends

Two things must hold. *Nothing is lost*: what SQS has deleted has ended, that is, finished or been written to the
dead-letter queue. *Nothing blocks*: from every state, without a further crash, a state can be reached in which all
messages are deleted or dead-lettered.

A flaw (:data:`FLAWS`) breaks one rule of the design; the explorer must see each.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import NamedTuple

#: What one design fault does to the engine, by name.
FLAWS = {
    "delete before dispatch": "an engine deletes what it has only received",
    "delete before settling": "an engine deletes what it has dispatched, whatever becomes of it",
    "silence is success": "a dead letter counts as written when its send is not answered",
    "a failure is settled": "a task that failed is settled without a dead letter",
    "a group is dispatched at once": "messages of a group do not wait for those before them",
    "a released message is overtaken": "what is behind a released message of its group is dispatched",
    "a release outlives the next receive": "a message whose release is pending is ignored when it is received again",
    "a lost task is extended": "a message whose task is gone stays held",
    "a stopped engine keeps what it holds": "what was not started is neither released nor allowed to expire",
}


class Message(NamedTuple):
    """A message as SQS has it, and whether it is finished or a dead letter."""

    place: str = "visible"  # visible, in flight, deleted, dead-lettered
    ended: bool = False


class Job(NamedTuple):
    """A job of an engine; *fresh* means that its receipt handle is the message's latest."""

    phase: str  # held, dispatched, failed, settled, deleting, releasing, lost
    fresh: bool = True


#: The jobs of each engine, one for each message.
Jobs = tuple[tuple[Job | None, ...], ...]


class State(NamedTuple):
    """All messages in the order of their sends, and all jobs."""

    messages: tuple[Message, ...]
    jobs: Jobs


class Step(NamedTuple):
    """A step: its kind, its engine (-1: none) and its message (-1: all)."""

    name: str
    engine: int
    message: int


class Model:
    """Enumerates the steps that the design allows.

    :param messages: how many messages there are.
    :param fifo: whether they are of one message group.
    :param flaw: one of :data:`FLAWS`, or "".
    :param redrive: whether SQS may move a message to the dead-letter queue when it comes again.
    """

    def __init__(self, messages: int = 2, *, fifo: bool = False, flaw: str = "", redrive: bool = False) -> None:
        self.fifo = fifo
        self.flaw = flaw
        self.redrive = redrive
        self.start = State((Message(),) * messages, ((None,) * messages,) * 2)

    def steps(self, state: State) -> Iterator[tuple[Step, State]]:
        """Yield each step from *state* with the state that it leads to."""
        for number, message in enumerate(state.messages):
            yield from self._of_sqs(state, number, message)
        for engine, jobs in enumerate(state.jobs):
            if any(jobs):
                yield Step("crash", engine, -1), self._crashed(state, engine)
            for number, job in enumerate(jobs):
                if job is not None:
                    for name, after in self._of_job(state, engine, number, job):
                        yield Step(name, engine, number), after

    def _of_sqs(self, state: State, number: int, message: Message) -> Iterator[tuple[Step, State]]:
        if message.place == "visible" and not self._is_blocked(state, number):
            for engine in range(len(state.jobs)):
                received = state
                for taken in self._together(state, number):
                    received = self._received(received, engine, taken)
                    yield Step("receive", engine, taken), received
            if self.redrive:
                yield Step("redrive", -1, number), _with_message(state, number, message._replace(place="dead-lettered"))
        if message.place == "in flight" and not self._is_extended_for_ever(state, number):
            yield Step("expire", -1, number), _with_message(state, number, message._replace(place="visible"))

    def _together(self, state: State, number: int) -> list[int]:
        """The messages that one receive may give: of a group those behind as well."""
        behind = range(number + 1, len(state.messages)) if self.fifo else ()
        return [number, *(other for other in behind if state.messages[other].place == "visible")]

    def _received(self, state: State, engine: int, number: int) -> State:
        """An engine that still works on a message renews its handle, and nothing else; a release becomes obsolete."""
        job = state.jobs[engine][number]
        if job is None or (job.phase == "releasing" and self.flaw != "a release outlives the next receive"):
            job = Job("held")
        state = _with_message(_stale(state, number), number, state.messages[number]._replace(place="in flight"))
        return _with_job(state, engine, number, job._replace(fresh=True))

    def _is_blocked(self, state: State, number: int) -> bool:
        """Whether a message of its group is in flight, or one before it is still in the queue and not received."""
        before, others = state.messages[:number], state.messages
        return self.fifo and (
            any(other.place == "in flight" for other in others) or any(other.place == "visible" for other in before)
        )

    def _is_extended_for_ever(self, state: State, number: int) -> bool:
        jobs = [jobs[number] for jobs in state.jobs]
        return any(job is not None and job.fresh and job.phase == "lost" for job in jobs)

    def _of_job(self, state: State, engine: int, number: int, job: Job) -> Iterator[tuple[str, State]]:
        def to(phase: str, on: State = state) -> State:
            return _with_job(on, engine, number, job._replace(phase=phase))

        if job.phase == "held":
            if self.flaw == "a group is dispatched at once" or not self._waits(state, engine, number):
                yield "dispatch", to("dispatched")
                # It has no events, or its body is a dead letter.
                yield "dispatch nothing", to("settled", _ended(state, number))
            yield from self._given_up(state, engine, number)
            if self.flaw == "delete before dispatch":
                yield "delete", to("deleting")
            if self.flaw == "a stopped engine keeps what it holds":
                yield "stop", to("lost")
        elif job.phase == "dispatched":
            yield "finish", to("settled", _ended(state, number))
            yield "fail", to("failed")
            # Its thread or its child has died: it will never be settled.
            if self.flaw == "a lost task is extended":
                yield "lose", to("lost")
            else:
                yield from self._given_up(state, engine, number)
            if self.flaw == "delete before settling":
                yield "delete", to("deleting")
        elif job.phase == "failed":
            yield "write dead letter", to("settled", _ended(state, number))
            yield from self._given_up(state, engine, number)
            if self.flaw == "silence is success":
                yield "dead letter not written", to("settled")
            if self.flaw == "a failure is settled":
                yield "settle", to("settled")
        elif job.phase == "settled":
            yield "delete", to("deleting")
        elif job.phase == "deleting":
            yield from self._after_delete(state, engine, number, job)
        elif job.phase == "releasing":
            gone = _with_job(state, engine, number, None)
            if job.fresh and state.messages[number].place == "in flight":
                yield "released", _with_message(gone, number, state.messages[number]._replace(place="visible"))
            else:
                yield "left", gone

    def _after_delete(self, state: State, engine: int, number: int, job: Job) -> Iterator[tuple[str, State]]:
        """SQS deletes by the latest handle alone; it may refuse others, or answer all the same."""
        gone, again = (_with_job(state, engine, number, one) for one in (None, job._replace(phase="settled")))
        yield "deleted", self._deleted(gone, number, job)
        yield "deleted, answer lost", self._deleted(again, number, job)
        yield "not deleted, no answer", again
        if not job.fresh:
            yield "left", gone

    def _given_up(self, state: State, engine: int, number: int) -> Iterator[tuple[str, State]]:
        """A message that is not processed is made visible, or left until its visibility timeout ends."""
        yield "release", self._without(state, engine, number, "releasing")
        yield "leave", self._without(state, engine, number, None)

    def _waits(self, state: State, engine: int, number: int) -> bool:
        """Whether a message before it in its group is still worked on by the same engine."""
        phases = [job.phase for job in state.jobs[engine][:number] if job is not None]
        return self.fifo and any(phase in ("held", "dispatched", "failed", "releasing") for phase in phases)

    def _without(self, state: State, engine: int, number: int, phase: str | None) -> State:
        """Give up a message, and what the engine holds of its group behind it, which would overtake it."""
        behind = range(number + 1, len(state.messages)) if self.fifo else ()
        alone = self.flaw == "a released message is overtaken"
        for one in (number,) if alone else (number, *behind):
            job = state.jobs[engine][one]
            if job is not None and (one == number or job.phase == "held"):
                state = _with_job(state, engine, one, job._replace(phase=phase) if phase else None)
        return state

    def _deleted(self, state: State, number: int, job: Job) -> State:
        message = state.messages[number]
        # A FIFO queue refuses a handle that has expired.
        deletes = job.fresh and (message.place == "in flight" or (message.place == "visible" and not self.fifo))
        return _with_message(state, number, message._replace(place="deleted")) if deletes else state

    def _crashed(self, state: State, engine: int) -> State:
        jobs = tuple((None,) * len(one) if number == engine else one for number, one in enumerate(state.jobs))
        return state._replace(jobs=jobs)


class Exploration(NamedTuple):
    """The result: the number of states, and the steps to the first wrong state of each kind."""

    states: int
    lost: list[Step] | None
    disordered: list[Step] | None
    blocked: list[Step] | None


def explore(model: Model, note: Callable[[State, Step, State], None] = lambda *_: None) -> Exploration:
    """Look at every state that can be reached.

    :param note: is called with each step, and the states before and after it.
    """
    came: dict[State, tuple[State, Step] | None] = {model.start: None}
    before: dict[State, set[State]] = {model.start: set()}
    lost = disordered = None
    todo = deque([model.start])
    while todo:
        state = todo.popleft()
        for step, after in model.steps(state):
            note(state, step, after)
            # The engines are alike: which of them is the first makes no difference.
            after = after._replace(jobs=tuple(sorted(after.jobs, key=hash)))
            if after not in came:
                came[after] = (state, step)
                before[after] = set()
                todo.append(after)
            if step.name != "crash":
                before[after].add(state)
            if disordered is None and model.fifo and step.name == "dispatch" and not _in_order(state, step):
                disordered = [*_way(came, state), step]
        if lost is None and any(one.place == "deleted" and not one.ended for one in state.messages):
            lost = _way(came, state)
    can_end = _can_end(before)
    blocked = next((state for state in came if state not in can_end), None)
    return Exploration(len(came), lost, disordered, None if blocked is None else _way(came, blocked))


def _in_order(state: State, step: Step) -> bool:
    """Whether all before it in its group has ended, or left the queue for the dead-letter queue."""
    return all(one.ended or one.place == "dead-lettered" for one in state.messages[: step.message])


def _can_end(before: dict[State, set[State]]) -> set[State]:
    """The states from which all messages can leave the queue."""
    good = {state for state in before if all(one.place in ("deleted", "dead-lettered") for one in state.messages)}
    todo = list(good)
    while todo:
        for earlier in before[todo.pop()] - good:
            good.add(earlier)
            todo.append(earlier)
    return good


def _way(came: dict[State, tuple[State, Step] | None], state: State) -> list[Step]:
    steps: list[Step] = []
    while (origin := came[state]) is not None:
        state, step = origin
        steps.append(step)
    return steps[::-1]


def _with_message(state: State, number: int, message: Message) -> State:
    messages = list(state.messages)
    messages[number] = message
    return state._replace(messages=tuple(messages))


def _with_job(state: State, engine: int, number: int, job: Job | None) -> State:
    jobs = [list(one) for one in state.jobs]
    jobs[engine][number] = job
    return state._replace(jobs=tuple(map(tuple, jobs)))


def _stale(state: State, number: int) -> State:
    """A receive makes all earlier handles of a message stale."""
    for engine, jobs in enumerate(state.jobs):
        job = jobs[number]
        if job is not None:
            state = _with_job(state, engine, number, job._replace(fresh=False))
    return state


def _ended(state: State, number: int) -> State:
    return _with_message(state, number, state.messages[number]._replace(ended=True))
