"""What one would write first: files of changes appended to bronze and merged into silver with the `deltalake` package.

It knows no transactions, restarts, positions, schema changes or truncates; each file is one commit of either table.
Arguments: the folder of Arrow files, silver's table, a folder for bronze.
"""

import pathlib
import sys

import pyarrow
from deltalake import DeltaTable, write_deltalake

COLUMNS = ["id", "customer", "status", "amount", "at", "note"]

files, silver, bronze = sys.argv[1:]
for path in sorted(pathlib.Path(files).iterdir()):
    with pyarrow.ipc.open_file(path) as file:
        changes = file.read_all()
    write_deltalake(bronze, changes, mode="append")
    rows = pyarrow.array(range(len(changes)))
    last = changes.append_column("row", rows).group_by("id").aggregate([("row", "max")])["row_max"]
    table = DeltaTable(silver)
    values = {name: f"s.{name}" for name in COLUMNS} | {name: f"s.{name}" for name in ("_commit", "_order")}
    (
        table.merge(changes.take(last), "t.id = s.id", source_alias="s", target_alias="t")
        .when_matched_delete("s._op = 'd'")
        .when_matched_update(values)
        .when_not_matched_insert(values, predicate="s._op <> 'd'")
        .execute()
    )
