"""How fast the simulator fills a Postgres, and how fast the proof goes over a real shop's tables.

Run by `make bench`, on a quiet machine.
"""

import harness


with harness.place() as (lakeward, url, folder):
    made_up, real, lake = harness.database(url, "made_up"), harness.database(url, "real"), folder / "lake"
    results = {}

    seeded = harness.run(lakeward, "simulate", "seed", "--json", "--until", "2026-01-01", "--postgres-url", made_up)
    rows = sum(seeded["answer"][table] for table in ("users", "products", "orders", "order_items", "events"))
    results["seed"] = {**harness.per_second(seeded, seeded["answer"]["order_items"]), "rows_of_all_tables": rows}
    rate = harness.run(lakeward, "simulate", "run", "--json", "--rate", 200, "--orders", 6000, "--postgres-url", made_up)
    elapsed = rate["answer"]["elapsed_seconds"]
    results["orders_at_200_a_second"] = {"orders": 6000, "seconds": round(elapsed, 2), "rate": round(6000 / elapsed, 1)}

    imported = harness.run(lakeward, "simulate", "import", "complete-journey", harness.WHEEL, "--json", "--postgres-url", real)
    results["import_complete_journey"] = harness.per_second(imported, imported["answer"]["order_items"])

    ingested = harness.run(lakeward, "ingest", "--until-idle", "--json", "--postgres-url", real, "--lake", lake)
    rows = sum(imported["answer"][table] for table in ("users", "products", "orders", "order_items"))
    results["copy_complete_journey"] = harness.per_second(ingested, rows)

    reconciled = harness.run(lakeward, "reconcile", "--json", "--postgres-url", real, "--lake", lake)
    report = reconciled["answer"]["tables"]
    results["reconcile"] = {**harness.per_second(reconciled, sum(table["lake_rows"] for table in report)),
                            "differences": sum(table["differing"] for table in report)}
    harness.run(lakeward, "source", "drop", "--json", "--postgres-url", real)
    harness.save("shop", results)
