"""Sums the column `balance` of Delta tables with an engine that is not ours: [[path, version], …] in, the sums out."""

import json
import os
import sys

import pyarrow.compute
from deltalake import DeltaTable


def total(path, version):
    table = DeltaTable(path, version=version).to_pyarrow_table(columns=["balance"])
    return pyarrow.compute.sum(table["balance"]).as_py()


print(json.dumps([total(path, version) for path, version in json.loads(sys.argv[1])]))
# pyarrow's threads now and then abort an interpreter that ends in its own way.
sys.stdout.flush()
os._exit(0)
