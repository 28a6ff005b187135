//! The validator and the log on a real Kafka: each event in exactly one of two topics, whatever is killed.

use std::{
    collections::{BTreeMap, HashMap},
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use lakeward_events::{ContractFile, RawLog, Topics, Validator, key_of, names};
use lakeward_stack::Service;
use rdkafka::{
    ClientConfig, Message as _,
    consumer::{BaseConsumer, Consumer},
    error::KafkaError,
    message::Headers,
};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use crate::message::{bytes, event};

const EVENTS: u64 = 20_000;
const WAIT: Duration = Duration::from_secs(120);

async fn kafka() -> (TempDir, Service, Topics) {
    let folder = tempfile::tempdir().expect("a folder");
    let (service, brokers) =
        lakeward_stack::kafka(folder.path(), &|doing| eprintln!("{doing}")).await.expect("Kafka");
    (folder, service, topics(&brokers))
}

fn topics(brokers: &str) -> Topics {
    Topics {
        brokers: brokers.to_owned(),
        settings: BTreeMap::new(),
        raw: "tracking.raw_user_behavior".to_owned(),
        validated: "tracking.user_behavior.validated".to_owned(),
        invalid: "tracking.user_behavior.invalid".to_owned(),
        group: "lakeward-validate".to_owned(),
        instance: "0".to_owned(),
    }
}

/// Every twentieth is bad, in one way or another.
fn message(number: u64) -> Vec<u8> {
    let mut event = event(number);
    match number % 100 {
        0 => drop(event.insert("price".to_owned(), (-1).into())),
        20 => drop(event.remove("user_id")),
        40 => return format!("no JSON {number}").into_bytes(),
        60 => drop(event.insert("event_type".to_owned(), "buy".into())),
        80 => drop(event.insert("event_time".to_owned(), "yesterday".into())),
        _ => {}
    }
    bytes(event)
}

fn is_bad(number: u64) -> bool {
    number.is_multiple_of(20)
}

async fn produce(topics: &Topics, numbers: std::ops::Range<u64>) {
    append(&RawLog::open(topics, WAIT).expect("a log"), numbers).await;
}

async fn append(log: &RawLog, numbers: std::ops::Range<u64>) {
    let messages: Vec<_> = numbers.map(message).collect();
    for chunk in messages.chunks(1_000) {
        let events: Vec<_> = chunk.iter().map(|event| (key_of(event), event.as_slice())).collect();
        log.append(&events).await.expect("they are taken in");
    }
}

/// What was read of a topic: the payload, the key, the headers.
type Read = (Vec<u8>, Option<Vec<u8>>, HashMap<String, String>);

/// All committed messages of a topic.
fn read(topics: &Topics, topic: &str) -> Vec<Read> {
    read_as(topics, topic, "read_committed")
}

fn read_as(topics: &Topics, topic: &str, isolation: &str) -> Vec<Read> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", &topics.brokers)
        .set("group.id", "reader")
        .set("enable.auto.commit", "false")
        .set("isolation.level", isolation)
        .set("enable.partition.eof", "true")
        .create()
        .expect("a consumer");
    let metadata = consumer.fetch_metadata(Some(topic), WAIT).expect("the topic");
    let mut assigned = rdkafka::TopicPartitionList::new();
    for partition in metadata.topics()[0].partitions() {
        let offset = rdkafka::Offset::Beginning;
        assigned.add_partition_offset(topic, partition.id(), offset).expect("a partition");
    }
    consumer.assign(&assigned).expect("they are assigned");
    let (mut found, mut ended, began) = (Vec::new(), 0, Instant::now());
    while ended < assigned.count() {
        assert!(began.elapsed() < WAIT, "{topic} does not end");
        match consumer.poll(Duration::from_secs(1)) {
            Some(Ok(message)) => {
                let headers = message.headers().into_iter().flat_map(Headers::iter).map(|header| {
                    let value = String::from_utf8_lossy(header.value.unwrap_or_default()).into_owned();
                    (header.key.to_owned(), value)
                });
                let payload = message.payload().unwrap_or_default().to_vec();
                found.push((payload, message.key().map(<[u8]>::to_vec), headers.collect()));
            }
            Some(Err(KafkaError::PartitionEOF(_))) => ended += 1,
            _ => {}
        }
    }
    found
}

/// Each message of these numbers is in one topic once, with its bytes and its key.
fn check_all(topics: &Topics, count: u64) {
    let (valid, invalid) = (read(topics, &topics.validated), read(topics, &topics.invalid));
    assert_eq!((valid.len(), invalid.len()), ((count * 19 / 20) as usize, (count / 20) as usize));
    let index = |messages: Vec<Read>| -> HashMap<Vec<u8>, Read> {
        messages.into_iter().map(|message| (message.0.clone(), message)).collect()
    };
    let (valid, invalid) = (index(valid), index(invalid));
    let mut places = std::collections::HashSet::new();
    for number in 0..count {
        let bytes = message(number);
        let (bad, good) = if is_bad(number) { (&invalid, &valid) } else { (&valid, &invalid) };
        assert!(!good.contains_key(&bytes), "{number} is in both");
        let (_, key, headers) = bad.get(&bytes).unwrap_or_else(|| panic!("{number} is missing"));
        assert_eq!(*key, key_of(&bytes).map(String::into_bytes));
        assert_eq!(headers[names::CONTRACT_HEADER], "tracking.raw_user_behavior:1.0.0");
        assert_eq!(headers[names::TOPIC], topics.raw);
        assert!(places.insert((headers[names::PARTITION].clone(), headers[names::OFFSET].clone())));
        let reasons = headers.get(names::REASONS).map(String::as_str);
        let expected = match number % 100 {
            0 => Some(r#"[{"field":"price","rule":"minimum"}]"#),
            20 => Some(r#"[{"field":"user_id","rule":"required"}]"#),
            40 => Some(r#"[{"field":"","rule":"json"}]"#),
            60 => Some(r#"[{"field":"event_type","rule":"invalidValues"}]"#),
            80 => Some(r#"[{"field":"event_time","rule":"format"}]"#),
            _ => None,
        };
        assert_eq!(reasons, expected);
    }
}

/// Reads to the end and says how many messages that were.
async fn drain(topics: &Topics) -> lakeward_events::Tally {
    let validator = Validator::new(topics.clone(), ContractFile::open(None).expect("a contract"));
    tokio::task::spawn_blocking(move || validator.run(true, &CancellationToken::new()))
        .await
        .expect("it ends")
        .expect("it works")
}

/// A validator in a process of its own, which can be killed.
fn process(topics: &Topics, instance: &str) -> Child {
    Command::new(std::env::current_exe().expect("this program"))
        .args(["--exact", "topics::a_process_that_is_killed", "--ignored", "--nocapture"])
        .env("LAKEWARD_TEST_BROKERS", &topics.brokers)
        .env("LAKEWARD_TEST_INSTANCE", instance)
        .stdout(Stdio::null())
        .spawn()
        .expect("a process")
}

#[test]
#[ignore = "a process that the test of kills starts"]
fn a_process_that_is_killed() {
    let Ok(brokers) = std::env::var("LAKEWARD_TEST_BROKERS") else { return };
    let instance = std::env::var("LAKEWARD_TEST_INSTANCE").expect("a name");
    let topics = Topics { instance, ..topics(&brokers) };
    let validator = Validator::new(topics, ContractFile::open(None).expect("a contract"));
    validator.run(false, &CancellationToken::new()).expect("it works");
}

fn kill(mut process: Child) {
    assert!(process.try_wait().expect("a state").is_none(), "it ended by itself");
    process.kill().expect("it is killed");
    process.wait().expect("it has ended");
}

/// How many messages are read for good, of all partitions.
fn committed(topics: &Topics) -> i64 {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", &topics.brokers)
        .set("group.id", &topics.group)
        .create()
        .expect("a consumer");
    let Ok(metadata) = consumer.fetch_metadata(Some(&topics.raw), Duration::from_secs(10)) else { return 0 };
    let mut asked = rdkafka::TopicPartitionList::new();
    for partition in metadata.topics()[0].partitions() {
        asked.add_partition(&topics.raw, partition.id());
    }
    let Ok(offsets) = consumer.committed_offsets(asked, Duration::from_secs(10)) else { return 0 };
    offsets
        .elements()
        .iter()
        .filter_map(|element| element.offset().to_raw())
        .filter(|offset| *offset > 0)
        .sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_of_anything_leaves_each_event_moved_once() {
    if lakeward_stack::is_skipped() {
        return;
    }
    let (_folder, mut kafka, topics) = kafka().await;
    drain_until_made(&topics).await;
    // They come all the while, so that each kill meets a transaction.
    let producing = tokio::spawn({
        let topics = topics.clone();
        async move {
            let log = RawLog::open(&topics, WAIT).expect("a log");
            for first in (0..EVENTS).step_by(20) {
                append(&log, first..first + 20).await;
                tokio::time::sleep(Duration::from_millis(25)).await;
            }
        }
    });
    let (mut other, mut last, began) = (None, 0, Instant::now());
    for round in 0..6 {
        let validator = process(&topics, "0");
        while last == (EVENTS as i64) || committed(&topics) <= last {
            assert!(began.elapsed() < WAIT * 3, "it does not get on");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        tokio::time::sleep(Duration::from_millis(37 * round)).await;
        match round {
            // Half of the partitions go to another one, and come back when it dies.
            1 => other = Some(process(&topics, "1")),
            3 => {
                kafka.kill().await.expect("it is killed");
                kafka.launch().await.expect("it comes back");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            4 => other.take().map_or((), kill),
            _ => {}
        }
        kill(validator);
        last = committed(&topics);
        assert!(last < EVENTS as i64, "it was over too soon for a kill");
    }
    producing.await.expect("all are produced");
    // The partitions of the dead ones are given out again when their sessions have run out.
    while committed(&topics) < EVENTS as i64 {
        assert!(began.elapsed() < WAIT * 3, "it does not get on");
        drain(&topics).await;
    }
    let reading = topics.clone();
    let checking = tokio::task::spawn_blocking(move || {
        let written = |topic: &str| read_as(&reading, topic, "read_uncommitted").len() as u64;
        let taken_back = written(&reading.validated) + written(&reading.invalid) - EVENTS;
        eprintln!("the kills took back {taken_back} events that were written already");
        // Until it is over, the transaction of a dead validator that does not come back holds up readers.
        let (began, shown) = (Instant::now(), |topic: &str| read(&reading, topic).len() as u64);
        while shown(&reading.validated) + shown(&reading.invalid) < EVENTS && began.elapsed() < WAIT {
            std::thread::sleep(Duration::from_secs(1));
        }
        check_all(&reading, EVENTS);
    });
    checking.await.expect("all are there");
    kafka.stop().await.expect("it stops");
}

/// The topics are made by a validator that finds them missing.
async fn drain_until_made(topics: &Topics) {
    assert_eq!(drain(topics).await, lakeward_events::Tally::default());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_contract_changes_and_messages_keep_their_bytes() {
    if lakeward_stack::is_skipped() {
        return;
    }
    let (folder, mut kafka, topics) = kafka().await;
    let path = folder.path().join("contract.yaml");
    let shipped = include_str!("../../contracts/tracking.raw_user_behavior.yaml");
    std::fs::write(&path, shipped).expect("it is written");
    let shutdown = CancellationToken::new();
    let validator = Validator::new(topics.clone(), ContractFile::open(Some(&path)).expect("a contract"));
    let running = tokio::task::spawn_blocking({
        let shutdown = shutdown.clone();
        move || validator.run(false, &shutdown)
    });
    wait_for_topic(&topics).await;
    produce(&topics, 1..10).await;
    eventually(|| read(&topics, &topics.validated).len() == 9).await;

    // Broken: the one of before stays. Then one that nothing conforms to.
    std::fs::write(&path, "kind: nothing").expect("it is written");
    tokio::time::sleep(Duration::from_secs(2)).await;
    produce(&topics, 11..20).await;
    eventually(|| read(&topics, &topics.validated).len() == 18).await;
    let other =
        shipped.replace("version: 1.0.0", "version: 2.0.0").replace("minimum: 0,", "minimum: 100000,");
    std::fs::write(&path, other).expect("it is written");
    eventually_produced(&topics, &path).await;
    let invalid = read(&topics, &topics.invalid);
    assert!(invalid.iter().all(|(_, _, headers)| {
        headers[names::CONTRACT_HEADER].ends_with(":2.0.0") && headers[names::REASONS].contains("price")
    }));

    // Moved exactly as it came: a large one, one without a key or a value.
    let log = RawLog::open(&topics, WAIT).expect("a log");
    let large = vec![b'x'; 20 << 20];
    log.append(&[(None, &large), (None, b"")]).await.expect("they are taken in");
    eventually(|| {
        read(&topics, &topics.invalid).iter().any(|(bytes, key, _)| *bytes == large && key.is_none())
    })
    .await;

    let began = Instant::now();
    shutdown.cancel();
    let tally = running.await.expect("it ends").expect("it works");
    assert!(tally.valid >= 18 && tally.transactions >= 3, "{tally:?}");
    assert!(began.elapsed() < Duration::from_secs(10), "draining took {:?}", began.elapsed());
    assert_eq!(drain(&topics).await, lakeward_events::Tally::default());

    // Without Kafka an event is not taken in, and that is told in time.
    kafka.kill().await.expect("it is killed");
    let log = RawLog::open(&topics, Duration::from_secs(1)).expect("a log");
    let error = log.append(&[(None, b"{}")]).await.expect_err("nobody takes it");
    assert!(error.is_retryable(), "{error}");
}

/// One of two of the same name ends; what they moved is moved once.
#[tokio::test(flavor = "multi_thread")]
async fn a_rival_of_the_same_name_ends() {
    if lakeward_stack::is_skipped() {
        return;
    }
    let (_folder, mut kafka, topics) = kafka().await;
    drain_until_made(&topics).await;
    produce(&topics, 0..200).await;
    let shutdown = CancellationToken::new();
    let start = || {
        let validator = Validator::new(topics.clone(), ContractFile::open(None).expect("a contract"));
        let shutdown = shutdown.clone();
        tokio::task::spawn_blocking(move || validator.run(false, &shutdown))
    };
    let (mut one, mut two) = (start(), start());
    let mut next = 200;
    let ended = loop {
        produce(&topics, next..next + 20).await;
        next += 20;
        tokio::select! {
            ended = &mut one => break ended,
            ended = &mut two => { std::mem::swap(&mut one, &mut two); break ended }
            () = tokio::time::sleep(Duration::from_millis(300)) => {}
        }
        assert!(next < 20_000, "none of them ends");
    };
    let error = ended.expect("it ends").expect_err("it is fenced");
    assert!(error.to_string().contains("[events] instance") && !error.is_retryable(), "{error}");
    eventually(|| committed(&topics) == next as i64).await;
    shutdown.cancel();
    two.await.expect("it ends").expect("it works");
    let reading = topics.clone();
    tokio::task::spawn_blocking(move || check_all(&reading, next)).await.expect("all are there");
    kafka.stop().await.expect("it stops");
}

/// For `bench/events`.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement"]
async fn speed() {
    const MANY: u64 = 500_000;
    let (_folder, mut kafka, topics) = kafka().await;
    drain_until_made(&topics).await;
    let began = Instant::now();
    produce(&topics, 0..MANY).await;
    let produced = began.elapsed().as_secs_f64();
    let began = Instant::now();
    let tally = drain(&topics).await;
    let moved = began.elapsed().as_secs_f64();
    assert_eq!(tally.valid + tally.invalid, MANY);
    println!(
        r#"{{"events": {MANY}, "taken_in_per_second": {:.0}, "moved_per_second": {:.0}, "transactions": {}}}"#,
        MANY as f64 / produced,
        MANY as f64 / moved,
        tally.transactions
    );
    kafka.stop().await.expect("it stops");
}

/// Until the new contract is in use, which is looked for every second.
async fn eventually_produced(topics: &Topics, path: &Path) {
    let mut number = 101;
    let began = Instant::now();
    while read(topics, &topics.invalid).is_empty() {
        assert!(began.elapsed() < WAIT, "{} is not taken", path.display());
        produce(topics, number..number + 1).await;
        number += 1;
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

async fn wait_for_topic(topics: &Topics) {
    eventually(|| {
        let consumer: BaseConsumer =
            ClientConfig::new().set("bootstrap.servers", &topics.brokers).create().expect("a consumer");
        let metadata = consumer.fetch_metadata(None, WAIT).expect("topics");
        metadata.topics().iter().any(|topic| topic.name() == topics.invalid)
    })
    .await;
}

async fn eventually(mut holds: impl FnMut() -> bool) {
    let began = Instant::now();
    while !tokio::task::block_in_place(&mut holds) {
        assert!(began.elapsed() < WAIT, "it does not come about");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
