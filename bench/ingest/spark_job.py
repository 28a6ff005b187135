"""Debezium's topics into bronze and silver with Spark Structured Streaming: append, then MERGE, a query for each table.

As Spark's and Delta's documents have it, tuned for this machine: one partition of shuffle a core, batches of 250,000, no
adaptive execution, the parallel collector. Arguments: brokers, the tables as JSON (topic, offsets, bronze, silver, columns).
"""

import json
import sys

from pyspark.sql import SparkSession, Window
from pyspark.sql import functions as f

BATCH = 250_000

brokers, tables = sys.argv[1], json.loads(sys.argv[2])
spark = (
    SparkSession.builder.config("spark.sql.extensions", "io.delta.sql.DeltaSparkSessionExtension")
    .config("spark.sql.catalog.spark_catalog", "org.apache.spark.sql.delta.catalog.DeltaCatalog")
    .config("spark.sql.shuffle.partitions", "2")
    .config("spark.sql.adaptive.enabled", "false")
    .config("spark.sql.session.timeZone", "UTC")
    .config("spark.ui.enabled", "false")
    .getOrCreate()
)
spark.sparkContext.setLogLevel("ERROR")
from delta.tables import DeltaTable  # noqa: E402 - it needs the session


def typed(row, columns):
    """A row image's fields as the columns' types: decimals and times come as text."""
    return [f.col(f"{row}.{name}").cast(kind).alias(name) for name, kind in columns.items()]


def start(table):
    columns, key = table["columns"], table["key"]
    image = ", ".join(f"{name}: string" for name in columns)
    event = f"op string, before struct<{image}>, after struct<{image}>, ts_us bigint"
    source = (
        spark.readStream.format("kafka").option("kafka.bootstrap.servers", brokers)
        .option("subscribe", table["topic"]).option("startingOffsets", json.dumps({table["topic"]: table["offsets"]}))
        .option("maxOffsetsPerTrigger", BATCH).option("kafka.isolation.level", "read_committed").load()
    )
    silver = DeltaTable.forPath(spark, table["silver"])
    values = {name: f"s.{name}" for name in columns}

    def write(batch, _):
        batch = batch.where("value is not null").select("partition", "offset", f.from_json(f.col("value").cast("string"), event).alias("e"))
        rows = batch.withColumn("row", f.when(f.col("e.op") == "d", f.col("e.before")).otherwise(f.col("e.after")))
        rows = rows.select("partition", "offset", f.col("e.op").alias("_op"), f.col("e.ts_us").alias("_at"), *typed("row", columns)).persist()
        rows.write.format("delta").mode("append").save(table["bronze"])
        newest = Window.partitionBy(key).orderBy(f.col("offset").desc())
        last = rows.withColumn("n", f.row_number().over(newest)).where("n = 1")
        (
            silver.alias("t").merge(last.alias("s"), f"t.{key} = s.{key}")
            .whenMatchedDelete("s._op = 'd'").whenMatchedUpdate(set=values)
            .whenNotMatchedInsert("s._op <> 'd'", values=values).execute()
        )
        rows.unpersist()

    return (
        source.writeStream.foreachBatch(write).option("checkpointLocation", table["silver"] + "-checkpoint")
        .trigger(availableNow=True).start()
    )


for table in tables:
    start(table).awaitTermination()
