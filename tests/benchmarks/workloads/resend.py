"""Deduplication: the last batch sent again, as after an acknowledgement that was lost. Nothing is stored."""

from __future__ import annotations

from tests.benchmarks.measure import Figure, Report, seconds_of, take_turns
from tests.benchmarks.run import Run


def run(run: Run) -> Report:
    """Append a batch, untimed, and time sending it again."""
    report = Report("resend", "a batch of 1,000 sent again, all of it known")
    report.settings = run.settings()
    names = run.having("resend")
    dataset = run.bulk_dataset()
    with run.opened(run.fresh("resend", names)) as peers:
        for peer in peers.values():
            for batch in dataset.batches(stop=min(20, dataset.batch_count)):
                peer.append(batch)
        rounds = {name: iter(range(1000, 2000)) for name in peers}

        def sample(name: str) -> float:
            batch = dataset.batch(next(rounds[name]))
            peer = peers[name]
            peer.append(batch)
            known: list[int] = []
            seconds = seconds_of(lambda: known.append(peer.resend(batch)))
            if known != [len(batch)]:
                raise RuntimeError(f"{name} knew {known} of {len(batch)} events")
            return len(batch) / seconds

        samples = take_turns(run.sizes.resent, {name: lambda name=name: sample(name) for name in peers})  # type: ignore[misc]
    report.figures.append(Figure("a batch sent again", "events/s", samples))
    return report
