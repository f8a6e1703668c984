"""Named checks and how long things took."""

import statistics
import time
import traceback


class Report:
    def __init__(self):
        self.began = time.monotonic()
        self.passed, self.failed, self.rows, self.starts = 0, 0, [], []

    def step(self, what):
        print(f"-- {what} (at {time.monotonic() - self.began:.0f} s)", flush=True)

    def check(self, what, holds, detail="", seconds=None):
        took = "" if seconds is None else f"{seconds:8.2f} s"
        print(f"{'ok    ' if holds else 'FAILED'} {took:10}  {what}", flush=True)
        if holds:
            self.passed += 1
        else:
            self.failed += 1
            print(f"        {detail}", flush=True)

    def broken(self, what):
        """A step that could not go on."""
        self.check(what, False, traceback.format_exc())

    def time(self, what, *seconds):
        """A row of the table: one time, or several of the same thing."""
        self.rows.append((what, seconds))

    def start(self, place, asked, life, answered):
        """A cold start: its steps since the request was sent."""
        steps = {step: at - asked for step, at in life.items() if step in ("created", "scheduled", "running", "ready")}
        self.starts.append((place, {**steps, "answered": answered}))

    def table(self):
        print("\ncold starts, ms since the client's request")
        names = ["created", "scheduled", "running", "ready", "answered"]
        print(f"  {'':26}" + "".join(f"{name:>11}" for name in names))
        for place, steps in self.starts:
            print(f"  {place:26}" + "".join(
                f"{steps[name] * 1000:11.0f}" if name in steps else f"{'-':>11}" for name in names))
        for what, choose in (("least", min), ("median", statistics.median), ("most", max)):
            values = [[steps[name] for _, steps in self.starts if name in steps] for name in names]
            print(f"  {what:26}" + "".join(f"{choose(v) * 1000:11.0f}" if v else f"{'-':>11}" for v in values))
        print(f"\n{'times, s':66}{'least':>9}{'median':>9}{'most':>9}")
        for what, seconds in self.rows:
            shown = [min(seconds), statistics.median(seconds), max(seconds)] if len(seconds) > 1 else seconds
            count = f" ({len(seconds)})" if len(seconds) > 1 else ""
            print(f"  {what + count:64}" + "".join(f"{value:9.3f}" for value in shown))
        print(f"\n{self.passed} passed, {self.failed} failed, {time.monotonic() - self.began:.0f} s in all", flush=True)
