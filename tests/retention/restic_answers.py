#!/usr/bin/env python3
"""Asks the real restic which snapshots a policy keeps, and writes the answers as a table.

    tests/retention/restic_answers.py [PATH-OF-RESTIC] > tests/retention/restic_answers.txt

The table was made with restic 0.14.0 of Debian. One repository of restic holds a pool of tiny snapshots with
times of our choice. A tag for each history selects which of them are its own, so that `restic forget --tag`
answers for one history after the other. What is random comes from one seed: the histories are always the same.

Lines of the table, in this order:

    pool <time in seconds since 1970> <its tag for --keep-tag, or ->
    case <rules, separated by commas> <members> <kept>

Members and kept are positions in the pool, oldest first, as hexadecimal numbers with one bit for each: bit 0 is
the first of the pool in `members`, and the first of the members in `kept`.
"""

import datetime
import json
import os
import random
import subprocess
import sys
import tempfile

CASES = 340
UTC = datetime.timezone.utc


def pool(chance):
    """Returns the times of all snapshots: what days, weeks, months and years do at their edges."""
    times = set()

    def add(year, month, day, hours=0.0):
        time = datetime.datetime(year, month, day, tzinfo=UTC) + datetime.timedelta(hours=hours)
        times.add(int(time.timestamp()))

    for day in range(130):
        add(2023, 11, 1, 24 * day + chance.random() * 24)
    for piece in range(40):
        add(2024, 2, 27, 3 * piece + chance.random())
    for piece in range(30):
        add(2024, 3, 5, piece / 6 + chance.random() / 20)
    for week in range(110):
        add(2021, 6, 1, 24 * 7 * week + chance.random() * 3)
    for year in range(2018, 2023):
        for day in range(14):
            add(year, 12, 26, 24 * day + chance.random() * 24)
    for month in range(1, 13):
        last = (datetime.date(2020 + month // 12, month % 12 + 1, 1) - datetime.timedelta(days=1)).day
        add(2020, month, last, 23.99)
        add(2020, month, 1, 0)
        add(2020, month, min(last, 30), 12)
    for year in range(2004, 2019):
        add(year, 2, 28, 24 * chance.randrange(3) + 1)
    return sorted(times)


def duration(chance):
    """Returns a duration as restic writes it."""
    kind = chance.randrange(6)
    return [
        f"{chance.randrange(1, 40)}d",
        f"{chance.randrange(1, 14)}m",
        f"{chance.randrange(1, 4)}y",
        f"{chance.randrange(1, 90)}h",
        f"{chance.randrange(3)}y{chance.randrange(1, 13)}m{chance.randrange(31)}d{chance.randrange(24)}h",
        f"{chance.randrange(1, 3)}m{chance.randrange(1, 31)}d",
    ][kind]


def rules(chance):
    """Returns one to four rules, as options of restic without their dashes."""
    kinds = ["last", "hourly", "daily", "weekly", "monthly", "yearly"]
    chosen = {}
    for _ in range(chance.choice([1, 1, 2, 3, 4])):
        kind = chance.randrange(10)
        if kind < 6:
            chosen["keep-" + chance.choice(kinds)] = str(chance.choice([1, 2, 3, 5, 7, 12, 40]))
        elif kind < 7:
            chosen["keep-within"] = duration(chance)
        elif kind < 9:
            chosen["keep-within-" + chance.choice(kinds[1:])] = duration(chance)
        else:
            chosen["keep-tag"] = chance.choice(["red", "blue"])
    return [f"{name}={value}" for name, value in sorted(chosen.items())]


def members(chance, size):
    """Returns the positions of one history: a stretch of the pool, thinned out."""
    first = chance.randrange(size)
    stretch = range(first, min(size, first + chance.choice([1, 5, 20, 60, 150, size])))
    share = chance.choice([1.0, 0.7, 0.4, 0.15])
    taken = [place for place in stretch if chance.random() < share] or [first]
    while len(taken) > 60:
        taken.pop(chance.randrange(len(taken)))
    return taken


def bits(places):
    return f"{sum(1 << place for place in places):x}"


class Restic:
    """A repository of restic in a scratch folder."""

    def __init__(self, program, folder):
        self.program = program
        self.folder = folder
        self.environment = dict(os.environ, TZ="UTC", RESTIC_PASSWORD="x", HOME=folder)
        self.run("init")

    def run(self, *words):
        command = [self.program, "--no-cache", "--repo", os.path.join(self.folder, "repository"), *words]
        return subprocess.run(command, env=self.environment, check=True, stdout=subprocess.PIPE).stdout

    def back_up(self, time, tags):
        moment = datetime.datetime.fromtimestamp(time, UTC).strftime("%Y-%m-%d %H:%M:%S")
        words = ["backup", "--time", moment, "--host", "host", "--force"]
        self.run(*words, "--tag", ",".join(tags), os.path.join(self.folder, "file"))

    def kept(self, tag, rules):
        answer = self.run("forget", "--dry-run", "--json", "--tag", tag, *("--" + rule for rule in rules))
        groups = json.loads(answer)
        assert len(groups) == 1, groups
        times = (snapshot["time"] for snapshot in groups[0]["keep"] or [])
        return {int(datetime.datetime.fromisoformat(time.replace("Z", "+00:00")).timestamp()) for time in times}


def main():
    chance = random.Random(20261129)
    times = pool(chance)
    colours = [chance.choice(["-"] * 6 + ["red", "blue"]) for _ in times]
    cases = [(rules(chance), members(chance, len(times))) for _ in range(CASES)]
    with tempfile.TemporaryDirectory() as folder:
        with open(os.path.join(folder, "file"), "w", encoding="ascii") as file:
            file.write("x")
        restic = Restic(sys.argv[1] if len(sys.argv) > 1 else "restic", folder)
        for place, time in enumerate(times):
            tags = [f"case{number}" for number, (_, taken) in enumerate(cases) if place in taken]
            if tags:
                restic.back_up(time, tags + [colours[place]] * (colours[place] != "-"))
        for time, colour in zip(times, colours):
            print("pool", time, colour)
        for number, (chosen, taken) in enumerate(cases):
            kept = restic.kept(f"case{number}", chosen)
            places = [place for place, of in enumerate(taken) if times[of] in kept]
            assert len(places) == len(kept), (number, kept)
            print("case", ",".join(chosen), bits(taken), bits(places))


if __name__ == "__main__":
    main()
