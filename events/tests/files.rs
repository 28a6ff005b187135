//! Files in the columns of REES46: what is an event, what is not, and what events are called.

use std::{collections::HashSet, sync::Arc};

use arrow::{
    array::AsArray,
    datatypes::{Decimal128Type, Int64Type, TimestampMicrosecondType},
};
use lakeward_events::{Chunk, Contract, ContractFile, Rees46, Rees46Error};
use proptest::prelude::*;

pub const HEADER: &str =
    "event_time,event_type,product_id,category_id,category_code,brand,price,user_id,user_session\n";

/// The line of a number.
pub fn line(number: u64) -> String {
    let (hour, minute, second) = (number / 3600 % 24, number / 60 % 60, number % 60);
    format!(
        "2019-10-{:02} {hour:02}:{minute:02}:{second:02} UTC,view,{},2053013555631882655,electronics.smartphone,samsung,{}.57,{},26dd6e6e-4dac-4778-8d2c-{number:012}\n",
        number / 86_400 % 28 + 1,
        1_000_000 + number % 40_000,
        number % 1_000,
        520_000_000 + number % 300_000,
    )
}

fn read(text: &str, rows: usize) -> Vec<Chunk> {
    let file = ContractFile::open(None).expect("the shipped contract");
    let mut events = Rees46::open(text.as_bytes(), Arc::clone(file.contract()), rows).expect("a header");
    std::iter::from_fn(|| events.chunk().expect("it is read")).collect()
}

fn ids(chunks: &[Chunk]) -> Vec<String> {
    let ids = chunks.iter().flat_map(|chunk| chunk.rows.column(0).as_string::<i32>().iter().flatten());
    ids.map(str::to_owned).collect()
}

#[test]
fn lines_become_typed_rows() {
    let text = format!(
        "{HEADER}{}",
        "2019-10-01 00:00:00 UTC,view,44600062,2103807459595387724,,\"a \"\"b\"\", c\",35.79,541312140,72d76fde-8bb3-4e00-8c23-a032dfed738c\r\n"
    );
    let chunks = read(&text, 10);
    let rows = &chunks[0].rows;
    assert_eq!((chunks.len(), chunks[0].end, rows.num_rows()), (1, 3, 1));
    assert_eq!(rows.schema(), lakeward_events::schema());
    assert_eq!(rows.column(1).as_primitive::<TimestampMicrosecondType>().value(0), 1_569_888_000_000_000);
    assert_eq!(rows.column(3).as_primitive::<Int64Type>().value(0), 44_600_062);
    assert!(rows.column(5).is_null(0));
    assert_eq!(rows.column(6).as_string::<i32>().value(0), "a \"b\", c");
    assert_eq!(rows.column(7).as_primitive::<Decimal128Type>().value(0), 3579);
    assert_eq!(rows.column(10).as_primitive::<Int64Type>().value(0), 2);
    // What an event is called must never change: the lake knows it by that.
    assert_eq!(ids(&chunks), ["9112da81-9d32-5e2d-9008-f4dfd82bcb96"]);
}

#[test]
fn lines_that_do_not_conform_are_told_with_their_place() {
    let good = line(7);
    let bad = [
        good.replace("view", "secret"),
        good.replace(".57", ".575"),
        good.replace("1000007", "10e5"),
        good.replace("26dd6e6e-", ""),
        good.replace(",samsung", ""),
        good.replace("2019-10-01", "1019-10-01"),
        "\u{feff}x\n".to_owned(),
    ];
    let text = format!("{HEADER}{good}{}{good}", bad.concat());
    let chunk = &read(&text, 100)[0];
    let reasons: Vec<_> = chunk.rejected.iter().map(|rejected| rejected.reason.as_str()).collect();
    assert_eq!(
        reasons,
        [
            "event_type breaks the rule invalidValues",
            "price breaks the rule physicalType",
            "product_id breaks the rule logicalType",
            "user_session breaks the rule format",
            "8 fields instead of 9",
            "event_time breaks the rule minimum",
            "1 fields instead of 9",
        ]
    );
    assert_eq!(chunk.rejected[0].bytes, bad[0].trim_end().as_bytes());
    assert_eq!(chunk.rows.num_rows(), 2);
}

#[test]
fn equal_lines_are_several_events_wherever_chunks_end() {
    let text = format!("{HEADER}{0}{1}{0}{2}{0}", line(1), line(2), line(1).replace("samsung", "apple"));
    let whole = ids(&read(&text, 100));
    assert_eq!(whole.iter().collect::<HashSet<_>>().len(), 5);
    assert_eq!(ids(&read(&text, 2)), whole);
    // The first of equal ones is the same, however many follow.
    assert_eq!(ids(&read(&format!("{HEADER}{}", line(1)), 2))[0], whole[0]);
    // Columns in another order are the same events.
    let turn = |line: &str| {
        let mut fields: Vec<_> = line.trim_end().split(',').collect();
        fields.rotate_left(4);
        fields.join(",") + "\n"
    };
    let turned: String = text.lines().map(turn).collect();
    assert_eq!(ids(&read(&turned, 100)), whole);
}

#[test]
fn another_header_is_told() {
    let file = ContractFile::open(None).expect("the shipped contract");
    let open = |text: &'static str, contract: &Arc<Contract>| {
        Rees46::open(text.as_bytes(), Arc::clone(contract), 10).map(drop).expect_err(text)
    };
    for text in
        ["", "a,b\n", "event_time,event_type,product_id,category_id,category_code,brand,price,user_id\n"]
    {
        let error = open(text, file.contract());
        assert!(matches!(error, Rees46Error::Header { .. }), "{error}");
    }
    let shipped = include_str!("../../contracts/tracking.raw_user_behavior.yaml");
    let more = shipped
        .replace("      - name: brand", "      - name: device\n        required: true\n      - name: brand");
    let contract = Arc::new(Contract::parse(&more).expect("a contract"));
    assert!(open(HEADER, &contract).to_string().contains("device"));
}

proptest! {
    /// Each line is a row or rejected, whatever it holds.
    #[test]
    fn any_line_is_a_row_or_rejected(lines in prop::collection::vec("[^\"\r\n]{1,60}", 0..8), chunk in 1usize..5) {
        let text = HEADER.to_owned() + &lines.iter().map(|line| format!("{line}\n")).collect::<String>();
        let chunks = read(&text, chunk);
        let taken: usize = chunks.iter().map(|chunk| chunk.rows.num_rows() + chunk.rejected.len()).sum();
        prop_assert_eq!(taken, lines.len());
    }

    #[test]
    fn any_bytes_end_in_an_answer(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let file = ContractFile::open(None).expect("the shipped contract");
        let text = [HEADER.as_bytes(), &bytes].concat();
        let mut events = Rees46::open(text.as_slice(), Arc::clone(file.contract()), 3).expect("a header");
        while let Ok(Some(_)) = events.chunk() {}
    }
}
