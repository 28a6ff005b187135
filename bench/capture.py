"""How fast rows come into Postgres, and from there into bronze and silver; how much memory the ingester takes.

Run by `make bench`, on a quiet machine. Streaming is measured on changes that wait in the log: 400,000 of them in
transactions of 1,000, half updates of random keys, 45 % inserts, 5 % deletes, on the order lines of Complete Journey.
"""

import harness

CHANGES, IN_TRANSACTION = 400_000, 1_000
STREAM = f"""
do $$ declare n bigint; begin
  for round in 1 .. {CHANGES // IN_TRANSACTION} loop
    update order_items set quantity = quantity % 5 + 1 where order_item_id in (
      select distinct 1 + (hashint8(round * 1000000 + i)::bigint + 2147483648) * 1355000 / 4294967296
      from generate_series(1, {IN_TRANSACTION // 2}) i);
    insert into order_items (order_item_id, order_id, product_id, quantity, price_per_unit)
      select 100000000 + round * 1000 + i, (select min(order_id) from orders), (select min(product_id) from products), 1, 1.00
      from generate_series(1, {IN_TRANSACTION * 45 // 100}) i;
    delete from order_items where order_item_id between
      100000000 + (round - 1) * 1000 + 1 and 100000000 + (round - 1) * 1000 + {IN_TRANSACTION * 5 // 100};
    commit;
  end loop;
end $$"""


def per_second(run, rows):
    return {**{key: run[key] for key in ("seconds", "cpu_seconds", "peak_mib")}, "rows": rows,
            "rows_per_second": round(rows / run["seconds"])}


with harness.place() as (lakeward, url, folder):
    made_up, real = harness.database(url, "made_up"), harness.database(url, "real")
    results = {}

    seeded = harness.run(lakeward, "simulate", "seed", "--json", "--until", "2026-01-01", "--postgres-url", made_up)
    rows = sum(seeded["answer"][table] for table in ("users", "products", "orders", "order_items", "events"))
    results["seed"] = {**per_second(seeded, seeded["answer"]["order_items"]), "rows_of_all_tables": rows}
    rate = harness.run(lakeward, "simulate", "run", "--json", "--rate", 200, "--orders", 6000, "--postgres-url", made_up)
    elapsed = rate["answer"]["elapsed_seconds"]
    results["orders_at_200_a_second"] = {"orders": 6000, "seconds": round(elapsed, 2), "rate": round(6000 / elapsed, 1)}

    imported = harness.run(lakeward, "simulate", "import", "complete-journey", harness.WHEEL, "--json", "--postgres-url", real)
    results["import_complete_journey"] = per_second(imported, imported["answer"]["order_items"])

    lake = folder / "lake"
    ingest = (lakeward, "ingest", "--until-idle", "--json", "--postgres-url", real, "--lake", lake)
    answer = imported["answer"]
    rows = sum(answer[table] for table in ("users", "products", "orders", "order_items"))
    results["snapshot_into_bronze_and_silver"] = per_second(harness.run(*ingest), rows)

    harness.sql(real, STREAM)
    streamed = harness.run(*ingest)
    results["stream_into_bronze_and_silver"] = per_second(streamed, CHANGES)

    reconciled = harness.run(lakeward, "reconcile", "--json", "--postgres-url", real, "--lake", lake)
    report = reconciled["answer"]["tables"]
    results["reconcile"] = {**per_second(reconciled, sum(table["lake_rows"] for table in report)),
                            "differences": sum(table["differing"] for table in report)}
    harness.run(lakeward, "source", "drop", "--json", "--postgres-url", real)
    harness.save("capture", results)
