"""Commands that wait for a change of a pod: what they make of metadata that are away meanwhile."""

from __future__ import annotations

from typing import Any

import pytest

from mezzo.errors import Unavailable
from mezzo_server.commands import pod
from mezzo_server.commands.pod_reports import PodReport
from mezzo_server.commands.pod_waiting import followed


def waited(
    monkeypatch: pytest.MonkeyPatch, answers: list[Any], *, wait: bool = True
) -> tuple[PodReport, bool]:
    def act(config: Any, work: Any) -> Any:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(pod, "WAIT_S", 0.0)
    monkeypatch.setattr(pod, "_act", act)
    monkeypatch.setattr(pod, "pod_report", lambda report: report)
    return pod._waited(None, followed(2), wait=wait)


def report(epoch: int) -> PodReport:
    return PodReport("p", epoch, 16, 0, 0, [])


def test_who_waits_goes_on_waiting_while_the_metadata_are_away(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    away = Unavailable("no member of etcd answers")
    answers = [report(1), away, away, report(1), report(2)]
    assert waited(monkeypatch, answers) == (report(2), True)
    assert capsys.readouterr().err.count("no member of etcd answers") == 1


def test_who_cannot_see_the_pod_at_all_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    for wait in (True, False):
        with pytest.raises(Unavailable):
            waited(monkeypatch, [Unavailable("away")], wait=wait)
