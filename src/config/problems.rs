//! What a configuration says that cannot be, once each of its values can be read.

use url::Url;

use super::{Config, Secret, table_id};

impl Config {
    pub(super) fn problems(&self) -> Vec<String> {
        let positive = [
            ("ingest.flush_rows", self.ingest.flush_rows as f64),
            ("ingest.flush_mib", self.ingest.flush_mib as f64),
            ("ingest.copy_parallel", self.ingest.copy_parallel as f64),
            ("maintenance.keep_watermarks", self.maintenance.keep_watermarks as f64),
            ("recommender.factors", self.recommender.factors as f64),
            ("recommender.iterations", self.recommender.iterations as f64),
            ("churn.windows", self.churn.windows as f64),
        ];
        let mut problems: Vec<String> = positive
            .into_iter()
            .filter(|(_, value)| !(*value > 0.0 && value.is_finite()))
            .map(|(key, value)| format!("{key} is {value}: it must be greater than zero"))
            .collect();
        let seconds = [
            ("ingest.flush_seconds", self.ingest.flush_seconds),
            ("serve.poll_seconds", self.serve.poll_seconds),
        ];
        problems.extend(
            seconds
                .into_iter()
                .filter(|(_, value)| !(0.01..=86_400.0).contains(value))
                .map(|(key, value)| format!("{key} is {value}: it must be from 0.01 to 86400")),
        );
        let share = self.events.most_letters;
        if !(0.0..=1.0).contains(&share) {
            problems.push(format!("events.most_letters is {share}: it must be from 0 to 1"));
        }
        problems.extend(
            (self.online.ttl_days.each().into_iter())
                .filter(|(_, value)| !(0.001..=3650.0).contains(value))
                .map(|(key, value)| format!("{key} is {value}: it must be from 0.001 to 3650")),
        );
        if let Some(url) = &self.online.url
            && !["redis://", "rediss://"].iter().any(|scheme| url.expose().starts_with(scheme))
        {
            problems.push("online.url is not one of Redis: write redis://… or rediss://…".to_owned());
        }
        let online = &self.online;
        if online.certificates.is_some()
            && !online.url.as_ref().is_some_and(|url| url.expose().starts_with("rediss://"))
        {
            problems.push("online.certificates are given, and online.url is not a rediss:// one".to_owned());
        }
        if !(1..=3650).contains(&self.churn.horizon_days) {
            problems.push(format!(
                "churn.horizon_days is {}: it must be from 1 to 3650",
                self.churn.horizon_days
            ));
        }
        if self.maintenance.small_files < 2 {
            let given = self.maintenance.small_files;
            problems.push(format!("maintenance.small_files is {given}: it must be at least 2"));
        }
        if self.ingest.memory_mib < 16 {
            problems.push(format!("ingest.memory_mib is {}: at least 16 are needed", self.ingest.memory_mib));
        }
        let scales =
            self.source.rules.iter().map(|rule| rule.numeric_scale).chain([self.source.numeric_scale]);
        for scale in scales.flatten().filter(|scale| *scale > 38) {
            problems.push(format!("a numeric_scale of source is {scale}: it must be from 0 to 38"));
        }
        let salted = self.source.hash_salt.as_ref().is_some_and(|salt| !salt.expose().is_empty());
        problems.extend(self.source.kafka.problems().into_iter().map(str::to_owned));
        let nameless = |setting: &Secret| !setting.expose().contains('=');
        if self.source.kafka.settings.iter().any(nameless) {
            problems.push("source.kafka.settings has one without a name: write name=value".to_owned());
        }
        if self.events.settings.iter().any(nameless) {
            problems.push("events.settings has one without a name: write name=value".to_owned());
        }
        let topics = [&self.events.raw_topic, &self.events.validated_topic, &self.events.invalid_topic];
        if topics[0] == topics[1] || topics[0] == topics[2] || topics[1] == topics[2] {
            problems
                .push("events: raw_topic, validated_topic and invalid_topic must be three topics".to_owned());
        }
        if cfg!(not(feature = "kafka")) && self.events.brokers.is_some() {
            problems.push("events.brokers is given, and this build is without Kafka".to_owned());
        }
        if cfg!(not(feature = "kafka")) && self.source.kafka.prefix.is_some() {
            problems.push("source.kafka.prefix is given, and this build is without Kafka".to_owned());
        }
        if !salted && self.source.rules.iter().any(|rule| !rule.hash.is_empty()) {
            problems.push("source.rules have columns hashed: source.hash_salt must be given".to_owned());
        }
        let s3 = &self.lake.s3;
        if s3.access_key_id.is_some() != s3.secret_access_key.is_some() {
            problems
                .push("lake.s3 has one of access_key_id and secret_access_key: both are needed".to_owned());
        }
        if s3.endpoint.as_ref().is_some_and(|endpoint| Url::parse(endpoint).is_err()) {
            problems.push("lake.s3.endpoint is not a URL".to_owned());
        }
        let shop = &self.shop;
        let tables = [&shop.users, &shop.products, &shop.orders, &shop.order_items, &shop.events];
        for name in tables.into_iter().chain(self.lake.names.keys()) {
            if table_id(name).is_none() {
                problems.push(format!("{name:?} names no table: write schema.table"));
            }
        }
        problems
    }
}
