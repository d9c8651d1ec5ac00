"""Snapshots are Parquet files: read them with pandas, or ask DuckDB about all of them at once.

python examples/read_snapshots.py RUN
"""

import argparse
from pathlib import Path

import duckdb
import pandas as pd

parser = argparse.ArgumentParser()
parser.add_argument("run", type=Path)
given = parser.parse_args()
forget = given.run / "forget"

history = pd.read_parquet(forget / "history.parquet")
whole = history[history["category"] == ""]
print(whole.pivot(index="samples_seen", columns="probe", values="forgetting").round(3), end="\n\n")

# Which items were lost first? The step is in the file's name.
print(
    duckdb.execute(f"""
        WITH answers AS (
            SELECT *, regexp_extract(filename, 'step-(\\d+)', 1)::INT AS step
            FROM read_parquet('{forget}/snapshots/*/step-*.parquet', filename = true)
        ), start AS (SELECT id FROM answers WHERE step = 0 AND correct = 1)
        SELECT category, id, min(step) AS lost_at, arg_min(prediction, step) AS answer
        FROM answers SEMI JOIN start USING (id)
        WHERE correct = 0 GROUP BY ALL ORDER BY lost_at, id LIMIT 10
    """)
    .df()
    .to_string(index=False)
)
