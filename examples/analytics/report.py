"""The report: topics to Parquet, Parquet to tables by DuckDB (report.sql), and a picture.

python report.py [--data DIR] [--picture FILE] [--offline]
"""

import argparse
import contextlib
import sys
from pathlib import Path

import duckdb
import matplotlib as mpl
import matplotlib.pyplot as plt
import to_parquet
from confluent_kafka import KafkaException

mpl.use("agg")  # no window

HERE = Path(__file__).parent
COLOURS = {
    "talking": "#2a7f62",
    "hold": "#7fb69f",
    "transfer": "#b4d6c7",
    "ringing": "#e0c341",
    "wrap_up": "#d9822b",
    "available": "#4a78b5",
    "break": "#b9a3cf",
    "other": "#8a8a8a",
    "offline": "#d6d6d6",
    "logged out": "#ececec",
    "unobserved": "#c23b3b",
}


def tables(data: Path) -> duckdb.DuckDBPyConnection:
    """A database with the report's tables."""
    database = duckdb.connect()
    with contextlib.chdir(data):
        database.execute((HERE / "report.sql").read_text(encoding="utf-8"))
    return database


def show(database: duckdb.DuckDBPyConnection) -> None:
    """Prints the tables."""
    first, until = database.execute("SELECT (SELECT min(begins) FROM stays), min(until) FROM watermark").fetchall()[0]
    print(f"from {first:%F %T} to {until:%F %T} UTC, complete up to there\n")
    seen = {state for (state,) in database.execute("SELECT DISTINCT state FROM stays").fetchall()}
    states = [name for name in COLOURS if name in seen]
    sums = ", ".join(f"""sum(seconds) FILTER (state = '{name}') AS "{name}" """ for name in states)
    times = f"SELECT agent_id, {sums} FROM time_in_state GROUP BY agent_id"  # noqa: S608
    print("Seconds in each state, and occupancy")
    query = f'SELECT times.*, occupancy AS "occupancy %" FROM ({times}) AS times JOIN agents USING (agent_id)'  # noqa: S608
    _print(database.sql(f"{query} ORDER BY agent_id"))
    print("Queues by skill: calls, waits in seconds, and calls waiting at a time")
    _print(database.sql("FROM queues ORDER BY skill"))
    if database.execute("FROM missing").fetchall():
        print("RECORDS ARE MISSING: the figures above are wrong for")
        _print(database.sql("FROM missing"))
    else:
        print("No record is missing.")


def _print(rows: duckdb.DuckDBPyRelation) -> None:
    lines = [rows.columns, *([_text(value) for value in row] for row in rows.fetchall())]
    widths = [max(len(line[column]) for line in lines) for column in range(len(rows.columns))]
    for line in lines:
        cells = [
            line[0].ljust(widths[0]),
            *(text.rjust(width) for text, width in zip(line[1:], widths[1:], strict=True)),
        ]
        print("  ".join(cells))
    print()


def _text(value: object) -> str:
    return "-" if value is None else f"{value:.1f}" if isinstance(value, float) else str(value)


def draw(database: duckdb.DuckDBPyConnection, file: Path) -> None:
    """Draws each agent's states and each queue's length over time; the file's name says in which format."""
    stays = database.execute("SELECT agent_id, state, begins, ends FROM stays ORDER BY agent_id DESC").fetchall()
    agents = sorted({agent_id for agent_id, *_ in stays}, reverse=True)
    figure, (above, below) = plt.subplots(
        2,
        figsize=(12, 3 + 0.3 * len(agents)),
        height_ratios=[max(len(agents), 6), 6],
        sharex=True,
        layout="constrained",
    )
    for state, colour in COLOURS.items():
        own = [
            (agents.index(agent_id), begins, ends - begins) for agent_id, name, begins, ends in stays if name == state
        ]
        if own:
            rows, begins, lengths = zip(*own, strict=True)
            above.barh(rows, lengths, left=begins, color=colour, label=state, height=0.8)
    above.set_yticks(range(len(agents)), agents)
    above.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    above.set_title("What each agent was", loc="left")
    for (skill,) in database.execute("SELECT DISTINCT skill FROM queue_length ORDER BY skill").fetchall():
        steps = database.execute(
            "SELECT begins, length FROM queue_length WHERE skill = ? ORDER BY begins", [skill]
        ).fetchall()
        below.step(*zip(*steps, strict=True), where="post", label=skill)
    if below.lines:
        below.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    below.set_title("Calls waiting, by skill", loc="left")
    figure.savefig(file)
    plt.close(figure)


def main() -> None:
    """Reads, prints, draws."""
    parser = argparse.ArgumentParser(description="Time in state, occupancy, queue lengths and waits.")
    parser.add_argument("--data", type=Path, default=HERE / "data", help="folder of Parquet files")
    parser.add_argument("--picture", type=Path, default=HERE / "report.svg", help="an SVG, PNG or PDF")
    parser.add_argument("--offline", action="store_true", help="use the Parquet files as they are")
    options = parser.parse_args()
    if not options.offline:
        try:
            added = to_parquet.append(options.data)
        except (to_parquet.NothingAddedError, KafkaException) as error:
            sys.exit(f"nothing was added from Kafka at {to_parquet.BROKERS}: {error}")
        print("added to", options.data, added)
    if not any(options.data.glob("heartbeats/*.parquet")):
        sys.exit(f"there are no Parquet files in {options.data}: leave out --offline")
    database = tables(options.data)
    if not database.execute("FROM stays").fetchall():
        sys.exit("nothing to report yet: no heartbeat says up to when the records are complete")
    show(database)
    draw(database, options.picture)
    print("picture:", options.picture)


if __name__ == "__main__":
    main()
