//! What of a topic has not gone on.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use rdkafka::{
    Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer},
};

use super::{
    options::Topics,
    reader::{Limits, PATIENCE, TopicReader},
};
use crate::EventsError;

/// So many messages are counted, or as many as come within this time.
const MOST: u64 = 100_000;
const TIME: Duration = Duration::from_secs(5);

impl TopicReader {
    /// How many messages come after offsets, up to 100,000 and for a few seconds; whether that is all. They are read, as
    /// offsets also number what are no messages.
    ///
    /// # Errors
    /// As [`Self::start`] and [`Self::read`].
    pub fn count_after(&mut self, from: &BTreeMap<i32, i64>) -> Result<(u64, bool), EventsError> {
        self.start(from)?;
        let (began, mut count) = (Instant::now(), 0);
        let limits = Limits { time: Duration::from_millis(500), messages: 10_000, bytes: 64 << 20 };
        while !self.is_at_end() && count < MOST && began.elapsed() < TIME {
            self.read(limits, |_| count += 1)?;
        }
        Ok((count, self.is_at_end()))
    }
}

impl Topics {
    /// How far the validators' group is in the raw topic's partitions; those that it has not begun are left out.
    ///
    /// # Errors
    /// Kafka is away.
    pub fn validated_up_to(
        &self,
        partitions: impl IntoIterator<Item = i32>,
    ) -> Result<BTreeMap<i32, i64>, EventsError> {
        let mut config = self.reader();
        let consumer: BaseConsumer = config
            .set("group.id", &self.group)
            .create()
            .map_err(EventsError::kafka("take these settings"))?;
        let mut asked = TopicPartitionList::new();
        for partition in partitions {
            asked.add_partition(&self.raw, partition);
        }
        let failed = EventsError::kafka(format!("tell how far group {} is", self.group));
        let committed = consumer.committed_offsets(asked, PATIENCE).map_err(failed)?;
        let offset = |place: rdkafka::topic_partition_list::TopicPartitionListElem<'_>| match place.offset() {
            Offset::Offset(offset) => Some((place.partition(), offset)),
            _ => None,
        };
        Ok(committed.elements().into_iter().filter_map(offset).collect())
    }
}
