//! What waits in the topics of behaviour events.

use anyhow::Result;
use lakeward_change::TableId;
use lakeward_events::{TopicReader, Topics};
use lakeward_lakehouse::{Lake, LoadedLetters, LoadedTable, SourceRef};

use super::Waiting;
use crate::{
    commands::load::{CHANGES, INVALID, SCHEMA, SOURCE, TOPIC, topic_rows},
    config::Config,
    events::{self, blocking},
};

/// In the topics that there are, if a Kafka is configured for events.
pub(super) async fn waiting(config: &Config, lake: &Lake) -> Result<Option<Vec<Waiting>>> {
    if config.events.brokers.is_none() {
        return Ok(None);
    }
    let (topics, events) = (events::topics(config), &config.events);
    let mut all = Vec::new();
    all.extend(count(&topics, &topics.raw, None).await?);
    for (topic, table) in
        [(&events.validated_topic, TOPIC), (&events.changes_topic, CHANGES), (&events.invalid_topic, INVALID)]
    {
        all.extend(count(&topics, topic, Some((lake, table, config))).await?);
    }
    Ok(Some(all))
}

/// Without a table it is what validators have not taken yet.
async fn count(
    topics: &Topics,
    topic: &str,
    into: Option<(&Lake, &'static str, &Config)>,
) -> Result<Option<Waiting>> {
    let (owned, name) = (topics.clone(), topic.to_owned());
    let Some(mut reader) = blocking(move || TopicReader::open(&owned, &name)).await? else { return Ok(None) };
    let partitions: Vec<i32> = reader.partitions().collect();
    let from = match into {
        None => {
            let topics = topics.clone();
            blocking(move || topics.validated_up_to(partitions)).await?
        }
        Some((lake, table, config)) => {
            let source = SourceRef { name: SOURCE.to_owned(), system_id: reader.cluster().to_owned() };
            if table == INVALID {
                LoadedLetters::new(lake, &source, TableId::new(SCHEMA, table)).done(partitions).await?
            } else {
                let rows = topic_rows(table, config.events.partition);
                LoadedTable::so_far(lake, &source, &rows, partitions).await?
            }
        }
    };
    let (messages, whole) = blocking(move || reader.count_after(&from)).await?;
    let taken_by = if into.is_some() { "load topics" } else { "validate" };
    Ok(Some(Waiting { topic: topic.to_owned(), taken_by, messages, at_least: !whole }))
}
